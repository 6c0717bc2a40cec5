"""Time and memory of counting a network, beside the other counters; all counters in one run.

    python benchmarks/counting.py                     every registered network
    python benchmarks/counting.py resnet152 --runs 9  some of them

Each network has a process of its own, in which the counters take turns on the same built network,
each turn in another order; a ratio compares two counts of the same turn. Peak memory is that of a
fresh process that counts once, above what it held before. Needs the extra `bench`.
"""

import argparse
import logging
import statistics
import warnings
from functools import partial
from pathlib import Path

from _side_by_side import compare, in_process, peak_mib, time_in_turns

from ctxbench.latency.condition import default_threads

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
    (x,) = network.inputs(1, network.image_px, network.image_px)
    return network.build().eval(), x


def _time(spec, runs):
    model, x = _build(spec)
    tasks = {name: partial(counter, model, x) for name, counter in COUNTERS.items()}
    return time_in_turns(tasks, runs)


def _peak(spec, name):
    model, x = _build(spec)
    return peak_mib(partial(COUNTERS[name], model, x))


def measure(spec, runs):
    """Return one row for each counter."""
    timed, macs = in_process(_time, spec, runs)
    rows = []
    for name, seconds in timed.items():
        ratio, low, high = compare(seconds, timed[BASELINE])
        rows.append(
            {
                "model": spec,
                "counter": name,
                "median_s": statistics.median(seconds),
                "ratio_to_fvcore": ratio,
                "ratio_low": low,
                "ratio_high": high,
                "peak_mib": in_process(_peak, spec, name),
                "macs": macs[name],
                "runs": runs,
                "threads": default_threads(),
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
    given = parser.parse_args()
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
