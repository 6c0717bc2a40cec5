"""Rows as the DataFrame of a table."""

from collections.abc import Sequence

from pandas import DataFrame

from ctxbench.records import Row


def frame(rows: Sequence[Row], columns: Sequence[str]) -> DataFrame:
    """Return these columns of rows; a cell that a row lacks is empty."""
    cells = [[row.get(key) for key in columns] for row in rows]
    # object: beside an empty cell, pandas would turn integers into floats
    return DataFrame(cells, columns=list(columns), dtype=object)
