"""One name for a network: `name[:key=value]...`, the values may hold commas.

`coresnet50:levels=3,3,2,1`, `torchvision/resnet18:num_classes=10`, `nets.py:my_net:width=8`.
"""

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass
from functools import partial
from typing import Any, Literal, TypeVar

from ctxbench.errors import SpecError, UnknownNameError

T = TypeVar("T")


def split_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Return the name and the options of a spec, as text.

    A `FILE.py:FUNCTION` name keeps its colon.
    """
    parts = [part.strip() for part in spec.strip().split(":")]
    size = 2 if ".py" in parts[0] else 1  # FILE.py:FUNCTION
    name, options = ":".join(parts[:size]), parts[size:]
    if not name:
        raise SpecError(f"Spec {spec!r} has no network name. Write name[:key=value]...")
    values: dict[str, str] = {}
    for option in options:
        key, equals, value = (text.strip() for text in option.partition("="))
        if not (key and equals and value):
            raise SpecError(f"Spec {spec!r}: {option!r} is not of the form key=value.")
        if key in values:
            raise SpecError(f"Spec {spec!r} gives {key!r} twice. Keep one.")
        values[key] = value
    return name, values


def bind(
    name: str, builder: Callable[..., T], given: Mapping[str, Any], *, besides: Iterable[str] = ()
) -> Callable[[], T]:
    """Return the call of `builder` with the options of a spec string that named it.

    Options are the builder's keyword parameters of a plain type and the fields of configuration
    dataclasses that it takes by position. `besides` are those that others read, to be suggested.
    Raises: UnknownNameError or SpecError as `read_options` does.
    """
    values = read_options(name, builder, given, besides=besides)
    configs = [
        (config, {key: values.pop(key) for key in list(values) if key in _fields(config)})
        for config in _configs_of(builder)
    ]
    return partial(_call_with_configs, builder, configs, values)


def read_options(
    name: str,
    builder: Callable[..., object],
    given: Mapping[str, Any],
    *,
    besides: Iterable[str] = (),
) -> dict[str, Any]:
    """Return the given options of a builder as values.

    Text is converted to the declared type, other values pass.
    Raises: UnknownNameError or SpecError naming option, value and what is expected.
    """
    known = options_of(builder)
    values = {}
    for key, value in given.items():
        if key not in known:
            raise UnknownNameError(f"option of {name}", key, {*known, *besides})
        values[key] = _converted(name, key, value, known[key])
    return values


def options_of(builder: Callable[..., object]) -> dict[str, Any]:
    """Return the options of a builder: name -> type."""
    fields = {key: hint for config in _configs_of(builder) for key, hint in _fields(config).items()}
    hints = typing.get_type_hints(builder)
    keywords = {
        key: hints[key]
        for key, parameter in inspect.signature(builder).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and describe(hints[key])
    }
    return {**fields, **keywords}


def defaults_of(builder: Callable[..., object]) -> dict[str, Any]:
    """Return the options of a builder that have a default: name -> value."""
    sources: list[Callable[..., object]] = [builder, *_configs_of(builder)]
    parameters = {
        key: parameter.default
        for source in sources
        for key, parameter in inspect.signature(source).parameters.items()
        if parameter.default is not parameter.empty
    }
    return {key: value for key, value in parameters.items() if key in options_of(builder)}


def convert(text: str, hint: Any) -> Any:
    """Read `text` as a value of the annotated type; ValueError if it is none."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _first_that_fits(text, arguments)
    if origin is Literal:
        return _first_equal(text, arguments)
    if origin is tuple:
        return tuple(convert(item.strip(), arguments[0]) for item in text.split(","))
    return _READERS[hint](text)


def literal(text: str) -> Any:
    """Read `text` as whatever it looks like: for functions whose types nobody declared."""
    if "," in text:
        return tuple(literal(item.strip()) for item in text.split(","))
    return convert(text, int | float | bool | None | str)


def describe(hint: Any) -> str:
    """Say in words what values a type takes; empty for types that a spec cannot spell."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is Literal:
        return " or ".join(str(value) for value in arguments)
    if origin is tuple:
        return f"a comma-separated list, each {describe(arguments[0])}"
    return _WORDS.get(hint, "")


_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    types.NoneType: "none",
}


def _configs_of(builder: Callable[..., object]) -> list[type]:
    """Return the dataclasses among the positional parameters that a builder begins with."""
    hints = typing.get_type_hints(builder)
    configs = []
    for name, parameter in inspect.signature(builder).parameters.items():
        hint = hints.get(name)
        positional = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        if not (positional and isinstance(hint, type) and is_dataclass(hint)):
            break
        configs.append(hint)
    return configs


def _fields(config: type) -> dict[str, Any]:
    return typing.get_type_hints(config)


def _call_with_configs(
    builder: Callable[..., T], configs: list[tuple[type, dict[str, Any]]], values: dict[str, Any]
) -> T:
    return builder(*(config(**fields) for config, fields in configs), **values)


def _converted(name: str, key: str, value: Any, hint: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return convert(value, hint)
    except ValueError:
        raise SpecError(f"{name}: {key}={value} is not {describe(hint)}.") from None


def _no(text: str) -> Any:
    raise ValueError(text)


def _whole(text: str) -> int:
    if not text.lstrip("+-").isdecimal() or abs(int(text)) >= 2**31:  # 1_0 and sizes beyond torch
        return int(_no(text))
    return int(text)


_READERS: dict[Any, Callable[[str], Any]] = {
    bool: lambda text: _first_equal(text, (True, False)),
    int: _whole,
    float: float,
    str: str,
    types.NoneType: lambda text: None if text.lower() == "none" else _no(text),
}


def _first_that_fits(text: str, hints: tuple[Any, ...]) -> Any:
    for hint in hints:
        try:
            return convert(text, hint)
        except ValueError:
            continue
    return _no(text)


def _first_equal(text: str, values: tuple[Any, ...]) -> Any:
    matches = [value for value in values if str(value).lower() == text.lower()]
    return matches[0] if matches else _no(text)
