"""What the process of a network can be asked."""

import os
import time
from functools import partial
from signal import SIGCONT, SIGSTOP
from threading import Timer

import pytest
import torch

from ctxbench.errors import LatencyError
from ctxbench.latency.bench import Bench, warm_up
from ctxbench.latency.clock import WallTimer
from ctxbench.latency.worker import Worker
from tests.latency.nets import CONV, condition, spec

READY = {"check": True, "warmup_s": 0.02}


def bench(name, **given):
    return Bench(name, condition(**given), {})


# getting ready: a fast path is held against the plain form


@pytest.mark.parametrize("function", ["twisted", "not_a_number"])
def test_a_fast_path_that_is_wrong_is_refused(function):
    name = spec(function)
    with pytest.raises(LatencyError, match="channels_last, 1 thread.* is wrong: it differs"):
        bench(name, layout="channels_last").get_ready(**READY)


def test_a_fast_path_that_is_right_tells_how_far_it_is():
    ready = bench("resnet_tiny", layout="channels_last").get_ready(**READY)
    assert 0 <= ready.max_difference < 1e-3
    assert ready.note == ""


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("name", [CONV, spec("nested"), spec("masked")])
def test_the_layout_alone_changes_nothing(name, mode):
    ready = bench(name, layout="channels_last", mode=mode).get_ready(**READY)
    assert ready.max_difference < 1e-3


def test_the_plain_form_is_compared_with_nothing():
    assert bench(spec("twisted")).get_ready(**READY).max_difference is None


def test_a_fast_path_is_not_checked_unless_asked():
    ready = bench(spec("twisted"), layout="channels_last").get_ready(check=False, warmup_s=0.02)
    assert ready.max_difference is None


def test_random_numbers_are_not_compared_and_noted():
    ready = bench(spec("random"), layout="channels_last").get_ready(**READY)
    assert ready.max_difference is None
    assert ready.note == "not compared with the plain form, which draws random numbers"


def test_a_network_without_a_result_is_timed():
    ready = bench(spec("silent"), layout="channels_last").get_ready(**READY)
    assert (ready.max_difference, ready.pace_s > 0) == (None, True)


def test_an_input_that_does_not_fit_is_told_in_a_line():
    refused = bench("ssd300_resnet50", batch=1)
    with pytest.raises(LatencyError, match="ssd300_resnet50 cannot run .inference, batch 1, 32x32"):
        refused.get_ready(**READY)


def test_getting_ready_is_described():
    ready = bench(CONV).get_ready(**READY)
    assert ready.weights_mib == pytest.approx((9 * 8 * 8 + 8) * 4 / 2**20)
    assert ready.build_s > 0
    assert ready.first_s > 0
    assert ready.warmup_runs >= 3
    assert ready.whole_graph is None


def test_timing_nothing_takes_less_than_50_us():
    assert 0 < bench(CONV).get_ready(**READY).overhead_ms < 0.05


# the warm-up


class _Clock:
    """Each run takes the milliseconds that are given, on a clock that nothing else moves."""

    def __init__(self, times_ms):
        self.now, self.times_ms = 0.0, iter(times_ms)

    def sample(self):
        time_ms = next(self.times_ms)
        self.now += time_ms / 1000
        return time_ms

    def warm_up(self, limit_s):
        return warm_up(self.sample, limit_s=limit_s, clock=lambda: self.now)


def test_the_warm_up_stops_when_two_windows_agree():
    # windows hold 0.1 s: 4 runs of 25 ms
    clock = _Clock([100, 80, 80, 60, *[25] * 50])
    assert clock.warm_up(10) == (3 + 8, True)  # one of 60 ms in a window moves no median


def test_the_warm_up_stops_at_its_limit():
    clock = _Clock([1000 / 1.2**index for index in range(100)])
    runs, settled = clock.warm_up(3)
    assert not settled
    assert 3 <= clock.now < 3 + 0.7
    assert runs == 4  # 1 + 0.83 + 0.69 + 0.58 = 3.1 s


def test_a_window_has_three_runs_at_least_and_fifty_at_most():
    assert _Clock([500] * 10).warm_up(60)[0] == 6
    assert _Clock([0.1] * 200).warm_up(60)[0] == 100


def test_the_warm_up_returns_the_median_of_the_last_window():
    clock = _Clock([900, 600, 400, 300, 200])
    assert clock.warm_up(2.3) == (5, False)


def test_one_run_beyond_the_limit_is_enough():
    assert _Clock([5000]).warm_up(1) == (1, False)


# turns


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_a_block_has_the_runs_asked_for_of_each_phase(mode):
    block = bench(CONV, mode=mode).block(runs=7, settle=1)
    phases = {"inference": ["forward"], "training": ["forward", "backward", "optimiser"]}
    assert list(block.phases_ms) == phases[mode]
    assert [len(times) for times in block.phases_ms.values()] == [7] * len(phases[mode])
    assert all(ms > 0 for times in block.phases_ms.values() for ms in times)


