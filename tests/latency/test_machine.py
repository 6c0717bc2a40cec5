"""What a machine tells of itself, from files as Linux writes them; what its allocator does."""

import subprocess
import sys
from pathlib import Path

import pytest

from ctxbench.latency import machine
from ctxbench.latency.machine import Load

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux writes in /proc")
glibc = pytest.mark.skipif(
    machine.platform.libc_ver()[0] != "glibc", reason="sets the allocator of glibc"
)


@pytest.fixture
def system(monkeypatch, tmp_path):
    """Return what writes the files of a system that has no others."""

    def path(name):
        return Path(name) if str(name).startswith(str(tmp_path)) else tmp_path / str(name)[1:]

    def write(files):
        for name, text in files.items():
            path(name).parent.mkdir(parents=True, exist_ok=True)
            path(name).write_text(text)

    monkeypatch.setattr(machine, "Path", path)
    return write


def caches(*sizes):
    return {
        f"/sys/devices/system/cpu/cpu0/cache/index{index}/size": f"{size}\n"
        for index, size in enumerate(sizes)
    }


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (("48K", "64K", "2048K", "30M"), 30.0),
        (("48K", "512K"), 0.5),
        (("1024K", "1G"), 1024.0),
        (("48K", "unknown", ""), 48 / 1024),
        (("",), None),
        ((), None),
    ],
)
def test_the_last_cache_is_the_largest(system, sizes, expected):
    system(caches(*sizes))
    assert machine.last_cache_mib() == expected


MEMORY = {"/proc/meminfo": "MemTotal:    9999999 kB\nMemAvailable:    2048000 kB\n"}


def cgroup(limit, used):
    return {"/sys/fs/cgroup/memory.max": limit, "/sys/fs/cgroup/memory.current": used}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (MEMORY, 2000.0),
        (MEMORY | cgroup("max\n", "5\n"), 2000.0),
        (MEMORY | cgroup(f"{2**30}\n", f"{2**28}\n"), 768.0),  # the container's is smaller
        (MEMORY | cgroup(f"{2**40}\n", f"{2**28}\n"), 2000.0),
        (cgroup(f"{2**30}\n", f"{2**28}\n"), 768.0),
        ({}, None),
    ],
)
def test_available_memory_is_the_systems_or_the_containers(system, files, expected):
    system(files)
    assert machine.available_mib() == expected


CPUINFO = """processor\t: 0
model name\t: Some CPU @ 2.50GHz: fast
cpu MHz\t\t: 1000.500

processor\t: 1
model name\t: Some CPU @ 2.50GHz: fast
cpu MHz\t\t: 3000.500
"""


def test_the_clock_is_the_mean_of_the_cores(system):
    system({"/proc/cpuinfo": CPUINFO})
    assert machine.cpu_mhz() == 2000.5


def test_the_name_of_the_processor(system):
    system({"/proc/cpuinfo": CPUINFO})
    assert machine.cpu_name() == "Some CPU @ 2.50GHz: fast"


def test_a_processor_that_tells_nothing_is_known_by_its_architecture(system, monkeypatch):
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    assert (machine.cpu_name(), machine.cpu_mhz()) == ("aarch64", None)


def stat(*busy):
    """Return /proc/stat after so many ticks of each core: as many user, system, stolen, guest."""
    lines = [f"cpu{core} {t} 0 {t} 9999 777 0 0 {t} {t} 0" for core, t in enumerate(busy)]
    return "\n".join(["cpu  1 2 3 4 5 6 7 8 9 10", *lines, "intr 5 4 3", "ctxt 12"])


@pytest.fixture
def load(monkeypatch):
    """Return what tells the cores' ticks and this process's seconds to a Load, before and after."""

    def others(before, after, *, own_s=(0.0, 0.0), cores=(0, 1), seconds=2.0):
        own, texts = iter(own_s), iter((before, after))
        monkeypatch.setattr(machine, "_own_cpu_s", lambda: next(own))
        monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(cores))
        monkeypatch.setattr(machine.os, "sysconf", lambda name: 100)
        return Load(lambda: next(texts)).others(seconds)

    return others


