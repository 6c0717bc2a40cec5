"""What the benchmarks share: turns, fresh processes, peaks and intervals."""

import multiprocessing
import random
import time
from concurrent.futures import ProcessPoolExecutor

from ctxbench.latency import machine
from ctxbench.latency.statistics import ratio_interval


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

    Each turn has an order of its own, the same in every run of the program: what comes before a
    task decides what is in the caches.
    Returns the seconds of each task, and what each returned last.
    """
    seconds = {name: [] for name in tasks}
    results = {}
    names = list(tasks)
    order = random.Random(0)
    for turn in range(runs + 1):
        for name in order.sample(names, len(names)):
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
    return ratio_interval([seconds], [baseline])


def peak_mib(task):
    """Return the peak resident memory of one call above what the process held before, in MiB."""
    if not machine.restart_peak():
        raise OSError("Peak memory is read from /proc, which only Linux has.")
    held = machine.resident_mib()
    task()
    return machine.peak_resident_mib() - held
