"""Rows survive crashes and company."""

import json
import multiprocessing

import pytest

from ctxbench.errors import RecordsError
from ctxbench.records import append_rows, counting, latest, read_rows


def test_rows_come_back_in_order_and_stamped(tmp_path):
    append_rows("costs", [{"model": "a", "macs": 4_089_184_256}, {"model": "b"}], raw=tmp_path)
    append_rows("costs", [{"model": "c"}], raw=tmp_path, seed=7)
    rows = read_rows("costs", raw=tmp_path).rows
    assert [row["model"] for row in rows] == ["a", "b", "c"]
    assert rows[0]["macs"] == 4_089_184_256
    assert [row["stamp"]["seed"] for row in rows] == [None, None, 7]
    stamp = rows[0]["stamp"]
    assert set(stamp) == {"time", "command", "seed", "commit", "versions", "machine"}
    assert {"python", "torch", "ctxbench"} <= set(stamp["versions"])
    assert stamp["machine"]["cores"] >= 1


@pytest.mark.parametrize("torn", [b'{"model": "b", "ma', b"\xff\xfe", b"[1, 2]", b"3"])
def test_a_torn_line_is_skipped_said_and_does_not_harm_the_next(torn, tmp_path):
    path = append_rows("costs", [{"model": "a"}], raw=tmp_path)
    with path.open("ab") as file:
        file.write(torn)
    append_rows("costs", [{"model": "c"}], raw=tmp_path)
    found = read_rows("costs", raw=tmp_path)
    assert [row["model"] for row in found.rows] == ["a", "c"]
    assert found.notes == [f"{path}: skipped line 2, which is no complete row."]


def _append_many(raw, writer):
    for number in range(50):
        append_rows("costs", [{"writer": writer, "number": number, "pad": "x" * 9000}], raw=raw)


def test_processes_that_append_together_lose_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_many, args=(tmp_path, w)) for w in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = read_rows("costs", raw=tmp_path)
    assert found.notes == []
    assert sorted((row["writer"], row["number"]) for row in found.rows) == [
        (writer, number) for writer in range(3) for number in range(50)
    ]


def test_no_file_is_no_rows(tmp_path):
    assert read_rows("costs", raw=tmp_path / "absent").rows == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordsError, match=r"Cannot append to .*file/raw/costs.jsonl.*--out"):
        append_rows("costs", [{}], raw=tmp_path / "file" / "raw")


def test_the_latest_row_of_each_key_is_kept_in_first_order():
    rows = [{"a": 1, "b": [2], "v": 0}, {"a": 2, "b": [2], "v": 1}, {"a": 1, "b": [2], "v": 2}]
    assert [row["v"] for row in latest(rows, "a", "b")] == [2, 1]


def test_a_row_is_one_line_of_json(tmp_path):
    path = append_rows("costs", [{"text": "two\nlines", "shape": (1, 3)}], raw=tmp_path)
    (line,) = path.read_text().splitlines()
    assert json.loads(line)["shape"] == [1, 3]


def test_a_success_counts_whatever_comes_of_its_trial_later():
    told = [
        ("a", "failed"),
        ("a", "ok"),
        ("a", "failed"),
        ("b", "ok"),
        ("b", "ok"),
        ("c", "failed"),
    ]
    rows = [{"trial": trial, "status": told, "v": v} for v, (trial, told) in enumerate(told)]
    assert {trial: row["v"] for trial, row in counting(rows).items()} == {"a": 1, "b": 4, "c": 5}
