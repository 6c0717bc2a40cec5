"""Tables of what pictures say: means over images and trials, the last row of each."""

import pytest

from ctxbench.report import pictures
from tests.report.picture_rows import PICTURES, SPEED, cam, cue, field, kernel, prior, samples


def only(frame):
    (line,) = frame.to_dict("records")
    return line


def test_a_share_is_held_against_its_control_trial_by_trial():
    line = only(pictures.cue_shares(PICTURES["cues"]))
    assert (line["runs"], line["images"], line["share_percent"], line["shuffled_percent"]) == (
        3,
        8,
        12.0,
        2.0,
    )
    # Student's t of 8, 10, 12 with two degrees of freedom: 10 +- 4.3027 * 2 / sqrt(3)
    assert line["beyond"] == "+10.00 [5.03, 14.97]"
    assert line["plain_percent"] is None


def test_a_readme_has_the_cue_alone():
    rows = [*PICTURES["cues"], *(cue(run, 1.0, 1.0, part="object") for run in "abc")]
    assert len(pictures.cue_shares(rows)) == 2
    line = only(pictures.cue_findings(rows))
    assert (line["network"], line["share_percent"]) == ("Net", 12.0)


def test_two_trials_have_no_interval_and_empty_attention_counts_for_nothing():
    rows = [cue("a", 1.0, 2.0), cue("b", 2.0, 4.0), cue("c", None, None)]
    line = only(pictures.cue_shares(rows))
    assert (line["runs"], line["share_percent"], line["beyond"]) == (2, 1.5, "\u22121.50")
    assert only(pictures.cue_shares(rows[2:]))["beyond"] is None


def test_what_was_drawn_again_counts_once():
    line = only(pictures.cue_shares([cue("a", 90.0, 2.0), cue("a", 10.0, 2.0)]))
    assert (line["runs"], line["share_percent"]) == (1, 10.0)
    assert only(pictures.faithfulness([cam("one", deletion=1.0), cam("one")]))["deletion"] == 0.2


def test_a_field_has_its_squares_with_intervals():
    line = only(pictures.receptive_fields([field("net")]))
    assert (line["image"], line["map"], line["field"]) == ("32x48", "4x6", "21x23")
    assert line["square50"] == "9.00 [8.00, 10.00]"
    whole = only(pictures.receptive_fields([field("net", field_whole=True, map_height=None)]))
    assert (whole["map"], whole["field"]) == ("scores", "the whole image")


@pytest.mark.parametrize("side", [None, float("nan")])
def test_a_network_without_any_gradient_has_no_square(side):
    assert only(pictures.receptive_fields([field("net", square50_px=side)]))["square50"] is None


def test_maps_and_samples_are_averaged_over_the_images():
    line = only(pictures.faithfulness([cam("one"), cam("two", deletion=0.4)]))
    assert (line["images"], line["deletion"]) == (2, pytest.approx(0.3))
    line = only(pictures.sampling([samples("one"), samples("two", mean_displacement_px=2.0)]))
    assert (line["images"], line["mean_displacement_px"], line["constant_share"]) == (2, 1.5, None)


def test_statistics_of_kernels_are_words():
    line = only(
        pictures.kernels([kernel("one"), kernel("two", statistics={"small_evenness": 0.7})])
    )
    assert (line["images"], line["statistics"]) == (2, "small evenness 0.6")
    assert only(pictures.kernels([kernel("", images=0)]))["images"] is None


def test_priors_have_the_mean_rank_by_stage_and_what_another_one_moves():
    line = only(
        pictures.priors([prior("one", [4, 1]), prior("two", [2, None], swapped_predicted="cat")])
    )
    assert (line["stages"], line["prior_sizes"]) == ("stage 1, stage 2", "3")
    assert (line["true_rank"], line["score_change"], line["moved"]) == (
        "3, 1",
        "all stages 0.5",
        0.5,
    )
    alone = only(pictures.priors([prior("one", [], swapped_predicted=None)]))
    assert (alone["moved"], alone["score_change"], alone["true_rank"]) == (None, "", "")


def test_speed_is_a_ratio_with_its_interval():
    line = only(pictures.gradcam_speed([SPEED]))
    assert (line["grad_cam"], line["torch_cam"]) == ("2.00 [1.80, 2.20]", "1.00 [0.90, 1.10]")
