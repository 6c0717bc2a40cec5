"""Which rows of operators stand before readers, in tables and in the figure."""

from collections.abc import Sequence

from ctxbench.records import Row
from ctxbench.report.machines import PLACE

OBVIOUS = "obvious"


def at_largest_batch(rows: Sequence[Row]) -> list[Row]:
    """Keep of each operator, shape and setting the largest batch that has an obvious form."""
    largest: dict[tuple[object, ...], int] = {}
    for row in rows:
        if row["form"] == OBVIOUS:
            largest[_shape(row)] = max(largest.get(_shape(row), 0), row["batch"])
    return [row for row in rows if largest.get(_shape(row)) == row["batch"]]


def _shape(row: Row) -> tuple[object, ...]:
    shape = str(row["case"]).rpartition(", batch")[0]
    setting = (row[key] for key in ("device", "dtype", "layout", "task"))
    return (row[PLACE], row["operator"], shape, *setting)
