"""DilatedReparam and RepConvBlock against their definitions, trained form against folded."""

import pytest
import torch
from torch import nn

import ctxbench
from ctxbench.ops import DilatedReparam, RepConvBlock
from ctxbench.ops._parts import drop_path
from ctxbench.ops.reparam import BRANCHES, fold_state
from tests.conformance import vectors
from tests.reference.dilated_reparam import dilated_reparam
from tests.reference.repconv import repconv

SIZES = [(9, 9), (7, 11), (2, 3)]


def drawn(op):
    """Return the operator in float64 and eval mode, with every entry drawn anew."""
    torch.manual_seed(0)
    for key, value in op.double().eval().state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point():
            value.normal_(std=0.5)
    return op


def assert_same(actual, expected, leaves):
    """Compare values and the gradients of every leaf."""
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-11)
    upstream = torch.randn_like(actual)
    ours, theirs = (torch.autograd.grad(y, leaves, upstream) for y in (actual, expected))
    for one, other in zip(ours, theirs, strict=True):
        atol = 1e-11 * max(1.0, float(other.abs().max()))
        torch.testing.assert_close(one, other, rtol=1e-10, atol=atol)


def entries(op):
    """Return every entry by name, parameters live."""
    return {**dict(op.named_buffers()), **dict(op.named_parameters())}


def _branches(op):
    for name, (conv, norm) in op.branches.items():
        rate = 1 if name == "large" else int(name.split("_")[1])
        yield conv.weight, rate, (norm.weight, norm.bias, norm.running_mean, norm.running_var)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel_size", BRANCHES)
def test_equals_its_definition(kernel_size, size):
    op = drawn(DilatedReparam(3, kernel_size))
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    expected = dilated_reparam(x, list(_branches(op)))
    assert_same(op(x), expected, [x, *op.parameters()])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scaled", [True, False])
def test_the_block_equals_its_definition(scaled, size):
    op = drawn(RepConvBlock(4, 7, ratio=2, scaled=scaled))
    x = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    assert_same(op(x), repconv(x, entries(op)), [x, *op.parameters()])


@pytest.mark.parametrize("kernel_size", BRANCHES)
def test_folding_keeps_the_function(kernel_size):
    op = drawn(DilatedReparam(3, kernel_size))
    x = torch.randn(2, 3, 20, 23, dtype=torch.float64)
    before = op(x)
    op.fold()
    assert set(op.state_dict()) == {"conv.weight", "conv.bias"}
    torch.testing.assert_close(op(x), before, rtol=1e-10, atol=1e-10)
    op.fold()
    torch.testing.assert_close(op(x), before, rtol=1e-10, atol=1e-10)


def test_branches_of_ones_own_fold():
    op = drawn(DilatedReparam(2, 9, branches=[(3, 4), (1, 1)]))
    x = torch.randn(1, 2, 12, 10, dtype=torch.float64)
    before = op(x)
    op.fold()
    torch.testing.assert_close(op(x), before, rtol=1e-10, atol=1e-10)


def test_folded_weights_are_those_of_the_trained_entries():
    trained = nn.Sequential(drawn(DilatedReparam(3, 13)), drawn(RepConvBlock(3, 7)))
    folded = nn.Sequential(DilatedReparam(3, 13, folded=True), RepConvBlock(3, 7, folded=True))
    folded.double().eval().load_state_dict(fold_state(trained.state_dict(), folded))
    x = torch.randn(2, 3, 14, 15, dtype=torch.float64)
    torch.testing.assert_close(folded(x), trained(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("branches.3_2.1.running_var"), "3_2.1.running_var is missing in"),
        (lambda state: state.pop("branches.5_1.0.weight"), "5_1.0.weight is missing in the file"),
        (
            lambda state: state.update({"branches.x.0.weight": torch.zeros(1)}),
            "x.0.weight is .1,. ",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_not_folded(change, message):
    state = DilatedReparam(3, 7).state_dict()
    change(state)
    with pytest.raises(ValueError, match=message):
        fold_state(state, DilatedReparam(3, 7, folded=True))


def test_folding_keeps_what_is_frozen_and_the_mode():
    op = DilatedReparam(3, 7).eval().requires_grad_(requires_grad=False)
    op.fold()
    assert not op.conv.training
    assert not any(p.requires_grad for p in op.parameters())


@pytest.mark.parametrize(("kernel_size", "taps"), [(7, 49 + 25 + 3 * 9), (13, 169 + 123 + 27)])
@pytest.mark.parametrize("scaled", [True, False])
def test_costs_what_it_says(kernel_size, taps, scaled):
    c, h, w = 8, 10, 14
    x = torch.zeros(1, c, h, w)
    hidden = 4 * c
    rest = h * w * (c * 9 + hidden * (2 * c + 9)) + 2 * c * 16
    for folded, large in ((False, taps), (True, kernel_size**2)):
        alone = DilatedReparam(c, kernel_size, folded=folded)
        block = RepConvBlock(c, kernel_size, scaled=scaled, folded=folded)
        assert ctxbench.count(alone, x).macs == large * c * h * w
        assert ctxbench.count(block, x).macs == large * c * h * w + rest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 9}, "kernel sizes 7, 13, 15, 17; got kernel_size=9. Give branches="),
        ({"kernel_size": 8, "branches": []}, "odd kernel; got kernel_size=8"),
        ({"kernel_size": 7, "branches": [(4, 1)]}, r"odd branches .* \(\(4, 1\),\)"),
        ({"kernel_size": 7, "branches": [(3, 4)]}, "inside an odd kernel; got kernel_size=7"),
        ({"kernel_size": 7, "branches": [(3, 0)]}, "inside an odd kernel; got kernel_size=7"),
        ({"kernel_size": 7, "branches": [(3, 1), (3, 1)]}, "every branch once"),
    ],
)
def test_a_mistake_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        DilatedReparam(4, **arguments)


def test_drop_path_drops_whole_images_in_training_alone():
    torch.manual_seed(0)
    x = torch.ones(64, 2, 3, 3)
    dropped = drop_path(0.5).train()(x)
    assert {float(image.amin()) for image in dropped} == {0.0, 2.0}
    assert torch.equal(drop_path(0.5).eval()(x), x)


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("dilated_reparam_k13", lambda folded: DilatedReparam(16, 13, folded=folded)),
        ("repconv_block", lambda folded: RepConvBlock(16, 7, scaled=True, folded=folded)),
    ],
)
@pytest.mark.parametrize("folded", [False, True])
def test_equals_the_authors_code(name, build, folded, tmp_path):
    _, state, (x,), expected = vectors.load(name)
    op = build(folded).double().eval()
    torch.save(state, tmp_path / "authors.pth")
    ctxbench.load_checkpoint(op, tmp_path / "authors.pth")
    assert vectors.relative_error(op(x), expected["output"]) < 1e-9


def test_the_authors_folded_weights_load(tmp_path):
    op = DilatedReparam(4, 7, folded=True)
    theirs = {"lk_origin.weight": torch.randn(4, 1, 7, 7), "lk_origin.bias": torch.randn(4)}
    torch.save(theirs, tmp_path / "authors.pth")
    ctxbench.load_checkpoint(op, tmp_path / "authors.pth")
    assert torch.equal(op.conv.weight, theirs["lk_origin.weight"])
    assert torch.equal(op.conv.bias, theirs["lk_origin.bias"])
