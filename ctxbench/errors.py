"""Every deliberate exception; the command line prints it as one line and exits with code 2."""

from collections.abc import Iterable
from difflib import get_close_matches

_SHOWN = 20


class CtxbenchError(Exception):
    """A mistake in the request: the message names the thing, the value and the way out."""


class UnknownNameError(CtxbenchError):
    """A name that no registry holds; `kind` says of what."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind = kind
        names = sorted(known)
        near = get_close_matches(name, names, n=1, cutoff=0.5)
        rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        all_known = f" Known: {', '.join(names[:_SHOWN])}{rest}."
        hint = f" Did you mean {near[0]!r}?" if near else all_known
        super().__init__(f"Unknown {kind} {name!r}.{hint}")


class SpecError(CtxbenchError):
    """A network spec that cannot be read, or an option whose value does not fit."""


class MissingPackageError(CtxbenchError):
    """An optional package that the request needs."""

    def __init__(self, package: str, purpose: str, extra: str | None = None) -> None:
        target = f"'ctxbench[{extra}]'" if extra else package
        super().__init__(f"{purpose} needs {package!r}. Install it: pip install {target}")


class CheckpointError(CtxbenchError):
    """A weight file that cannot be read, or that belongs to another network.

    `missing` and `unexpected` list every entry that the file lacks, or has too many.
    """

    def __init__(
        self, message: str, missing: Iterable[str] = (), unexpected: Iterable[str] = ()
    ) -> None:
        self.missing, self.unexpected = tuple(missing), tuple(unexpected)
        super().__init__(message)


class UncountedOpError(CtxbenchError):
    """An operation that computes and has no counting rule."""


class CountingError(CtxbenchError):
    """A network that cannot be run on the example input it was given."""


class LatencyError(CtxbenchError):
    """A measurement that cannot be made as asked, or whose number would be wrong."""


class OutOfMemoryError(LatencyError):
    """A network that does not fit into the memory; a row says so."""


class RecordsError(CtxbenchError):
    """Result rows that cannot be found, read or written."""


class DataError(CtxbenchError):
    """A data set that is not there, or that is not what it should be."""


class VisualizeError(CtxbenchError):
    """A picture that cannot be made of this network, layer or image."""


class BackendError(CtxbenchError):
    """A backend that has no answer for an operator here."""
