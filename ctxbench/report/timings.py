"""Times as they were measured last: of each network under each condition, beside its baseline."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence

from ctxbench.records import Row
from ctxbench.report._frames import made_of
from ctxbench.report.machines import placed

# what tells one measurement of a network from another; `place` is where
CONDITION = ("place", "mode", "batch", "image_size", "dtype", "layout", "backend", "cache")
# what a compared line holds as `<key>_ratio`: a part of what the baseline has
COSTS = ("params", "macs", "peak_mib")
_PLAIN = {"layout": "contiguous", "cache": "warm"}
_OPERATOR = "op/"
_DEFAULT_BACKEND = "torch"  # also of rows from before there were several


def timed(rows: Iterable[Row]) -> list[Row]:
    """Keep what was measured last of each network under each condition, by device, CPUs first."""
    return _last(placed(rows))


def compared(rows: Iterable[Row]) -> list[Row]:
    """Keep the rows with a ratio, and add the ratios of cost to the baseline of the same turns."""
    kept = placed(rows)
    found = [
        row
        for row in _last(kept)
        if row["against"] and row["status"] == "ok" and row["ratio"] is not None
    ]
    groups = {row["group"] for row in found}
    others = [row for row in kept if not row["against"] and row["group"] in groups]
    baselines = {_turns(row, row["model"]): row for row in others}
    beside = [(row, baselines.get(_turns(row, row["against"]), {})) for row in found]
    return [
        {**row, **_cost_ratios(row, baseline), **made_of([row, baseline])}
        for row, baseline in beside
    ]


def is_operator(spec: str) -> bool:
    """Tell an operator of its own from a network."""
    return spec.startswith(_OPERATOR)


def words(row: Row) -> list[str]:
    """Say under what condition a row was measured, the device apart."""
    height, width = row["image_size"]
    said = [row["mode"], f"batch {row['batch']}", f"{height}x{width}", row["dtype"], row["backend"]]
    said += [row["layout"]] if row["layout"] != _PLAIN["layout"] else []
    said += [f"{row['cache']} cache"] if row["cache"] != _PLAIN["cache"] else []
    asked = asked_backend(row)
    return said + ([f"operators by {asked}"] if asked else [])


def asked_backend(row: Row) -> str | None:
    """Return what computed the operators of a network, None for the default or if it has none."""
    found = row.get("op_backend")
    return None if found == _DEFAULT_BACKEND else found


def common_words(conditions: Sequence[Sequence[str]]) -> list[str]:
    """Return the words that all conditions share; beside them each needs only its others."""
    return [word for word in conditions[0] if all(word in other for other in conditions)]


def with_interval(ratio: float, low: float | None, high: float | None) -> str:
    """Write `1.23 [1.19, 1.27]`, or the ratio alone where no interval is known."""
    # three digits, but as many behind the point for 0.98 as for 1.02
    magnitude = math.floor(math.log10(ratio))
    digits = max(0, 2 - magnitude - (magnitude < 0))
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return f"{ratio:.{digits}f}"
    return f"{ratio:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def answer(row: Row) -> str:
    """Say of a compared row whether its context is free."""
    ratio, low, high = row["ratio"], row["ratio_low"], row["ratio_high"]
    how = (
        f"{row['model']} takes {with_interval(ratio, low, high)} times as long as {row['against']}"
    )
    macs = f"at {with_interval(row['macs_ratio'], None, None)} times its MACs"
    if low is None:
        return f"{how} {macs}"
    verdict = "slower" if low > 1 else "faster" if high < 1 else "no difference to be seen"
    return f"{how} {macs}: {verdict}"


def label(spec: str) -> str:
    """Shorten the options of an operator: `op/coconv 64 ch, levels 4`."""
    if not is_operator(spec):
        return spec
    name, *options = spec.split(":")
    return f"{name} {', '.join(map(_option, options))}".rstrip()


def pair_labels(pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Name pairs `network / baseline`, shortened where that leaves them apart."""
    short = {pair: _pair(*pair) for pair in pairs}
    said = list(short.values())
    return {
        pair: name if said.count(name) == 1 else " / ".join(pair) for pair, name in short.items()
    }


def _last(rows: Iterable[Row]) -> list[Row]:
    return sorted({_what(row): row for row in rows}.values(), key=_device)


def _what(row: Row) -> tuple[str, ...]:
    keys = ("model", "against", *CONDITION)
    return (*(json.dumps(row.get(key)) for key in keys), str(asked_backend(row)))


def _device(row: Row) -> tuple[bool, str, int]:
    cpu = row["device"] == "cpu"
    return not cpu, row["device_name"], row["threads"] if cpu else 0


def _turns(row: Row, model: str) -> tuple[str, ...]:
    return (str(row["group"]), model, *(str(row[key]) for key in CONDITION))


def _cost_ratios(row: Row, baseline: Mapping[str, float | None]) -> Row:
    ratios = {}
    for key in COSTS:
        mine, theirs = row.get(key), baseline.get(key)
        ratios[f"{key}_ratio"] = mine / theirs if mine is not None and theirs else None
    return ratios


def _pair(model: str, against: str) -> str:
    """Leave out the baseline's options that its network has too."""
    name, *options = against.split(":")
    if is_operator(model) and is_operator(against) and set(options) <= set(model.split(":")):
        return f"{label(model)} / {name.removeprefix(_OPERATOR)}"
    return f"{label(model)} / {label(against)}"


def _option(text: str) -> str:
    key, _, value = text.partition("=")
    if value == "true":
        return key
    return f"{value} ch" if key == "channels" else f"{key} {value}".rstrip()
