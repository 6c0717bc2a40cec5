"""Rows as the DataFrame of a table, each line with the rows that it is made of."""

from collections.abc import Iterable, Sequence
from typing import Self

from pandas import DataFrame

from ctxbench.records import Row

# in a row the numbers of its origins, in the `attrs` of a table those of each line
MADE_OF = "made_of"


class _Origins(tuple[tuple[int, ...], ...]):
    """The origins of each line; pandas copies `attrs` with every slice, and these never change."""

    def __deepcopy__(self, memo: object) -> Self:
        return self


def frame(rows: Sequence[Row], columns: Sequence[str]) -> DataFrame:
    """Return these columns of rows; a cell that a row lacks is empty."""
    cells = [[row.get(key) for key in columns] for row in rows]
    # object: beside an empty cell, pandas would turn integers into floats
    table = DataFrame(cells, columns=list(columns), dtype=object)
    table.attrs[MADE_OF] = _Origins(row.get(MADE_OF, ()) for row in rows)
    return table


def made_of(rows: Iterable[Row]) -> dict[str, tuple[int, ...]]:
    """Return what a line that is made of several rows says of its origins."""
    return {MADE_OF: tuple(sorted({number for row in rows for number in row.get(MADE_OF, ())}))}
