"""Trials on a real Ray cluster of two worker nodes on this machine."""

import importlib
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from ctxbench.ablate.on_ray import RayEngine
from ctxbench.ablate.runner import run_all
from ctxbench.errors import CtxbenchError, MissingPackageError
from tests.ablate import training
from tests.ablate.training import RUN, rows, steps, trial, until, where

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with a core each, whose workers find this module."""
    cluster_utils = importlib.import_module("ray.cluster_utils")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        found = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
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


def test_a_killed_worker_costs_nothing(do, tmp_path, capsys):
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
    for each in trials:  # at most the step under way when it was killed was taken twice
        assert set(steps(tmp_path, each)) == set(range(1, 61))
        assert len(steps(tmp_path, each)) <= 61
    assert len(rows(tmp_path)) == 3
    assert capsys.readouterr().out == ""  # Ray's words about the killed worker are no data
    assert [path.name for path in (tmp_path / "trials").glob(".*")] == []


def test_a_worker_is_where_the_command_is(do, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    do(trial())
    found = where(tmp_path, trial())
    assert (found["omp"], found["threads"], found["folder"]) == ("1", 1, str(tmp_path))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_stops_the_cluster_after_the_step(do, tmp_path, name):
    trials = [trial("fake:steps=2000:ms=10", seed) for seed in range(3)]
    told = []

    def stop():
        # Ray takes them in whatever order
        until(lambda: any(len(steps(tmp_path, each)) > 3 for each in trials))
        os.kill(os.getpid(), getattr(signal, name))

    thread = threading.Thread(target=stop)
    thread.start()
    found = do(*trials, on_event=lambda event: told.append(event.kind))
    thread.join()
    assert found.interrupted
    assert found.left == tuple(each.id for each in trials)
    assert told == ["stopping", *["interrupted"] * 3]
    begun = [each for each in trials if steps(tmp_path, each)]
    for each in begun:
        saved = (tmp_path / "trials" / each.id / "checkpoint.pt").read_text()
        assert len(steps(tmp_path, each)) == int(saved) < 2000
    assert begun


def test_a_folder_that_is_not_shared_is_told(do, tmp_path, monkeypatch):
    monkeypatch.setattr("ctxbench.ablate.on_ray._Going.begin", lambda self: None)
    with pytest.raises(CtxbenchError, match="not the folder of the command. With --engine ray, "):
        do(trial())


@pytest.mark.slow  # Ray waits between its attempts
def test_a_worker_that_dies_again_and_again_is_a_failed_row(do, tmp_path):
    lost = trial("fake:how=exit:at=1:times=9")
    found = do(lost, trial())
    assert found.done == (trial().id,)
    assert found.failed[lost.id].startswith("worker lost: ")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "No Ray cluster answers at 127.0.0.1:1: Connection refused"),
        ("here", "--address 'here' is no HOST:PORT of a Ray cluster"),
    ],
)
def test_an_address_where_no_cluster_is(tmp_path, address, words):
    with pytest.raises(CtxbenchError, match=words):
        run_all([trial()], out=tmp_path, run=RUN, engine=RayEngine(address), train=training.train)


def test_ray_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"--engine ray needs 'ray'.*'ctxbench\[ray\]'"):
        RayEngine()
