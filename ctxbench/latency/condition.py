"""What a network is timed under: all that is asked for beside the network itself."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, get_args

from ctxbench.errors import LatencyError

Mode = Literal["inference", "training"]
Dtype = Literal["fp32", "tf32", "bf16", "fp16"]
Layout = Literal["contiguous", "channels_last"]
Backend = Literal["eager", "compiled", "cudagraph"]
Cache = Literal["warm", "cold"]


@dataclass(frozen=True, slots=True)
class Condition:
    """One way of running a network; `image_size` is (height, width).

    Inference runs weights and input in `dtype`; training keeps float32 weights and runs the forward
    pass under autocast. `tf32` is float32 whose products may be rounded to 10 bits (CUDA only).
    `cache` says whether the caches are overwritten before each run. `threads` is for the CPU.
    """

    batch: int
    image_size: tuple[int, int]
    device: str = "cpu"
    mode: Mode = "inference"
    dtype: Dtype = "fp32"
    layout: Layout = "contiguous"
    backend: Backend = "eager"
    cache: Cache = "warm"
    threads: int = 1
    seed: int = 0

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.startswith("cuda")

    def __str__(self) -> str:
        """Name the condition in a line."""
        height, width = self.image_size
        words = [self.mode, f"batch {self.batch}", f"{height}x{width}", self.dtype]
        words += [word for word in (self.layout, self.backend) if word not in _PLAIN]
        words += ["cold cache"] if self.cache == "cold" else []
        return ", ".join([*words, self.device if self.cuda else _plural(self.threads, "thread")])


_PLAIN = ("contiguous", "eager")
_LARGEST_BATCH = 2**31


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: until the interval is narrow, or the time is spent.

    launches:   how often all processes are started anew
    budget_s:   seconds of timed runs, of all networks and launches together
    precision:  half the width of the 95 % interval, as a part of its value, that is narrow enough
    warmup_s:   seconds after which a network is timed even if its times have not settled
    block_s:    seconds that one turn of a network lasts
    """

    launches: int = 5
    budget_s: float = 30.0
    precision: float = 0.02
    warmup_s: float = 5.0
    block_s: float = 0.25

    def __post_init__(self) -> None:
        for name in ("launches", "budget_s", "precision", "warmup_s", "block_s"):
            if not getattr(self, name) > 0:
                option = name.removesuffix("_s")
                raise LatencyError(f"--{option} takes a number above 0; got {getattr(self, name)}.")


def check(conditions: Sequence[Condition]) -> None:
    """Refuse what this machine cannot do, or nobody can; LatencyError says what instead."""
    for condition in conditions:
        if condition.mode not in get_args(Mode):  # from Python; the command line checks its own
            raise LatencyError(f"There is no mode {condition.mode!r}. Use inference or training.")
        _check_device(condition.device)
        if condition.dtype == "tf32" and not condition.cuda:
            raise LatencyError(
                "--dtype tf32 is rounding inside CUDA's products; a CPU has none. Use fp32 or bf16."
            )
        if condition.backend == "cudagraph" and not condition.cuda:
            raise LatencyError(
                "--backend cudagraph replays a CUDA graph. On the CPU use eager or compiled."
            )
        if condition.backend == "cudagraph" and condition.mode == "training":
            raise LatencyError(
                "--backend cudagraph replays inference. To train use eager or compiled."
            )
        if condition.threads < 1:
            raise LatencyError(f"--threads {condition.threads} is not above 0.")


def _check_device(device: str) -> None:
    import torch

    name, _, index = device.partition(":")
    if name == "cpu" and not index:
        return
    if name != "cuda" or (index and not index.isdecimal()):
        raise LatencyError(f"--device {device!r} is not known. Use cpu, cuda or cuda:1.")
    if not torch.cuda.is_available():
        raise LatencyError(f"--device {device}: there is no CUDA device here. Use --device cpu.")
    if int(index or 0) >= torch.cuda.device_count():
        raise LatencyError(f"--device {device}: there are {torch.cuda.device_count()} GPUs here.")


def sweep(
    *,
    batches: Sequence[str],
    image_sizes: Sequence[tuple[int, int]],
    dtypes: Sequence[Any],
    backends: Sequence[Any],
    device: str = "auto",
    threads: int | None = None,
    **given: Any,
) -> list[Condition]:
    """Make a condition of every combination; no batch at all stands for one sample.

    Raises: LatencyError for what is not known, or cannot be done on this machine.
    """
    numbers = [_batch(text) for text in batches] or [1]
    for option, values, known in (("dtype", dtypes, Dtype), ("backend", backends, Backend)):
        for value in values:
            if value not in get_args(known):
                ways = ", ".join(get_args(known))
                raise LatencyError(f"--{option} {value!r} is not known. Known: {ways}.")
    found = [
        Condition(
            batch=batch,
            image_size=image_size,
            dtype=dtype,
            backend=backend,
            device=_default_device() if device == "auto" else device,
            threads=default_threads() if threads is None else threads,
            **given,
        )
        for image_size, dtype, backend, batch in product(image_sizes, dtypes, backends, numbers)
    ]
    check(found)
    return found


def _batch(text: str) -> int:
    if not text.strip().isdecimal() or not 0 < int(text) < _LARGEST_BATCH:
        raise LatencyError(
            f"--batch {text!r} is no batch. Write a number, a list like 1,8,64, or max."
        )
    return int(text)


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def default_threads() -> int:
    """Return what OMP_NUM_THREADS says, or all cores that this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if given.isdecimal() and int(given):
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
