"""Rows from turns: every number by hand, and every caution from its trigger."""

from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from ctxbench import count
from ctxbench.latency.bench import Ready
from ctxbench.latency.condition import Condition, Plan
from ctxbench.latency.layers import REST
from ctxbench.latency.protocol import Block, Launch
from ctxbench.latency.rows import LatencyRow
from ctxbench.latency.summary import Found, Machine, Summary, slowest
from ctxbench.measure.conventions import Work
from ctxbench.measure.flops import Count

READY = Ready(
    build_s=1.0,
    first_s=2.0,
    warmup_runs=10,
    stable=True,
    pace_s=0.003,
    overhead_ms=0.002,
    weights_mib=4.0,
    max_difference=1e-7,
    whole_graph=None,
    settings={"allocator": "kept"},
    note="",
)
COUNTED = Count(params=7, work=Work({"conv": 500_000, "linear": 500_000}, {}), modules={})
MACHINE = Machine(
    device={"device_name": "Some CPU", "driver": "1.2"},
    ceilings={"gflops_s": 100.0, "gb_s": 10.0, "matmul_side": 512, "copy_mib": 256},
)
SUMMARY = Summary(
    condition=Condition(batch=4, image_size=(32, 48), threads=2, seed=9),
    plan=Plan(),
    against="b",
    group="g1",
    machine=MACHINE,
)


def found(**changed):
    return Found(
        **{"ready": [READY], "traffic_bytes": 200_000, "peaks": {"peak_mib": 5.0}} | changed
    )


def turns(*blocks, **others):
    """Return the launch of "a", whose blocks have these runs, and of "b", which takes half."""
    mine = [Block({"forward": runs}, **others) for runs in blocks]
    theirs = [Block({"forward": [ms / 2 for ms in runs]}) for runs in blocks]
    return Launch({"a": mine, "b": theirs})


def steadily(*runs, **others):
    """Return ten turns that are all alike, two in each of five launches."""
    return [turns(*[[*runs]] * 2, **others)] * 5


# blocks 2 4 6 8, 4 4 5 5, 6 7 -> rounds 3 7, 4 5, 6.5 -> launches 5, 4.5, 6.5
LAUNCHES = [
    turns([1.0, 2.0, 9.0], [4.0, 4.0, 4.0], [6.0, 6.0, 7.0], [8.0, 8.0, 8.0]),
    turns([4.0, 4.0, 4.0], [4.0, 3.0, 5.0], [5.0, 5.0, 5.0], [5.0, 5.0, 6.0]),
    turns([6.0, 6.0, 6.0], [7.0, 7.0, 7.0]),
]


def row(name="a", *, launches=LAUNCHES, counted=COUNTED, summary=SUMMARY, **changed):
    return summary.row(name, counted, found(**changed), launches)


def test_the_median_is_that_of_launches():
    assert row().median_ms == 5.0


def test_the_interval_holds_the_median():
    assert 3.0 <= row().low_ms < 5.0 < row().high_ms <= 7.0


def test_a_handful_of_rounds_has_no_interval():
    made = row(launches=[turns([2.0], [2.0]), turns(*[[2.0]] * 6)])
    assert (made.low_ms, made.high_ms, made.ratio_low, made.ratio_high) == (None,) * 4
    assert (made.median_ms, made.ratio, made.precise) == (2.0, 2.0, False)


def test_images_are_those_of_the_median():
    assert row().images_s == pytest.approx(800)  # 4 in 5 ms


def test_quartiles_are_those_of_all_runs():
    # 1 2 3 4444444 555555 666666 7777 888 9: places 7.25 and 21.75 of 0 to 29
    assert (row().q1_ms, row().q3_ms) == (4.0, 6.75)


