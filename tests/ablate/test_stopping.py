"""What signals do, and that they do so only as long as trials run."""

import os
import signal
import threading

import pytest

from ctxbench.ablate import local
from ctxbench.ablate.stopping import Stopping


def _send(name):
    os.kill(os.getpid(), getattr(signal, name))


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Stopping().on_signals(lambda: None):
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_in_another_thread_signals_are_left_alone():
    before, found = signal.getsignal(signal.SIGINT), []

    def use():
        with Stopping().on_signals(lambda: None):
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert found == [before]


@pytest.mark.parametrize("again", ["SIGTERM", "SIGINT"])
def test_an_echo_of_the_first_signal_is_no_second_one(again):
    told, stopping = [], Stopping()
    with stopping.on_signals(lambda: told.append("once")):
        _send("SIGINT")
        _send(again)
    assert told == ["once"]
    assert (stopping.asked.is_set(), stopping.at_once.is_set()) == (True, False)


@pytest.mark.parametrize(("again", "ends"), [("SIGINT", True), ("SIGTERM", False)])
def test_a_second_ctrl_c_ends_at_once_and_a_second_sigterm_does_not(monkeypatch, again, ends):
    now, stopping = [0.0], Stopping()
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with stopping.on_signals(lambda: None):
        _send("SIGTERM")
        now[0] += 1.0
        if ends:
            with pytest.raises(KeyboardInterrupt):
                _send(again)
        else:
            _send(again)
    assert stopping.at_once.is_set() == ends


def test_under_torchrun_a_second_ctrl_c_is_torchruns(monkeypatch):
    now, stopping = [0.0], Stopping()
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with stopping.on_signals(lambda: None, twice=False):
        _send("SIGINT")
        now[0] += 1.0
        _send("SIGINT")
    assert not stopping.at_once.is_set()


@pytest.mark.parametrize(
    ("visible", "device", "slot", "chosen"),
    [(None, "auto", 1, "1"), ("4,6", "cuda", 3, "6"), ("4,6", "cpu", 1, "4,6")],
)
def test_trials_at_a_time_have_different_gpus(monkeypatch, visible, device, slot, chosen):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    local._choose_gpu(device, slot)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == chosen
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
