"""What the operators have no derivative for is refused; a batch of none has all of them."""

import pytest
import torch

from ctxbench.errors import BackendError
from ctxbench.kernels.cgc import gated_conv2d
from ctxbench.kernels.coconv import _torch as coconv_torch
from ctxbench.kernels.coconv import coconv2d
from ctxbench.kernels.contmix import mix
from ctxbench.kernels.ctxconv import Window, contextual_conv2d

SQUARE = {"stride": (1, 1), "dilation": (1, 1), "groups": 1}
# an operator, the shapes of its tensors but for the batch, which axis 0 of some is, and its options
OPERATORS = {
    "coconv": (
        coconv2d, [("B", 2, 4, 4), (3, 2, 3, 3), (3,)], {"levels": [(1, 1), (1, 2), (1, 3)]}
    ),
    "cgc": (gated_conv2d, [("B", 2, 4, 4), (3, 2, 3, 3), ("B", 2, 9), ("B", 3, 9)], SQUARE),
    "ctxconv": (
        contextual_conv2d,
        [("B", 2, 4, 4), (3, 2, 3, 3), ("B", 2, 9), ("B", 18, 4, 4), ("B", 9, 4, 4)],
        {"window": Window(3, 1, 1), "groups": 1},
    ),
    "ctxconv in place": (
        lambda x, weight, change, **options: contextual_conv2d(
            x, weight, change, None, None, **options
        ),
        [("B", 2, 4, 4), (3, 2, 3, 3), ("B", 2, 9)],
        {"window": Window(3, 1, 1), "groups": 1},
    ),
    "contmix": (
        mix, [("B", 2, 3, 4, 4), ("B", 2, 5, 4, 4), (9, 5), (9,), (2, 5, 5)], {"kernel_size": 3}
    ),
}  # fmt: skip
every_operator = pytest.mark.parametrize("name", OPERATORS)


def _drawn(name, batch=2):
    """Return an operator by backend, and its tensors."""
    function, shapes, options = OPERATORS[name]
    torch.manual_seed(0)
    leaves = [
        torch.randn([batch if n == "B" else n for n in shape], dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]
    return lambda tensors, backend: function(*tensors, **options, backend=backend), leaves


@every_operator
def test_a_second_derivative_is_refused_not_zero(name, monkeypatch):
    monkeypatch.setattr(coconv_torch, "converts", lambda *_: True)  # which has none
    run, leaves = _drawn(name)
    first = torch.autograd.grad(run(leaves, "torch").square().sum(), leaves, create_graph=True)
    with pytest.raises(BackendError, match="reference"):
        sum(gradient.square().sum() for gradient in first).backward()


@every_operator
def test_forward_mode_is_refused_not_zero(name):
    run, leaves = _drawn(name)
    x, *rest = [leaf.detach() for leaf in leaves]
    with pytest.raises(BackendError, match=r"forward mode needs .*; got backend='torch'\. Use"):
        torch.func.jvp(lambda x: run([x, *rest], "torch"), (x,), (x,))


@pytest.mark.parametrize("name", ["coconv", "cgc", "contmix"])
def test_forward_mode_by_reference_is_the_derivative(name):
    run, leaves = _drawn(name)
    x, *rest = [leaf.detach() for leaf in leaves]
    _, found = torch.func.jvp(lambda x: run([x, *rest], "reference"), (x,), (x,))
    expected = run([x, *rest], "reference") - run([0 * x, *rest], "reference")  # linear in x
    torch.testing.assert_close(found, expected)


@every_operator
@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_a_batch_of_none_has_gradients(name, backend):
    run, leaves = _drawn(name, batch=0)
    found = torch.autograd.grad(run(leaves, backend).sum(), leaves)
    assert [gradient.shape for gradient in found] == [leaf.shape for leaf in leaves]
    assert not any(gradient.any() for gradient in found)
