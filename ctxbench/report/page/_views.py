"""Tables as the page shows them: chosen columns, filters, where each line comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pandas import DataFrame

from ctxbench.report._frames import MADE_OF
from ctxbench.report.machines import PLACE
from ctxbench.report.page._cells import LONGEST, Cell, Range, cell, is_numeric, range_cell
from ctxbench.report.page._origins import MOST_RUNS, Origins
from ctxbench.report.tables import heading

_SEARCHED_FROM = 12
# text longer than this is given room, and breaks anywhere
_WIDE, _WIDEST = 22, 60
# a table is at least so long, however many others there are
_LEAST_LINES, _MOST_LINES, _WEIGHED_LINES = 40, 20_000, 200
# what a cell weighs besides its text
_MARKUP = 24

Column = str | Range


@dataclass(frozen=True, slots=True)
class Show:
    """How a table is shown: in which columns (all if none are named), filtered by which.

    What a line holds besides these columns stands in its details.
    """

    table: str
    title: str
    about: str = ""
    columns: tuple[Column, ...] = ()
    filters: tuple[str, ...] = ()
    headings: Mapping[str, str] = field(default_factory=dict)


class Head(NamedTuple):
    """A column's heading, and how it is set: `n` numbers, `w` long text, `x` the longest."""

    text: str
    look: str


class Line(NamedTuple):
    """A line of a table, the values of its filters and where it comes from."""

    cells: list[Cell]
    filters: list[str]
    made_by: str


class Filter(NamedTuple):
    """What a table can be narrowed by, and to which values."""

    key: str
    label: str
    values: list[str]


@dataclass(frozen=True, slots=True)
class View:
    """A table ready to be written; `more` are the other columns, by heading, in each line."""

    name: str
    title: str
    about: str
    heads: list[Head]
    lines: list[Line]
    total: int
    filters: list[Filter]
    searched: bool
    filed: bool
    more: dict[str, list[str]]


def make(show: Show, table: DataFrame, origins: Origins, *, most: int, filed: bool) -> View:
    """Write at most so many lines of a table, the first ones."""
    # not by slicing: pandas would copy every line's origins each time
    records = [dict(zip(map(str, table), line, strict=True)) for line in table.to_numpy()[:most]]
    places = _places(table)
    keyed = [PLACE] if len(places) > 1 else []
    columns: Sequence[Column] = show.columns or [str(key) for key in table]
    columns = [column for column in columns if _value_key(column) in table and column != PLACE]
    columns = [*keyed, *columns]
    across = [[_cell(column, line) for line in records] for column in columns]
    filters = [
        Filter(key, _heading(show, key), values)
        for key in dict.fromkeys([*keyed, *show.filters])
        if len(values := _values(records, key)) > 1
    ]
    lines = [
        Line(list(cells), [_plain(line.get(each.key)) for each in filters], origins.told(made_of))
        for cells, line, made_of in zip(
            zip(*across, strict=True), records, table.attrs[MADE_OF], strict=False
        )
    ]
    heads = [
        Head(_heading(show, column), _look(cells))
        for column, cells in zip(columns, across, strict=True)
    ]
    about = f"{show.about} Measured on {places[0]}." if len(places) == 1 else show.about
    return View(
        show.table, show.title, about.strip(), heads, lines, len(table), filters,
        len(lines) >= _SEARCHED_FROM, filed, _more(show, columns, records),
    )  # fmt: skip


def fitting(tables: Mapping[str, DataFrame], budget: int) -> int:
    """Return how many lines of each table fit into so many characters of the page together."""
    weights = {name: _line_weight(table) for name, table in tables.items() if len(table)}
    most = _MOST_LINES
    while most > _LEAST_LINES:
        if sum(weight * min(most, len(tables[name])) for name, weight in weights.items()) <= budget:
            return most
        most = max(_LEAST_LINES, int(most / 1.25))
    return most


def _line_weight(table: DataFrame) -> int:
    """Return the characters that a line of a table takes, by lines from all of it."""
    step = -(-len(table) // _WEIGHED_LINES)
    lines = table.to_numpy()[::step]
    said = sum(_MARKUP + min(len(str(value)), LONGEST) for line in lines for value in line)
    runs = sum(min(len(made_of), MOST_RUNS) for made_of in table.attrs[MADE_OF][::step])
    return (said + 12 * runs) // len(lines)


def _places(table: DataFrame) -> list[str]:
    """Return where the lines of a table were measured; where it is one, it is told once."""
    if PLACE not in table:
        return []
    column = list(table).index(PLACE)
    return list(dict.fromkeys(str(line[column]) for line in table.to_numpy()))


def _cell(column: Column, line: Mapping[str, Any]) -> Cell:
    return range_cell(column, line) if isinstance(column, Range) else cell(column, line.get(column))


def _look(cells: list[Cell]) -> str:
    if is_numeric(cells):
        return "n"
    longest = max((len(each.text) for each in cells if not each.chip), default=0)
    return "x" if longest > _WIDEST else "w" if longest > _WIDE else ""


def _value_key(column: Column) -> str:
    return column.value if isinstance(column, Range) else column


def _heading(show: Show, column: Column) -> str:
    key = _value_key(column)
    name = show.headings.get(key) or heading(key)
    return f"{name} {column.said}" if isinstance(column, Range) else name


def _values(records: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(_plain(line.get(key)) for line in records))


def _plain(value: Any) -> str:
    return cell("", value).text


def _more(
    show: Show, columns: Sequence[Column], records: Sequence[Mapping[str, Any]]
) -> dict[str, list[str]]:
    """Gather the columns that are not shown and not always empty, as their exact text."""
    used = {
        key for column in columns for key in (column[:3] if isinstance(column, Range) else [column])
    }
    keys = [key for key in (records[0] if records else {}) if key not in used]
    told = {_heading(show, key): [_exact(line.get(key)) for line in records] for key in keys}
    return {heading: values for heading, values in told.items() if any(values)}


def _exact(value: Any) -> str:
    said = cell("", value)
    return said.exact or said.text
