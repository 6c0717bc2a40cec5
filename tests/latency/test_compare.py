"""Networks timed in turns: the rows, and what happens where one of them cannot be measured."""

import time
from dataclasses import replace

import pytest

from ctxbench.errors import CtxbenchError, LatencyError
from ctxbench.latency import compare
from ctxbench.latency.bench import Bench
from ctxbench.latency.clock import WallTimer
from ctxbench.latency.compare import largest, measure, measure_all, measure_largest
from ctxbench.latency.condition import Plan
from tests.latency.nets import CONV, MACHINE, TINY, Inline, condition, spec

QUICK = Plan(launches=1, budget_s=0.1, warmup_s=0.02, block_s=0.005)
PAIR = ["coresnet_tiny", "resnet_tiny"]


@pytest.fixture
def inline(monkeypatch):
    """Let networks run in this process, and ask the machine nothing."""
    monkeypatch.setattr(compare, "Worker", Inline)
    monkeypatch.setattr(compare, "know_machine", lambda condition: MACHINE)


def timed(names, asked=TINY, *, plan=QUICK, **given):
    return measure(names, asked, plan=plan, machine=MACHINE, **given)


# the rows of two networks, as they are measured


@pytest.fixture(scope="module")
def rows():
    """The rows of two networks and processes of their own."""
    plan = replace(QUICK, budget_s=0.6)
    return timed(PAIR[:1], against=PAIR[1], plan=plan)[0]


def test_a_row_for_each_network_in_one_group(rows):
    assert [(row.model, row.against, row.status) for row in rows] == [
        ("coresnet_tiny", "resnet_tiny", "ok"),
        ("resnet_tiny", None, "ok"),
    ]
    assert rows[0].group == rows[1].group


def test_a_row_names_its_condition(rows):
    for key in TINY.__slots__:
        if key != "seed":
            assert {getattr(row, key) for row in rows} == {getattr(TINY, key)}


def test_estimates_lie_inside_their_intervals(rows):
    for row in rows:
        assert row.low_ms <= row.median_ms <= row.high_ms
        assert row.q1_ms <= row.q3_ms
    assert rows[0].ratio_low <= rows[0].ratio <= rows[0].ratio_high
    assert rows[1].ratio is None


def test_a_row_holds_each_run(rows):
    for row in rows:
        (launch,) = row.samples_ms["forward"]
        assert (row.launches, row.blocks) == (1, len(launch))
        assert row.runs == sum(map(len, launch)) > 0


def test_a_row_tells_what_came_before_the_times(rows):
    for row in rows:
        assert min(row.build_s, row.first_s, row.overhead_ms, row.weights_mib) > 0
        assert row.settings["allocator"].startswith("kept")
        assert len(row.clocks) == 1


def test_a_row_tells_memory_and_rates(rows):
    for row in rows:
        assert row.peak_mib > 0
        assert row.rss_mib > row.peak_mib + row.weights_mib
        assert row.images_s == pytest.approx(2 * 1000 / row.median_ms)
        assert row.gflops_s > 0


def test_work_is_that_of_the_whole_batch(inline):
    (row,), _ = timed([CONV])
    assert row.macs == 2 * 32 * 32 * 9 * 8 * 8
    assert row.params == 9 * 8 * 8 + 8


def test_training_rows_have_three_phases(inline):
    (row,), _ = timed([CONV], condition(mode="training"))
    assert list(row.phases_ms) == list(row.samples_ms) == ["forward", "backward", "optimiser"]


def test_the_process_that_begins_changes_with_each_launch(inline, monkeypatch):
    order = []
    block = Inline.call

    def call(self, name, **given):
        if name == "block":
            order.append(self.bench._spec)
        return block(self, name, **given)

    monkeypatch.setattr(Inline, "call", call)
    timed(PAIR, plan=replace(QUICK, launches=2, budget_s=1e-9))
    a, b = PAIR
    assert order == [a, b, b, a, *(b, a, a, b)]


