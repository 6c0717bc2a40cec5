"""The benchmark of the operators runs, and compares only what computes the same."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from ctxbench.ops import OPS

PROGRAM = Path(__file__).parent.parent / "benchmarks/operators.py"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    subprocess.run(
        [sys.executable, PROGRAM, "--small", "--runs", "1", "--out", out],
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
