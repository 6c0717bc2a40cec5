"""Time and memory of our operators: every backend, the obvious formulation, the plain convolution.

    python benchmarks/kernels.py                                  every operator, batch 1 and 8
    python benchmarks/kernels.py --cases 'ctxconv*' --batches 128 --layouts channels_last
    python benchmarks/kernels.py --device cuda --dtypes bf16,fp32 --batches 1,8,128

At layer shapes of the published networks, on the CPU with as many threads as torch takes
(OMP_NUM_THREADS). Each case has a process of its own, in which all forms take turns, each turn in
another order; a ratio compares two runs of the same turn. Peak memory is that of one run in a fresh
process, above what it held before; there, unlike in the timed process, freed memory goes back to
the system at once; on a GPU it is what the allocator held. Before anything is timed, all forms of
an operator are held against each other: values in float32, gradients in float64.

"forward" is without gradients. "training" is forward and backward, with the gradients of inputs
and parameters; batch norms stay in eval mode, so that all forms compute the same.

`roof_share` is the part of a roof's speed that a form reaches: the time that the machine needs for
the definition's MACs at the rate of its best matrix product, or for reading inputs and parameters
and writing the output once at the rate of its best copy, whichever is longer, over the time taken.
Training counts three times both.
"""

import argparse
import statistics
import sys
from fnmatch import fnmatch
from functools import partial
from itertools import product
from pathlib import Path

import torch
from _kernel_cases import CASES, Setting
from _side_by_side import compare, in_process, peak_mib, time_in_turns

from ctxbench.latency import machine
from ctxbench.latency.compare import know_machine
from ctxbench.latency.condition import default_threads, sweep
from ctxbench.latency.subject import DTYPES
from ctxbench.measure.flops import count
from ctxbench.records import append_rows

TOLERANCE = 1e-4
_OTHERWISE = ("plain", "library")  # these compute something else


def _forward(form):
    with torch.no_grad():
        return [form.call(*form.inputs)]


def _training(form):
    y = form.call(*form.inputs)
    # of half the sum of squares, so that every output pulls another way
    return torch.autograd.grad(y, [*form.inputs, *form.parameters], y.detach(), allow_unused=True)


TASKS = {"forward": _forward, "training": _training}
# forked with what takes seconds to load
_in_process = partial(
    in_process, preload=("ctxbench.ops", "ctxbench.measure.flops", "torchvision.ops")
)


def _time(case, setting, runs):
    tasks = {
        (index, task): partial(_to_its_end, run, form, setting.device)
        for index, form in enumerate(case.build(setting))
        for task, run in TASKS.items()
    }
    return time_in_turns(tasks, runs)[0]


def _to_its_end(task, form, device):
    """Run to the end of what was queued; an output that lived on would be memory held."""
    task(form)
    if device == "cuda":
        torch.cuda.synchronize()


def _peak(case, setting, index, task):
    run = TASKS[task]
    if setting.device == "cuda":
        form = case.build(setting)[index]
        run(form)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        run(form)
        return (torch.cuda.max_memory_allocated() - held) / machine.MIB
    machine.return_freed_memory()
    # a first call loads code, which is not the operator's memory
    run(case.small().build(setting._replace(batch=2))[index])
    form = case.build(setting)[index]
    return peak_mib(partial(run, form))


def _differences(case, setting):
    """Return by (form, task) how far every other form is from ours, as part of the largest.

    Compared are the outputs in float32, and the gradients that both have in float64: where a tap
    rounds to another side of a pixel, the gradient of its displacement jumps. Of two samples, since
    more of them show nothing more.
    """
    found = {}
    for task, dtype in (("forward", torch.float32), ("training", torch.float64)):
        ours, *others = case.build(setting._replace(dtype=dtype, batch=min(setting.batch, 2)))
        expected = TASKS[task](ours)
        for form in others:
            if form.form not in _OTHERWISE:
                # what is folded has parameters of its own, and shares the inputs alone
                same = zip(ours.parameters, form.parameters, strict=False)
                shared = len(form.inputs) + sum(a is b for a, b in same)
                pairs = zip(expected[:shared], TASKS[task](form)[:shared], strict=True)
                # unlike Python's, this max does not pass over a NaN
                apart = torch.stack([_relative(*pair) for pair in pairs]).max().item()
                found[form.formulation, task] = apart
        apart = [value for (_, of), value in found.items() if of == task]
        found[ours.formulation, task] = max(apart)
    return found


def _relative(a, b):
    return (a - b).abs().max() / b.abs().max()


