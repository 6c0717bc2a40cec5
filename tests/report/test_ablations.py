import math
import random

import pytest

from ctxbench.report.ablations import (
    CONFIRMED,
    INCONCLUSIVE,
    NOT_CONFIRMED,
    ablation_errors,
    ablation_findings,
    ablations,
    judge,
)
from ctxbench.report.tables import text
from tests.report.ablation_rows import (
    ALL,
    ERRORS,
    LEVELS,
    PUBLISHED,
    TRIALS,
    experiment,
    failed,
    trial,
    trials,
)

PAIR = experiment("pair", {"net": ["plain", "context"]}, baseline={"net": "plain"})


def pair(plain, context, **changes):
    """An experiment of two networks and its trials."""
    row = {**PAIR, **changes}
    return [row, *trials(row, {("plain",): plain, ("context",): context})]


def expectation(**changes):
    told = {"words": "context helps", "better": {"net": "context"}, "than": {"net": "plain"}}
    return {**told, "at_least": 0, **changes}


def verdict(plain, context, **changes):
    return judge(pair(plain, context, expects=[expectation(**changes)])).loc[0]


def test_a_variant_is_named_by_the_axes_that_differ():
    assert ablations(ALL)["variant"].tolist()[:4] == [
        "levels 1, distance 2", "levels 1, distance 8",
        "levels 4,3,2,1, distance 2", "levels 4,3,2,1, distance 8",
    ]  # fmt: skip


def test_an_experiment_without_axes_names_its_network():
    assert ablations([experiment("single", {"data": ["toy"]})])["variant"].tolist() == ["tiny"]


def test_errors_have_students_interval():
    row = ablations(ALL).loc[2]
    # 10, 12, 11, 14, 13: mean 12, variance 2.5
    reach = 2.7764451 * math.sqrt(2.5 / 5)
    assert row["n"] == 5
    assert row["top1_error"] == 12.0
    assert (row["top1_low"], row["top1_high"]) == pytest.approx((12 - reach, 12 + reach), abs=1e-6)


def test_the_baseline_of_a_variant_has_its_labels_on_the_other_axes():
    assert ablations(ALL)["baseline"].tolist()[:4] == [
        "levels 1, distance 2", "levels 1, distance 8",
        "levels 1, distance 2", "levels 1, distance 8",
    ]  # fmt: skip


def test_differences_pair_the_seeds_that_both_have():
    row = ablations(ALL).loc[3]
    assert (row["n"], row["missing"], row["pairs"]) == (4, 1, 4)
    # 30 - 74, 31 - 75, 29 - 76, 30.5 - 74.5: without the fifth seed of the baseline
    assert row["difference_points"] == -44.75


def test_a_difference_is_as_sure_as_its_pairs_not_as_its_sides():
    # the seeds differ by 40 points, the difference in each of them hardly
    row = ablations(pair([10, 20, 30, 40, 50.0], [9, 19, 29.2, 38.9, 49.0])).loc[1]
    assert row["difference_high"] < 0
    assert row["p"] < 0.001


def test_p_is_corrected_over_the_variants_of_the_experiment():
    axes = {"net": ["plain", "context"]}
    alone = experiment("alone", axes, baseline={"net": "plain"})
    wide = experiment("wide", {"net": [*axes["net"], "third"]}, baseline={"net": "plain"})
    plain, context = [20.0, 21, 22, 23, 24], [19.0, 20.5, 21.5, 22, 23.2]
    errors = {("plain",): plain, ("context",): context, ("third",): [None] * 5}
    rows = [alone, wide, *trials(alone, errors), *trials(wide, errors)]
    p_values = ablations(rows)["p"].tolist()
    assert p_values[1] > 0
    assert p_values[3] == pytest.approx(2 * p_values[1], rel=1e-3)
    assert p_values[4] is None  # it has no trial yet, and counts


def test_published_figures_stand_apart_and_are_named_after_imagenet():
    table = ablations(ALL)
    assert table["imagenet_top1_error"].tolist()[:4] == [None, None, 22.5, None]
    head = text(table, "md").splitlines()[0]
    assert "published, ImageNet (%)" in head
    published = {("context",): {**PUBLISHED, "data": "CIFAR-100"}}
    other = experiment("other", {"net": ["plain", "context"]}, published=published)
    assert ablations([other])["imagenet_top1_error"].tolist() == [None, "22.5 (CIFAR-100)"]


