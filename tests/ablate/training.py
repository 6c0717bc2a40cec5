"""A training that costs nothing but takes steps, saves, stops and breaks as a real one does.

Its model says how: `fake:steps=5:ms=10`. Each step is a line in `steps.log`, so that a test sees
which were taken, and by which process.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from ctxbench.ablate import distributed
from ctxbench.ablate.checkpoint import CHECKPOINT, write_atomically
from ctxbench.ablate.local import server
from ctxbench.ablate.recipe import Recipe
from ctxbench.ablate.runner import make_engine, run_all
from ctxbench.ablate.train import failed
from ctxbench.ablate.trial import InterruptedTrial, Progress, Run, Trial, TrialError
from ctxbench.data.augment import Augmentation
from ctxbench.errors import CtxbenchError
from ctxbench.records import read_rows

RUN = Run(device="cpu")
_ERRORS = {
    "TrialError": TrialError("the loss is nan"),
    "CtxbenchError": CtxbenchError("the data is not there"),
    "ValueError": ValueError("of the network\nand more"),
}


def trial(model="fake", seed=0):
    """Make a trial whose id is that of its model and seed."""
    name = hashlib.sha256(f"{model} {seed}".encode()).hexdigest()[:16]
    return Trial(name, model, "context", Recipe(), Augmentation(), seed)


def train(trial, folder, run, *, stop, tell):
    """Take the steps that are left."""
    options = dict(word.split("=") for word in trial.model.split(":")[1:])
    steps, ms = int(options.get("steps", 3)), float(options.get("ms", 1))
    rank = distributed.world()[0]
    (folder / "where.json").write_text(json.dumps({
        "threads": torch.get_num_threads(), "omp": os.environ.get("OMP_NUM_THREADS"),
        "folder": str(Path.cwd()), "main": sys.modules["__main__"].__dict__.get("__file__"),
    }))  # fmt: skip
    checkpoint = folder / CHECKPOINT
    step = int(checkpoint.read_text()) if checkpoint.exists() else 0
    while step < steps:
        _break(options, folder, step)
        time.sleep(ms / 1000)
        step += 1
        _append(folder / "steps.log", f"{rank} {step} {os.getpid()}")
        tell(Progress(0, 1, step, steps, 1 / step, None, 1000.0))
        (stopped,) = distributed.any_of(stop())
        if rank == 0:
            write_atomically(checkpoint, lambda file, at=step: file.write(str(at).encode()))
        if stopped:
            raise InterruptedTrial("stopped")
    return replace(
        failed(trial, "", run), status="ok", reason=None, steps=step, weights=f"{trial.seed:016x}"
    )


def _break(options, folder, step):
    """Die or raise at a step, as often as the options say."""
    if options.get("at") != str(step):
        return
    tries = folder / "broken.log"
    _append(tries, "once more")
    if len(tries.read_text().splitlines()) > int(options.get("times", 1)):
        return
    how = options["how"]
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(3)
    raise _ERRORS[how]


def _append(path, line):
    with path.open("a") as file:
        file.write(f"{line}\n")


def steps(out, of):
    """Return the steps that were taken for a trial, in order."""
    path = out / "trials" / of.id / "steps.log"
    lines = path.read_text().splitlines() if path.exists() else []
    return [int(line.split()[1]) for line in lines]


def where(out, of):
    """Return the surroundings in which a trial was trained last."""
    return json.loads((out / "trials" / of.id / "where.json").read_text())


def rows(out):
    """Return the rows of trials."""
    return read_rows("trials", raw=out / "raw").rows


def until(condition, *, timeout_s=30):
    """Wait until something is so."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def program(out, jobs, models):
    """Do trials and print what happens, as a command does."""

    def tell(event):
        print(event.kind, event.trial, event.reason, flush=True)  # noqa: T201 - it is a command

    found = run_all(
        [trial(model) for model in models], out=out, run=RUN,
        engine=make_engine("local", jobs=jobs, device="cpu"), on_event=tell, train=train,
    )  # fmt: skip
    words = f"done {len(found.done)} left {len(found.left)} stop {found.interrupted}"
    print(words, flush=True)  # noqa: T201 - it is a command


def _alone(log, *given):
    """Be a command: the leader of a process group, with standard streams of its own."""
    os.setsid()
    with log.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.stdout = sys.stderr = open(1, "w", closefd=False)  # noqa: SIM115 - for good
    program(*given)


class Command:
    """A process that does trials; forked from one that has loaded torch, or a fresh one."""

    def __init__(self, out, models, *, jobs=1, fresh=False):
        self._log = out.parent / f"{time.monotonic_ns()}.log"
        self._log.touch()
        self._fresh = fresh
        if not fresh:
            self._process = server().Process(target=_alone, args=(self._log, out, jobs, models))
            self._process.start()
            self.pid = self._process.pid
            return
        code = "from tests.ablate import training; from pathlib import Path\n"
        code += f"training.program(Path({str(out)!r}), {jobs}, {models})"
        with self._log.open("w") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code], stdout=stream, stderr=stream,
                cwd=Path(__file__).parents[2], start_new_session=True,
            )  # fmt: skip
        self.pid = self._process.pid

    @property
    def told(self):
        """What it has printed so far."""
        return self._log.read_text()

    def kill(self):
        """End it as the system does when memory is short."""
        os.kill(self.pid, signal.SIGKILL)
        self.end()

    def end(self):
        """Wait for its end and return its exit code."""
        if self._fresh:
            return self._process.wait(60)
        self._process.join(60)
        return self._process.exitcode
