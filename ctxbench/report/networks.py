"""Claims gathered by network: one line holds all that is published of its cost, beside ours."""

from collections.abc import Iterable, Sequence

from ctxbench.claims import COUNTED, GFLOPS, PARAMS
from ctxbench.records import Row
from ctxbench.report._frames import made_of

# the columns that tell one published figure from another
CLAIM = ("paper", "table", "row", "metric", "model")

_PREFIX = {PARAMS: "params", GFLOPS: "gflops"}
# what a line holds of a claim on parameters or GFLOPs
CELLS = ("published", "ours", "difference", "convention", "verdict")


def networks(claims: Iterable[Row]) -> list[Row]:
    """Gather claims to one line for each row of a paper's table that tells a network's cost.

    A line holds `params_published`, `params_ours`, `params_difference`, `params_convention` and
    `params_verdict`, the same of `gflops`, and `compared`: what is claimed beside another network.
    """
    lines: dict[tuple[str, ...], Row] = {}
    for claim in claims:
        key = {name: claim[name] for name in ("paper", "table", "row", "model", "source")}
        if claim["metric"] not in COUNTED:
            continue
        line = lines.setdefault(tuple(key.values()), key)
        line.update(made_of([line, claim]))
        if claim["metric"] in _PREFIX:
            prefix = _PREFIX[claim["metric"]]
            line.update({f"{prefix}_{name}": claim[name] for name in CELLS})
        else:
            line["compared"] = [*line.get("compared", ()), _comparison(claim)]
    return list(lines.values())


def merge(lines: Iterable[Row], same: Sequence[str]) -> list[Row]:
    """Merge the lines that are equal in the columns `same`, in the order they first came.

    `models` of a merged line lists its networks, `table` and `compared` all that its lines say.
    """
    groups: dict[tuple[object, ...], list[Row]] = {}
    for line in lines:
        groups.setdefault(tuple(line.get(key) for key in same), []).append(line)
    return [
        {
            **group[0],
            **made_of(group),
            "models": _distinct(group, "model"),
            "table": _tables(_distinct(group, "table")),
            "compared": ", ".join(
                dict.fromkeys(t for line in group for t in line.get("compared", ()))
            ),
        }
        for group in groups.values()
    ]


def _comparison(claim: Row) -> str:
    """Say what is claimed of two networks, like `share of params 1/3 (net): reproduced`."""
    other = f" ({claim['against']})" if claim.get("against") else ""
    return f"{claim['metric']} {claim['published']}{other}: {claim['verdict']}"


def _distinct(lines: Iterable[Row], key: str) -> list[str]:
    return list(dict.fromkeys(line[key] for line in lines if line.get(key)))


def _tables(names: Sequence[str]) -> str:
    """Write `Table 1`, `Table 4` as `1, 4`."""
    return ", ".join(name.removeprefix("Table ") for name in names)