def test_load_is_what_the_cores_were_busy_with(load):
    # 50 + 100 ticks, three times, of 10 ms, in 2 s; not idle, iowait, guest
    assert load(stat(7, 9), stat(57, 109)) == pytest.approx(2.25)


def test_only_the_cores_that_we_may_use_count(load):
    assert load(stat(0, 0, 0), stat(50, 1000, 50), cores=(0, 2)) == pytest.approx(1.5)


def test_what_we_do_ourselves_is_no_load(load):
    assert load(stat(0, 0), stat(50, 100), own_s=(10.0, 14.0)) == pytest.approx(0.25)


def test_load_of_a_short_time_can_be_below_nothing(load):
    assert load(stat(0, 0), stat(10, 10), own_s=(0.0, 4.0)) < 0.0


@pytest.mark.parametrize("texts", [(None, None), (stat(1), None), (None, stat(1))])
def test_load_is_not_known_where_the_system_does_not_tell(load, texts):
    assert load(*texts) is None


def test_load_takes_some_time(load):
    assert load(stat(0), stat(1), seconds=0.0) is None


@linux
def test_the_load_of_this_machine_is_known():
    assert Load().others(0.1) is not None


def test_idle_ticks_are_not_counted(load):
    busy = "cpu0 1 1 1 500 300 1 1 1 0 0"  # user nice system idle iowait irq softirq steal
    assert load("cpu0 0 0 0 0 0 0 0 0 0 0", busy, seconds=1.0) == pytest.approx(0.06)


LINE = "1980, 1980, 2619, 35, 120.50, 700.00, 12, 0x0000000000000001, 570.86.15\n"


@pytest.fixture
def driver(monkeypatch):
    """Return what makes an nvidia-smi of a line, and the command lines it was called with."""
    called = []

    def install(stdout, *, returncode=0, error=None):
        def run(words, **_):
            called.append(words)
            if error:
                raise error
            return subprocess.CompletedProcess(words, returncode, stdout)

        monkeypatch.setattr(machine.subprocess, "run", run)
        return called

    return install


def test_a_gpu_tells_clocks_temperature_and_power(driver):
    driver(LINE)
    assert machine.gpu_state("0") == {
        "clocks_sm": "1980",
        "clocks_max_sm": "1980",
        "clocks_mem": "2619",
        "temperature_gpu": "35",
        "power_draw": "120.50",
        "power_limit": "700.00",
        "utilization_gpu": "12",
        "clocks_throttle_reasons_active": "0x0000000000000001",
        "driver_version": "570.86.15",
    }


def test_the_gpu_asked_for_is_the_one_that_is_asked(driver):
    called = driver(LINE)
    machine.gpu_state("GPU-1a2b")
    assert "--id=GPU-1a2b" in called[0]


def test_what_a_gpu_does_not_tell_is_left_out(driver):
    driver(LINE.replace("12,", "[N/A],").replace("120.50", "[Not Supported]"))
    assert {"utilization_gpu", "power_draw"}.isdisjoint(machine.gpu_state("0"))
    assert machine.gpu_state("0")["power_limit"] == "700.00"


@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        ("", {"error": FileNotFoundError("nvidia-smi")}),
        ("", {"error": subprocess.TimeoutExpired("nvidia-smi", 10)}),
        (LINE, {"returncode": 6}),
        ("No devices were found\n", {}),
        ("", {}),
    ],
)
def test_without_a_driver_nothing_is_told(driver, line, outcome):
    driver(line, **outcome)
    assert machine.gpu_state("0") == {}


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        ("0x0000000000000000", False),
        ("0x0000000000000001", False),  # idle
        ("0x0000000000000002", False),  # clocks set by an application
        ("0x0000000000000004", True),  # power cap
        ("0x0000000000000008", True),  # hardware slowdown
        ("0x0000000000000021", True),  # idle, and too hot
    ],
)
def test_a_gpu_is_throttled_for_a_reason(reasons, expected):
    assert machine.throttled({"clocks_throttle_reasons_active": reasons}) is expected


