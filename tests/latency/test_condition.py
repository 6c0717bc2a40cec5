"""Conditions: every combination of what is asked for, and what no machine can do."""

import pytest
import torch

from ctxbench.errors import LatencyError
from ctxbench.latency import condition
from ctxbench.latency.condition import Condition, Plan, check, default_threads, sweep


def asked(**changed):
    """Return the conditions of a sweep that asks for little."""
    given = {
        "batches": ["1"],
        "image_sizes": [(32, 32)],
        "dtypes": ["fp32"],
        "backends": ["eager"],
        "device": "cpu",
    }
    return sweep(**given | changed)


@pytest.fixture
def gpus(monkeypatch):
    """Return what sets how many GPUs there are."""

    def install(number):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)

    return install


def test_every_combination_is_made_and_the_batch_changes_first():
    found = asked(
        batches=["1", "8"],
        image_sizes=[(32, 32), (64, 48)],
        dtypes=["fp32", "bf16"],
        backends=["eager", "compiled"],
    )
    keys = [(each.image_size, each.dtype, each.backend, each.batch) for each in found]
    assert len(keys) == 16
    assert keys[:3] == [
        ((32, 32), "fp32", "eager", 1),
        ((32, 32), "fp32", "eager", 8),
        ((32, 32), "fp32", "compiled", 1),
    ]
    assert keys == sorted(keys, key=lambda key: (key[0], key[1] == "bf16", key[2] == "compiled"))


def test_no_batch_stands_for_one_sample():
    assert [each.batch for each in asked(batches=[])] == [1]


def test_what_else_is_given_holds_for_all():
    found = asked(batches=["1", "2"], mode="training", layout="channels_last", cache="cold", seed=3)
    assert {(each.mode, each.layout, each.cache, each.seed) for each in found} == {
        ("training", "channels_last", "cold", 3)
    }


def test_threads_are_those_given_or_the_default(monkeypatch):
    monkeypatch.setattr(condition, "default_threads", lambda: 5)
    assert [asked(threads=3)[0].threads, asked()[0].threads] == [3, 5]


@pytest.mark.parametrize(("number", "device"), [(0, "cpu"), (1, "cuda")])
def test_a_gpu_is_used_where_there_is_one(gpus, number, device):
    gpus(number)
    assert asked(device="auto")[0].device == device


@pytest.mark.parametrize("text", ["0", "-1", "many", "", "1.5"])
def test_a_batch_is_a_number_above_0(text):
    with pytest.raises(LatencyError, match=f"--batch '{text}' is no batch. .* 1,8,64, or max"):
        asked(batches=["1", text])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dtypes": ["fp32", "fp8"]}, "--dtype 'fp8' is not known. Known: fp32, tf32, bf16, fp16"),
        ({"backends": ["onnx"]}, "--backend 'onnx' is not known. Known: eager, compiled, cudagra"),
        ({"device": "tpu"}, "--device 'tpu' is not known. Use cpu, cuda"),
        ({"device": "cpu:0"}, "--device 'cpu:0' is not known"),
        ({"device": "cuda:first"}, "--device 'cuda:first' is not known"),
        ({"dtypes": ["tf32"]}, "--dtype tf32 .* Use fp32 or bf16"),
        ({"backends": ["cudagraph"]}, "--backend cudagraph .* On the CPU use eager or compiled"),
        ({"threads": 0}, "--threads 0 is not above 0"),
        ({"threads": -2}, "--threads -2 is not above 0"),
    ],
)
def test_what_cannot_be_done_here_is_refused(changed, message):
    with pytest.raises(LatencyError, match=message):
        asked(**changed)


def test_without_a_gpu_there_is_none(gpus):
    gpus(0)
    with pytest.raises(LatencyError, match="--device cuda: there is no CUDA device here. Use"):
        asked(device="cuda")


def test_a_gpu_has_to_be_one_of_those_there_are(gpus):
    gpus(2)
    assert asked(device="cuda:1")[0].cuda
    with pytest.raises(LatencyError, match="--device cuda:2: there are 2 GPUs here"):
        asked(device="cuda:2")


def test_a_graph_is_not_replayed_to_train(gpus):
    gpus(1)
    with pytest.raises(LatencyError, match="cudagraph replays inference. To train use eager"):
        asked(device="cuda", backends=["cudagraph"], mode="training")


def test_a_gpu_rounds_products_and_replays_graphs(gpus):
    gpus(1)
    found = asked(device="cuda", dtypes=["tf32"], backends=["cudagraph"])
    assert [(each.dtype, each.backend) for each in found] == [("tf32", "cudagraph")]


def test_one_wrong_condition_among_others_is_refused():
    with pytest.raises(LatencyError, match="tf32"):
        check([Condition(1, (32, 32)), Condition(1, (32, 32), dtype="tf32")])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Condition(1, (224, 160)), "inference, batch 1, 224x160, fp32, 1 thread"),
        (
            Condition(8, (32, 32), mode="training", dtype="bf16", threads=4),
            "training, batch 8, 32x32, bf16, 4 threads",
        ),
        (
            Condition(1, (32, 32), layout="channels_last", backend="compiled", cache="cold"),
            "inference, batch 1, 32x32, fp32, channels_last, compiled, cold cache, 1 thread",
        ),
        (
            Condition(1, (32, 32), device="cuda:1", dtype="tf32"),
            "inference, batch 1, 32x32, tf32, cuda:1",
        ),
    ],
)
def test_a_condition_is_named_in_a_line(given, expected):
    assert str(given) == expected


@pytest.mark.parametrize("value", [0, -1, float("nan")])
@pytest.mark.parametrize("name", ["launches", "budget_s", "precision", "warmup_s", "block_s"])
def test_a_plan_of_nothing_is_refused(name, value):
    with pytest.raises(
        LatencyError, match=f"--{name.removesuffix('_s')} takes a number above 0; got {value}"
    ):
        Plan(**{name: value})


@pytest.mark.parametrize(
    ("given", "expected"), [("3", 3), ("", 2), ("0", 2), ("many", 2), (None, 2)]
)
def test_threads_are_those_of_openmp_or_all_cores(monkeypatch, given, expected):
    monkeypatch.setattr(condition.os, "sched_getaffinity", lambda pid: {4, 7}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert default_threads() == expected


def test_an_unknown_mode_is_an_error():
    with pytest.raises(LatencyError, match=r"no mode 'nope'. Use inference or training"):
        check([Condition(1, (32, 32), mode="nope")])
