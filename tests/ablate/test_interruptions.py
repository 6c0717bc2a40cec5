"""Signals, kills, and two commands on one experiment: real ones, from outside."""

import os
import signal
import time

import pytest

from ctxbench.ablate.folder import folder_of, is_held
from ctxbench.ablate.status import Watch
from tests.ablate.training import Command, rows, steps, trial, until

LONG = "fake:steps=1000:ms=5"
PAIR = ["fake:steps=60:ms=5", "fake:steps=61:ms=5"]


def _runs(out, model, at_least=3):
    until(lambda: len(steps(out, trial(model))) >= at_least)


def _has_stopped(out):
    """Its steps were taken in order, none twice, and all of them are saved."""
    folder = folder_of(out, trial(LONG).id)
    until(lambda: not is_held(folder), timeout_s=10)
    taken = steps(out, trial(LONG))
    assert taken == list(range(1, len(taken) + 1))
    assert int((folder / "checkpoint.pt").read_text()) == len(taken) < 1000
    return len(taken)


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_stops_after_the_step_and_all_is_saved(tmp_path, name, fresh):
    """To the parent alone, or to all of them, as a terminal and some schedulers do."""
    command = Command(tmp_path / "out", [LONG, "fake"], fresh=fresh)
    _runs(tmp_path / "out", LONG)
    send = os.killpg if fresh else os.kill
    send(command.pid, getattr(signal, name))
    assert command.end() == 0
    stopped = f"interrupted {trial(LONG).id} None"
    other = f"interrupted {trial('fake').id} None"
    end = "done 0 left 2 stop True"
    assert command.told.splitlines() == ["stopping None None", stopped, other, end]
    taken = _has_stopped(tmp_path / "out")
    state = Watch(tmp_path / "out", [trial(LONG).id]).look()[trial(LONG).id]
    assert (state.state, state.progress.step) == ("waiting", taken)
    assert rows(tmp_path / "out") == []


def test_a_second_ctrl_c_ends_at_once(tmp_path):
    slow = "fake:steps=3:ms=20000"
    command = Command(tmp_path / "out", [slow, LONG], jobs=2, fresh=True)
    _runs(tmp_path / "out", LONG)
    os.killpg(command.pid, signal.SIGINT)
    time.sleep(1)
    assert is_held(folder_of(tmp_path / "out", trial(slow).id))  # for its step of 20 seconds
    os.killpg(command.pid, signal.SIGINT)
    assert command.end() in (1, 130, -signal.SIGINT)
    assert command.told.endswith("KeyboardInterrupt\n")
    until(lambda: not is_held(folder_of(tmp_path / "out", trial(slow).id)), timeout_s=5)


def test_what_was_stopped_goes_on_where_it_was(tmp_path):
    out, model = tmp_path / "out", "fake:steps=100:ms=5"
    command = Command(out, [model])
    _runs(out, model)
    os.kill(command.pid, signal.SIGTERM)
    command.end()
    again = Command(out, [model])
    assert again.end() == 0
    assert again.told.endswith("done 1 left 0 stop False\n")
    assert steps(out, trial(model)) == list(range(1, 101))


def test_trials_of_a_killed_command_save_and_end(tmp_path):
    command = Command(tmp_path / "out", [LONG])
    _runs(tmp_path / "out", LONG)
    command.kill()
    _has_stopped(tmp_path / "out")


def test_two_commands_do_each_trial_once_and_both_end_with_all(tmp_path):
    out = tmp_path / "out"
    both = [Command(out, PAIR), Command(out, PAIR)]
    assert [command.end() for command in both] == [0, 0]
    for command in both:
        assert command.told.endswith("done 2 left 0 stop False\n")
    assert [steps(out, trial(model)) for model in PAIR] == [[*range(1, 61)], [*range(1, 62)]]
    assert len(rows(out)) == 2


def test_a_command_takes_over_from_one_that_is_killed(tmp_path):
    out, model = tmp_path / "out", "fake:steps=300:ms=5"
    first = Command(out, [model])
    _runs(out, model)
    second = Command(out, [model])
    until(lambda: second.told == f"held {trial(model).id} None\n")
    first.kill()
    assert second.end() == 0
    assert second.told.endswith("done 1 left 0 stop False\n")
    assert steps(out, trial(model)) == list(range(1, 301))
    assert len(rows(out)) == 1
