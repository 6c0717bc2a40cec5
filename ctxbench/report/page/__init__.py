"""The report as one HTML page: everything inside it, nothing fetched, the same bytes again."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from pandas import DataFrame

from ctxbench.report.page import _extra, _words
from ctxbench.report.page._gallery import Hung, gallery
from ctxbench.report.page._origins import Origins
from ctxbench.report.page._pictures import Embedded, Embedder
from ctxbench.report.page._sections import ELSEWHERE, RUNS, SECTIONS, Section, unnamed
from ctxbench.report.page._views import Show, View, fitting, make
from ctxbench.report.sources import Sources
from ctxbench.report.tables import TABLES

PAGE = "report.html"
_MACHINES = 12  # that the head of the page names
_INNER = re.compile(r"([:=,/])(?=\w)")
# what tables and pictures may take of the page, in characters; with the rest below 5 MB
_TABLES_BUDGET, _PICTURES_BUDGET = 1_100_000, 3_400_000


@dataclass(frozen=True, slots=True)
class Report:
    """What a page is made of: the rows, the tables and figures that have any, and the notes.

    `commands` goes from a kind of row to the command that makes it, `filed` are the tables with
    files of their own.
    """

    found: Sources
    tables: Mapping[str, DataFrame]
    drawn: Mapping[str, DataFrame]
    notes: Sequence[str]
    commands: Mapping[str, str]
    filed: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A figure of the report on the page."""

    key: str
    title: str
    alt: str
    picture: Embedded


@dataclass(frozen=True, slots=True)
class _Part:
    """A section as it is written: its tables and figures, and the commands for what is lacking."""

    section: Section
    items: list[View | _Drawn]
    lacking: list[tuple[str, str]]
    hung: list[Hung] = field(default_factory=list)
    unhung: list[str] = field(default_factory=list)


def write_page(report: Report, out: Path) -> Path:
    """Write `out/report.html`, with the pictures of `out/figures` in it, and return its path."""
    path = out / PAGE
    # replace: the path of a folder may be no text
    text = render_page(report, out / "figures")
    path.write_text(text, encoding="utf-8", errors="replace")
    return path


def render_page(report: Report, figures: Path) -> str:
    """Return the page as text; `figures` is the folder of the pictures."""
    tables = _tables(report)
    most = fitting(tables, _TABLES_BUDGET)
    origins = Origins(report.found)
    embedder = Embedder(figures, _PICTURES_BUDGET)

    def view(show: Show) -> View:
        filed = show.table in report.filed
        return make(show, tables[show.table], origins, most=most, filed=filed)

    parts = [_part(section, report, tables, view=view, embedder=embedder) for section in SECTIONS]
    parts = [_with_gallery(part, report, embedder=embedder, origins=origins) for part in parts]
    runs = view(RUNS)
    views = [item for part in parts for item in part.items if isinstance(item, View)]
    more = {view.name: view.more for view in [*views, runs] if view.more}
    script, style = _asset("page.js"), _asset("page.css")
    environment = Environment(
        loader=PackageLoader("ctxbench.report.page", ""),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["breakable"] = _breakable
    return environment.get_template("page.html").render(
        summary=_words.summary(report.found.rows),
        newest=_newest(report.found),
        machines=_first(_distinct(tables["runs"]["machine"])),
        counts={kind: len(rows) for kind, rows in report.found.rows.items() if rows},
        parts=parts,
        runs=runs,
        notes=report.notes,
        data=_json({**origins.data(), "more": more}),
        script=Markup(script),
        style=Markup(style),
        script_hash=_hash(script),
        style_hash=_hash(style),
    )


def _tables(report: Report) -> dict[str, DataFrame]:
    """Add the tables that only the page has."""
    rows = report.found.rows
    added = {
        "layers": _extra.layers(rows["layers"]),
        "layer_times": _extra.layer_times(rows["latency_layers"]),
        "ceilings": _extra.ceilings(rows["ceilings"]),
        "runs": _extra.runs(report.found),
    }
    found = {**report.tables, **{name: table for name, table in added.items() if len(table)}}
    return {name: table for name, table in found.items() if name not in ELSEWHERE}


def _part(
    section: Section,
    report: Report,
    tables: Mapping[str, DataFrame],
    *,
    view: Callable[[Show], View],
    embedder: Embedder,
) -> _Part:
    items: list[View | _Drawn] = []
    kinds = {name: table.kind for name, table in TABLES.items()}
    for item in (*section.items, *unnamed(section, kinds)):
        if isinstance(item, Show):
            items += [view(item)] if item.table in tables else []
        elif item in report.drawn and (picture := embedder.embed(item)):
            alt = _words.alternative(item, report.drawn[item])
            items.append(_Drawn(f"figure-{item}", _words.CAPTIONS.get(item, item), alt, picture))
    empty = [kind for kind in section.kinds if not report.found.rows[kind]]
    return _Part(section, items, [(kind, report.commands[kind]) for kind in empty])


def _with_gallery(part: _Part, report: Report, *, embedder: Embedder, origins: Origins) -> _Part:
    """Hang the pictures of networks, behind the figures, which come first where room is short."""
    kinds = part.section.gallery
    hung, unhung = gallery(kinds, report.found.rows, embedder=embedder, origins=origins)
    return _Part(part.section, part.items, part.lacking, hung, unhung)


def _newest(found: Sources) -> str:
    """Return when the newest row was made; the clock would change the bytes."""
    return max((str(origin.stamp.get("time") or "") for origin in found.origins), default="")


def _distinct(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(str(value) for value in values if value))


def _first(names: Sequence[str]) -> list[str]:
    beyond = len(names) - _MACHINES
    return [*names[:_MACHINES], *([f"{beyond} more"] if beyond > 0 else [])]


def _asset(name: str) -> str:
    return resources.files("ctxbench.report.page").joinpath(name).read_text("utf-8")


def _breakable(text: str) -> Markup:
    """Let a spec or a path break behind its punctuation."""
    return Markup(_INNER.sub(r"\1<wbr>", str(escape(text))))


def _hash(text: str) -> str:
    """Return what the page's policy knows a script or style by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _json(data: Any) -> Markup:
    """Write data into a script element, which no text in it can close."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)
