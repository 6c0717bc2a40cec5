"""The process that one network runs in, and nothing else: it does what it is told over a pipe.

    python -m ctxbench.latency.worker FILE_DESCRIPTOR

Nothing heavy is imported before the process is set up.
"""

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ctxbench.errors import CtxbenchError, LatencyError, OutOfMemoryError
from ctxbench.latency import machine
from ctxbench.latency.condition import Condition

if TYPE_CHECKING:
    from ctxbench.latency.bench import Bench

Memory = Literal["kept", "returned"]
# else remainders of aligned blocks stay in it and freed neighbours do not join: a heap that is
# kept would grow to seven times what is in use
_NO_THREAD_CACHE = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
# where compiled code is kept for the next process
_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


class Worker:
    """The handle of such a process; use it in a `with`.

    `memory` says what the C library does with freed blocks: "kept" to time, "returned" to measure
    memory. `cache` is a folder for what is compiled, the user's own if None. Inside `use_backend`
    the process computes with that backend, too.

    Raises: what the process raised: OutOfMemoryError, LatencyError for what the user can mend,
            RuntimeError with its traceback for the rest.
    """

    def __init__(
        self, spec: str, condition: Condition, *, memory: Memory, cache: Path | None = None
    ) -> None:
        self._spec = spec
        self._pipe, theirs = Pipe()
        source = str(Path(__file__).parents[2])
        paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
        caches = {key: str(cache / key) for key in _CACHES} if cache else {}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={
                **os.environ,
                **caches,
                **(_NO_THREAD_CACHE if memory == "kept" else {}),
                "PYTHONPATH": os.pathsep.join(paths),
                "OMP_NUM_THREADS": str(condition.threads),
            },
        )
        theirs.close()
        from ctxbench.kernels import inside

        asked = {"spec": spec, "condition": condition, "memory": memory, "op_backend": inside()}
        self._send("set_up", asked)
        self._set_up = False

    def call(self, name: str, **given: Any) -> Any:
        """Have the process run a method of its bench, and return what it returns."""
        if not self._set_up:
            self._receive()
            self._set_up = True
        self._send(name, given)
        return self._receive()

    def _send(self, name: str, given: dict[str, Any]) -> None:
        try:
            self._pipe.send((name, given))
        except OSError:
            raise self._died() from None

    def _receive(self) -> Any:
        try:
            outcome, value = self._pipe.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if outcome == "done":
            return value
        if outcome == "out of memory":
            raise OutOfMemoryError(value)
        if outcome == "mistake":
            raise LatencyError(value)
        raise RuntimeError(value)

    def _died(self) -> Exception:
        code = self.process.wait()
        if code == -signal.SIGKILL:  # as the system does when memory is short
            return OutOfMemoryError(f"{self._spec}: its process was killed.")
        return RuntimeError(f"{self._spec}: its process ended with exit code {code}.")

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(pipe: Connection) -> None:
    """Do what comes over the pipe until it is closed."""
    with ExitStack() as whole:
        _answer(pipe, whole)


def _answer(pipe: Connection, whole: ExitStack) -> None:
    bench: Bench | None = None
    while True:
        answer: tuple[str, Any]
        try:
            name, given = pipe.recv()
        except (EOFError, ConnectionResetError):  # the parent has closed it
            return
        try:
            if bench is None:
                bench = _set_up(**given, whole=whole)
                answer = ("done", None)
            else:
                method: Callable[..., Any] = getattr(bench, name)
                answer = ("done", method(**given))
        except Exception as error:  # noqa: BLE001 - told to the parent, which raises it
            answer = _told(error)
        try:
            pipe.send(answer)
        except OSError:  # nobody waits for it any more
            return


def _told(error: Exception) -> tuple[str, str]:
    """Say what became of a request: out of memory, a mistake of the user's, or a crash of ours."""
    if isinstance(error, CtxbenchError):
        return "mistake", str(error)
    if machine.is_out_of_memory(error):
        return "out of memory", str(error).strip().partition("\n")[0] or "out of memory"
    if type(error).__name__ == "FailOnRecompileLimitHit":
        return "mistake", (
            "torch.compile has recompiled to its limit, behind which it would silently run in "
            "eager mode. Use --backend eager."
        )
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        reason = str(error).strip().partition("\n")[0]
        return "mistake", f"torch.compile fails: {reason} Use --backend eager."
    return "crash", "".join(traceback.format_exception(error))


def _set_up(
    spec: str, condition: Condition, memory: Memory, op_backend: str | None, whole: ExitStack
) -> "Bench":
    allocator = machine.keep_freed_memory() if memory == "kept" else machine.return_freed_memory()
    if not condition.cuda:
        machine.limit_memory()
    start = time.perf_counter()
    import torch

    from ctxbench.kernels import use_backend
    from ctxbench.latency.bench import Bench

    if op_backend:
        whole.enter_context(use_backend(op_backend))
    torch.set_num_threads(condition.threads)
    import_s = time.perf_counter() - start
    return Bench(spec, condition, {"allocator": allocator, "import_s": import_s})


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent closes the pipe
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # standard output is for data
    _serve(Connection(int(sys.argv[1])))
