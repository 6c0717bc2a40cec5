"""`ctxbench ablate --tensorboard` as a user meets it."""

import re
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from ctxbench.ablate.tensorboard_events import TAGS
from ctxbench.errors import RecordsError
from tests.ablate.logs import scalars, settings
from tests.ablate.training import until
from tests.cli.ablating import LONG, WIDTHS, is_under_way, rows, started

OPTION = "--tensorboard"
PIPE = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def trained(folder, text, *words):
    """Run the real command to its end, and return where its results are."""
    file, out = folder / "tiny.toml", folder / "results"
    file.write_text(text)
    with started(file, out, *words, **PIPE) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """An experiment that was done with logs, two trials at a time."""
    return trained(tmp_path_factory.mktemp("logged"), WIDTHS, "--jobs", "2", OPTION)


@pytest.fixture(scope="module")
def unlogged(tmp_path_factory):
    """The same without."""
    return trained(tmp_path_factory.mktemp("unlogged"), WIDTHS)


def single(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def logs(out):
    """Return the curves of an experiment by network and seed, as TensorBoard has them."""
    found = {}
    for path in (out / "tensorboard" / "tiny").glob("*/*"):
        curve = scalars(path)
        assert curve.pop("images_s")
        found[path.parent.name, int(path.name)] = curve
    return found


def curves(out, label=lambda row: f"width={row['model'][-1]}"):
    """Return the same of the rows."""
    found = {}
    for row in rows(out):
        steps = [round(epoch * 4) for epoch in row["curve"]["epoch"]]
        found[label(row), row["seed"]] = {
            TAGS.get(key, key): list(zip(steps, map(single, values), strict=True))
            for key, values in row["curve"].items()
        }
    return found


def test_two_trials_at_a_time_have_their_curves(logged):
    assert len(curves(logged)) == 4
    assert logs(logged) == curves(logged)


def test_variants_can_be_compared(logged):
    found = {path.name: settings(path / "0") for path in (logged / "tensorboard/tiny").iterdir()}
    assert found == {
        f"width={width}": (f"tiny/width={width}", {"experiment": "tiny", "width": float(width)})
        for width in (2, 4)
    }


def test_what_is_trained_is_the_same_without(logged, unlogged):
    def results(out):
        return {row["trial"]: (row["weights"], row["curve"]) for row in rows(out)}

    assert results(logged) == results(unlogged)


def test_a_finished_experiment_gets_its_logs_without_training(unlogged, run):
    assert not (unlogged / "tensorboard").exists()
    before = (unlogged / "raw/trials.jsonl").read_bytes()
    code, _, err = run("ablate", str(unlogged.parent / "tiny.toml"), "--out", str(unlogged), OPTION)
    assert (code, err) == (0, "")
    assert (unlogged / "raw/trials.jsonl").read_bytes() == before
    assert logs(unlogged) == curves(unlogged)


def test_a_stopped_trial_goes_on_in_its_curve(run, tmp_path):
    file, out = tmp_path / "tiny.toml", tmp_path / "results"
    file.write_text(LONG)
    with started(file, out, OPTION, **PIPE) as process:
        until(lambda: is_under_way(out), timeout_s=60)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    before = logs(out)
    assert 0 < len(before["training=long", 0]["train/loss"]) < 300
    assert run("ablate", str(file), OPTION)[0] == 0
    found = curves(out, lambda row: "training=long" if row["epochs"] > 3 else "training=short")
    assert rows(out)[0]["resumed"] == 1
    assert logs(out) == found


def test_without_the_package_nothing_begins(run, tmp_path, monkeypatch):
    (tmp_path / "tiny.toml").write_text(WIDTHS)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    code, out, err = run("ablate", "tiny.toml", OPTION)
    assert (code, out) == (2, "")
    told = "--tensorboard needs 'tensorboard'. Install it: pip install 'ctxbench[tensorboard]'"
    assert err == f"ctxbench: {told}\n"
    assert not Path("results").exists()


def test_a_folder_that_cannot_be_written_is_told_before_anything_begins(run, tmp_path):
    (tmp_path / "tiny.toml").write_text(WIDTHS)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "tensorboard").write_text("a file")
    code, out, err = run("ablate", "tiny.toml", OPTION)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert re.match(r"ctxbench: Cannot write to results/tensorboard/tiny: .* Choose --out\.$", err)
    assert [path.name for path in Path("results").iterdir()] == ["tensorboard"]


def test_logs_that_fail_later_cost_a_note_and_no_trial(run, tmp_path, monkeypatch):
    def fail(path, missing):
        raise RecordsError(f"Cannot write {path.name}: No space left on device.")

    (tmp_path / "tiny.toml").write_text(WIDTHS)
    monkeypatch.setattr("ctxbench.ablate.tensorboard.append_events", fail)
    code, out, err = run("ablate", "tiny.toml", OPTION, "--quiet")
    assert (code, len(rows(tmp_path / "results"))) == (0, 4)
    assert "expected: wide beats narrow" in out
    assert err == (
        "TensorBoard logs lack something: Cannot write events.out.tfevents.ctxbench: No space "
        "left on device.\n"
    )


@pytest.mark.slow  # Ray takes its time to start
def test_trials_of_a_cluster_have_their_curves(tmp_path):
    out = trained(tmp_path, WIDTHS, "--engine", "ray", "--jobs", "2", "--device", "cpu", OPTION)
    assert len(curves(out)) == 4
    assert logs(out) == curves(out)


@pytest.mark.slow  # two processes that load torch
def test_trials_of_torchrun_have_their_curves(tmp_path):
    file, out = tmp_path / "tiny.toml", tmp_path / "results"
    file.write_text(WIDTHS)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = ["-m", "ctxbench", "ablate", file, "--out", out, "--device", "cpu", OPTION]
    subprocess.run([sys.executable, *launch, *command], check=True, capture_output=True)
    assert {row["world"] for row in rows(out)} == {2}
    assert logs(out) == curves(out)
