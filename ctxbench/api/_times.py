"""Networks timed, by spec or in memory, and their rows saved as they are made."""

import pickle
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from ctxbench.api._networks import Network, channels_of
from ctxbench.errors import CtxbenchError, LatencyError, SpecError
from ctxbench.latency.compare import measure_all
from ctxbench.latency.condition import Condition, Plan
from ctxbench.records import Row, append_rows, as_row, prepare
from ctxbench.report.timings import compared

# a network in memory goes to the process that times it in a file
_LOADER = """import torch


def network(in_channels=3):
    return torch.load({path!r}, map_location="cpu", weights_only=False)
"""


def time_all(
    networks: Mapping[str, Network],
    conditions: Sequence[Condition],
    *,
    against: tuple[str, Network] | None,
    plan: Plan,
    per_layer: bool,
    largest: bool,
    raw: Path | None,
    notify: Callable[[str], None],
) -> Iterator[dict[str, list[Row]]]:
    """Measure networks as `measure_all` does, and yield the rows of each condition by kind.

    Before, they are saved in `raw`, if any. Rows and errors say the names given.
    """
    if raw is not None:
        prepare(raw)
    with _as_specs({**networks, **dict([against] if against else [])}) as specs:
        names = {spec: name for name, spec in specs.items()}
        for each in measure_all(
            [specs[name] for name in networks],
            conditions,
            against=specs[against[0]] if against else None,
            plan=plan,
            per_layer=per_layer,
            largest=largest,
            notify=notify,
        ):
            found = {
                "latency": [_renamed(as_row(row), names) for row in each.rows],
                "latency_layers": [_renamed(as_row(row), names) for row in each.layers],
                "ceilings": [dict(each.ceilings)] if each.ceilings else [],
            }
            if raw is not None:
                for kind, rows in found.items():
                    append_rows(kind, rows, raw=raw, seed=conditions[0].seed)
            yield found


def lines_of(rows: Sequence[Row]) -> list[Row]:
    """Put ratios beside times, and make a column of each phase; the samples are in saved rows."""
    with_ratios = {(row["group"], row["model"]): row for row in compared(rows)}
    lines = [with_ratios.get((row["group"], row["model"]), row) for row in rows]
    return [
        {key: value for key, value in line.items() if key != "samples_ms"}
        | {f"{phase}_ms": ms for phase, ms in line["phases_ms"].items()}
        for line in lines
    ]


@contextmanager
def _as_specs(networks: Mapping[str, Network]) -> Iterator[dict[str, str]]:
    """Give every network a spec that another process can resolve; errors say the names given."""
    specs: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="ctxbench-") as folder:
        for name, network in networks.items():
            stem = Path(folder) / f"network{len(specs)}"
            spec = network if isinstance(network, str) else _stored(name, network, stem)
            same = [other for other, known in specs.items() if known == spec]
            if same:  # their rows could not be told apart
                raise SpecError(f"{same[0]} and {name} are both {spec}. Name it once.")
            specs[name] = spec
        try:
            yield specs
        except CtxbenchError as error:
            error.args = (_told(str(error), {spec: name for name, spec in specs.items()}),)
            raise


def _stored(name: str, model: nn.Module, stem: Path) -> str:
    """Save a network for another process, and return the spec that loads it."""
    own = {type(module) for module in model.modules() if type(module).__module__ == "__main__"}
    if own:
        names = ", ".join(sorted(each.__name__ for each in own))
        raise LatencyError(
            f"{name} cannot be timed: {names} is defined in the notebook or program itself, which "
            f"the process that times it cannot import. Put it into a file: FILE.py:FUNCTION."
        )
    weights = stem.with_suffix(".pt")
    try:
        torch.save(model, weights)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise LatencyError(
            f"{name} cannot be timed: {error}. Name a function that builds it: FILE.py:FUNCTION."
        ) from None
    stem.with_suffix(".py").write_text(_LOADER.format(path=str(weights)))
    return f"{stem}.py:network:in_channels={channels_of(model)}"


def _renamed(row: Row, names: Mapping[str, str]) -> Row:
    """Put the names that the caller gave into a row."""
    renamed = {key: names.get(row[key], row[key]) for key in ("model", "against")}
    told = {"notes": [_told(text, names) for text in row["notes"]]} if "notes" in row else {}
    return {**row, **renamed, **told}


def _told(text: str, names: Mapping[str, str]) -> str:
    """Put the names that the caller gave into a text, but not into longer specs."""
    specs = "|".join(re.escape(spec) for spec in sorted(names, key=len, reverse=True))
    return re.sub(rf"(?<![\w/])(?:{specs})(?!\w)", lambda found: names[found[0]], text)
