"""Trials under torchrun: two real processes that find each other by gloo."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ctxbench.ablate.checkpoint import WEIGHTS
from ctxbench.ablate.folder import folder_of, is_held
from tests.ablate.tiny import images, net
from tests.ablate.training import rows, steps, trial, until

LONG = "fake:steps=1000:ms=5"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def torchrun(tmp_path):
    """Start trials on two processes; what still runs at the end of the test is ended."""
    started = []

    def _torchrun(*models):
        program = tmp_path / "program.py"
        program.write_text(
            "import sys; from pathlib import Path; from tests.ablate import training\n"
            "training.program(Path(sys.argv[1]), 1, sys.argv[2:])\n"
        )
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        process = subprocess.Popen(
            [sys.executable, *launch, program, tmp_path / "out", *models],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield _torchrun
    for process in started:
        process.terminate()  # which ends its processes too
        process.communicate(timeout=60)


def _lines(out, of, rank):
    path = folder_of(out, of.id) / "steps.log"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [int(step) for who, step, _ in lines if who == str(rank)]


def _second(out, model):
    log = (folder_of(out, trial(model).id) / "steps.log").read_text().splitlines()
    return next(int(line.split()[2]) for line in log if line.startswith("1 "))


def test_each_trial_is_trained_by_all_and_written_once(torchrun, tmp_path):
    out, bad = tmp_path / "out", "fake:how=TrialError:at=1:times=2"
    process = torchrun("fake", bad, "fake:steps=4")
    told, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert told.count("done 2 left 0 stop False") == 2
    assert [row["status"] for row in rows(out)] == ["ok", "failed", "ok"]
    for rank in range(2):
        assert _lines(out, trial("fake:steps=4"), rank) == [1, 2, 3, 4]


@pytest.mark.parametrize("to", ["one", "torchrun"])
def test_a_signal_stops_all_at_the_same_step(torchrun, tmp_path, to):
    out = tmp_path / "out"
    process = torchrun(LONG)
    until(lambda: len(_lines(out, trial(LONG), 1)) > 5)
    os.kill(_second(out, LONG) if to == "one" else process.pid, signal.SIGTERM)
    told, err = process.communicate(timeout=60)
    assert told.count("done 0 left 1 stop True") >= 1, err
    assert _lines(out, trial(LONG), 0) == _lines(out, trial(LONG), 1)
    saved = (folder_of(out, trial(LONG).id) / "checkpoint.pt").read_text()
    assert len(_lines(out, trial(LONG), 0)) == int(saved) < 1000
    assert rows(out) == []


def test_a_rank_that_dies_ends_the_run_and_it_goes_on_when_started_again(torchrun, tmp_path):
    out, model = tmp_path / "out", "fake:steps=100:ms=5"
    process = torchrun(model)
    until(lambda: len(_lines(out, trial(model), 1)) > 5)
    os.kill(_second(out, model), signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not is_held(folder_of(out, trial(model).id))
    assert rows(out) == []
    again = torchrun(model)
    _, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    assert sorted(set(steps(out, trial(model)))) == list(range(1, 101))
    assert [row["status"] for row in rows(out)] == ["ok"]


EXPERIMENT = """
data = "{tiny}:images:validation=39"
[recipe]
epochs = {epochs}
batch = 16
lr = 0.05
ema = 0.9
[grid]
model = ["{tiny}:net", "{tiny}:net:width=3"]
"""


def _ablate(folder, *, processes, epochs=3):
    """Run the command as a user does; return what is to be waited for."""
    (folder / "tiny.toml").write_text(
        EXPERIMENT.format(tiny=ROOT / "tests/ablate/tiny.py", epochs=epochs)
    )
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = ["-m", "ctxbench", "ablate", folder / "tiny.toml", "--out", folder, "--device", "cpu"]
    return subprocess.Popen(
        [sys.executable, *launch, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_train_one_network(tmp_path):
    """The row tells the error of the weights that are kept, over all images, each once."""
    process = _ablate(tmp_path, processes=2)
    told, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert told.count("width=3") == 1  # one process prints
    for row in rows(tmp_path):
        assert (row["status"], row["world"], row["steps"]) == ("ok", 2, 12)
        model = net(width=3 if "width=3" in row["model"] else 4).eval()
        model.load_state_dict(load_file(folder_of(tmp_path, row["trial"]) / WEIGHTS))
        data = images(validation=39)
        x = (data.validation.images / 255 - data.mean[0]) / data.std[0]
        with torch.no_grad():
            logits = model(x)
        wrong = (logits.argmax(1) != data.validation.labels).float().mean().item()
        assert row["top1_error"] == pytest.approx(100 * wrong)
        loss = torch.nn.functional.cross_entropy(logits, data.validation.labels).item()
        assert row["loss"] == pytest.approx(loss, rel=1e-5)


def test_two_processes_that_are_stopped_go_on_bit_by_bit(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    process = _ablate(whole, processes=2, epochs=60)
    process.communicate(timeout=120)
    process = _ablate(cut, processes=2, epochs=60)
    until(lambda: any(is_held(folder) for folder in (cut / "trials").glob("*")), timeout_s=60)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    process = _ablate(cut, processes=2, epochs=60)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert any(row["resumed"] for row in rows(cut))
    found = [{row["trial"]: row["weights"] for row in rows(folder)} for folder in (whole, cut)]
    assert found[0] == found[1]
