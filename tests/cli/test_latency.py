"""`ctxbench latency` as a user meets it."""

import csv
import io
import json

import pytest

from ctxbench.latency import compare
from ctxbench.records import read_rows
from tests.latency.nets import CONV, MACHINE, Inline, spec

QUICK = ("--launches", "1", "--budget", "0.05", "--warmup", "0.02", "--threads", "1")
SMALL = ("--image-size", "16", *QUICK)


@pytest.fixture
def latency(run, monkeypatch):
    """Run the command with networks that need no process, on a machine that is known."""
    monkeypatch.setattr(compare, "Worker", Inline)
    monkeypatch.setattr(compare, "know_machine", lambda condition: MACHINE)
    return lambda *words: run("latency", *words)


@pytest.fixture
def saved(tmp_path):
    return lambda kind: read_rows(kind, raw=tmp_path / "results/raw").rows


def test_two_networks_in_processes_of_their_own(run, saved):
    code, out, err = run("latency", CONV, "--against", "op/coconv:channels=8", *SMALL)
    assert code == 0, err
    head, _, *lines = out.splitlines()
    assert head.split()[0] == "network"
    assert [line.split()[0] for line in lines] == [CONV, "op/coconv:channels=8"]
    rows, ceilings = saved("latency"), saved("ceilings")
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert rows[0]["ratio"] > 0
    assert rows[0]["roof_gflops_s"] == ceilings[0]["gflops_s"] > 0


def test_a_table_has_the_ratios_to_the_other(latency):
    code, out, _ = latency("coresnet_tiny", "--against", "resnet_tiny", *QUICK)
    assert code == 0
    head, _, mine, other = out.splitlines()
    assert "x latency" in head
    assert mine.startswith("coresnet_tiny ")
    assert other.startswith("resnet_tiny ")
    assert len(other.split()) < len(mine.split())


def test_notes_say_what_was_measured_on_what(latency):
    _, _, err = latency(CONV, "--batch", "3", *SMALL)
    assert err.startswith("a processor")
    for word in ("inference", "batch 3", "fp32"):
        assert word in err.splitlines()[0]


def test_quiet_has_no_notes(latency):
    assert latency(CONV, "--quiet", *SMALL)[2] == ""


def test_json_holds_rows_without_their_samples(latency, saved):
    _, out, _ = latency(CONV, "--against", "op/conv:channels=4", "--format", "json", *SMALL)
    mine, _ = json.loads(out)
    assert mine["macs"] == 16 * 16 * 9 * 8 * 8
    assert mine["macs_ratio"] == pytest.approx(4)
    assert "samples_ms" not in mine
    assert saved("latency")[0]["samples_ms"]["forward"]


def test_csv_can_be_read(latency):
    _, out, _ = latency(CONV, "resnet_tiny", "--format", "csv", *SMALL)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["model"] for row in rows] == [CONV, "resnet_tiny"]
    assert all(float(row["median_ms"]) > 0 for row in rows)


def test_a_sweep_is_a_group_for_each_condition(latency, saved):
    code, out, _ = latency(CONV, "--batch", "1,2", "--dtype", "fp32,bf16", *SMALL)
    assert code == 0
    assert {"batch", "dtype"} < set(out.splitlines()[0].split())
    rows = saved("latency")
    found = [(row["dtype"], row["batch"]) for row in rows]
    assert found == [("fp32", 1), ("fp32", 2), ("bf16", 1), ("bf16", 2)]
    assert len({row["group"] for row in rows}) == 4
    assert [row["dtype"] for row in saved("ceilings")] == ["fp32", "bf16"]


def test_sizes_are_those_of_the_network_or_those_given(latency, saved):
    latency("resnet_tiny", *QUICK)
    latency("resnet_tiny", "--image-size", "16,24x40", *QUICK)
    assert [row["image_size"] for row in saved("latency")] == [[32, 32], [16, 16], [24, 40]]


def test_training_shows_its_phases(latency):
    code, out, _ = latency("resnet_tiny", "--mode", "training", "--batch", "2", *QUICK)
    assert code == 0
    assert {"backward", "optimiser"} < set(out.splitlines()[0].split())


