"""One event file of TensorBoard, to which several commands may append what it lacks."""

import fcntl
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ctxbench.errors import RecordsError

Event = Any  # `tensorboard.compat.proto.event_pb2.Event`, which has no types
_VERSION = "brain.Event:2"  # without it a restart does not make TensorBoard forget points
_FRAMING = 16  # bytes around a record


def append_events(path: Path, missing: Callable[[list[Event]], list[Event]]) -> None:
    """Append what `missing` makes of the events that are there already, under a lock.

    Appended, never replaced: a TensorBoard that runs has read the beginning, and looks at the end.
    A record that a crash tore off is cut away, since nothing can be read behind it.
    Raises: RecordsError if the file cannot be read or written.
    """
    from tensorboard.compat.proto.event_pb2 import Event

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            events, end = _read(path)
            new = missing(events)
            if new:
                file.truncate(end)
                head = [] if events else [Event(wall_time=new[0].wall_time, file_version=_VERSION)]
                file.write(_framed([*head, *new]))
    except OSError as error:
        raise RecordsError(f"Cannot write {path}: {error.strerror}. Choose --out.") from None


def _read(path: Path) -> tuple[list[Event], int]:
    """Return the events of a file, and where the last whole one ends."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    records = list(RawEventFileLoader(str(path)).Load())
    end = sum(len(record) + _FRAMING for record in records)
    return [Event.FromString(record) for record in records], end


def _framed(events: Iterable[Event]) -> bytes:
    """Put each event between its length and its checksums, as `_FRAMING` counts them."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    framed = io.BytesIO()
    for event in events:
        RecordWriter(framed).write(event.SerializeToString())
    return framed.getvalue()
