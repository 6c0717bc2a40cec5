"""Functions in a user's Python file: `FILE.py:FUNCTION`."""

import importlib.util
import inspect
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from ctxbench.errors import SpecError, UnknownNameError


def function_of(name: str) -> Callable[..., Any]:
    """Return the function that `FILE.py:FUNCTION` names; runs the file.

    Raises: SpecError or UnknownNameError if there is no such file or function.
    """
    file, _, function = name.rpartition(":")
    if not file or not function:
        raise SpecError(f"{name!r} names no function. Write FILE.py:FUNCTION.")
    path = Path(file)
    if not path.is_file():
        raise SpecError(f"{name!r}: there is no file {file!r}.")
    found = _execute(path)
    names = [key for key, value in found.items() if callable(value)]
    if function not in names:
        raise UnknownNameError(f"function of {file}", function, names)
    called: Callable[..., Any] = found[function]
    return called


def check_options(name: str, function: Callable[..., Any], options: dict[str, Any]) -> None:
    """Raise SpecError if a function cannot be called with these options."""
    try:
        inspect.signature(function).bind(**options)
    except TypeError as error:
        raise SpecError(f"{name} cannot be built with {options}: {error}") from None


def _execute(path: Path) -> dict[str, Any]:
    """Run a Python file as a module, as `python FILE` would find its neighbours."""
    located = importlib.util.spec_from_file_location(f"ctxbench_{path.stem}", path.resolve())
    if located is None or located.loader is None:
        raise SpecError(f"{str(path)!r} is not a Python file.")
    module = importlib.util.module_from_spec(located)
    sys.modules[located.name] = module  # dataclasses and pickle look it up
    sys.path.insert(0, str(path.resolve().parent))
    try:
        with redirect_stdout(sys.stderr):  # standard output is for data
            located.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise SpecError(f"{path} cannot be run: {error}") from None
    finally:
        sys.path.pop(0)
    return vars(module)
