"""Pages made of small rows, without drawing: the pictures are blank."""

import json

from PIL import Image

from ctxbench.report import sources
from ctxbench.report.build import COMMANDS
from ctxbench.report.figures import FIGURES
from ctxbench.report.page import Report, write_page
from ctxbench.report.tables import TABLES
from tests.report.ablation_rows import SMALL, SMALL_TRIALS
from tests.report.example_rows import EXAMPLES
from tests.report.latency_rows import CEILINGS, LATENCY, LAYER_TIMES
from tests.report.picture_rows import PICTURES, cam
from tests.report.rows import CLAIMS, COSTS, LAYERS, OPERATORS, TRAINING, counted

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&amp;"
STAMP = {
    "time": "2026-02-03T04:05:06+00:00", "command": "ctxbench claims --paper 'one two'",
    "seed": 7, "commit": "abc123", "versions": {"python": "3.11.0", "torch": "2.11.0"},
    "machine": {"system": "Linux", "cpu": "Abacus 3000", "cores": 4},
}  # fmt: skip
OTHERS = [
    counted(f"Row {number}", f"net{number}", "params (M)", "10.00", ours, verdict, paper="other")
    for number, (ours, verdict) in enumerate(
        [("9.5", "differs"), ("100.0", "differs"), ("11.0", "differs"), ("10.0", "reproduced")]
    )
]
KINDS = {
    "claims": [*CLAIMS, *OTHERS], "costs": COSTS, "layers": LAYERS, "operators": OPERATORS,
    "latency": LATENCY, "latency_layers": LAYER_TIMES, "ceilings": CEILINGS, "training": TRAINING,
    "examples": EXAMPLES, "experiments": [SMALL], "trials": SMALL_TRIALS, **PICTURES,
    "gradcam": [cam("one", picture="gallery/cams"), cam("two", picture="gallery/lost")],
}  # fmt: skip


def save(raw, kinds, stamp=STAMP):
    """Append rows of several kinds as the library stamps them."""
    raw.mkdir(parents=True, exist_ok=True)
    for kind, rows in kinds.items():
        with (raw / f"{kind}.jsonl").open("a") as file:
            file.writelines(f"{json.dumps({**row, 'stamp': stamp})}\n" for row in rows)


def read(raw):
    """Read rows as the report does: all of the page but its pictures."""
    found = sources.read([raw], COMMANDS)

    def made(function, of):
        return function([row for kind in (of.kind, *of.also) for row in found.rows[kind]])

    tables = {name: made(table.make, table) for name, table in TABLES.items()}
    drawn = {name: made(picture.select, picture) for name, picture in FIGURES.items()}
    tables, drawn = ({k: frame for k, frame in f.items() if len(frame)} for f in (tables, drawn))
    return Report(found, tables, drawn, found.notes, commands=COMMANDS, filed=["claims"])


def build(out, kinds=KINDS):
    """Write a page of rows into a folder; of its two gallery pictures one is not there."""
    save(out / "raw", kinds)
    report = read(out / "raw")
    (out / "figures/gallery").mkdir(parents=True)
    for name in (*report.drawn, "gallery/cams"):
        Image.new("RGB", (1500, 700), "white").save(out / f"figures/{name}.png")
    return write_page(report, out)
