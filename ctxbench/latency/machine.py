"""What a machine does beside our work, and how it is set: memory, load, clocks, page faults.

Each function returns None where the system does not tell.
"""

import ctypes
import os
import platform
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

MIB = 2**20
# of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8
_LARGEST = 2**31 - 1
_OUT = (
    "out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory",
    "bad_alloc", "could not create a memory", "alloc_failed",
)  # fmt: skip
_GPU_FIELDS = (
    "clocks.sm", "clocks.max.sm", "clocks.mem", "temperature.gpu", "power.draw", "power.limit",
    "utilization.gpu", "clocks_throttle_reasons.active", "driver_version",
)  # fmt: skip
# bits of clocks_throttle_reasons.active: idle, and clocks set by an application, slow nothing down
_HARMLESS = 0x1 | 0x2


def keep_freed_memory() -> str:
    """Let the C library keep what is freed, so that timed runs do not fault pages in again.

    Returns what was set, in words. A framework that frees and asks for the same blocks at every run
    otherwise gets fresh pages each time, and a single operator takes up to five times as long.
    """
    done = _mallopt((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _LARGEST), (_M_ARENA_MAX, 1))
    return "kept (mallopt: no mmap, no trim, one arena)" if done else "of the C library"


def return_freed_memory() -> str:
    """Let the C library return freed blocks at once, so that resident memory is memory in use."""
    done = _mallopt((_M_MMAP_THRESHOLD, 2**16), (_M_TRIM_THRESHOLD, 0))
    return "returned at once (mallopt)" if done else "of the C library"


def _mallopt(*settings: tuple[int, int]) -> bool:
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return all([library.mallopt(option, value) for option, value in settings])


def page_faults() -> int:
    """Return how many pages this process was given since it began."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


class Load:
    """Watches what else the cores do that this process may use.

    Construct it, run, and ask `others(seconds)`.
    """

    def __init__(self, read: Callable[[], str | None] | None = None) -> None:
        self._read = read or (lambda: _text("/proc/stat"))
        self._before = self._busy_s()
        self._own = _own_cpu_s()

    def others(self, seconds: float) -> float | None:
        """Return how many cores were busy on average with something other than this process.

        The system counts in hundredths of a second: over a shorter time it can be below 0.
        """
        busy = self._busy_s()
        if busy is None or self._before is None or seconds <= 0:
            return None
        return (busy - self._before - (_own_cpu_s() - self._own)) / seconds

    def _busy_s(self) -> float | None:
        text = self._read()
        if text is None:
            return None
        cores = os.sched_getaffinity(0)
        lines = [line.split() for line in text.splitlines() if line.startswith("cpu")]
        used = [line for line in lines if line[0][3:].isdecimal() and int(line[0][3:]) in cores]
        # user, nice, system, idle, iowait, irq, softirq, steal
        ticks = sum(sum(map(int, line[1:9])) - int(line[4]) - int(line[5]) for line in used)
        return ticks / os.sysconf("SC_CLK_TCK")


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def resident_mib() -> float | None:
    """Return this process's resident memory."""
    return _status_mib("VmRSS")


def peak_resident_mib() -> float | None:
    """Return the peak of this process's resident memory, since it began or `restart_peak`."""
    return _status_mib("VmHWM")


def restart_peak() -> bool:
    """Forget the peak of resident memory so far; False where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def available_mib() -> float | None:
    """Return the memory that processes here may still take: the system's, or the container's."""
    found = [_field_mib(_text("/proc/meminfo"), "MemAvailable")]
    limit, used = _text("/sys/fs/cgroup/memory.max"), _text("/sys/fs/cgroup/memory.current")
    if limit and used and limit.strip().isdecimal():
        stat = dict(
            line.split() for line in (_text("/sys/fs/cgroup/memory.stat") or "").splitlines()
        )
        files = int(stat.get("inactive_file", 0))  # cached, and given up when it is needed
        found.append((int(limit) - int(used) + files) / MIB)
    known = [value for value in found if value is not None]
    return min(known) if known else None


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error says that an allocation failed, on a GPU or on a CPU."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _OUT)


def limit_memory() -> None:
    """Make the next allocation beyond what is available fail, before the system kills somebody.

    If it comes to killing all the same, this process is the one to go.
    """
    free, held = available_mib(), _status_mib("VmData")
    if free is not None and held is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = int((held + 0.95 * free) * MIB)
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        return


def cpu_name() -> str:
    """Return the processor's name."""
    names = [value for key, value in _cpuinfo() if key == "model name"]
    return names[0] if names else platform.processor() or platform.machine()


def cpu_mhz() -> float | None:
    """Return the mean clock of the cores at this moment."""
    clocks = [float(value) for key, value in _cpuinfo() if key == "cpu MHz"]
    return sum(clocks) / len(clocks) if clocks else None


def _cpuinfo() -> list[tuple[str, str]]:
    lines = (_text("/proc/cpuinfo") or "").splitlines()
    return [(key.strip(), value.strip()) for key, _, value in (x.partition(":") for x in lines)]


def last_cache_mib() -> float | None:
    """Return the size of the processor's last cache."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = (_text(path) or "").strip()
        if text[:-1].isdecimal() and text[-1] in "KMG":
            sizes.append(int(text[:-1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[text[-1]] / MIB)
    return max(sizes, default=None)


def gpu_state(identity: str) -> dict[str, Any]:
    """Return clocks, temperature, power and reasons to slow down, as far as the driver tells.

    `identity` is a number or a UUID, as nvidia-smi takes it.
    """
    query = f"--query-gpu={','.join(_GPU_FIELDS)}"
    words = ["nvidia-smi", f"--id={identity}", query, "--format=csv,noheader,nounits"]
    try:
        run = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    values = [value.strip() for value in run.stdout.strip().split(",")]
    if run.returncode or len(values) != len(_GPU_FIELDS):
        return {}
    names = [name.replace(".", "_") for name in _GPU_FIELDS]
    return {name: value for name, value in zip(names, values, strict=True) if value[:1] != "["}


def throttled(state: dict[str, Any]) -> bool:
    """Tell whether a GPU's state names a reason to run slower than it could."""
    reasons = str(state.get("clocks_throttle_reasons_active", "0x0"))
    return bool(int(reasons, 16) & ~_HARMLESS)


def _status_mib(field: str) -> float | None:
    return _field_mib(_text("/proc/self/status"), field)


def _field_mib(text: str | None, field: str) -> float | None:
    for line in (text or "").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    return None


def _text(path: str | Path) -> str | None:
    try:
        return Path(path).read_text()
    except OSError:
        return None