def test_layers_stand_beside_those_of_the_other(inline):
    _, layers = timed(PAIR[:1], against=PAIR[1], per_layer=True)
    assert {layer.model for layer in layers} == {"coresnet_tiny"}
    assert layers[-1].layer == "(rest)"
    assert all(layer.ms is not None and layer.against_ms is not None for layer in layers)


# where one does not fit


@pytest.mark.parametrize("how", ["cpu", "cuda"])
def test_a_network_that_does_not_fit_has_a_row_that_says_so(inline, how):
    rows, _ = timed([spec("up_to", largest=1, how=how), CONV])
    assert [row.status for row in rows] == ["out of memory", "ok"]
    assert "memory" in rows[0].notes[0].lower()
    assert rows[0].median_ms is None
    assert rows[0].macs == 2 * 32 * 32 * 9 * 3 * 4


def test_without_the_one_that_it_is_compared_with_a_network_has_no_ratio(inline):
    (mine, other), _ = timed([CONV], against=spec("up_to", largest=1))
    assert (mine.status, mine.ratio, other.status) == ("ok", None, "out of memory")
    assert mine.median_ms > 0


def test_no_network_fits(inline):
    (row,), layers = timed([spec("up_to", largest=1)], per_layer=True)
    assert (row.status, layers) == ("out of memory", [])


@pytest.mark.parametrize("step", ["block", "peaks"])
def test_a_network_that_does_not_fit_later_leaves_the_others_theirs(inline, monkeypatch, step):
    call = Inline.call

    def failing(self, name, **given):
        if name == step and self.bench._spec == PAIR[0]:
            raise compare.OutOfMemoryError("its process was killed.")
        return call(self, name, **given)

    monkeypatch.setattr(Inline, "call", failing)
    rows, _ = timed(PAIR)
    assert [row.status for row in rows] == ["out of memory", "ok"]
    assert rows[1].median_ms > 0


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_the_others_theirs(tmp_path):
    rows, _ = timed([spec("killed_later", folder=tmp_path), CONV])
    assert [row.status for row in rows] == ["out of memory", "ok"]
    assert rows[0].notes[0].endswith("its process was killed.")


# the largest batch


@pytest.mark.parametrize("most", [1, 2, 3, 15, 16, 17, 100, 1000])
def test_the_largest_batch_is_known_to_a_sixteenth(most):
    asked = []

    def fits(batch):
        asked.append(batch)
        return batch <= most

    good, bad = largest(fits)
    assert good <= most < bad
    assert bad - good <= max(1, good / 16)
    assert {good, bad} <= set(asked)
    assert len(asked) == len(set(asked)) < 20


def test_the_search_for_the_largest_batch_ends_at_its_limit():
    assert largest(lambda batch: True, limit=64) == (64, None)


def test_nothing_fits():
    assert largest(lambda batch: False) == (0, 1)


def test_the_largest_batch_is_timed(inline):
    row = measure_largest(spec("up_to", largest=5), TINY, plan=QUICK, machine=MACHINE)
    assert (row.batch, row.largest_batch, row.failing_batch) == (5, 5, 6)
    assert row.images_s == pytest.approx(5 * 1000 / row.median_ms)


def test_a_network_of_which_no_batch_fits_leaves_the_others_theirs(inline, monkeypatch):
    sizes = {CONV: 0, spec("plain"): 5}
    fits = lambda bench, batch: batch <= sizes[bench._spec]  # noqa: E731
    monkeypatch.setattr(Bench, "fits", fits)
    found = [*measure_all(reversed(sizes), [TINY], plan=QUICK, largest=True)]
    rows = [row for each in found for row in each.rows]
    assert [row.status for row in rows] == ["ok", "out of memory"]
    assert (rows[1].largest_batch, rows[1].failing_batch) == (None, 1)


# several conditions


