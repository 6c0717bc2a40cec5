"""Rows as text, in every form."""

import csv
import io
import json

import pytest

from ctxbench.render import render, show

ROWS = [
    {"model": "a_b", "macs": 1234567, "share": 0.123456, "shape": (1, 3, 8, 9), "ok": True},
    {"model": "c|d", "macs": None, "share": None, "shape": [2], "ok": False},
]
COLUMNS = {"model": "network", "macs": "MACs", "share": "share (%)", "shape": "input", "ok": "ok"}


def test_table_is_aligned_and_numbers_stand_right():
    lines = render(ROWS, COLUMNS, "table").splitlines()
    assert lines[0] == "network       MACs  share (%)  input    ok"
    assert lines[2] == "a_b      1,234,567     0.1235  1x3x8x9  yes"
    assert lines[3] == "c|d                            2        no"


def test_csv_keeps_raw_values():
    rows = list(csv.DictReader(io.StringIO(render(ROWS, COLUMNS, "csv"))))
    assert rows[0] == {
        "model": "a_b", "macs": "1234567", "share": "0.123456", "shape": "1x3x8x9", "ok": "True",
    }  # fmt: skip


def test_json_holds_whole_rows():
    assert json.loads(render([{"x": 1, "hidden": (2, 3)}], {"x": "x"}, "json")) == [
        {"x": 1, "hidden": [2, 3]}
    ]


def test_markdown_escapes_bars():
    lines = render(ROWS, COLUMNS, "md").splitlines()
    assert lines[1] == "| --- | ---: | ---: | --- | --- |"
    assert lines[3].startswith(r"| c\|d |")


def test_latex_is_booktabs_and_escaped():
    text = render(ROWS, COLUMNS, "latex")
    assert r"a\_b & 1,234,567" in text
    assert r"share (\%)" in text
    assert [line for line in text.splitlines() if line.startswith("\\")] == [
        r"\begin{tabular}{lrrll}", r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["table", "csv", "md", "latex"])
def test_no_rows_is_a_heading_alone(form):
    assert "MACs" in render([], COLUMNS, form) or "macs" in render([], COLUMNS, form)


@pytest.mark.parametrize("form", ["table", "md", "latex"])
def test_a_message_of_several_lines_stays_in_its_cell(form):
    (line,) = (
        line for line in render([{"a": "out of\nmemory\n"}], {"a": "A"}, form).splitlines()
        if "out" in line
    )  # fmt: skip
    assert "out of memory" in line


def test_latex_keeps_arrows_bars_and_brackets():
    (line,) = (
        line for line in render([{"a": "[3->4] <x>|"}], {"a": "A"}, "latex").splitlines()
        if "x" in line and "tabular" not in line
    )  # fmt: skip
    assert line == r"{}[3-\textgreater{}4] \textless{}x\textgreater{}\textbar{} \\"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "yes"),
        (12345, "12,345"),
        (1.5e-7, "1.5e-07"),
        ((3, 1024, 7), "3x1024x7"),
        (("stage 1", "stage 2"), "stage 1, stage 2"),
        ((8, 5, None), "8, 5, -"),
        ((("cat", "dog"), ("dog",)), "cat, dog; dog"),
    ],
)
def test_cells(value, text):
    assert show(value) == text
