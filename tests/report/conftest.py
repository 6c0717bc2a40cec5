import json

import pytest

from tests.report.ablation_rows import SMALL, SMALL_TRIALS
from tests.report.example_rows import EXAMPLES
from tests.report.latency_rows import CEILINGS, LATENCY, LAYER_TIMES
from tests.report.picture_rows import PICTURES
from tests.report.rows import CLAIMS, COSTS, LAYERS, OPERATORS, STAMP, TRAINING


@pytest.fixture
def save_rows():
    """Append rows to `raw/<kind>.jsonl` as the library stamps them."""

    def save(raw, kind, rows):
        raw.mkdir(parents=True, exist_ok=True)
        with (raw / f"{kind}.jsonl").open("a") as file:
            file.writelines(f"{json.dumps({'stamp': STAMP, **row})}\n" for row in rows)

    return save


@pytest.fixture
def raw(tmp_path, save_rows):
    """A folder with rows of every kind but `counting`."""
    kinds = {"claims": CLAIMS, "costs": COSTS, "layers": LAYERS, "operators": OPERATORS}
    kinds |= {"latency": LATENCY, "latency_layers": LAYER_TIMES, "ceilings": CEILINGS}
    kinds |= {"timers": [{"model": "plain", "batch": 1, "threads": 2, "ratio": 1.0}]}
    kinds |= {"training": TRAINING, "examples": EXAMPLES}
    kinds |= {"experiments": [SMALL], "trials": SMALL_TRIALS}
    kinds |= PICTURES
    for kind, rows in kinds.items():
        save_rows(tmp_path / "raw", kind, rows)
    return tmp_path / "raw"