def test_the_ceilings_are_measured_once_for_each_dtype(inline):
    conditions = [condition(dtype=dtype, batch=b) for dtype in ("fp32", "bf16") for b in (1, 2)]
    found = [*measure_all([CONV], conditions, plan=QUICK)]
    assert [each.ceilings and each.ceilings["dtype"] for each in found] == [
        "fp32", None, "bf16", None,
    ]  # fmt: skip
    assert found[0].ceilings == {
        "device_name": "a processor", "device": "cpu", "threads": 1, "dtype": "fp32",
        "gflops_s": 100.0, "gb_s": 10.0,
    }  # fmt: skip
    assert [each.rows[0].batch for each in found] == [1, 2, 1, 2]
    assert len({each.rows[0].group for each in found}) == 4


MISTAKES = [
    (["resnet_tin"], {}, {}, "Unknown network 'resnet_tin'"),
    ([CONV, "op/conv:chanels=8"], {}, {}, "Unknown option of op/conv 'chanels'"),
    ([CONV], {"backend": "compiled"}, {"largest": True}, "--batch max is found in eager mode."),
    ([CONV], {"mode": "training"}, {"per_layer": True}, "--per-layer times the modules of eager"),
    (
        [CONV],
        {"backend": "compiled"},
        {"per_layer": True},
        "--per-layer times the modules of eager",
    ),
    (["ssd300_resnet50"], {}, {}, "cannot run on inputs .1, 3, 32, 32."),
    ([CONV], {}, {"against": "progan128"}, "the generator makes images of"),
    ([CONV], {"dtype": "tf32"}, {}, "--dtype tf32"),
    ([CONV], {"device": "tpu"}, {}, "--device 'tpu' is not known"),
    ([CONV, "overlock_tiny:reparam=true"], {"mode": "training"}, {}, "is folded for inference"),
]


@pytest.mark.parametrize(("names", "asked", "given", "message"), MISTAKES)
def test_a_mistake_is_told_before_anything_is_measured(monkeypatch, names, asked, given, message):
    for name in ("Worker", "know_machine"):
        monkeypatch.setattr(compare, name, lambda *_, **__: pytest.fail("measured"))
    conditions = [TINY, condition(**asked)]
    with pytest.raises(CtxbenchError, match=message):
        next(measure_all(names, conditions, plan=QUICK, **given))


def test_what_is_wrong_under_one_condition_leaves_those_before_theirs(inline):
    conditions = [TINY, condition(layout="channels_last")]
    found = measure_all([spec("twisted")], conditions, plan=QUICK)
    assert next(found).rows[0].status == "ok"
    with pytest.raises(LatencyError, match="is wrong"):
        next(found)


# against the clock


@pytest.mark.slow
def test_a_network_is_as_fast_as_itself():
    plan = Plan(launches=2, budget_s=6, warmup_s=0.5, block_s=0.05)
    mine, _ = timed(["resnet_tiny"], against="resnet_tiny:num_classes=10", plan=plan)[0]
    assert mine.ratio_low - 0.05 < 1 < mine.ratio_high + 0.05


@pytest.mark.slow
def test_the_order_of_two_networks_does_not_matter():
    plan = Plan(launches=2, budget_s=6, warmup_s=0.5, block_s=0.05)
    one, _ = timed(PAIR[:1], against=PAIR[1], plan=plan)[0]
    other, _ = timed(PAIR[1:], against=PAIR[0], plan=plan)[0]
    low, high = 1 / other.ratio_high, 1 / other.ratio_low
    assert one.ratio_low <= high * 1.05
    assert low <= one.ratio_high * 1.05


def test_a_network_that_works_twice_as_long_takes_twice_the_time(inline, monkeypatch):
    # the clock of this thread alone, which other load does not move
    timer = WallTimer(time.thread_time, time.thread_time)
    monkeypatch.setattr("ctxbench.latency.bench.timer_of", lambda device: timer)
    names = [spec("slow", seconds=seconds) for seconds in (0.008, 0.004)]
    (mine, other), _ = timed(names[:1], against=names[1], plan=replace(QUICK, budget_s=0.5))
    assert mine.ratio == pytest.approx(2, rel=0.2)
    assert mine.median_ms >= 8
    assert other.median_ms >= 4
