"""What --status and the progress display read."""

import pytest

from ctxbench.ablate.folder import Teller, folder_of, locked
from ctxbench.ablate.status import Ledger, Watch, shown
from ctxbench.ablate.trial import Progress
from ctxbench.records import append_rows

PROGRESS = Progress(0, 1, 5, 10, 0.5, None, 100.0)


@pytest.fixture
def record(tmp_path):
    """Append the row of a trial."""

    def _record(trial, status, reason=None):
        row = {"trial": trial, "status": status, "reason": reason}
        append_rows("trials", [row], raw=tmp_path / "raw")

    return _record


def test_states_of_trials(tmp_path, record):
    record("a", "ok")
    record("b", "failed", "the loss is nan")
    for name in ("c", "d"):
        folder_of(tmp_path, name).mkdir(parents=True)
        Teller(folder_of(tmp_path, name)).end("running")
    with locked(folder_of(tmp_path, "c")):
        found = Watch(tmp_path, "abcde").look()
    assert [state.state for state in found.values()] == [
        "done", "failed", "running", "waiting", "waiting",
    ]  # fmt: skip
    assert found["b"].reason == "the loss is nan"


def test_a_trial_that_was_killed_waits_and_shows_how_far_it_was(tmp_path):
    folder = folder_of(tmp_path, "a")
    folder.mkdir(parents=True)
    teller = Teller(folder)
    teller(PROGRESS)
    teller.end("running")
    found = Watch(tmp_path, ["a"]).look()["a"]
    assert (found.state, found.progress) == ("waiting", PROGRESS)


def test_a_failure_that_is_tried_again_is_running(tmp_path, record):
    record("a", "failed", "out of memory")
    with locked(folder_of(tmp_path, "a")):
        assert Watch(tmp_path, ["a"]).look()["a"].state == "running"


def test_a_success_counts_whatever_came_after(tmp_path, record):
    for status in ("failed", "ok", "failed"):
        record("a", status)
    assert Watch(tmp_path, ["a"]).look()["a"].state == "done"
    assert len(Ledger(tmp_path).rows("a")) == 3


def test_rows_are_read_again_only_when_there_are_new_ones(tmp_path, record, monkeypatch):
    record("a", "ok")
    ledger = Ledger(tmp_path)
    assert ledger.row("a") is not None
    with monkeypatch.context() as patched:
        patched.setattr("ctxbench.ablate.status.read_rows", None)
        assert ledger.row("b") is None
    record("b", "failed")
    assert ledger.row("b")["status"] == "failed"


def test_shows_at_the_beginning_while_it_lasts_and_at_the_end(tmp_path, record):
    seen = []
    with shown(Watch(tmp_path, ["a"]), lambda states: seen.append(states["a"].state), every_s=0.01):
        record("a", "ok")
        while "done" not in seen:
            pass
    assert (seen[0], seen[-1]) == ("waiting", "done")


def test_looking_after_many_trials_is_cheap(tmp_path, record):
    import time

    record("0", "ok")
    watch = Watch(tmp_path, [str(number) for number in range(1000)])
    watch.look()
    start = time.thread_time()
    watch.look()
    assert time.thread_time() - start < 0.25
