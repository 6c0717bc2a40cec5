"""The report: every table and figure, rebuilt from the rows in `raw` alone."""

import gc
import multiprocessing
import os
import shlex
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pandas import DataFrame

from ctxbench.errors import RecordsError
from ctxbench.records import RAW, Row
from ctxbench.render import Format
from ctxbench.report import readme as marked
from ctxbench.report import sources
from ctxbench.report.figures import FIGURES, Picture, save
from ctxbench.report.page import Report, write_page
from ctxbench.report.tables import TABLES, Table, text

# kind of row -> the command that makes those that the report shows
COMMANDS = {
    "costs": "ctxbench flops '*' --cross-check",
    "claims": "ctxbench claims",
    "layers": "ctxbench flops coresnet50 --against resnet50 --per-layer",
    "counting": "make benchmark",
    "operators": "make benchmark",
    "latency": "make latency",
    "latency_layers": "ctxbench latency coresnet50 --against resnet50 --per-layer",
    "ceilings": "make latency",
    "timers": "python benchmarks/timers.py",
    "training": "python benchmarks/training.py",
    "experiments": "ctxbench ablate experiments/coconv_levels.toml",
    "trials": "ctxbench ablate experiments/coconv_levels.toml",
    "examples": "ctxbench ablate experiments/coconv_levels.toml",
    **dict.fromkeys(("cues", "gradcam", "offsets", "priors", "kernels", "erf"), "make gallery"),
    "gradcam_speed": "python benchmarks/gradcam.py",
}
# the tables with files of their own; the others are for a README
_FILED = (
    "costs", "claims", "counting", "operators", "latency", "context_cost", "timers", "training",
    "training_jobs", "ablations", "expectations", "cue_shares", "receptive_fields",
    "faithfulness", "sampling", "kernels", "priors", "gradcam_speed",
)  # fmt: skip
_FORMATS: dict[str, Format] = {"csv": "csv", "md": "md", "tex": "latex"}
_IMAGES = ("png", "svg", "pdf")


@dataclass(frozen=True, slots=True)
class ReportSummary:
    """The files that were written, and what a reader of them must not miss."""

    written: tuple[Path, ...]
    notes: tuple[str, ...]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Look for no reference cycles meanwhile: of 100 000 rows, that takes a fifth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_no_collection()
def build_report(
    raw: Sequence[Path], out: Path, *, documents: Sequence[Path] = ()
) -> ReportSummary:
    """Write `out/tables`, `out/figures` and the marked tables of Markdown documents.

    `raw` are the folders of the rows, the oldest first; the same rows give the same bytes. What no
    row is behind is not written, its files from before are removed, and both are noted.
    Raises RecordsError if there are no rows at all, or if a document's markers are wrong.
    """
    found = _read(raw)
    places = [marked.Document.read(path, TABLES) for path in documents]
    tables = {name: table.make(_of(found.rows, table)) for name, table in TABLES.items()}
    tables = {name: frame for name, frame in tables.items() if len(frame)}
    drawn = {name: picture.select(_of(found.rows, picture)) for name, picture in FIGURES.items()}
    drawn = {name: frame for name, frame in drawn.items() if len(frame)}
    filled = {name: text(frame, "md") for name, frame in tables.items()} if documents else {}
    try:
        notes = found.notes + _remove_stale(raw[0], out, {"tables": tables, "figures": drawn})
        written = _write_tables(tables, out / "tables") + _write_figures(drawn, out / "figures")
        commands = {kind: _command(kind, raw[0]) for kind in COMMANDS}
        made = Report(found, tables, drawn, notes, commands=commands, filed=_FILED)
        written.append(write_page(made, out))
        for document in places:
            document.fill(filled)
            notes += document.lacking(filled)
            written.append(document.path)
    except OSError as error:
        raise RecordsError(f"Cannot write {error.filename}: {error.strerror}.") from None
    return ReportSummary(tuple(written), tuple(notes))


def _read(raw: Sequence[Path]) -> sources.Sources:
    """Read the rows of every kind that is shown."""
    found = sources.read(raw, COMMANDS)
    if not found.origins:
        ways = "; ".join(dict.fromkeys(_command(kind, raw[0]) for kind in COMMANDS))
        where = " and ".join(map(str, raw))
        raise RecordsError(f"There are no rows in {where} to report. Make some: {ways}")
    return found


def _of(rows: Mapping[str, list[Row]], made: Table | Picture) -> list[Row]:
    """Return the rows that a table or figure is made of, those of its own kind first."""
    return [row for kind in (made.kind, *made.also) for row in rows[kind]]


def _command(kind: str, raw: Path) -> str:
    # rows that were copied from elsewhere are not where a command would put them
    elsewhere = raw != RAW and raw.name == RAW.name and COMMANDS[kind].startswith("ctxbench")
    return COMMANDS[kind] + (f" --out {shlex.quote(str(raw.parent))}" if elsewhere else "")


def _remove_stale(raw: Path, out: Path, made: Mapping[str, Mapping[str, DataFrame]]) -> list[str]:
    """Remove the files of each table and figure that no row is behind."""
    files = {("tables", name, TABLES[name].kind): _FORMATS for name in _FILED}
    images = {("figures", name, picture.kind): _IMAGES for name, picture in FIGURES.items()}
    notes = []
    for (folder, name, kind), suffixes in {**files, **images}.items():
        if name in made[folder]:
            continue
        stale = [out / folder / f"{name}.{suffix}" for suffix in suffixes]
        stale = [path for path in stale if path.exists()]
        for path in stale:
            path.unlink()
        removed = f"; removed {', '.join(path.name for path in stale)} from before" if stale else ""
        notes.append(f"No {folder}/{name}: no rows for it. Run {_command(kind, raw)}{removed}.")
    return notes


def write_table(name: str, table: DataFrame, folder: Path) -> list[Path]:
    """Write a table as CSV, Markdown and LaTeX, and return the files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{name}.{suffix}" for suffix in _FORMATS]
        for path, form in zip(paths, _FORMATS.values(), strict=True):
            path.write_text(f"{text(table, form)}\n", encoding="utf-8")
    except OSError as error:
        raise RecordsError(f"Cannot write {error.filename}: {error.strerror}.") from None
    return paths


def _write_tables(tables: Mapping[str, DataFrame], folder: Path) -> list[Path]:
    return [path for name in _FILED if name in tables
            for path in write_table(name, tables[name], folder)]  # fmt: skip


def _write_figures(drawn: Mapping[str, DataFrame], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    draw = partial(_write_figure, folder)
    processes = _processes()
    if processes < 2 or len(drawn) < 2:
        return [path for each in drawn.items() for path in draw(each)]
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, context, initializer=_end_with_parent) as pool:
        return [path for paths in pool.map(draw, drawn.items()) for path in paths]


def _write_figure(folder: Path, named: tuple[str, DataFrame]) -> list[Path]:
    name, frame = named
    paths = [folder / f"{name}.{suffix}" for suffix in _IMAGES]
    save(FIGURES[name].draw(frame), *paths)
    return paths


def _end_with_parent() -> None:
    """End this process when the one that asked for it is gone, killed for instance."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _processes() -> int:
    """Return how many processes draw: a core each, but one where forking is not safe."""
    alone = threading.active_count() == 1 and "torch" not in sys.modules
    return len(os.sched_getaffinity(0)) if alone and sys.platform == "linux" else 1
