"""Rows as text: an aligned table, CSV, JSON, Markdown, or LaTeX with booktabs."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Format = Literal["table", "csv", "json", "md", "latex"]
Row = Mapping[str, Any]

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$",
        "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        # in LaTeX's first font encoding these three are other letters
        "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    }
)  # fmt: skip


def render(rows: Sequence[Row], columns: Mapping[str, str], form: Format) -> str:
    """Write rows in a form; `columns` goes from the key of a cell to its heading.

    JSON holds the whole rows; CSV the raw values of the columns; the others are for readers.
    """
    if form == "json":
        return json.dumps(list(rows), indent=2, default=list)
    if form == "csv":
        return _csv(rows, columns)
    # a line of a table is a line of text, whatever an error's message looks like
    cells = [[" ".join(show(row.get(key)).splitlines()) for key in columns] for row in rows]
    right = [any(_is_number(row.get(key)) for row in rows) for key in columns]
    heads = list(columns.values())
    if form == "md":
        return _markdown(heads, cells, right)
    return _latex(heads, cells, right) if form == "latex" else _table(heads, cells, right)


def show(value: Any) -> str:
    """Write a cell for a reader: thousands apart, shapes with a cross, nothing for None.

    A list of anything but whole numbers has commas, one of lists semicolons.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return _list(value) if isinstance(value, tuple | list) else str(value)


def _list(values: Sequence[Any]) -> str:
    if all(isinstance(each, int) for each in values):
        return "x".join(map(str, values))
    lists = any(isinstance(each, tuple | list) for each in values)
    return ("; " if lists else ", ").join("-" if each is None else show(each) for each in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _csv(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        values = [row.get(key) for key in columns]
        writer.writerow([show(v) if isinstance(v, tuple | list) else v for v in values])
    return text.getvalue().rstrip("\n")


def _table(heads: list[str], cells: list[list[str]], right: list[bool]) -> str:
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    lines = [_aligned(line, widths, right) for line in [heads, *cells]]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _aligned(line: list[str], widths: list[int], right: list[bool]) -> str:
    fields = zip(line, widths, right, strict=True)
    return "  ".join(f"{cell:>{w}}" if r else f"{cell:<{w}}" for cell, w, r in fields).rstrip()


def _markdown(heads: list[str], cells: list[list[str]], right: list[bool]) -> str:
    rule = ["---:" if r else "---" for r in right]
    lines = [heads, rule, *([cell.replace("|", r"\|") for cell in line] for line in cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _latex(heads: list[str], cells: list[list[str]], right: list[bool]) -> str:
    lines = [" & ".join(cell.translate(_LATEX) for cell in line) + r" \\" for line in cells]
    # behind the end of a line these two would be its options
    lines = [f"{{}}{line}" if line.startswith(("[", "*")) else line for line in lines]
    head = " & ".join(cell.translate(_LATEX) for cell in heads) + r" \\"
    spec = "".join("r" if r else "l" for r in right)
    body = [r"\toprule", head, r"\midrule", *lines, r"\bottomrule"]
    return "\n".join([f"\\begin{{tabular}}{{{spec}}}", *body, r"\end{tabular}"])
