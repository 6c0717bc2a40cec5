"""What context costs: the four systems, their operators, and what each is compared with.

    benchmarks/on_gpu.sh                               on a GPU, within 8 minutes; else on the CPU
    python benchmarks/families.py --minutes 60

The most telling comparisons come first; what the minutes do not suffice for is said, not measured.
Each condition starts fresh processes; the networks of a group take turns.
"""

import argparse
import re
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ctxbench.errors import CtxbenchError
from ctxbench.latency.compare import know_machine, measure
from ctxbench.latency.condition import Plan, sweep
from ctxbench.models import resolve
from ctxbench.records import append_rows, as_row

RESNETS = ("coresnet50", "cgc_resnet50", "ctx_resnet50")
DENSE = ("op/coconv:channels=64", "op/cgc:channels=64", "op/ctxconv:channels=64")
DEPTHWISE = "channels=64:kernel=7"


class Group(NamedTuple):
    """Networks that take turns, and the one that they are compared with."""

    specs: tuple[str, ...]
    against: str


NETWORKS = (
    Group(RESNETS, "resnet50"),
    Group(("ctx_convnext_tiny", "overlock_xt:reparam=true"), "convnext_tiny"),
)
OPERATORS = (
    Group(DENSE, "op/conv:channels=64"),
    Group(
        (f"op/ctxconv:{DEPTHWISE}:depthwise=true", f"op/dilated_reparam:{DEPTHWISE}:folded=true"),
        f"op/conv:{DEPTHWISE}:depthwise=true",
    ),
    # whole blocks: one mixes with dynamic kernels, the other with a large one
    Group((f"op/contmix:{DEPTHWISE}:heads=2:folded=true",), f"op/repconv:{DEPTHWISE}:folded=true"),
)
# the same networks with what can be folded into convolutions folded
PREPARED = (
    Group(("resnet50:prepared=true", *(f"{name}:prepared=true" for name in RESNETS)), "resnet50"),
    Group(
        tuple(
            f"{name}:prepared=true"
            for name in ("convnext_tiny", "ctx_convnext_tiny", "overlock_xt")
        ),
        "convnext_tiny",
    ),
)


def _by_backend(name, groups):
    """Return the groups with their networks computed by one backend."""
    return tuple(
        Group(tuple(f"{spec}:backend={name}" for spec in specs), against)
        for specs, against in groups
    )


def _unfolded(groups):
    """Return the groups to train: what is folded for inference has its branches there."""
    plain = partial(re.sub, ":(folded|reparam)=true", "")
    return tuple(Group(tuple(map(plain, specs)), plain(against)) for specs, against in groups)


# (groups, batches, settings), in the order of what is worth knowing first
ON_GPU = (
    (_by_backend("triton", NETWORKS), (128, 1), {"dtype": "bf16", "layout": "channels_last"}),
    (NETWORKS, (128, 1), {"dtype": "bf16", "layout": "channels_last"}),
    (PREPARED, (128, 1), {"dtype": "bf16", "layout": "channels_last"}),
    (NETWORKS, (128, 1), {"dtype": "fp32"}),
    (OPERATORS, (128,), {"dtype": "bf16", "layout": "channels_last"}),
    (_unfolded(NETWORKS), (128,), {"dtype": "bf16", "layout": "channels_last", "mode": "training"}),
    (
        _by_backend("triton", _unfolded(NETWORKS)),
        (128,),
        {"dtype": "bf16", "layout": "channels_last", "mode": "training"},
    ),
    (NETWORKS, (128, 1), {"dtype": "bf16", "layout": "channels_last", "backend": "compiled"}),
    (OPERATORS, (128,), {"dtype": "fp32"}),
    (NETWORKS, (1,), {"dtype": "bf16", "backend": "cudagraph"}),
)
ON_CPU = (
    (NETWORKS, (4,), {}),
    (_unfolded(NETWORKS), (4,), {"mode": "training"}),
    (OPERATORS, (4,), {}),
    (NETWORKS, (4,), {"dtype": "bf16"}),
    (PREPARED, (4,), {}),
    (NETWORKS, (4,), {"layout": "channels_last"}),
    (NETWORKS, (1,), {}),
    (_unfolded(OPERATORS), (4,), {"mode": "training"}),
    (NETWORKS, (1,), {"backend": "compiled"}),
)
# of the networks: one that all machines can afford to test this program with
SMALL = (
    ((Group(("coresnet_tiny",), "resnet_tiny"),), (1,), {}),
    ((Group(("op/coconv:channels=8",), "op/conv:channels=8"),), (2,), {"mode": "training"}),
)


def conditions(plans, device, threads):
    """Yield a group and a condition after the other."""
    for groups, batches, settings in plans:
        for batch in batches:
            for group in groups:
                side = resolve(group.against).image_px
                (plain,) = sweep(
                    batches=[str(batch)], image_sizes=[(side, side)], dtypes=["fp32"],
                    backends=["eager"], device=device, threads=threads,
                )  # fmt: skip
                yield group, replace(plain, **settings)


def _told(row):
    if row.status != "ok":
        return row.status
    if row.ratio_low is None:
        return f"{row.median_ms:9.3f} ms"
    return f"{row.median_ms:9.3f} ms x{row.ratio:.3f} [{row.ratio_low:.3f}, {row.ratio_high:.3f}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", help="cpu or cuda; default: a GPU if any")
    parser.add_argument("--threads", type=int, help="of the CPU; default: all cores")
    parser.add_argument("--minutes", type=float, default=8, help="what may be spent; default 8")
    parser.add_argument("--launches", type=int, help="default 3 on a GPU, 5 on a CPU")
    parser.add_argument("--budget", type=float, help="seconds of timing a condition")
    parser.add_argument("--small", action="store_true", help="tiny networks: a test of this")
    parser.add_argument("--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    longest = 0.0
    (probe,) = sweep(batches=["1"], image_sizes=[(32, 32)], dtypes=["fp32"], backends=["eager"],
                     device=given.device, threads=given.threads)  # fmt: skip
    plan = Plan(
        launches=given.launches or (3 if probe.cuda else 5),
        budget_s=given.budget or (6 if probe.cuda else 30),
        warmup_s=2 if probe.cuda else 5,
        block_s=0.1 if probe.cuda else 0.25,
    )
    plans = SMALL if given.small else ON_GPU if probe.cuda else ON_CPU
    machines = {}
    failed = 0
    for group, condition in conditions(plans, given.device, given.threads):
        start = time.monotonic()
        if start + longest > end:  # it would take longer than there is
            print(f"left out: {', '.join(group.specs)} ({condition})", file=sys.stderr)
            continue
        try:
            if condition.dtype not in machines:
                machines[condition.dtype] = know_machine(condition)
                ceilings = machines[condition.dtype].as_row(condition)
                append_rows("ceilings", [ceilings], raw=given.out / "raw")
            rows, _ = measure(
                group.specs, condition, against=group.against, plan=plan,
                machine=machines[condition.dtype],
            )  # fmt: skip
        except (CtxbenchError, RuntimeError) as error:  # the others are still worth having
            failed += 1
            print(f"failed: {', '.join(group.specs)} ({condition}): {error}", file=sys.stderr)
            continue
        longest = max(longest, time.monotonic() - start)
        append_rows("latency", map(as_row, rows), raw=given.out / "raw", seed=condition.seed)
        for row in rows:
            print(f"{row.model:50} {_told(row):40} ({condition})", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
