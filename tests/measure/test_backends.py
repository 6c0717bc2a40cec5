"""What an operator costs is the same on every backend, for every counter."""

from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ctxbench.kernels import BACKENDS, flops, use_backend  # noqa: F401 - tells torch's counter
from ctxbench.measure._trace import Analysis
from ctxbench.measure._undisturbed import undisturbed
from ctxbench.measure.costs import Setting, count_spec
from ctxbench.measure.flops import count
from ctxbench.measure.traffic import traffic
from ctxbench.models import create_model, resolve
from ctxbench.ops import ContMix

OPERATORS = [
    "op/coconv:channels=8:levels=3",
    "op/ctxconv:channels=8:context_channels=3",
    "op/ctxconv:channels=8:depthwise=true:parts=offsets",
    "op/ctxconv:channels=8:parts=offsets:mask=false:stride=2",
    "op/ctxconv:channels=8:parts=kernels",
    "op/cgc:channels=16:stride=2",
    "op/contmix:channels=8:kernel=7:small_kernel=3",
]
SIZE = (9, 11)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("spec", [*OPERATORS, "coresnet_tiny:width=4:block=basic"])
def test_a_count_is_that_of_the_plain_form(spec, backend):
    plain, _ = count_spec(spec, Setting(2, SIZE))
    asked, _ = count_spec(f"{spec}:backend={backend}", Setting(2, SIZE))
    assert asked == plain


def test_a_count_is_that_of_the_plain_form_inside_use_backend():
    model, x = create_model("op/cgc:channels=16"), torch.zeros(1, 16, *SIZE)
    with use_backend("triton"):
        asked = count(model, x, cross_check=True)
    assert asked == count(model, x, cross_check=True)
    assert asked.torch_macs == asked.comparable_macs


@pytest.mark.parametrize("spec", OPERATORS)
def test_an_operator_that_is_met_in_a_trace_has_the_macs_of_its_plain_form(spec):
    network = resolve(spec)
    model, inputs = network.build(), network.inputs(2, *SIZE)
    with undisturbed(model), torch.no_grad(), use_backend("torch"):
        traced = Analysis(model, inputs).by_module_and_operator()[""]
    kinds = {kind: found for (column, kind), found in traced.items() if column == "macs" and found}
    assert kinds == count(model, *inputs).work.macs_by_kind


@pytest.mark.parametrize("spec", OPERATORS)
def test_the_counter_of_torch_adds_two_for_each_mac_of_an_operator(spec):
    network = resolve(spec)
    model, inputs = network.build().eval(), network.inputs(2, *SIZE)
    with FlopCounterMode(display=False) as counter:
        model(*inputs)
    assert counter.get_total_flops() == 2 * count(model, *inputs).macs


def _mixer():
    return ContMix(8, 6, 7, small_kernel_size=3), [torch.randn(2, c, *SIZE) for c in (8, 8, 6)]


def _built(spec):
    network = resolve(spec)
    return network.build(), network.inputs(2, *SIZE)


# not the whole block of ContMix: torch counts too much for its depthwise convolutions
@pytest.mark.parametrize(
    "make", [_mixer, *(partial(_built, spec) for spec in OPERATORS if "contmix" not in spec)]
)
def test_the_counter_of_torch_sees_the_products_of_the_backward_pass(make):
    """Two for each of the forward pass: one for the gradient of each factor."""
    model, inputs = make()
    model.eval()
    inputs = [x.requires_grad_() for x in inputs]
    with FlopCounterMode(display=False) as counter:
        model(*inputs).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * count(model, *inputs).macs


def test_an_operator_reads_what_it_is_given_and_writes_what_it_returns():
    model = create_model("op/cgc:channels=16:kernel=1").eval()
    x = torch.randn(2, 16, *SIZE)
    assert traffic(lambda: model(x)) == 4 * (2 * x.numel() + 16 * 16 + 16)
    weight, gates = torch.randn(16, 16, 3, 3), torch.randn(2, 2, 16, 9)
    moved = traffic(
        lambda: torch.ops.ctxbench.gated_conv2d(x, weight, *gates, (1, 1), (1, 1), 1, "torch")
    )
    assert moved == 4 * (2 * x.numel() + weight.numel() + gates.numel())
