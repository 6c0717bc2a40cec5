"""Completion through the shells' own protocol, and what it knows of specs."""

import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time

import pytest

from ctxbench.cli import _names
from ctxbench.cli._complete import joined, replacing, run_candidates, spec_candidates
from ctxbench.models import MODELS
from ctxbench.models.listing import suggestions
from ctxbench.ops import LAYERS

KNOWN = {
    "networks": {"net18": {"block": ["basic", "wide"], "width": ["64"]}, "net50": {}, "other": {}},
    "operators": {"op/gate": {"kernel": ["3"]}},
    "replacements": {"gate": {"parts": ["both", "one"]}},
}
PROGRAM = "import sys; sys.argv = ['ctxbench']; from ctxbench.cli import main; main()"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Return a cache folder that holds the names."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        assert _names.offers()["networks"]
    return folder


def _run(program, cache, **env):
    env = {**os.environ, "XDG_CACHE_HOME": str(cache), **env}
    return subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False
    )


def _bash(cache, *words, program=PROGRAM):
    """Complete the last of the words, which bash has broken at colons and equals signs."""
    at = {"COMP_WORDS": "\n".join(("ctxbench", *words)), "COMP_CWORD": str(len(words))}
    return _run(program, cache, _CTXBENCH_COMPLETE="complete_bash", **at)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ne", ["net18", "net50"]),
        ("op/", ["op/gate"]),
        ("net18:", ["net18:block=", "net18:width=", "net18:replace=", "net18:prepared="]),
        ("net18:wi", ["net18:width=", "net18:width=64"]),
        ("net18:block=", ["net18:block=basic", "net18:block=wide"]),
        ("net18:block=w", ["net18:block=wide"]),
        ("net18:width=8:r", ["net18:width=8:replace=", "net18:width=8:replace=gate"]),
        ("net18:width=8:b", [f"net18:width=8:block={end}" for end in ("", "basic", "wide")]),
        ("net50:", ["net50:replace=", "net50:prepared="]),
        ("net50:p", [f"net50:prepared={end}" for end in ("", "true", "false")]),
        ("net50:prepared=t", ["net50:prepared=true"]),
        (
            "net50:prepared=true:",
            ["net50:prepared=true:replace=", "net50:prepared=true:replace=gate"],
        ),
        ("net50:prepared=true:replace=gate:w", ["net50:prepared=true:replace=gate:where="]),
        ("net50:replace=g", ["net50:replace=gate"]),
        (
            "net50:replace=gate:",
            [f"net50:replace=gate:{end}=" for end in ("parts", "where", "prepared")],
        ),
        ("net50:replace=gate:parts=o", ["net50:replace=gate:parts=one"]),
        ("op/gate:", ["op/gate:kernel=", "op/gate:prepared="]),
        ("torchvision/x:r", ["torchvision/x:replace=", "torchvision/x:replace=gate"]),
        ("lib", []),
        ("nets.py:", []),
        ("net51:", []),
    ],
)
def test_a_spec_goes_on(text, expected):
    assert spec_candidates(text, KNOWN) == expected


def test_names_of_libraries_are_offered_once_their_name_begins():
    asked = []
    spec_candidates("", KNOWN, asked.append)
    spec_candidates("net", KNOWN, asked.append)
    assert asked == []
    listed = {"torchvision": ["torchvision/a", "torchvision/b"]}.get
    assert spec_candidates("torch", KNOWN, listed) == ["torchvision/a", "torchvision/b"]
    assert spec_candidates("torchvision/b", KNOWN, listed) == ["torchvision/b"]


def test_everything_registered_is_known():
    known = suggestions()
    assert set(known["networks"]) == set(MODELS)
    assert set(known["operators"]) == {f"op/{name}" for name in LAYERS}
    assert known["networks"]["resnet50"]["block"] == ["bottleneck", "basic"]
    assert known["networks"]["coresnet50"]["levels"] == ["4,3,2,1"]


def test_names_are_kept_until_a_source_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = iter(["first", "second"])
    monkeypatch.setattr(_names, "_suggestions", lambda: next(made))
    assert [_names.offers(), _names.offers()] == ["first", "first"]
    monkeypatch.setattr(_names, "_stamp_of_sources", lambda: "changed")
    assert _names.offers() == "second"


@pytest.mark.parametrize("torn", ["", "{", "[]", '{"stamp": 1}'])
def test_a_torn_file_of_names_is_made_anew(tmp_path, monkeypatch, torn):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(_names, "_suggestions", lambda: "made")
    _names.offers()
    (path,) = (tmp_path / "ctxbench").iterdir()
    path.write_text(torn)
    assert _names.offers() == "made"
    assert json.loads(path.read_text())["offers"] == "made"


def test_a_home_that_cannot_be_written_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(_names, "_suggestions", lambda: "made")
    assert _names.offers() == "made"


