from itertools import pairwise

import numpy as np
import pytest
from matplotlib.collections import LineCollection

from ctxbench.report.figures import FIGURES
from tests.report.drawn import draw, points, texts, written
from tests.report.latency_rows import GPU, LATENCY, LAYER_TIMES, layer_time, timing

LONG = "somebody/very_long_network_name_32x4d:replace=coconv:levels=4,3,2,1:where=layer*"


def inside(figure):
    """Whether every text lies on the page."""
    boxes = [text.get_window_extent() for text in written(figure)]
    page = figure.bbox
    return all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= page.x1 and b.y1 <= page.y1 for b in boxes)


def test_latency_draws_a_panel_for_each_device_and_kind():
    drawn = [
        tuple(np.concatenate([dots[:, 0] for dots in points(axis)]).tolist())
        for axis in draw("latency", LATENCY).axes
    ]
    # MACs and time of networks and of operators on the CPU, and of a network on the GPU
    assert drawn == [pytest.approx((1.1, 1.25)), (1.0, 0.8), (1.0, 2.0)]


def test_latency_draws_the_interval_of_each_ratio():
    ends = []
    for axis in draw("latency", LATENCY).axes[:2]:  # networks and operators of the CPU
        lines = [found for found in axis.collections if isinstance(found, LineCollection)]
        (bars,) = [found for found in lines if found.get_linewidth()[0] == 1.6]
        ends += [segment[:, 0].tolist() for segment in bars.get_segments()]
    assert np.allclose(ends, [[1.225, 1.275], [0.784, 0.816]])


def test_latency_names_pairs_devices_and_conditions():
    more = timing("context", "plain", ratio=1.5, mode="training")
    shown = texts(draw("latency", [*LATENCY, more]))
    assert {"context / plain", "op/mix 8 ch, levels 2 / conv"} <= set(shown)
    assert {"1.25", "0.80", "2.00", "inference", "training", "time, training"} <= set(shown)
    assert "Abacus 3000, 2 threads: networks\nbatch 4, 32x32, fp32, eager" in shown
    assert any(text.startswith("Abacus 3000, 2 threads: operators\n") for text in shown)


def test_latency_can_be_drawn_without_baseline_or_interval():
    alone = timing("context", "plain", ratio=0.9, ratio_low=None, ratio_high=None)
    (axis,) = draw("latency", [alone]).axes
    (time,) = [dots for dots in points(axis) if np.isfinite(dots).all()]
    assert time.tolist() == [[0.9, 0]]
    low, high = axis.get_xlim()
    assert low < 0.9
    assert high > 1


def test_of_many_conditions_plain_inference_is_drawn_and_the_title_counts_the_others():
    rows = [
        timing(f"net{count}", "plain", ratio=1.5, mode=mode)
        for count in range(30)
        for mode in ("inference", "training")
    ]
    gpu = timing("net0", "plain", ratio=1.5, mode="training", **GPU)
    lines = FIGURES["latency"].select([*rows, gpu])
    assert lines["mode"].tolist() == ["inference"] * 30 + ["training"]
    assert any("30 other conditions" in text for text in texts(draw("latency", rows)))


def test_the_lines_of_a_long_list_do_not_touch():
    rows = [timing(f"{LONG}{count}", "plain", ratio=1.5) for count in range(40)]
    figure = draw("latency", rows)
    assert inside(figure)
    boxes = [text.get_window_extent() for text in figure.axes[0].get_yticklabels()]
    boxes = [box for box in boxes if box.width]
    assert len(boxes) >= 80
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in pairwise(boxes))


@pytest.mark.parametrize("name", ["latency", "roofline"])
def test_nothing_is_drawn_of_what_has_no_number(name):
    assert FIGURES[name].select([]).empty
    assert FIGURES[name].select(LATENCY[-1:]).empty


def test_roofline_draws_networks_and_operators_under_the_roof_of_each_device():
    cpu, gpu = draw("roofline", LATENCY).axes
    networks, operators = points(cpu)
    assert networks.tolist() == [[5.0, 20.0], [5.0, 20.0]]
    assert operators.tolist() == [[5.0, 20.0], [5.0, 50.0]]
    assert len(np.concatenate(points(gpu))) == 2
    roof = cpu.lines[0]
    assert np.allclose(roof.get_ydata(), np.minimum(100, 10 * roof.get_xdata()))