def test_chance_goes_by_the_classes():
    assert ablations([experiment("x", {}, classes=100)]).loc[0, "chance_error"] == 99.0


def test_failed_and_missing_trials_are_told_apart_with_reasons():
    names = PAIR["variants"][1]["trials"]
    rows = [*pair([20.0] * 5, [None] * 5), failed(names[0]), failed(names[1])]
    rows += [trial(names[2], 19.0), trial(names[3], math.nan)]
    row = ablations(rows).loc[1]
    assert (row["n"], row["failed"], row["missing"], row["pairs"]) == (1, 3, 1, 1)
    assert row["reasons"] == "2 x out of memory; its error is no number"


def test_a_variant_that_failed_altogether_is_a_row_without_numbers():
    rows = [*pair([20.0] * 5, [None] * 5), *map(failed, PAIR["variants"][1]["trials"])]
    row = ablations(rows).loc[1]
    assert (row["n"], row["failed"], row["top1_error"], row["p"]) == (0, 5, None, None)
    assert ablation_errors(rows).loc[1, "error_interval"] == "5 failed"


def test_the_last_row_of_a_trial_counts():
    names = PAIR["variants"][0]["trials"]
    rows = [failed(names[0]), *pair([20.0] * 5, [19.0] * 5), trial(names[1], 25.0)]
    assert ablations(rows).loc[0, ["n", "top1_error"]].tolist() == [5, 21.0]


def test_a_trial_that_was_run_again_and_failed_keeps_its_success():
    rows = [*pair([20.0] * 5, [19.0] * 5), failed(PAIR["variants"][0]["trials"][0])]
    assert ablations(rows).loc[0, ["n", "failed", "top1_error"]].tolist() == [5, 0, 20.0]


def test_only_the_last_row_of_an_experiment_and_the_trials_it_names_count():
    before = pair([99.0] * 5, [98.0] * 5)
    changed = [
        {**variant, "trials": [f"new/{name}" for name in variant["trials"]]}
        for variant in PAIR["variants"]
    ]
    now = {**PAIR, "variants": changed}
    errors = {("plain",): [20.0, 21, 22, 23, 24], ("context",): [19.0, 20, 21, 22, None]}
    table = ablations([*before, now, *trials(now, errors)])
    assert table["n"].tolist() == [5, 4]
    assert table["top1_error"].tolist() == [22.0, 20.5]


def test_the_order_of_trials_and_seeds_changes_nothing():
    shuffled = list(TRIALS)
    random.Random(0).shuffle(shuffled)
    turned = {**LEVELS, "seeds": LEVELS["seeds"][::-1]}
    turned["variants"] = [{**v, "trials": v["trials"][::-1]} for v in LEVELS["variants"]]
    first = [LEVELS, *trials(LEVELS, ERRORS)]
    for other in ([LEVELS, *shuffled], [turned, *shuffled]):
        assert text(ablations(other), "csv") == text(ablations(first), "csv")
        assert text(judge(other), "csv") == text(judge(first), "csv")


SEEN = [20.0, 21.0, 22.0, 23.0, 24.0]


@pytest.mark.parametrize(
    ("context", "changes", "expected", "against"),
    [
        ([18.0, 18.5, 20.5, 21, 22.3], {}, CONFIRMED, None),
        ([18.0, 18.5, 20.5, 21, 22.3], {"at_least": 1.0}, CONFIRMED, None),
        # better, and it may be by 3 points or not
        ([18.0, 18, 20.5, 19, 22.3], {"at_least": 3.0}, CONFIRMED, None),
        ([19.0, 20.1, 20.9, 22.2, 22.9], {"at_least": 3.0}, NOT_CONFIRMED, "by less than 3"),
        ([20.1, 20.9, 22.1, 22.9, 24.1], {"at_least": 1.0}, NOT_CONFIRMED, "improvement of 1"),
        ([22.0, 22.5, 24.5, 25, 26.3], {}, NOT_CONFIRMED, "the other way round, by 2.06 points"),
        ([20.1, 20.9, 22.1, 22.9, 24.1], {}, INCONCLUSIVE, None),
        ([10.0, 30, 12, 33, 21], {"at_least": 1.0}, INCONCLUSIVE, None),
        ([18.0, None, None, None, None], {}, INCONCLUSIVE, None),
        ([None] * 5, {"at_least": 5.0}, INCONCLUSIVE, None),
        # the same difference in each seed: no spread to judge by
        ([10.0, 11, 12, 13, 14], {}, INCONCLUSIVE, None),
        (SEEN, {"at_least": 5.0}, INCONCLUSIVE, None),
        # against a constant: an error of 90 %
        ([18.0, 18.5, 20.5, 21, 22.3], {"than": 90}, CONFIRMED, None),
        ([18.0, 18.5, 20.5, 21, 22.3], {"than": 5.0}, NOT_CONFIRMED, "by 15.06 points"),
    ],
)  # fmt: skip
def test_verdicts(context, changes, expected, against):
    found = verdict(SEEN, context, **changes)
    assert found["verdict"] == expected
    assert found["against"] is None if against is None else against in found["against"]


