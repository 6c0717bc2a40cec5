"""Time and memory of our operators, beside the obvious formulation and the plain convolution.

    python benchmarks/operators.py                              every operator
    python benchmarks/operators.py --cases 'ctxconv*' --runs 5  some of them

On the CPU in float32, at layer shapes of the published networks. Each case has a process of its
own, in which all forms take turns in rotating order; a ratio compares two runs of the same turn.
Peak memory is that of one run in a fresh process, above what it held before; there, unlike in the
timed process, freed memory goes back to the system at once.

"forward" is without gradients. "training" is forward and backward, with the gradients of inputs
and parameters; batch norms stay in eval mode, so that all forms compute the same.
"""

import argparse
import statistics
import sys
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import torch
from _operator_forms import CASES
from _side_by_side import compare, in_process, peak_mib, time_in_turns

from ctxbench.latency import machine
from ctxbench.latency.condition import default_threads
from ctxbench.records import append_rows

TOLERANCE = 1e-4


def _forward(form):
    with torch.no_grad():
        return [form.call(*form.inputs)]


def _training(form):
    y = form.call(*form.inputs)
    # of half the sum of squares, so that every output pulls another way
    return torch.autograd.grad(y, [*form.inputs, *form.parameters], y.detach())


TASKS = {"forward": _forward, "training": _training}
# forked with what takes seconds to load
_in_process = partial(in_process, preload=("ctxbench.ops", "torchvision.ops", "unittest.mock"))


def _time(case, runs):
    tasks = {
        (index, task): partial(run, form)
        for index, form in enumerate(case.build())
        for task, run in TASKS.items()
    }
    # nothing is kept: an output that lives on is memory that the next run cannot have back
    forgetful = {name: partial(_forget, task) for name, task in tasks.items()}
    return time_in_turns(forgetful, runs)[0]


def _forget(task):
    task()


def _peak(case, index, task):
    run = TASKS[task]
    machine.return_freed_memory()
    run(case.small().build()[index])  # a first call loads code, which is not the operator's memory
    form = case.build()[index]
    return peak_mib(partial(run, form))


def _differences(case):
    """Return by (form, task) how far every obvious form is from ours, as part of the largest.

    Compared are the outputs in float32, and the gradients that both have in float64: where a tap
    rounds to another side of a pixel, the gradient of its displacement jumps.
    """
    found = {}
    for task, dtype in (("forward", torch.float32), ("training", torch.float64)):
        ours, *others = case.build(dtype)
        expected = TASKS[task](ours)
        for index, form in enumerate(others, start=1):
            if form.form == "obvious":
                # what is folded has parameters of its own, and shares the inputs alone
                same = zip(ours.parameters, form.parameters, strict=False)
                shared = len(form.inputs) + sum(a is b for a, b in same)
                pairs = zip(expected[:shared], TASKS[task](form)[:shared], strict=True)
                # unlike Python's, this max does not pass over a NaN
                found[index, task] = torch.stack([_relative(*pair) for pair in pairs]).max().item()
        found[0, task] = max(value for (_, of), value in found.items() if of == task)
    return found


def _relative(a, b):
    return (a - b).abs().max() / b.abs().max()


def measure(case, runs):
    """Return a row for each form and task; exit where two forms compute different things."""
    differences = _in_process(_differences, case)
    wrong = {key: value for key, value in differences.items() if not value <= TOLERANCE}
    if wrong:
        sys.exit(f"operators.py: {case.operator}, {case}: the forms differ, {wrong}.")
    timed = _in_process(_time, case, runs)
    forms = case.build()
    baseline = next(index for index, form in enumerate(forms) if form.form == "obvious")
    rows = []
    for (index, task), seconds in timed.items():
        ratio, low, high = compare(seconds, timed[baseline, task])
        rows.append(
            {
                "operator": case.operator,
                "case": str(case),
                "form": forms[index].form,
                "formulation": forms[index].formulation,
                "task": task,
                "median_ms": 1000 * statistics.median(seconds),
                "ratio_to_obvious": ratio,
                "ratio_low": low,
                "ratio_high": high,
                "peak_mib": _in_process(_peak, case, index, task),
                "max_difference": differences.get((index, task)),
                "runs": runs,
                "threads": default_threads(),
                "seconds": seconds,
            }
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="*", help="pattern of operator names; default all")
    parser.add_argument("--runs", type=int, default=9, help="counted turns; default 9")
    parser.add_argument("--small", action="store_true", help="tiny maps: a test of this program")
    parser.add_argument("--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    chosen = [case for case in CASES if fnmatch(case.operator, given.cases)]
    if not chosen:
        parser.error(f"no operator is named like {given.cases!r}")
    if given.small:
        small = [case.small() for case in chosen]
        chosen = list({(case.operator, str(case)): case for case in small}.values())
    for case in chosen:
        rows = measure(case, given.runs)
        append_rows("operators", rows, raw=given.out / "raw", seed=0)
        print(f"{case.operator}, {case}")
        for row in rows:
            print(
                f"  {row['form']:8} {row['formulation']:48} {row['task']:9}"
                f"{row['median_ms']:9.2f} ms  x{row['ratio_to_obvious']:.2f}"
                f" [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}] {row['peak_mib']:6.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
