"""`ctxbench ablate` as a user meets it."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import safe_open

from ctxbench.ablate.checkpoint import CHECKPOINT, WEIGHTS
from ctxbench.ablate.experiment_file import read
from ctxbench.ablate.folder import folder_of, locked
from ctxbench.ablate.plan import plan
from ctxbench.ablate.train import train
from tests.ablate.tiny import DATA, NET
from tests.ablate.tiny import run as settings
from tests.ablate.training import until
from tests.cli.ablating import HEAD, LONG, LR_1000, WIDTHS, is_under_way, rows, started


def trained(folder, text, *words):
    """Run the real command to its end."""
    file, out = folder / "tiny.toml", folder / "results"
    file.write_text(text)
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with started(file, out, *words, **pipe) as process:
        stdout, stderr = process.communicate(timeout=120)
    return SimpleNamespace(
        file=str(file), out=out, code=process.returncode, stdout=stdout, stderr=stderr
    )


@pytest.fixture
def write(tmp_path):
    """Write an experiment file."""

    def _write(text=WIDTHS, name="tiny"):
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        return str(path)

    return _write


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """An experiment of two widths and two seeds that is finished."""
    return trained(tmp_path_factory.mktemp("done"), WIDTHS)


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """An experiment of which one of two trials has failed."""
    return trained(tmp_path_factory.mktemp("failed"), LR_1000, "--jobs", "2")


def lines(out):
    return (out / "raw" / "trials.jsonl").read_bytes()


def test_a_whole_experiment(done):
    assert done.code == 0, done.stderr
    assert [line.split()[:3] for line in done.stdout.splitlines()[2:4]] == [
        ["width", "2", "2"], ["width", "4", "2"],
    ]  # fmt: skip
    assert [(row["status"], row["seed"]) for row in rows(done.out)] == [("ok", 0), ("ok", 1)] * 2
    (row,) = rows(done.out, "experiments")
    assert (row["experiment"], row["title"], row["seeds"]) == ("tiny", "A tiny network", [0, 1])


def test_a_line_for_each_trial_and_a_verdict(done):
    told = [f"width {width}, seed {seed}: done" for width in (2, 4) for seed in (0, 1)]
    assert done.stderr.splitlines() == told
    expected, verdict = done.stdout.splitlines()[4:]
    assert expected == "expected: wide beats narrow (by 1 point)"
    assert verdict.strip().startswith("inconclusive")  # of two seeds nothing is concluded


def test_weights_stay_and_checkpoints_go(done):
    for row in rows(done.out):
        folder = folder_of(done.out, row["trial"])
        with safe_open(folder / WEIGHTS, "pt") as weights:
            assert "6.bias" in weights.keys()  # noqa: SIM118 - it is no dictionary
        assert not (folder / CHECKPOINT).exists()


def test_run_again_nothing_is_trained_and_the_table_is_the_same(done, run):
    before = lines(done.out)
    code, out, err = run("ablate", done.file, "--out", str(done.out))
    assert (code, out) == (0, done.stdout)
    assert ": done" not in err
    assert lines(done.out) == before


def test_a_trial_is_known_under_another_experiment(done, run, write):
    before = lines(done.out)
    other = write(WIDTHS.replace("model.width = [2, 4]", "model.width = [4, 2]"), "other")
    code, out, _ = run("ablate", other, "--out", str(done.out), "--set", "seeds=1")
    assert (code, lines(done.out)) == (0, before)
    assert [line.split()[:3] for line in out.splitlines()[2:4]] == [
        ["width", "4", "1"], ["width", "2", "1"],
    ]  # fmt: skip


def test_one_seed_shows_no_interval(done, run):
    words = ("--set", "seeds=1", "--format", "json", "--quiet")
    _, out, _ = run("ablate", done.file, "--out", str(done.out), *words)
    for row in json.loads(out):
        assert row["top1_error"] is not None
        assert (row["top1_low"], row["top1_high"], row["p"]) == (None, None, None)


def test_a_changed_recipe_is_another_trial(done, run, tmp_path):
    shutil.copytree(done.out, tmp_path / "results")
    words = ("--set", "recipe.lr=0.01", "--set", "model.width=4", "--set", "seeds=0")
    code, out, _ = run("ablate", done.file, *words)
    assert code == 0
    assert out.splitlines()[2].split()[0] != "width" or len(out.splitlines()) == 3
    old, new = rows(done.out), rows(tmp_path / "results")
    assert [row["trial"] for row in new[:4]] == [row["trial"] for row in old]
    assert [(row["recipe"]["lr"], row["model"]) for row in new[4:]] == [(0.01, f"{NET}:width=4")]


def test_dry_run_trains_nothing(run, write, tmp_path):
    code, out, err = run("ablate", write(), "--dry-run")
    assert code == 0
    head, _, *found = out.splitlines()
    assert head.split()[:4] == ["variant", "network", "data", "seeds"]
    assert [line.split()[:2] for line in found] == [["width", "2"], ["width", "4"]]
    assert re.fullmatch(r"4 trials, about [\d.e-]+ \w+ in all, one at a time.*\n", err)
    assert not (tmp_path / "results").exists()


def test_dry_run_as_json_has_its_numbers(run, write):
    _, out, err = run("ablate", write(), "--dry-run", "--format", "json", "--quiet")
    (_, wide), classes, pixels = json.loads(out), 3, 8 * 8
    assert (wide["seeds"], err) == (2, "")
    assert wide["params"] == 4 * 10 + 2 * 4 + 4 * 4 * classes + classes
    assert wide["macs"] == pixels * 4 * 9 + 4 * 4 * classes
    assert 0 < wide["trial_s"] < 10


def test_dry_run_without_the_data(run, write):
    text = WIDTHS.replace(DATA, "imagefolder:nowhere").replace(NET, "resnet_tiny")
    code, out, err = run("ablate", write(text), "--dry-run")
    assert code == 0
    assert "resnet_tiny:width=2" in out
    assert "the data are not there" in err
    assert err.count("there is no folder 'nowhere/train'") == 1


def states(run, file, out, *words):
    code, told, _ = run(
        "ablate", str(file), "--out", str(out), "--status", "--format", "json", *words
    )
    assert code == 0
    return json.loads(told)


def test_status_before_and_after(run, write, done, tmp_path):
    assert {row["state"] for row in states(run, write(), tmp_path / "none")} == {"waiting"}
    assert not (tmp_path / "none").exists()
    found = states(run, done.file, done.out)
    assert [(row["seed"], row["state"]) for row in found] == [(0, "done"), (1, "done")] * 2


def test_status_of_what_runs(run, write, done):
    (row, *_) = states(run, done.file, done.out, "--set", "seeds=9")
    with locked(folder_of(done.out, row["trial"])):
        found = states(run, done.file, done.out, "--set", "seeds=9")
    assert [row["state"] for row in found] == ["running", "waiting"]


def test_status_of_what_failed(run, failed):
    sane, wild = states(run, failed.file, failed.out)
    assert (sane["state"], wild["state"]) == ("done", "failed")
    assert "loss" in wild["reason"]


@pytest.mark.parametrize(
    ("form", "read"),
    [
        ("json", lambda text: [row["variant"] for row in json.loads(text)]),
        ("csv", lambda text: [row["variant"] for row in csv.DictReader(io.StringIO(text))]),
        ("md", lambda text: [row.split("|")[1].strip() for row in text.splitlines()[2:]]),
        ("latex", lambda text: re.findall(r"^(width \d) &", text, re.MULTILINE)),
    ],
)
def test_formats(run, done, form, read):
    code, out, _ = run("ablate", done.file, "--out", str(done.out), "--format", form)
    assert (code, read(out)) == (0, ["width 2", "width 4"])


def test_quiet_has_no_notes(run, done):
    code, out, err = run("ablate", done.file, "--out", str(done.out), "--quiet")
    assert (code, out, err) == (0, done.stdout, "")


def test_a_failed_trial_is_told_and_the_others_are_done(failed):
    assert failed.code == 1
    found = {row["recipe"]["lr"]: row for row in rows(failed.out)}
    assert (found[0.05]["status"], found[1000.0]["status"]) == ("ok", "failed")
    reason = found[1000.0]["reason"]
    assert f"FAILED training wild, seed 0 ({found[1000.0]['trial']}): {reason}" in failed.stderr
    assert failed.stderr.endswith("--retry-failed runs them again.\n")
    assert [line.split()[1] for line in failed.stdout.splitlines()[2:4]] == ["sane", "wild"]


def test_a_failed_trial_runs_again_only_when_asked(failed, run):
    words = ("ablate", failed.file, "--out", str(failed.out), "--quiet")
    before = len(rows(failed.out))
    code, _, err = run(*words)
    assert (code, len(rows(failed.out))) == (1, before)
    assert "FAILED training wild" in err  # quiet or not
    assert run(*words, "--retry-failed")[0] == 1
    assert [row["recipe"]["lr"] for row in rows(failed.out)[before:]] == [1000.0]


MISTAKES = [
    (("absent.toml",), "Cannot read the experiment absent.toml: No such file"),
    (("{bad}",), "bad.toml is no TOML:"),
    (("{key}",), "'sedes'. Did you mean 'seeds'?"),
    (("{}", "--set", "recipe.epoch=1"), "Unknown key of [recipe]"),
    (("{}", "--set", "epochs=1"), "Unknown setting of --set 'epochs'."),
    (("{}", "--set", "recipe.epochs"), "--set 'recipe.epochs' is not of the form"),
    (("{}", "--set", "recipe.epochs=0"), "epochs=0 is out of range"),
    (("{}", "--set", "model=resnet_tin"), "would undo the axis 'width'"),
    (("{}", "--set", "model.widht=4"), "cannot be built with"),
    (("{option}",), "Unknown option of resnet_tiny 'widht'. Did you mean 'width'?"),
    (("{}", "--set", "data=digit"), "Unknown data set 'digit'. Did you mean 'digits'?"),
    (("{}", "--set", "data=imagefolder:nowhere"), "nowhere"),
    (("{}", "--status", "--set", "data=imagefolder:nowhere"), "nowhere"),
    (("{}", "--set", "recipe.batch=1000"), "A batch of 1000 is more than the 64 training images."),
    (("{}", "--engine", "slurm"), "There is no engine 'slurm'. Use local or ray."),
    (("{}", "--address", "a:1"), "--address a:1 is for --engine ray."),
    (("{}", "--device", "tpu"), "There is no device 'tpu'."),
    (("{}", "--out", "/proc/nowhere"), "/proc/nowhere"),
]


FILES = {
    "{}": WIDTHS,
    "{bad}": "title = ",
    "{key}": f"sedes = [1]\n{WIDTHS}",
    "{option}": f"{HEAD.replace(NET, 'resnet_tiny')}[grid]\nmodel.widht = [4]",
}


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(run, write, words, message):
    file, *others = words
    if file in FILES:
        file = write(FILES[file], file.strip("{}") or "tiny")
    code, out, err = run("ablate", file, *others)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("ctxbench: ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("words", [(), ("{}", "--jobs", "0"), ("{}", "--threads", "none")])
def test_wrong_usage_is_exit_code_2(run, write, words):
    assert run("ablate", *(write() if word == "{}" else word for word in words))[0] == 2


def test_help_has_an_example(run):
    assert "Example: ctxbench ablate experiments/" in run("ablate", "--help")[1]


@pytest.mark.parametrize("kind", ["experiments", "trials"])
def test_a_full_disk_is_one_line_and_nothing_is_lost(run, write, tmp_path, kind):
    file, raw = write(), tmp_path / "results" / "raw"
    raw.mkdir(parents=True)
    (raw / f"{kind}.jsonl").symlink_to("/dev/full")
    words = ("ablate", file, "--set", "model.width=2", "--set", "seeds=0")
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("ctxbench: Cannot append to ")
    assert f"{kind}.jsonl: No space left on device. Choose --out." in err
    (raw / f"{kind}.jsonl").unlink()
    assert run(*words)[0] == 0


@pytest.mark.parametrize("name", ["results", "results/raw", "results/trials"])
def test_a_results_folder_that_is_none(run, write, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("a file")
    code, out, err = run("ablate", write())
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert re.match(r"ctxbench: Cannot (append|write) to .*Choose --out\.$", err)


def test_a_results_folder_that_is_read_only(run, write, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)  # who tests may be root
    code, out, err = run("ablate", write())
    assert (code, out) == (2, "")
    assert err.endswith("it is read-only. Choose --out.\n")


def uninterrupted(file, folder):
    """Train the first trial of an experiment here."""
    trial, run = plan(read(file))[0].trials[0], settings(checkpoint_s=1e9)
    row = train(trial, folder, run, stop=lambda: False, tell=lambda progress: None)
    return row.weights, row.curve


def test_ctrl_c_saves_and_the_same_command_goes_on(run, write, tmp_path):
    file, out = write(LONG), tmp_path / "results"
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with started(file, out, **pipe) as process:
        until(lambda: is_under_way(out), timeout_s=60)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[0].startswith("Stopping: the trials under way finish their step")
    goes_on = f"Interrupted: 0 trials done, 2 left. `ctxbench ablate {file}` with the same options"
    assert err.splitlines()[-1].startswith(goes_on)
    assert rows(out) == []
    assert run("ablate", file)[0] == 0
    long, short = rows(out)
    assert (long["resumed"], short["resumed"]) == (1, 0)
    assert (long["weights"], long["curve"]) == uninterrupted(Path(file), tmp_path / "whole")
