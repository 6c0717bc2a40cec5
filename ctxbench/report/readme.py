"""Tables inside Markdown: the text between two markers is replaced, all else stays."""

import re
from collections.abc import Collection, Mapping
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


@dataclass(frozen=True, slots=True)
class Document:
    """A Markdown file, with the line ends it has, and its marked tables."""

    path: Path
    text: str
    blocks: list[Block]

    @classmethod
    def read(cls, path: Path, known: Collection[str]) -> "Document":
        """Read a file whose tables have these names; RecordsError or UnknownNameError if not."""
        try:
            text = path.read_bytes().decode()
        except OSError as error:
            raise RecordsError(f"Cannot read {path}: {error.strerror}. Check --readme.") from None
        except UnicodeDecodeError:
            message = f"Cannot read {path}: it is no UTF-8 text. Check --readme."
            raise RecordsError(message) from None
        return cls(path, text, _blocks(text, known, path))

    def fill(self, tables: Mapping[str, str]) -> None:
        """Write each table into its places; one that is not there leaves what stands in them."""
        text = self.text
        for place in reversed(self.blocks):
            if place.name in tables:
                head = text[: place.start]
                end = "\r\n" if head.endswith("\r\n") else "\n"
                table = f"{tables[place.name]}\n".replace("\n", end)
                text = f"{head}{table}{text[place.end :]}"
        self.path.write_bytes(text.encode())

    def lacking(self, tables: Mapping[str, str]) -> list[str]:
        """Say which places no table is there for."""
        if not self.blocks:
            return [f"{self.path}: it has no <!-- ctxbench:NAME --> to fill."]
        names = dict.fromkeys(at.name for at in self.blocks if at.name not in tables)
        return [f"{self.path}: left {name} as it was, for want of rows." for name in names]


def _blocks(text: str, known: Collection[str], path: Path) -> list[Block]:
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


def _unclosed(name: str, path: Path) -> RecordsError:
    return RecordsError(
        f"{path}: <!-- ctxbench:{name} --> is not closed. Add <!-- /ctxbench:{name} --> behind it."
    )
