from ctxbench.report.findings import (
    counters,
    differences,
    operator_costs,
    operator_prices,
    verdicts_by_paper,
)
from tests.report.rows import CLAIMS, COUNTING, OPERATORS, counted


def records(frame):
    return frame.to_dict("records")


def test_only_what_missed_its_digits_is_a_difference():
    found = records(differences(CLAIMS))
    assert [(line["rows"], line["metric"], line["verdict"]) for line in found] == [
        ("Plain, Wide", "GFLOPs", "close"),
        ("Deep", "params (M)", "differs"),
    ]
    assert [line["apart (%)"] for line in found] == [0.5, 50.0]


def test_the_same_miss_in_two_tables_is_one_line():
    again = counted("Plain", "plain", "GFLOPs", "2.00", "2.010", "close", table="Table 2")
    assert records(differences([*CLAIMS, again]))[0]["table"] == "1, 2"


def test_a_claim_that_came_to_be_reproduced_is_no_difference():
    mended = counted("Deep", "deep:levels=2", "params (M)", "30.00", "30.001", "reproduced")
    assert [line["rows"] for line in records(differences([*CLAIMS, mended]))] == ["Plain, Wide"]


def test_verdicts_are_counted_by_paper_and_sum_to_its_claims():
    other = {**CLAIMS[0], "paper": "other"}
    first, second = records(verdicts_by_paper([*CLAIMS, other]))
    assert (first["paper"], first["claims"], first["reproduced"]) == ("toy", 8, 2)
    assert sum(count for key, count in first.items() if key not in ("paper", "claims")) == 8
    assert (second["paper"], second["claims"], second["reproduced"]) == ("other", 1, 1)
    assert second["close"] == 0


def test_a_verdict_of_a_later_version_is_counted_too():
    strange = {**CLAIMS[0], "verdict": "disputed"}
    assert records(verdicts_by_paper([strange]))[0]["disputed"] == 1


def operator(form, formulation="by views", **values):
    return {**OPERATORS[0], "form": form, "formulation": formulation, **values}


def test_our_backends_stand_beside_the_plain_and_the_first_obvious_one():
    forms = [
        operator("torch"),
        operator("triton", ratio_to_plain=1.0, plain_low=0.9, plain_high=1.1),
        operator("reference"),
        operator("obvious", "by copies", peak_mib=12.0),
        operator("obvious", "by loops", peak_mib=1.0),
        operator("plain", "convolution"),
    ]
    torch, triton = records(operator_costs(forms))
    assert (torch["backend"], triton["backend"]) == ("torch", "triton")
    assert torch["time / plain convolution [95 %]"] == "5.00 [4.50, 5.50]"
    assert triton["time / plain convolution [95 %]"] == "1.00 [0.90, 1.10]"
    assert torch["time / obvious formulation [95 %]"] == "0.50 [0.40, 0.60]"
    assert torch["memory / obvious formulation"] == "0.25"
    assert torch["of the roof"] == "25%"


def test_of_several_batches_the_largest_with_an_obvious_form_is_shown():
    batches = [
        operator(form, case=f"8 channels, batch {batch}", batch=batch)
        for batch, forms in ((1, "to"), (8, "to"), (128, "t"))
        for form in (["torch"] if forms == "t" else ["torch", "obvious"])
    ]
    (line,) = records(operator_costs(batches))
    assert line["case"] == "8 channels, batch 8"


def test_the_price_of_an_operator_goes_from_the_least_to_the_most_over_its_shapes():
    shapes = [
        operator(form, case=f"{width} channels, batch 4", ratio_to_plain=ratio, task=task)
        for width, ratio in ((8, 1.25), (16, 3.0))
        for form in ("torch", "obvious")
        for task in ("forward", "training")
    ]
    (line,) = records(operator_prices(shapes))
    assert line["forward / plain"] == line["training / plain"] == "1.25 to 3.00"
    assert line["obvious / ours, forward"] == "2.00"


def test_other_types_and_layouts_are_in_the_long_table_alone():
    other = [operator(form, dtype="bf16") for form in ("torch", "obvious")]
    assert records(operator_costs(other)) == []


def test_a_shape_without_the_obvious_form_is_left_out():
    assert records(operator_costs([operator("torch")])) == []


def told(counter, macs, model="plain"):
    return {**COUNTING[0], "model": model, "counter": counter, "macs": macs}


def test_a_network_on_which_a_counter_is_off_is_shown_with_all_counters():
    rows = [told("ctxbench", 100), told("near", 101), told("far", 50), told("mute", None)]
    (line,) = records(counters(rows))
    assert (line["macs"], line["near"], line["far"], line["mute"]) == (100, "1.010", "0.500", None)


def test_a_network_on_which_all_agree_is_left_out():
    assert records(counters([told("ctxbench", 100), told("near", 104)])) == []


def test_without_our_count_nothing_is_compared():
    assert records(counters([told("near", 105)])) == []
