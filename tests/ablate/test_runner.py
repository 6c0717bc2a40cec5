"""Every trial is done once, and what breaks breaks alone."""

import pytest

from ctxbench.ablate.runner import Outcome, make_engine, run_all
from ctxbench.errors import CtxbenchError, RecordsError
from ctxbench.kernels import use_backend
from tests.ablate import training
from tests.ablate.training import RUN, rows, steps, trial


@pytest.fixture
def do(tmp_path):
    """Run trials on this machine."""

    def _do(*trials, jobs=1, **given):
        engine = make_engine("local", jobs=jobs, device="cpu")
        given = {"out": tmp_path, "run": RUN, "engine": engine, "train": training.train, **given}
        return run_all(trials, **given)

    return _do


def test_all_trials_are_done_each_once(do, tmp_path):
    trials = [trial(seed=seed) for seed in range(5)]
    found = do(*trials, *trials[:2], jobs=2)
    assert set(found.done) == {each.id for each in trials}
    assert (found.failed, found.left, found.interrupted) == ({}, (), False)
    assert sorted(row["seed"] for row in rows(tmp_path)) == [0, 1, 2, 3, 4]
    assert [steps(tmp_path, each) for each in trials] == [[1, 2, 3]] * 5


def test_a_finished_trial_is_never_run_again(do, tmp_path):
    do(trial())
    assert do(trial()).done == (trial().id,)
    assert steps(tmp_path, trial()) == [1, 2, 3]


def test_a_trial_that_fails_is_a_row_and_the_others_go_on(do, tmp_path):
    bad = trial("fake:how=TrialError:at=1")
    found = do(bad, trial(), jobs=1)
    assert found == Outcome((trial().id,), {bad.id: "the loss is nan"}, (), False)
    assert [row["status"] for row in rows(tmp_path)] == ["failed", "ok"]


def test_a_failed_trial_runs_again_only_when_asked(do, tmp_path):
    bad = trial("fake:how=TrialError:at=1")
    for retry, expected in ((False, ()), (False, ()), (True, (bad.id,)), (True, (bad.id,))):
        assert do(bad, retry=retry).done == expected
    assert [row["status"] for row in rows(tmp_path)] == ["failed", "ok"]


def test_a_finished_trial_without_weights_runs_again_only_when_asked(do, tmp_path):
    weights = tmp_path / "trials" / trial().id / "weights.safetensors"
    do(trial())
    weights.unlink(missing_ok=True)
    do(trial())
    assert len(rows(tmp_path)) == 1
    do(trial(), weights=True)
    assert len(rows(tmp_path)) == 2
    weights.write_bytes(b"")
    do(trial(), weights=True)
    assert len(rows(tmp_path)) == 2


def test_a_crash_is_a_row_that_names_its_traceback(do, tmp_path):
    bad = trial("fake:how=ValueError:at=0")
    path = tmp_path / "trials" / bad.id / "traceback.txt"
    assert do(bad).failed == {bad.id: f"ValueError: of the network (see {path})"}
    assert 'training.py", line' in path.read_text()


def test_a_mistake_of_the_user_leaves_no_row_and_stops_nobody_else(do, tmp_path):
    bad = trial("fake:how=CtxbenchError:at=0")
    with pytest.raises(CtxbenchError, match="^the data is not there$"):
        do(bad, trial())
    assert [row["trial"] for row in rows(tmp_path)] == [trial().id]
    assert set(do(bad, trial()).done) == {bad.id, trial().id}  # now it is there


def test_a_killed_process_is_tried_once_more_from_its_checkpoint(do, tmp_path):
    killed = trial("fake:how=kill:at=2:steps=4")
    assert do(killed).done == (killed.id,)
    assert steps(tmp_path, killed) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("how", "reason"),
    [("kill", "killed by signal 9 (SIGKILL)"), ("exit", "ended with exit code 3")],
)
def test_a_process_that_dies_twice_is_a_failed_row(do, tmp_path, how, reason):
    lost = trial(f"fake:how={how}:at=1:times=2")
    found = do(lost, trial(), jobs=2)
    assert found.failed == {lost.id: f"worker lost: {reason}"}
    assert found.done == (trial().id,)
    assert {row["status"] for row in rows(tmp_path)} == {"ok", "failed"}


def test_each_trial_has_a_process_of_its_own(do, tmp_path):
    both = [trial(seed=seed) for seed in range(2)]
    do(*both)
    logs = [(tmp_path / "trials" / each.id / "steps.log").read_text() for each in both]
    assert logs[0].split()[2] != logs[1].split()[2]


def test_a_trial_is_where_the_command_is_and_does_not_import_it(do, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    do(trial())
    found = training.where(tmp_path, trial())
    assert (found["folder"], found["main"]) == (str(tmp_path), None)
    assert found["omp"] == "1"


def test_the_checkpoint_goes_when_the_row_is_there(do, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "trials.jsonl").symlink_to("/dev/full")
    with pytest.raises(RecordsError, match=r"trials.jsonl: No space left on device. Choose --out"):
        do(trial(), trial(seed=1))
    assert (tmp_path / "trials" / trial().id / "checkpoint.pt").exists()
    (tmp_path / "raw" / "trials.jsonl").unlink()
    assert len(do(trial(), trial(seed=1)).done) == 2
    assert steps(tmp_path, trial()) == [1, 2, 3]  # nothing was trained twice
    assert not (tmp_path / "trials" / trial().id / "checkpoint.pt").exists()


@pytest.mark.parametrize("name", ["raw", "trials"])
def test_a_folder_that_cannot_be_written_is_told_in_a_line(do, tmp_path, name):
    (tmp_path / name).write_text("a file, where a folder should be")
    with pytest.raises(RecordsError, match=r"Cannot write.*Choose --out\.$"):
        do(trial())


def test_an_error_of_the_caller_lets_trials_save(do, tmp_path):
    def fail(event):
        raise ZeroDivisionError(event.kind)

    long = trial("fake:steps=500:ms=10")
    with pytest.raises(ZeroDivisionError, match="ok"):
        do(trial(), long, jobs=2, on_event=fail)
    assert 0 < len(steps(tmp_path, long)) < 500


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": "slurm"}, "no engine 'slurm'. Use local or ray"),
        ({"name": "local", "jobs": 0}, "--jobs 0 does nothing. Use 1 or more"),
        ({"name": "local", "address": "a:1"}, "--address a:1 is for --engine ray"),
    ],
)
def test_an_engine_that_cannot_be(given, words):
    with pytest.raises(CtxbenchError, match=words):
        make_engine(**given)


def test_inside_use_backend_nothing_is_trained(do, tmp_path):
    with use_backend("reference"), pytest.raises(CtxbenchError, match="Write backend=reference"):
        do(trial())
    assert not (tmp_path / "raw").exists()
