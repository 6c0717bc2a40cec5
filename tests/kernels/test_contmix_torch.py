"""ContMix on the torch backend: against its definition, in every precision, and its memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from ctxbench.kernels.contmix import _shifts, _tiles, _torch, mix
from ctxbench.ops import ContMixBlock
from tests.kernels.tools import gradients, mutant
from tests.reference.contmix import _bias
from tests.reference.contmix import mix as by_windows

REGIONS = 5


def by_definition(values, affinity, weight, bias, table, *, kernel_size):
    """Return what the logits of each position, one by one, make of its window."""
    height, width = values.shape[-2:]
    weights = values.new_zeros(*values.shape[:2], kernel_size**2, height, width)
    for row in range(height):
        for column in range(width):
            logits = torch.einsum("bgl,tl->bgt", affinity[..., row, column], weight) + bias
            beside = [_bias(entries, row, column, height, width) for entries in table]
            weights[..., row, column] = (logits + torch.stack(beside)).softmax(2)
    return by_windows(values.flatten(1, 2), weights).reshape(values.shape)


def drawn(batch, groups, channels, size, kernel_size, dtype=torch.float64):
    """Return the inputs of the operator; a drawn table tells its entries from each other."""
    generator = torch.Generator().manual_seed(0)
    shapes = (
        (batch, groups, channels, *size), (batch, groups, REGIONS, *size),
        (kernel_size**2, REGIONS), (kernel_size**2,), (groups, *[2 * kernel_size - 1] * 2),
    )  # fmt: skip
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [x.to(dtype).requires_grad_() for x in made]


def compare(module, inputs, kernel_size):
    """Compare values and all gradients of a module with the definition."""
    expected = by_definition(*inputs, kernel_size=kernel_size)
    upstream = torch.randn_like(expected)
    with torch.no_grad():
        out, lse = module.forward(*inputs, kernel_size)
        grads = module.backward(upstream, *inputs, out, lse, kernel_size, [True] * 5)
    close = {"rtol": 1e-10, "atol": 1e-11}
    torch.testing.assert_close(out, expected.detach(), **close)
    wanted = torch.autograd.grad(expected, inputs, upstream)
    for actual, gradient in zip(grads, wanted, strict=True):
        torch.testing.assert_close(actual, gradient, **close)


# the middle of a map, borders alone, and a map as large as the window; tiles in both axes
SHAPES = [((9, 8), 3), ((7, 11), 5), ((5, 5), 5), ((6, 7), 5), ((3, 33), 3), ((4, 3), 1)]


both = pytest.mark.parametrize("module", [_tiles, _shifts], ids=["tiles", "shifts"])


@both
@pytest.mark.parametrize(("size", "kernel_size"), SHAPES)
def test_equals_the_definition(size, kernel_size, module):
    compare(module, drawn(2, 2, 3, size, kernel_size), kernel_size)


@pytest.mark.parametrize(
    ("size", "kernel_size", "module"),
    [((9, 9), 5, _shifts), ((28, 21), 7, _shifts), ((28, 20), 7, _tiles), ((28, 28), 9, _tiles)],
)
def test_small_windows_are_shifted(size, kernel_size, module):
    assert _torch._formulation(torch.empty(1, 1, 1, *size), kernel_size) is module


@both
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(0, 6), st.integers(0, 6),
    st.sampled_from([1, 3, 5]),
)  # fmt: skip
def test_equals_the_definition_at_any_shape(
    module, batch, groups, channels, rows, columns, kernel_size
):
    size = (kernel_size + rows, kernel_size + columns)
    compare(module, drawn(batch, groups, channels, size, kernel_size), kernel_size)


@pytest.mark.parametrize("numbers", [1, 300, 1500])
def test_any_share_of_samples_and_groups_makes_the_same_tiles(numbers, monkeypatch):
    monkeypatch.setattr(_tiles, "_DENSE", numbers)
    monkeypatch.setattr(_tiles, "_COLUMNS", 3)
    compare(_tiles, drawn(3, 2, 3, (6, 8), 3), 3)


@pytest.mark.parametrize("numbers", [1, 1500, 3000])
def test_any_share_of_samples_and_groups_can_be_shifted_at_once(numbers, monkeypatch):
    monkeypatch.setattr(_shifts, "_WEIGHTS", numbers)
    compare(_shifts, drawn(3, 2, 3, (6, 8), 3), 3)


def _wrong(module, pairs):
    return [pytest.param(module, *pair, id=name) for name, pair in pairs.items()]


TILES = {
    "a tap is dropped": ("range(size)] for entry", "range(size - 1)] + [0] for entry"),
    "the window is shifted by one": ("max(position - kernel_size // 2, 0)",
                                     "max(position - kernel_size // 2 - 1, 0)"),
    "no shift at the border": ("+ column.first\n", "\n"),
    "a border moves as the middle does": ("min(1, far - near)", "max(1, far - near)"),
    "another entry of the table": ("- position + kernel_size - 1", "- position + kernel_size - 2"),
    "no normalisation": ("torch.div(mixed_BCM.view(mixed.shape), sums_BM.view(lse.shape), out",
                         "torch.mul(mixed_BCM.view(mixed.shape), 1, out"),
    "the sum is forgotten in backward": (".sub_(inner_BM1)", ""),
    "the softmax is not differentiated": (".mul_(weights_BMT)", ""),
    "zeros of another tile": ("dense_BMN.zero_()", "pass"),
    "keys are overwritten": ("keys += self._work.multiply", "keys[:] = self._work.multiply"),
    "equal entries count once": ("rows.index(entry) + rows.count(entry)", "rows.index(entry) + 1"),
}  # fmt: skip


SHIFTS = {
    "a tap is dropped": ("enumerate(weights_BTP.unbind(1)):\n            mixed",
                         "enumerate(weights_BTP[:, 1:].unbind(1), 1):\n            mixed"),
    "rows and columns of taps swapped": ("row, column = divmod", "column, row = divmod"),
    "the window is shifted by one": ("row * self._line + column,", "row * self._line,"),
    "no order is turned at a border": ("begin(i, side, self.kernel_size)) %",
                                       "begin(i, side, self.kernel_size)) * 0 %"),
    "turned the other way": ("lines.roll(-turn, 2)", "lines.roll(turn, 2)"),
    "not turned back": ("lines.roll(turn, 1)", "lines"),
    "another value goes on": ("x[..., size - reach : size]", "x[..., :reach]"),
    "what goes on gets no gradient": ("rows[..., size : size + reach] += rows[..., :reach]",
                                      "pass"),
    "no normalisation": ("torch.div(mixed, sums.unsqueeze(1), out",
                         "torch.mul(mixed, 1, out"),
    "the sum is forgotten in backward": ("sum(2).neg_()", "sum(2).mul_(0)"),
    "the softmax is not differentiated": (".mul_(weights_BTP)", ""),
    "gradients of another part": (".zero_()\n        for tap", "\n        for tap"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("module", "right", "wrong"), _wrong(_tiles, TILES) + _wrong(_shifts, SHIFTS)
)
def test_a_wrong_copy_is_caught(module, right, wrong, tmp_path):
    wrong = mutant(module, right, wrong, tmp_path)
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        compare(wrong, drawn(2, 2, 3, (9, 8), 3), 3)


def test_gradients_equal_differences():
    inputs = drawn(1, 2, 2, (4, 5), 3)
    assert torch.autograd.gradcheck(
        lambda *x: mix(*x, kernel_size=3, backend="torch"), inputs, fast_mode=True
    )


def _both(inputs, kernel_size=3):
    """Return outputs and gradients of both backends."""
    made = [mix(*inputs, kernel_size=kernel_size, backend=b) for b in ("torch", "reference")]
    return made, [gradients(y, inputs) for y in made]


def test_equals_the_reference_backend_with_other_strides():
    values, affinity, *rest = drawn(2, 2, 4, (8, 9), 3)
    last = values.flatten(1, 2).to(memory_format=torch.channels_last).unflatten(1, (2, 4))
    turned = affinity.mT.contiguous().mT
    outputs, grads = _both([last, turned, *rest])
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)]
)
def test_other_precisions_come_close(dtype, tolerance):
    inputs = drawn(2, 2, 4, (8, 9), 3, dtype)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    actual, expected = (mix(*x, kernel_size=3, backend="torch") for x in (inputs, exact))
    assert actual.dtype == dtype
    pairs = zip(gradients(actual, inputs), gradients(expected, exact), strict=True)
    for made, wanted in [(actual, expected), *pairs]:
        assert made.dtype == dtype
        error = (made.double() - wanted).abs().max() / wanted.abs().max()
        assert error < tolerance


def test_mixed_precisions_of_autocast_keep_those_of_the_values():
    values, affinity, *rest = drawn(2, 2, 4, (8, 9), 3, torch.float32)
    half = [values.bfloat16().detach().requires_grad_(), affinity.bfloat16()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = mix(*half, *rest, kernel_size=3, backend="torch")
    exact = mix(*(x.double() for x in (*half, *rest)), kernel_size=3, backend="torch")
    torch.testing.assert_close(actual, exact.bfloat16(), rtol=1e-2, atol=1e-3)
    assert [g.dtype for g in gradients(actual, [half[0], *rest])] == [
        torch.bfloat16, *[torch.float32] * 3
    ]  # fmt: skip


@pytest.mark.parametrize("wanted", range(5))
def test_gradients_can_be_asked_for_one_by_one(wanted):
    inputs = drawn(2, 2, 3, (5, 6), 3)
    y = mix(*inputs, kernel_size=3, backend="torch")
    expected = gradients(y, inputs)[wanted]
    alone = [x.detach().requires_grad_(i == wanted) for i, x in enumerate(inputs)]
    y = mix(*alone, kernel_size=3, backend="torch")
    torch.testing.assert_close(gradients(y, [alone[wanted]])[0], expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("module", [_tiles, _shifts])
def test_memory_that_is_used_again_carries_nothing_over(module):
    values, *rest = drawn(3, 1, 2, (5, 6), 3)
    with torch.no_grad():
        values[0] = torch.nan
        out, lse = module.forward(values, *rest, 3)
        grads = module.backward(out.nan_to_num(), values, *rest, out, lse, 3, [True] * 5)
    assert not out[1:].isnan().any()
    assert not grads[0][1:].isnan().any()


def test_works_on_no_device():
    block = ContMixBlock(8, 7, backend="torch").to("meta")
    x = torch.randn(2, 8, 9, 9, device="meta")
    assert block(x).shape == x.shape


def test_an_empty_batch_has_gradients():
    inputs = drawn(0, 2, 3, (5, 6), 3)
    y = mix(*inputs, kernel_size=3, backend="torch")
    assert y.shape == (0, 2, 3, 5, 6)
    assert [g.abs().sum().item() for g in gradients(y, inputs)] == [0] * 5


def test_what_is_no_number_stays_none():
    inputs = drawn(1, 1, 2, (5, 5), 3)
    with torch.no_grad():
        inputs[0][..., 2, 2] = torch.nan
    y = mix(*inputs, kernel_size=3, backend="torch")
    assert y[..., 1:4, 1:4].isnan().all()


def test_large_logits_do_not_overflow():
    values, affinity, *rest = drawn(1, 2, 3, (6, 6), 3)
    outputs, grads = _both([values, (affinity.detach() * 1e4).requires_grad_(), *rest])
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*grads)


def test_compiles_without_a_break():
    inputs = drawn(2, 2, 3, (5, 6), 3)

    def run(*x):
        return mix(*x, kernel_size=3, backend="torch").square()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    outputs = [compiled(*inputs), run(*inputs)]
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(*(gradients(y, inputs) for y in outputs), rtol=1e-12, atol=1e-13)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck itself reads it
def test_the_operator_is_registered_in_full():
    inputs = drawn(2, 2, 3, (5, 6), 3)
    torch.library.opcheck(torch.ops.ctxbench.contmix.default, (*inputs, 3, "torch"))


def test_a_map_smaller_than_the_window_is_named():
    with pytest.raises(ValueError, match="a map of 2x6 and kernel_size=3"):
        mix(*drawn(1, 1, 1, (2, 6), 3), kernel_size=3)


def test_two_runs_are_equal():
    inputs = drawn(2, 2, 3, (9, 8), 3, torch.float32)
    first, second = (mix(*inputs, kernel_size=3, backend="torch") for _ in range(2))
    assert torch.equal(first, second)
    assert all(map(torch.equal, gradients(first, inputs), gradients(second, inputs)))


class _Held(TorchDispatchMode):
    """Adds up the storages that operations make, each once: memory that is used again is one."""

    def __init__(self):
        super().__init__()
        self.kept = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (list, tuple)) else [made]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.kept[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return made

    @property
    def largest(self):
        return max(self.kept.values())


@pytest.mark.parametrize(("kernel_size", "side", "batch"), [(13, 28, 4), (5, 56, 8)])
def test_weights_are_there_for_one_part_at_a_time(kernel_size, side, batch):
    inputs = drawn(batch, 8, 4, (side, side), kernel_size, torch.float32)
    weights = batch * 8 * kernel_size**2 * side**2
    with _Held() as held, torch.no_grad():
        out, lse = _torch.forward(*inputs, kernel_size)
        _torch.backward(out, *inputs, out, lse, kernel_size, [True] * 5)
    assert held.largest <= max(weights / 10, *(x.numel() for x in inputs))


def test_autograd_keeps_inputs_output_and_a_number_a_position():
    inputs = drawn(2, 2, 3, (9, 8), 5, torch.float32)
    kept = {}

    def note(tensor):
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = mix(*inputs, kernel_size=5, backend="torch")
    positions = 2 * 2 * 9 * 8
    assert sum(kept.values()) == sum(x.numel() for x in inputs) + y.numel() + positions
