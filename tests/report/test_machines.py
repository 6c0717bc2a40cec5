"""CPU and GPU, and different machines, are never in one comparison."""

import pytest

from ctxbench.report.figures import FIGURES
from ctxbench.report.studies import studies
from ctxbench.report.tables import TABLES
from tests.report.ablation_rows import SMALL, trial
from tests.report.latency_rows import GPU, LATENCY, LAYER_TIMES, timing
from tests.report.picture_rows import PICTURES
from tests.report.rows import COUNTING, OPERATORS, TRAINING

TIMERS = [{"model": "plain", "batch": 1, "threads": 2, "ratio": 1.0}]
KEYLESS = {
    "operators": OPERATORS, "counting": COUNTING, "timers": TIMERS, "training": TRAINING,
    "training_jobs": TRAINING, "gradcam_speed": PICTURES["gradcam_speed"],
    "cue_shares": PICTURES["cues"], "cue_findings": PICTURES["cues"],
    "receptive_fields": PICTURES["erf"], "faithfulness": PICTURES["gradcam"],
    "sampling": PICTURES["offsets"], "kernels": PICTURES["kernels"],
    "priors": PICTURES["priors"],
}  # fmt: skip


def on(cores, rows, **changes):
    stamp = {"time": "2026-01-01", "machine": {"cpu": "Abacus 3000", "cores": cores}}
    return [{**row, "stamp": stamp, **changes} for row in rows]


@pytest.mark.parametrize("name", KEYLESS)
def test_a_table_keeps_machines_apart_and_names_them(name):
    alone = TABLES[name].make(on(2, KEYLESS[name]))
    both = TABLES[name].make(on(2, KEYLESS[name]) + on(64, KEYLESS[name]))
    assert "place" not in alone
    assert both["place"].str.contains("64 cores").sum() == len(alone)
    assert len(both) == 2 * len(alone)


@pytest.mark.parametrize("name", ["latency", "context_cost"])
def test_devices_alike_in_two_machines_are_two_places(name):
    alone = TABLES[name].make(on(2, LATENCY))
    both = TABLES[name].make(on(2, LATENCY) + on(64, LATENCY))
    assert len(both) == 2 * len(alone)
    assert both["place"].nunique() == 2 * alone["place"].nunique()


@pytest.mark.parametrize("name", ["latency", "roofline"])
def test_a_panel_of_times_holds_one_device(name):
    rows = [timing("plain", **GPU), timing("net", "plain", ratio=2.0, **GPU)]
    rows += [timing("plain"), timing("net", "plain", ratio=1.5)]
    drawn = FIGURES[name].select(rows)
    assert set(drawn["place"]) == {"Loom X1", "Abacus 3000, 2 threads"}


def test_layers_are_those_of_one_device():
    other = [{**row, **GPU, "ms": 99.0} for row in LAYER_TIMES]
    drawn = FIGURES["layers"].select([*other, *LAYER_TIMES])
    assert set(drawn["place"]) == {"Abacus 3000, 2 threads"}
    assert len(drawn) == len(LAYER_TIMES)


def both_devices():
    names = [name for variant in SMALL["variants"] for name in variant["trials"]]
    cpu = [trial(name, 10.0, device="cpu") for name in names]
    return [SMALL, *cpu, *(trial(name, 30.0, device="cuda") for name in names)]


def test_trials_on_cpu_and_gpu_make_a_study_each():
    found = {study.name: set(study.values().stack()) for study in studies(both_devices())}
    assert found == {"small (cpu)": {10.0}, "small (cuda)": {30.0}}


@pytest.mark.parametrize(
    "name", ["ablation_errors", "ablation_curves", "ablation_distance", "ablation_priors"]
)
def test_a_panel_of_errors_holds_one_device(name):
    drawn = FIGURES[name].select(both_devices())
    assert set(drawn["experiment"]) == {"small (cpu)", "small (cuda)"}


def test_a_mean_speed_is_that_of_one_place():
    names = [name for variant in SMALL["variants"] for name in variant["trials"]]
    slow = on(2, [trial(name, 10.0, device="cpu", images_s=100.0) for name in names[1:]])
    fast = on(64, [trial(names[0], 10.0, device="cpu", images_s=900.0)])
    table = TABLES["ablations"].make([SMALL, *slow, *fast])
    assert set(table["images_s"]) == {100.0}
