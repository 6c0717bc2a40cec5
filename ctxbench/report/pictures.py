"""Tables of what the pictures say: attention, receptive fields, faithfulness, sampling, priors."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from pandas import DataFrame

from ctxbench.records import Row
from ctxbench.report._ablation_statistics import estimate
from ctxbench.report._frames import frame, made_of
from ctxbench.report.machines import PLACE, last_of_each, with_place
from ctxbench.report.timings import with_interval

_CUES = (
    "network", "measure", "layer", "part", "runs", "images", "share_percent", "shuffled_percent",
    "beyond", "plain_percent", "area_percent",
)  # fmt: skip
_FINDINGS = (
    "network", "measure", "layer", "share_percent", "shuffled_percent", "beyond", "plain_percent",
)  # fmt: skip
_FIELDS = (
    "network", "weights", "layer", "images", "image", "map", "field", "square20", "square50",
    "square99",
)  # fmt: skip
_FAITHFULNESS = (
    "network", "weights", "method", "layer", "images", "deletion", "random_deletion", "insertion",
    "random_insertion",
)  # fmt: skip
_SAMPLING = (
    "network", "weights", "layer", "images", "mean_displacement_px", "largest_displacement_px",
    "share_outside", "regular_share_outside", "mean_mask", "constant_share",
)  # fmt: skip
_KERNELS = ("network", "weights", "operator", "layer", "images", "statistics")
_SPEED = ("model", "layer", "batch", "image_px", "runs", "ours_image_ms", "grad_cam", "torch_cam")
_ENDS = ("", "_low", "_high")
_PRIORS = (
    "network", "weights", "images", "stages", "prior_sizes", "true_rank", "score_change",
    "moved",
)  # fmt: skip


def cue_shares(rows: Iterable[Row]) -> DataFrame:
    """Make a row for each network, kind of attention and part, over its trials.

    `beyond` is what the share is above that of another image's attention, in points: the mean over
    trials and, of three or more, Student's 95 % interval.
    """
    same = ("network", "measure", "layer", "part")
    found = last_of_each(rows, "model", "measure", "layer", "part")
    lines = []
    for key, runs in _groups(found, *same).items():
        there = [
            row
            for row in runs
            if row["share_percent"] is not None and row["shuffled_percent"] is not None
        ]
        beyond = estimate(row["share_percent"] - row["shuffled_percent"] for row in there)
        sure = beyond.n >= 3 and beyond.low is not None
        lines.append(
            {
                **dict(zip((PLACE, *same), key, strict=True)),
                **made_of(runs),
                "runs": len(there),
                "images": runs[0]["images"],
                **{
                    name: _mean(there, name)
                    for name in (
                        "share_percent",
                        "shuffled_percent",
                        "plain_percent",
                        "area_percent",
                    )
                },
                "beyond": _signed(beyond.mean, *((beyond.low, beyond.high) if sure else ())),
            }
        )
    return frame(lines, with_place(lines, _CUES))


def cue_findings(rows: Iterable[Row]) -> DataFrame:
    """Make the rows of `cue_shares` that are about the cue, for a README."""
    found = [row for row in rows if row["part"] == "cue"]
    shares = cue_shares(found)
    return shares[[column for column in shares if column in (PLACE, *_FINDINGS)]]


def receptive_fields(rows: Iterable[Row]) -> DataFrame:
    """Make a row for each network, layer and size of images: its field, and what holds a share."""
    lines = [
        {
            **row,
            "image": f"{row['height_px']}x{row['width_px']}",
            "map": f"{row['map_height']}x{row['map_width']}" if row["map_height"] else "scores",
            "field": "the whole image"
            if row["field_whole"]
            else f"{row['field_height_px']}x{row['field_width_px']}",
            **{
                f"square{share}": _side(*(row[f"square{share}{end}_px"] for end in _ENDS))
                for share in (20, 50, 99)
            },
        }
        for row in last_of_each(rows, "model", "layer", "height_px", "width_px")
    ]
    return frame(lines, with_place(lines, _FIELDS))


def faithfulness(rows: Iterable[Row]) -> DataFrame:
    """Make a row for each network, method and layer: the mean areas over the images."""
    found = last_of_each(rows, "model", "method", "layer", "image")
    names = _FAITHFULNESS[-4:]
    return _averaged(found, ("model", "method", "layer"), names, _FAITHFULNESS)


def sampling(rows: Iterable[Row]) -> DataFrame:
    """Make a row for each network and layer that displaces: means over the images."""
    return _averaged(
        last_of_each(rows, "model", "layer", "image"), ("model", "layer"), _SAMPLING[4:], _SAMPLING
    )


def kernels(rows: Iterable[Row]) -> DataFrame:
    """Make a row for each network, operator and layer, with its statistics in words."""
    lines = []
    found = last_of_each(rows, "model", "operator", "layer", "image")
    for seen in _groups(found, "model", "operator", "layer").values():
        names = dict.fromkeys(name for row in seen for name in row["statistics"])
        means = {
            name: fmean(row["statistics"][name] for row in seen if name in row["statistics"])
            for name in names
        }
        said = "; ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in means.items())
        images = sum(row["images"] for row in seen)
        lines.append({**seen[0], **made_of(seen), "images": images or None, "statistics": said})
    return frame(lines, with_place(lines, _KERNELS))


def priors(rows: Iterable[Row]) -> DataFrame:
    """Make a row for each network: where its true classes stand by stage, and what a prior does.

    `true_rank` is the mean over the images, `score_change` that of exchanging one stage's prior
    and all of them, `moved` the share of images whose prediction another image's prior changes.
    """
    lines = []
    for group in _groups(last_of_each(rows, "model", "image"), "model").values():
        # another version may have had other stages: those of the last row are meant
        seen = [row for row in group if row["stages"] == group[-1]["stages"]]
        swapped = [row for row in seen if row["swapped_predicted"] and row["exchanged"]]
        moved = [row["swapped_predicted"] != row["predicted"] for row in swapped]
        changes = {
            stage: _mean(
                [dict(zip(row["exchanged"], row["score_change"], strict=True)) for row in swapped],
                stage,
            )
            for stage in (swapped[0]["exchanged"] if swapped else ())
        }
        ranks = [r for row in seen if (r := row["true_rank"]) and len(r) == len(row["stages"])]
        lines.append(
            {
                **seen[0],
                **made_of(seen),
                "images": len(seen),
                "stages": ", ".join(seen[0]["stages"]),
                "prior_sizes": ", ".join(str(s) for s in seen[0]["prior_sizes"] if s is not None),
                "true_rank": _by_stage(ranks),
                "score_change": "; ".join(
                    f"{s} {v:.2g}" for s, v in changes.items() if v is not None
                ),
                "moved": fmean(moved) if moved else None,
            }
        )
    return frame(lines, with_place(lines, _PRIORS))


def gradcam_speed(rows: Iterable[Row]) -> DataFrame:
    """Put our time for an image beside that of grad-cam and torch-cam, in one run."""
    lines = [
        {
            **row,
            **{
                name: row[f"{name}_ratio"]
                and with_interval(*(row[f"{name}_{end}"] for end in ("ratio", "low", "high")))
                for name in ("grad_cam", "torch_cam")
            },
        }
        for row in last_of_each(rows, "model", "batch", "image_px")
    ]
    return frame(lines, with_place(lines, _SPEED))


def _side(side: float | None, low: float | None, high: float | None) -> str | None:
    """Write a side with its interval; nothing where no image had a gradient."""
    return with_interval(side, low, high) if side is not None and side > 0 else None


def _by_stage(ranks: Sequence[Sequence[float | None]]) -> str:
    """Write the mean rank after each stage, over the images whose class is left there."""
    means = [[rank for rank in stage if rank is not None] for stage in zip(*ranks, strict=True)]
    return ", ".join(f"{fmean(stage):.3g}" if stage else "dropped" for stage in means)


def _averaged(
    rows: Sequence[Row], same: Sequence[str], averaged: Sequence[str], columns: Sequence[str]
) -> DataFrame:
    lines = [
        {
            **seen[0],
            **made_of(seen),
            "images": len(seen),
            **{name: _mean(seen, name) for name in averaged},
        }
        for seen in _groups(rows, *same).values()
    ]
    return frame(lines, with_place(lines, columns))


def _groups(rows: Iterable[Row], *same: str) -> dict[tuple[Any, ...], list[Row]]:
    """Gather rows with the same values, those of each machine apart."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in (PLACE, *same)), []).append(row)
    return groups


def _mean(rows: Sequence[Row], name: str) -> float | None:
    there = [row[name] for row in rows if row.get(name) is not None]
    return fmean(there) if there else None


def _signed(mean: float | None, low: float | None = None, high: float | None = None) -> str | None:
    if mean is None:
        return None
    interval = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    return f"{mean:+.2f}{interval}".replace("-", "\u2212")
