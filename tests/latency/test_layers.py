"""Own times by module, on a clock that the modules turn themselves."""

import pytest
import torch
from torch import nn

from ctxbench.latency.layers import layer_times

CPU = torch.device("cpu")
X = torch.randn(1, 4, 5, 3)


class Clock:
    """A clock that stands still until somebody works, in seconds."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def work(self, ms):
        self.now += ms / 1000


class Works(nn.Module):
    """Works for a while before, between and after the calls of its children, each in ms."""

    def __init__(self, clock, *ms, children=(), calls=None):
        super().__init__()
        self.clock, self.ms = clock, ms
        self.parts = nn.ModuleList(children)
        self.calls = range(len(children)) if calls is None else calls

    def forward(self, x):
        for turn, ms in enumerate(self.ms):
            self.clock.work(ms)
            if turn < len(self.calls):
                x = self.parts[self.calls[turn]](x)
        return x


def times(net, clock, runs=1, run=None):
    found = layer_times(net, run or (lambda: net(X)), runs=runs, device=CPU, clock=clock)
    return {name: pytest.approx(ms) for name, ms in found.items()}


def test_a_module_has_its_time_without_its_children():
    clock = Clock()
    inner = Works(clock, 5)
    middle = Works(clock, 1, 2, children=[inner])
    net = Works(clock, 10, 20, 30, children=[middle, Works(clock, 7)])
    assert times(net, clock) == {"": 60, "parts.0": 3, "parts.0.parts.0": 5, "parts.1": 7}


def test_calls_in_one_run_add_up():
    clock = Clock()
    net = Works(clock, 1, 1, 1, children=[Works(clock, 4), nn.ReLU()], calls=[0, 0])
    assert times(net, clock) == {"": 3, "parts.0": 8}


def test_a_shared_module_has_its_first_name():
    clock = Clock()
    shared = Works(clock, 4)
    net = Works(clock, 1, 1, 1, children=[shared, shared])
    assert times(net, clock) == {"": 3, "parts.0": 8}


def test_a_module_may_call_itself():
    clock = Clock()

    class Again(nn.Module):
        def forward(self, x, depth=2):
            clock.work(3)
            return self(x, depth - 1) if depth else x

    assert times(Again(), clock) == {"": 9}


def test_the_first_run_does_not_count_and_the_median_does():
    clock, durations = Clock(), iter([100, 1, 50, 2])

    class Slower(nn.Module):
        def forward(self, x):
            clock.work(next(durations))
            return x

    assert times(Slower(), clock, runs=3) == {"": 2}


def test_what_the_run_does_outside_the_network_is_not_its_time():
    clock = Clock()
    net = Works(clock, 3)

    def run():
        clock.work(50)
        net(X)
        clock.work(50)
        net(X)

    assert times(net, clock, run=run) == {"": 6}


def test_a_network_that_is_not_called_itself_is_absent():
    clock = Clock()
    net = Works(clock, 9, children=[Works(clock, 4)])
    assert times(net, clock, run=lambda: net.parts[0](X)) == {"parts.0": 4}


def test_other_hooks_are_part_of_the_module():
    clock = Clock()
    child = Works(clock, 4)
    child.register_forward_pre_hook(lambda *_: clock.work(10), prepend=True)
    child.register_forward_hook(lambda *_: clock.work(20))
    net = Works(clock, 1, 1, children=[child])
    assert times(net, clock) == {"": 2, "parts.0": 34}


def test_an_error_that_the_network_catches_ends_the_module():
    clock = Clock()

    class Fails(nn.Module):
        def forward(self, x):
            clock.work(5)
            raise RuntimeError("no")

    class Catches(nn.Module):
        def __init__(self):
            super().__init__()
            self.child = Fails()

        def forward(self, x):
            clock.work(1)
            try:
                self.child(x)
            except RuntimeError:
                clock.work(2)

    assert times(Catches(), clock) == {"": 3, "child": 5}


def hooks(net):
    return {
        (name, key): list(value)
        for name, module in net.named_modules()
        for key, value in vars(module).items()
        if "hooks" in key
    }


@pytest.mark.parametrize("fails_in_run", [None, 1, 2])
def test_the_network_is_left_as_it_was(fails_in_run):
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
    handles = [net[0].register_forward_hook(lambda *_: None)]
    before, runs = hooks(net), 0

    def run():
        nonlocal runs
        runs += 1
        net(X if runs != fails_in_run else X[0, 0, 0])

    if fails_in_run:
        with pytest.raises(RuntimeError):
            layer_times(net, run, runs=2, device=CPU)
    else:
        layer_times(net, run, runs=2, device=CPU)
    assert hooks(net) == before
    assert len(handles) == 1


def test_real_time_passes():
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
    found = layer_times(net, lambda: net(X), runs=3, device=CPU)
    assert list(found) == ["", "0", "1"]
    assert all(ms > 0 for ms in found.values())


def test_no_run_is_no_time():
    with pytest.raises(ValueError, match="runs=0"):
        layer_times(nn.ReLU(), lambda: None, runs=0, device=CPU)


@pytest.mark.gpu
def test_events_on_a_gpu():
    net, x = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()).cuda(), X.cuda()
    found = layer_times(net, lambda: net(x), runs=3, device=torch.device("cuda"))
    assert list(found) == ["", "0", "1"]
    assert all(ms > 0 for ms in found.values())
