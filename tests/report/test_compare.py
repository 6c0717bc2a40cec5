import json
import math

import pytest
from typer.testing import CliRunner

from ctxbench.cli import app
from ctxbench.errors import CtxbenchError, RecordsError
from ctxbench.report._time_changes import ratio_of_medians, ratio_of_ratios
from ctxbench.report.commits import side
from ctxbench.report.compare import compare
from tests.report.ablation_rows import SMALL, trial
from tests.report.latency_rows import GPU, timing
from tests.report.rows import CLAIMS, COUNTING, OPERATORS, cost

OLD, NEW = "aaaa00000000", "bbbb00000000"
MACHINE = {"cpu": "Abacus 3000", "cores": 2}


def at(commit, row, **changes):
    """A row as it is stamped at a commit; later commits are later."""
    stamp = {"time": f"2026-01-0{commit[0].encode()[0] - 96}T00:00:00+00:00", "commit": commit}
    return {**row, **changes, "stamp": {**stamp, "machine": MACHINE}}


@pytest.fixture
def changes(tmp_path, save_rows):
    """Compare rows of the two commits; return the lines, `everything` unless told otherwise."""

    def made(*, everything=True, **rows):
        for kind, of in rows.items():
            save_rows(tmp_path / "raw", kind, of)
        found = compare([tmp_path / "raw"], OLD, NEW).table(everything=everything)
        return found.to_dict("records")

    return made


def test_a_count_is_compared_exactly(changes):
    rows = [at(OLD, cost("net", 10, None)), at(NEW, cost("net", 11, None))]
    found = {line["measure"]: line for line in changes(costs=rows)}
    assert [found["params"][key] for key in ("old", "new", "change", "verdict")] == [
        10, 11, 1, "changed"
    ]  # fmt: skip


def test_what_did_not_change_is_left_out_unless_asked_for(changes):
    rows = [at(OLD, cost("net", 10, None)), at(NEW, cost("net", 10, None))]
    assert changes(everything=False, costs=rows) == []


def test_a_claim_whose_verdict_changed_is_told(changes):
    claim = CLAIMS[0]
    lines = changes(everything=False, claims=[at(OLD, claim), at(NEW, claim, verdict="differs")])
    assert [(line["old"], line["new"]) for line in lines] == [("reproduced", "differs")]


def samples(*ms):
    return {"forward": [[[each, each], [each * 1.01, each * 1.01]] for each in ms]}


@pytest.mark.parametrize(
    ("after", "verdict"),
    [((20.0, 20.2, 20.1), "slower"), ((5.0, 5.1, 5.2), "faster"),
     ((10.0, 10.1, 9.9), "no difference to be seen")],
)  # fmt: skip
def test_times_without_a_baseline_are_compared_by_their_samples(changes, after, verdict):
    rows = [
        at(OLD, timing("net", samples_ms=samples(10.0, 10.1, 9.9))),
        at(NEW, timing("net", ms=after[0], samples_ms=samples(*after))),
    ]
    (line,) = changes(latency=rows)
    assert line["verdict"] == verdict
    assert line["change_low"] <= line["change"] <= line["change_high"]


@pytest.mark.parametrize("seconds", [[0.01] * 2, [0.01, 0.02, 0.01, 0.02], [], "x"])
def test_a_time_of_few_samples_has_no_interval(changes, seconds):
    row = OPERATORS[0] | {"ratio_low": None, "seconds": seconds}
    (line,) = changes(operators=[at(OLD, row), at(NEW, row)])
    assert line["verdict"] == "no interval"


@pytest.mark.parametrize("time", [math.nan, math.inf, pytest.param(10**400, id="huge"), 0])
def test_a_sample_that_is_no_time_leaves_no_interval(changes, time):
    rows = [timing("net", samples_ms=samples(10.0, 10.1, each)) for each in (9.9, 10.0)]
    rows[0]["samples_ms"]["forward"][0][0] = [time, time]
    (line,) = changes(latency=[at(OLD, rows[0]), at(NEW, rows[1])])
    assert line["verdict"] == "no interval"


def test_a_time_too_large_for_a_number_is_no_time():
    row = COUNTING[0] | {"ratio_to_fvcore": 10**400, "median_s": 10**400}
    assert ratio_of_ratios(row, row, key="ratio_to_fvcore", against="fvcore") is None
    assert ratio_of_medians(row, row, key="median_s", samples="seconds") is None


