"""The command line as a user meets it: output, exit codes, one line for a mistake."""

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace

import pytest

import ctxbench
from ctxbench.claims import PARITY, load_claims
from ctxbench.measure._flop_tables import RULES
from ctxbench.measure._values import macs
from ctxbench.ops import LAYERS
from ctxbench.records import read_rows


def test_flops_of_one_network(run, tmp_path):
    code, out, err = run("flops", "coresnet50")
    assert code == 0
    assert "coresnet50  1x3x224x224  25,557,032  4,089,184,256     8,178,368,512" in out
    assert err == ""
    (row,) = read_rows("costs", raw=tmp_path / "results/raw").rows
    assert (row["macs"], row["params"]) == (4_089_184_256, 25_557_032)


def test_flops_against_a_baseline_layer_by_layer(run, tmp_path):
    words = ("flops", "coresnet_tiny", "--against", "resnet_tiny", "--per-layer")
    code, out, err = run(*words, "--format", "csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {row["equal"] for row in rows} == {"True"}
    assert "coresnet_tiny costs what resnet_tiny does, in each of 35 layers." in err
    assert len(read_rows("layers", raw=tmp_path / "results/raw").rows) == 35


def test_flops_says_where_two_networks_differ(run):
    _, out, err = run(
        "flops", "resnet_tiny", "--against", "resnet_tiny:num_classes=7", "--per-layer"
    )
    assert "resnet_tiny differs from resnet_tiny:num_classes=7 in 1 of 35 layers." in err
    assert [line.split()[1] for line in out.splitlines() if line.endswith("no")] == ["fc"]


TINY_RESNETS = ["cgc_resnet_tiny", "coresnet_tiny", "ctx_resnet_tiny", "resnet_tiny"]


def test_flops_takes_patterns_sizes_batches_and_conventions(run):
    code, out, _ = run(
        "flops", "*resnet_tiny", "--image-size", "24x40", "--batch", "2",
        "--convention", "fvcore", "--cross-check", "--format", "json",
    )  # fmt: skip
    assert code == 0
    rows = json.loads(out)
    assert [row["model"] for row in rows] == TINY_RESNETS
    plain = rows[-1]
    assert plain["input_shape"] == [2, 3, 24, 40]
    assert plain["flops"] == 2 * plain["macs"]
    assert plain["torch_macs"] == plain["comparable_macs"] == plain["macs"]
    assert plain["conventions"]["fvcore"] > plain["macs"]


UNCOUNTED = """
import torch
class Net(torch.nn.Module):
    def forward(self, x): return torch.fft.fft(x).real + self.conv(x)
    def __init__(self): super().__init__(); self.conv = torch.nn.Conv2d(3, 3, 1)
"""


def test_an_operation_without_a_rule_is_an_error_or_a_loud_note(run, tmp_path):
    (tmp_path / "nets.py").write_text(UNCOUNTED)
    code, out, err = run("flops", "nets.py:Net")
    assert (code, out) == (2, "")
    assert err.startswith("ctxbench: No counting rule for aten::fft_fft in the network itself")
    code, out, err = run("flops", "nets.py:Net", "--allow-uncounted", "--quiet")
    assert code == 0
    assert "NOT COUNTED" in out.splitlines()[0]
    assert "451,584" in out  # 224 * 224 * 3 * 3
    assert "NOT COUNTED in nets.py:Net: aten::fft_fft" in err


def test_a_disagreement_with_torchs_counter_is_shown(run, monkeypatch):
    wrong = lambda inputs, outputs: macs("conv", 1)  # noqa: E731
    monkeypatch.setitem(RULES, "aten::_convolution", wrong)
    code, _, err = run("flops", "resnet_tiny", "--cross-check", "--image-size", "23")
    assert code == 0
    assert err.startswith("DISAGREEMENT on resnet_tiny: torch's counter finds ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("flops", "coresnet5O"), "Unknown network 'coresnet5O'. Did you mean 'coresnet50'?"),
        (("flops", "resnet50:level=3"), "Unknown option of resnet50 'level'"),
        (("flops", "resnet50", "--against", "resnet"), "Unknown network 'resnet'."),
        (("flops", "resnet50", "--image-size", "big"), "--image-size 'big' is no size."),
        (("flops", "resnet50", "--image-size", "0"), "--image-size '0' is no size."),
        (("flops", "resnet50", "--convention", "gflops"), "Unknown convention 'gflops'."),
        (("flops", "resnet18", "--per-layer", "--convention", "fvcore"), "counts whole networks"),
        (("flops", "progan128", "--image-size", "64"), "progan128: the generator makes images of"),
        (("flops", "resnet18", "--image-size", "9999999"), "cannot run on inputs"),
        (("flops", "torchvision/resnet18:weights=DEFAULT"), "weights= would download weights"),
        (("flops", "timm/resnet18:pretrained=true"), "pretrained= would download weights"),
        (("flops", "x*"), "Unknown network 'x*'."),
        (("flops", "op/cocnv"), "Unknown operator 'cocnv'. Did you mean 'coconv'?"),
        (("flops", "op/X*"), "Unknown operator 'op/X*'."),  # no operator has a capital letter
        (("flops", "op/coconv:replace=cgc"), "op/coconv is one operator, with no network"),
        (("flops", "op/coconv:channels=-1"), "op/coconv: CoConv2d needs channels"),
        (("flops", "ssd300_resnet50", "--image-size", "32"), "cannot run on inputs (1, 3, 32, 32)"),
        (("claims", "--paper", "cocnv"), "Unknown paper 'cocnv'. Did you mean 'coconv'?"),
        (("claims", "--verdict", "differ"), "Unknown verdict 'differ'. Did you mean 'differs'?"),
        (("models", "x*"), "Unknown operator or network 'x*'."),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, words, message):
    code, out, err = run(*words)
    assert code == 2
    assert out == ""
    assert err.startswith("ctxbench: ")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "words", [("flops",), ("flop", "x"), ("flops", "resnet50", "--batch", "0")]
)
def test_wrong_usage_is_exit_code_2(run, words):
    assert run(*words)[0] == 2


