"""The README tells the truth: commands, options, links and the tables that rows make."""

import re
from pathlib import Path

import pytest
import typer

from ctxbench.cli import app
from ctxbench.measure.conventions import CONVENTIONS
from ctxbench.measure.costs import cost_row, count_spec
from ctxbench.models import MODELS, resolve
from ctxbench.records import as_row
from ctxbench.render import show
from ctxbench.report.build import build_report
from ctxbench.spec import options_of

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
# those with tables that rows make
DOCUMENTS = [
    page
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    if "<!-- ctxbench:" in page.read_text()
]


def _commands(group, name=""):
    """Yield the name and the command of everything that can be run, `visualize erf` as well."""
    for key, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{name}{key} ")
        else:
            yield f"{name}{key}", command


COMMANDS = dict(_commands(typer.main.get_command(app)))


def test_every_command_and_option_is_documented():
    lacking = [name for name in COMMANDS if f"`ctxbench {name}" not in README]
    for name, command in {**COMMANDS, "": typer.main.get_command(app)}.items():
        for option in command.params:
            spelled = [f"`{text}" for text in option.opts if text.startswith("--")]
            if spelled and not any(text in README for text in spelled):
                lacking.append(f"{name} {option.opts}")
    assert lacking == []


def _commands_in_readme():
    """Yield (subcommand, words) of every `ctxbench ...` line or span."""
    spans = re.findall(r"`(ctxbench [^`]+)`", README)
    lines = re.findall(r"^\$ (ctxbench .+)$", README, flags=re.MULTILINE)
    for text in spans + lines:
        words = text.split()
        size = 3 if words[1] in ("visualize", "new") else 2
        yield " ".join(words[1:size]), words[size:]


def test_the_first_command_comes_early():
    lines = README.splitlines()
    assert next(n for n, line in enumerate(lines, 1) if line.startswith("resnet50  ")) <= 40


def test_every_command_in_the_readme_exists_with_its_options():
    for name, words in _commands_in_readme():
        assert name in COMMANDS, name
        known = {text for option in COMMANDS[name].params for text in option.opts}
        assert {word for word in words if word.startswith("--")} <= known, (name, words)


def test_every_network_in_the_readme_can_be_resolved():
    specs = set(re.findall(r"`((?:co|ctx_|cgc_)?resnet\d+(?::\w+=[\w,]+)*)`", README))
    assert len(specs) >= 3
    for spec in specs:
        resolve(spec)


def test_every_option_of_a_network_is_explained():
    options = {option for known in MODELS.values() for option in options_of(known.build)}
    rows = [line.split("|")[1] for line in README.splitlines() if line.startswith("| `")]
    assert {option for option in options if not any(f"`{option}`" in row for row in rows)} == set()


@pytest.mark.parametrize("name", CONVENTIONS)
def test_every_convention_is_explained_with_its_count_of_resnet50(name):
    counted, _ = count_spec("resnet50")
    (row,) = re.findall(rf"^\| `{name}` \| .* \| ([\d,]+) \|$", README, flags=re.MULTILINE)
    assert row == f"{counted.total(name):,}"


def test_every_make_target_in_the_readme_exists():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|\$ )make (\w+)", README)) <= targets


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_linked_or_named_file_exists(page):
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    named = re.findall(r"`((?:ctxbench|tests|results|benchmarks)/[\w/.]+\w)`", text)
    absent = [p for p in links + named if not (ROOT / p).exists() and "foo" not in p]
    assert absent == []


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    """The report made anew from the committed rows, and the folder of its documents."""
    out, pages = (tmp_path_factory.mktemp(name) for name in ("out", "pages"))
    copies = [pages / page.name for page in DOCUMENTS]
    for page, copy in zip(DOCUMENTS, copies, strict=True):
        copy.write_text(page.read_text())
    build_report([ROOT / "results/raw"], out, documents=copies)
    return out, pages


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_the_tables_of_a_document_are_made_from_the_rows(rebuilt, page):
    assert (rebuilt[1] / page.name).read_text() == page.read_text()


def test_the_report_fills_every_document():
    makefile = (ROOT / "Makefile").read_text()
    (filled,) = re.findall(r"^README \?= (.+)$", makefile, flags=re.MULTILINE)
    named = [f"--readme {page.relative_to(ROOT)}" for page in DOCUMENTS]
    assert sorted(filled.split(" --")) == sorted(" ".join(named).split(" --"))


def test_the_committed_tables_and_figures_are_made_from_the_rows(rebuilt):
    out = rebuilt[0]
    made = sorted(p.relative_to(out) for f in ("tables", "figures") for p in (out / f).iterdir())
    kept = sorted(
        p.relative_to(ROOT / "results")
        for folder in ("tables", "figures")
        for p in (ROOT / "results" / folder).iterdir()
        if p.is_file()  # the pictures of models in folders of their own are not made from rows
    )
    assert made == kept
    for path in kept:
        if path.suffix in (".csv", ".md", ".tex"):
            assert (out / path).read_text() == (ROOT / "results" / path).read_text(), path


def test_the_first_command_prints_what_the_readme_shows():
    (ours, shape), (plain, _) = count_spec("coresnet50"), count_spec("resnet50")
    row = as_row(cost_row("coresnet50", ours, shape, against="resnet50", other=plain))
    shown = next(line for line in README.splitlines() if line.startswith("coresnet50  "))
    keys = ("input_shape", "params", "macs", "flops", "params_difference", "macs_difference")
    assert shown.split()[1:] == [show(row[key]) for key in keys]