def test_a_time_is_compared_beside_its_baseline_which_cancels_the_machine(changes):
    rows = [
        at(OLD, timing("net", "plain", ratio=1.5, ms=10.0)),
        at(NEW, timing("net", "plain", ratio=1.5, ms=30.0)),
    ]
    (line,) = changes(latency=rows)
    assert line["measure"] == "time / that of plain"
    assert line["change"] == pytest.approx(1.0)
    assert line["verdict"] == "no difference to be seen"


def test_the_interval_of_a_ratio_of_ratios_joins_those_of_both(changes):
    rows = [at(each, timing("net", "plain", ratio=2.0, interval=0.1)) for each in (OLD, NEW)]
    (line,) = changes(latency=rows)
    # in logarithms half of one interval is ln(1.1 / 0.9) / 2; of a difference sqrt(2) times that
    assert line["change_high"] == pytest.approx((1.1 / 0.9) ** (2**0.5 / 2))


def test_times_of_another_device_are_not_compared(changes):
    rows = [at(OLD, timing("net")), at(NEW, timing("net", **GPU))]
    assert [line["verdict"] for line in changes(latency=rows)] == ["only in old", "only in new"]


def test_times_of_another_machine_are_not_compared(changes):
    other = at(NEW, OPERATORS[0])
    other["stamp"]["machine"] = {"cpu": "Abacus 3000", "cores": 64}
    verdicts = [line["verdict"] for line in changes(operators=[at(OLD, OPERATORS[0]), other])]
    assert verdicts == ["only in old", "only in new"]


def test_a_further_machine_on_one_side_hides_no_comparison(changes):
    other = at(OLD, timing("net"))
    other["stamp"]["machine"] = {"cpu": "Abacus 3000", "cores": 64}
    lines = changes(latency=[at(OLD, timing("net")), other, at(NEW, timing("net"))])
    assert sorted(line["verdict"] for line in lines) == ["no interval", "only in old"]


@pytest.fixture
def summary(tmp_path, save_rows):
    """Count the comparisons of rows of the two commits, in words."""

    def made(**rows):
        for kind, of in rows.items():
            save_rows(tmp_path / "raw", kind, of)
        return compare([tmp_path / "raw"], OLD, NEW).summary()

    return made


def test_what_is_too_little_to_tell_is_not_counted_as_changed(summary):
    said = summary(latency=[at(OLD, timing("net")), at(NEW, timing("net"))])
    assert said.startswith("Compared 1: 0 changed, 0 unchanged or without a difference to be seen")
    assert "1 with too little to tell" in said


def test_the_summary_says_how_many_intervals_are_not_corrected(summary):
    times = [timing(name, "plain", ratio=1.5) for name in ("a", "b", "c")]
    said = summary(latency=[at(each, row) for each in (OLD, NEW) for row in times])
    assert "not corrected for being 3." in said
    assert "one process" not in said


def test_the_summary_says_which_times_are_of_one_process(summary):
    assert "one process a side" in summary(operators=[at(OLD, OPERATORS[0]), at(NEW, OPERATORS[0])])


def trained(commit, errors, **changes):
    return [
        at(commit, trial(f"small/2/1/{seed}", error, seed=seed, device="cpu", **changes))
        for seed, error in errors.items()
    ]


def test_errors_are_paired_by_seed(changes):
    before = {seed: 20.0 + 10 * seed for seed in range(5)}
    after = {seed: error + 1 + 0.1 * seed for seed, error in before.items()}
    (line,) = changes(
        experiments=[at(OLD, SMALL)], trials=[*trained(OLD, before), *trained(NEW, after)]
    )
    assert line["name"] == "small: distance 2, size 1"
    assert (line["measure"], line["verdict"]) == ("top-1 error (points), 5 paired seeds", "worse")
    assert line["change"] == pytest.approx(1.2)


def test_errors_of_other_seeds_are_compared_by_welch(changes):
    before, after = {0: 10.0, 1: 12.0, 2: 11.0}, {3: 20.0, 4: 26.0, 5: 23.0}
    (line,) = changes(trials=[*trained(OLD, before), *trained(NEW, after)])
    from scipy.stats import ttest_ind

    known = ttest_ind(list(after.values()), list(before.values()), equal_var=False)
    interval = known.confidence_interval()
    assert line["p"] == pytest.approx(known.pvalue)
    assert (line["change_low"], line["change_high"]) == pytest.approx(tuple(interval))


