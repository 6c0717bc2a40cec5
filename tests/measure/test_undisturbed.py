"""Counting leaves the network, the inputs and torch as they were, also when it fails."""

from collections import defaultdict

import pytest
import torch
from torch import nn

from ctxbench import count
from ctxbench.errors import CountingError, UncountedOpError
from ctxbench.measure.costs import Setting, count_spec
from tests.measure.nets import Calls


class Restless(nn.Module):
    """Changes whatever it can in a forward pass, in eval mode, too."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.embedding = nn.Embedding(5, 4, max_norm=0.1)
        self.scale = nn.Parameter(torch.rand(4, 1, 1))
        self.bound = nn.Parameter(torch.rand(3))
        self.clamped = nn.Parameter(torch.rand(3))
        self.picked = nn.Parameter(torch.rand(3))
        self.filled = nn.Parameter(torch.rand(3))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("seen", None)
        self.cache, self.order, self.runs = {}, [], 0

    def forward(self, x):
        x.add_(1)
        y = self.norm.train()(self.conv(x))
        self.calls += 1
        self.mean = 0.9 * self.mean + y.mean((0, 2, 3))
        self.seen = y
        self.cache["y"], self.runs = y, self.runs + 1
        self.order.append(y)
        with torch.no_grad():
            self.scale.mul_(2)
            self.picked[0] = 7
            torch.exp(self.bound, out=self.filled)
        self.bound.data = torch.ones(4)
        self.clamped.data.clamp_(0.4, 0.6)
        self.conv.weight.requires_grad_(False)
        self.train()
        return y * self.scale + self.embedding(self.calls)[:, None, None] + torch.rand(1)


def snapshot(model):
    """Return everything of a network that can be compared."""
    modules = dict(model.named_modules())
    return {
        "tensors": {name: (id(t), t.data_ptr(), t.clone()) for name, t in state(model)},
        "grads": {name: (id(p.grad), p.requires_grad) for name, p in model.named_parameters()},
        "modes": {name: module.training for name, module in modules.items()},
        "hooks": {
            name: [list(hooks.items()) for key, hooks in vars(module).items() if "hooks" in key]
            for name, module in modules.items()
        },
        "classes": {name: id(module) for name, module in modules.items()},
        "attributes": {name: list(vars(module)) for name, module in modules.items()},
    }


def state(model):
    return [*model.named_parameters(), *model.named_buffers()]


def assert_same(before, after):
    for name, (identity, place, values) in before.pop("tensors").items():
        other = after["tensors"][name]
        assert (name, identity, place) == (name, *other[:2])
        assert torch.equal(values, other[2]), name
    del after["tensors"]
    assert before == after


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = Restless()
    net.conv.eval()
    net.bound.grad = torch.ones(3)
    return net


X = torch.randn(2, 3, 9, 7)


def test_a_forward_pass_does_change_it(net):
    """Otherwise the tests below could not fail."""
    before = snapshot(net)
    net(X.clone())
    with pytest.raises(AssertionError):
        assert_same(before, snapshot(net))


@pytest.mark.parametrize("cross_check", [False, True])
def test_counting_changes_nothing(net, cross_check):
    before = snapshot(net)
    count(net, X, cross_check=cross_check)
    assert_same(before, snapshot(net))
    assert (net.cache, net.order, net.runs, net.seen) == ({}, [], 0, None)
    assert net.bound.grad.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "name", ["scale", "clamped", "bound", "picked", "filled", "embedding.weight", "mean", "calls"]
)
def test_counting_restores_values(net, name):
    before = net.state_dict()[name].clone()
    count(net, X)
    assert torch.equal(net.state_dict()[name], before)


def test_counting_changes_nothing_when_the_network_fails(net):
    wrong = nn.Sequential(net, nn.Linear(99, 1))
    before = snapshot(wrong)
    with pytest.raises(CountingError):
        count(wrong, X)
    assert_same(before, snapshot(wrong))


def test_counting_changes_nothing_when_an_operation_has_no_rule(net):
    wrong = nn.Sequential(net, torch.jit.script(nn.ReLU()), Calls(torch.fft.fft2))
    before = snapshot(wrong)
    with pytest.raises(UncountedOpError):
        count(wrong, X)
    assert_same(before, snapshot(wrong))


def test_counting_twice_gives_the_same(net):
    assert count(net, X) == count(net, X)


def test_inputs_are_not_written_to():
    x = X.clone().requires_grad_()
    count(nn.Sequential(nn.ReLU(inplace=True)), x)
    assert torch.equal(x, X)
    assert x.requires_grad
    assert x.grad is None


def test_the_random_state_is_put_back(net):
    before = torch.get_rng_state()
    count(net, X)
    assert torch.equal(torch.get_rng_state(), before)


def test_modes_of_torch_are_put_back(net):
    flash = torch.backends.cuda.flash_sdp_enabled()
    with pytest.raises(CountingError):
        count(net, X[:, :1])
    count(net, X, cross_check=True)
    assert torch.is_grad_enabled()
    assert torch.backends.cuda.flash_sdp_enabled() == flash


def test_a_graph_of_gradients_survives():
    layer = nn.Linear(3, 2)
    loss = layer(torch.ones(1, 3)).sum()
    count(layer, torch.ones(1, 3))
    loss.backward()
    assert layer.weight.grad.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_hooks_run_and_keep_their_order():
    calls = defaultdict(int)

    def hook(name):
        return lambda *_: calls.__setitem__(name, calls[name] + 1)

    layer = nn.Linear(3, 2)
    layer.register_forward_pre_hook(hook("before"))
    layer.register_forward_pre_hook(hook("before, with keywords"), with_kwargs=True)
    layer.register_forward_hook(hook("first"), with_kwargs=True)
    layer.register_forward_hook(hook("always"), always_call=True)
    layer.register_forward_hook(hook("prepended"), prepend=True)
    layer.register_full_backward_hook(hook("backward"))
    before = snapshot(layer)
    count(nn.Sequential(layer), torch.ones(1, 3))
    assert_same(before, snapshot(layer))
    assert calls == dict.fromkeys(
        ("before", "before, with keywords", "first", "always", "prepended"), 1
    )


def test_a_hook_can_be_removed_after_counting():
    layer = nn.Linear(3, 2)
    handle = layer.register_forward_hook(lambda *_: None)
    count(layer, torch.ones(1, 3))
    handle.remove()
    assert not layer._forward_hooks


def test_a_hook_that_changes_the_output_counts():
    layer = nn.Linear(3, 2)
    layer.register_forward_hook(lambda module, inputs, output: output @ torch.ones(2, 5))
    assert count(layer, torch.ones(1, 3)).macs == 6 + 10


def test_compiled_modules_stay_where_they_were():
    compiled = torch.jit.script(nn.Linear(3, 2))
    net = nn.Sequential(compiled.train())
    count(net, torch.ones(1, 3), allow_uncounted=True)
    assert net[0] is compiled
    assert compiled.training


def test_a_network_of_frozen_weights_stays_frozen():
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1).requires_grad_(False))
    count(net, torch.ones(1, 3))
    assert [p.requires_grad for p in net.parameters()] == [True, True, False, False]


def test_weights_that_share_memory_are_put_back():
    net = Calls(lambda net, x: x @ net.weight.mul_(2).T, other=nn.Linear(3, 2))
    net.weight = net.other.weight
    before = net.weight.detach().clone()
    count(net, torch.ones(1, 3))
    assert torch.equal(net.other.weight, before)


def test_a_list_that_modules_share_is_put_back_once():
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    net[0].log = net[1].log = log = ["before"]
    net[0].register_forward_hook(lambda module, *_: module.log.append("during"))
    count(net, torch.ones(1, 3))
    assert log == ["before"]


@pytest.mark.parametrize("spec", ["op/conv", "torchvision/resnet18"])
def test_counting_by_spec_draws_no_random_number_of_the_callers(spec):
    before = torch.get_rng_state()
    count_spec(spec, Setting(image_size=(33, 35)))  # asked nowhere else: it is not remembered
    assert torch.equal(torch.get_rng_state(), before)
