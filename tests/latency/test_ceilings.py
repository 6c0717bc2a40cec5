"""Ceilings: rates from times, sizes from the machine."""

import math
from functools import partial

import pytest
import torch

from ctxbench.latency import ceilings, machine
from ctxbench.latency.ceilings import copy_mib, measure_ceilings, time_once

CPU = torch.device("cpu")
MIB = 2**20


@pytest.fixture
def small(monkeypatch):
    """A machine with little memory, and small products."""
    monkeypatch.setattr(machine, "available_mib", lambda: 16.0)
    monkeypatch.setattr(ceilings, "_SIDES", (8, 16, 32))


def side_of(work):
    """Return the side of a product; None for a copy."""
    return work.args[0].shape[0] if isinstance(work, partial) else None


def test_the_best_time_of_the_fastest_side_counts(small):
    products = {8: iter([9.0, 2e-6, 3.0]), 16: iter([2.0, 3.0, 4e-6]), 32: iter([0.001, 2.0, 3.0])}
    copies = iter([5.0, 1e-3, 4.0])

    def timer(work, device):
        return next(products.get(side_of(work), copies))

    found = measure_ceilings(CPU, torch.float32, timer=timer)
    assert found.matmul_side == 16
    assert found.gflops_s == pytest.approx(2 * 16**3 / 4e-6 / 1e9)
    assert found.copy_mib == 2
    assert found.gb_s == pytest.approx(2 * 2 * MIB / 1e-3 / 1e9)


def test_no_product_of_more_than_200_ms_is_tried(small):
    sides = set()

    def timer(work, device):
        sides.add(side_of(work))
        return 0.03 if side_of(work) == 16 else 0.001  # eight times that is 240 ms

    measure_ceilings(CPU, torch.float32, timer=timer)
    assert sides == {8, 16, None}


def test_the_time_is_shared(small):
    runs = {}

    def timer(work, device):
        runs[side_of(work)] = runs.get(side_of(work), 0) + 1
        return 0.005

    measure_ceilings(CPU, torch.float32, seconds=0.3, timer=timer)
    assert runs == {8: 10, 16: 10, 32: 10, None: 30}


def test_times_of_nothing_end(small):
    calls = 0

    def timer(work, device):
        nonlocal calls
        calls += 1
        return 1e-12

    measure_ceilings(CPU, torch.float32, timer=timer)
    assert calls == 4 * 1000


def test_the_data_are_noise_and_the_callers_random_numbers_stay(small):
    seen = []

    def timer(work, device):
        if side_of(work):
            seen.append(work.args[0])
        return 1.0

    before = torch.get_rng_state()
    measure_ceilings(CPU, torch.bfloat16, timer=timer)
    assert torch.equal(torch.get_rng_state(), before)
    assert seen[0].dtype == torch.bfloat16
    assert 0.5 < seen[0].float().std() < 1.5


def test_large_noise_is_repeated(monkeypatch):
    monkeypatch.setattr(ceilings, "_PATTERN_BYTES", 40)
    noise = ceilings._noise(25, CPU, torch.float32)
    torch.testing.assert_close(noise, torch.cat([noise[:10], noise[:10], noise[:5]]))
    assert noise[:10].unique().numel() == 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_real_machine_reaches_something(small, dtype):
    found = measure_ceilings(CPU, dtype, seconds=0.02)
    for rate in (found.gflops_s, found.gb_s):
        assert math.isfinite(rate)
        assert rate > 0


def test_time_once_runs_once():
    calls = []
    assert time_once(lambda: calls.append(1), CPU) > 0
    assert calls == [1]


@pytest.mark.parametrize(
    ("cache", "available", "expected"),
    [
        (8, 64_000, 256),  # at least
        (100, 64_000, 400),
        (480, 64_000, 512),  # at most
        (480, 800, 100),
        (None, 64_000, 256),  # four times 64
        (8, None, 256),
        (480, None, 256),  # an eighth of 2048
        (0.5, 64_000, 256),
    ],
)
def test_the_copy_goes_beyond_the_cache_as_far_as_memory_goes(
    monkeypatch, cache, available, expected
):
    monkeypatch.setattr(machine, "last_cache_mib", lambda: cache)
    monkeypatch.setattr(machine, "available_mib", lambda: available)
    assert copy_mib(CPU) == expected


def test_other_devices_and_numbers_are_refused():
    with pytest.raises(ValueError, match="cpu and cuda; got meta"):
        measure_ceilings(torch.device("meta"), torch.float32)
    with pytest.raises(ValueError, match=r"floating-point numbers; got torch\.int32"):
        measure_ceilings(CPU, torch.int32)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_real_gpu_reaches_something(dtype):
    found = measure_ceilings(torch.device("cuda"), dtype, seconds=0.1)
    assert found.gflops_s > 100
    assert found.gb_s > 10
