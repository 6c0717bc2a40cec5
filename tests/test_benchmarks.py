"""The benchmarks run, and compare only what computes the same."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from ctxbench.kernels import KERNELS
from ctxbench.latency.subject import check_folding
from ctxbench.models import resolve
from ctxbench.ops import OPS

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    words = ("--small", "--runs", "1", "--batches", "2")
    return _rows([sys.executable, BENCHMARKS / "kernels.py"], *words, kind="operators", out=out)


def test_every_case_has_each_backend_that_runs_here_and_two_tasks(rows):
    found = defaultdict(set)
    for row in rows:
        found[row["operator"], row["case"]].add((row["form"], row["task"]))
    for (operator, _), forms in found.items():
        backends = [name for name in KERNELS[operator.split()[0]] if name != "triton"]
        wanted = (*backends, "obvious", "plain")
        assert forms == {(form, task) for form in wanted for task in ("forward", "training")}


def test_every_form_of_an_operator_computes_the_same(rows):
    compared = [row for row in rows if row["form"] != "plain"]
    assert max(row["max_difference"] for row in compared) < 1e-5
    assert all(row["max_difference"] is None for row in rows if row["form"] == "plain")


def test_the_ratios_are_those_to_the_obvious_and_to_the_plain_form(rows):
    for form, name in (("obvious", "ratio_to_obvious"), ("plain", "ratio_to_plain")):
        first = {(row["operator"], row["case"], row["task"]): row for row in reversed(rows)
                 if row["form"] == form}  # fmt: skip
        assert {row[name] for row in first.values()} == {1.0}


def test_the_share_of_the_roof_is_that_of_the_longer_of_products_and_copies(rows, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import kernels

    ceilings = {"gflops_s": 100.0, "gb_s": 10.0}
    assert kernels._roof_ms((50_000_000, 1), "forward", ceilings) == pytest.approx(1)
    assert kernels._roof_ms((1, 10_000_000), "training", ceilings) == pytest.approx(3)
    assert all(0 < row["roof_share"] < 1 for row in rows)


def test_every_operator_is_measured(rows):
    published = {name for name, spec in OPS.items() if spec.source != "an example"}
    assert {row["operator"].split()[0] for row in rows} == published


def _rows(program, *words, kind, out):
    subprocess.run(
        [*program, *words, "--out", out],
        check=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable},
    )  # fmt: skip
    return [json.loads(line) for line in (out / f"raw/{kind}.jsonl").read_text().splitlines()]


def test_the_families_are_measured_from_the_source_tree_alone(tmp_path):
    words = ("--small", "--device", "cpu", "--launches", "1", "--budget", "0.1")
    rows = _rows([BENCHMARKS / "on_gpu.sh"], *words, kind="latency", out=tmp_path)
    assert [row["status"] for row in rows] == ["ok"] * 4
    assert {row["mode"] for row in rows} == {"inference", "training"}


def test_every_network_of_the_families_can_be_run_as_asked(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import families

    for plans in (families.ON_GPU, families.ON_CPU, families.SMALL):
        for group, condition in families.conditions(plans, "cpu", 1):
            for spec in (*group.specs, group.against):
                resolve(spec)
                check_folding(spec, condition)


def test_two_clocks_are_compared(tmp_path):
    words = ("--model", "resnet_tiny", "--runs", "3")
    program = [sys.executable, BENCHMARKS / "timers.py"]
    (row,) = _rows(program, *words, kind="timers", out=tmp_path)
    assert row["ratio"] == pytest.approx(1, abs=0.5)


def test_our_class_activation_maps_are_those_of_grad_cam_and_torch_cam(tmp_path):
    pytest.importorskip("torchcam")
    words = ("--models", "resnet_tiny:width=4", "--batches", "2", "--image", "32", "--runs", "1")
    program = [sys.executable, BENCHMARKS / "gradcam.py"]
    (row,) = _rows(program, *words, kind="gradcam_speed", out=tmp_path)
    assert max(row["grad_cam_difference"], row["torch_cam_difference"]) < 1e-4
    assert row["ours_image_ms"] > 0


def test_our_training_and_a_bare_loop_end_with_the_same_weights(tmp_path):
    words = ("--part", "steps", "--small", "--models", "coresnet_tiny", "--runs", "3")
    program = [sys.executable, BENCHMARKS / "training.py"]
    (row,) = _rows(program, *words, "--launches", "2", kind="training", out=tmp_path)
    assert row["weights_difference"] == 0
    assert [len(launch) for key in ("ours_s", "bare_s") for launch in row[key]] == [3] * 4
    assert row["speed_low"] <= row["speed_ratio"] <= row["speed_high"]
    assert row["speed_ratio"] == pytest.approx(row["ours_images_s"] / row["bare_images_s"], rel=0.5)


def test_an_experiment_is_timed_with_one_trial_at_a_time_and_with_two(tmp_path):
    words = ("--part", "jobs", "--small", "--turns", "1")
    program = [sys.executable, BENCHMARKS / "training.py"]
    (row,) = _rows(program, *words, kind="training", out=tmp_path)
    (alone,), (together,) = row["alone"], row["together"]
    assert row["speedup"] == pytest.approx(alone["wall_s"] / together["wall_s"])
    assert len(alone["training_s"]) == len(together["training_s"]) == row["trials"] == 2
    # the parts are the whole, but for the end of the command
    parts = [*alone["training_s"], *alone["besides_s"], alone["first_s"]]
    assert 0 < sum(parts) < alone["wall_s"]
