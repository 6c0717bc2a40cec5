"""The published figures as data, and the verdicts on them."""

import pytest

from ctxbench.claims import (
    COUNTED,
    EXTRA_PARAMS,
    GFLOPS,
    GFLOPS_SHARE,
    PARAMS,
    PARAMS_SHARE,
    PARITY,
    VERDICTS,
    Claim,
    load_claims,
    load_recipes,
    papers,
)
from ctxbench.claims.verdict import check_verdict, digits_match, judge, tally
from ctxbench.errors import UnknownNameError
from ctxbench.measure.costs import Setting, count_spec
from ctxbench.records import as_row


def _count(spec, image_px):
    return count_spec(spec, Setting(image_size=(image_px, image_px) if image_px else None))[0]


def _claim(**changes):
    fields = {
        "paper": "p", "table": "Table 1", "row": "r", "metric": GFLOPS, "published": "4.14",
        "model": "resnet50", "condition": "", "source": "", "convention": "macs", "image_px": 64,
    }  # fmt: skip
    return Claim(**{**fields, **changes})


@pytest.mark.parametrize(
    ("value", "printed", "expected"),
    [
        (25.557032, "25.56", "rounded"),
        (25.555, "25.56", "rounded"),
        (25.5549999, "25.56", None),
        (7.8827, "7.88", "rounded"),
        (19.2069, "19.20", "truncated"),
        (19.1999, "19.20", "rounded"),
        (19.194999, "19.20", None),
        (11.62, "11.62", "rounded"),
        (28.0, "28", "rounded"),
        (28.9, "28", "truncated"),
    ],
)
def test_a_figure_is_judged_by_its_printed_digits(value, printed, expected):
    assert digits_match(value, printed) == expected


def test_every_cell_of_the_paper_is_there():
    found = load_claims("coconv")
    per_table = {
        table: len([c for c in found if c.table == table and c.metric != PARITY])
        for table in sorted({claim.table for claim in found})
    }
    # rows x printed columns of Tables 1 to 7
    assert per_table == {
        "Table 1": 2 * 2, "Table 2": 2 * 2, "Table 3": 6 * 4, "Table 4": 5 * 4, "Table 5": 15 * 4,
        "Table 6": 4 * 4, "Table 7": 2 * 8,
    }  # fmt: skip
    assert len([c for c in found if c.metric == PARITY]) == 1 + 1 + 6 + 2 + 3 + 2


def test_cells_that_need_training_name_the_recipe_and_counted_ones_do_not():
    for claim in load_claims():
        assert (claim.recipe is None) == (claim.metric in COUNTED), claim


def test_recipes_are_data():
    assert load_recipes("coconv")["imagenet"]["lr"] == 0.1
    assert load_recipes("overlock")["imagenet"]["auxiliary_loss_weight"] == 0.4
    assert load_recipes("contextual")["convnext_tiny"]["prior_sizes"] == [500, 200, 50]
    told = next(c.recipe for c in load_claims("coconv") if c.recipe)
    assert "epochs: 90; batch: 256; gpus: 8; optimizer: SGD; momentum: 0.9" in told
    assert "lr divided by 10 at epochs: 30, 60, 80" in told
    with pytest.raises(UnknownNameError, match="paper"):
        load_recipes("cocnv")


@pytest.mark.slow
def test_every_verdict_on_the_paper():
    rows = [as_row(judge(claim, _count)) for claim in load_claims("coconv")]
    verdicts = {(r["table"], r["row"], r["metric"]): r["verdict"] for r in rows}
    assert {v for (_, _, metric), v in verdicts.items() if metric == PARITY} == {"proved equal"}
    # PAPERS: four figures, one convention
    resnets = [r for r in rows if r["row"] in ("ResNet-50", "ResNet-101", "ResNet-152")]
    counted = [r for r in resnets if r["metric"] == GFLOPS and r["table"] != "Table 6"]
    assert {(r["convention"], r["verdict"]) for r in counted} == {("mac-bn-relu", "reproduced")}
    assert verdicts["Table 4", "DRN-50, stride 8", GFLOPS] == "reproduced"
    assert verdicts["Table 5", "SE ResNet-50", PARAMS] == "reproduced"
    assert verdicts["Table 6", "CoResNet-101", PARAMS] == "reproduced"
    assert verdicts["Table 2", "CoProGAN", PARAMS] == "differs"
    assert verdicts["Table 5", "NL ResNet-50", GFLOPS] == "differs"
    assert "not buildable here yet" not in verdicts.values()


@pytest.mark.slow
def test_every_verdict_on_overlock():
    rows = [judge(claim, _count) for claim in load_claims("overlock")]
    counted = {(r.row, r.metric): r for r in rows if r.metric in COUNTED}
    assert {r.verdict for key, r in counted.items() if key[1] == PARAMS} == {"reproduced"}
    # counted from the authors' code, re-parameterised, without the auxiliary head
    ours = [float(r.ours) for (_, metric), r in counted.items() if metric == PARAMS]
    assert ours == pytest.approx([16.45, 33.47, 56.16, 94.94], abs=0.005)
    gflops = [r for (_, metric), r in counted.items() if metric == GFLOPS]
    assert [r.verdict for r in gflops] == ["reproduced"] * 3 + ["close"]
    assert all(r.note.startswith("truncated, not rounded") for r in gflops[:3])
    assert counted["OverLoCK-T", PARAMS_SHARE].verdict == "reproduced"
    assert counted["OverLoCK-T", GFLOPS_SHARE].verdict == "reproduced"


