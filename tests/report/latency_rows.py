"""Rows of times that nobody measured, as `ctxbench latency` would save them."""

from tests.report.rows import STAMP

CPU = {"device": "cpu", "device_name": "Abacus 3000", "threads": 2}
GPU = {"device": "cuda", "device_name": "Loom X1", "threads": 8}
OUT_OF_MEMORY = dict.fromkeys(
    ("median_ms", "low_ms", "high_ms", "images_s", "ratio", "ratio_low", "ratio_high", "peak_mib",
     "gflops_s", "intensity", "fraction", "bound")
) | {"status": "out of memory", "runs": 0, "launches": 0}  # fmt: skip


def timing(model, against=None, *, ratio=None, interval=0.02, ms=10.0, **changes):
    """One network under one condition; with a baseline, `ratio` times as slow as that."""
    row = {"model": model, "against": against, "group": "g1", "status": "ok", **CPU}
    row |= {"mode": "inference", "batch": 4, "image_size": [32, 32], "dtype": "fp32"}
    row |= {"layout": "contiguous", "backend": "eager", "cache": "warm", "params": 1000}
    row |= {"macs": 40_000, "weights_mib": 1.0, "median_ms": ms * (ratio or 1), "peak_mib": 8.0}
    row |= {"low_ms": 9.9, "high_ms": 10.1, "images_s": 400.0, "ratio": ratio}
    spread = {"ratio_low": 1 - interval, "ratio_high": 1 + interval} if ratio else {}
    row |= {key: ratio * part for key, part in spread.items()}
    row |= {"ratio_low": row.get("ratio_low"), "ratio_high": row.get("ratio_high")}
    row |= {"gflops_s": 20.0, "roof_gflops_s": 100.0, "roof_gb_s": 10.0, "intensity": 5.0}
    row |= {"fraction": 0.4, "bound": "memory", "runs": 30, "launches": 3, "stable": True}
    return {**row, "precise": True, "disturbed": 0, "stamp": STAMP, **changes}


LATENCY = [
    timing("plain"),
    timing("context", "plain", ratio=1.25, macs=44_000, params=1000, peak_mib=12.0),
    timing("op/conv:channels=8", group="g2"),
    timing(
        "op/mix:channels=8:levels=2", "op/conv:channels=8", ratio=0.8, group="g2", gflops_s=50.0
    ),
    timing("plain", group="g3", **GPU),
    timing("context", "plain", ratio=2.0, group="g3", **GPU),
    timing("context", "plain", group="g4", batch=64, **GPU, **OUT_OF_MEMORY),
]


def layer_time(layer, ms, against_ms, *, macs=1_000_000, kind="Conv2d", **changes):
    row = {"model": "coresnet50", "against": "resnet50", "group": "g1", **CPU, "batch": 4}
    row |= {"image_size": [32, 32], "dtype": "fp32", "layout": "contiguous", "layer": layer}
    row |= {"kind": kind, "macs": macs, "ms": ms, "against_kind": kind, "against_macs": macs}
    return {**row, "against_ms": against_ms, "stamp": STAMP, **changes}


LAYER_TIMES = [
    layer_time("conv1", 2.0, 2.0),
    layer_time("layer1.0.conv2", 3.0, 2.0, kind="CoConv2d", against_kind="Conv2d"),
    layer_time("layer1.0.bn2", 0.5, 0.6, macs=0, kind="BatchNorm2d"),
    layer_time("(rest)", 0.25, 0.25, macs=None, kind=None),
]
CEILINGS = [{**CPU, "dtype": "fp32", "gflops_s": 100.0, "gb_s": 10.0, "matmul_side": 64}]
