"""The registry of operators as text: which names it holds, and how one is added."""

import re

_LINE = 100
_IMPORT = re.compile(r"^from ctxbench\.ops import (?:\(([^)]*)\)|(.+))$", flags=re.MULTILINE)
_TABLES = {"OPS": "SPEC", "LAYERS": "LAYER"}


def registered(source: str) -> set[str]:
    """Return the names that the registry has: of operators, and of the modules that it imports."""
    keys = {key for table in _TABLES for key in re.findall(r'"(\w+)"', _table(source, table)[2])}
    return keys | set(_modules(source))


def with_operator(source: str, name: str) -> str:
    """Return the source of the registry with one operator more, as `ruff format` would have it.

    Raises: ValueError if the source does not read like a registry.
    """
    modules = sorted([*_modules(source), name])
    source = _IMPORT.sub(_import_line(modules), source, count=1)
    for table, attribute in _TABLES.items():
        head, _, entries = _table(source, table)
        start = f"{head}{entries}"
        source = source.replace(start, f'{start}    "{name}": {name}.{attribute},\n', 1)
    return source


def _modules(source: str) -> list[str]:
    match = _IMPORT.search(source)
    if not match:
        raise ValueError("it has no line `from ctxbench.ops import ...`")
    return re.findall(r"\w+", match[1] or match[2])


def _import_line(modules: list[str]) -> str:
    line = f"from ctxbench.ops import {', '.join(modules)}"
    if len(line) <= _LINE:
        return line
    return "from ctxbench.ops import (\n" + "".join(f"    {each},\n" for each in modules) + ")"


def _table(source: str, name: str) -> tuple[str, str, str]:
    """Return the first line of a dict, its type, and its entries, each a line."""
    match = re.search(
        rf"^({name}: dict\[str, (\w+)\] = \{{\n)((?:    .+\n)*)\}}", source, flags=re.MULTILINE
    )
    if not match:
        raise ValueError(f"it has no table {name}")
    return match[1], match[2], match[3]