@pytest.mark.parametrize(
    ("runs", "p90_ms", "p99_ms"), [(60, None, None), (64, 1.0, None), (664, 1.0, 1.0)]
)
def test_far_percentiles_take_many_runs(runs, p90_ms, p99_ms):
    made = row(launches=[turns([1.0] * (runs // 2), [1.0] * (runs // 2))])
    assert (made.p90_ms, made.p99_ms) == (p90_ms, p99_ms)


def test_the_ratio_is_that_of_the_same_rounds():
    assert (row().ratio, row().ratio_low, row().ratio_high) == pytest.approx((2.0, 2.0, 2.0))
    assert row().against == "b"


def test_what_the_others_are_compared_with_has_no_ratio():
    assert (row("b").against, row("b").ratio, row("b").ratio_low) == (None, None, None)
    assert row("b").median_ms == 2.5


def test_there_is_no_ratio_where_the_other_did_not_fit():
    made = row(launches=[*LAUNCHES[:2], Launch({"a": LAUNCHES[2].blocks["a"]})])
    assert (made.ratio, made.median_ms) == (None, 5.0)


def test_phases_have_their_own_medians():
    block = Block({"forward": [1.0, 2.0, 3.0], "backward": [5.0, 4.0, 9.0]})
    made = row("b", launches=[Launch({"b": [block, block]})])
    assert made.phases_ms == {"forward": 2.0, "backward": 5.0}
    assert made.median_ms == 6.0  # of 6, 6 and 12


def test_samples_are_kept_by_launch_and_turn_to_10_ns():
    block, other = (Block({"forward": runs}) for runs in ([1.0, 2.123456789], [3.0]))
    made = row("b", launches=[Launch({"b": [block, other]}), Launch({"b": [other, other]})])
    assert made.samples_ms == {"forward": [[[1.0, 2.12346], [3.0]], [[3.0], [3.0]]]}


def test_what_was_run_is_counted():
    made = row(ready=[READY, replace(READY, warmup_runs=5)])
    assert (made.launches, made.blocks, made.runs, made.warmup_runs) == (3, 10, 30, 15)


def test_macs_are_those_of_the_batch():
    assert (row().macs, row().params) == (4_000_000, 7)


def test_the_forward_pass_is_held_against_the_ceilings():
    # 8 MFLOP over 0.2 MB in 5 ms: 40 FLOPs a byte, and the ceilings meet at 10
    made = row()
    assert made.phases_ms == {"forward": 5.0}
    assert (made.gflops_s, made.intensity) == pytest.approx((1.6, 40.0))
    assert (made.fraction, made.bound) == (pytest.approx(0.016), "compute")
    assert (made.roof_gflops_s, made.roof_gb_s, made.traffic_bytes) == (100.0, 10.0, 200_000)


@pytest.mark.parametrize(
    "changed", [{"traffic_bytes": None}, {"counted": replace(COUNTED, work=Work({}, {}))}]
)
def test_there_is_no_rate_of_what_is_not_known(changed):
    made = row(**changed)
    assert (made.gflops_s, made.intensity, made.fraction, made.bound) == (None,) * 4
    assert made.roof_gflops_s == 100.0


def test_the_first_process_tells_of_getting_ready_and_all_of_the_clock():
    later = [replace(READY, build_s=9.0, first_s=9.0, overhead_ms=ms) for ms in (0.004, 0.008)]
    made = row(ready=[READY, *later])
    assert (made.build_s, made.first_s, made.overhead_ms) == (1.0, 2.0, 0.004)
    assert (made.weights_mib, made.max_difference, made.peak_mib) == (4.0, 1e-7, 5.0)


def test_the_row_names_all_that_conditions_it():
    made = row()
    assert (made.model, made.group, made.device_name, made.status) == ("a", "g1", "Some CPU", "ok")
    assert (made.threads, made.batch, made.image_size, made.dtype) == (2, 4, (32, 48), "fp32")
    assert made.settings == {"device_name": "Some CPU", "driver": "1.2", "allocator": "kept"}


def test_kernels_and_host_times_are_those_of_a_gpu():
    made = row(launches=[turns([1.0] * 3, [1.0] * 3, host_ms=(0.2, 0.9, 0.4))], kernels=(0.75, 12))
    assert (made.kernels_ms, made.kernels, made.host_ms) == (0.75, 12, 0.4)
    assert (row().kernels_ms, row().kernels, row().host_ms) == (None, None, None)


def test_the_state_of_the_machine_is_that_of_all_turns():
    blocks = [Block({"forward": [1.0, 1.0]}, 1, page_faults=faults, other_load=load)
              for faults, load in ((10.0, 0.5), (20.0, None))]  # fmt: skip
    made = row("b", launches=[Launch({"b": blocks})])
    assert (made.disturbed, made.page_faults, made.other_load) == (2, 15.0, 0.5)


def test_load_that_is_not_known_is_none():
    assert row().other_load is None


STEADY = steadily(2.0)


def test_a_good_measurement_needs_no_caution():
    made = row(launches=STEADY)
    assert (made.notes, made.precise, made.stable) == ([], True, True)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"ready": [replace(READY, note="not compared")]}, "not compared"),
        (
            {"ready": [READY, replace(READY, stable=False)]},
            "its times had not settled when the warm-up ended: raise --warmup",
        ),
        (
            {"launches": steadily(2.0, other_load=0.26)},
            "0.3 cores were busy with something else",
        ),
        ({"launches": steadily(*[2.0] * 9, disturbed=1)}, "10 of 90 runs were interrupted"),
        (
            {"launches": steadily(2.0, page_faults=101.0)},
            "each run was given 101 pages anew, which takes time",
        ),
        ({"clocks": [{"throttled": False}, {"throttled": True}]}, "the GPU was throttled"),
        (
            {"counted": replace(COUNTED, uncounted=("aten::foo", "aten::bar"))},
            "no counting rule for aten::foo, aten::bar: no MACs",
        ),
        (
            {"ready": [replace(READY, whole_graph=False)]},
            "torch.compile could not take it in one piece: parts run in eager mode between them",
        ),
    ],
)
def test_a_caution_has_its_reason(changed, expected):
    assert row(**{"launches": STEADY} | changed).notes == [expected]


