"""As many rows as years of measuring would leave, spread over the kinds; the same each time."""

import random

from tests.report.ablation_rows import experiment, trial
from tests.report.latency_rows import CPU, GPU, timing
from tests.report.rows import STAMP, cost, counted

MACHINE = {"system": "Linux", "cpu": "Abacus 3000", "cores": 8}


def many_rows(total=100_000, *, seed=0):
    """Return about `total` rows by kind: 40 % latency, 20 % claims, 20 % trials, 20 % costs."""
    draw = random.Random(seed)
    kinds = {"latency": [], "claims": [], "costs": [], "experiments": [], "trials": []}
    conditions = [(batch, dtype, device, against) for batch in (1, 4, 16, 64)
                  for dtype in ("fp32", "bf16") for device in (CPU, GPU)
                  for against in ("plain", "wide")]  # fmt: skip
    for number in range(total * 2 // 5):
        batch, dtype, device, against = conditions[number % len(conditions)]
        ratio = None if number % 9 == 0 else draw.uniform(0.5, 4.0)
        name = "plain" if ratio is None else f"network{number % 7}_{number % 11}"
        kinds["latency"].append(timing(
            name, None if ratio is None else against, ratio=ratio, batch=batch, dtype=dtype,
            group=f"g{number // 9}", intensity=draw.uniform(1, 100), **device,
            gflops_s=draw.uniform(1, 90), stamp=stamped(number),
        ))  # fmt: skip
    for number in range(total // 5):
        ours = f"{draw.uniform(9, 11):.3f}"
        metric = "params (M)" if number % 2 else "GFLOPs"
        name = f"net{number // 2 % 300}"
        kinds["claims"].append(
            counted(name, name, metric, "10.00", ours, "close", stamp=stamped(number))
        )
        kinds["costs"].append(cost(name, number + 1, None, stamp=stamped(number)))
    for number in range(50):
        axes = {"levels": ["1", "2", "3", "4"], "distance": ["2", "4", "8", "16"]}
        axes["size"] = ["none", "1", "50 %", "all"]
        row = experiment(f"study{number}", axes, baseline={"levels": "1"}, stamp=stamped(number))
        kinds["experiments"].append(row)
        names = [name for variant in row["variants"] for name in variant["trials"]]
        for again in range(total // 5 // (50 * len(names)) + 1):
            kinds["trials"] += [
                trial(name, draw.uniform(5, 60), device="cpu", threads=1, stamp=stamped(again))
                for name in names
            ]
    return kinds


def stamped(number):
    time = f"2026-01-{1 + number % 28:02}T00:00:00+00:00"
    return {**STAMP, "time": time, "commit": f"{number % 5:012x}", "machine": MACHINE}
