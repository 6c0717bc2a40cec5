"""The registered operators and networks as rows; no weights are allocated for it."""

from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from types import UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from torch import nn

from ctxbench.errors import SpecError, UnknownNameError
from ctxbench.kernels import BACKENDS, KERNELS, why_not_here
from ctxbench.models import BACKEND, MODELS, NO_BACKEND, OPERATOR, resolve, without_weights
from ctxbench.ops import LAYERS, OPS, operators_in
from ctxbench.spec import defaults_of, options_of

Row = dict[str, object]


def matching(pattern: str) -> list[str]:
    """Return the registered names that a pattern like `coresnet*` or `op/*` matches, sorted.

    Operators are matched by patterns that begin with `op/` alone: `*` is every network.
    """
    operators = pattern.startswith(OPERATOR)
    known = sorted(_operators() if operators else MODELS)
    names = [name for name in known if fnmatch(name, pattern)]
    if not names:
        raise UnknownNameError("operator" if operators else "network", pattern, known)
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
    """Return parameters, options with their values, and source of operators and networks.

    The names are specs: an operator is `op/NAME`, and its row is of the layer without options.
    """
    operators = [_operator(name) for name in _operators() if fnmatch(name, pattern)]
    networks = [_network(name) for name in sorted(MODELS) if fnmatch(name, pattern)]
    if not operators and not networks:
        _refuse(pattern, [*_operators(), *MODELS])
    return operators + networks


def backends(pattern: str = "*") -> list[Row]:
    """Return how each operator is computed by each backend, and why it cannot be here.

    `here` is "yes", or a reason in a few words.
    """
    names = [name for name in KERNELS if fnmatch(f"{OPERATOR}{name}", pattern) or pattern == name]
    if not names:
        raise UnknownNameError("operator with backends", pattern, KERNELS)
    return [
        {
            "operator": f"{OPERATOR}{name}",
            "backend": backend,
            "computes": known.words,
            "applies": known.applies,
            "here": why_not_here(backend) or "yes",
        }
        for name in names
        for backend, known in KERNELS[name].items()
    ]


def _refuse(pattern: str, known: list[str]) -> NoReturn:
    holding = [name for name in known if pattern in name]
    if holding:  # a part of a name, where a pattern for it was meant
        raise SpecError(
            f"No operator or network is called {pattern!r}. Write '*{pattern}*' for the "
            f"{len(holding)} whose names hold it."
        )
    raise UnknownNameError("operator or network", pattern, known)


def _operators() -> list[str]:
    return [f"{OPERATOR}{name}" for name in LAYERS]


def _operator(name: str) -> Row:
    build, known = LAYERS[name.removeprefix(OPERATOR)].build, OPS.get(name.removeprefix(OPERATOR))
    return {
        "kind": "operator",
        **_measured(name, without_weights(resolve(name))),
        "baseline": f"{OPERATOR}conv" if known and known.from_conv else None,
        "options": _options(options_of(build), defaults_of(build)),
        "source": known.source if known else None,
    }


def _network(name: str) -> Row:
    known, model = MODELS[name], without_weights(resolve(name))
    values = {**defaults_of(known.build), **known.preset}
    options = _options(options_of(known.build), values)
    chosen = f" {BACKEND}={NO_BACKEND}" if any(operators_in(model)) else ""
    return {
        "kind": "network",
        **_measured(name, model),
        "baseline": known.baseline,
        "options": f"{options}{chosen}",
        "source": known.source,
    }


def _has_backends(name: str) -> bool:
    return any(operators_in(without_weights(resolve(name))))


def _measured(name: str, model: nn.Module) -> Row:
    return {
        "model": name,
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "image_px": resolve(name).image_px,
    }


def _options(known: Iterable[str], values: dict[str, Any]) -> str:
    return " ".join(f"{key}={_spell(values[key])}" for key in known)


def _spell(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_spell, value))
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def suggestions() -> dict[str, dict[str, dict[str, list[str]]]]:
    """Return what can be typed: of each kind name -> option -> values that are worth offering.

    The kinds are networks, operators (as specs, `op/NAME`) and replacements (behind `replace=`).
    Choices are all there; of other types it is the default alone.
    """
    networks = {
        name: {
            **_offered(known.build, {**defaults_of(known.build), **known.preset}),
            **({BACKEND: [NO_BACKEND, *BACKENDS]} if _has_backends(name) else {}),
        }
        for name, known in MODELS.items()
    }
    operators = {
        f"{OPERATOR}{name}": _offered(layer.build, defaults_of(layer.build))
        for name, layer in LAYERS.items()
    }
    replacements = {
        name: _offered(known.from_conv, defaults_of(known.from_conv))
        for name, known in OPS.items()
        if known.from_conv
    }
    return {"networks": networks, "operators": operators, "replacements": replacements}


def _offered(build: Callable[..., object], values: dict[str, Any]) -> dict[str, list[str]]:
    return {
        key: list(dict.fromkeys([_spell(values[key]), *map(_spell, _choices(hint))]))
        for key, hint in options_of(build).items()
    }


def _choices(hint: Any) -> tuple[object, ...]:
    if hint is bool:
        return (True, False)
    if get_origin(hint) in (Union, UnionType):
        return tuple(choice for each in get_args(hint) for choice in _choices(each))
    return get_args(hint) if get_origin(hint) is Literal else ()
