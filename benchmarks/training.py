"""Our training beside a bare PyTorch loop, and trials at a time beside one after the other.

    python benchmarks/training.py                                  both, about 15 minutes
    python benchmarks/training.py --part steps --models 'coresnet*'
    python benchmarks/training.py --part jobs --jobs 2

"steps" is the training of `ctxbench ablate` as a whole, images in memory turned into batches,
seeds and sums, beside a loop that has its batches ready and goes forward, backward and down the
gradient. Both begin with the same weights, and end with the same: the row says how far apart they
are. They take turns, A B B A, in one process with the same threads and memory settings; each
launch is a fresh process, and a ratio compares two blocks of the same turn.

"jobs" is one experiment as a command in a fresh folder, with one trial at a time and with several,
on one thread each; from the same runs, what a trial costs besides its training.
"""

import argparse
import sys
from fnmatch import fnmatch
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median

from _bare_loop import Case, in_turns
from _side_by_side import compare, in_process
from _trials_at_once import MODEL, Experiment, run

from ctxbench.latency.statistics import ratio_interval
from ctxbench.records import append_rows

# a block is about a second: a short one would be timed with what else the machine does
CASES = (
    Case("coresnet50", image_px=224, batch=4, block=1, classes=1000),
    Case("coresnet_tiny", image_px=32, batch=64, block=3),
    Case("cgc_resnet_tiny", image_px=32, batch=64, block=2),
    Case("ctx_resnet_tiny", image_px=32, batch=64, block=2),
    Case("overlock_tiny", image_px=32, batch=64, block=4),
    Case("convnext_nano", image_px=32, batch=64, block=20),
    # the smallest that experiments train: what does not grow with a network shows there
    Case(MODEL, image_px=24, batch=32, block=40),
)
SMALL = Experiment(trials=2, images=192)
_in_process = partial(in_process, preload=("ctxbench.ablate.plan", "torchvision.transforms.v2"))


def measure_steps(case, runs, launches, threads):
    """Return the row of a network."""
    found = [_in_process(in_turns, case, runs, threads) for _ in range(launches)]
    ours, bare = ([getattr(each, name) for each in found] for name in ("ours_s", "bare_s"))
    ratio, low, high = ratio_interval(bare, ours)
    images = case.block * case.batch
    pairs = [
        (a - b) / case.block
        for mine, theirs in zip(ours, bare, strict=True)
        for a, b in zip(mine, theirs, strict=True)
    ]
    return {
        "part": "steps",
        "model": case.model,
        "image_px": case.image_px,
        "batch": case.batch,
        "threads": threads,
        "ours_images_s": images / median(chain(*ours)),
        "bare_images_s": images / median(chain(*bare)),
        "speed_ratio": ratio,
        "speed_low": low,
        "speed_high": high,
        "beyond_us": 1e6 * median(pairs),
        "checkpoint_ms": 1000 * median(each.checkpoint_s for each in found),
        "weights_difference": max(each.weights_difference for each in found),
        "block": case.block,
        "launches": launches,
        "ours_s": ours,
        "bare_s": bare,
    }


def measure_jobs(experiment, jobs, turns):
    """Return the row of an experiment, its runs in the order A B B A."""
    alone, together = [], []
    for turn in range(turns):
        order = [(alone, 1), (together, jobs)]
        for found, count in order if turn % 2 == 0 else order[::-1]:
            found.append(run(experiment, count))
            print(f"{experiment.trials} trials, --jobs {count}: {found[-1].wall_s:.1f} s",
                  file=sys.stderr)  # fmt: skip
    speedup, low, high = compare([f.wall_s for f in alone], [f.wall_s for f in together])
    training_s = [seconds for found in alone for seconds in found.training_s]
    besides_s = median(seconds for found in alone for seconds in found.besides_s)
    return {
        "part": "jobs",
        "model": MODEL,
        "trials": experiment.trials,
        "jobs": jobs,
        "threads": 1,
        "alone_s": median(found.wall_s for found in alone),
        "together_s": median(found.wall_s for found in together),
        "speedup": speedup,
        "speedup_low": low,
        "speedup_high": high,
        "training_s": median(training_s),
        "training_together_s": median(s for found in together for s in found.training_s),
        "besides_s": besides_s,
        "command_s": median(found.first_s for found in alone) - besides_s,
        "turns": turns,
        "alone": [found._asdict() for found in alone],
        "together": [found._asdict() for found in together],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("steps", "jobs", "all"), default="all")
    parser.add_argument("--models", default="*", help="pattern of specs; default all")
    parser.add_argument("--runs", type=int, default=10, help="counted turns a launch; default 10")
    parser.add_argument("--launches", type=int, default=3, help="processes; default 3")
    parser.add_argument("--threads", type=int, default=1, help="of the loops; default 1")
    parser.add_argument("--jobs", type=int, default=2, help="trials at a time; default 2")
    parser.add_argument("--turns", type=int, default=4, help="of the experiment; default 4")
    parser.add_argument("--small", action="store_true", help="tiny settings: a test of this")
    parser.add_argument("--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    chosen = [case for case in CASES if fnmatch(case.model, given.models)]
    if not chosen:
        parser.error(f"no network is named like {given.models!r}")
    if given.small:
        chosen = [case._replace(image_px=32, batch=2, block=1, classes=10) for case in chosen]
    raw = given.out / "raw"
    for case in chosen if given.part != "jobs" else ():
        row = measure_steps(case, given.runs, given.launches, given.threads)
        append_rows("training", [row], raw=raw, seed=0)
        print(
            f"{row['model']}: ours {row['ours_images_s']:.1f} images/s, bare "
            f"{row['bare_images_s']:.1f}, x{row['speed_ratio']:.4f} [{row['speed_low']:.4f}, "
            f"{row['speed_high']:.4f}], {row['beyond_us']:.0f} us a step beyond it",
            flush=True,
        )
    if given.part != "steps":
        row = measure_jobs(SMALL if given.small else Experiment(), given.jobs, given.turns)
        append_rows("training", [row], raw=raw, seed=0)
        print(
            f"{row['trials']} trials: {row['alone_s']:.1f} s one after the other, "
            f"{row['together_s']:.1f} s with --jobs {row['jobs']}, x{row['speedup']:.3f} "
            f"[{row['speedup_low']:.3f}, {row['speedup_high']:.3f}]; besides its training a trial "
            f"takes {row['besides_s']:.2f} s, and the command {row['command_s']:.2f} s"
        )


if __name__ == "__main__":
    main()
