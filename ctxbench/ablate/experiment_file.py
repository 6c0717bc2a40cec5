"""How an experiment file is read: every key, type and name is checked, and errors say where.

title = "Levels of CoConv"
model = "coresnet_tiny:width=8"          # what the axes do not change
data = "context:distance=8"
seeds = [0, 1, 2]
baseline = { levels = "1,1,1,1" }

[recipe]                                 # fields of Recipe
epochs = 8

[augmentation]                           # fields of Augmentation

[grid]
"model.levels" = ["1,1,1,1", "4,3,2,1"]  # an axis: a setting and its values,
[grid.system]                            # or a name, and what each of its labels sets
plain = { model = "resnet_tiny" }
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import combinations
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from ctxbench.ablate.experiment import (
    Axis,
    Expectation,
    Experiment,
    ExperimentError,
    Published,
    Settings,
    Text,
    as_text,
    value_of,
)
from ctxbench.ablate.recipe import Recipe
from ctxbench.data.augment import Augmentation
from ctxbench.errors import UnknownNameError

T = TypeVar("T")

_SECTIONS = ("model", "data", "recipe", "augmentation")
_KEYS = (
    "title", "model", "data", "seeds", "baseline", "recipe", "augmentation", "grid", "published",
    "expects",
)  # fmt: skip


def read(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file; `overrides` are of the form `recipe.epochs=2`.

    Raises: ExperimentError or UnknownNameError naming file, key, value and what is expected.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExperimentError(f"Cannot read the experiment {path}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path} is no TOML: {error}") from None
    return parse(content, path.stem, overrides, where=str(path))


def parse(
    content: Mapping[str, Any], name: str, overrides: Sequence[str] = (), *, where: str
) -> Experiment:
    """Read an experiment from what its file holds."""
    for key in content:
        if key not in _KEYS:
            _refuse_key(key, where)
    changed = dict(_override(text) for text in overrides)
    seeds = changed.pop("seeds", None)
    for path in changed:
        _check_path(path, "--set")
    base: dict[str, Any] = {
        key: _typed(content[key], str, where, key) for key in ("model", "data") if key in content
    }
    for section in ("recipe", "augmentation"):
        values = _typed(content.get(section, {}), dict, where, section)
        base |= {f"{section}.{key}": value for key, value in values.items()}
    axes = tuple(_axes(_typed(content.get("grid", {}), dict, where, "grid"), where))
    _check_apart(axes, where)
    _check(content, axes, where)
    if changed or seeds is not None:
        name = f"{name} ({', '.join(text.replace(' ', '') for text in overrides)})"
        axes, content = _restricted(content, axes, changed, where)
    experiment = Experiment(
        name=name,
        title=_typed(content.get("title", name), str, where, "title"),
        seeds=_seeds(content.get("seeds", [0]), where) if seeds is None else _seeds_of(seeds),
        base=base,
        axes=axes,
        baseline=_labels(content.get("baseline", _first(axes)), axes, where, "baseline"),
        expects=tuple(
            _expectation(entry, axes, where)
            for entry in _typed(content.get("expects", []), list, where, "expects")
        ),
        published=_published(content.get("published"), axes, where),
        overrides=changed,
        where=where,
    )
    experiment.variants()
    return experiment


def _refuse_key(key: str, where: str) -> NoReturn:
    for section, kind in (("recipe", Recipe), ("augmentation", Augmentation)):
        if key in {field.name for field in fields(kind)}:
            raise ExperimentError(f"{where}: {key!r} stands alone. It belongs into [{section}].")
    raise UnknownNameError(f"key of {where}", key, _KEYS)


def _check(content: Mapping[str, Any], axes: Sequence[Axis], where: str) -> None:
    """Check the keys that name labels of axes, before an override takes labels away."""
    _labels(content.get("baseline", {}), axes, where, "baseline")
    for entry in _typed(content.get("expects", []), list, where, "expects"):
        _expectation(entry, axes, where)


def _restricted(
    content: Mapping[str, Any], axes: Sequence[Axis], changed: dict[str, Any], where: str
) -> tuple[tuple[Axis, ...], dict[str, Any]]:
    """Give an axis the values of an override of its setting; what named its other labels goes."""
    kept = []
    for axis in axes:
        paths = _paths(axis)
        own = [path for path in paths if path in changed]
        if len(paths) == 1 and own:
            text = changed.pop(own[0])
            # a value may be a list itself, like levels: it then is one value
            listed = any("," in label for label in axis.choices)
            values = [Text(part.strip()) for part in ([text] if listed else text.split(","))]
            axis = _axis(axis.name, {v: {own[0]: v} for v in values}, len(values), where)  # noqa: PLW2901
        elif own or any(path.partition(".")[0] in changed for path in paths):
            lost = own[0] if own else next(p for p in paths if p.partition(".")[0] in changed)
            raise ExperimentError(
                f"--set {lost.partition('.')[0] if not own else lost} would undo the axis "
                f"{axis.name!r} of {where}. Write an experiment file of your own for that."
            )
        kept.append(axis)
    labels = {axis.name: set(axis.choices) for axis in kept}

    def there(named: Any) -> bool:
        return not isinstance(named, dict) or all(as_text(named[a]) in labels[a] for a in named)

    left = dict(content)
    left["expects"] = [
        e for e in content.get("expects", []) if there(e["better"]) and there(e["than"])
    ]
    if not there(content.get("baseline", {})):
        del left["baseline"]
    return tuple(kept), left


def _override(text: str) -> tuple[str, Text]:
    path, equals, value = (part.strip() for part in text.partition("="))
    if not (path and equals and value):
        raise ExperimentError(f"--set {text!r} is not of the form recipe.epochs=2.")
    return path, Text(value)


def _check_path(path: str, where: str) -> None:
    section, dot, _ = path.partition(".")
    if section not in _SECTIONS or (not dot and section in ("recipe", "augmentation")):
        known = ("seeds", "model", "model.OPTION", "data", "data.OPTION", "recipe.KEY",
                 "augmentation.KEY")  # fmt: skip
        raise UnknownNameError(f"setting of {where}", path, known)


def _axes(grid: Mapping[str, Any], where: str) -> Iterator[Axis]:
    """Yield the axes of a grid; TOML makes a table of each part of a dotted key."""
    for key, entry in grid.items():
        if key in _SECTIONS and isinstance(entry, dict):
            yield from _axes({f"{key}.{option}": values for option, values in entry.items()}, where)
        elif isinstance(entry, list) or (
            key.partition(".")[0] in _SECTIONS and not isinstance(entry, dict)
        ):
            entry = _typed(entry, list, where, f"grid.{key}")  # noqa: PLW2901
            _check_path(key, f"the grid of {where}")
            choices = {as_text(value): {key: value} for value in entry}
            yield _axis(key.rpartition(".")[2], choices, len(entry), where)
        else:
            named = _typed(entry, dict, where, f"grid.{key}")
            for label, settings in named.items():
                for path in _typed(settings, dict, where, f"grid.{key}.{label}"):
                    _check_path(path, f"grid.{key}.{label} of {where}")
            yield _axis(key, named, len(named), where)


def _axis(name: str, choices: Mapping[str, Settings], given: int, where: str) -> Axis:
    if not choices or len(choices) < given:
        raise ExperimentError(
            f"{where}: the axis {name!r} has no values, or one of them twice. Give each once."
        )
    return Axis(name, choices)


def _check_apart(axes: Sequence[Axis], where: str) -> None:
    """Check that every axis has a name and settings of its own.

    Else the last one would win, and labels would stand beside trainings that are not theirs.
    """
    for one, other in combinations(axes, 2):
        if one.name == other.name:
            raise ExperimentError(
                f"{where}: two axes are named {one.name!r}. Make one of them a table [grid.NAME]."
            )
        both = _paths(one) & _paths(other)
        if both:
            raise ExperimentError(
                f"{where}: the axes {one.name!r} and {other.name!r} both set {min(both)}. Make "
                f"them one axis."
            )


def _paths(axis: Axis) -> set[str]:
    return {path for settings in axis.choices.values() for path in settings}


def _first(axes: Sequence[Axis]) -> dict[str, str]:
    """Return the label that others are compared with, where a file names none."""
    return {axis.name: next(iter(axis.choices)) for axis in axes[:1]}


def _labels(entry: Any, axes: Sequence[Axis], where: str, key: str) -> dict[str, str]:
    """Read a table of axis = label."""
    known = {axis.name: axis.choices for axis in axes}
    chosen = {}
    for axis, value in _typed(entry, dict, where, key).items():
        if axis not in known:
            raise UnknownNameError(f"axis in {key} of {where}", axis, known)
        label = as_text(value)
        if label not in known[axis]:
            raise UnknownNameError(f"label of {axis} in {key} of {where}", label, known[axis])
        chosen[axis] = label
    return chosen


_EXPECTED = ("words", "better", "than", "at_least")


def _expectation(entry: Any, axes: Sequence[Axis], where: str) -> Expectation:
    table = _typed(entry, dict, where, "expects")
    for key in table:
        if key not in _EXPECTED:
            raise UnknownNameError(f"key of [[expects]] in {where}", key, _EXPECTED)
    for key in ("words", "better", "than"):
        if key not in table:
            raise ExperimentError(f"{where}: an entry of [[expects]] has no {key!r}. Add it.")
    than = table["than"]
    number = isinstance(than, int | float) and not isinstance(than, bool)
    return Expectation(
        words=_typed(table["words"], str, where, "expects.words"),
        better=_labels(table["better"], axes, where, "expects.better"),
        than=float(than) if number else _labels(than, axes, where, "expects.than"),
        at_least=_points(table.get("at_least", 1.0), where),
    )


def _points(value: Any, where: str) -> float:
    points = float(value_of(value, float, f"{where}: expects.at_least"))
    if not 0 <= points <= 100:
        raise ExperimentError(f"{where}: at_least = {points:g} are no percentage points, 0 to 100.")
    return points


def _published(entry: Any, axes: Sequence[Axis], where: str) -> Published | None:
    if entry is None:
        return None
    table = _typed(entry, dict, where, "published")
    keys = ("axis", "paper", "table")
    for key in table:
        if key not in keys:
            raise UnknownNameError(f"key of [published] in {where}", key, keys)
    for key in keys:
        if key not in table:
            raise ExperimentError(f"{where}: [published] lacks {key!r}. Add it.")
    names = [axis.name for axis in axes]
    if table["axis"] not in names:
        raise UnknownNameError(f"axis in published of {where}", table["axis"], names)
    return Published(**table)


def _seeds(entry: Any, where: str) -> tuple[int, ...]:
    seeds = _typed(entry, list, where, "seeds")
    wrong = [s for s in seeds if not isinstance(s, int) or isinstance(s, bool) or s < 0]
    if wrong or not seeds or len(set(seeds)) < len(seeds):
        raise ExperimentError(f"{where}: seeds = {entry} are not whole numbers, each once.")
    return tuple(seeds)


def _seeds_of(text: str) -> tuple[int, ...]:
    numbers = [part.strip() for part in text.split(",")]
    if not all(number.isdecimal() for number in numbers):
        raise ExperimentError(f"--set seeds={text} are not whole numbers, like seeds=0,1,2.")
    return _seeds([int(number) for number in numbers], "--set")


_KINDS: dict[type, str] = {str: "text", dict: "a table", list: "a list"}


def _typed(value: Any, kind: type[T], where: str, key: str) -> T:
    if not isinstance(value, kind):
        raise ExperimentError(f"{where}: {key} = {value!r} is not {_KINDS[kind]}.")
    return value
