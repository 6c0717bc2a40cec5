"""The Triton kernels of ContMix against its plain formulation in float64."""

import pytest
import torch

from ctxbench.errors import BackendError
from ctxbench.kernels import use_backend
from ctxbench.kernels.contmix import _reference, _triton, mix
from ctxbench.ops import ContMixBlock
from tests.kernels.tools import gradients, mutant

NAMES = ("values", "affinity", "weight", "bias", "table")
ALL = [True] * 5


def _case(size, kernel_size, *, batch=2, groups=2, channels=3, regions=7, scale=1.0):
    """Return values, affinity, weight, bias and table in float64."""
    generator = torch.Generator().manual_seed(1)
    side = 2 * kernel_size - 1
    shapes = (
        (batch, groups, channels, *size),
        (batch, groups, regions, *size),
        (kernel_size**2, regions),
        (kernel_size**2,),
        (groups, side, side),
    )
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    drawn[2] *= scale / regions**0.5
    return drawn


def _upstream(values):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(values.shape, generator=generator, dtype=torch.float64)


def _expected(tensors, kernel_size):
    """Return output and gradients of the plain formulation, of the same numbers in float64."""
    leaves = [tensor.double().detach().requires_grad_() for tensor in tensors]
    kernels = _reference.make_kernels(*leaves[1:])
    y = _reference.aggregate(leaves[0], kernels, kernel_size)
    upstream = _upstream(leaves[0]).to(tensors[0].dtype).double()
    return y.detach(), torch.autograd.grad(y, leaves, upstream)


def _computed(module, tensors, kernel_size, upstream=None):
    """Return output and gradients of the kernels."""
    upstream = _upstream(tensors[0]).to(tensors[0]) if upstream is None else upstream
    out, lse = module.forward(*tensors, kernel_size)
    return out, module.backward(upstream, *tensors, out, lse, kernel_size, ALL)


def _compare(module, device, tensors, kernel_size, *, dtype=torch.float32, tolerance=1e-4):
    tensors = [tensor.to(device, dtype) for tensor in tensors]
    wanted, wanted_gradients = _expected(tensors, kernel_size)
    out, found = _computed(module, tensors, kernel_size)
    assert out.dtype == dtype
    near = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(out.double(), wanted, **near)
    for name, own, want in zip(NAMES, found, wanted_gradients, strict=True):
        assert own.dtype == dtype
        assert own.is_contiguous()
        torch.testing.assert_close(own.double(), want, **near, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    ("size", "kernel_size", "options"),
    [
        ((5, 5), 5, {"regions": 49}),
        ((7, 9), 5, {"regions": 49, "channels": 5}),
        ((7, 9), 3, {"batch": 1, "channels": 4}),
        ((6, 5), 3, {"groups": 1, "regions": 1, "channels": 1}),
        ((5, 7), 1, {}),
        ((8, 17), 7, {"batch": 1, "groups": 1, "channels": 17}),
    ],
)
def test_the_kernels_equal_the_plain_formulation(device, size, kernel_size, options):
    _compare(_triton, device, _case(size, kernel_size, **options), kernel_size)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_only(device, dtype):
    _compare(_triton, device, _case((7, 9), 3), 3, dtype=dtype, tolerance=0.05)


def test_types_may_differ(device):
    mixed = [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32, torch.float32]
    tensors = [t.to(device, d) for t, d in zip(_case((5, 6), 3), mixed, strict=True)]
    wanted, wanted_gradients = _expected(tensors, 3)
    out, found = _computed(_triton, tensors, 3)
    assert [tensor.dtype for tensor in (out, *found)] == [mixed[0], *mixed]
    for own, want in zip((out, *found), (wanted, *wanted_gradients), strict=True):
        torch.testing.assert_close(own.double(), want, rtol=0.05, atol=0.05)


def test_any_layout_gives_the_same_numbers(device):
    tensors = [tensor.to(device, torch.float32) for tensor in _case((5, 7), 3, channels=4)]
    values, affinity, weight, bias, table = tensors
    turned = (
        values.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3),
        affinity.repeat_interleave(2, dim=4)[..., ::2],
        weight.T.contiguous().T,
        bias.repeat(2)[:9],
        table.transpose(1, 2).contiguous().transpose(1, 2),
    )
    upstream = _upstream(values).to(values)
    columns_first = upstream.transpose(3, 4).contiguous().transpose(3, 4)
    out, found = _computed(_triton, turned, 3, columns_first)
    plain, plain_found = _computed(_triton, tensors, 3)
    for own, want in zip((out, *found), (plain, *plain_found), strict=True):
        torch.testing.assert_close(own, want, rtol=1e-5, atol=1e-5)
        assert own.stride() == want.stride()


