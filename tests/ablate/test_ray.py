"""Trials on a real Ray cluster of two worker nodes on this machine."""

import importlib
import os
import signal
import sys
import threading

import pytest

from ctxbench.ablate.on_ray import RayEngine
from ctxbench.ablate.runner import run_all
from ctxbench.errors import CtxbenchError, MissingPackageError
from tests.ablate import training
from tests.ablate.training import RUN, rows, steps, trial, until, where

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning",  # of ray's own log files and sockets
)


@pytest.fixture(scope="module")
def cluster():
    """A head that does no work, and two nodes with a core each."""
    cluster_utils = importlib.import_module("ray.cluster_utils")
    found = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        found.add_node(num_cpus=1)
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.fixture
def do(cluster, tmp_path):
    """Run trials on the cluster."""

    def _do(*trials, **given):
        engine = RayEngine(cluster.address)
        given = {"out": tmp_path, "run": RUN, "engine": engine, "train": training.train, **given}
        return run_all(trials, **given)

    return _do


def test_a_killed_worker_costs_nothing(do, tmp_path):
    trials = [trial("fake:steps=60:ms=20", seed) for seed in range(3)]

    def kill():
        log = tmp_path / "trials" / trials[0].id / "steps.log"
        until(lambda: len(steps(tmp_path, trials[0])) > 5)
        os.kill(int(log.read_text().split()[2]), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    found = do(*trials)
    killer.join()
    assert set(found.done) == {each.id for each in trials}
    assert [steps(tmp_path, each) for each in trials] == [[*range(1, 61)]] * 3
    assert len(rows(tmp_path)) == 3
    assert [path.name for path in (tmp_path / "trials").glob(".*")] == []


def test_a_worker_is_where_the_command_is(do, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    do(trial())
    found = where(tmp_path, trial())
    assert (found["omp"], found["threads"], found["folder"]) == ("1", 1, str(tmp_path))


def test_ctrl_c_stops_the_cluster_after_the_step(do, tmp_path):
    trials = [trial("fake:steps=2000:ms=10", seed) for seed in range(3)]
    told = []

    def stop():
        until(lambda: len(steps(tmp_path, trials[0])) > 3)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=stop)
    thread.start()
    found = do(*trials, on_event=lambda event: told.append(event.kind))
    thread.join()
    assert found.interrupted
    assert found.left == tuple(each.id for each in trials)
    assert told == ["stopping", *["interrupted"] * 3]
    taken = steps(tmp_path, trials[0])
    saved = (tmp_path / "trials" / trials[0].id / "checkpoint.pt").read_text()
    assert len(taken) == int(saved) < 2000


def test_a_folder_that_is_not_shared_is_told(do, tmp_path, monkeypatch):
    monkeypatch.setattr("ctxbench.ablate.on_ray._Going.begin", lambda self: None)
    with pytest.raises(CtxbenchError, match="not the folder of the command. With --engine ray, "):
        do(trial())


def test_a_worker_that_dies_again_and_again_is_a_failed_row(do, tmp_path):
    lost = trial("fake:how=exit:at=1:times=9")
    found = do(lost, trial())
    assert found.done == (trial().id,)
    assert found.failed[lost.id].startswith("worker lost: ")


def test_ray_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"--engine ray needs 'ray'.*'ctxbench\[ray\]'"):
        RayEngine()
