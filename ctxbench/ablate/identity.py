"""What a trial is: the hash of everything that changes its result."""

import ast
import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ctxbench import __file__ as _INIT
from ctxbench.ablate import step
from ctxbench.ablate.recipe import Recipe
from ctxbench.data import augment, batches
from ctxbench.data._spec import Data, DataSource
from ctxbench.data.augment import Augmentation
from ctxbench.models import MODELS, replace
from ctxbench.models.replace import split_replacement
from ctxbench.ops import LAYERS
from ctxbench.spec import split_spec

_PACKAGE = Path(_INIT).parent
# How `train.py` calls what decides, which is not in the hash: raise it when a change there, such as
# of seeds, gives other weights; a test holds it to the weights of a tiny trial.
_LOOP = 0
# the rooms whose code decides a result; the others only look on
_DECIDING = ("kernels", "ops", "models", "data")


def trial_id(
    model: str,
    data: DataSource,
    recipe: Recipe,
    augmentation: Augmentation,
    seed: int,
    contents: str | None = None,
) -> str:
    """Return 16 hex digits that change whenever the result of the training may.

    In it go the network, the data, what the recipe says beyond its defaults, the seed, and the code
    of the parts that are used: not its comments and docstrings, and not that of other networks.
    `contents` stands for what a folder of images holds. The machine and the versions of libraries
    stand in the row instead.
    """
    told = {
        "model": canonical(model),
        "data": data.spec,
        "recipe": beyond_defaults(recipe),
        "augmentation": beyond_defaults(augmentation),
        "seed": seed,
        "code": code_of(model, data),
        **({"contents": contents} if contents else {}),
        **({"loop": _LOOP} if _LOOP else {}),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def contents_of(data: Data) -> str | None:
    """Return the hash of the names and labels of image files; None for data that are made.

    Their bytes are not read: ImageNet would take minutes.
    """
    parts = [getattr(images, "files", None) for images in (data.train, data.validation)]
    if all(files is None for files in parts):
        return None
    named = [[(Path(path).parts[-3:], label) for path, label in files or ()] for files in parts]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()


def beyond_defaults(settings: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from their defaults.

    A field that is added later, with a default that changes nothing, leaves every id as it was.
    """
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return {f.name: values[f.name] for f in fields(settings) if values[f.name] != f.default}


def canonical(spec: str) -> str:
    """Write a spec with its options in alphabetical order."""
    plain, operator = split_replacement(spec)
    parts = [_sorted(plain), *([f"replace={_sorted(operator)}"] if operator else [])]
    return ":".join(parts)


def _sorted(spec: str) -> str:
    name, options = split_spec(spec)
    return ":".join([name, *(f"{key}={value}" for key, value in sorted(options.items()))])


def code_of(model: str, data: DataSource) -> str:
    """Return the hash of the code that training this network on this data runs through.

    Where the files lie does not count.
    """
    ours = [step, augment, batches]
    roots = [Path(str(module.__file__)) for module in ours]
    files = closure([*roots, *_files_of(model), *data.files])
    parts = sorted({hashlib.sha256(_normal(path).encode()).hexdigest() for path in files})
    return hashlib.sha256(" ".join([*parts, _library(model)]).encode()).hexdigest()


def closure(roots: Iterable[Path]) -> set[Path]:
    """Return files and those of the deciding rooms that they import, directly or not."""
    found: set[Path] = set()
    open_ = list(roots)
    while open_:
        path = open_.pop()
        if path not in found:
            found.add(path)
            open_ += _imports(path)
    return found


def _files_of(model: str) -> Iterator[Path]:
    """Yield the files in which the network of a spec, and what replaces its parts, are written."""
    plain, operator = split_replacement(model)
    name, _ = split_spec(plain)
    if name in MODELS:
        yield _file(MODELS[name].build)
    elif ".py" in name:
        yield Path(name.rpartition(":")[0])
    if operator is not None:
        yield Path(str(replace.__file__))
        yield _file(LAYERS[split_spec(operator)[0]].build)


def _file(function: Any) -> Path:
    return Path(str(inspect.getsourcefile(inspect.unwrap(function))))


def _library(model: str) -> str:
    """Name the version of the library that a foreign network comes from."""
    name = model.partition("/")[0]
    try:
        return f"{name} {version(name)}" if name in ("torchvision", "timm") else ""
    except PackageNotFoundError:
        return name


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _normal(path: Path) -> str:
    """Return the code of a file without comments, docstrings and layout."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_text(body[0]):
            del body[0]
    return ast.unparse(tree)


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _imports(path: Path) -> list[Path]:
    """Return the files of the deciding rooms, or beside it, from which a file takes names."""
    found = []
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [_home(node.module, alias.name, path) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [_home(*alias.name.rpartition(".")[::2], path) for alias in node.names]
    return [home for home in found if home is not None]


def _home(module: str, name: str, importer: Path) -> Path | None:
    """Return the file in which a name that is imported from a module is written, if it counts."""
    root, *rest = module.split(".")
    if root != "ctxbench":
        beside = (importer.parent.joinpath(*(module or name).split("."))).with_suffix(".py")
        return beside if beside.is_file() and _PACKAGE not in beside.parents else None
    if not rest or rest[0] not in _DECIDING:
        return None
    base = _PACKAGE.joinpath(*rest)
    for path in (base / f"{name}.py", base.with_suffix(".py")):
        if path.is_file():
            return path
    passed_on = base / "__init__.py"  # a registry: not all of it, only where the name comes from
    for node in ast.walk(_tree(passed_on)):
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            return _home(str(node.module), name, importer)
    return passed_on
