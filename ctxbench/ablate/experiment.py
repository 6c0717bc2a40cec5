"""An experiment: what is compared, on what, how often, and what is expected of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, TypeVar, get_type_hints

from ctxbench.ablate.recipe import Recipe
from ctxbench.data.augment import Augmentation
from ctxbench.errors import CtxbenchError, UnknownNameError
from ctxbench.spec import convert, describe

T = TypeVar("T")
Settings = Mapping[str, Any]  # path -> value: "model", "model.OPTION", "recipe.KEY", ...


class ExperimentError(CtxbenchError):
    """An experiment file, or an override of it, that cannot be read or does not fit."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One dimension of the grid: its labels, and the settings that each of them makes."""

    name: str
    choices: Mapping[str, Settings]


@dataclass(frozen=True, slots=True)
class Expectation:
    """One variant is expected to have a lower error than another, or than a number of %.

    `at_least` is the least difference, in percentage points, that would matter: a gain that is
    surely smaller is none.
    """

    words: str
    better: Mapping[str, str]
    than: Mapping[str, str] | float
    at_least: float = 1.0


@dataclass(frozen=True, slots=True)
class Published:
    """Where a paper prints the figures of the labels of an axis: each label is a row there."""

    axis: str
    paper: str
    table: str


@dataclass(frozen=True, slots=True)
class Variant:
    """One cell of the grid: what all its seeds have in common."""

    labels: Mapping[str, str]
    model: str
    data: str
    recipe: Recipe
    augmentation: Augmentation


@dataclass(frozen=True, slots=True)
class Experiment:
    """An experiment file, read and checked, with its overrides."""

    name: str
    title: str
    seeds: tuple[int, ...]
    base: Settings
    axes: tuple[Axis, ...]
    baseline: Mapping[str, str] = field(default_factory=dict)
    expects: tuple[Expectation, ...] = ()
    published: Published | None = None
    overrides: Settings = field(default_factory=dict)
    where: str = ""

    def variants(self) -> list[Variant]:
        """Return every cell of the grid, the last axis changing fastest."""
        names = [axis.name for axis in self.axes]
        labels = product(*(axis.choices for axis in self.axes))
        return [self._variant(dict(zip(names, chosen, strict=True))) for chosen in labels]

    def _variant(self, labels: Mapping[str, str]) -> Variant:
        chosen = [axis.choices[labels[axis.name]] for axis in self.axes]
        settings: dict[str, Any] = dict(self.base)
        for layer in (*chosen, self.overrides):
            settings |= layer
        for path in ("model", "data"):
            if path not in settings:
                raise ExperimentError(
                    f"{self.where}: no {path}. Write {path} = ... above the tables, or as an axis."
                )
        return Variant(
            labels,
            _spec(settings, "model"),
            _spec(settings, "data"),
            _fields(Recipe, "recipe", settings, self.where),
            _fields(Augmentation, "augmentation", settings, self.where),
        )


def _spec(settings: Settings, section: str) -> str:
    """Return a spec with the options that were set on it, each in place of what it had."""
    spec: str = settings[section]
    for path, value in settings.items():
        if path.startswith(f"{section}."):
            spec = with_option(spec, path.partition(".")[2], as_text(value))
    return spec


def with_option(spec: str, key: str, value: str) -> str:
    """Return a spec whose option `key` is `value`; what replaces convolutions stays behind it."""
    plain, mark, operator = spec.partition(":replace=")
    parts = [part for part in plain.split(":") if part.partition("=")[0].strip() != key]
    return ":".join([*parts, f"{key}={value}"]) + mark + operator


def as_text(value: Any) -> str:
    """Write a value of an experiment file as the option of a spec."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(as_text, value))
    return str(value)


def _fields(kind: Callable[..., T], section: str, settings: Settings, where: str) -> T:
    """Make a dataclass of the settings of a section."""
    hints = get_type_hints(kind)
    values = {}
    for path, value in settings.items():
        name, _, key = path.partition(".")
        if name != section:
            continue
        if key not in hints:
            raise UnknownNameError(f"key of [{section}] in {where}", key, hints)
        values[key] = value_of(value, hints[key], f"{where}: {path}")
    try:
        return kind(**values)
    except ValueError as error:
        raise ExperimentError(f"{where}: [{section}] {error}") from None


def value_of(value: Any, hint: Any, where: str) -> Any:
    """Read a value as its declared type; text is for text, unless it comes from --set."""
    text = as_text(value)
    try:
        read_ = convert(text, hint)
    except (ValueError, KeyError):
        raise ExperimentError(f"{where} = {text!r} is not {describe(hint)}.") from None
    if isinstance(value, str) and not isinstance(value, Text) and not isinstance(read_, str):
        raise ExperimentError(f"{where} = {text!r} is text, not {describe(hint)}. Drop the quotes.")
    return read_


class Text(str):
    """A value from the command line, which is text whatever it stands for."""
