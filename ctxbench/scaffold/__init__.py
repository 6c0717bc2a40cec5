"""New parts of ctxbench, written as files that work and pass the tests: change them from there."""

import builtins
import keyword
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template

from ctxbench.errors import CtxbenchError
from ctxbench.scaffold._registry import registered, with_operator

_REGISTRY = Path("ctxbench/ops/__init__.py")
# what is written for an operator: template -> path in the checkout
_OPERATOR = {
    "operator.txt": "ctxbench/ops/{name}.py",
    "definition.txt": "tests/reference/{name}.py",
    "test.txt": "tests/ops/test_{name}.py",
    "experiment.txt": "experiments/{name}.toml",
}
_LONGEST = 24  # with a longer name, lines of the files would be longer than ruff allows
# the files are modules and functions of that name, which must not hide what they use themselves
_USED = {*keyword.kwlist, *dir(builtins), "torch"}


class ScaffoldError(CtxbenchError):
    """A part that cannot be written: its name, or the folder, does not fit."""


def new_operator(name: str, root: Path = Path()) -> list[Path]:
    """Write an operator into the checkout at `root`, and return the files written or changed.

    They are the operator, its definition, the test that holds one against the other, an experiment,
    and the registry. Nothing is overwritten, and nothing is written unless everything can be.
    Raises: ScaffoldError for a name that is taken or is none, and for a folder that is no checkout.
    """
    registry = _checkout(root) / _REGISTRY
    try:
        source = registry.read_text()
        _check_name(name, registered(source))
        changed = with_operator(source, name)
    except (OSError, ValueError) as error:
        raise ScaffoldError(f"{registry} cannot be extended: {error}.") from None
    texts = {root / path: text for path, text in _texts(name).items()}
    for path in texts:
        if path.exists():
            raise ScaffoldError(f"{path} is there already. Choose another name than {name!r}.")
    _write(texts, registry, changed)
    return [*texts, registry]


def class_name(name: str) -> str:
    """Return the name of an operator's class: `mean_gate` is `MeanGate2d`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_")) + "2d"


def _checkout(root: Path) -> Path:
    wanted = (_REGISTRY, Path("tests/reference"), Path("tests/ops"), Path("experiments"))
    absent = [str(path) for path in wanted if not (root / path).exists()]
    if absent:
        raise ScaffoldError(
            f"{root.resolve()} is no checkout of ctxbench: it lacks {', '.join(absent)}. Go to "
            f"one, or name it with --root."
        )
    return root


def _check_name(name: str, taken: set[str]) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in _USED or len(name) > _LONGEST:
        raise ScaffoldError(
            f"{name!r} is no name for an operator. Write a Python name in lower case that Python "
            f"and torch do not have, like mean_gate, of {_LONGEST} characters at most."
        )
    if name in taken:
        raise ScaffoldError(f"There is an operator {name!r} already. Choose another name.")


def _texts(name: str) -> Mapping[str, str]:
    """Return the files of an operator: path in the checkout -> text."""
    folder = files(__name__) / "templates"
    values = {"name": name, "class_name": class_name(name)}
    return {
        path.format(name=name): Template((folder / template).read_text()).substitute(values)
        for template, path in _OPERATOR.items()
    }


def _write(texts: Mapping[Path, str], registry: Path, changed: str) -> None:
    written: list[Path] = []
    try:
        for path, text in texts.items():
            with path.open("x") as file:
                written.append(path)
                file.write(text)
        registry.write_text(changed)
    except OSError as error:
        for path in written:
            path.unlink()
        raise ScaffoldError(
            f"Cannot write {error.filename}: {error.strerror}. Nothing is left behind."
        ) from None
