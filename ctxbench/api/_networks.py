"""What a caller may name: networks by spec or in memory, and sizes."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ctxbench.errors import SpecError
from ctxbench.models import resolve
from ctxbench.models.listing import expand

# a spec like "coresnet50" or "coresnet*", a network in memory, several, or several by name
Network = str | nn.Module
Networks = Network | Sequence[Network] | Mapping[str, Network]
Size = int | str | tuple[int, int]  # a side in pixels, "256x192", or (height, width)

SIDE = 224  # what networks in memory are shown, which do not say what they are for


def named(networks: Networks) -> dict[str, Network]:
    """Return networks by name: the spec, the name given, or the class of one in memory."""
    if isinstance(networks, Mapping):
        found = {str(name): _checked(network) for name, network in networks.items()}
    else:
        several = [networks] if isinstance(networks, str | nn.Module) else networks
        if not isinstance(several, Sequence):
            _checked(several)
        found = {}
        for network in several:
            if isinstance(_checked(network), str):
                found |= {spec: spec for spec in expand([str(network)])}
            else:
                found[_free(type(network).__name__, found)] = network
    if not found:
        raise SpecError("No network is named. Give a spec like 'coresnet50', or a torch.nn.Module.")
    return found


def beside(against: Network | None, networks: Mapping[str, Network]) -> tuple[str, Network] | None:
    """Return the name of a baseline and the network: one of those by its name, or another."""
    if against is None:
        return None
    if isinstance(_checked(against), str):
        return str(against), networks.get(str(against), against)
    known = [name for name, network in networks.items() if network is against]
    return (known or [_free(type(against).__name__, networks)])[0], against


def size_of(size: Size | None) -> tuple[int, int] | None:
    """Return a size as (height, width)."""
    if size is None:
        return None
    sides: Sequence[Any] = size if isinstance(size, tuple | list) else str(size).lower().split("x")
    try:
        height, width = int(sides[0]), int(sides[-1])
    except (ValueError, TypeError, IndexError):
        height = width = 0
    if min(height, width) < 1 or len(sides) > 2:
        raise SpecError(f"image_size={size!r} is no size. Give a side like 224, or (256, 192).")
    return height, width


def side_of(network: Network) -> int:
    """Return the side of the images that a network is for, in pixels."""
    return resolve(network).image_px if isinstance(network, str) else SIDE


def channels_of(model: nn.Module) -> int:
    """Return how many channels a network's first convolution takes; 3 for one without any."""
    first = (getattr(module, "in_channels", None) for module in model.modules())
    return next((channels for channels in first if isinstance(channels, int)), 3)


def _checked(network: object) -> Network:
    if isinstance(network, str | nn.Module):
        return network
    if isinstance(network, type):
        raise SpecError(f"{network.__name__} is a class. Give a network of it: an instance.")
    raise SpecError(
        f"{network!r} is no network. Give a spec like 'coresnet50', or a torch.nn.Module."
    )


def _free(name: str, taken: Mapping[str, object]) -> str:
    number = 1 + sum(key == name or key.startswith(f"{name} (") for key in taken)
    return name if number == 1 else f"{name} ({number})"