def test_an_upstream_gradient_may_be_expanded(device):
    tensors = [tensor.to(device, torch.float32) for tensor in _case((5, 5), 3)]
    ones = torch.ones((), device=device)
    _, found = _computed(_triton, tensors, 3, ones.expand(tensors[0].shape))
    _, wanted = _computed(_triton, tensors, 3, ones.expand(tensors[0].shape).contiguous())
    torch.testing.assert_close(found, wanted)


def test_programs_share_the_tiles_of_a_group(device, monkeypatch):
    monkeypatch.setattr(_triton, "_MOST_PROGRAMS", 5)  # 2 for 8 tiles of each of the 2 groups
    _compare(_triton, device, _case((7, 9), 3), 3)


def test_large_logits_do_not_overflow(device):
    _compare(_triton, device, _case((5, 6), 3, scale=100.0), 3, tolerance=1e-3)


def test_the_logarithm_of_the_sum_is_returned(device):
    tensors = _case((5, 6), 3)
    _, affinity, weight, bias, table = tensors
    logits = torch.einsum("tl,bglhw->bgthw", weight, affinity) + bias[:, None, None]
    wanted = (logits + _reference.spread_bias(table, 5, 6)).logsumexp(2)
    _, lse = _triton.forward(*(tensor.to(device, torch.float32) for tensor in tensors), 3)
    assert lse.dtype == torch.float32
    torch.testing.assert_close(lse.double().cpu(), wanted, rtol=1e-5, atol=1e-5)


def test_an_empty_batch_passes(device):
    tensors = [tensor.to(device, torch.float32) for tensor in _case((5, 6), 3, batch=0)]
    out, found = _computed(_triton, tensors, 3)
    assert out.shape == (0, 2, 3, 5, 6)
    assert [gradient.shape for gradient in found] == [tensor.shape for tensor in tensors]
    assert not any(gradient.any() for gradient in found)


@pytest.mark.parametrize("wanted", range(5))
def test_what_is_not_needed_is_not_returned(device, wanted):
    tensors = [tensor.to(device, torch.float32) for tensor in _case((5, 5), 3, batch=1)]
    out, lse = _triton.forward(*tensors, 3)
    needs = [place == wanted for place in range(5)]
    upstream = _upstream(tensors[0]).to(tensors[0])
    found = _triton.backward(upstream, *tensors, out, lse, 3, needs)
    assert [gradient is not None for gradient in found] == needs
    want = _expected(tensors, 3)[1][wanted]
    torch.testing.assert_close(found[wanted].double(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 23}, "takes at most 256 taps; got 529. Use backend='torch'"),
        ({"regions": 65}, "takes at most 64 regions; got 65"),
        ({"channels": 129}, "takes at most 128 channels a group; got 129"),
    ],
)
def test_what_no_program_holds_is_one_line(options, message):
    kernel_size = options.pop("kernel_size", 3)
    drawn = _case((23, 23), kernel_size, batch=1, **options)
    tensors = [tensor.float() for tensor in drawn]
    with pytest.raises(BackendError, match=message):
        _triton.forward(*tensors, kernel_size)