def test_roofline_takes_inference_with_a_place_on_it_only():
    rows = [timing("a", mode="training"), timing("b", intensity=None), timing("c", gflops_s=None)]
    assert FIGURES["roofline"].select(rows).empty


def test_roofline_shows_each_network_once_at_its_largest_batch_as_measured_last():
    rows = [timing("plain", batch=batch, gflops_s=rate) for batch, rate in ((8, 1.0), (1, 9.0))]
    rows += [timing("plain", batch=8, gflops_s=2.0), timing("plain", batch=64, backend="compiled")]
    assert FIGURES["roofline"].select(rows)[["batch", "gflops_s"]].values.tolist() == [[8, 2.0]]


def test_roofline_takes_the_roof_that_was_measured_last():
    rows = [
        timing("plain"),
        timing("wide", roof_gflops_s=90.0),
        timing("plain", roof_gflops_s=80.0),
    ]
    rows.append(timing("wide", batch=1, roof_gflops_s=None))
    assert FIGURES["roofline"].select(rows)["roof_gflops_s"].tolist() == [80.0, 80.0]


def test_roofline_has_a_panel_for_each_dtype_and_none_needs_a_roof():
    rows = [timing("plain"), timing("plain", dtype="bf16", roof_gflops_s=None, fraction=None)]
    fp32, bf16 = draw("roofline", rows).axes
    assert (len(fp32.lines), len(bf16.lines)) == (1, 0)


def test_roofline_numbers_its_points_and_says_which_is_which():
    shown = texts(draw("roofline", LATENCY))
    assert {"1", "4", " 2  context: 40 %", " 4  op/mix 8 ch, levels 2: 40 %"} <= set(shown)
    assert any("unfused" in text for text in shown)


def test_roofline_can_hold_long_specs_and_many_points():
    rows = [timing(f"{LONG}{count}", intensity=5 + count / 50) for count in range(40)]
    assert inside(draw("roofline", rows))


def test_layers_draws_macs_times_and_their_difference():
    macs, times, difference = draw("layers", LAYER_TIMES).axes
    baseline, ours = points(times)
    assert baseline[:, 1].tolist() == [2.0, 2.0, 0.6]
    assert ours[:, 1].tolist() == [2.0, 3.0, 0.5]
    assert difference.collections[0].get_offsets()[:, 1].tolist() == pytest.approx([0, 1, -0.1])
    assert difference.get_xlabel().endswith("outside of them: 0.25 and 0.25 ms")
    assert np.isfinite(points(macs)[0]).all(axis=1).sum() == 2  # the layers with MACs


def test_layers_names_what_differs_and_says_by_how_much():
    shown = texts(draw("layers", LAYER_TIMES))
    assert {"layer1.0.conv2", "layer1.0.bn2", "coresnet50, CoConv2d instead"} <= set(shown)
    assert "coresnet50 against resnet50: 1.00 times the MACs, 1.19 times the time" in shown
    assert any("Abacus 3000, 2 threads: batch 4, 32x32, fp32" in text for text in shown)


def test_layers_prefers_its_pair_and_takes_the_last_group():
    again = [{**row, "group": "g2", "ms": 9.0} for row in LAYER_TIMES]
    other = [{**row, "group": "g3", "against": "resnet18"} for row in LAYER_TIMES]
    alone = [{**row, "group": "g4", "against": None} for row in LAYER_TIMES]
    layers = FIGURES["layers"].select([*LAYER_TIMES, *again, *other, *alone])
    assert layers["ms"].tolist() == [9.0] * 4
    layers = FIGURES["layers"].select([*other, *alone])
    assert layers["against"].tolist() == ["resnet18"] * 4
    assert FIGURES["layers"].select(alone).empty


def test_layers_can_be_drawn_where_one_lacks_a_layer_and_names_are_long():
    rows = [
        layer_time(f"stage{n // 20}.{n}", 1.0 + n % 3, 1.0, model=LONG, against=LONG[:37])
        for n in range(150)
    ]
    rows[3] |= {"against_kind": None, "against_macs": None, "against_ms": None}
    rows[4] |= {"kind": None, "macs": None, "ms": None}
    figure = draw("layers", rows)
    assert inside(figure)
    assert len([text for text in texts(figure) if text.startswith("stage") and "." in text]) == 12


def test_layers_without_any_difference_or_macs_can_be_drawn():
    same = [layer_time("fc", 1.0, 1.0, macs=0)]
    assert "coresnet50 against resnet50: no ratio of the MACs" in " ".join(
        texts(draw("layers", same))
    )
