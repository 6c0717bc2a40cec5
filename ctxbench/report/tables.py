"""Tables: rows -> DataFrame, one function a table; every cell keeps its exact value."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from pandas import DataFrame

from ctxbench.claims import COUNTED, VERDICTS
from ctxbench.records import Row, latest
from ctxbench.render import Format, render
from ctxbench.report import ablations, findings, pictures
from ctxbench.report._frames import frame, made_of
from ctxbench.report.machines import PLACE, last_of_each, with_place
from ctxbench.report.networks import CLAIM, merge, networks
from ctxbench.report.timings import (
    asked_backend,
    compared,
    is_operator,
    timed,
    with_interval,
    words,
)

_CLAIMS = (
    "paper", "table", "row", "metric", "published", "ours", "difference", "convention",
    "verdict", "note", "model", "condition", "source",
)  # fmt: skip
_COSTS = (
    "model", "input_shape", "params", "macs", "flops", "fvcore", "mac-bn-relu", "torch_macs",
    "uncounted",
)  # fmt: skip
_HEADLINE = (
    "paper", "networks", "table", "params_published", "params_ours", "params_verdict",
    "gflops_published", "gflops_ours", "gflops_convention", "gflops_verdict", "compared",
)  # fmt: skip
_OPERATORS = (
    "operator", "case", "device", "dtype", "layout", "task", "form", "formulation", "median_ms",
    "ratio_to_plain", "plain_low", "plain_high", "ratio_to_obvious", "ratio_low", "ratio_high",
    "roof_share", "peak_mib", "max_difference",
)  # fmt: skip
_LATENCY = (
    "model", "against", "place", "mode", "batch", "image_size", "dtype", "layout", "backend",
    "cache", "status", "params", "macs", "median_ms", "low_ms", "high_ms", "images_s", "ratio",
    "ratio_low", "ratio_high", "weights_mib", "peak_mib", "gflops_s", "fraction", "bound", "runs",
    "launches", "stable", "precise", "disturbed",
)  # fmt: skip
_CONTEXT_COST = (
    "model", "against", "place", "condition", "params_ratio", "macs_ratio", "latency_ratio",
    "peak_mib_ratio",
)  # fmt: skip
_TIMERS = (
    "model", "batch", "threads", "ours_ms", "torch_ms", "ratio", "ratio_low", "ratio_high",
)  # fmt: skip
_TRAINING = (
    "model", "image_px", "batch", "threads", "ours_images_s", "bare_images_s", "speed_ratio",
    "speed_low", "speed_high", "beyond_us", "checkpoint_ms", "weights_difference",
)  # fmt: skip
_TRAINING_JOBS = (
    "model", "trials", "jobs", "threads", "alone_s", "together_s", "speedup", "speedup_low",
    "speedup_high", "training_s", "training_together_s", "besides_s", "command_s",
)  # fmt: skip
# an experiment's numbers stand in the rows of its trials
_TRIALS = ("trials",)
_HEADINGS = {
    "model": "network",
    "input_shape": "input",
    "macs": "MACs",
    "flops": "FLOPs (2 x MACs)",
    "torch_macs": "MACs by torch's counter",
    "uncounted": "not counted",
    "difference": "relative difference",
    "convention": "counted as",
    "params_published": "params (M), published",
    "params_ours": "ours",
    "params_verdict": "verdict",
    "gflops_published": "GFLOPs, published",
    "gflops_ours": "ours",
    "gflops_convention": "counted as",
    "gflops_verdict": "verdict",
    "compared": "beside another network",
    "median_s": "median (s)",
    "median_ms": "median (ms)",
    "peak_mib": "peak (MiB)",
    "place": "device",
    "op_backend": "operators by",
    "ours_ms": "ours (ms)",
    "torch_ms": "torch.utils.benchmark (ms)",
    "low_ms": "low (ms)",
    "high_ms": "high (ms)",
    "images_s": "images/s",
    "weights_mib": "weights (MiB)",
    "gflops_s": "GFLOP/s",
    "fraction": "fraction of the roof",
    "params_ratio": "params (ratio)",
    "macs_ratio": "MACs (ratio)",
    "latency_ratio": "latency (ratio [95 %])",
    "peak_mib_ratio": "peak memory (ratio)",
    "image_px": "image (px)",
    "ours_images_s": "ours (images/s)",
    "bare_images_s": "bare PyTorch loop (images/s)",
    "speed_ratio": "speed of ours (ratio)",
    "speed_low": "low (95 %)",
    "speed_high": "high (95 %)",
    "beyond_us": "a step of ours takes more (us)",
    "checkpoint_ms": "a checkpoint (ms)",
    "weights_difference": "weights apart in the end",
    "jobs": "at a time",
    "alone_s": "one after the other (s)",
    "together_s": "at a time (s)",
    "speedup": "faster by (ratio)",
    "speedup_low": "low (95 %)",
    "speedup_high": "high (95 %)",
    "training_s": "training of one alone (s)",
    "training_together_s": "beside others (s)",
    "besides_s": "a trial besides its training (s)",
    "command_s": "start of the command (s)",
    "top1_error": "top-1 error (%)",
    "top1_low": "top-1 low (95 %)",
    "top1_high": "top-1 high (95 %)",
    "top5_error": "top-5 error (%)",
    "top5_low": "top-5 low (95 %)",
    "top5_high": "top-5 high (95 %)",
    "pairs": "paired seeds",
    "difference_points": "difference (points)",
    "difference_low": "difference low (95 %)",
    "difference_high": "difference high (95 %)",
    "p": "p (Holm)",
    "imagenet_top1_error": "published, ImageNet (%)",
    "imagenet_top5_error": "published, ImageNet, top-5 (%)",
    "seconds": "training (s)",
    "chance_error": "error by chance (%)",
    "words": "expected",
    "at_least": "at least (points)",
    "seeds": "seeds paired",
    "error_interval": "top-1 error (% [95 %])",
    "difference_interval": "difference (points [95 %])",
    "ours_image_ms": "ours (ms an image)",
    "grad_cam": "grad-cam / ours",
    "torch_cam": "torch-cam / ours",
    "share_percent": "within it (%)",
    "shuffled_percent": "of another image's (%)",
    "beyond": "difference (points [95 %])",
    "plain_percent": "without looking (%)",
    "area_percent": "its area (%)",
    "square20": "square of 20 % (px [95 %])",
    "square50": "square of 50 % (px [95 %])",
    "square99": "square of 99 % (px [95 %])",
    "mean_displacement_px": "mean displacement (px)",
    "largest_displacement_px": "largest, mean over images (px)",
    "regular_share_outside": "share outside, regular grid",
    "constant_share": "the same everywhere (share)",
    "true_rank": "mean rank of the true class, by stage",
    "score_change": "change of scores by another prior",
    "moved": "predictions that it changes (share)",
}


class Table(NamedTuple):
    """A table: the kind of row it is made of, how, and the kinds whose rows come behind those."""

    kind: str
    make: Callable[[Iterable[Row]], DataFrame]
    also: tuple[str, ...] = ()


def costs(rows: Iterable[Row]) -> DataFrame:
    """Make a row for each network and input shape: what was counted last."""
    found = latest(rows, "model", "input_shape")
    flat = [{**(row.get("conventions") or {}), **row} for row in found]
    named = [{**row, "uncounted": ", ".join(row.get("uncounted") or ())} for row in flat]
    return frame(named, _COSTS)


def claims(rows: Iterable[Row]) -> DataFrame:
    """Make a row for each published figure: how it was judged last."""
    return frame(latest(rows, *CLAIM), _CLAIMS)


def counting(rows: Iterable[Row]) -> DataFrame:
    """Make a row for each network and counter, with every column that holds single values."""
    found = last_of_each(rows, "model", "counter")
    keys = list(dict.fromkeys(key for row in found for key in row if key != PLACE))
    nested = {key for row in found for key in row if isinstance(row[key], dict | list | tuple)}
    return frame(found, with_place(found, [key for key in keys if key not in nested]))


def operators(rows: Iterable[Row]) -> DataFrame:
    """Make a row for each form of an operator at one shape, forward and in training."""
    found = last_of_each(rows, *_OPERATORS[:8])
    return frame(found, with_place(found, _OPERATORS))


def latency(rows: Iterable[Row]) -> DataFrame:
    """Make a row for each network under each condition, by device: what was measured last.

    A column says what computed the operators, where that is not the default everywhere.
    """
    lines = timed(rows)
    return frame(lines, [*_LATENCY, *(["op_backend"] if any(map(asked_backend, lines)) else [])])


def context_cost(rows: Iterable[Row]) -> DataFrame:
    """Put the ratios of parameters, MACs, time and memory side by side, networks first."""
    lines = [
        {
            **row,
            "condition": ", ".join(words(row)),
            "latency_ratio": with_interval(row["ratio"], row["ratio_low"], row["ratio_high"]),
        }
        for row in sorted(compared(rows), key=lambda row: is_operator(row["model"]))
    ]
    return frame(lines, _CONTEXT_COST)


def context_time(rows: Iterable[Row]) -> DataFrame:
    """Put networks side by side: ratios of cost, then those of time under each condition."""
    found = [row for row in compared(rows) if not is_operator(row["model"])]
    pairs = list(dict.fromkeys(f"{row['model']} / {row['against']}" for row in found))
    lines: dict[tuple[str, str], Row] = {}
    behind: dict[tuple[str, str], list[Row]] = {}
    for row in found:
        pair = f"{row['model']} / {row['against']}"
        time = with_interval(row["ratio"], row["ratio_low"], row["ratio_high"])
        cells = {("", "parameters"): row["params_ratio"], ("", "MACs"): row["macs_ratio"]}
        for key, ratio in cells.items():
            cell = ratio and with_interval(ratio, None, None)
            lines.setdefault(key, {}).setdefault(pair, cell)
        condition = (row["place"], f"time: {', '.join(words(row))}")
        lines.setdefault(condition, {})[pair] = time
        for key in (*cells, condition):
            behind.setdefault(key, []).append(row)
    named = [
        {"device": key[0], "ratio of": key[1], **cells, **made_of(behind[key])}
        for key, cells in lines.items()
    ]
    return frame(named, ["device", "ratio of", *pairs])


def timers(rows: Iterable[Row]) -> DataFrame:
    """Put our clock beside torch's own, on the same network in one run."""
    found = last_of_each(rows, *_TIMERS[:3])
    return frame(found, with_place(found, _TIMERS))


