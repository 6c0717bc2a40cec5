"""What a shell may complete: specs piece by piece, runs, names; without loading torch."""

import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import typer

from ctxbench.cli._names import Offers, foreign, offers

_LIBRARIES = ("torchvision", "timm")
_RUN = "run:"
_ASKED = "_CTXBENCH_COMPLETE"  # set by the function that --install-completion gives to the shell


def complete_spec(incomplete: str) -> list[str]:
    """Return the specs that go on from what is typed: names, then options, then values."""
    return spec_candidates(incomplete, offers(), foreign)


def complete_name(incomplete: str) -> list[str]:
    """Return the registered networks and operators alone."""
    known = offers()
    return _beginning(incomplete, [*known["networks"], *known["operators"]])


def complete_subject(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return networks with their options, and trained runs as `run:EXPERIMENT/LABEL/SEED`."""
    if incomplete and _RUN.startswith(incomplete[: len(_RUN)]):
        runs = run_candidates(incomplete, Path(ctx.params.get("out") or "results"))
        if runs or incomplete.startswith(_RUN):
            return runs
    return [each for each in complete_spec(incomplete) if not each.startswith("op/")]


def complete_paper(incomplete: str) -> list[str]:
    """Return the papers whose claims are here."""
    folder = Path(__file__).parents[1] / "claims"
    return _beginning(incomplete, sorted(path.stem for path in folder.glob("*.toml")))


def spec_candidates(
    text: str, known: Offers, foreign: Callable[[str], list[str]] = lambda library: []
) -> list[str]:
    """Return the specs that begin with `text`; `foreign` lists the networks of a library.

    An option that is the only one to fit comes with its values, so that no shell believes the word
    to be complete behind the equals sign.
    """
    if ":" not in text:
        found = _beginning(text, [*known["networks"], *known["operators"]])
        for library in _LIBRARIES:
            start = f"{library}/"
            if text and (start.startswith(text) or text.startswith(start)):
                found += _beginning(text, foreign(library))
        return found
    head, _, last = text.rpartition(":")
    options = _options(head, known)
    given = {part.partition("=")[0] for part in _own_parts(head)}
    free = {key: values for key, values in options.items() if key not in given}
    return [f"{head}:{option}" for option in _option_candidates(last, free)]


def _options(head: str, known: Offers) -> Mapping[str, list[str]]:
    """Return the options that can follow the head of a spec: option -> values."""
    name, *parts = head.split(":")
    replacing = [part.partition("=")[2] for part in parts if part.startswith("replace=")]
    prepared = any(part.startswith("prepared=") for part in parts)
    of_all = {} if prepared else {"prepared": ["true", "false"]}
    if replacing:
        own = known["replacements"].get(replacing[0])
        return {} if own is None else {**own, "where": [], **of_all}
    if name in known["operators"]:
        return {**known["operators"][name], **of_all}
    ours = known["networks"].get(name)
    if ours is None and not name.startswith(tuple(f"{library}/" for library in _LIBRARIES)):
        return {}  # a file, or a mistake
    return {**(ours or {}), "replace": sorted(known["replacements"]), **of_all}


def _own_parts(head: str) -> list[str]:
    """Return the options given so far to what the next one belongs to."""
    parts = head.split(":")[1:]
    places = [at for at, part in enumerate(parts) if part.startswith("replace=")]
    return parts[places[0] + 1 :] if places else parts


def _option_candidates(last: str, options: Mapping[str, list[str]]) -> Iterator[str]:
    key, equals, value = last.partition("=")
    if equals:
        yield from (f"{key}={each}" for each in _beginning(value, options.get(key, [])))
        return
    keys = _beginning(key, list(options))
    yield from (f"{each}=" for each in keys)
    if len(keys) == 1:
        yield from (f"{keys[0]}={each}" for each in options[keys[0]])


def run_candidates(text: str, out: Path) -> list[str]:
    """Return `run:EXPERIMENT`, then its labels, then the seeds, of what `ctxbench ablate` ran."""
    from ctxbench.records import latest, read_rows

    rows = latest(read_rows("experiments", raw=out / "raw").rows, "experiment")
    name, *chosen = text.removeprefix(_RUN).split("/")
    if not chosen:
        return _beginning(text, [f"{_RUN}{row['experiment']}" for row in rows])
    found = [row for row in rows if row["experiment"] == name]
    labels = [
        f"{_RUN}{name}/{label}"
        for row in found
        for variant in row["variants"]
        for label in variant["labels"].values()
    ]
    if len(chosen) > 1:
        labels = [f"{label}/{seed}" for label in labels for row in found for seed in row["seeds"]]
    return _beginning(text, list(dict.fromkeys(labels)))


def _beginning(text: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(text)]


@contextmanager
def whole_words() -> Iterator[None]:
    """Let bash complete specs: it breaks words at `:` and `=`, and replaces the last piece alone.

    Inside, the pieces are one word again; of what is printed, the shell gets what it replaces,
    with signs that mean something to it behind backslashes.
    """
    if os.environ.get(_ASKED) != "complete_bash" or "\n" not in os.environ.get("COMP_WORDS", ""):
        yield
        return
    words, piece = joined(os.environ["COMP_WORDS"].split("\n"), int(os.environ["COMP_CWORD"]))
    os.environ |= {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            sys.stdout.write(f"{replacing(line, words[-1], piece)}\n")


def joined(words: list[str], at: int) -> tuple[list[str], str]:
    """Return the words up to `at` as they were typed, and the piece of the last to be replaced."""
    whole: list[str] = []
    behind_break = False
    for word in words[: at + 1]:
        is_break = bool(re.fullmatch(r"[:=]+", word))
        if whole and (is_break or behind_break):
            whole[-1] += word
        else:
            whole.append(word)
        behind_break = is_break
    return whole, "" if behind_break else words[at]


def replacing(line: str, word: str, piece: str) -> str:
    """Return the part of a completed word that goes where the piece stands."""
    before = word.removesuffix(piece) if piece else word
    if before.startswith("-"):  # --against=resnet50
        before = before.partition("=")[2]
    rest = line.removeprefix(before)
    return rest if word[:1] in ("'", '"') else re.sub(r"([^\w@%+=:,./*-])", r"\\\1", rest)