def test_a_run_is_as_long_as_the_work(monkeypatch):
    timer = WallTimer(time.thread_time, time.thread_time)  # which other load does not move
    monkeypatch.setattr("ctxbench.latency.bench.timer_of", lambda device: timer)
    block = bench(spec("slow", seconds=0.02)).block(runs=3, settle=0)
    assert min(block.phases_ms["forward"]) >= 20
    assert block.median_ms < 60


def test_a_cold_cache_is_overwritten_before_each_run_and_not_timed():
    cold = bench(CONV, cache="cold")
    times = []
    flush = cold._flush

    def flushed():
        start = time.perf_counter()
        flush()
        times.append(time.perf_counter() - start)

    cold._flush = flushed
    block = cold.block(runs=3, settle=1)
    assert len(times) == 3
    assert sum(block.totals_ms) / 1000 < sum(times)


@pytest.fixture(scope="module")
def filling():
    """A process that runs a network with a large activation, and keeps its memory."""
    with Worker(spec("filling", mib=16), condition(image_size=(64, 64)), memory="kept") as worker:
        worker.call("get_ready", check=False, warmup_s=0.3)
        yield worker


def test_a_run_is_given_no_new_pages(filling):
    blocks = [filling.call("block", runs=10, settle=1) for _ in range(3)]  # a heap may grow once
    assert min(block.page_faults for block in blocks) < 10  # 16 MiB are 4,096 pages


def test_a_process_that_stood_still_is_flagged():
    with Worker(spec("slow", seconds=0.02), condition(), memory="kept") as worker:
        worker.call("get_ready", check=False, warmup_s=0.01)
        pause = partial(os.kill, worker.process.pid)
        timers = [Timer(0.1, pause, [SIGSTOP]), Timer(0.45, pause, [SIGCONT])]
        for timer in timers:
            timer.start()
        block = worker.call("block", runs=30, settle=0)  # 0.6 s
        timers[1].join()
    assert block.disturbed >= 1
    assert max(block.totals_ms) >= 300


# memory


def test_peaks_are_those_of_a_step_above_the_weights_and_of_the_process():
    with Worker(
        spec("filling", mib=64), condition(image_size=(64, 64)), memory="returned"
    ) as worker:
        peaks = worker.call("peaks")
    assert peaks["peak_mib"] == pytest.approx(64, rel=0.1)
    assert peaks["rss_mib"] > 64


@pytest.mark.parametrize("how", ["cpu", "cuda"])
def test_a_batch_fits_or_does_not(how):
    asked = bench(spec("up_to", largest=5, how=how), batch=1)
    assert [asked.fits(batch=batch) for batch in (1, 6, 5, 8)] == [True, False, True, False]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_batch_fits_in_training(layout):
    assert bench("resnet_tiny", batch=1, mode="training", layout=layout).fits(batch=3)


def test_what_cannot_run_at_any_batch_is_no_question_of_memory():
    with pytest.raises(LatencyError, match="cannot run"):
        bench(spec("raising", error="ValueError")).fits(batch=2)


# what explains it


def test_traffic_is_what_an_eager_forward_pass_moves():
    assert bench(spec("without_weights"), image_size=(16, 16)).traffic() == 2 * 4 * 2 * 3 * 16 * 16


def test_layers_are_timed_each():
    assert set(bench(spec("plain")).layers(runs=3)) == {"", "conv"}


def test_the_device_has_a_name_and_a_clock():
    asked = bench(CONV)
    assert asked.device()["device_name"]
    assert asked.clocks().get("cpu_mhz", 1) > 0


# compiled


@pytest.fixture(scope="module")
def compiled():
    """A process with a compiled network that breaks the graph once."""
    with Worker(spec("broken"), condition(backend="compiled"), memory="kept") as worker:
        yield worker.call("get_ready", check=True, warmup_s=0.1)


@pytest.mark.slow
def test_a_compiled_network_tells_that_its_graph_breaks(compiled):
    assert compiled.whole_graph is False
    assert compiled.max_difference == 0


@pytest.mark.slow
def test_a_network_that_is_compiled_again_and_again_has_no_time():
    name, asked = spec("broken", every=1), condition(backend="compiled")
    message = "recompiled to its limit.* Use --backend eager"
    with Worker(name, asked, memory="kept") as worker, pytest.raises(LatencyError, match=message):
        worker.call("get_ready", check=False, warmup_s=1.0)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["eager", "cudagraph"])
def test_a_gpu_is_timed(backend):
    asked = bench("resnet_tiny", device="cuda", backend=backend)
    assert asked.get_ready(**READY).pace_s > 0
    assert len(asked.block(runs=3, settle=1).host_ms) == 3
    torch.cuda.synchronize()
