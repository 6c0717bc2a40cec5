"""Experiments of a network that trains in milliseconds, and the real command on them."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading

from ctxbench.ablate.folder import read_progress
from ctxbench.records import read_rows
from tests.ablate.tiny import DATA, NET

HEAD = f"""
title = "A tiny network"
model = "{NET}"
data = "{DATA}"
seeds = [0, 1]
[recipe]
epochs = 3
batch = 16
lr = 0.05
ema = 0.9
[augmentation]
crop = "pad"
"""
WIDTHS = f"""{HEAD}
[grid]
model.width = [2, 4]
[[expects]]
words = "wide beats narrow"
better = {{ width = 4 }}
than = {{ width = 2 }}
"""
# one of them cannot be trained
LR_1000 = f"""{HEAD.replace("[0, 1]", "[0]")}
[grid.training]
sane = {{}}
wild = {{ "recipe.lr" = 1000.0, "recipe.epochs" = 60, "recipe.ema" = 0.0 }}
"""
# the first of them takes seconds
LONG = f"""{HEAD.replace("[0, 1]", "[0]")}
[grid.training]
long = {{ "recipe.epochs" = 300 }}
short = {{}}
"""


def started(file, out, *words, **streams):
    """Start the real command, in a session of its own as a terminal's is."""
    program = [sys.executable, "-m", "ctxbench", "ablate", str(file), "--out", str(out), *words]
    return subprocess.Popen(program, start_new_session=True, **streams)


def rows(out, kind="trials"):
    return read_rows(kind, raw=out / "raw").rows


def is_under_way(out):
    """Tell whether the first trial has taken some of its steps."""
    found = [read_progress(folder)[0] for folder in (out / "trials").glob("*")]
    return any(at is not None and 0 < at.step < at.steps - 100 for at in found)


class Terminal:
    """The real command with a terminal for some of its streams; `seen` is what it has drawn."""

    def __init__(self, file, out, *words, shown=("stderr",)):
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
        streams = {
            name: theirs if name in shown else subprocess.PIPE for name in ("stdout", "stderr")
        }
        env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
        self.process = started(file, out, *words, **streams, stdin=theirs, env=env)
        os.close(theirs)
        self._drawn = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        while True:
            try:
                part = os.read(self._ours, 65536)
            except OSError:  # the other side is closed
                return
            self._drawn.append(part)

    def end(self):
        """Wait for its end and return its exit code and what went elsewhere."""
        piped = self.process.stdout or self.process.stderr
        text = piped.read().decode()
        piped.close()
        code = self.process.wait(120)
        self._thread.join(10)
        os.close(self._ours)
        return code, text

    @property
    def seen(self):
        return b"".join(self._drawn).decode()


def plain(text):
    """Leave out what moves the cursor and colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