@pytest.mark.parametrize(
    "changed",
    [
        {"launches": steadily(2.0, other_load=0.25)},
        {"launches": steadily(*[2.0] * 10, disturbed=1)},
        {"launches": steadily(2.0, page_faults=100.0)},
        {"clocks": [{"throttled": False}, {"cpu_mhz": 3000}, {}]},
        {"ready": [replace(READY, whole_graph=True)]},
    ],
)
def test_a_little_is_no_reason(changed):
    assert row(**{"launches": STEADY} | changed).notes == []


UNSTEADY = turns(*[[1.0], [1.0], [3.0], [3.0]] * 3)


def test_an_imprecise_time_is_no_reason_to_go_on():
    made = row("b", launches=[UNSTEADY] * 5)
    assert made.precise is False
    assert made.notes == []


def test_a_ratio_counts_where_there_is_one():
    assert row().precise  # its times differ by far more
    assert row("b").precise is False


def test_an_imprecise_ratio_is_noted():
    launch = Launch({**UNSTEADY.blocks, "b": turns(*[[1.0]] * 12).blocks["b"]})
    made = row(launches=[launch] * 5, summary=replace(SUMMARY, plan=Plan(precision=0.025)))
    half = 100 * (made.ratio_high - made.ratio_low) / 2 / made.ratio
    told = f"the ratio is known to {half:.2g} %, not to 2.5 %: raise --budget or --launches"
    assert made.notes == [told]


def test_few_launches_are_noted():
    (told,) = row(launches=steadily(2.0)[:4]).notes[-1:]
    assert told.startswith("processes were started 4 times: the interval leaves out a part")


def test_too_few_rounds_are_noted():
    told = row(launches=steadily(2.0)[:4]).notes
    assert told[0] == "too few rounds for an interval: raise --budget"


def test_what_is_not_counted_has_no_macs_and_no_rate():
    made = row(counted=replace(COUNTED, uncounted=("aten::foo",)))
    assert (made.macs, made.gflops_s, made.intensity) == (None, None, None)


def test_what_does_not_fit_has_a_reason_and_no_number():
    made = SUMMARY.row("a", COUNTED, found(failure="CUDA out of memory"), LAUNCHES)
    assert (made.status, made.notes) == ("out of memory", ["CUDA out of memory"])
    measured = [each.name for each in fields(LatencyRow) if each.default is None]
    assert {name: getattr(made, name) for name in measured} == dict.fromkeys(measured)
    assert (made.macs, made.params, made.samples_ms) == (4_000_000, 7, {})


def test_a_machine_is_saved_with_what_its_ceilings_are_of():
    condition = replace(SUMMARY.condition, dtype="bf16")
    saved = MACHINE.as_row(condition)
    assert (saved["device"], saved["threads"], saved["dtype"]) == ("cpu", 2, "bf16")
    assert saved.items() >= {**MACHINE.device, **MACHINE.ceilings}.items()


X = torch.randn(1, 3, 5, 4)
NETS = {
    "a": nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()),
    "b": nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU()),
}


def layers(summary=SUMMARY, **changed):
    timed = {
        "a": Found(layers=[{"": 0.5, "0": 2.0, "1": ms} for ms in (0.25, 9.0, 0.125)]),
        "b": Found(layers=[{"": 1.0, "0": 4.0, "1": 2.0}], **changed),
    }
    counts = {name: count(net.eval(), X) for name, net in NETS.items()}
    return list(summary.layers("a", counts, timed))


def test_layers_cost_what_the_batch_costs():
    first = layers()[0]
    assert (first.layer, first.macs, first.against_macs) == ("0", 4 * 20 * 6, 4 * 20 * 18)
    assert (first.batch, first.group, first.against) == (4, "g1", "b")


def test_layers_have_the_times_of_both():
    assert [(each.layer, each.ms, each.against_ms) for each in layers()] == [
        ("0", 2.0, 4.0),
        (REST, 0.75, 3.0),
    ]


@pytest.mark.parametrize(("against", "failure"), [("b", "out of memory"), (None, None)])
def test_layers_alone_have_no_other_side(against, failure):
    made = layers(replace(SUMMARY, against=against), failure=failure)
    assert [(each.ms, each.against_ms, each.against_macs) for each in made] == [
        (2.0, None, None),
        (0.75, None, None),
    ]


def test_kinds_and_layers_that_differ_most_are_told_first():
    # 2 instead of 4 ms, and 0.75 instead of 3
    told = slowest(layers())
    assert told.startswith("-4.2 ms beside b layer by layer. ")
    assert f"By kind: {REST} -2.2, Conv2d -2. " in told
    assert slowest(layers(), shown=1).endswith(f"Largest: {REST} -2.2")