def test_a_gpu_that_tells_no_reasons_is_not_throttled():
    assert not machine.throttled({})


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("[Errno 12] Cannot allocate memory"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("could not create a memory object"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (RuntimeError("memory format option is not supported"), False),
    ],
)
def test_an_error_is_out_of_memory(error, expected):
    assert machine.is_out_of_memory(error) is expected


def run_alone(program):
    """Return the numbers that a program prints, in a process of its own."""
    head = "from ctxbench.latency import machine\nMIB = 2**20\n"
    run = subprocess.run(
        [sys.executable, "-c", head + program], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return [float(word) for word in run.stdout.split()]


FAULTS = """
import torch
def faults(settle=10, rounds=5):
    for _ in range(settle):  # its thread cache holds 7 pieces between blocks before they join
        torch.zeros(64 * MIB, dtype=torch.int8)
    before = machine.page_faults()
    for _ in range(rounds):
        torch.zeros(64 * MIB, dtype=torch.int8)
    return (machine.page_faults() - before) / rounds
print(faults())
machine.keep_freed_memory()
print(faults())
"""


@glibc
def test_memory_that_is_kept_is_not_faulted_in_again():
    freed, kept = run_alone(FAULTS)
    if freed < 1000:
        pytest.skip(f"pages here are large: 64 MiB take {freed:.0f} of them")
    assert kept < 100


@glibc
def test_memory_that_is_returned_is_no_longer_resident():
    held, freed = run_alone("""
machine.return_freed_memory()
before = machine.resident_mib()
blocks = [bytearray(b"x" * MIB) for _ in range(64)]
print(machine.resident_mib() - before)
del blocks
print(machine.resident_mib() - before)
""")
    assert held >= 63
    assert freed < 4


@pytest.mark.parametrize("name", ["keep_freed_memory", "return_freed_memory"])
def test_another_c_library_keeps_its_ways(monkeypatch, name):
    monkeypatch.setattr(machine.platform, "libc_ver", lambda: ("", ""))
    assert getattr(machine, name)() == "of the C library"


@linux
def test_a_peak_is_that_since_it_was_restarted():
    first, restarted, second = run_alone("""
machine.return_freed_memory()
before = machine.resident_mib()
bytearray(128 * MIB)
print(machine.peak_resident_mib() - before)
print(int(machine.restart_peak()))
bytearray(32 * MIB)
print(machine.peak_resident_mib() - before)
""")
    assert restarted
    assert first >= 127
    assert 31 <= second < 64


def test_a_system_without_proc_tells_no_memory(system):
    assert (machine.resident_mib(), machine.peak_resident_mib()) == (None, None)
    assert machine.restart_peak() is False


@linux
def test_more_than_is_available_cannot_be_allocated():
    small, large = run_alone("""
import torch
machine.available_mib = lambda: 400.0
machine.limit_memory()
print(torch.zeros(64 * MIB, dtype=torch.int8).numel())
try:
    torch.zeros(4096 * MIB, dtype=torch.int8)
    print(0)
except RuntimeError as error:
    print(int(machine.is_out_of_memory(error)))
""")
    assert (small, large) == (64 * 2**20, 1)


@linux
def test_a_limit_that_is_set_already_stays():
    soft, hard = run_alone("""
import resource
resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))
machine.available_mib = lambda: 8192.0
machine.limit_memory()
print(*resource.getrlimit(resource.RLIMIT_DATA))
""")
    assert (soft, hard) == (2**30, 2**30)


@linux
def test_this_process_is_the_one_to_be_killed():
    score = "from pathlib import Path\nprint(Path('/proc/self/oom_score_adj').read_text())"
    assert run_alone(f"machine.limit_memory()\n{score}") == [1000]
