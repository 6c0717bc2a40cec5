"""The benchmark of the operators runs, and compares only what computes the same."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from ctxbench.latency.subject import check_folding
from ctxbench.models import resolve
from ctxbench.ops import OPS

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    subprocess.run(
        [sys.executable, BENCHMARKS / "operators.py", "--small", "--runs", "1", "--out", out],
        check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return [json.loads(line) for line in (out / "raw/operators.jsonl").read_text().splitlines()]


def test_every_case_has_three_forms_and_two_tasks(rows):
    found = defaultdict(set)
    for row in rows:
        found[row["operator"], row["case"]].add((row["form"], row["task"]))
    forms = ("ours", "obvious", "plain")
    assert list(found.values()) == [
        {(form, task) for form in forms for task in ("forward", "training")}
    ] * len(found)


def test_every_form_of_an_operator_computes_the_same(rows):
    compared = [row for row in rows if row["form"] != "plain"]
    assert max(row["max_difference"] for row in compared) < 1e-5
    assert all(row["max_difference"] is None for row in rows if row["form"] == "plain")


def test_the_obvious_form_is_what_the_others_are_compared_with(rows):
    first = {(row["operator"], row["case"], row["task"]): row for row in reversed(rows)
             if row["form"] == "obvious"}  # fmt: skip
    assert {row["ratio_to_obvious"] for row in first.values()} == {1.0}


def test_every_operator_is_measured(rows):
    assert {row["operator"].split()[0] for row in rows} == set(OPS)


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