def _work(case, setting):
    """Return by form the MACs of the definition, and the bytes that no form can do without."""
    found = {}
    one = setting._replace(batch=1, device="cpu", dtype=torch.float32)
    forms = case.build(one)
    counted = {id(form.module): count(form.module, *form.inputs).macs for form in forms
               if form.form not in ("obvious", "library")}  # fmt: skip
    ours = counted[id(forms[0].module)]
    for form in forms:
        with torch.no_grad():
            y = form.call(*form.inputs)
        numbers = setting.batch * sum(x.numel() for x in (*form.inputs, y))
        numbers += sum(parameter.numel() for parameter in form.parameters)
        macs = counted.get(id(form.module), ours)
        found[form.form] = (setting.batch * macs, numbers * setting.dtype.itemsize)
    return found


def _roof_ms(work, task, ceilings):
    macs, size = work
    seconds = max(2 * macs / ceilings["gflops_s"], size / ceilings["gb_s"]) / 1e9
    return 1000 * seconds * (3 if task == "training" else 1)


def measure(case, setting, ceilings, runs):
    """Return a row for each form and task; exit where two forms compute different things."""
    differences = _in_process(_differences, case, setting)
    wrong = {key: value for key, value in differences.items() if not value <= TOLERANCE}
    if wrong:
        sys.exit(f"kernels.py: {case.operator}, {case}: the forms differ, {wrong}.")
    work = _in_process(_work, case, setting)
    timed = _in_process(_time, case, setting, runs)
    forms = [form[:2] for form in _in_process(_named, case, setting)]
    first = {kind: index for index, (kind, _) in reversed(list(enumerate(forms)))}
    rows = []
    for (index, task), seconds in timed.items():
        form, formulation = forms[index]
        median_ms = 1000 * statistics.median(seconds)
        rows.append(
            {
                "operator": case.operator,
                "case": f"{case}, batch {setting.batch}",
                "form": form,
                "formulation": formulation,
                "task": task,
                "batch": setting.batch,
                "device": setting.device,
                "device_name": ceilings["device_name"],
                "dtype": _dtype_name(setting.dtype),
                "layout": setting.layout,
                "threads": default_threads(),
                "median_ms": median_ms,
                **_ratios(seconds, timed, first.get("obvious"), task, "ratio_to_obvious", "ratio"),
                **_ratios(seconds, timed, first["plain"], task, "ratio_to_plain", "plain"),
                "macs": work[form][0],
                "roof_share": _roof_ms(work[form], task, ceilings) / median_ms,
                "peak_mib": _in_process(_peak, case, setting, index, task),
                "max_difference": differences.get((formulation, task)),
                "runs": runs,
                "seconds": seconds,
            }
        )
    return rows


def _named(case, setting):
    return [(form.form, form.formulation) for form in case.build(setting)]


def _ratios(seconds, timed, index, task, name, prefix):
    """Return the ratio to another form with its interval; None where that form was left out."""
    if index is None:
        return {name: None, f"{prefix}_low": None, f"{prefix}_high": None}
    ratio, low, high = compare(seconds, timed[index, task])
    return {name: ratio, f"{prefix}_low": low, f"{prefix}_high": high}


def _dtype_name(dtype):
    return next(name for name, known in DTYPES.items() if known == dtype)


def _ceilings(setting, out):
    """Measure what the machine reaches at best, and keep it as a row."""
    (condition,) = sweep(
        batches=["1"], image_sizes=[(32, 32)], dtypes=[_dtype_name(setting.dtype)],
        backends=["eager"], device=setting.device, threads=None,
    )  # fmt: skip
    row = know_machine(condition).as_row(condition)
    append_rows("ceilings", [row], raw=out / "raw")
    return row


def _show(rows):
    for row in rows:
        obvious = row["ratio_to_obvious"]
        print(
            f"  {row['form']:9} {row['formulation'][:48]:48} {row['task']:8}"
            f"{row['median_ms']:9.2f} ms  plain x{row['ratio_to_plain']:.2f}"
            f" [{row['plain_low']:.2f}, {row['plain_high']:.2f}]"
            f"{'' if obvious is None else f'  obvious x{obvious:.3f}'}"
            f"  {row['peak_mib']:6.0f} MiB  {row['roof_share']:4.0%} of the roof",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="*", help="pattern of operator names; default all")
    parser.add_argument("--batches", default="1,8", help="comma-separated; default 1,8")
    parser.add_argument("--dtypes", default="fp32", help="fp32, bf16, fp16; default fp32")
    parser.add_argument("--layouts", default="contiguous", help="contiguous, channels_last")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
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
    for dtype in given.dtypes.split(","):
        of_dtype = Setting(1, given.device, DTYPES[dtype])
        ceilings = _ceilings(of_dtype, given.out)
        for layout, batch, case in product(
            given.layouts.split(","), map(int, given.batches.split(",")), chosen
        ):
            setting = of_dtype._replace(batch=batch, layout=layout)
            rows = measure(case, setting, ceilings, given.runs)
            append_rows("operators", rows, raw=given.out / "raw", seed=0)
            print(f"{case.operator}, {case}, batch {batch}, {dtype}, {layout}")
            _show(rows)


if __name__ == "__main__":
    main()
