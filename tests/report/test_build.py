import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ctxbench.cli import app
from ctxbench.errors import RecordsError
from ctxbench.report.build import build_report
from tests.report.ablation_rows import experiment, trials
from tests.report.latency_rows import timing
from tests.report.rows import COUNTING, cost

MADE = [
    *(
        f"tables/{name}.{suffix}"
        for name in (
            "costs", "claims", "operators", "latency", "context_cost", "timers", "training",
            "training_jobs", "ablations", "expectations", "cue_shares", "receptive_fields",
            "faithfulness", "sampling", "kernels", "priors", "gradcam_speed",
        )
        for suffix in ("csv", "md", "tex")
    ),
    *(
        f"figures/{name}.{suffix}"
        for name in (
            "claims", "parity", "latency", "roofline", "operators", "layers", "ablation_errors",
            "ablation_curves", "ablation_distance", "ablation_priors", "data_examples",
        )
        for suffix in ("png", "svg", "pdf")
    ),
    "report.html",
]  # fmt: skip


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_writes_every_table_and_figure(raw, tmp_path):
    report = build_report([raw], tmp_path / "out")
    assert [str(path.relative_to(tmp_path / "out")) for path in report.written] == MADE
    assert all(path.stat().st_size for path in report.written)


def test_a_rebuild_gives_the_same_bytes(raw, tmp_path):
    build_report([raw], tmp_path / "out")
    before = contents(tmp_path / "out")
    build_report([raw], tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_rows_are_left_alone(raw, tmp_path):
    before = contents(raw)
    build_report([raw], tmp_path)
    assert contents(raw) == before


def test_a_kind_without_rows_is_noted_with_its_command(raw, tmp_path):
    report = build_report([raw], tmp_path / "out")
    (note,) = report.notes
    assert "No tables/counting" in note
    assert "make benchmark" in note


def test_a_command_in_a_note_names_the_folder_that_is_read(raw, tmp_path):
    (raw / "claims.jsonl").unlink()
    notes = " ".join(build_report([raw], tmp_path / "out").notes)
    assert f"ctxbench claims --out {tmp_path}" in notes


def test_a_file_that_lost_its_rows_is_removed_and_others_are_kept(raw, tmp_path, save_rows):
    save_rows(raw, "counting", COUNTING)
    build_report([raw], tmp_path / "out")
    (tmp_path / "out/tables/mine.csv").write_text("kept")
    (raw / "counting.jsonl").unlink()
    (note,) = build_report([raw], tmp_path / "out").notes
    assert "removed counting.csv, counting.md, counting.tex" in note
    left = {f"tables/{path.name}" for path in (tmp_path / "out/tables").iterdir()}
    assert left == {*(name for name in MADE if name.startswith("tables")), "tables/mine.csv"}


def test_times_without_anything_compared_make_a_table_but_no_ratios(raw, tmp_path, save_rows):
    (raw / "latency.jsonl").unlink()
    save_rows(raw, "latency", [timing("plain", intensity=None)])
    notes = " ".join(build_report([raw], tmp_path / "out").notes)
    assert (tmp_path / "out/tables/latency.csv").exists()
    for name in ("tables/context_cost", "figures/latency", "figures/roofline"):
        assert f"No {name}: no rows for it. Run make latency" in notes


def test_experiments_that_fit_no_figure_are_noted(raw, tmp_path, save_rows):
    for kind in ("experiments", "trials"):
        (raw / f"{kind}.jsonl").unlink()
    single = experiment("single", {"net": ["plain", "context"]}, seeds=[0])
    save_rows(raw, "experiments", [single])
    save_rows(raw, "trials", trials(single, {("plain",): [20.0], ("context",): [19.0]}))
    notes = " ".join(build_report([raw], tmp_path / "out").notes)
    assert (tmp_path / "out/figures/ablation_errors.png").exists()
    for name in ("tables/expectations", "figures/ablation_distance", "figures/ablation_priors"):
        assert f"No {name}: no rows for it. Run ctxbench ablate" in notes


def test_the_command_of_two_kinds_is_named_once(tmp_path):
    with pytest.raises(RecordsError) as raised:
        build_report([tmp_path / "raw"], tmp_path)
    assert str(raised.value).count("ctxbench ablate") == 1


def test_layers_of_another_pair_make_no_parity_figure(raw, tmp_path):
    text = (raw / "layers.jsonl").read_text().replace("resnet50", "resnet18")
    (raw / "layers.jsonl").write_text(text)
    report = build_report([raw], tmp_path / "out")
    assert any("No figures/parity" in note and "--per-layer" in note for note in report.notes)
    assert not (tmp_path / "out/figures/parity.png").exists()


def test_a_torn_line_is_noted_and_left_out(raw, tmp_path, save_rows):
    with (raw / "costs.jsonl").open("a") as file:
        file.write('{"model": "torn", "par\n')
    save_rows(raw, "costs", [cost("after", 1, None)])
    report = build_report([raw], tmp_path / "out")
    assert any("costs.jsonl: skipped line 3" in note for note in report.notes)
    table = (tmp_path / "out/tables/costs.csv").read_text()
    assert "torn" not in table
    assert "after" in table


def test_files_that_are_not_shown_are_counted_and_named(raw, tmp_path, save_rows):
    save_rows(raw, "trained", [{"model": "plain"}])
    (raw / "notes.txt").touch()
    report = build_report([raw], tmp_path / "out")
    assert any("2 files in it not shown: notes.txt, trained.jsonl" in n for n in report.notes)


def test_no_rows_at_all_is_an_error_that_names_the_commands(tmp_path):
    with pytest.raises(RecordsError, match=r"ctxbench claims --out .*ctxbench flops coresnet50"):
        build_report([tmp_path / "raw"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error(raw, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(RecordsError, match=r"Cannot write .*out"):
        build_report([raw], tmp_path / "out")


def test_the_command_prints_files_and_notes_apart(raw, tmp_path):
    result = CliRunner().invoke(app, ["report", "--out", str(tmp_path)])
    assert result.exit_code == 0
    assert result.stdout.split() == [str(tmp_path / name) for name in MADE]
    assert "No tables/counting" in result.stderr


def test_the_command_keeps_its_notes_to_itself_when_quiet(raw, tmp_path):
    result = CliRunner().invoke(app, ["report", "--out", str(tmp_path), "--quiet"])
    assert result.stderr == ""


def test_a_report_loads_no_torch(raw, tmp_path):
    code = (
        "import sys; from pathlib import Path; from ctxbench.report.build import build_report; "
        f"build_report([Path({str(raw)!r})], Path({str(tmp_path / 'out')!r})); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


def _children(pid):
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks /proc for children")
def test_a_report_that_is_killed_leaves_no_process(raw, tmp_path):
    words = [sys.executable, "-m", "ctxbench", "report", "--rows", str(raw), "--out", str(tmp_path)]
    report = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    drawing = []
    while not drawing and report.poll() is None:
        drawing = [child for child in _children(report.pid) if _is_there(child)]
    report.kill()
    report.wait()
    end = time.monotonic() + 60
    while any(map(_is_there, drawing)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(_is_there, drawing))


def _is_there(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