# what is wrong -> the piece of the source, and what stands there instead
WRONG = {
    "a tap is dropped": ("mask=tap < K * K, other=-float", "mask=tap < K * K - 1, other=-float"),
    "windows are shifted": ("tl.maximum(position - K // 2,", "tl.maximum(position - K // 2 + 1,"),
    "another border": ("tl.maximum(position - K // 2, 0)", "tl.maximum(position - K // 2, 1)"),
    "no sum over samples": ("samples * tiles, programs", "tiles, programs"),
    "windows too wide": ("(dx >= 0) & (dx < K)", "(dx >= 0) & (dx <= K)"),
    "dy and dx of the taps": ("dy * K + dx, 0", "dx * K + dy, 0"),
    "dy and dx of the table": ("row * (2 * K - 1) + column", "column * (2 * K - 1) + row"),
    "a wrong entry": ("- y + K - 1)[None, :] + (tap // K)", "- y + K - 1)[None, :] + (tap % K)"),
    "one table for all": ("table += group * entries", "table += group * 0"),
    "groups and samples": ("item // groups, item % groups", "item % groups, item // groups"),
    "no sum of exponentials": ("kernel_TN / total[None, :]", "kernel_TN"),
    "no delta": ("d_kernel_TN - delta[None, :]", "d_kernel_TN"),
    "no mask of positions": (
        "mask=valid[:, None] & (c < channels)[None, :], other=0.0",
        "mask=(c < channels)[None, :], other=0.0",
    ),
    "pixels of other blocks": ("(pixel >= 0) & (pixel <", "(pixel <"),
    "programs overwrite": ("tl.program_id(0) * groups + group", "group"),
    "bias of one tile": ("d_bias_T += tl.sum", "d_bias_T = tl.sum"),
    "sign": ("d_logits = kernel_TN *", "d_logits = -kernel_TN *"),
}


def test_windows_that_leave_the_map_are_caught(device, tmp_path):
    if device != "cpu":
        pytest.skip("The interpreter is enough")
    clamped = "tl.minimum(tl.maximum(position - K // 2, 0), size - K)"
    made = mutant(_triton, clamped, "position - K // 2", tmp_path)
    tensors = [tensor.float() for tensor in _case((9, 9), 3)]
    # a map inside of a larger one, so that what is read beyond its border exists
    tensors[:2] = [tensor[..., 2:7, 2:7] for tensor in tensors[:2]]
    wanted, _ = _expected(tensors, 3)
    near = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(_triton.forward(*tensors, 3)[0].double(), wanted, **near)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(made.forward(*tensors, 3)[0].double(), wanted, **near)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the overflow
def test_logits_without_their_maximum_are_caught(device, tmp_path):
    made = mutant(_triton, "tl.max(logits, 0)", "tl.max(logits, 0) * 0", tmp_path)
    with pytest.raises(AssertionError):
        _compare(made, device, _case((5, 6), 3, scale=100.0), 3, tolerance=1e-3)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_kernel_is_caught(device, wrong, tmp_path, monkeypatch):
    if device != "cpu":
        pytest.skip("The interpreter is enough, and a GPU ends the process at a bad address")
    made = mutant(_triton, *WRONG[wrong], tmp_path)
    monkeypatch.setattr(made, "_MOST_PROGRAMS", 5)
    with pytest.raises(AssertionError):
        _compare(made, device, _case((7, 9), 5), 5)


def test_the_case_of_the_wrong_kernels_passes_with_the_right_one(device, monkeypatch):
    monkeypatch.setattr(_triton, "_MOST_PROGRAMS", 5)
    _compare(_triton, device, _case((7, 9), 5), 5)


def _mixed(tensors, backend):
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    y = mix(*leaves, kernel_size=3, backend=backend)
    return (y, *gradients(y, leaves))


def test_the_operator_computes_with_triton(device):
    tensors = [tensor.to(device, torch.float32) for tensor in _case((5, 6), 3)]
    found, wanted = _mixed(tensors, "triton"), _mixed(tensors, "reference")
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_block_computes_with_triton(device):
    torch.manual_seed(0)
    block = ContMixBlock(8, 7, small_kernel_size=3).to(device)
    x = torch.randn(2, 8, 7, 8, device=device, requires_grad=True)
    found = {}
    for backend in ("reference", "triton"):
        with use_backend(backend):
            y = block(x)
            leaves = [x, *block.block.mixer.contmix.parameters()]
            found[backend] = (y, *gradients(y, leaves))
    torch.testing.assert_close(found["triton"], found["reference"], rtol=1e-3, atol=1e-4)


def test_the_operator_is_described_as_it_computes(device):
    tensors = [tensor.to(device, torch.float32) for tensor in _case((5, 5), 3, batch=1)]
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(
        torch.ops.ctxbench.contmix.default, (*tensors, 3, "triton"), test_utils=checks
    )


def test_what_is_no_number_stays_visible(device):
    tensors = [tensor.to(device, torch.float32) for tensor in _case((5, 5), 3, batch=1)]
    tensors[0][0, 1, 2, 4, 4] = torch.nan
    out, _ = _triton.forward(*tensors, 3)
    assert out[0, 1, 2, 3:, 3:].isnan().all()
    assert out[0, 0].isfinite().all()
