"""The grammar of spec strings, and foreign networks."""

from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ctxbench import create_model
from ctxbench.errors import MissingPackageError, SpecError, UnknownNameError
from ctxbench.models import resolve
from ctxbench.spec import bind, defaults_of, options_of, split_spec


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("resnet50", ("resnet50", {})),
        ("a:b=1,2:c=x", ("a", {"b": "1,2", "c": "x"})),
        (" a : b = 1 ", ("a", {"b": "1"})),
        ("torchvision/resnet18:num_classes=3", ("torchvision/resnet18", {"num_classes": "3"})),
        ("dir/nets.py:build:width=8", ("dir/nets.py:build", {"width": "8"})),
    ],
)
def test_splits(spec, expected):
    assert split_spec(spec) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "has no network name"),
        (":a=1", "has no network name"),
        ("net:a=", "'a=' is not of the form key=value"),
        ("net:a=1:b", "'b' is not of the form key=value"),
        ("net:a", "'a' is not of the form key=value"),
        ("net:=1", "'=1' is not of the form"),
        ("net:a=1:a=2", "gives 'a' twice"),
    ],
)
def test_a_spec_that_cannot_be_read_is_named(spec, message):
    with pytest.raises(SpecError, match=message):
        split_spec(spec)


_word = st.text("abcxyz_09", min_size=1, max_size=8)


@given(_word, st.dictionaries(_word, st.lists(_word, min_size=1, max_size=4).map(",".join)))
def test_what_is_written_is_read(name, options):
    spec = ":".join([name, *(f"{key}={value}" for key, value in options.items())])
    assert split_spec(spec) == (name, options)


@dataclass(frozen=True)
class _Config:
    width: int = 8
    sides: tuple[int, ...] = (1, 2)
    ratio: float | None = None


def _build(config: _Config, *, mode: Literal["fast", 3] = "fast", on: bool = False, part=None):
    return config, mode, on, part


_build.__annotations__["part"] = nn.Module


def test_options_are_the_fields_and_the_plain_keywords():
    assert list(options_of(_build)) == ["width", "sides", "ratio", "mode", "on"]
    assert defaults_of(_build) == {
        "width": 8, "sides": (1, 2), "ratio": None, "mode": "fast", "on": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({}, (_Config(), "fast", False, None)),
        ({"width": "3", "sides": "4,5,6"}, (_Config(3, (4, 5, 6)), "fast", False, None)),
        ({"ratio": "0.5", "mode": "3", "on": "True"}, (_Config(ratio=0.5), 3, True, None)),
        ({"ratio": "none", "sides": (7,)}, (_Config(sides=(7,)), "fast", False, None)),
    ],
)
def test_binds_text_to_types(given_, expected):
    assert bind("net", _build, given_)() == expected


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"width": "99999999999999999999"}, "width=9+ is not a whole number"),
        ({"width": "1_0"}, "width=1_0 is not a whole number"),
        ({"width": "2.5"}, "width=2.5 is not a whole number"),
        ({"sides": "1,,2"}, "sides=1,,2 is not a comma-separated list, each a whole number"),
        ({"ratio": "x"}, "ratio=x is not a number or none"),
        ({"mode": "slow"}, "mode=slow is not fast or 3"),
        ({"on": "1"}, "on=1 is not true or false"),
    ],
)
def test_a_value_that_does_not_fit_is_named(given_, message):
    with pytest.raises(SpecError, match=message):
        bind("net", _build, given_)


def test_a_part_is_no_option():
    with pytest.raises(UnknownNameError, match=r"option of net 'part'"):
        bind("net", _build, {"part": "x"})


def test_torchvision_networks():
    assert create_model("torchvision/resnet18:num_classes=3").fc.out_features == 3
    with pytest.raises(UnknownNameError, match="torchvision network 'resnet19'. Did you mean"):
        create_model("torchvision/resnet19")
    with pytest.raises(SpecError, match="torchvision/resnet18 cannot be built with {'depth': 3}"):
        create_model("torchvision/resnet18:depth=3")


def test_timm_networks():
    pytest.importorskip("timm", reason="timm is an optional extra")
    model = create_model("timm/resnet18:num_classes=5:in_chans=1")
    assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 5)
    with pytest.raises(UnknownNameError, match="timm network 'resnet5O'"):
        create_model("timm/resnet5O")


def test_timm_absent(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(MissingPackageError, match=r"needs 'timm'.*ctxbench\[timm\]"):
        create_model("timm/resnet18")


@pytest.fixture
def nets(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(
        "from torch import nn\n"
        "def small(width=4):\n    return nn.Conv2d(3, width, 3)\n"
        "def wrong():\n    return 3\n"
    )
    return path


def test_a_function_in_a_file(nets):
    assert create_model(f"{nets}:small:width=7").out_channels == 7


@pytest.mark.parametrize(
    ("tail", "error", "message"),
    [
        (":smal", UnknownNameError, "'smal'. Did you mean 'small'"),
        (":wrong", SpecError, "returned int, not a torch.nn.Module"),
        (":small:depth=3", SpecError, "cannot be built with"),
        ("", SpecError, "names no function"),
    ],
)
def test_a_function_that_cannot_be_used_is_named(nets, tail, error, message):
    with pytest.raises(error, match=message):
        create_model(f"{nets}{tail}")


def test_a_file_that_is_absent_is_named():
    with pytest.raises(SpecError, match="there is no file 'absent.py'"):
        create_model("absent.py:build")


def test_a_file_runs_as_a_program_would(tmp_path, capsys):
    (tmp_path / "helper.py").write_text("WIDTH = 5\n")
    (tmp_path / "own.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "import helper, torch\n"
        "print('noise')\n"
        "@dataclass\nclass Config:\n    width: int = helper.WIDTH\n"
        "def build():\n    print('more noise')\n    return torch.nn.Conv2d(3, Config().width, 1)\n"
    )
    assert create_model(f"{tmp_path}/own.py:build").out_channels == 5
    assert capsys.readouterr().out == ""  # standard output is for data


@pytest.mark.parametrize("text", ["def f(:", "import absent_package"])
def test_a_file_that_cannot_run_is_named(text, tmp_path):
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(SpecError, match=r"broken.py cannot be run: "):
        create_model(f"{tmp_path}/broken.py:f")


def test_an_error_inside_somebodys_function_is_theirs(tmp_path):
    (tmp_path / "own.py").write_text("def build(width):\n    return 'a' + width\n")
    with pytest.raises(TypeError, match="concatenate"):
        create_model(f"{tmp_path}/own.py:build:width=3")


@pytest.mark.parametrize("name", ["fcn_resnet50", "ssdlite320_mobilenet_v3_large"])
def test_nothing_is_downloaded(name):
    assert create_model(f"torchvision/{name}:num_classes=2") is not None


def test_a_foreign_network_has_its_own_size():
    assert resolve("torchvision/inception_v3").image_px == 299
    assert resolve("torchvision/resnet18").image_px == 224
