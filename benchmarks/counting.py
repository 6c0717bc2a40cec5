"""Time and memory of counting a network, beside the other counters; all counters in one run.

    python benchmarks/counting.py                     every registered network
    python benchmarks/counting.py resnet152 --runs 9  some of them

Each network has a process of its own, in which the counters take turns in rotating order on the
same built network; a ratio compares two counts of the same turn. Peak memory is that of a fresh
process that counts once, above what it held before. Needs the extra `bench`.
"""

import argparse
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

BASELINE = "fvcore"


def _ctxbench(model, x):
    import ctxbench

    return ctxbench.count(model, x).macs


def _fvcore(model, x):
    from fvcore.nn import FlopCountAnalysis

    return int(FlopCountAnalysis(model, x).total())


def _fvcore_no_grad(model, x):
    import torch

    with torch.no_grad():
        return _fvcore(model, x)


def _torch(model, x):
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() // 2


def _ptflops(model, x):
    from ptflops import get_model_complexity_info

    macs, _ = get_model_complexity_info(
        model,
        tuple(x.shape[1:]),
        input_constructor=lambda _shape: x,
        as_strings=False,
        print_per_layer_stat=False,
        verbose=False,
    )
    return int(macs)


def _torchinfo(model, x):
    from torchinfo import summary

    return int(summary(model, input_data=x, verbose=0).total_mult_adds)


COUNTERS = {
    "ctxbench": _ctxbench,
    "fvcore": _fvcore,
    "fvcore without gradients": _fvcore_no_grad,
    "FlopCounterMode": _torch,
    "ptflops": _ptflops,
    "torchinfo": _torchinfo,
}


def _build(spec):
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    from ctxbench.models import resolve

    network = resolve(spec)
    x = network.inputs(1, network.image_px, network.image_px)
    return network.build().eval(), x


def _time(spec, runs):
    """Time every counter `runs` times, in turns, after one turn that does not count."""
    model, x = _build(spec)
    seconds = {name: [] for name in COUNTERS}
    macs = {}
    names = list(COUNTERS)
    for turn in range(runs + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.perf_counter()
            macs[name] = COUNTERS[name](model, x)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {"seconds": seconds, "macs": macs}


def _peak(spec, name):
    """Return the peak resident memory of one count above what the process held before, in MiB."""
    model, x = _build(spec)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    held = _status("VmRSS")
    COUNTERS[name](model, x)
    return (_status("VmHWM") - held) / 1024


def _status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def _in_process(*words):
    command = [sys.executable, __file__, "--worker", json.dumps(words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"counting.py: {' '.join(map(str, words))} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _interval(ratios, *, draws=2000):
    """Return the 95 % bootstrap interval of the median."""
    generator = random.Random(0)
    medians = sorted(
        statistics.median(generator.choices(ratios, k=len(ratios))) for _ in range(draws)
    )
    return medians[int(0.025 * draws)], medians[int(0.975 * draws) - 1]


def measure(spec, runs):
    """Return one row for each counter."""
    timed = _in_process("time", spec, runs)
    rows = []
    for name, seconds in timed["seconds"].items():
        turns = zip(seconds, timed["seconds"][BASELINE], strict=True)
        ratios = [mine / theirs for mine, theirs in turns]
        low, high = _interval(ratios)
        rows.append(
            {
                "model": spec,
                "counter": name,
                "median_s": statistics.median(seconds),
                "ratio_to_fvcore": statistics.median(ratios),
                "ratio_low": low,
                "ratio_high": high,
                "peak_mib": _in_process("peak", spec, name),
                "macs": timed["macs"][name],
                "runs": runs,
                "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())),
                "seconds": seconds,
            }
        )
    return rows


def main():
    from ctxbench.models import list_models
    from ctxbench.records import append_rows

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", help="default: every registered network")
    parser.add_argument("--runs", type=int, default=5, help="counted turns; default 5")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        task, *words = json.loads(given.worker)
        print(json.dumps({"time": _time, "peak": _peak}[task](*words)))
        return
    for spec in given.networks or list_models():
        rows = measure(spec, given.runs)
        append_rows("counting", rows, raw=given.out / "raw")
        for row in rows:
            print(
                f"{spec:22} {row['counter']:26} {row['median_s']:7.3f} s"
                f"  x{row['ratio_to_fvcore']:.2f} [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]"
                f"  {row['peak_mib']:7.0f} MiB  {row['macs']:,} MACs",
                flush=True,
            )


if __name__ == "__main__":
    main()
