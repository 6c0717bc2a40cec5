"""The published figures as data, and the verdicts on them."""

import pytest

from ctxbench.claims import GFLOPS, PARAMS, PARITY, VERDICTS, Claim, load_claims, papers
from ctxbench.claims.verdict import check_verdict, digits_match, judge, tally
from ctxbench.errors import UnknownNameError
from ctxbench.measure.costs import Setting, count_spec
from ctxbench.records import as_row


def _count(spec, image_px):
    return count_spec(spec, Setting(image_size=(image_px, image_px)))[0]


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
        counted = claim.metric in (PARAMS, GFLOPS, PARITY)
        assert (claim.recipe is None) == counted, claim


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
    assert papers() == ["coconv"]
    with pytest.raises(UnknownNameError, match="'cocnv'. Did you mean 'coconv'"):
        load_claims("cocnv")
    with pytest.raises(UnknownNameError, match="'differ'. Did you mean 'differs'"):
        check_verdict("differ")


def test_tally_names_each_verdict_in_order():
    rows = [{"verdict": v} for v in ("differs", "reproduced", "differs")]
    assert tally(rows) == "1 reproduced, 2 differs"
    assert tally([{"verdict": v} for v in VERDICTS]).count("1 ") == len(VERDICTS)
