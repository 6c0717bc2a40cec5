"""The registered networks as rows; no weights are allocated for it."""

from collections.abc import Iterable
from fnmatch import fnmatch

from ctxbench.errors import UnknownNameError
from ctxbench.models import MODELS, resolve, without_weights
from ctxbench.spec import defaults_of, options_of

Row = dict[str, object]


def matching(pattern: str) -> list[str]:
    """Return the registered names that a pattern like `coresnet*` matches, sorted."""
    names = [name for name in sorted(MODELS) if fnmatch(name, pattern)]
    if not names:
        raise UnknownNameError("network", pattern, MODELS)
    return names


def expand(specs: Iterable[str]) -> list[str]:
    """Replace every pattern among the specs by the names it matches."""
    return [name for spec in specs for name in (matching(spec) if "*" in spec else [spec])]


def listing(pattern: str = "*") -> list[Row]:
    """Return name, parameters, options with their values, and source of each network."""
    return [_row(name) for name in matching(pattern)]


def _row(name: str) -> Row:
    known, network = MODELS[name], resolve(name)
    values = {**defaults_of(known.build), **known.preset}
    parameters = without_weights(network).parameters()
    return {
        "model": name,
        "params": sum(parameter.numel() for parameter in parameters),
        "image_px": known.image_px,
        "baseline": known.baseline,
        "options": " ".join(f"{key}={_spell(values[key])}" for key in options_of(known.build)),
        "source": known.source,
    }


def _spell(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_spell, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
