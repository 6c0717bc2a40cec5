"""torch.export gives programs that compute what the networks do, at any batch size."""

import pytest
import torch
from torch import nn

from ctxbench.export import ExportError, export_program
from ctxbench.kernels import BACKENDS
from ctxbench.models import MODELS
from ctxbench.ops import ContextualConv2d
from tests.ecosystem.networks import CORE, FAMILIES, LARGE, built, error, family, rounding
from tests.models.test_every_network import _narrow, _sizes


def _check(model, x, *, dynamic_batch=True):
    exported = export_program(model, x, dynamic_batch=dynamic_batch)
    program, most = exported.module(), max(1e-5, 10 * rounding(model, x))
    largest = min((size.upper for size in exported.range_constraints.values()), default=len(x))
    batches = [x, x[:1], torch.cat([x, x, x])[: min(5, largest)]] if dynamic_batch else [x]
    with torch.no_grad():
        for batch in batches:
            assert error(program(batch), model(batch)) < most


def test_every_family_is_here():
    assert {family(spec) for spec in FAMILIES.values()} == {family(name) for name in MODELS}
    assert {name: family(spec) for name, spec in FAMILIES.items()} == {n: n for n in FAMILIES}


@pytest.mark.parametrize("name", sorted(CORE))
def test_a_program_of_any_batch_size_computes_the_same(name):
    _check(*built(FAMILIES[name]))


@pytest.mark.parametrize("name", sorted(LARGE))
def test_a_program_of_one_batch_size_computes_the_same(name):
    _check(*built(FAMILIES[name]), dynamic_batch=False)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_program_needs_no_operator_of_ours(backend):
    op = ContextualConv2d(4, 4, groups=4, backend=backend)
    program = export_program(op, torch.randn(2, 4, 6, 5))
    assert not any("ctxbench" in str(node.target) for node in program.graph.nodes)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_network_has_a_program_of_any_batch_size(name):
    _check(*built(_narrow(name), px=_sizes(name)[0][0]))


def test_a_dense_contextual_convolution_says_for_which_batches_its_order_holds():
    program = export_program(ContextualConv2d(32, 64), torch.randn(2, 32, 4, 4))
    (batches,) = program.range_constraints.values()
    assert batches.upper == 3  # fewer than 64 positions, of which a sample has 16


def test_the_network_keeps_its_mode_and_its_weights():
    model, x = built(FAMILIES["resnet"])
    model.train()
    model.layer1.eval()
    modes = [module.training for module in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    export_program(model, x)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Counting(nn.Module):
    def forward(self, x):
        return x if len(x) == 2 else -x


def test_a_network_of_one_batch_size_says_so():
    with pytest.raises(ExportError, match=r"^Counting .*dynamic_batch=False.*\.$"):
        export_program(Counting(), torch.zeros(2, 3))


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize("dynamic_batch", [True, False])
def test_a_network_that_cannot_be_traced_is_named_in_one_line(dynamic_batch):
    with pytest.raises(ExportError, match=r"^torch\.export cannot trace Branching: [^\n]+$"):
        export_program(Branching(), torch.ones(2, 3), dynamic_batch=dynamic_batch)


def test_an_input_that_does_not_fit_is_told_by_the_network():
    with pytest.raises(ExportError, match=r"^Linear does not take an input of 2x4: .*shapes"):
        export_program(nn.Linear(3, 1), torch.zeros(2, 4))
