"""Rows: the folder that they are saved in, and a DataFrame of them to compute with."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pandas import DataFrame, Series


def raw_of(results: str | Path) -> Path:
    """Return the folder of the rows below a folder of results."""
    return Path(results).expanduser() / "raw"


def saved_in(out: str | Path | None) -> Path | None:
    """Return the folder that rows are saved in; None if they are not."""
    return None if out is None else raw_of(out)


def frame_of(rows: Sequence[Mapping[str, Any]], columns: Iterable[str] | None = None) -> DataFrame:
    """Return rows as a table with these columns, by default with all that any row has."""
    keys = dict.fromkeys(key for row in rows for key in row) if columns is None else columns
    names = list(keys)
    cells = [[row.get(key) for key in names] for row in rows]
    return typed(DataFrame(cells, columns=names, dtype=object))


def typed(table: DataFrame) -> DataFrame:
    """Give columns of whole numbers and of numbers their types; an empty cell there is NA or NaN.

    What a table knows of the rows behind it is left out, since it holds for its order alone.
    """
    found = DataFrame({key: _typed(table[key]) for key in table}, columns=table.columns)
    return found.reset_index(drop=True)


def without_empty(table: DataFrame, kept: Collection[str] = ()) -> DataFrame:
    """Leave out columns without a value, except those to be kept."""
    return table[[key for key in table if key in kept or table[key].notna().any()]]


def _typed(column: "Series[Any]") -> "Series[Any]":
    values = [value for value in column if value is not None]
    full = len(values) == len(column)
    if not values:
        return column
    if all(isinstance(value, bool) for value in values):
        return column.astype("bool" if full else "boolean")
    if any(isinstance(value, bool) for value in values):
        return column
    if all(isinstance(value, int) for value in values):
        return column.astype("int64" if full else "Int64")
    if all(isinstance(value, int | float) for value in values):
        return column.astype("float64")
    return column