def training(rows: Iterable[Row]) -> DataFrame:
    """Put our training beside a bare loop over the same network, which ends with equal weights."""
    steps = [row for row in rows if row.get("part") == "steps"]
    found = last_of_each(steps, *_TRAINING[:4])
    return frame(found, with_place(found, _TRAINING))


def training_jobs(rows: Iterable[Row]) -> DataFrame:
    """Put the time of an experiment with several trials at a time beside that with one."""
    jobs = [row for row in rows if row.get("part") == "jobs"]
    found = last_of_each(jobs, *_TRAINING_JOBS[:4])
    return frame(found, with_place(found, _TRAINING_JOBS))


def verdicts(rows: Iterable[Row]) -> DataFrame:
    """Count the claims of each verdict, by what is claimed."""
    found = latest(rows, *CLAIM)
    groups: dict[str, list[Row]] = {}
    for row in found:
        group = row["metric"] if row["metric"] in COUNTED else "after training"
        groups.setdefault(group, []).append(row)
    total = Counter(row["verdict"] for row in found)
    order = [verdict for verdict in VERDICTS if total[verdict]]
    order += sorted(set(total) - set(VERDICTS))
    lines = []
    for group, members in groups.items():
        count = Counter(row["verdict"] for row in members)
        line = {"metric": group, "claims": len(members), **made_of(members)}
        lines.append({**line, **{verdict: count[verdict] for verdict in order}})
    return frame(lines, ["metric", "claims", *order])


