"""What is there, what is missing and how to get it, and whether the operators compute right."""

from collections.abc import Iterator
from pathlib import Path

from ctxbench.doctor._machine import machine, results
from ctxbench.doctor._packages import packages
from ctxbench.doctor._row import BROKEN, Finding, finding, first_line

__all__ = ["Finding", "examine"]


def examine(out: Path = Path("results")) -> Iterator[Finding]:
    """Yield one finding after another; `out` is where rows are to go.

    Without torch, packages and the folder are all that is examined. No finding is an exception.
    """
    broken = False
    for found in packages():
        broken |= found["part"] == "torch" and found["state"] == "wrong"
        yield found
    yield results(out)
    if broken:
        yield finding("wrong", "operators", "not checked", "they need torch, see above")
        return
    yield from machine()
    try:
        from ctxbench.doctor._operators import backends, operators
    except BROKEN as error:  # torch is there, and something that the operators import is not
        yield finding("wrong", "operators", "cannot be imported", first_line(error))
        return
    import torch

    yield from backends()
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        yield from operators(device)
