from itertools import pairwise

import matplotlib as mpl
import pytest

from ctxbench.report.figures import FIGURES, save
from tests.report.ablation_rows import ALL
from tests.report.drawn import draw, points, texts, written
from tests.report.example_rows import EXAMPLES
from tests.report.latency_rows import LATENCY, LAYER_TIMES
from tests.report.rows import CLAIMS, LAYERS, counted, layer

EVERY = [
    ("claims", CLAIMS), ("parity", LAYERS), ("latency", LATENCY), ("roofline", LATENCY),
    ("layers", LAYER_TIMES), *((f"ablation_{name}", ALL) for name in (
        "errors", "curves", "distance", "priors",
    )), ("data_examples", EXAMPLES),
]  # fmt: skip


def test_claims_names_every_network_and_its_paper():
    shown = texts(draw("claims", CLAIMS))
    assert {"plain", "wide", "deep:levels=2", "Toy et al., 2020"} <= set(shown)


def test_claims_draws_published_and_ours_in_both_panels():
    params, gflops = draw("claims", CLAIMS).axes
    published, ours = points(params)
    assert published[:, 0].tolist() == [10.0, 10.0, 30.0]
    assert ours[:, 0].tolist() == [10.001, 10.001, 45.0]
    published, ours = points(gflops)
    assert published[:, 0].tolist() == [2.0, 2.0, 9.0]
    assert ours[:, 0].tolist() == [2.01, 2.01]


def test_claims_writes_the_deviation_and_what_is_not_built():
    shown = texts(draw("claims", CLAIMS))
    assert {"+0.01 %", "+50.00 %", "+0.50 %", "not built"} <= set(shown)


def test_claims_does_not_write_a_sign_before_zero():
    exact = counted("Plain", "plain", "params (M)", "10.00", "9.9999999", "reproduced")
    assert "0.00 %" in texts(draw("claims", [exact]))


def test_claims_tells_the_verdicts_apart_without_colour():
    params, _ = draw("claims", CLAIMS).axes
    ours = params.collections[-1]
    shapes = [path.vertices.tolist() for path in ours.get_paths()]
    assert shapes[0] == shapes[1] != shapes[2]  # reproduced, reproduced, differs


def test_claims_has_a_heading_for_each_paper():
    rows = [*CLAIMS, *({**row, "paper": "new", "source": "New et al."} for row in CLAIMS)]
    assert FIGURES["claims"].select(rows)["y"].tolist() == [1, 2, 3, 5, 6, 7]
    assert {"Toy et al., 2020", "New et al."} <= set(texts(draw("claims", rows)))


def test_claims_can_be_drawn_before_any_network_is_built():
    unbuilt = [row for row in CLAIMS if row["verdict"] == "not buildable here yet"]
    assert "deep:levels=2" in texts(draw("claims", unbuilt))


def test_claims_that_need_training_are_not_drawn():
    assert FIGURES["claims"].select(CLAIMS[-1:]).empty


def test_parity_draws_both_networks_in_each_layer_with_macs():
    macs, difference = draw("parity", LAYERS).axes
    baseline, ours = points(macs)
    assert baseline[:, 1].tolist() == ours[:, 1].tolist() == [3.0, 2.0, 1.0]
    assert difference.collections[0].get_offsets()[:, 1].tolist() == [0, 0, 0]


def test_parity_names_networks_stages_and_layers():
    shown = texts(draw("parity", LAYERS))
    assert {"resnet50", "layer1", "0.conv2", "coresnet50, CoConv2d instead"} <= set(shown)
    assert "coresnet50 costs what resnet50 does in each of 4 layers, at 1x3x8x8" in shown


def test_parity_that_fails_is_said_and_seen():
    figure = draw("parity", [*LAYERS[:-1], layer("fc", 1_000_007, against_macs=1_000_000)])
    assert figure.axes[1].collections[0].get_offsets()[:, 1].tolist() == [0, 0, 7]
    assert any(
        "of 4 layers, 1 differ in MACs and 0 in parameters" in text for text in texts(figure)
    )


def test_parity_counts_a_layer_that_one_network_lacks_as_nothing():
    lacks = {**LAYERS[-1], "kind": None, "params": None, "macs": None}
    layers = FIGURES["parity"].select([*LAYERS[:-1], lacks])
    assert layers["difference"].tolist() == [0, 0, 0, -1_000_000]
    assert layers["params_difference"].tolist() == [0, 0, 0, -5]


def test_parity_takes_the_last_run_only():
    before = [
        {**row, "stamp": {"time": "earlier"}, "layer": f"old.{row['layer']}"} for row in LAYERS
    ]
    assert len(FIGURES["parity"].select([*before, *LAYERS])) == len(LAYERS)


def test_parity_ignores_other_networks():
    assert FIGURES["parity"].select([{**row, "against": "resnet18"} for row in LAYERS]).empty


@pytest.mark.parametrize(("name", "rows"), EVERY)
@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_same_rows_are_saved_as_the_same_bytes(name, rows, suffix, tmp_path):
    paths = [tmp_path / f"{count}.{suffix}" for count in (1, 2)]
    for path in paths:
        save(draw(name, rows), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_last_bits_of_a_layout_do_not_reach_a_file(tmp_path):
    for nudge in (0, 1e-13):
        figure = draw("layers", LAYER_TIMES)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for axis in figure.axes:
            axis.set_position([side + nudge for side in axis.get_position().bounds])
        save(figure, tmp_path / f"{nudge}.svg")
    first, second = (path.read_bytes() for path in tmp_path.iterdir())
    assert first == second


@pytest.mark.parametrize(("name", "rows"), EVERY)
def test_figures_are_as_wide_as_a_page_with_text_of_7_points_or_more(name, rows):
    figure = draw(name, rows)
    assert figure.get_figwidth() == 7.0
    assert min(text.get_fontsize() for text in written(figure)) >= 7


@pytest.mark.parametrize(("name", "rows"), EVERY)
def test_no_text_leaves_the_page(name, rows):
    figure = draw(name, rows)
    for text in written(figure):
        box = text.get_window_extent()
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= figure.bbox.x1, text
        assert box.y1 <= figure.bbox.y1, text


def test_the_names_of_many_networks_do_not_touch():
    rows = [{**row, "model": f"{row['model']}{count}"} for count in range(12) for row in CLAIMS]
    panel = draw("claims", rows).axes[0]
    panel.figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in panel.get_yticklabels()]
    assert len(boxes) == 36
    assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(boxes))


def test_drawing_leaves_the_style_of_others_alone():
    before = dict(mpl.rcParams)
    draw("claims", CLAIMS)
    assert dict(mpl.rcParams) == before
