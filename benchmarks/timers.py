"""Our clock beside an independent one: torch.utils.benchmark, on the same network in one run.

    python benchmarks/timers.py
    python benchmarks/timers.py --model overlock_xt --batch 4 --runs 20

Both time blocks of forward passes in turns, in one process with the same threads; a ratio compares
two blocks of the same turn. torch's timer gives the mean of a block, so ours is a mean here too.
"""

import argparse
from pathlib import Path
from statistics import mean, median

import torch
from _side_by_side import rotated
from torch.utils.benchmark import Timer

from ctxbench.latency import machine
from ctxbench.latency.bench import warm_up
from ctxbench.latency.clock import WallTimer
from ctxbench.latency.condition import Condition, default_threads
from ctxbench.latency.statistics import ratio_interval
from ctxbench.latency.subject import Subject
from ctxbench.models import resolve
from ctxbench.records import append_rows

BLOCK = 5


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runs", type=int, default=20, help="counted turns; default 20")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    machine.keep_freed_memory()
    torch.set_num_threads(given.threads)
    side = resolve(given.model).image_px
    condition = Condition(batch=given.batch, image_size=(side, side), threads=given.threads)
    subject = Subject(given.model, condition)
    phases, timer = subject.phases(), WallTimer()
    theirs = Timer("run()", globals={"run": phases["forward"]}, num_threads=given.threads)
    tasks = {
        "ours": lambda: mean(timer(phases).total_ms for _ in range(BLOCK)),
        "torch": lambda: 1000 * theirs.timeit(BLOCK).mean,
    }
    found = {name: [] for name in tasks}
    with torch.inference_mode():
        warm_up(lambda: timer(phases).total_ms, limit_s=5)
        for turn in range(given.runs):
            for name in rotated(list(tasks), turn):
                found[name].append(tasks[name]())
    ratio, low, high = ratio_interval([found["ours"]], [found["torch"]])
    row = {
        "model": given.model,
        "batch": given.batch,
        "threads": given.threads,
        "ours_ms": median(found["ours"]),
        "torch_ms": median(found["torch"]),
        "ratio": ratio,
        "ratio_low": low,
        "ratio_high": high,
        "samples_ms": found,
    }
    append_rows("timers", [row], raw=given.out / "raw", seed=condition.seed)
    print(
        f"{given.model}, batch {given.batch}, {given.threads} threads: ours "
        f"{row['ours_ms']:.2f} ms, torch.utils.benchmark "
        f"{row['torch_ms']:.2f} ms, x{ratio:.4f} [{low:.4f}, {high:.4f}]"
    )


if __name__ == "__main__":
    main()