def test_a_broken_installation_completes_nothing_and_says_nothing(tmp_path):
    program = f"import sys; sys.modules['torch'] = None\n{PROGRAM}"
    run = _bash(tmp_path, "flops", "core", program=program)
    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("flops", "coresnet_"), ["coresnet_tiny"]),
        (("flops", "coresnet50", ":", "le"), ["levels=", "levels=4,3,2,1"]),
        (("flops", "resnet50", ":", "block", "="), ["bottleneck", "basic"]),
        (("flops", "--against", "=", "coresnet50", ":", "le"), ["levels=", "levels=4,3,2,1"]),
        (("latency", "resnet50", "--against", "coresnet_"), ["coresnet_tiny"]),
        (("flops", "coresnet50:le"), ["coresnet50:levels=", "coresnet50:levels=4,3,2,1"]),
        (("models", "op/coc"), ["op/coconv"]),
        (("visualize", "erf", "overlock_x"), ["overlock_xt"]),
        (("claims", "--paper", "coc"), ["coconv"]),
        (("lat",), ["latency"]),
        (("flops", "--again"), ["--against"]),
        (("flops", "nets.py", ":", "my"), []),
    ],
)
def test_bash_gets_what_it_replaces(cache, words, expected):
    run = _bash(cache, *words)
    assert run.stdout.split() == expected
    assert run.stderr == ""


def test_zsh_gets_whole_words_with_their_colons_escaped(cache):
    asked = "ctxbench flops coresnet50:le"
    run = _run(PROGRAM, cache, _CTXBENCH_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=asked)
    assert run.stdout.count(r'"coresnet50\\:levels=') == 2
    assert run.stdout.startswith("_arguments ")


def test_completion_loads_nothing_heavy(cache):
    heavy = ["torch", "numpy", "pandas", "rich"]
    program = (
        f"try:\n    {PROGRAM}\n"
        f"except SystemExit:\n    print(*[name for name in {heavy} if name in sys.modules])"
    )
    run = _bash(cache, "flops", "coresnet_", program=program)
    assert run.stdout.splitlines() == ["coresnet_tiny", ""]


@pytest.mark.parametrize(
    ("words", "at", "expected"),
    [
        (["c", "flops", "net"], 2, (["c", "flops", "net"], "net")),
        (["c", "flops", "net", ":", "le"], 4, (["c", "flops", "net:le"], "le")),
        (["c", "flops", "net", ":"], 3, (["c", "flops", "net:"], "")),
        (["c", "a", ":", "b", "=", "1", "net"], 6, (["c", "a:b=1", "net"], "net")),
        (["c", "a", ":", "b", "=", "1", ":", "w"], 7, (["c", "a:b=1:w"], "w")),
        (["c", "a", "b"], 1, (["c", "a"], "a")),
        (["c", "flops", ""], 2, (["c", "flops", ""], "")),
    ],
)
def test_words_that_bash_broke_are_joined(words, at, expected):
    assert joined(words, at) == expected


@pytest.mark.parametrize(
    ("line", "word", "piece", "expected"),
    [
        ("run:a/Two words", "run:a/T", "a/T", r"a/Two\ words"),
        ("run:a/(4,3)", "run:", "", r"a/\(4,3\)"),
        ("run:a/Two words", "'run:a/T", "'run:a/T", "run:a/Two words"),
        ("net:k=v", "--against=net:k", "k", "k=v"),
    ],
)
def test_a_shell_gets_text_that_it_can_read(line, word, piece, expected):
    assert replacing(line, word, piece) == expected


def test_runs_are_offered_by_experiment_label_and_seed(tmp_path):
    variants = [{"labels": {"levels": label}} for label in ("(1,1)", "(2,1)")]
    row = {"experiment": "deep", "variants": variants, "seeds": [1, 2]}
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/experiments.jsonl").write_text(f"{json.dumps(row)}\n" * 2)
    assert run_candidates("run:", tmp_path) == ["run:deep"]
    assert run_candidates("run:deep/", tmp_path) == ["run:deep/(1,1)", "run:deep/(2,1)"]
    assert run_candidates("run:deep/(2", tmp_path) == ["run:deep/(2,1)"]
    assert run_candidates("run:deep/(2,1)/", tmp_path) == ["run:deep/(2,1)/1", "run:deep/(2,1)/2"]
    assert run_candidates("run:other/", tmp_path) == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_tab_in_a_real_bash(cache, tmp_path):
    command = tmp_path / "ctxbench"
    command.write_text(f"#!{sys.executable}\n{PROGRAM}\n")
    command.chmod(0o755)
    script = _run(PROGRAM, cache, _CTXBENCH_COMPLETE="source_bash").stdout
    (tmp_path / "rc").write_text(f"PS1=\nPATH={tmp_path}:$PATH\n{script}\n")
    env = {**os.environ, "XDG_CACHE_HOME": str(cache), "TERM": "dumb"}
    ours, theirs = pty.openpty()
    words = ["bash", "--noprofile", "--rcfile", str(tmp_path / "rc"), "-i"]
    shell = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    try:
        # a Tab, a value, then back to the beginning of the line to have bash say it instead
        os.write(ours, b"ctxbench flops coresnet50:le\t3,1\x01echo =\r")
        seen = _read(ours, until="=ctxbench flops coresnet50:levels=3,1")
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)
    assert "=ctxbench flops coresnet50:levels=3,1" in seen


def _read(terminal, *, until, patience_s=30):
    seen, end = "", time.monotonic() + patience_s
    while until not in seen and time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 65536).decode()
    return seen
