"""What is counted: any network, whatever it takes and returns; and what is refused."""

from dataclasses import FrozenInstanceError, dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ctxbench import count
from ctxbench.errors import CountingError, UncountedOpError
from tests.measure.nets import Calls

X = torch.randn(2, 3, 9, 7)
CONV = 2 * 4 * 3 * 9 * 7 * 5  # a 3x3 convolution of X to four channels


def conv():
    return nn.Conv2d(3, 4, 3)


@dataclass
class Output:
    logits: torch.Tensor
    extra: list


class Opaque:
    """A result that hides its tensor."""

    __slots__ = ("tensor",)

    def __init__(self, tensor):
        self.tensor = tensor


OUTPUTS = {
    "tuple": lambda y: (y, None),
    "dict": lambda y: {"a": y, "b": None},
    "nested": lambda y: [{"a": [None, (y,)]}, 3, "text"],
    "dataclass": lambda y: Output(y, [y]),
    "no tensor within reach": Opaque,
    "a number": lambda y: float(y.sum()),
    "nothing": lambda y: None,
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_any_output(name):
    net = Calls(lambda net, x: OUTPUTS[name](net.conv(x)), conv=conv())
    assert count(net, X).macs == CONV


def test_a_network_of_several_inputs():
    net = Calls(lambda net, x, y: net.conv(x) + net.conv(y), conv=conv())
    assert count(net, X, X).macs == 2 * CONV


def test_a_network_of_no_input():
    assert count(Calls(lambda net: net.conv(X), conv=conv())).macs == CONV


def test_a_branch_that_no_output_uses_is_counted():
    """The tracer would drop it, but it was computed; torch's counter sees it, too."""
    net = Calls(lambda net, x: (net.unused(x), net.conv(x))[1], conv=conv(), unused=conv())
    counted = count(net, X, cross_check=True)
    assert counted.macs == counted.torch_macs == 2 * CONV
    assert counted.modules["unused"].work.macs == CONV


def test_a_branch_used_for_its_shape_is_counted():
    net = Calls(lambda net, x: x.new_zeros(net.conv(x).shape), conv=conv())
    assert count(net, X).macs == CONV


def test_a_module_used_twice_works_twice_and_has_its_weights_once():
    net = Calls(lambda net, x: net.a(x) + net.b(x), a=(shared := conv()), b=shared)
    counted = count(net, X)
    assert (counted.params, counted.macs) == (3 * 4 * 9 + 4, 2 * CONV)
    assert counted.modules["a"].work.macs == 2 * CONV


def test_a_module_called_by_its_forward_counts_for_the_caller():
    counted = count(Calls(lambda net, x: net.conv.forward(x), conv=conv()), X)
    assert (counted.macs, counted.modules[""].own.macs) == (CONV, CONV)


def test_modules_hold_what_is_inside_them():
    net = nn.Sequential(nn.Sequential(conv(), nn.ReLU()), nn.Flatten(), nn.Linear(140, 5))
    counted = count(net, X)
    assert {name: module.work.macs for name, module in counted.modules.items()} == {
        "": CONV + 1400, "0": CONV, "0.0": CONV, "0.1": 0, "1": 0, "2": 1400
    }  # fmt: skip
    assert {name: module.own_params for name, module in counted.modules.items()} == {
        "": 0, "0": 0, "0.0": 112, "0.1": 0, "1": 0, "2": 705
    }  # fmt: skip
    assert counted.modules["0.0"].kind == "Conv2d"


def test_a_network_in_parallel_is_counted_as_the_network():
    net = Calls(lambda net, x: (net.unused(x), net.conv(x))[1], conv=conv(), unused=conv())
    counted = count(nn.DataParallel(net), X)
    assert counted.macs == 2 * CONV
    assert counted.modules["module.unused"].work.macs == CONV


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_the_mode_of_autograd_does_not_matter(mode):
    with mode():
        counted = count(conv().requires_grad_(), X.clone().requires_grad_(), cross_check=True)
    assert counted.macs == counted.torch_macs == CONV


def test_a_network_made_in_inference_mode():
    with torch.inference_mode():
        net = nn.Sequential(conv(), nn.BatchNorm2d(4))
    assert count(net, X).macs == CONV


def test_a_parameter_given_to_a_module_does_not_confuse_torchs_counter():
    net = Calls(lambda net, x: net.mix(net.token.expand(1, -1)), mix=nn.Linear(3, 5))
    net.token = nn.Parameter(torch.zeros(1, 3))
    counted = count(net, X, cross_check=True)
    assert counted.macs == counted.torch_macs == 15


def test_a_count_is_frozen():
    counted = count(conv(), X)
    with pytest.raises(FrozenInstanceError):
        counted.params = 1
    with pytest.raises(FrozenInstanceError):
        counted.work.fvcore_extra = 1


def test_two_operations_are_a_multiply_accumulate():
    counted = count(conv(), X)
    assert counted.flops == counted.total("flops") == 2 * counted.macs


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x @ x.transpose(-1, -2)


@torch.library.custom_op("ctxbench_tests::square", mutates_args=())
def square(x: torch.Tensor) -> torch.Tensor:
    return x @ x.transpose(-1, -2)


@torch.jit.script
def scripted_function(x):
    return x @ x.transpose(-1, -2)


class Scripted(nn.Module):
    def forward(self, x):
        return x @ x.transpose(-1, -2) if x.sum() > 0 else x


UNCOUNTED = {
    "prim::PythonOp.Square": Calls(Square.apply),
    "ctxbench_tests::square": Calls(square),
    "prim::CallFunction": Calls(scripted_function),
    "prim::PythonOp.TorchScript": torch.jit.script(Scripted()),
    "aten::fft_fft2": Calls(torch.fft.fft2),
    "aten::linalg_inv": Calls(lambda x: torch.linalg.inv(torch.eye(3)) + x[0, 0, 0, 0]),
    "aten::lstm": Calls(lambda net, x: net.cells(x[:, 0])[0], cells=nn.LSTM(7, 5)),
    "aten::gru": Calls(lambda net, x: net.cells(x[:, 0])[0], cells=nn.GRU(7, 5)),
}


_INSIDE = {"aten::lstm": ".cells", "aten::gru": ".cells"}


@pytest.mark.parametrize("operation", UNCOUNTED)
def test_an_operation_without_a_rule_is_named_with_its_module(operation):
    net = nn.Sequential()
    net.add_module("stem", nn.ReLU())
    net.add_module("odd", UNCOUNTED[operation])
    with pytest.raises(UncountedOpError, match=rf"{operation} in odd.* \(1 in all\)"):
        count(net, X)
    with pytest.raises(UncountedOpError, match="allow uncounted operations"):
        count(net, X)


@pytest.mark.parametrize("operation", UNCOUNTED)
def test_an_operation_without_a_rule_can_be_allowed(operation):
    net = Calls(lambda net, x: (net.odd(x), net.conv(x)), odd=UNCOUNTED[operation], conv=conv())
    counted = count(net, X, allow_uncounted=True)
    assert counted.uncounted == (f"{operation} in odd{_INSIDE.get(operation, '')} (1 in all)",)
    assert counted.operators["conv"] == CONV


def test_a_network_that_is_compiled_as_a_whole():
    with pytest.raises(UncountedOpError, match=r"TorchScript in the network itself \(1 in all\)"):
        count(torch.jit.script(conv()), X)


def test_a_disagreement_with_torchs_counter_shows():
    """torch counts the products inside a GRU, for which there is no rule."""
    counted = count(UNCOUNTED["aten::gru"], X, allow_uncounted=True, cross_check=True)
    assert counted.comparable_macs == 0 < counted.torch_macs


def test_torchs_counter_is_asked_only_on_request():
    assert count(conv(), X).torch_macs is None


def test_an_input_that_does_not_fit_is_one_line():
    with pytest.raises(CountingError, match=r"cannot run on inputs \(2, 5, 9, 7\): Given groups=1"):
        count(conv(), torch.randn(2, 5, 9, 7))


def _fails(x):
    assert x.shape[1] == 5, "five channels"
    return x


def test_a_failed_assertion_is_one_line():
    with pytest.raises(CountingError, match=r"\(2, 3, 9, 7\): five channels"):
        count(Calls(_fails), X)


def test_lazy_parameters_are_refused():
    with pytest.raises(CountingError, match="Run it once"):
        count(nn.LazyConv2d(4, 3), X)


def test_a_mistake_in_the_network_keeps_its_kind():
    with pytest.raises(AttributeError, match="missing"):
        count(Calls(lambda x: x.missing), X)


def test_functions_of_the_tracer_warn_nobody():
    """The tracer warns of a branch on a size; warnings are errors in these tests."""
    net = Calls(lambda net, x: F.relu(net.conv(x)) if x.shape[1] == 3 else x, conv=conv())
    assert count(net, X).work.elements == {"relu": 2 * 4 * 35}


@pytest.mark.parametrize("inputs", [([X],), ((1, 3, 8, 8),), (None,), ("x",)])
def test_what_is_no_tensor_is_named(inputs):
    with pytest.raises(TypeError, match="count takes the tensors of forward; got"):
        count(nn.ReLU(), *inputs)


def test_a_name_is_no_network():
    with pytest.raises(TypeError, match="takes a torch.nn.Module; got str.*create_model"):
        count("resnet50", torch.zeros(1))


def test_an_empty_input_is_an_error():
    with pytest.raises(CountingError, match=r"shape \(0, 3\) is empty"):
        count(nn.ReLU(), torch.zeros(0, 3))
