"""The process of one network, and its handle."""

import subprocess
import sys
from dataclasses import replace

import pytest

from ctxbench.errors import LatencyError, OutOfMemoryError
from ctxbench.latency.worker import Worker
from tests.latency.nets import CONV, TINY, spec

BLOCK = {"runs": 1, "settle": 0}


def worker(name, **given):
    return Worker(name, replace(TINY, **given), memory="kept")


@pytest.fixture(scope="module")
def crashing():
    """A process whose network raises at each call; it lives on."""
    with worker(spec("raising")) as found:
        yield found


def test_a_crash_comes_back_with_its_traceback(crashing):
    with pytest.raises(RuntimeError, match='(?s)nets.py", line.*ZeroDivisionError: of the network'):
        crashing.call("block", **BLOCK)


def test_a_process_lives_on_after_a_crash(crashing):
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        crashing.call("block", **BLOCK)
    assert crashing.call("device")["device_name"]


@pytest.fixture(scope="module")
def two():
    """Two processes at once: one whose network refuses its input, and a plain one."""
    with worker(spec("raising", error="ValueError")) as refusing, worker(CONV) as fine:
        yield refusing, fine


def test_a_mistake_comes_back_as_one(two):
    with pytest.raises(LatencyError, match=r"cannot run \(inference.*: of the network$"):
        two[0].call("get_ready", check=False, warmup_s=0.01)


def test_two_processes_answer_in_turns(two):
    refusing, fine = two
    for _ in range(2):
        assert refusing.call("device") == fine.call("device")
        assert len(fine.call("block", runs=3, settle=1).totals_ms) == 3
    assert refusing.process.pid != fine.process.pid


def test_too_little_memory_comes_back_as_such():
    with (
        worker(spec("up_to", largest=1)) as found,
        pytest.raises(OutOfMemoryError, match="can't allocate memory"),
    ):
        found.call("block", **BLOCK)


def test_a_killed_process_had_too_little_memory():
    with (
        worker(spec("killed")) as found,
        pytest.raises(OutOfMemoryError, match="nets.py:killed: its process was killed."),
    ):
        found.call("block", **BLOCK)


def test_a_process_that_ends_by_itself_is_a_crash():
    with (
        worker(spec("exiting", code=3)) as found,
        pytest.raises(
            RuntimeError, match="nets.py:exiting:code=3: its process ended with exit code 3."
        ),
    ):
        found.call("block", **BLOCK)


def test_a_network_that_does_not_exist_is_a_mistake():
    with worker("resnet_tin") as found, pytest.raises(LatencyError, match="Did you mean"):
        found.call("get_ready", check=False, warmup_s=0.01)


def test_what_a_network_prints_is_no_data(capfd):
    with worker(spec("chatty")) as found:
        found.call("block", **BLOCK)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "the network speaks\n")


def test_an_exception_of_the_parent_ends_the_process():
    found = worker(CONV)
    with pytest.raises(ZeroDivisionError), found:
        found.call("device")["device_name"] = 1 / 0
    assert found.process.poll() == 0


def test_close_ends_a_process_that_is_not_even_set_up_without_a_word(capfd):
    found = worker(CONV)
    found.close()
    assert found.process.poll() == 0
    assert capfd.readouterr() == ("", "")


def test_the_end_of_the_parent_ends_the_process():
    code = (
        "import os; from ctxbench.latency.worker import Worker; from tests.latency.nets import *;"
        "found = Worker(CONV, TINY, memory='kept'); found.call('device');"
        "os._exit(0)"
    )
    # returns when the last who holds standard error has ended
    subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, check=True, timeout=60)


def test_threads_are_those_of_the_condition_not_of_the_environment(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with (
        worker(spec("threads"), threads=2) as found,
        pytest.raises(LatencyError, match="2 threads, OMP_NUM_THREADS=2"),
    ):
        found.call("get_ready", check=False, warmup_s=0.01)


def test_files_of_the_folder_do_not_stand_in_for_modules(tmp_path, monkeypatch):
    (tmp_path / "statistics.py").write_text("raise SystemExit(9)\n")
    monkeypatch.chdir(tmp_path)
    with worker(CONV) as found:
        assert found.call("device")["device_name"]


def test_compiled_code_is_kept_in_the_folder_given(tmp_path):
    with (
        Worker(spec("caches"), TINY, memory="kept", cache=tmp_path) as found,
        pytest.raises(LatencyError, match=f"cannot run .*: {tmp_path}"),
    ):
        found.call("get_ready", check=False, warmup_s=0.01)


@pytest.mark.parametrize(("memory", "words"), [("kept", "kept"), ("returned", "returned")])
def test_settings_tell_what_becomes_of_freed_memory(memory, words):
    with Worker(CONV, TINY, memory=memory) as found:
        settings = found.call("get_ready", check=False, warmup_s=0.01).settings
    assert words in settings["allocator"]
    assert settings["import_s"] > 0
