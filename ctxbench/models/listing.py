"""The registered operators and networks as rows; no weights are allocated for it."""

from collections.abc import Iterable
from fnmatch import fnmatch

from ctxbench.errors import UnknownNameError
from ctxbench.models import MODELS, resolve, without_weights
from ctxbench.ops import OPS
from ctxbench.spec import defaults_of, options_of

Row = dict[str, object]


def matching(pattern: str) -> list[str]:
    """Return the registered names that a pattern like `coresnet*` matches, sorted."""
    names = [name for name in sorted(MODELS) if fnmatch(name, pattern)]
    if not names:
        raise UnknownNameError("network", pattern, MODELS)
    return names


def expand(specs: Iterable[str]) -> list[str]:
    """Replace every pattern among the specs, like `coresnet*:width=8`, by what it matches."""
    found = []
    for spec in specs:
        name, colon, options = spec.partition(":")
        names = matching(name) if set("*?[") & set(name) else [name]
        found += [f"{each}{colon}{options}" for each in names]
    return found


def listing(pattern: str = "*") -> list[Row]:
    """Return parameters, options with their values, and source of operators and networks."""
    operators: list[Row] = [
        {"kind": "operator", "model": name, "source": known.source}
        for name, known in OPS.items()
        if fnmatch(name, pattern)
    ]
    networks = [_row(name) for name in sorted(MODELS) if fnmatch(name, pattern)]
    if not operators and not networks:
        raise UnknownNameError("operator or network", pattern, [*OPS, *MODELS])
    return operators + networks


def _row(name: str) -> Row:
    known, network = MODELS[name], resolve(name)
    values = {**defaults_of(known.build), **known.preset}
    parameters = without_weights(network).parameters()
    return {
        "kind": "network",
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
