"""What the tests of latency share: small networks with one trait each, and workers in-process."""

import os
import signal
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ctxbench.errors import LatencyError, OutOfMemoryError
from ctxbench.latency.bench import Bench
from ctxbench.latency.condition import Condition
from ctxbench.latency.summary import Machine
from ctxbench.latency.worker import _told

# of which a test asks nothing
MACHINE = Machine({"device_name": "a processor"}, {"gflops_s": 100.0, "gb_s": 10.0})
TINY = Condition(batch=2, image_size=(32, 32))
CONV = "op/conv:channels=8"


def spec(function, **options):
    """Return the spec of a network below."""
    words = [f":{key}={value}" for key, value in options.items()]
    return f"{Path(__file__).resolve()}:{function}{''.join(words)}"


def condition(**given):
    """Return a small condition, changed."""
    return replace(TINY, **given)


class Inline(AbstractContextManager):
    """Stands in for a Worker, without a process: its bench is in this one."""

    def __init__(self, spec, condition, *, memory, cache=None):
        self.bench = Bench(spec, condition, {"allocator": memory})

    def call(self, name, **given):
        try:
            return getattr(self.bench, name)(**given)
        except Exception as error:
            outcome, text = _told(error)
            if outcome == "crash":
                raise
            kind = OutOfMemoryError if outcome == "out of memory" else LatencyError
            raise kind(text) from None

    def close(self):
        pass

    def __exit__(self, *_):
        self.close()


class _Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.function = function

    def forward(self, x):
        return self.function(self.conv(x))


def plain():
    return _Net(lambda y: y)


def without_weights():
    return nn.ReLU()


def random():
    return _Net(lambda y: y + torch.randn_like(y))


def chatty():
    return _Net(lambda y: (print("the network speaks"), y)[1])  # noqa: T201


def nested():
    """Return what is no logits: a dict of a map, a tuple of maps, and a name."""
    return _Net(lambda y: {"map": y, "scales": (y[..., ::2], [y.mean((2, 3))]), "name": "net"})


def masked():
    """Return an empty tensor and one of bool beside the result."""
    return _Net(lambda y: (y, y > 0, y[:0]))


def silent():
    """Return no tensor."""
    return _Net(lambda y: None)


def _is_channels_last(y):
    return y.is_contiguous(memory_format=torch.channels_last) and not y.is_contiguous()


def twisted():
    """Compute something else where the channels come last."""
    return _Net(lambda y: y + _is_channels_last(y))


def not_a_number():
    """Return NaN where the channels come last."""
    return _Net(lambda y: y / (1 - _is_channels_last(y)) * (1 - _is_channels_last(y)))


def _refuse(batch, largest, how):
    if batch > largest:
        raise (
            torch.OutOfMemoryError("CUDA out of memory.")
            if how == "cuda"
            else RuntimeError(
                "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"
            )
        )


def up_to(largest=2, how="cpu"):
    """Fit into the memory up to that batch."""
    return _Net(lambda y: (_refuse(len(y), largest, how), y)[1])


class _Filling(nn.Module):
    def __init__(self, mib):
        super().__init__()
        self.mib = mib

    def forward(self, x):
        return x.repeat(self.mib * 2**20 // (4 * x.numel()), 1, 1, 1).sum()


def filling(mib=64):
    """Make one tensor of that size, and its sum."""
    return _Filling(mib)


def raising(error="ZeroDivisionError"):
    """Raise at a call."""
    kinds = {"ZeroDivisionError": ZeroDivisionError, "ValueError": ValueError}
    return _Net(lambda y: _raise(kinds[error]("of the network")))


def _raise(error):
    raise error


def exiting(code=3):
    """End the process at a call."""
    return _Net(lambda y: sys.exit(code))


def killed():
    """Kill the process at a call, as the system does when memory is short."""
    return _Net(lambda y: os.kill(os.getpid(), signal.SIGKILL))


def slow(seconds=0.02):
    """Compute, and nothing else, for that long."""

    def work(y):
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass
        return y

    return _Net(work)


class _Broken(nn.Module):
    """Breaks the graph, and behind the break needs a new one at each call if `every` is set."""

    def __init__(self, every):
        super().__init__()
        self.every, self.calls = every, 0

    def forward(self, x):
        x = x + 1
        torch._dynamo.graph_break()
        self.calls += self.every
        return _scaled(x, self.calls)


def _scaled(x, calls):
    return x * calls if calls % 2 else x - calls


def broken(every=0):
    return _Broken(every)


def threads():
    """Refuse, and tell how many threads there are."""
    return _Net(
        lambda y: _raise(
            ValueError(
                f"{torch.get_num_threads()} threads, "
                f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}"
            )
        )
    )


def caches():
    """Refuse, and tell where compiled code goes."""
    return _Net(lambda y: _raise(ValueError(os.environ["TORCHINDUCTOR_CACHE_DIR"])))


def killed_later(folder=""):
    """Kill the process at a call, but not the first: that is the count, in the test's own."""
    first = os.getpid()
    marker = Path(str(folder), "parent")
    if not marker.exists():
        marker.write_text(str(first))
    return _Net(lambda y: y if marker.read_text() == str(os.getpid()) else os.kill(os.getpid(), 9))