def test_what_a_gate_adds_is_counted_to_the_parameter():
    rows = [judge(claim, _count) for claim in load_claims("cgc")]
    assert [(r.ours, r.verdict) for r in rows] == [("32919", "reproduced"), ("28912", "reproduced")]


@pytest.mark.parametrize(
    ("published", "verdict"), [("2049", "reproduced"), ("2030", "close"), ("2200", "differs")]
)
def test_extra_parameters_are_judged_by_every_digit(published, verdict):
    claim = _claim(metric=EXTRA_PARAMS, published=published, model="resnet50:num_classes=1001",
                   against="resnet50")  # fmt: skip
    row = judge(claim, _count)
    assert (row.ours, row.verdict, row.note) == ("2049", verdict, "")


@pytest.mark.parametrize(("published", "verdict"), [("1/2", "reproduced"), ("1/3", "differs")])
def test_a_share_is_the_nearest_simple_fraction(published, verdict):
    claim = _claim(metric=PARAMS_SHARE, published=published, against="resnet101")
    row = judge(claim, _count)
    assert (row.ours, row.verdict) == (f"{25.557032 / 44.549160:.6f}", verdict)
    assert row.note == "of 1/2, 1/3, 1/4, ... the nearest is 1/2"


def test_the_preferred_convention_is_named_when_it_fits():
    row = judge(_claim(image_px=224, convention="mac-bn-relu"), _count)
    assert (row.verdict, row.convention, row.ours) == ("reproduced", "mac-bn-relu", "4.143249")
    assert row.difference == pytest.approx(4.143248896 / 4.14 - 1)
    assert "fvcore-train fits too, rounded" in row.note


def test_another_convention_is_named_when_only_it_fits():
    row = judge(_claim(image_px=224, published="4.11"), _count)
    assert (row.verdict, row.convention) == ("reproduced", "fvcore")


def test_truncation_is_said():
    row = judge(_claim(metric=PARAMS, published="25.55"), _count)
    assert (row.verdict, row.note) == ("reproduced", "truncated, not rounded")


@pytest.mark.parametrize(("published", "verdict"), [("26.0", "close"), ("27.0", "differs")])
def test_near_is_not_reproduced(published, verdict):
    row = judge(_claim(metric=PARAMS, published=published), _count)
    assert row.verdict == verdict
    assert row.difference == pytest.approx(25.557032 / float(published) - 1)


def test_the_other_reading_is_told_beside_the_definition():
    reading = "resnet50:num_classes=1001"
    row = judge(_claim(metric=PARAMS, published="25.559081", reading=reading), _count)
    assert (row.verdict, row.ours) == ("close", "25.557032")
    assert row.note == f"{reading}: 25.559081 as parameters, reproduced"


def test_parity_is_proved_layer_by_layer():
    row = judge(_claim(metric=PARITY, published="resnet50", model="coresnet50"), _count)
    assert (row.verdict, row.note) == ("proved equal", "107 of 107 layers equal")
    assert row.ours == "+0 parameters, +0 MACs"


def test_parity_is_refuted_by_one_layer():
    model = "coresnet50:num_classes=999"
    row = judge(_claim(metric=PARITY, published="resnet50", model=model), _count)
    assert row.verdict == "refuted"
    assert row.note == "106 of 107 layers equal; first other: fc"
    assert row.ours == "-2049 parameters, -2048 MACs"


def test_a_network_that_is_not_there_yet_says_so():
    row = judge(_claim(model="overlock_xxl"), _count)
    assert (row.verdict, row.ours) == ("not buildable here yet", None)


def test_a_mistake_in_the_data_is_an_error():
    with pytest.raises(UnknownNameError, match="option"):
        judge(_claim(model="resnet50:levels=4"), _count)


def test_an_accuracy_needs_training():
    row = judge(_claim(metric="top-1 error (%)", published="22.73", recipe="90 epochs"), _count)
    assert (row.verdict, row.ours, row.note) == ("needs training", None, "90 epochs")


def test_names_are_checked():
    assert papers() == ["cgc", "coconv", "contextual", "overlock"]
    with pytest.raises(UnknownNameError, match="'cocnv'. Did you mean 'coconv'"):
        load_claims("cocnv")
    with pytest.raises(UnknownNameError, match="'differ'. Did you mean 'differs'"):
        check_verdict("differ")


def test_tally_names_each_verdict_in_order():
    rows = [{"verdict": v} for v in ("differs", "reproduced", "differs")]
    assert tally(rows) == "1 reproduced, 2 differs"
    assert tally([{"verdict": v} for v in VERDICTS]).count("1 ") == len(VERDICTS)