def test_one_seed_is_always_inconclusive():
    row = experiment("one", {"net": ["plain", "context"]}, seeds=[7], expects=[expectation()])
    found = judge([row, *trials(row, {("plain",): [90.0], ("context",): [1.0]})]).loc[0]
    assert (found["verdict"], found["n"], found["p"]) == (INCONCLUSIVE, 1, None)
    assert (found["difference_points"], found["difference_low"]) == (-89.0, None)
    assert found["seeds"] == "1 of 1"


def test_expectations_are_corrected_over_those_of_the_experiment():
    context = [19.0, 20.5, 21.5, 22, 23.2]
    once = judge(pair(SEEN, context, expects=[expectation()]))["p"].tolist()
    thrice = judge(pair(SEEN, context, expects=[expectation()] * 3))["p"].tolist()
    assert thrice == pytest.approx([3 * once[0]] * 3, rel=1e-3)


def test_an_axis_that_is_not_named_is_averaged_over_seed_by_seed():
    found = judge(ALL).loc[0]
    # seed 0: (10 + 30) / 2 - (20 + 74) / 2 = -27; the fifth lacks one of the four errors
    by_seed = [-27.0, (12 + 31 - 21 - 75) / 2, (11 + 29 - 22 - 76) / 2, (14 + 30.5 - 23 - 74.5) / 2]
    assert found["n"] == 4
    assert found["difference_points"] == pytest.approx(sum(by_seed) / 4)
    assert found["seeds"] == "4 of 5, 1 missing"


def test_labels_that_no_variant_has_are_told():
    found = verdict(SEEN, SEEN, better={"net": "other"})
    assert (found["verdict"], found["n"]) == (INCONCLUSIVE, 0)
    assert found["seeds"] == "no variant has net other"


def test_seeds_that_are_all_equal_are_told():
    assert verdict(SEEN, [10.0, 11, 12, 13, 14])["seeds"] == "5 of 5, all equal"


def test_findings_say_what_was_expected_and_what_became_of_it():
    # 2, 1.5, 2.5, 2 and 2.3 worse: variance 0.143
    rows = pair(SEEN, [22.0, 22.5, 24.5, 25, 26.3], expects=[expectation()])
    assert ablation_findings(rows).loc[0].tolist() == [
        "pair", "context helps", "not confirmed: the other way round, by 2.06 points",
        "+2.06 [1.59, 2.53]", 5,
    ]  # fmt: skip


def test_short_errors_are_for_a_readme():
    table = ablation_errors(ALL)
    assert table.loc[0, ["error_interval", "difference_interval"]].tolist() == [
        "22.00 [20.04, 23.96]", "baseline",
    ]  # fmt: skip
    minus = "\N{MINUS SIGN}"
    assert table.loc[2, "difference_interval"] == f"{minus}10.00 [{minus}11.24, {minus}8.76]"


def test_an_experiment_without_baseline_or_expectations_has_errors_alone():
    row = {**PAIR, "baseline": {}, "expects": []}
    rows = [row, *trials(row, {("plain",): SEEN, ("context",): SEEN})]
    assert ablations(rows)[["baseline", "p"]].isna().all(axis=None)
    assert ablation_errors(rows)["difference_interval"].tolist() == ["", ""]
    assert judge(rows).empty