def headline(rows: Iterable[Row]) -> DataFrame:
    """Put published costs beside ours where a paper compares those of two networks.

    Networks with equal cells share a row.
    """
    cells = [key for key in _HEADLINE if key not in ("networks", "table", "compared")]
    found = [line for line in merge(networks(latest(rows, *CLAIM)), cells) if line["compared"]]
    return frame([{**line, "networks": _name(line["models"])} for line in found], _HEADLINE)


TABLES = {
    "costs": Table("costs", costs),
    "claims": Table("claims", claims),
    "counting": Table("counting", counting),
    "operators": Table("operators", operators),
    "latency": Table("latency", latency),
    "context_cost": Table("latency", context_cost),
    "context_time": Table("latency", context_time),
    "timers": Table("timers", timers),
    "training": Table("training", training),
    "training_jobs": Table("training", training_jobs),
    "ablations": Table("experiments", ablations.ablations, _TRIALS),
    "expectations": Table("experiments", ablations.judge, _TRIALS),
    "ablation_findings": Table("experiments", ablations.ablation_findings, _TRIALS),
    "ablation_errors": Table("experiments", ablations.ablation_errors, _TRIALS),
    "cue_shares": Table("cues", pictures.cue_shares),
    "cue_findings": Table("cues", pictures.cue_findings),
    "receptive_fields": Table("erf", pictures.receptive_fields),
    "faithfulness": Table("gradcam", pictures.faithfulness),
    "sampling": Table("offsets", pictures.sampling),
    "kernels": Table("kernels", pictures.kernels),
    "priors": Table("priors", pictures.priors),
    "gradcam_speed": Table("gradcam_speed", pictures.gradcam_speed),
    "verdicts": Table("claims", verdicts),
    "headline": Table("claims", headline),
    "differences": Table("claims", findings.differences),
    "verdicts_by_paper": Table("claims", findings.verdicts_by_paper),
    "operator_costs": Table("operators", findings.operator_costs),
    "operator_prices": Table("operators", findings.operator_prices),
    "counters": Table("counting", findings.counters),
}


def text(frame: DataFrame, form: Format) -> str:
    """Write a table in a form, with its columns' headings for readers."""
    headings = {str(key): heading(str(key)) for key in frame}
    rows = [{str(key): cell for key, cell in row.items()} for row in frame.to_dict("records")]
    return render(rows, headings, form)


def heading(key: str) -> str:
    """Return what a column is called before readers; a pair of specs stays as it is."""
    return _HEADINGS.get(key) or (key.replace("_", " ") if key.isidentifier() else key)


def _name(models: Sequence[str]) -> str:
    """Name several networks; more than one setting of the same network is a count."""
    settings: dict[str, list[str]] = {}
    for model in models:
        settings.setdefault(model.partition(":")[0], []).append(model)
    return ", ".join(
        specs[0] if len(specs) == 1 else f"{base} ({len(specs)} settings)"
        for base, specs in settings.items()
    )
