"""The folder of a trial: its lock and its progress, beside real processes."""

import multiprocessing
import os
import signal
import time

import pytest

from ctxbench.ablate.folder import Teller, folder_of, is_held, locked, read_progress
from ctxbench.ablate.local import server
from ctxbench.ablate.trial import Progress
from ctxbench.errors import RecordsError
from tests.ablate.training import until

PROGRESS = Progress(1, 3, 20, 60, 0.5, 12.5, 300.0)


def _hold(folder, ready):
    with locked(folder) as mine:
        ready.send(mine)
        time.sleep(60)


@pytest.fixture
def other(tmp_path):
    """A process that holds the lock of the folder."""
    ready, theirs = multiprocessing.Pipe()
    process = server().Process(target=_hold, args=(tmp_path, theirs))
    process.start()
    assert ready.recv()
    yield process
    process.kill()
    process.join()


def test_a_lock_is_held_by_one_process(tmp_path, other):
    assert is_held(tmp_path)
    with locked(tmp_path) as mine:
        assert not mine


def test_a_killed_process_holds_nothing(tmp_path, other):
    os.kill(other.pid, signal.SIGKILL)
    until(lambda: not is_held(tmp_path))
    with locked(tmp_path) as mine:
        assert mine


def test_a_process_that_is_forked_meanwhile_keeps_no_lock(tmp_path):
    with locked(tmp_path):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
    try:
        until(lambda: not is_held(tmp_path), timeout_s=5)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_looking_takes_no_lock(tmp_path):
    assert not is_held(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "trials").write_text("")
    with (
        pytest.raises(RecordsError, match=r"Cannot write .*lock: Not a directory. Choose --out."),
        locked(folder_of(tmp_path, "0")),
    ):
        pass


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    with (
        pytest.raises(RecordsError, match=r"Cannot lock .*: Function not implemented. Choose"),
        locked(tmp_path),
    ):
        pass


def test_progress_comes_back_as_it_was_told(tmp_path):
    Teller(tmp_path)
    assert read_progress(tmp_path)[0] is None
    Teller(tmp_path)(PROGRESS)
    progress, where = read_progress(tmp_path)
    assert progress is None  # told less than half a second before
    assert where.startswith(f"process {os.getpid()} on ")
    teller = Teller(tmp_path)
    teller(PROGRESS)
    teller.end("ok")
    assert read_progress(tmp_path)[0] == PROGRESS


def test_progress_is_written_twice_a_second_at_most(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    teller = Teller(tmp_path)
    written = []
    for step in range(100):
        now[0] += 0.01
        teller(Progress(0, 1, step, 100, None, None, None))
        found = read_progress(tmp_path)[0]
        written.append(found and found.step)
    assert set(written) == {None, 49, 99}


def test_a_full_disk_is_told_by_the_progress(tmp_path):
    (tmp_path / ".progress.json.partial").symlink_to("/dev/full")
    with pytest.raises(RecordsError, match=r"progress.json: No space left on device. What was"):
        Teller(tmp_path)
