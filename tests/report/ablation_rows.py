"""Experiments and trials that nobody ran, as `ctxbench ablate` would save them."""

import itertools

from tests.report.rows import STAMP


def experiment(name, axes, *, seeds=(0, 1, 2, 3, 4), classes=4, published=None, **changes):
    """An experiment over the grid of its axes; a trial's id is `name/labels/seed`."""
    variants = []
    for labels in itertools.product(*axes.values()):
        named = dict(zip(axes, labels, strict=True))
        trials = [f"{name}/{'/'.join(labels)}/{seed}" for seed in seeds]
        variants.append({
            "labels": named, "model": "tiny", "data": "toy", "recipe": {}, "classes": classes,
            "params": 1000, "macs": 40_000, "trials": trials,
            "published": (published or {}).get(labels),
        })  # fmt: skip
    row = {"experiment": name, "title": f"Title of {name}", "axes": axes, "baseline": {}}
    row |= {"expects": [], "seeds": list(seeds), "variants": variants, "stamp": STAMP}
    return {**row, **changes}


def trial(name, top1_error, **changes):
    row = {"trial": name, "model": "tiny", "data": "toy", "status": "ok", "reason": None}
    row |= {"top1_error": top1_error, "top5_error": None, "images_s": 500.0, "seconds": 60.0}
    epochs = 4
    falling = [100 - (100 - (top1_error or 0)) * epoch / epochs for epoch in range(1, epochs + 1)]
    curve = {"epoch": list(range(1, epochs + 1)), "top1_error": falling}
    curve["train_top1_error"] = [error - 2 for error in falling]
    return {**row, "curve": curve, "stamp": STAMP, **changes}


def failed(name, reason="out of memory"):
    return trial(name, None, status="failed", reason=reason, curve=None)


def trials(row, errors):
    """Trials of an experiment: for each variant's labels the error of each seed, None: no row."""
    return [
        trial(name, error)
        for variant in row["variants"]
        for name, error in zip(
            variant["trials"], errors[tuple(variant["labels"].values())], strict=True
        )
        if error is not None
    ]


PUBLISHED = {"top1_error": 22.5, "top5_error": None, "data": "ImageNet", "source": "Table 3"}
LEVELS = experiment(
    "levels",
    {"levels": ["1", "4,3,2,1"], "distance": ["2", "8"], "data": ["toy"]},
    baseline={"levels": "1"},
    published={("4,3,2,1", "2", "toy"): PUBLISHED},
    expects=[
        {"words": "more is better", "better": {"levels": "4,3,2,1"}, "than": {"levels": "1"},
         "at_least": 1.0},
        {"words": "one is chance", "better": {"levels": "1", "distance": "8"}, "than": 75.0,
         "at_least": 0},
    ],
)  # fmt: skip
ERRORS = {
    ("1", "2", "toy"): [20.0, 21.0, 22.0, 23.0, 24.0],
    ("1", "8", "toy"): [74.0, 75.0, 76.0, 74.5, 75.5],
    ("4,3,2,1", "2", "toy"): [10.0, 12.0, 11.0, 14.0, 13.0],
    ("4,3,2,1", "8", "toy"): [30.0, 31.0, 29.0, 30.5, None],
}
SIZES = experiment("sizes", {"size": ["none", "1", "50 %", "all"]}, baseline={"size": "none"})
SIZE_ERRORS = {
    (size,): [level + seed * 0.5 + step * 0.1 * seed for seed in range(5)]
    for step, (size, level) in enumerate([("none", 40.0), ("1", 39.0), ("50 %", 30.0), ("all", 20)])
}
TRIALS = [*trials(LEVELS, ERRORS), *trials(SIZES, SIZE_ERRORS)]
ALL = [LEVELS, SIZES, *TRIALS]
# all that can be drawn, in as few lines as possible
SMALL = experiment(
    "small",
    {"distance": ["2", "8"], "size": ["1", "all"]},
    seeds=[0, 1],
    baseline={"size": "1"},
    expects=[{"words": "all helps", "better": {"size": "all"}, "than": {"size": "1"}}],
)
SMALL_TRIALS = trials(
    SMALL,
    {("2", "1"): [9.0, 8.0], ("2", "all"): [5.0, 6.0], ("8", "1"): [7.0, 9.0],
     ("8", "all"): [6.0, 7.0]},
)  # fmt: skip
