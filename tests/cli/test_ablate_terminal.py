"""`ctxbench ablate` in a terminal: bars on standard error, and nothing of them elsewhere."""

import io
import os
import re
import signal
import sys
from types import SimpleNamespace

import pytest

from ctxbench.ablate.runner import Event
from ctxbench.ablate.status import TrialState
from ctxbench.ablate.trial import Progress
from ctxbench.cli._trials import display
from tests.ablate.training import until
from tests.cli.ablating import LONG, Terminal, is_under_way, plain

SHORT = LONG.replace("300", "4")


def begun(folder, text, *words, **given):
    """Start an experiment in a terminal."""
    (folder / "tiny.toml").write_text(text)
    return Terminal(folder / "tiny.toml", folder / "results", *words, **given)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """What an experiment has drawn, and what it has printed elsewhere."""
    terminal = begun(tmp_path_factory.mktemp("drawn"), LONG, "--jobs", "2")
    code, stdout = terminal.end()
    return SimpleNamespace(code=code, stdout=stdout, seen=terminal.seen)


def test_a_bar_for_all_and_one_for_each_under_way(drawn):
    assert drawn.code == 0, drawn.seen
    seen = plain(drawn.seen)
    assert re.search(r"trials +[━╸╺ ]+ +0/2", seen)
    assert re.search(r"training long, seed 0 +[━╸╺ ]+ +\d+/1200 .*loss .*images/s", seen)
    assert "training short, seed 0: done" in seen


def test_bars_move(drawn):
    steps = [int(step) for step in re.findall(r"(\d+)/1200", plain(drawn.seen))]
    assert len(set(steps)) > 2
    assert steps == sorted(steps)


def test_standard_output_is_clean(drawn):
    assert "\x1b" not in drawn.stdout
    assert [line.split()[1] for line in drawn.stdout.splitlines()[2:4]] == ["long", "short"]


def test_bars_are_gone_in_the_end(drawn):
    assert "━" not in drawn.seen.rpartition("\x1b[2K")[2]
    assert "\x1b[?25h" in drawn.seen  # the cursor is back


def test_no_bars_where_standard_error_is_no_terminal(tmp_path):
    terminal = begun(tmp_path, SHORT, shown=("stdout",))
    code, err = terminal.end()
    assert code == 0
    assert err.splitlines() == [f"training {name}, seed 0: done" for name in ("long", "short")]
    assert plain(terminal.seen) == terminal.seen
    assert [line.split()[1] for line in terminal.seen.splitlines()[2:]] == ["long", "short"]


def test_ctrl_c_in_a_terminal(tmp_path):
    terminal = begun(tmp_path, LONG)
    until(lambda: is_under_way(tmp_path / "results"), timeout_s=60)
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.end()[0] == 130
    seen = plain(terminal.seen)
    assert "Stopping: the trials under way finish their step and save." in seen
    assert "Interrupted: 0 trials done, 2 left." in seen
    assert "None" not in seen


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Have an event shown on standard error, which may be a terminal, and return the text."""

    def _told(event=None, *, name="width 2, seed 0", terminal=True, quiet=False):
        stream = io.StringIO()
        stream.isatty = lambda: terminal
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", "120")
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stderr", stream)
            with display({"a": name}, tmp_path, quiet=quiet) as tell:
                if event:
                    tell(event)
        return plain(stream.getvalue())

    return _told


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Event("ok", "a"), "width 2, seed 0: done"),
        (Event("failed", "a", "the loss is nan"), "width 2, seed 0: failed"),
        (Event("held", "a"), "width 2, seed 0: is run by another process; waiting for it"),
        (Event("found", "a"), "width 2, seed 0: done by another process"),
        (Event("stopping"), "Stopping: the trials under way finish their step and save."),
    ],
)
@pytest.mark.parametrize("terminal", [True, False])
def test_events_are_lines(told, event, line, terminal):
    assert line in told(event, terminal=terminal)


@pytest.mark.parametrize("terminal", [True, False])
def test_what_was_interrupted_is_no_line(told, terminal):
    seen = told(Event("interrupted", "a"), terminal=terminal)
    assert "None" not in seen
    assert terminal or seen == ""


def test_quiet_draws_nothing(told):
    assert told(Event("failed", "a", "it broke"), quiet=True) == ""


def test_brackets_are_text(told):
    seen = told(Event("mistake", "a", "[Errno 28] in [/tmp]"), name="levels [/b] [red]")
    assert "levels [/b] [red]: FAILED: [Errno 28] in [/tmp]" in seen


def test_brackets_are_text_in_bars_too(told, monkeypatch):
    at = Progress(0, 1, 30, 60, 0.5, 25.0, 1000.0)
    state = {"a": TrialState("a", "running", progress=at)}
    monkeypatch.setattr("ctxbench.ablate.status.Watch.look", lambda self: state)
    assert re.search(r"levels \[/b\] .* 30/60 .* loss 0.5, error 25.0 %", told(name="levels [/b]"))
