"""What a machine reaches at best: its matrix products per second, and its bytes."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ctxbench.latency import machine
from ctxbench.latency.clock import timer_of

# (work, device) -> the seconds that doing it once takes, to its end on the device
Timer = Callable[[Callable[[], object], torch.device], float]

_SIDES = (512, 1024, 2048, 4096, 8192)
_LONGEST_PRODUCT_S = 0.2
_FEWEST_RUNS, _MOST_RUNS = 3, 1000
_PATTERN_BYTES = 16 * machine.MIB


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What a machine reaches on one large matrix product, and on one large copy.

    `gflops_s` counts two operations for each multiply-accumulate of a product of two square
    matrices of `matmul_side`; `gb_s` the bytes read and those written of a tensor of `copy_mib`.
    """

    gflops_s: float
    gb_s: float
    matmul_side: int
    copy_mib: int


def time_once(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that doing work once takes, on CUDA by events around it."""
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        return timer_of(device.type)({"work": work}).total_ms / 1000


def measure_ceilings(
    device: torch.device, dtype: torch.dtype, *, seconds: float = 1.0, timer: Timer = time_once
) -> Ceilings:
    """Measure what a machine reaches in a dtype, with the threads and TF32 flags that are set.

    The best of repeated runs counts: for `seconds` in all, without making the data, or where one
    run takes long, three runs of each work. The side of the product is the fastest of 512, 1024,
    ... 8192, as far as a product is expected to take 0.2 s at most. The copied tensor is four times
    the last-level cache (64 MiB if that is unknown), from 256 to 512 MiB, on CUDA from 1 to 4 GiB,
    but at most an eighth of the available memory: if that is short beside the cache, the rate is
    partly that of the cache.

    Raises: ValueError for a device other than the CPU or CUDA, and for a dtype that is no float.
    """
    if device.type not in {"cpu", "cuda"}:
        raise ValueError(f"Ceilings are measured on cpu and cuda; got {device}.")
    if not dtype.is_floating_point:
        raise ValueError(f"Ceilings are those of floating-point numbers; got {dtype}.")
    gflops_s, side = _matmul_ceiling(device, dtype, seconds / 2, timer)
    size_mib = copy_mib(device)
    gb_s = _copy_ceiling(device, dtype, seconds / 2, timer, size=size_mib * machine.MIB)
    return Ceilings(gflops_s, gb_s, side, size_mib)


def _matmul_ceiling(
    device: torch.device, dtype: torch.dtype, budget_s: float, timer: Timer
) -> tuple[float, int]:
    """Return the best rate of square products in GFLOP/s, and the side that reached it."""
    found = []
    for side in _SIDES:
        a, b = (_noise(side * side, device, dtype).view(side, side) for _ in range(2))
        product = torch.empty_like(a)
        work = partial(torch.matmul, a, b, out=product)
        best_s = _best(work, device, budget_s / len(_SIDES), timer)
        found.append((2 * side**3 / best_s / 1e9, side))
        if 8 * best_s > _LONGEST_PRODUCT_S:
            break
    return max(found)


def _copy_ceiling(
    device: torch.device, dtype: torch.dtype, budget_s: float, timer: Timer, *, size: int
) -> float:
    """Return the best rate of a copy of `size` bytes in GB/s, reading and writing together."""
    source = _noise(size // dtype.itemsize, device, dtype)
    destination = torch.empty_like(source)
    best_s = _best(lambda: destination.copy_(source), device, budget_s, timer)
    return 2 * source.nbytes / best_s / 1e9


def _best(work: Callable[[], object], device: torch.device, budget_s: float, timer: Timer) -> float:
    """Return the shortest time of repeated runs, in seconds, after one that does not count."""
    work()
    times: list[float] = []
    while len(times) < _FEWEST_RUNS or (sum(times) < budget_s and len(times) < _MOST_RUNS):
        times.append(timer(work, device))
    return min(times)


def _noise(elements: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return normal noise, repeated if large; the caller's random numbers stay as they were."""
    generator = torch.Generator(device)
    period = min(elements, _PATTERN_BYTES // dtype.itemsize)
    pattern = torch.randn(period, generator=generator, device=device, dtype=dtype)
    whole = pattern.new_empty(elements)
    for start in range(0, elements, period):
        part = whole[start : start + period]
        part.copy_(pattern[: len(part)])
    return whole


def copy_mib(device: torch.device) -> int:
    """Return the size of the tensor to copy: beyond the caches, as far as there is memory."""
    if device.type == "cuda":
        cache = torch.cuda.get_device_properties(device).L2_cache_size / machine.MIB
        available = torch.cuda.mem_get_info(device)[0] / machine.MIB
        least, most = 1024, 4096
    else:
        cache = machine.last_cache_mib() or 64
        available = machine.available_mib() or 2048
        least, most = 256, 512
    return int(min(max(4 * cache, least), most, available / 8))
