"""Names to complete, kept in a file: the registry needs torch, which takes seconds to load.

The file is made anew when a network or an operator has changed, so the first TAB after that waits.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
_ROOMS = ("models", "ops", "kernels")  # where names come from
# what a broken installation raises: a shell that completes must not show it
_BROKEN = (ImportError, OSError, RuntimeError, AttributeError)

Offers = dict[str, dict[str, dict[str, list[str]]]]


def offers() -> Offers:
    """Return networks, operators and replacements with their options, see `suggestions`."""
    return _kept("names", _stamp_of_sources(), _suggestions) or {
        "networks": {},
        "operators": {},
        "replacements": {},
    }


def foreign(library: str) -> list[str]:
    """Return the networks of `torchvision` or `timm`, as specs; nothing if it is not there."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        stamp = version(library)
    except PackageNotFoundError:
        return []
    return _kept(library, stamp, lambda: _listed(library)) or []


def _suggestions() -> Offers:
    from ctxbench.models.listing import suggestions

    return suggestions()


def _listed(library: str) -> list[str]:
    if library == "timm":
        import timm

        return [f"timm/{name}" for name in timm.list_models()]
    from torchvision.models import list_models

    return [f"torchvision/{name}" for name in list_models()]


def _kept(kind: str, stamp: str, make: Callable[[], Any]) -> Any:
    """Return what is kept under this stamp, or else make it and keep it; None if that fails."""
    place = hashlib.sha256(str(_ROOT).encode()).hexdigest()[:12]
    path = _folder() / f"{kind}-{place}.json"
    try:
        kept = json.loads(path.read_text())
        if kept["stamp"] == stamp:
            return kept["offers"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none yet, or torn
    try:
        made = make()
    except _BROKEN:
        return None
    _keep(path, json.dumps({"stamp": stamp, "offers": made}))
    return made


def _keep(path: Path, text: str) -> None:
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        temporary.replace(path)
    except OSError:  # a home that is read-only: every TAB takes its time, and none fails
        return


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ctxbench"


def _stamp_of_sources() -> str:
    files = sorted(path for room in _ROOMS for path in (_ROOT / room).rglob("*.py"))
    told = [(path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in files]
    return hashlib.sha256(repr(told).encode()).hexdigest()
