"""What computes the operators: passed on to processes, checked against the plain form, told."""

from dataclasses import replace

import pytest

from ctxbench.errors import LatencyError
from ctxbench.kernels import inside, use_backend
from ctxbench.latency import compare
from ctxbench.latency.bench import Bench
from ctxbench.latency.compare import measure, measure_all, measure_largest
from ctxbench.latency.subject import Subject
from ctxbench.latency.worker import Worker
from ctxbench.ops import CoConv2d
from tests.latency.nets import MACHINE, TINY, Inline, condition
from tests.latency.test_compare import QUICK

NET = "coresnet_tiny:width=4:block=basic"


@pytest.fixture
def inline(monkeypatch):
    """Let networks run in this process."""
    monkeypatch.setattr(compare, "Worker", Inline)


def backend_of(worker):
    """Return what a process computes with, as its rows would say."""
    return worker.call("get_ready", check=True, warmup_s=0.01).max_difference


def timed(*specs, **given):
    rows, layers = measure(specs, TINY, plan=QUICK, machine=MACHINE, **given)
    return {row.model: row.op_backend for row in rows}, layers


@pytest.mark.usefixtures("inline")
def test_a_row_names_what_computes_the_operators():
    asked = f"{NET}:backend=reference"
    found, layers = timed(NET, asked, against="resnet_tiny", per_layer=True)
    assert found == {NET: "torch", asked: "reference", "resnet_tiny": None}
    assert {row.op_backend for row in layers if row.model == asked} == {"reference"}


@pytest.mark.usefixtures("inline")
def test_a_row_names_what_use_backend_chose():
    with use_backend("reference"):
        found, _ = timed(f"{NET}:backend=torch", "resnet_tiny")
    assert found == {f"{NET}:backend=torch": "reference", "resnet_tiny": None}


def test_a_network_that_does_not_fit_names_it_too(monkeypatch):
    class Full(Inline):
        def call(self, name, **given):
            return False if name == "fits" else super().call(name, **given)

    monkeypatch.setattr(compare, "Worker", Full)
    row = measure_largest(NET, TINY, plan=QUICK, machine=MACHINE)
    assert (row.failing_batch, row.op_backend) == (1, "torch")


def test_triton_on_a_cpu_is_refused_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr(compare, "Worker", lambda *given, **more: 1 / 0)
    with pytest.raises(LatencyError, match="got --device cpu. Use --device cuda, or backend=torch"):
        next(measure_all([f"{NET}:backend=triton"], [TINY], plan=QUICK))


@pytest.mark.parametrize("chosen", [None, "torch"])
def test_a_process_computes_with_what_its_parent_chose(chosen):
    """What nobody asked for by name is not held against the plain form: there is no difference."""
    if chosen is None:
        worker = Worker(NET, TINY, memory="kept")
    else:
        with use_backend(chosen):
            worker = Worker(NET, TINY, memory="kept")
    with worker:
        assert (backend_of(worker) is None) == (chosen is None)


def test_a_process_is_told_of_a_backend_that_cannot_run_there():
    with (
        use_backend("triton"),
        Worker(NET, TINY, memory="kept") as worker,
        pytest.raises(LatencyError, match="backend='triton' needs"),
    ):
        backend_of(worker)


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_a_backend_asked_for_is_held_against_the_plain_form(mode):
    bench = Bench(f"{NET}:backend=torch", condition(mode=mode), {})
    assert bench.get_ready(check=True, warmup_s=0.01).max_difference < 1e-5


@pytest.mark.parametrize("spec", [NET, f"{NET}:backend=reference", "resnet_tiny"])
def test_without_one_there_is_nothing_to_hold_against(spec):
    assert not Subject(spec, TINY).fast


def test_use_backend_is_asking_too():
    subject = Subject(NET, TINY)
    assert not subject.fast
    with use_backend("torch"):
        assert subject.fast
    with use_backend("reference"):
        assert not subject.fast
        assert not Subject(f"{NET}:backend=torch", TINY).fast


def test_the_plain_form_of_a_fast_path_is_the_plain_backend(monkeypatch):
    seen = []
    forward = CoConv2d.forward
    monkeypatch.setattr(
        CoConv2d, "forward", lambda self, x: (seen.append(inside()), forward(self, x))[1]
    )
    subject = Subject(f"{NET}:backend=torch", replace(TINY, layout="channels_last"))
    subject.results()
    subject.make_fast()
    subject.results()
    assert seen[: len(seen) // 2] == ["reference"] * (len(seen) // 2)
    assert seen[len(seen) // 2 :] == [None] * (len(seen) // 2)


def test_a_backend_that_is_wrong_is_not_timed(monkeypatch):
    forward = CoConv2d.forward
    wrong = lambda self, x: forward(self, x) * (1 if inside() else 1.1)  # noqa: E731
    monkeypatch.setattr(CoConv2d, "forward", wrong)
    bench = Bench("op/coconv:channels=8:backend=torch", TINY, {})
    with pytest.raises(LatencyError, match="is wrong: it differs from the plain form"):
        bench.get_ready(check=True, warmup_s=0.01)
