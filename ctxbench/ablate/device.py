"""Where trials run."""

import torch

from ctxbench.ablate import distributed
from ctxbench.errors import CtxbenchError


def device_of(name: str) -> torch.device:
    """Return the device of a name; `auto` is the GPU if there is one, each process its own."""
    device = check_device(name)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", distributed.world()[2])
        torch.cuda.set_device(device)
    return device


def check_device(name: str) -> torch.device:
    """Return the device of a name without touching it; CtxbenchError if it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise CtxbenchError(f"There is no device {name!r}. Use cpu, cuda or auto.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CtxbenchError(f"There is no device {name!r} here. Use --device cpu.")
    if device.type not in ("cpu", "cuda"):
        raise CtxbenchError(f"Trials do not run on {name!r}. Use cpu, cuda or auto.")
    return device
