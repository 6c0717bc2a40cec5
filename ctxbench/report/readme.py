"""The tables inside a README: the text between two markers is replaced, all else stays."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctxbench.errors import RecordsError, UnknownNameError

# a marker stands alone on its line, so that a text can speak of markers
_MARKER = re.compile(r"^[ \t]*<!-- *(/?)ctxbench:(.*?) *-->[ \t\r]*(?:\n|\Z)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """Where the text of a table stands, between its two markers."""

    name: str
    start: int
    end: int


def read(path: Path) -> str:
    """Read a README with the line ends it has."""
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise RecordsError(f"Cannot read {path}: {error.strerror}. Check --readme.") from None
    except UnicodeDecodeError:
        raise RecordsError(f"Cannot read {path}: it is no UTF-8 text. Check --readme.") from None


def blocks(text: str, known: Collection[str], path: Path) -> list[Block]:
    """Find the marked tables; an unknown name and a marker without its partner are errors."""
    found: list[Block] = []
    opened: re.Match[str] | None = None
    for marker in _MARKER.finditer(text):
        closes, name = marker.groups()
        if name not in known:
            raise UnknownNameError(f"table in {path}", name, known)
        if opened and not (closes and opened[2] == name):
            raise _unclosed(opened[2], path)
        if closes and not opened:
            raise RecordsError(f"{path}: <!-- /ctxbench:{name} --> closes what nothing opened.")
        if opened:
            found.append(Block(name, opened.end(), marker.start()))
        opened = None if closes else marker
    if opened:
        raise _unclosed(opened[2], path)
    return found


def fill(text: str, places: Sequence[Block], tables: Mapping[str, str]) -> str:
    """Put each table in its places; one that is not there leaves what stands in them."""
    for place in reversed(places):
        if place.name in tables:
            text = f"{text[: place.start]}{tables[place.name]}\n{text[place.end :]}"
    return text


def _unclosed(name: str, path: Path) -> RecordsError:
    return RecordsError(
        f"{path}: <!-- ctxbench:{name} --> is not closed. Add <!-- /ctxbench:{name} --> behind it."
    )