def test_models_lists_what_is_registered(run):
    assert "levels=4,3,2,1" in run("models", "coresnet50", "--long")[1]
    assert "operator  op/coconv" in run("models")[1]
    code, out, _ = run("models", "coresnet*", "--format", "json")
    assert code == 0
    rows = {row["model"]: row for row in json.loads(out)}
    assert rows["coresnet50"]["params"] == 25_557_032
    assert rows["coresnet50"]["baseline"] == "resnet50"
    assert "levels=4,3,2,1" in rows["coresnet50"]["options"]


def test_models_lists_operators_by_what_can_be_typed(run):
    _, out, _ = run("models", "op/co*", "--format", "json")
    rows = {row["model"]: row for row in json.loads(out)}
    assert list(rows) == [f"op/{name}" for name in LAYERS if name.startswith("co")]
    row = rows["op/coconv"]
    assert (row["params"], row["image_px"], row["baseline"]) == (36_928, 56, "op/conv")
    assert row["options"].startswith("channels=64 out_channels=none kernel=3 levels=4")
    assert run("flops", *rows, "--image-size", "20")[0] == 0


def test_flops_of_an_operator_and_of_the_convolution_it_stands_for(run):
    spec = "op/coconv:channels=64:levels=4"
    words = ("--against", "op/conv:channels=64", "--image-size", "56", "--format", "json")
    code, out, _ = run("flops", spec, *words)
    assert code == 0
    (row,) = json.loads(out)
    assert row["macs"] == 9 * 64 * 64 * 56 * 56
    assert (row["macs_difference"], row["params_difference"]) == (0, 0)


def test_flops_of_every_operator_agrees_with_torchs_counter(run):
    code, out, err = run("flops", "op/*", "--cross-check", "--image-size", "18", "--format", "csv")
    assert (code, "DISAGREEMENT" in err) == (0, False)
    names = [line.split(",")[0] for line in out.splitlines()[1:]]
    assert names == sorted(f"op/{name}" for name in LAYERS)


@pytest.mark.parametrize("command", ["models", "flops", "claims", "report"])
def test_every_command_has_help_with_an_example(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "Example: ctxbench " + command in out


def test_version(run):
    assert run("--version")[1].strip() == f"ctxbench {ctxbench.__version__}"


def test_the_console_script_is_installed():
    program = [sys.executable, "-c", "from ctxbench.cli import main; main()", "--help"]
    out = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    assert "flops" in out


def test_a_bug_keeps_its_traceback_and_is_no_verdict(run, monkeypatch):
    monkeypatch.setattr("ctxbench.models.listing.listing", lambda pattern: 1 / 0)
    code, _, err = run("models")
    assert code == 70
    assert "ZeroDivisionError" in err


def test_a_pattern_keeps_its_options(run):
    _, out, _ = run("flops", "*resnet_tiny:width=8", "--format", "csv")
    names = [line.split(",")[0] for line in out.splitlines()[1:]]
    assert names == [f"{name}:width=8" for name in TINY_RESNETS]


def test_the_command_in_a_row_can_be_run_again(run, tmp_path):
    run("flops", "*resnet_tiny", "--quiet")
    (row, *_) = read_rows("costs", raw=tmp_path / "results/raw").rows
    assert row["stamp"]["command"] == "ctxbench flops '*resnet_tiny' --quiet"


def test_claims_fail_when_parity_does(run, monkeypatch):
    claim = next(c for c in load_claims() if c.metric == PARITY and c.model == "coresnet50")
    wrong = replace(claim, model="coresnet_tiny:num_classes=9", published="resnet_tiny")
    monkeypatch.setattr("ctxbench.claims.load_claims", lambda paper: [wrong])
    code, out, err = run("claims")
    assert code == 1
    assert "refuted" in out
    assert err == "1 refuted\n"
