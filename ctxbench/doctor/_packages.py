"""Packages: which are there, whether they fit each other, and how to get those that are not."""

import importlib
import platform
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from ctxbench import __version__
from ctxbench.doctor._row import BROKEN, Finding, finding, first_line

# what each is for; the names and the extras are those of pyproject.toml
PURPOSES = {
    "torch": "everything",
    "torchvision": "its networks, deformable convolution, images",
    "typer": "the command line",
    "fvcore": "counting",
    "pandas": "tables",
    "seaborn": "figures",
    "matplotlib": "figures",
    "grad-cam": "class activation maps",
    "safetensors": "weight files",
    "joblib": "several trials at a time",
    "scikit-learn": "the handwritten digits",
    "scipy": "intervals",
    "jinja2": "the page of the report",
    "rich": "progress of trials",
    "timm": "timm/NAME as a network",
    "ray": "trials on a cluster",
    "captum": "comparing class activation maps in tests",
    "tensorboard": "following trials in TensorBoard",
    "onnx": "ONNX export",
    "onnxscript": "ONNX export",
    "onnxruntime": "running ONNX exports",
    "ptflops": "the benchmark of counting",
    "torchinfo": "the benchmark of counting",
    "torchcam": "the benchmark of class activation maps",
    "triton": "--backend compiled on a GPU; comes with CUDA builds of torch",
}
_NO_IMPORT = "cannot be imported"
_MODULES = {"grad-cam": "pytorch_grad_cam", "scikit-learn": "sklearn"}
_ROOM = Path(__file__).parents[1]
_PROJECT = _ROOM.parent / "pyproject.toml"
_REINSTALL = "pip install --force-reinstall torch torchvision, both for CPU or both for one CUDA"
# extras that are for working on ctxbench itself
OWN = ("test", "bench", "docs")


class Requirement(NamedTuple):
    """A package that ctxbench asks for: at least `least`, with `extra` or always (None)."""

    name: str
    least: str
    extra: str | None


def packages() -> Iterator[Finding]:
    """Yield a finding for Python, for ctxbench, and for each package, the optional ones last."""
    yield finding("ok", "python", platform.python_version(), sys.executable)
    yield finding("ok", "ctxbench", __version__, str(_ROOM))
    known = requirements()
    required = {each.name: each for each in known if each.extra is None}
    without_torch = False
    for requirement in required.values():
        found = check_required(requirement)
        if without_torch and found["note"].startswith(_NO_IMPORT):  # not theirs to repair
            found["note"] = f"{_NO_IMPORT} without torch, see there"
        without_torch |= requirement.name == "torch" and found["state"] == "wrong"
        yield found
    yield from vision()
    theirs_last = sorted(known, key=lambda each: each.extra not in OWN)  # and so theirs is told
    optional = {each.name: each for each in theirs_last if _is_told(each)}
    for name, requirement in (optional | {"triton": Requirement("triton", "", None)}).items():
        if name not in required:
            yield check_optional(requirement)


def requirements() -> list[Requirement]:
    """Return what the checkout that runs asks for, or the installed package."""
    if _PROJECT.is_file():
        project = tomllib.loads(_PROJECT.read_text())["project"]
        extras = project["optional-dependencies"]
        return [_parsed(text) for text in project["dependencies"]] + [
            _parsed(text, extra) for extra, texts in extras.items() for text in texts
        ]
    try:
        texts = metadata.requires("ctxbench") or []
    except metadata.PackageNotFoundError:
        texts = []
    found = (re.search(r"""extra == ["'](\w+)""", text) for text in texts)
    pairs = zip(texts, found, strict=True)
    return [_parsed(text, match[1] if match else None) for text, match in pairs]


def check_required(requirement: Requirement) -> Finding:
    """Tell whether a package that everything needs is there, can be imported, and is new enough."""
    name = requirement.name
    command = f"pip install '{name}{f'>={requirement.least}' if requirement.least else ''}'"
    version = _version(name)
    if version is None:
        return finding("wrong", name, "not installed", f"{command} ({PURPOSES.get(name, '')})")
    if requirement.least and _numbers(version) < _numbers(requirement.least):
        return finding("wrong", name, version, f"older than {requirement.least}: {command}")
    try:
        importlib.import_module(_MODULES.get(name, name.replace("-", "_")))
    except BROKEN as error:
        told = first_line(error).rstrip(".")
        return finding("wrong", name, version, f"{_NO_IMPORT}: {told}. {_way_out(name)}")
    return finding("ok", name, version, PURPOSES.get(name, ""))


def vision(version: Callable[[str], str | None] | None = None) -> Iterator[Finding]:
    """Yield what is wrong between torch and torchvision: other builds, or no binary operators."""
    version = version or _version
    torch, torchvision = version("torch"), version("torchvision")
    if torch is None or torchvision is None:
        return
    part = "torchvision with torch"
    both = f"{torchvision} with {torch}"
    build, other = (_build(each) for each in (torch, torchvision))
    wanted = _wanted_torch()
    if build and other and build != other:
        yield finding("wrong", part, both, f"builds for {other} and for {build}: {_REINSTALL}")
    elif wanted and _numbers(torch) != _numbers(wanted):
        yield finding("wrong", part, both, f"it was built for torch {wanted}: {_REINSTALL}")
    elif _imports("torch") and _imports("torchvision") and not _has_operators():
        yield finding(
            "wrong", part, both, f"its operator torchvision::nms is missing: {_REINSTALL}"
        )


def check_optional(requirement: Requirement) -> Finding:
    """Tell whether a package that something needs is there, what it is for, and how to get it."""
    name, _, extra = requirement
    purpose = PURPOSES.get(name, f"the extra {extra}")
    version = _version(name)
    if version is not None:
        return finding("ok", name, version, purpose)
    command = f": pip install 'ctxbench[{extra}]'" if extra else ""
    return finding("missing", name, "not installed", f"{purpose}{command}")


def _is_told(requirement: Requirement) -> bool:
    return requirement.extra not in OWN or requirement.name in PURPOSES


def _way_out(name: str) -> str:
    return _REINSTALL if name.startswith("torch") else f"pip install --force-reinstall {name}"


def _parsed(text: str, extra: str | None = None) -> Requirement:
    match = re.match(r"([\w.-]+)(?:\[[^]]*\])?\s*(?:>=\s*([\d.]+))?", text)
    if match is None:
        raise ValueError(f"{text!r} is no requirement")
    return Requirement(match[1], match[2] or "", extra)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _wanted_torch() -> str | None:
    """Return the only version of torch that the installed torchvision asks for."""
    for text in metadata.requires("torchvision") or []:
        match = re.fullmatch(r"torch\s*\(?==\s*([\d.]+)\)?", text)
        if match:
            return match[1]
    return None


def _numbers(version: str) -> tuple[int, ...]:
    """Return 2.11.0+cpu as (2, 11, 0), and 2.11 as that, too."""
    numbers = [int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3]]
    return tuple(numbers + [0] * (3 - len(numbers)))


def _build(version: str) -> str:
    """Return what a build is for, `cpu` or `cu126`; empty if its version does not say."""
    return version.partition("+")[2]


def _imports(name: str) -> bool:
    try:
        importlib.import_module(name)
    except BROKEN:
        return False
    return True


def _has_operators() -> bool:
    import torch

    return hasattr(torch.ops.torchvision, "nms")
