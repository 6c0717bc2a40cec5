"""Ctrl-C, and the signal by which a scheduler says that time is up."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

# programs that start others pass a signal on which these have got from the terminal already
_ECHO_S = 0.5
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Stopping:
    """What trials are told: to stop once their step is finished and saved, or at once."""

    asked: threading.Event = field(default_factory=threading.Event)
    at_once: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def on_signals(self, tell: Callable[[], None], *, twice: bool = True) -> Iterator[None]:
        """Take the first Ctrl-C or SIGTERM as a request to stop; the handlers are put back.

        Another Ctrl-C, where `twice` allows it, ends the trials at once and raises
        KeyboardInterrupt. In a thread other than the main one nothing is changed: only there does
        Python take signals.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        first_s = 0.0

        def _handle(number: int, frame: FrameType | None) -> None:
            nonlocal first_s
            del frame
            if not self.asked.is_set():
                first_s = time.monotonic()
                self.asked.set()
                tell()
            elif twice and number == signal.SIGINT and time.monotonic() - first_s > _ECHO_S:
                self.at_once.set()
                raise KeyboardInterrupt

        before = {number: signal.signal(number, _handle) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
