"""What a spec names, ready to be drawn: networks with fresh, given or trained weights."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn.parameter import is_lazy

from ctxbench.ablate.checkpoint import WEIGHTS
from ctxbench.ablate.device import device_of
from ctxbench.ablate.examples import telling_order
from ctxbench.ablate.folder import folder_of
from ctxbench.ablate.plan import load
from ctxbench.ablate.rows import EXPERIMENTS, TRIALS
from ctxbench.data import TensorImages
from ctxbench.data import resolve as resolve_data
from ctxbench.data.augment import seeded_apart
from ctxbench.errors import VisualizeError
from ctxbench.models import create_model, load_checkpoint
from ctxbench.records import Row, counting, latest, read_rows
from ctxbench.visualize import class_names as naming
from ctxbench.visualize.class_names import class_index
from ctxbench.visualize.images import images_of, images_of_data, photographs
from ctxbench.visualize.preprocess import Preprocess, preprocess_of
from ctxbench.visualize.subject import Image, Subject

__all__ = [
    "class_index",
    "data_of_run",
    "expanded",
    "images_of",
    "images_of_data",
    "photographs",
    "some_images",
    "subject_of",
]

_RUN = "run:"
_RESULTS = Path("results")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_ID_SHOWN, _DATA_SHOWN, _RUNS_SHOWN = 8, 32, 5
_FROM_DATA = ("num_classes", "in_channels")


def subject_of(
    spec: str,
    *,
    checkpoint: Path | None = None,
    seed: int = 0,
    out: Path = _RESULTS,
    device: str = "auto",
    dtype: Literal["fp32", "bf16"] = "fp32",
    size: tuple[int, int] | None = None,
    class_names: Path | None = None,
) -> Subject:
    """Return the network of a spec, or that of a training, ready to be drawn.

    `run:ID` is a trial of `ctxbench ablate` below `out`, with the weights that it ended with; the
    beginning of its ID is enough. Any other network has the weights of `checkpoint`, or random
    ones of `seed`. torch's random numbers are left as they are. `size` is height and width.
    Raises: VisualizeError for a run that is not there, has failed or has no weights here; as
            `create_model`, `load_checkpoint`, `class_names_of` and `preprocess_of` do.
    """
    place = device_of(device)
    if not spec.startswith(_RUN):
        subject = _named(spec, checkpoint, seed)
    elif checkpoint is not None:
        raise VisualizeError(
            f"{spec} has weights of its own. Leave the checkpoint {checkpoint} out, or name the "
            f"network: {_model_of(spec, out)}."
        )
    else:
        subject = _trained(spec, out)
    preprocess = subject.preprocess.sized(size)
    names = subject.class_names
    if class_names is not None:
        classes = naming.classes_of(_model_of(spec, out), subject.model)
        names = naming.class_names_of(class_names, classes)
    subject.model.eval().to(place, _DTYPES[dtype])
    return replace(subject, preprocess=preprocess, class_names=names)


def expanded(spec: str, out: Path = _RESULTS) -> dict[str, str | None]:
    """Return the runs of `run:EXPERIMENT[/LABEL[/SEED]]` as `run:ID`, each with its label.

    They are the trials of an experiment as `ctxbench ablate` ran it last: all, those of a variant
    with that label on any axis, or one. Any other spec is returned as it is, without a label.
    Raises: VisualizeError for a label or a seed that the experiment has not.
    """
    name, *chosen = [part.strip() for part in spec.removeprefix(_RUN).split("/", 2)]
    rows = latest(read_rows(EXPERIMENTS, raw=out / "raw").rows, "experiment")
    experiment = next((row for row in rows if row["experiment"] == name), None)
    if not spec.startswith(_RUN) or experiment is None:
        return {spec: None}
    found: dict[str, str | None] = {}
    labels, seeds = [], [str(seed) for seed in experiment["seeds"]]
    for variant in experiment["variants"]:
        own = [str(label) for label in variant["labels"].values()]
        labels += own
        if not chosen or chosen[0].lower() in map(str.lower, own):
            runs = zip(seeds, variant["trials"], strict=True)
            found |= {f"{_RUN}{run}": ", ".join(own) for s, run in runs if chosen[1:] in ([], [s])}
    if not found:
        raise VisualizeError(
            f"{spec}: {name} has the labels {_some(dict.fromkeys(labels))} and the seeds "
            f"{', '.join(seeds)}. Write {_RUN}{name}/LABEL/SEED."
        )
    return found


def data_of_run(spec: str, out: Path = _RESULTS) -> str | None:
    """Return the spec of the data that a `run:ID` was trained on; None for other specs."""
    return str(_row_of(spec, out)["data"]) if spec.startswith(_RUN) else None


def some_images(data: str, count: int) -> Iterator[Image]:
    """Yield up to `count` validation images, from different classes as far as there are."""
    images = load(resolve_data(data).spec).validation
    return images_of_data(data, list(islice(telling_order(images), count)))


def _named(spec: str, checkpoint: Path | None, seed: int) -> Subject:
    with _seeded(seed):
        model = create_model(spec)
        preprocess = preprocess_of(spec, model)
        names = naming.known_names(spec, model)
    if any(map(is_lazy, model.parameters())):
        raise VisualizeError(f"{spec} has lazy parameters. Have its function run it once.")
    weights = f"random weights (seed {seed})"
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
        weights = f"weights of {checkpoint.name}"
    trained = checkpoint is not None
    return Subject(spec, _title(spec), model, weights, trained, preprocess, names)


def _trained(spec: str, out: Path) -> Subject:
    row = _row_of(spec, out)
    path = _weights_of(row, out)
    with _seeded(0):
        model = create_model(row["model"])
    load_checkpoint(model, path)
    error = row.get("top1_error")
    told = [
        f"trained: run {row['trial'][:_ID_SHOWN]}",
        _short(row["data"]),
        f"seed {row['seed']}",
        *([] if error is None else [f"top-1 error {error:.1f} %"]),
    ]
    return Subject(
        spec=spec,
        title=_title(row["model"]),
        model=model,
        weights=", ".join(told),
        trained=True,
        preprocess=_as_validated(row),
        class_names=naming.names_of_folders(row["data"]),
        error=error,
    )


def _as_validated(row: Row) -> Preprocess:
    """Return how the trial saw its validation images; any others are seen the same way."""
    data = load(resolve_data(row["data"]).spec)
    if data.channels not in (1, 3):
        raise VisualizeError(
            f"The images of {row['data']} have {data.channels} channels; those that can be drawn "
            f"have 1 or 3."
        )
    px, images, framed = data.image_px, data.validation, row["augmentation"]
    whole = isinstance(images, TensorImages) and images.images.shape[-2:] == (px, px)
    return Preprocess(
        height=px,
        width=px,
        mean=tuple(data.mean),
        std=tuple(data.std),
        resize_px=None if whole else round(px / framed["eval_crop"]),
        interpolation=framed["interpolation"],
    )


def _model_of(spec: str, out: Path) -> str:
    return str(_row_of(spec, out)["model"]) if spec.startswith(_RUN) else spec


def _row_of(spec: str, out: Path) -> Row:
    """Return the row that counts of the one trial whose ID begins as `run:ID` says."""
    wanted = spec.removeprefix(_RUN).strip()
    raw = out / "raw"
    rows = counting(read_rows(TRIALS, raw=raw).rows)
    if not rows:
        raise VisualizeError(
            f"{spec}: there are no runs in {raw / TRIALS}.jsonl. Train with `ctxbench ablate FILE`."
        )
    found = [wanted] if wanted in rows else [run for run in rows if run.startswith(wanted)]
    if len(found) == 1:
        return rows[found[0]]
    if found:
        raise VisualizeError(
            f"{spec} is the beginning of {len(found)} runs: {_some(found)}. Write more of it."
        )
    near = get_close_matches(wanted, list(rows), n=3, cutoff=0.0)
    experiments = dict.fromkeys(row["experiment"] for row in read_rows(EXPERIMENTS, raw=raw).rows)
    told = f", or an experiment: {_some(experiments)}" if experiments else ""
    raise VisualizeError(
        f"{spec}: none of the {len(rows)} runs in {raw / TRIALS}.jsonl has that ID. Near it are "
        f"{_some(near)}{told}."
    )


def _weights_of(row: Row, out: Path) -> Path:
    run = row["trial"]
    if row["status"] != "ok":
        reason = " ".join(str(row.get("reason")).split()).rstrip(".")
        raise VisualizeError(f"Run {run} has no weights, since it has failed: {reason}.")
    path = folder_of(out, run) / WEIGHTS
    again = "train it again with `ctxbench ablate FILE --weights`"
    if not path.is_file():
        raise VisualizeError(f"Run {run}: its weights are not in {path.parent}: {again}.")
    # only rows that are older than this column have none
    stated = row.get("weights")
    if stated and not hashlib.sha256(path.read_bytes()).hexdigest().startswith(stated):
        raise VisualizeError(
            f"Run {run}: {path} is not what its row tells of, the weights {stated}. Remove it and "
            f"{again}."
        )
    return path


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with seeded_apart() as generator:
        generator.manual_seed(seed)
        yield


def _title(spec: str) -> str:
    """Return a spec without what its data decide, and without folders."""
    parts = [part.strip() for part in spec.strip().split(":")]
    kept = [part for part in parts if part.partition("=")[0].strip() not in _FROM_DATA]
    if ".py" in parts[0]:
        kept[0] = Path(parts[0]).name
    return ":".join(kept)


def _short(data: str) -> str:
    """Return a data spec without folders, and only as much of it as fits into a title."""
    plain = re.sub(r"[^:=]*/(?=[^:])", "", data)
    return plain if len(plain) <= _DATA_SHOWN else f"{plain[: _DATA_SHOWN - 1]}\u2026"


def _some(several: Iterable[Any]) -> str:
    runs = list(several)
    more = f" and {len(runs) - _RUNS_SHOWN} more" if len(runs) > _RUNS_SHOWN else ""
    return ", ".join(map(str, runs[:_RUNS_SHOWN])) + more
