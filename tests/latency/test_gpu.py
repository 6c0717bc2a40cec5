"""The protocol on a GPU: events, kernels, memory, graphs."""

import pytest
import torch

from ctxbench.latency.compare import know_machine, largest, measure
from ctxbench.latency.condition import Condition, Plan
from ctxbench.latency.worker import Worker

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PLAN = Plan(launches=1, budget_s=2, warmup_s=1, block_s=0.1)
NET = "resnet_tiny"


def _condition(**given):
    return Condition(**{"batch": 64, "image_size": (32, 32), "device": "cuda", **given})


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"dtype": "tf32"},
        {"dtype": "bf16", "layout": "channels_last"},
        {"dtype": "fp16", "mode": "training"},
        {"mode": "training"},
        {"backend": "cudagraph"},
        {"cache": "cold"},
        {"backend": "compiled"},
    ],
    ids=str,
)
def test_every_way_of_running_gives_a_whole_row(given):
    condition = _condition(**given)
    rows, _ = measure(
        ["coresnet_tiny"], condition, against=NET, plan=PLAN, machine=know_machine(condition)
    )
    for row in rows:
        assert row.status == "ok"
        assert row.host_ms > 0
        assert row.kernels_ms > 0
        assert row.kernels > 0
        assert row.peak_mib > 0
        assert row.reserved_mib > 0
        assert row.clocks
    assert rows[0].ratio_low <= rows[0].ratio <= rows[0].ratio_high


def test_events_agree_with_the_profiler_on_a_long_kernel():
    condition = Condition(batch=64, image_size=(224, 224), device="cuda")
    with Worker("op/conv:channels=128", condition, memory="kept") as worker:
        worker.call("get_ready", check=False, warmup_s=1)
        block = worker.call("block", runs=30, settle=1)
        kernels_ms, _ = worker.call("kernels")
    assert block.median_ms == pytest.approx(kernels_ms, rel=0.1)


def test_peak_memory_is_what_the_allocator_counts():
    condition = _condition(batch=256)
    with Worker("op/conv:channels=64:bias=false", condition, memory="kept") as worker:
        worker.call("get_ready", check=False, warmup_s=0.1)
        peaks = worker.call("peaks")
    map_mib = 256 * 64 * 32 * 32 * 4 / 2**20
    assert peaks["peak_mib"] >= 2 * map_mib  # its input and its output


def test_the_largest_batch_is_found():
    with Worker("op/conv:channels=512", _condition(image_size=(512, 512)), memory="kept") as worker:
        good, bad = largest(lambda batch: worker.call("fits", batch=batch))
    assert 1 <= good < bad <= 2 * good
