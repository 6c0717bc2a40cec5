"""Cells of the page's tables: what is read, and beside it the exact value."""

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from ctxbench.claims import CLOSE, DIFFERS, PROVED_EQUAL, REFUTED, REPRODUCED
from ctxbench.render import show
from ctxbench.report.ablations import CONFIRMED, NOT_CONFIRMED, points
from ctxbench.report.timings import with_interval

_GOOD, _NEAR, _BAD, _OPEN = "good", "near", "bad", "open"
# verdict -> how its chip is coloured, and the sign that says the same without colour
_CHIPS = {
    REPRODUCED: (_GOOD, "\N{CHECK MARK}"),
    PROVED_EQUAL: (_GOOD, "="),
    CONFIRMED: (_GOOD, "\N{CHECK MARK}"),
    CLOSE: (_NEAR, "\N{ALMOST EQUAL TO}"),
    DIFFERS: (_BAD, "\N{NOT EQUAL TO}"),
    REFUTED: (_BAD, "\N{MULTIPLICATION SIGN}"),
    NOT_CONFIRMED: (_BAD, "\N{MULTIPLICATION SIGN}"),
}
_UNJUDGED = (_OPEN, "\N{MIDDLE DOT}")
# from here on as many digits as there are, which no float may hold
_ENDLESS = 10**18
_POWERS = ((10**12, "T"), (10**9, "G"), (10**6, "M"))
# letters of a cell
LONGEST = 2000
_MINUS = "\N{MINUS SIGN}"
_NUMBER = re.compile(r"[+\-\N{MINUS SIGN}]?\d[\d.,]*(e[+-]?\d+)?( \[.*\])?")


class Cell(NamedTuple):
    """What a reader sees, the exact value where that is more, and how a verdict is marked."""

    text: str
    exact: str | None = None
    chip: str | None = None
    sign: str | None = None


class Range(NamedTuple):
    """A column made of three, a value and the ends of its interval; `form` says how to write it."""

    value: str
    low: str
    high: str
    form: Literal["ratio", "points", "signed"] = "ratio"
    said: str = "[95\N{NO-BREAK SPACE}%]"


def cell(key: str, value: Any) -> Cell:
    """Write one value; millions and more are short, verdicts are chips."""
    if is_verdict(key) and isinstance(value, str):
        chip, sign = chip_of(value)
        return Cell(value, None, chip, sign)
    if isinstance(value, int) and not isinstance(value, bool):
        return _count(value)
    if isinstance(value, float):
        text = show(value).replace("-", _MINUS)
        return Cell(text, repr(value) if text != repr(value) else None)
    return Cell(shortened(show(value)))


def shortened(text: str) -> str:
    """Cut a text that would take the page for itself, and say so; files of tables hold it all."""
    beyond = len(text) - LONGEST
    return (
        text
        if beyond <= 0
        else f"{text[:LONGEST]}\N{HORIZONTAL ELLIPSIS} ({beyond:,} more letters)"
    )


def range_cell(column: Range, line: Mapping[str, Any]) -> Cell:
    """Write `1.06 [1.04, 1.07]`, exactly in the details."""
    value, low, high = (line.get(key) for key in column[:3])
    if not isinstance(value, int | float):
        return Cell("" if value is None else str(value))
    if column.form != "ratio" or value <= 0:
        text = points(value, low, high, signed=column.form == "signed")
    else:
        text = with_interval(value, low, high)
    ends = f" [{low!r}, {high!r}]" if low is not None and high is not None else ""
    exact = f"{value!r}{ends}"
    return Cell(text, exact if exact != text else None)


def is_verdict(key: str) -> bool:
    """Tell whether a column holds verdicts."""
    return key == "verdict" or key.endswith("_verdict")


def chip_of(verdict: str) -> tuple[str, str]:
    """Return how a verdict is coloured, and its sign; one that says more is known by its start."""
    known = _CHIPS.get(verdict) or _CHIPS.get(verdict.partition(":")[0])
    return known or _UNJUDGED


def is_numeric(cells: list[Cell]) -> bool:
    """Tell whether a column is numbers: most of its cells that are not empty begin with one."""
    told = [cell.exact or cell.text for cell in cells if cell.text]
    return 2 * sum(bool(_NUMBER.fullmatch(text)) for text in told) > len(told)


def _count(value: int) -> Cell:
    for power, letter in _POWERS:
        if power <= abs(value) < _ENDLESS:
            return Cell(f"{value / power:.4g} {letter}".replace("-", _MINUS), str(value))
    text = show(value).replace("-", _MINUS)
    return Cell(text, str(value) if text != str(value) else None)
