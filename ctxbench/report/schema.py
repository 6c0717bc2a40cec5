"""What the report needs of a row of each kind: a row of another version may lack or change it."""

import base64
import binascii
import io
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ctxbench.claims import GFLOPS, PARAMS
from ctxbench.records import Row

# beyond it no count fits 64 bits, and a product of two may not be finite
_LARGEST = 1e18


class Kind(NamedTuple):
    """What a value must be: in words for a reader, and as a test."""

    words: str
    holds: Callable[[Any], bool]
    needed: bool = True


def _is_number(value: Any) -> bool:
    # a comparison with NaN is false, one with an integer of any size is exact
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _is_integer(value: Any) -> bool:
    return _is_number(value) and not isinstance(value, float)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _each(holds: Callable[[Any], bool], *, least: int = 0) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) >= least and all(map(holds, value))


def _values(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(holds, value.values()))


def _maybe(kind: Kind) -> Kind:
    """Let a value be null or absent, which then stands as null in the row."""
    return kind._replace(needed=False)


def _error(value: Any) -> bool:
    """Accept what is measured of a trial, where a training that diverged gave NaN or infinity."""
    return isinstance(value, float) or _is_number(value)


def _is_label(value: Any) -> bool:
    return isinstance(value, str | int | float) and len(str(value)) < 200


TEXT = Kind("no text", _is_text)
NUMBER = Kind("no finite number", _is_number)
INTEGER = Kind("no whole number", _is_integer)
COUNT = Kind("no number from 0 on", lambda value: _is_number(value) and value >= 0)
RATIO = Kind("no ratio", lambda value: _is_number(value) and value > 1 / _LARGEST)
ERROR = Kind("no number", _error)
FLAG = Kind("neither true nor false", lambda value: isinstance(value, bool))
SHAPE = Kind("no list of sizes", _each(_is_integer, least=1))
SIZE = Kind("no height and width", lambda value: _each(_is_integer)(value) and len(value) == 2)
TEXTS = Kind("no list of texts", _each(_is_text))
NUMBERS = Kind("no list of numbers", _each(_is_number))
GAPPY = Kind("no list of numbers", _each(lambda value: value is None or _is_number(value)))
COUNTS = Kind("no numbers by name", _values(_is_number))


def _curve(value: Any) -> bool:
    """Accept lists of one length, of which errors may be null or not finite."""
    if not isinstance(value, dict) or not NUMBERS.holds(value.get("epoch")):
        return False
    held = _each(lambda error: error is None or _error(error))
    errors: list[Any] = [value.get("train_top1_error"), value.get("top1_error")]
    return all(held(each) and len(each) == len(value["epoch"]) for each in errors)


def _expectation(value: Any) -> bool:
    if not isinstance(value, dict) or not _is_text(value.get("words")):
        return False
    sides = _values(_is_label)(value.get("better")), _values(_is_label)(value.get("than"))
    least = value.get("at_least")
    by_number = _is_number(value.get("than"))
    return sides[0] and (sides[1] or by_number) and (least is None or COUNT.holds(least))


