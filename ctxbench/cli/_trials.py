"""Trials under way: bars on a terminal, else a line for each that ends."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxbench.cli._options import note

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from ctxbench.ablate.runner import Event
    from ctxbench.ablate.status import TrialState

_STOPPING = "Stopping: the trials under way finish their step and save. Ctrl-C again ends at once."
_UNFINISHED = ("running", "waiting")  # a part of each may be done, or the rest be guessed wrong
_SHOWN = 8  # trials under way


@contextmanager
def display(
    names: Mapping[str, str], out: Path, *, quiet: bool
) -> "Iterator[Callable[[Event], None]]":
    """Show trials while they run; what is yielded takes note of events.

    `names` goes from the id of each trial to what a reader calls it.
    """
    if quiet:
        yield lambda event: None
        return
    if not sys.stderr.isatty():
        yield lambda event: note(_line(event, names), quiet=not _line(event, names))
        return
    from ctxbench.ablate.status import Watch, shown

    def tell(event: "Event") -> None:
        line = _line(event, names)
        if line:  # markup: brackets of labels and reasons are text
            bars.console.print(line, highlight=False, markup=False)

    with _bars() as bars, shown(Watch(out, list(names)), _Screen(bars, names).update):
        yield tell


def _line(event: "Event", names: Mapping[str, str]) -> str:
    """Say what an event means to the user; nothing where the bars say it."""
    if event.kind == "stopping":
        return _STOPPING
    name = names.get(str(event.trial), str(event.trial))
    told = {
        "ok": "done",
        "found": "done by another process",
        "held": "is run by another process; waiting for it",
        "failed": "failed",
        "mistake": f"FAILED: {event.reason}",
        "unwritable": f"FAILED: {event.reason}",
    }
    return f"{name}: {told[event.kind]}" if event.kind in told else ""


def _bars() -> "Bars":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        # in a narrow terminal this one is cut, and no number
        TextColumn(
            "{task.fields[told]}",
            markup=False,
            table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
        ),
        console=Console(stderr=True),
        transient=True,
        expand=True,
    )


class _Screen:
    """One bar for all trials and one for each under way."""

    def __init__(self, bars: "Bars", names: Mapping[str, str]) -> None:
        self._bars, self._names = bars, names
        self._all = bars.add_task("trials", total=len(names), told="")
        self._tasks: dict[str, TaskID] = {}

    def update(self, states: "dict[str, TrialState]") -> None:
        """Move the bars to where the trials are."""
        over = [name for name, found in states.items() if found.state in ("done", "failed")]
        failed = sum(found.state == "failed" for found in states.values())
        parts = [found.progress for found in states.values() if found.state in _UNFINISHED]
        parted = sum(at.step / at.steps for at in parts if at is not None and at.steps)
        self._bars.update(
            self._all, completed=len(over) + parted, told=f"{failed} failed" if failed else ""
        )
        running = [name for name, found in states.items() if found.state == "running"][:_SHOWN]
        for name in [name for name in self._tasks if name not in running]:
            self._bars.remove_task(self._tasks.pop(name))
        for name in running:
            self._show(name, states[name].progress)

    def _show(self, name: str, at: Any) -> None:
        if name not in self._tasks:
            label = f"  {self._names[name]}"
            self._tasks[name] = self._bars.add_task(label, total=None, told="")
        if at is not None:
            told = [f"loss {at.loss:.3g}"] if at.loss is not None else []
            told += [f"error {at.top1_error:.1f} %"] if at.top1_error is not None else []
            told += [f"{at.images_s:.0f} images/s"] if at.images_s is not None else []
            self._bars.update(
                self._tasks[name], completed=at.step, total=at.steps, told=", ".join(told)
            )
