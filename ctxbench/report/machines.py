"""Where a row was made: times of different machines, and of CPU and GPU, are never compared."""

from collections.abc import Iterable, Sequence

from ctxbench.records import Row, latest

PLACE = "place"
CPU = "cpu"
_UNKNOWN = "an unknown machine"


def place(row: Row) -> str:
    """Name where a row was measured; on a CPU the number of threads belongs to it."""
    if row["device"] != CPU:
        return str(row["device_name"])
    return f"{row['device_name']}, {_threads(row['threads'])}"


def placed(rows: Iterable[Row]) -> list[Row]:
    """Give rows with a device their `place`: it, and its machine where several have one like it."""
    kept = [(row, place(row), host(row)) for row in rows]
    hosts: dict[str, set[str]] = {}
    for _, name, where in kept:
        hosts.setdefault(name, set()).add(where)
    return [
        {**row, PLACE: f"{name} in {where}" if len(hosts[name]) > 1 else name}
        for row, name, where in kept
    ]


def machine(row: Row) -> str:
    """Name the machine of any row by its stamp, with the row's device and threads if it has any."""
    parts = [host(row)]
    if row.get("device") not in (None, CPU):
        parts.insert(0, str(row.get("device_name") or row["device"]))
    elif row.get("threads") is not None:
        parts.append(_threads(row["threads"]))
    return ", ".join(parts)


def last_of_each(rows: Iterable[Row], *key: str) -> list[Row]:
    """Keep the last row of each machine for each value of the key columns, with its `place`."""
    return latest([{**row, PLACE: machine(row)} for row in rows], PLACE, *key)


def with_place(rows: Iterable[Row], columns: Sequence[str]) -> list[str]:
    """Put the column of the machine before those of a table, where there are several."""
    several = len({row[PLACE] for row in rows}) > 1
    return [PLACE, *columns] if several else list(columns)


def host(row: Row) -> str:
    """Name the processor and its cores, as a row's stamp tells them."""
    found = (row.get("stamp") or {}).get("machine") or {}
    cpu, cores = found.get("cpu"), found.get("cores")
    if not cpu:
        return _UNKNOWN
    return f"{cpu}, {cores} cores" if cores else str(cpu)


def _threads(count: int) -> str:
    """Write `1 thread`, `2 threads`."""
    return f"{count} thread{'s' * (count != 1)}"
