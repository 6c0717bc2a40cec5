import copy
import json
import math
import warnings

import pytest

from ctxbench.errors import RecordsError
from ctxbench.report.figures import FIGURES
from ctxbench.report.schema import NEEDED, fault
from ctxbench.report.sources import folder_of_rows, read
from ctxbench.report.tables import TABLES
from tests.report.ablation_rows import SMALL, SMALL_TRIALS
from tests.report.example_rows import EXAMPLES
from tests.report.latency_rows import CEILINGS, LATENCY, LAYER_TIMES
from tests.report.picture_rows import PICTURES
from tests.report.rows import CLAIMS, COSTS, COUNTING, LAYERS, OPERATORS, TRAINING, cost

TIMERS = [{"model": "plain", "batch": 1, "threads": 2, "ratio": 1.0}]
ROWS = copy.deepcopy({  # `fault` completes rows
    "claims": CLAIMS, "costs": COSTS, "layers": LAYERS, "operators": OPERATORS,
    "counting": COUNTING, "latency": LATENCY, "latency_layers": LAYER_TIMES, "timers": TIMERS,
    "training": TRAINING, "ceilings": CEILINGS, "examples": EXAMPLES[:1], "experiments": [SMALL],
    "trials": SMALL_TRIALS, **PICTURES,
})  # fmt: skip
ABSENT = object()
STRANGE = [
    ABSENT, None, True, 0, -1, 3, 0.5, "", "x", "$\\frac$", "网络", [], {}, [1], ["x"], [None],
    {"x": 1}, {"x": None}, [[]], math.nan, math.inf, 10**400,
]  # fmt: skip


def changed(kind, key, value):
    """The rows of a kind, of which the first has a key changed."""
    rows = copy.deepcopy(ROWS[kind])
    rows[0][key] = value
    if value is ABSENT:
        del rows[0][key]
    return rows


def show(kind, rows):
    """Make every table and figure that has rows of this kind, of those that can be shown."""
    kept = {**ROWS, kind: [row for row in rows if fault(kind, row) is None]}
    for made in (*TABLES.values(), *FIGURES.values()):
        kinds = (made.kind, *made.also)
        if kind not in kinds:
            continue
        of = [row for each in kinds for row in copy.deepcopy(kept[each])]
        found = made.make(of) if made in TABLES.values() else made.select(of)
        if made in FIGURES.values() and len(found):
            made.draw(found).draw_without_rendering()


@pytest.fixture(autouse=True)
def _rows_as_they_are_read():
    for kind, rows in ROWS.items():
        assert [fault(kind, row) for row in rows] == [None] * len(rows)


@pytest.mark.slow
@pytest.mark.parametrize("kind", NEEDED)
def test_no_change_of_a_key_breaks_a_table_or_figure(kind):
    for key in ROWS[kind][0].keys() - {"stamp"}:
        for value in STRANGE:
            rows = changed(kind, key, value)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Glyph .* missing")
                if fault(kind, rows[0]) is None:
                    show(kind, rows)


@pytest.mark.parametrize("kind", NEEDED)
def test_every_needed_key_is_missed(kind):
    needed = [key for key, wanted in NEEDED[kind].items() if wanted.needed]
    faults = [fault(kind, changed(kind, key, ABSENT)[0]) for key in needed]
    assert faults == [f"that lack {key!r}" for key in needed]


@pytest.mark.parametrize("kind", NEEDED)
@pytest.mark.parametrize("value", [ABSENT, None])
def test_what_may_be_absent_may_be_absent_from_every_table(kind, value):
    for key in (key for key, wanted in NEEDED[kind].items() if not wanted.needed):
        rows = changed(kind, key, value)
        rows = [row for row in rows if fault(kind, row) is None]
        for table in (table for table in TABLES.values() if table.kind == kind):
            table.make([*rows, *(row for each in table.also for row in ROWS[each])])


def at(hour, **changes):
    return cost("net", 1, None) | {"stamp": {"time": f"2026-01-01T{hour:02}:00:00"}} | changes


def test_the_same_row_in_two_folders_counts_once(tmp_path, save_rows):
    for folder in "ab":
        save_rows(tmp_path / folder, "costs", [at(1)])
    found = read([tmp_path / "a", tmp_path / "b"], ["costs"])
    assert [origin.path.parent.name for origin in found.origins] == ["a"]


