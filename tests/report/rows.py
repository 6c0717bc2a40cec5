"""Small rows written by hand, as the commands would save them."""

STAMP = {"time": "2026-01-01T00:00:00+00:00", "command": "by hand"}


def claim(row, model, metric, published, **changes):
    """A claim of a paper that never was; it needs training unless `changes` say otherwise."""
    untold = dict.fromkeys(("ours", "difference", "convention"))
    text = {"paper": "toy", "table": "Table 1", "condition": "8x8", "source": "Toy et al., 2020"}
    told = {"row": row, "model": model, "metric": metric, "published": published}
    return {**text, **untold, "verdict": "needs training", "note": "", **told, **changes}


def counted(row, model, metric, published, ours, verdict, **changes):
    way = "parameters" if metric.startswith("params") else "macs"
    difference = float(ours) / float(published) - 1
    judged = {"ours": ours, "difference": difference, "convention": way, "verdict": verdict}
    return claim(row, model, metric, published, **judged, **changes)


CLAIMS = [
    counted("Plain", "plain", "params (M)", "10.00", "10.001", "reproduced"),
    counted("Plain", "plain", "GFLOPs", "2.00", "2.010", "close"),
    counted("Wide", "wide", "params (M)", "10.00", "10.001", "reproduced"),
    counted("Wide", "wide", "GFLOPs", "2.00", "2.010", "close"),
    claim(
        "Wide", "wide", "same cost as", "plain", verdict="proved equal", ours="+0", difference=0.0
    ),
    counted("Deep", "deep:levels=2", "params (M)", "30.00", "45.000", "differs"),
    claim("Deep", "deep:levels=2", "GFLOPs", "9.00", verdict="not buildable here yet"),
    claim("Wide", "wide", "top-1 error (%)", "23.4"),
]


def cost(model, params, torch_macs, shape=(1, 3, 8, 8), **changes):
    macs = 10 * params
    ways = {"macs": macs, "flops": 2 * macs, "fvcore": macs + 1, "mac-bn-relu": macs + 2}
    row = {"model": model, "input_shape": list(shape), "params": params, "macs": macs}
    row |= {"flops": 2 * macs, "conventions": ways, "uncounted": [], "torch_macs": torch_macs}
    return {**row, **changes}


COSTS = [cost("plain", 9_007_199_254_740_993, 7), cost("wide", 12, None)]


def layer(name, macs, *, kind="Conv2d", against_macs=None, **changes):
    row = {"model": "coresnet50", "against": "resnet50", "input_shape": [1, 3, 8, 8]}
    row |= {"layer": name, "kind": kind, "params": 5, "macs": macs, "against_kind": "Conv2d"}
    row |= {"against_params": 5, "against_macs": macs if against_macs is None else against_macs}
    return {**row, "stamp": STAMP, **changes}


LAYERS = [
    layer("conv1", 3_000_000),
    layer("layer1.0.conv2", 2_000_000, kind="CoConv2d"),
    layer("layer1.0.bn2", 0, kind="BatchNorm2d", against_kind="BatchNorm2d"),
    layer("fc", 1_000_000),
]
OPERATORS = [
    {
        "operator": "mix", "case": "8 channels, batch 4", "formulation": "by views", "form": form,
        "task": task, "batch": 4, "device": "cpu", "device_name": "Abacus 3000", "threads": 1,
        "dtype": "fp32", "layout": "contiguous", "median_ms": 2.5, "ratio_to_plain": 5.0,
        "plain_low": 4.5, "plain_high": 5.5, "ratio_to_obvious": 0.5, "ratio_low": 0.4,
        "ratio_high": 0.6, "roof_share": 0.25, "peak_mib": 3.0, "max_difference": 1e-7,
        "seconds": [0.002, 0.003],
    }
    for form in ("torch", "obvious")
    for task in ("forward", "training")
]  # fmt: skip
COUNTING = [
    {"model": "plain", "counter": "ours", "median_s": 0.5, "macs": 12345678901, "runs": 5},
    {"model": "plain", "counter": "theirs", "median_s": 0.7, "macs": None, "all_s": [0.7, 0.8]},
]
TRAINING = [
    {
        "part": "steps", "model": "plain", "image_px": 32, "batch": 64, "threads": 1,
        "ours_images_s": 990.0, "bare_images_s": 1000.0, "speed_ratio": 0.99, "speed_low": 0.98,
        "speed_high": 1.0, "beyond_us": 650.0, "checkpoint_ms": 5.0, "weights_difference": 0.0,
        "ours_s": [[1.0]], "bare_s": [[0.99]],
    },
    {
        "part": "jobs", "model": "plain", "trials": 4, "jobs": 2, "threads": 1, "alone_s": 40.0,
        "together_s": 21.0, "speedup": 1.9, "speedup_low": 1.8, "speedup_high": 2.0,
        "training_s": 9.0, "training_together_s": 9.5, "besides_s": 0.7, "command_s": 1.2,
        "alone": [], "together": [],
    },
]  # fmt: skip
