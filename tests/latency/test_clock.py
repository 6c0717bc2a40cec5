"""Clocks: where they are read around a run, and that a run takes as long as others say."""

import time
from statistics import median

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from ctxbench.latency.clock import EventTimer, Sample, WallTimer, timer_of


class Recorder:
    """A log, and things that write into it: clocks that return what they are given, phases."""

    def __init__(self):
        self.log = []

    def clock(self, name, *values_s):
        values = iter(values_s)
        return lambda: self.log.append(name) or next(values)

    def phases(self, *names):
        return {name: lambda name=name: self.log.append(name) for name in names}


def test_the_wall_clock_is_read_where_one_phase_ends_and_the_next_begins():
    seen = Recorder()
    timer = WallTimer(seen.clock("clock", 1.0, 1.25, 2.0), seen.clock("cpu", 5.0, 5.5))
    timer(seen.phases("forward", "backward"))
    assert seen.log == ["cpu", "clock", "forward", "clock", "backward", "clock", "cpu"]


def test_wall_times_of_phases_are_between_the_readings():
    seen = Recorder()
    timer = WallTimer(seen.clock("clock", 1.0, 1.25, 2.0), seen.clock("cpu", 5.0, 5.5))
    sample = timer(seen.phases("forward", "backward"))
    assert sample == Sample(phases_ms=(250.0, 750.0), host_ms=1000.0, off_ms=500.0)
    assert sample.total_ms == 1000.0


class FakeDevice:
    """Events that say when they are recorded and read; event i is recorded at i * i ms."""

    def __init__(self, seen):
        self.seen, self.events = seen, []

    def event(self):
        self.events.append(FakeEvent(self.seen, len(self.events)))
        return self.events[-1]

    def synchronize(self):
        self.seen.log.append("synchronize")


class FakeEvent:
    def __init__(self, seen, index):
        self.seen, self.index = seen, index

    def record(self):
        self.seen.log.append(f"record {self.index}")

    def elapsed_time(self, end):
        self.seen.log.append(f"elapsed {self.index} {end.index}")
        return float(end.index**2 - self.index**2)


@pytest.fixture
def on_device():
    """Return the log and the sample of a run of two phases, which the host queues in 3 ms."""
    seen = Recorder()
    device = FakeDevice(seen)
    clocks = seen.clock("clock", 1.0, 1.003), seen.clock("cpu", 5.0, 5.002)
    sample = EventTimer(device.event, device.synchronize, *clocks)(seen.phases("a", "b"))
    return seen.log, sample


def test_events_are_recorded_around_phases_between_two_waits(on_device):
    log, _ = on_device
    device = [each for each in log if each not in {"clock", "cpu"}]
    assert device == [
        *("synchronize", "record 0", "a", "record 1", "b", "record 2", "synchronize"),
        *("elapsed 0 1", "elapsed 1 2"),
    ]


def test_the_host_clock_runs_while_the_host_queues(on_device):
    log, _ = on_device
    host = [each for each in log if not each.startswith(("record", "elapsed"))]
    assert host == ["synchronize", "cpu", "clock", "a", "b", "clock", "cpu", "synchronize"]


def test_device_times_are_those_between_events(on_device):
    _, sample = on_device
    assert sample.phases_ms == (1.0, 3.0)  # 1 - 0 and 4 - 1
    assert sample.total_ms == 4.0


def test_host_times_are_those_of_the_clocks(on_device):
    _, sample = on_device
    assert (sample.host_ms, sample.off_ms) == (pytest.approx(3.0), pytest.approx(1.0))


@pytest.mark.parametrize(
    ("host_ms", "off_ms", "expected"),
    [
        (10.0, 1.0, False),  # a tenth
        (10.0, 1.01, True),
        (0.1, 0.05, False),  # half of it, but 50 us
        (0.1, 0.051, True),
        (10.0, -0.01, False),  # the two clocks are not read at once
    ],
)
def test_a_run_off_the_cpu_for_a_tenth_and_50_us_is_disturbed(host_ms, off_ms, expected):
    assert Sample((host_ms,), host_ms, off_ms).disturbed is expected


def spin(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_a_phase_off_the_cpu_is_disturbed():
    assert WallTimer()({"sleep": lambda: time.sleep(0.02)}).disturbed


def test_a_phase_on_the_cpu_is_not_disturbed():
    samples = (WallTimer()({"spin": lambda: spin(0.0005)}) for _ in range(500))
    assert any(not sample.disturbed for sample in samples)  # a busy machine interrupts some


def test_sleep_takes_as_long_as_asked():
    times = [WallTimer()({"sleep": lambda: time.sleep(0.02)}).total_ms for _ in range(10)]
    assert 20.0 <= min(times) < 30.0  # a busy machine wakes late


def test_work_takes_the_cpu_time_it_takes():
    # short, so that one of many runs is not interrupted on a busy machine either
    times = [WallTimer()({"spin": lambda: spin(0.0005)}).total_ms for _ in range(200)]
    assert 0.5 <= min(times) < 0.65


def test_an_empty_phase_takes_less_than_50_us():
    times = [WallTimer()({"nothing": lambda: None}).total_ms for _ in range(200)]
    assert median(times) < 0.05


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_product_takes_as_long_as_the_profiler_says(one_thread):
    a = torch.randn(512, 512)
    product = {"product": lambda: torch.mm(a, a)}
    WallTimer()(product)
    ratios = []
    for _ in range(5):  # whoever else has the core meanwhile is seen by the clock alone
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            timed_ms = sum(WallTimer()(product).total_ms for _ in range(10))
        profiled_ms = sum(event.self_cpu_time_total for event in profiler.events()) / 1000
        ratios.append(timed_ms / profiled_ms)
    assert min(ratios) == pytest.approx(1, rel=0.15)


def test_the_clock_of_the_cpu_is_on_the_wall():
    assert isinstance(timer_of("cpu"), WallTimer)


def test_the_clock_of_a_gpu_is_on_the_device():
    assert isinstance(timer_of("cuda:1"), EventTimer)