def test_rows_of_two_folders_come_in_the_order_of_their_making(tmp_path, save_rows):
    save_rows(tmp_path / "a", "costs", [at(1, params=1), at(3, params=3)])
    save_rows(tmp_path / "b", "costs", [at(2, params=2)])
    found = read([tmp_path / "a", tmp_path / "b"], ["costs"])
    assert [row["params"] for row in found.rows["costs"]] == [1, 2, 3]
    assert [origin.line for origin in found.origins] == [1, 1, 2]


@pytest.mark.parametrize(
    ("time", "order"),
    [("2026-01-01T12:00:00+09:00", [1, 2]),  # 03:00 in UTC
     ("2026-01-01T00:00:00-09:00", [2, 1]),
     ("2026-01-01T05:00:00Z", [2, 1]),
     (None, [1, 2]), ("", [1, 2]), ("yesterday", [1, 2])],
)  # fmt: skip
def test_times_are_put_in_order_by_what_they_mean(time, order, tmp_path, save_rows):
    save_rows(tmp_path / "a", "costs", [at(1, params=1, stamp={"time": time})])
    save_rows(tmp_path / "b", "costs", [at(4, params=2)])
    found = read([tmp_path / "a", tmp_path / "b"], ["costs"])
    assert [row["params"] for row in found.rows["costs"]] == order


def test_a_row_of_an_unknown_time_stays_behind_the_one_before_it(tmp_path, save_rows):
    save_rows(tmp_path / "a", "costs", [at(3, params=1), at(3, params=2, stamp={})])
    save_rows(tmp_path / "b", "costs", [at(2, params=3)])
    found = read([tmp_path / "a", tmp_path / "b"], ["costs"])
    assert [row["params"] for row in found.rows["costs"]] == [3, 1, 2]


def test_a_folder_that_is_named_twice_is_read_once(tmp_path):
    (tmp_path / "costs.jsonl").write_text("{torn\n")
    assert len(read([tmp_path, tmp_path / "." / "../" / tmp_path.name], ["costs"]).notes) == 1


def test_rows_that_lack_a_key_are_noted_with_their_lines(tmp_path, save_rows):
    lacking = {key: value for key, value in at(1).items() if key != "macs"}
    save_rows(tmp_path, "costs", [at(1), *[lacking] * 10, at(1, params="3")])
    assert read([tmp_path], ["costs"]).notes == [
        f"{tmp_path}/costs.jsonl: skipped 10 rows that lack 'macs' "
        "(lines 2, 3, 4, 5, 6, 7, 8, 9 and 2 more).",
        f"{tmp_path}/costs.jsonl: skipped a row whose 'params' is no number from 0 on (line 12).",
    ]


def test_garbage_is_counted_in_one_note(tmp_path):
    deep = b"[" * 100_000
    (tmp_path / "costs.jsonl").write_bytes(b"\x00\xff\n{\n" + deep + b"\n")
    (note,) = read([tmp_path], ["costs"]).notes
    assert "skipped 3 lines, which are no complete rows (1, 2, 3)." in note


@pytest.mark.parametrize("stamp", ["text", 3, {"machine": 3, "time": None}, {"time": [1]}])
def test_a_stamp_of_another_form_harms_no_row(stamp, tmp_path, save_rows):
    save_rows(tmp_path, "operators", [{**OPERATORS[0], "stamp": stamp}])
    found = read([tmp_path], ["operators"])
    assert len(TABLES["operators"].make(found.rows["operators"])) == 1


def test_half_a_character_is_written_as_a_question_mark(tmp_path):
    (tmp_path / "costs.jsonl").write_text(json.dumps(at(1, model="a\udcff")) + "\n")
    assert read([tmp_path], ["costs"]).rows["costs"][0]["model"] == "a?"


def test_a_folder_of_results_or_its_raw_is_found(tmp_path, save_rows):
    save_rows(tmp_path / "raw", "costs", [at(1)])
    assert folder_of_rows(tmp_path, ["costs"]) == tmp_path / "raw"
    assert folder_of_rows(tmp_path / "raw", ["costs"]) == tmp_path / "raw"


@pytest.mark.parametrize(("name", "match"), [("absent", "no such folder"), (".", "no rows in it")])
def test_a_folder_without_rows_is_an_error(name, match, tmp_path):
    with pytest.raises(RecordsError, match=match):
        folder_of_rows(tmp_path / name, ["costs"])
