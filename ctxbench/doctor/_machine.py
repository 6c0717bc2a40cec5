"""The machine: its processor, its memory, its GPUs or why there are none, and the results."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ctxbench.doctor._row import Finding, finding, first_line

_GIB = 2**30
_NO_GPU = "nothing here needs a GPU"


def machine() -> Iterator[Finding]:
    """Yield findings of the processor and the GPUs; torch can be imported."""
    import torch

    from ctxbench.latency.machine import cpu_name

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    found = f"{cores} cores, {torch.get_num_threads()} threads, {memory:.0f} GiB"
    yield finding("ok", "processor", found, cpu_name())
    yield from gpus()


def gpus() -> Iterator[Finding]:
    """Yield each CUDA device, or why there is none."""
    import torch

    if torch.version.cuda is None and not torch.cuda.is_available():
        yield finding("missing", "GPU", "none", f"this torch is a build for CPUs; {_NO_GPU}")
        return
    try:
        torch.cuda.current_device()  # starts CUDA, or says why it cannot
    except (RuntimeError, AssertionError) as error:  # the reason is in the message
        told = first_line(error).partition(". ")[0].rstrip(".")
        old = "too old" in told
        note = "update the driver, or install a torch for its CUDA" if old else _NO_GPU
        yield finding("wrong" if old else "missing", "GPU", "none", f"{told}; {note}")
        return
    for index in range(torch.cuda.device_count()):
        yield _gpu(index)


def _gpu(index: int) -> Finding:
    import torch

    properties = torch.cuda.get_device_properties(index)
    major, minor = torch.cuda.get_device_capability(index)
    found = f"{properties.total_memory / _GIB:.0f} GiB, compute capability {major}.{minor}"
    part = f"cuda:{index}"
    known = torch.cuda.get_arch_list()
    # binaries of a lower minor number run, and those of a lower major one do not
    fits = any(arch.startswith(f"sm_{major}") or arch.startswith("compute_") for arch in known)
    if known and not fits:
        return finding("wrong", part, found, f"this torch is built for {', '.join(known)} only")
    return finding("ok", part, f"{properties.name}: {found}", f"CUDA {torch.version.cuda}")


def results(out: Path) -> Finding:
    """Tell whether rows can be written below `out`; nothing is left there."""
    folder = out.resolve() / "raw"
    try:
        while not folder.exists():  # an error where nobody may look, or no name can be so long
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        told = f"{folder}: {error.strerror}"
        return finding("wrong", "results", str(out), f"cannot be written ({told}). Choose --out.")
    return finding("ok", "results", str(out), "can be written")
