import csv
import io
from itertools import pairwise

import pytest

from ctxbench.report._places import beside, spread
from ctxbench.report.tables import context_cost, context_time, latency, text
from ctxbench.report.timings import label, pair_labels, with_interval, words
from ctxbench.style import wrap
from tests.report.latency_rows import CPU, GPU, LATENCY, timing


def read_csv(frame):
    return list(csv.DictReader(io.StringIO(text(frame, "csv"))))


def test_the_latest_time_under_each_condition_wins():
    rows = [timing("plain", ms=1.0), timing("plain", ms=2.0, batch=8), timing("plain", ms=3.0)]
    assert latency(rows)[["batch", "median_ms"]].values.tolist() == [[4, 3.0], [8, 2.0]]


@pytest.mark.parametrize(
    "change",
    [{"mode": "training"}, {"batch": 8}, {"image_size": [32, 64]}, {"dtype": "bf16"},
     {"layout": "channels_last"}, {"backend": "compiled"}, {"cache": "cold"}, {"threads": 1},
     {"device_name": "Abacus 4000"}, {"against": "wide"}],
)  # fmt: skip
def test_another_condition_is_another_row(change):
    assert len(latency([timing("plain"), timing("plain", **change)])) == 2


def test_the_threads_of_the_host_do_not_tell_times_on_a_gpu_apart():
    rows = [timing("plain", **GPU), timing("plain", **{**GPU, "threads": 1})]
    assert len(latency(rows)) == 1


def test_devices_stand_below_each_other_cpus_first_by_threads():
    many = {**CPU, "threads": 16}
    rows = [timing("plain", **GPU), timing("plain", **many), timing("plain"), *LATENCY]
    assert list(dict.fromkeys(latency(rows)["place"])) == [
        "Abacus 3000, 2 threads", "Abacus 3000, 16 threads", "Loom X1",
    ]  # fmt: skip


def test_what_ran_out_of_memory_has_a_row_without_numbers():
    row = read_csv(latency(LATENCY))[-1]
    assert row["status"] == "out of memory"
    assert {row[key] for key in ("median_ms", "images_s", "ratio", "peak_mib", "bound")} == {""}


def test_an_out_of_memory_after_a_ratio_takes_the_ratio_away():
    broken = {**LATENCY[1], "status": "out of memory", "ratio": None}
    assert "context" not in context_cost([*LATENCY[:4], broken])["model"].tolist()


def test_headings_of_times_are_for_readers():
    head = text(latency(LATENCY), "md").splitlines()[0]
    assert head.startswith("| network | against | device | mode | batch | image size | dtype |")
    assert "| median (ms) | low (ms) | high (ms) | images/s | ratio | ratio low |" in head


def test_networks_stand_side_by_side_each_condition_on_a_line():
    more = timing("context", "plain", ratio=1.5, mode="training")
    table = context_time([*LATENCY, more])
    assert list(table) == ["device", "ratio of", "context / plain"]
    said = dict(zip(table["ratio of"] + table["device"], table["context / plain"], strict=True))
    assert said["MACs"] == "1.10"
    times = {line: cell for line, cell in said.items() if line.startswith("time: ")}
    assert [cell.split()[0] for cell in times.values()] == ["1.25", "1.50", "2.00"]


def test_operators_alone_make_no_table_of_networks():
    assert context_time([row for row in LATENCY if row["model"].startswith("op/")]).empty


def test_context_costs_are_ratios_to_the_baseline_networks_first():
    table = context_cost(LATENCY)
    assert table["model"].tolist() == ["context", "context", "op/mix:channels=8:levels=2"]
    first = table.iloc[0].tolist()
    assert first == [
        "context", "plain", "Abacus 3000, 2 threads",
        "inference, batch 4, 32x32, fp32, eager", 1.0, 1.1, "1.25 [1.23, 1.27]", 1.5,
    ]  # fmt: skip


def test_the_baseline_of_a_ratio_is_that_of_the_same_turns():
    other = timing("plain", group="other", macs=1)
    assert context_cost([*LATENCY[:2], other])["macs_ratio"].tolist() == [1.1]


def test_a_ratio_without_its_baseline_or_interval_is_shown_without():
    alone = timing("context", "plain", ratio=1.25, ratio_low=None, ratio_high=None)
    (row,) = read_csv(context_cost([alone]))
    assert (row["params_ratio"], row["latency_ratio"]) == ("", "1.25")


@pytest.mark.parametrize(
    ("ratio", "low", "high", "shown"),
    [
        (1.2345, 1.19, 1.2712, "1.23 [1.19, 1.27]"),
        (0.981, 0.9, 1.04, "0.98 [0.90, 1.04]"),
        (0.0512, 0.05, 0.06, "0.051 [0.050, 0.060]"),
        (38.21, 37.0, 39.96, "38.2 [37.0, 40.0]"),
        (1234.5, 1200.0, 1300.0, "1234 [1200, 1300]"),
        (2.0, None, None, "2.00"),
    ],
)
def test_ratios_have_three_digits(ratio, low, high, shown):
    assert with_interval(ratio, low, high) == shown


def test_a_condition_is_said_in_words():
    row = timing("plain", layout="channels_last", backend="compiled", cache="cold")
    said = "inference, batch 4, 32x32, fp32, compiled, channels_last, cold cache"
    assert ", ".join(words(row)) == said


def test_labels_are_short_and_tell_all_pairs_apart():
    pairs = [
        ("coresnet50", "resnet50"),
        ("op/mix:channels=8:levels=2", "op/conv:channels=8"),
        ("op/gate:channels=8", "op/conv:channels=8"),
        ("op/gate:channels=8", "op/conv"),
        ("op/gate", "op/conv:channels=8"),
    ]
    assert list(pair_labels(pairs).values()) == [
        "coresnet50 / resnet50", "op/mix 8 ch, levels 2 / conv",
        "op/gate:channels=8 / op/conv:channels=8", "op/gate:channels=8 / op/conv",
        "op/gate / op/conv 8 ch",
    ]  # fmt: skip
    assert label("net:levels=2") == "net:levels=2"


def test_long_specs_are_broken_and_lose_nothing():
    spec = "torchvision/resnext50_32x4d:replace=coconv:levels=4,3,2,1:where=" + "x" * 60
    lines = wrap(spec, 30)
    assert "".join(line.strip() for line in lines) == spec
    assert max(map(len, lines)) <= 32


def test_texts_beside_points_do_not_touch():
    points = [(50.0, 50.0)] * 5 + [(52.0, 51.0)] * 5
    spots = beside(points, ["10"] * 10, (0, 0, 100, 100))
    at = [(x + dx, y + dy) for (x, y), (dx, dy) in zip(points, spots, strict=True)]
    assert all(abs(a[0] - b[0]) > 9 or abs(a[1] - b[1]) > 7 for a in at for b in at if a is not b)
    assert all(0 < x < 100 and 0 < y < 100 for x, y in at)


def test_places_are_spread_in_order_and_within_bounds():
    places = spread([0, 1, 1.5, 50, 99, 99.5], 3, 0, 100)
    assert all(b - a >= 3 - 1e-9 for a, b in pairwise(places))
    assert (places[0], places[3], places[-1]) == (0, 50, pytest.approx(100, abs=1.5))