def _variant(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    published, classes = value.get("published"), value.get("classes")
    return (
        _values(_is_label)(value.get("labels"))
        and TEXTS.holds(value.get("trials"))
        and _is_text(value.get("model"))
        and (classes is None or (_is_integer(classes) and classes > 0))
        and (published is None or _published(published))
    )


def _published(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    errors = [value.get("top1_error"), value.get("top5_error")]
    return all(each is None or _is_text(each) or _is_number(each) for each in errors)


def _png(value: Any) -> bool:
    from PIL import Image  # only where there are pictures in the rows

    if not _is_text(value):
        return False
    try:
        Image.open(io.BytesIO(base64.b64decode(value, validate=True)), formats=["PNG"]).load()
    except (binascii.Error, ValueError, OSError, SyntaxError, Image.DecompressionBombError):
        return False
    return True


def _mark(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 5
        and NUMBERS.holds(value[:4])
        and _is_text(value[4])
    )


def _distinct(value: Any) -> bool:
    return _each(_is_integer, least=1)(value) and len(set(value)) == len(value)


_PLACE = {"device": TEXT, "device_name": TEXT, "threads": INTEGER}
_TIMED = dict.fromkeys(("ratio", "ratio_low", "ratio_high"), _maybe(RATIO))
_PICTURE = {"network": _maybe(TEXT), "model": TEXT, "weights": _maybe(TEXT)}


def _numbers(*keys: str, kind: Kind = NUMBER) -> dict[str, Kind]:
    return dict.fromkeys(keys, _maybe(kind))


# kind of row -> what its tables and figures read, and what that must be
NEEDED: Mapping[str, Mapping[str, Kind]] = {
    "costs": {
        "model": TEXT, "input_shape": SHAPE, "params": COUNT, "macs": COUNT,
        "conventions": _maybe(COUNTS), "uncounted": _maybe(TEXTS),
        **_numbers("flops", "torch_macs"),
    },
    "claims": {
        "paper": TEXT, "table": TEXT, "row": TEXT, "metric": TEXT, "model": _maybe(TEXT),
        "verdict": TEXT, "source": TEXT, "published": _maybe(TEXT), "ours": _maybe(TEXT),
        "difference": _maybe(NUMBER), "convention": _maybe(TEXT), "note": _maybe(TEXT),
        "condition": _maybe(TEXT), "against": _maybe(TEXT),
    },
    "layers": {
        "model": TEXT, "against": _maybe(TEXT), "input_shape": SHAPE, "layer": TEXT,
        "kind": _maybe(TEXT), "against_kind": _maybe(TEXT),
        **_numbers("params", "macs", "against_params", "against_macs", kind=COUNT),
    },
    "counting": {
        "model": TEXT, "counter": TEXT, "threads": _maybe(INTEGER),
        **_numbers("macs", "peak_mib", kind=COUNT), **_numbers("median_s", "runs"),
        **_numbers("ratio_to_fvcore", "ratio_low", "ratio_high", kind=RATIO),
    },
    "operators": {
        "operator": TEXT, "case": TEXT, "formulation": TEXT, "form": TEXT, "task": TEXT,
        "batch": INTEGER, **_PLACE, "dtype": TEXT, "layout": TEXT, "median_ms": RATIO,
        "roof_share": NUMBER,
        **_numbers("ratio_to_plain", "plain_low", "plain_high", "ratio_to_obvious", "ratio_low",
                   "ratio_high", kind=RATIO),
        **_numbers("peak_mib", kind=COUNT), **_numbers("max_difference"),
    },
    "latency": {
        "model": TEXT, "against": _maybe(TEXT), "group": TEXT, "status": TEXT, **_PLACE,
        "mode": TEXT, "batch": INTEGER, "image_size": SIZE, "dtype": TEXT, "layout": TEXT,
        "backend": TEXT, "cache": TEXT, **_TIMED,
        **_numbers("params", "macs", "peak_mib", "intensity", "gflops_s", "roof_gflops_s",
                   "roof_gb_s", "fraction", kind=COUNT),
        **_numbers("median_ms", "low_ms", "high_ms", "images_s", "weights_mib", "runs",
                   "launches", "disturbed"),
        "bound": _maybe(TEXT), "stable": _maybe(FLAG), "precise": _maybe(FLAG),
        "op_backend": _maybe(TEXT),
    },
    "latency_layers": {
        "model": TEXT, "against": _maybe(TEXT), "group": TEXT, **_PLACE, "batch": INTEGER,
        "image_size": SIZE, "dtype": TEXT, "layout": _maybe(TEXT), "layer": TEXT,
        "kind": _maybe(TEXT), "against_kind": _maybe(TEXT), "op_backend": _maybe(TEXT),
        **_numbers("macs", "ms", "against_macs", "against_ms", kind=COUNT),
    },
    "ceilings": {
        **_PLACE, "dtype": TEXT, **_numbers("gflops_s", "gb_s", "matmul_side", "copy_mib"),
    },
    "timers": {
        "model": TEXT, "batch": INTEGER, "threads": INTEGER,
        **_numbers("ours_ms", "torch_ms", "ratio", "ratio_low", "ratio_high"),
    },
    "training": {
        "part": TEXT, "model": TEXT, "threads": INTEGER,
        **_numbers("image_px", "batch", "ours_images_s", "bare_images_s", "beyond_us",
                   "checkpoint_ms", "weights_difference", "trials", "jobs", "alone_s",
                   "together_s", "training_s", "training_together_s", "besides_s", "command_s"),
        **_numbers("speed_ratio", "speed_low", "speed_high", "speedup", "speedup_low",
                   "speedup_high", kind=RATIO),
    },
    "experiments": {
        "experiment": TEXT, "title": _maybe(TEXT),
        "axes": Kind("no labels by axis", _values(_each(_is_label))),
        "baseline": _maybe(Kind("no labels by axis", _values(_is_label))),
        "expects": _maybe(Kind("no list of expectations", _each(_expectation))),
        "seeds": Kind("no list of different seeds", _distinct),
        "variants": Kind("no list of variants", _each(_variant, least=1)),
    },
    "trials": {
        "trial": TEXT, "status": TEXT, "reason": _maybe(TEXT), "device": _maybe(TEXT),
        **_numbers("threads", "world"),
        **_numbers("top1_error", "top5_error", "images_s", "seconds", kind=ERROR),
        "curve": _maybe(Kind("no curve", _curve)),
    },
    "examples": {
        "data": TEXT, "classes": INTEGER, "image_px": COUNT, "rule": _maybe(TEXT),
        "images": Kind("no list of PNG images", _each(_png)),
        "labels": Kind("no list", lambda value: isinstance(value, list)),
        "marks": Kind(
            "no list of marks, up to three an image",
            _each(lambda marks: _each(_mark)(marks) and len(marks) <= 3),
        ),
    },
    "cues": {
        **_PICTURE, "network": TEXT, "measure": TEXT, "layer": _maybe(TEXT), "part": TEXT,
        **_numbers("images", "share_percent", "shuffled_percent", "plain_percent", "area_percent"),
    },
    "erf": {
        **_PICTURE, "layer": TEXT, "height_px": INTEGER, "width_px": INTEGER,
        "field_whole": _maybe(FLAG),
        **_numbers("images", "map_height", "map_width", "field_height_px", "field_width_px"),
        **_numbers(*(f"square{share}{end}_px" for share in (20, 50, 99)
                     for end in ("", "_low", "_high"))),
    },
    "gradcam": {
        **_PICTURE, "method": TEXT, "layer": _maybe(TEXT), "image": _maybe(TEXT),
        **_numbers("deletion", "random_deletion", "insertion", "random_insertion"),
    },
    "offsets": {
        **_PICTURE, "layer": TEXT, "image": _maybe(TEXT),
        **_numbers("mean_displacement_px", "largest_displacement_px", "share_outside",
                   "regular_share_outside", "mean_mask", "constant_share"),
    },
    "kernels": {
        **_PICTURE, "operator": TEXT, "layer": TEXT, "image": _maybe(TEXT), "images": COUNT,
        "statistics": COUNTS,
    },
    "priors": {
        **_PICTURE, "image": _maybe(TEXT), "stages": TEXTS, "prior_sizes": GAPPY,
        "true_rank": _maybe(GAPPY), "predicted": _maybe(TEXT), "swapped_predicted": _maybe(TEXT),
        "exchanged": _maybe(TEXTS), "score_change": _maybe(NUMBERS),
    },
    "gradcam_speed": {
        "model": TEXT, "layer": _maybe(TEXT), "batch": INTEGER, "image_px": INTEGER,
        **_numbers("runs", "ours_image_ms"),
        **_numbers(*(f"{name}_{end}" for name in ("grad_cam", "torch_cam")
                     for end in ("ratio", "low", "high")), kind=RATIO),
    },
}  # fmt: skip


def _same_length(*keys: str) -> Callable[[Row], str | None]:
    def check(row: Row) -> str | None:
        lengths = {len(row[key]) for key in keys if row[key] is not None}
        told = sum(row[key] is not None for key in keys)
        if len(lengths) < 2 and told in (0, len(keys)):
            return None
        return f"whose {' and '.join(map(repr, keys))} differ in length"

    return check


def _is_published_cost(row: Row) -> str | None:
    """Accept of a published cost, which is drawn on a logarithmic axis, numbers above 0."""
    for key in ("published", "ours") if row["metric"] in (PARAMS, GFLOPS) else ():
        try:
            known = row[key] is None or RATIO.holds(float(row[key]))
        except ValueError:
            known = False
        if not known:
            return f"whose {key!r} is {RATIO.words.replace('ratio', 'number above 0')}"
    return None


def _is_grid(row: Row) -> str | None:
    varied = {axis for axis, labels in row["axes"].items() if len(labels) > 1}
    if any(not varied <= variant["labels"].keys() for variant in row["variants"]):
        return "whose variants lack labels of its axes"
    if any(len(variant["trials"]) != len(row["seeds"]) for variant in row["variants"]):
        return "whose variants have not one trial a seed"
    return None


# what must hold between the keys of a row
_TOGETHER: Mapping[str, Callable[[Row], str | None]] = {
    "claims": _is_published_cost,
    "experiments": _is_grid,
    "examples": _same_length("images", "labels", "marks"),
    "priors": _same_length("exchanged", "score_change"),
}


def fault(kind: str, row: Row) -> str | None:
    """Say why a row cannot be shown, like `that lack 'verdict'`; None if it can.

    What may be absent is null in the row afterwards, so that whoever reads it finds the key.
    """
    for key, wanted in NEEDED.get(kind, {}).items():
        value = row.setdefault(key, None)
        if value is None:
            if wanted.needed:
                return f"that lack {key!r}"
        elif not wanted.holds(value):
            return f"whose {key!r} is {wanted.words}"
    together = _TOGETHER.get(kind)
    return together(row) if together else None
