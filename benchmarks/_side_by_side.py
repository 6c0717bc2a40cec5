"""What the benchmarks share: turns in rotating order, fresh processes, peaks and intervals."""

import multiprocessing
import os
import random
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path


def in_process(function, *words, preload=()):
    """Return what the function returns in a process of its own.

    It is forked from a server that holds the modules `preload` and has run nothing.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *words).result()


def time_in_turns(tasks, runs):
    """Run every task `runs` times, in turns, after one turn that does not count.

    Returns the seconds of each task, and what each returned last.
    """
    seconds = {name: [] for name in tasks}
    results = {}
    names = list(tasks)
    for turn in range(runs + 1):
        for name in rotated(names, turn):
            start = time.perf_counter()
            results[name] = tasks[name]()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds, results


def rotated(names, turn):
    """Return the names in the order of that turn: each comes first as often as the others."""
    first = turn % len(names)
    return names[first:] + names[:first]


def compare(seconds, baseline):
    """Return the median ratio of same turns, and its 95 % bootstrap interval."""
    ratios = [mine / theirs for mine, theirs in zip(seconds, baseline, strict=True)]
    return statistics.median(ratios), *interval(ratios)


def interval(ratios, *, draws=2000):
    """Return the 95 % bootstrap interval of the median."""
    generator = random.Random(0)
    medians = sorted(
        statistics.median(generator.choices(ratios, k=len(ratios))) for _ in range(draws)
    )
    return medians[int(0.025 * draws)], medians[int(0.975 * draws) - 1]


def peak_mib(task):
    """Return the peak resident memory of one call above what the process held before, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    held = _status("VmRSS")
    task()
    return (_status("VmHWM") - held) / 1024


def threads():
    """Return how many threads the libraries may use."""
    return int(os.environ.get("OMP_NUM_THREADS", os.cpu_count()))


def _status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
