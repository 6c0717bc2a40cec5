import csv
import io

import pytest

from ctxbench.report.tables import (
    TABLES,
    claims,
    costs,
    counting,
    headline,
    operators,
    text,
    training,
    training_jobs,
    verdicts,
)
from tests.report.rows import CLAIMS, COSTS, COUNTING, OPERATORS, TRAINING, cost, counted


def read_csv(frame):
    return list(csv.DictReader(io.StringIO(text(frame, "csv"))))


def test_the_latest_cost_of_each_input_shape_wins():
    larger = cost("wide", 12, None, shape=(1, 3, 16, 16))
    table = costs([*COSTS, larger, cost("wide", 13, 130)])
    wide = table[table["model"] == "wide"]
    assert list(wide["params"]) == [13, 12]
    assert list(wide["input_shape"]) == [[1, 3, 8, 8], [1, 3, 16, 16]]


def test_the_latest_verdict_on_a_claim_wins():
    again = counted("Plain", "plain", "GFLOPs", "2.00", "2.001", "reproduced")
    table = claims([*CLAIMS, again])
    assert len(table) == len(CLAIMS)
    assert table.loc[1, ["ours", "verdict"]].tolist() == ["2.001", "reproduced"]


def test_the_latest_time_of_each_counter_wins():
    table = counting([*COUNTING, {**COUNTING[0], "median_s": 0.25}])
    assert table["median_s"].tolist() == [0.25, 0.7]


def test_the_latest_time_of_each_form_and_task_wins():
    table = operators([*OPERATORS, {**OPERATORS[0], "median_ms": 0.25}])
    assert table["median_ms"].tolist() == [0.25, 2.5, 2.5, 2.5]


def test_our_step_and_trials_at_a_time_have_a_table_each():
    assert training(TRAINING)["ours_images_s"].tolist() == [990.0]
    assert training_jobs(TRAINING)["together_s"].tolist() == [21.0]


def test_the_latest_training_of_each_network_and_size_wins():
    steps, jobs = TRAINING
    other = {**steps, "threads": 2}
    table = training([*TRAINING, other, {**steps, "speed_ratio": 0.5}])
    assert table["speed_ratio"].tolist() == [0.5, 0.99]
    table = training_jobs([*TRAINING, {**jobs, "jobs": 4}, {**jobs, "speedup": 1.5}])
    assert table["speedup"].tolist() == [1.5, 1.9]


def test_integers_stay_exact_beside_empty_cells():
    plain, wide = read_csv(costs(COSTS))
    assert plain["params"] == "9007199254740993"  # 2**53 + 1: no float holds it
    assert (plain["torch_macs"], wide["torch_macs"]) == ("7", "")
    assert read_csv(counting(COUNTING))[0]["macs"] == "12345678901"


def test_costs_hold_the_conventions_and_say_what_was_not_counted():
    partly = cost("odd", 1, None, uncounted=["aten::fft", "aten::sort"])
    (row,) = read_csv(costs([partly]))
    assert (row["fvcore"], row["mac-bn-relu"]) == ("11", "12")
    assert row["uncounted"] == "aten::fft, aten::sort"


def test_counting_takes_whatever_columns_hold_single_values():
    table = counting([{**row, "stamp": {"commit": "abc"}} for row in COUNTING])
    assert list(table) == ["model", "counter", "median_s", "macs", "runs"]


def test_headings_are_for_readers_in_markdown_and_keys_in_csv():
    assert text(counting(COUNTING), "md").startswith("| network | counter | median (s) | MACs |")
    assert text(counting(COUNTING), "csv").startswith("model,counter,median_s,macs")


def test_verdicts_are_counted_by_what_is_claimed():
    table = verdicts(CLAIMS).set_index("metric")
    assert table["claims"].to_dict() == {
        "params (M)": 3, "GFLOPs": 3, "same cost as": 1, "after training": 1,
    }  # fmt: skip
    assert table.loc["GFLOPs", ["close", "not buildable here yet"]].tolist() == [2, 1]


def test_headline_puts_networks_with_equal_figures_into_one_row_and_leaves_out_who_claims_nothing():
    table = headline(CLAIMS)
    assert table["networks"].tolist() == ["plain, wide"]
    assert table["compared"].tolist() == ["same cost as plain: proved equal"]
    assert table.loc[0, "gflops_verdict"] == "close"


def test_headline_counts_the_settings_of_one_network():
    rows = [
        {**row, "model": f"wide:levels={levels}"}
        for levels in (1, 2)
        for row in CLAIMS
        if row["row"] == "Wide"
    ]
    assert headline(rows)["networks"].tolist() == ["wide (2 settings)"]


def test_headline_joins_the_tables_that_print_the_same_and_keeps_what_differs_apart():
    wide = [row for row in CLAIMS if row["row"] == "Wide"]
    same = [{**row, "table": "Table 4"} for row in wide]
    other = [{**row, "table": "Table 5"} for row in wide]
    other[1] = counted("Wide", "wide", "GFLOPs", "2.10", "2.010", "differs", table="Table 5")
    table = headline([*wide, *same, *other])
    assert table["table"].tolist() == ["1, 4", "5"]


@pytest.mark.parametrize("name", TABLES)
def test_no_rows_make_an_empty_table(name):
    assert TABLES[name].make([]).empty
