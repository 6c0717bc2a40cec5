"""Help as a user reads it: in a useful order, every option explained, every example valid."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from ctxbench.cli import app
from ctxbench.models import resolve
from ctxbench.models.listing import expand, matching

ROOT = Path(__file__).parents[2]
TOP = typer.main.get_command(app)


def _all(command, words=("ctxbench",)):
    """Yield the words and the command of everything that has a help, groups too."""
    yield words, command
    for name, sub in getattr(command, "commands", {}).items():
        yield from _all(sub, (*words, name))


HELP = {" ".join(words): command for words, command in _all(TOP)}
EXAMPLES = [
    (name, example)
    for name, command in HELP.items()
    for example in re.findall(r"^Example: (.+)$", command.help, flags=re.MULTILINE)
]


def _found(words):
    """Return the command that words call, and what it is given."""
    command = TOP
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("name", HELP)
def test_help_ends_with_an_example_of_that_command(name):
    last = HELP[name].help.strip().splitlines()[-1]
    assert last.startswith(f"Example: {name}")


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_an_example_can_be_parsed(name, example):
    program, *words = shlex.split(example)
    assert program == "ctxbench"
    command, rest = _found(words)
    assert not hasattr(command, "commands"), "an example calls a command, not a group"
    command.make_context(name, list(rest))  # raises for unknown options and absent arguments


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_what_an_example_names_is_there(name, example):
    command, rest = _found(shlex.split(example)[1:])
    given = command.make_context(name, list(rest)).params
    specs = [*(given.get("specs") or given.get("words") or ()), given.get("against")]
    for spec in filter(None, specs):
        if spec.startswith("run:"):
            assert (ROOT / "experiments" / f"{spec.removeprefix('run:')}.toml").is_file()
        else:
            assert [resolve(each) for each in expand([spec])]
    if "pattern" in given:
        assert matching(given["pattern"])
    if "file" in given:
        assert (ROOT / given["file"]).is_file()


@pytest.mark.parametrize("name", HELP)
def test_every_option_and_argument_is_explained(name):
    assert [part.name for part in HELP[name].params if not getattr(part, "help", None)] == []


def test_commands_come_in_the_order_in_which_they_are_needed(run):
    _, out, _ = run("--help")
    listed = re.findall(r"^  (\w+)  ", out.partition("Commands:")[2], flags=re.MULTILINE)
    assert set(listed) == set(TOP.commands)
    known = ["doctor", "models", "flops", "claims", "latency", "ablate", "visualize", "report"]
    assert [name for name in listed if name in known] == known
