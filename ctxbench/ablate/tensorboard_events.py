"""What the TensorBoard log of a trial says, as events, and which of them a file lacks."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from typing import Any

from ctxbench.ablate.event_file import Event
from ctxbench.records import Row

# the keys of a curve, as they are called there; others keep their names
TAGS = {
    "train_loss": "train/loss",
    "train_top1_error": "train/top1_error",
    "loss": "validation/loss",
    "top1_error": "validation/top1_error",
    "top5_error": "validation/top5_error",
}
RATE = "images_s"

Point = tuple[int, dict[str, float]]  # a step of the optimiser, and what is known there by tag


@dataclass(frozen=True, slots=True)
class Head:
    """What stands above the points: the settings that TensorBoard compares, and a text.

    Trials of one `group` are seeds of one variant, of whose results it shows the mean.
    """

    group: str
    settings: Mapping[str, str | float]
    text: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a trial has left: its points, when it left them, its rate, and whether it is over."""

    points: Sequence[Point]
    time_s: float
    images_s: float | None
    over: bool


def found_in_row(row: Row, steps: int) -> Found:
    """Return what the row of a finished trial says; `steps` are those of an epoch."""
    points = _points(row.get("curve") or {}, steps)
    top5 = row.get("top5_error")
    if points and top5 is not None:  # a curve that an earlier version made does not have it
        points[-1][1].setdefault(TAGS["top5_error"], _float32(top5))
    ended = datetime.fromisoformat(row["stamp"]["time"]).timestamp()
    return Found(points, ended, row.get("images_s"), over=True)


def found_in_position(position: Mapping[str, Any], steps: int, saved_s: float) -> Found:
    """Return what the position in the checkpoint of an unfinished trial says."""
    rate = position["images"] / position["step_s"] if position["step_s"] else None
    return Found(_points(position["curve"], steps), saved_s, rate, over=False)


def _points(curve: Mapping[str, Sequence[float | None]], steps: int) -> list[Point]:
    points: list[Point] = [(round((epoch or 0) * steps), {}) for epoch in curve.get("epoch", ())]
    for key, values in curve.items():
        # a key that a new version brought while the trial was under way has the last points
        for (_, scalars), value in zip(points[len(points) - len(values) :], values, strict=True):
            if value is not None:
                scalars[TAGS.get(key, key)] = _float32(value)
    return points


def _float32(value: float) -> float:
    """Return a value as event files keep it, to be compared with theirs."""
    (kept,) = struct.unpack("f", struct.pack("f", value))
    return float(kept)


def missing(events: Sequence[Event], head: Head, found: Found) -> list[Event]:
    """Return the events that a file with these lacks.

    Where its points are others than those found, as after a training that began anew on a GPU, the
    first event makes TensorBoard forget them.
    """
    known, wanted = _recorded(events), found.points
    pairs = zip(known, wanted, strict=False)
    same = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
    if same == len(wanted) and not found.over:  # all there, or more: it takes steps once again
        return []
    new = [] if events else [_begin(head, found.time_s)]
    if same < len(known):
        first = min(step for step, _ in [*known[same:], *wanted[same:]])
        new.append(_restart(first, found.time_s))
    new += [_scalars(step, found.time_s, scalars) for step, scalars in wanted[same:]]
    last = wanted[-1][0]
    if same < len(wanted) and found.images_s is not None:
        new.append(_scalars(last, found.time_s, {RATE: found.images_s}))
    if found.over and not _has_ended(events):
        new.append(_end(last, found.time_s))
    return new


def _recorded(events: Sequence[Event]) -> list[Point]:
    """Return the points of a file, without those that TensorBoard is made to forget."""
    points: list[Point] = []
    for event in events:
        if event.HasField("session_log"):
            points = [point for point in points if point[0] < event.step]
        values = event.summary.value
        scalars = {v.tag: v.simple_value for v in values if v.HasField("simple_value")}
        if scalars and RATE not in scalars:
            points.append((event.step, scalars))
    return points


def _has_ended(events: Sequence[Event]) -> bool:
    from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG

    return any(v.tag == SESSION_END_INFO_TAG for event in events for v in event.summary.value)


def _begin(head: Head, time_s: float) -> Event:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from tensorboard.plugins.text.summary_v2 import text_pb

    summary = hparams_pb(dict(head.settings), trial_id=head.group, start_time_secs=time_s)
    summary.MergeFrom(text_pb("trial", head.text))
    return Event(step=0, wall_time=time_s, summary=summary)


def _restart(step: int, time_s: float) -> Event:
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    return Event(step=step, wall_time=time_s, session_log=SessionLog(status=SessionLog.START))


def _scalars(step: int, time_s: float, scalars: Mapping[str, float]) -> Event:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
    return Event(step=step, wall_time=time_s, summary=Summary(value=values))


def _end(step: int, time_s: float) -> Event:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    told = SessionEndInfo(status=STATUS_SUCCESS, end_time_secs=time_s)
    value = Summary.Value(
        tag=metadata.SESSION_END_INFO_TAG,
        metadata=metadata.create_summary_metadata(HParamsPluginData(session_end_info=told)),
        tensor=metadata.NULL_TENSOR,
    )
    return Event(step=step, wall_time=time_s, summary=Summary(value=[value]))