def test_two_seeds_in_common_are_too_few_to_pair_where_there_are_more(changes):
    before, after = ({seed: base + seed % 3 for seed in seeds} for base, seeds in
                     ((10.0, range(6)), (30.0, range(4, 10))))  # fmt: skip
    (line,) = changes(trials=[*trained(OLD, before), *trained(NEW, after)])
    assert (line["measure"], line["verdict"]) == ("top-1 error (points), 6 and 6 seeds", "worse")


def test_errors_that_are_equal_in_all_common_seeds_are_unchanged(changes):
    before = {seed: 10.0 + seed for seed in range(5)}
    after = {seed: before[seed] for seed in range(3)}
    (line,) = changes(trials=[*trained(OLD, before), *trained(NEW, after)])
    assert line["verdict"] == "unchanged"


def test_the_same_errors_are_unchanged(changes):
    errors = {0: 10.0, 1: 12.0, 2: 11.0}
    (line,) = changes(trials=[*trained(OLD, errors), *trained(NEW, errors)])
    assert line["verdict"] == "unchanged"


def test_errors_on_cpu_and_gpu_are_not_compared(changes):
    errors = {0: 10.0, 1: 12.0, 2: 11.0}
    cuda = [{**row, "device": "cuda"} for row in trained(NEW, errors)]
    verdicts = [line["verdict"] for line in changes(trials=[*trained(OLD, errors), *cuda])]
    assert verdicts == ["only in old", "only in new"]


def test_p_are_corrected_over_all_variants(changes):
    before, after = {0: 10.0, 1: 12.0, 2: 11.0}, {0: 12.0, 1: 13.0, 2: 13.0}
    alone = changes(trials=[*trained(OLD, before), *trained(NEW, after)])[0]["p"]
    other = [*trained(OLD, before, model="b"), *trained(NEW, after, model="b")]
    assert changes(trials=other)[0]["p"] == pytest.approx(2 * alone)


def rows_of(*commits):
    return {"costs": [at(commit, cost("net", 1, None)) for commit in commits]}


def test_a_commit_is_found_by_its_first_digits():
    assert side("aaaa", rows_of(OLD, NEW)).name == OLD


def test_the_clean_commit_goes_before_its_changed_files_unless_asked_for():
    found = rows_of(OLD, f"{OLD}-dirty")
    assert side("aaaa0", found).name == OLD
    assert side("aaaa0-dirty", found).name == f"{OLD}-dirty"


def test_too_few_digits_are_an_error_that_names_the_commits():
    with pytest.raises(RecordsError, match="'aaaa' can be aaaa00000000 or aaaa10000000"):
        side("aaaa", rows_of(OLD, "aaaa10000000"))


def test_a_git_ref_means_the_commit_that_rows_are_stamped_with(monkeypatch):
    monkeypatch.setattr("ctxbench.report.commits.commit_of", {"v1": NEW}.get)
    assert side("v1", rows_of(OLD, NEW)).name == NEW


def test_an_unknown_commit_lists_those_with_rows_the_newest_last():
    with pytest.raises(
        RecordsError, match=rf"'cccc', and no such.*last: {OLD} \(1\), {NEW} \(1\)\.$"
    ):
        side("cccc", rows_of(NEW, OLD))


def test_without_any_rows_it_is_said_how_to_name_some():
    with pytest.raises(RecordsError, match=r"--compare cccc: .*no rows.*--out or --rows"):
        side("cccc", {"costs": []})


def test_a_folder_of_results_is_a_side(tmp_path, save_rows):
    save_rows(tmp_path / "raw", "costs", [cost("net", 1, None)])
    assert [row["model"] for row in side(str(tmp_path), {}).rows["costs"]] == ["net"]


@pytest.mark.parametrize("words", [["--all"], ["--compare", "a", "b", "--readme", "README.md"]])
def test_an_option_that_would_be_ignored_is_an_error(tmp_path, words):
    found = CliRunner().invoke(app, ["report", "--out", str(tmp_path), *words])
    assert isinstance(found.exception, CtxbenchError)
    assert ("--all" if "--all" in words else "--readme") in str(found.exception)


def test_the_command_prints_changes_apart_from_their_count(tmp_path, save_rows):
    rows = [at(OLD, cost("net", 10, None)), at(NEW, cost("net", 11, None))]
    save_rows(tmp_path / "raw", "costs", rows)
    words = ["report", "--out", str(tmp_path), "--compare", OLD, NEW, "--format", "json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0
    assert {line["measure"] for line in json.loads(result.stdout)} >= {"params", "MACs"}
    assert result.stderr.splitlines()[-1].startswith("Compared ")
    assert (tmp_path / "tables/changes.tex").read_text().startswith(r"\begin{tabular}")