def test_layers_are_shown_with_what_is_in_none(latency, saved):
    words = ("coresnet_tiny", "--against", "resnet_tiny", "--per-layer", *QUICK)
    code, out, _ = latency(*words)
    assert code == 0
    shown = [line.split()[1] for line in out.splitlines()[2:]]
    assert shown == [row["layer"] for row in saved("latency_layers")]
    assert shown[-1] == "(rest)"
    assert len(saved("latency")) == 2


def test_the_largest_batch(latency, saved):
    code, _, _ = latency(spec("up_to", largest=3), "--batch", "max", *SMALL)
    (row,) = saved("latency")
    assert (code, row["batch"], row["failing_batch"]) == (0, 3, 4)


def test_a_network_that_does_not_fit_is_a_row(latency, saved):
    code, out, err = latency(spec("up_to", largest=1), CONV, "--batch", "2", *SMALL)
    assert code == 0
    assert "out of memory" in out.splitlines()[2]
    assert "can't allocate memory" in err
    assert [row["status"] for row in saved("latency")] == ["out of memory", "ok"]


def test_options_reach_the_condition(latency, saved):
    latency(spec("slow"), "--channels-last", "--cold-cache", "--seed", "7", *SMALL)
    (row,) = saved("latency")
    assert (row["layout"], row["cache"], row["threads"]) == ("channels_last", "cold", 1)
    assert row["stamp"]["seed"] == 7


MISTAKES = [
    (("resnet_tin",), "Unknown network 'resnet_tin'. Did you mean 'resnet_tiny'?"),
    ((CONV, "--against", "resnet_tin"), "Unknown network 'resnet_tin'."),
    ((CONV, "--batch", "two"), "--batch 'two' is no batch."),
    ((CONV, "--batch", "0"), "--batch '0' is no batch."),
    ((CONV, "--batch", "1,,2"), "has an empty place between its commas"),
    ((CONV, "--image-size", "big"), "--image-size 'big' is no size."),
    ((CONV, "--dtype", "fp64"), "--dtype 'fp64' is not known."),
    ((CONV, "--backend", "tensorrt"), "--backend 'tensorrt' is not known."),
    ((CONV, "--backend", "cudagraph", "--device", "cpu"), "--backend cudagraph replays"),
    ((CONV, "--dtype", "tf32", "--device", "cpu"), "--dtype tf32 is rounding"),
    ((CONV, "--device", "tpu"), "--device 'tpu' is not known."),
    ((CONV, "--per-layer", "--mode", "training"), "--per-layer times the modules of eager"),
    ((CONV, "--batch", "max", "--backend", "compiled"), "--batch max is found in eager mode."),
    ((CONV, "--against", CONV), "is compared with itself."),
    ((CONV, "--batch", "max", "--per-layer"), "--batch max times whole networks."),
    ((CONV, "--batch", "99999999999999999999"), "is no batch."),
    ((CONV, "--out", "/proc/nowhere"), "Cannot write to /proc/nowhere/raw"),
    (("ssd300_resnet50", "--image-size", "32"), "cannot run on inputs (1, 3, 32, 32)"),
    (("overlock_tiny:reparam=true", "--mode", "training"), "is folded for inference."),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(run, monkeypatch, words, message):
    for name in ("Worker", "know_machine"):
        monkeypatch.setattr(compare, name, lambda *_, **__: pytest.fail("measured"))
    code, out, err = run("latency", *words)
    assert (code, out) == (2, "")
    assert err.startswith("ctxbench: ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_mistake_that_shows_late_loses_no_row(latency, saved, monkeypatch):
    call = Inline.call

    def failing(self, name, **given):
        if self.bench._condition.batch == 2:
            raise compare.LatencyError("It went wrong.")
        return call(self, name, **given)

    monkeypatch.setattr(Inline, "call", failing)
    code, out, err = latency(CONV, "--batch", "1,2", *SMALL)
    assert (code, err.splitlines()[-1]) == (2, "ctxbench: It went wrong.")
    assert out.splitlines()[2].startswith(CONV)  # what was measured is shown
    assert [row["batch"] for row in saved("latency")] == [1]


@pytest.mark.parametrize(
    "words", [(), (CONV, "--mode", "test"), (CONV, "--launches", "0"), (CONV, "--budget", "0")]
)
def test_wrong_usage_is_exit_code_2(run, words):
    assert run("latency", *words)[0] == 2


def test_help_has_an_example(run):
    assert "Example: ctxbench latency " in run("latency", "--help")[1]
