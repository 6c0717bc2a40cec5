"""One trial on several processes, started by torchrun: who is who, and what they tell each other.

Alone, a process is rank 0 of 1, and nothing here costs anything.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

T = TypeVar("T")


def world() -> tuple[int, int, int]:
    """Return the rank of this process, how many there are, and its rank on this machine."""
    rank, size, local = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    return rank, size, local


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Let the processes that torchrun started find each other, and part in the end."""
    if world()[1] == 1:
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def shared(module: nn.Module, device: torch.device) -> nn.Module:
    """Return a module whose gradients are averaged over all processes."""
    if world()[1] == 1:
        return module
    devices = [device] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(module, device_ids=devices)


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes."""
    if world()[1] == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total


def any_of(*flags: bool) -> list[bool]:
    """Return for each flag whether any process has it set: all decide alike, at the same step."""
    if world()[1] == 1:
        return list(flags)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    raised = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.all_reduce(raised, op=dist.ReduceOp.MAX)
    return [bool(flag) for flag in raised.tolist()]


def from_rank0(value: T) -> T:
    """Return the value that rank 0 gave."""
    if world()[1] == 1:
        return value
    values: list[Any] = [value]
    dist.broadcast_object_list(values)
    told: T = values[0]
    return told


def from_all(value: T) -> list[T]:
    """Return the values of all processes, by rank."""
    if world()[1] == 1:
        return [value]
    values: list[Any] = [None] * world()[1]
    dist.all_gather_object(values, value)
    return values


def same_buffers(module: nn.Module) -> None:
    """Give every process the running statistics of rank 0, which has seen a part of the images."""
    if world()[1] > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)
