"""What every registered operator must obey."""

import importlib

import pytest
import torch

import ctxbench
from ctxbench.ops import OPS

every_op = pytest.mark.parametrize("name", OPS)


def _example(name, batch=3, size=(12, 20), dtype=torch.float64):
    torch.manual_seed(0)
    op = OPS[name].build().to(dtype).eval()
    return op, tuple(tensor.to(dtype) for tensor in OPS[name].inputs(batch, *size))


@every_op
def test_has_a_definition_to_be_equal_to(name):
    importlib.import_module(f"tests.reference.{name}")


@every_op
@pytest.mark.parametrize("size", [(16, 16), (12, 20), (1, 3)])
def test_samples_do_not_see_each_other(name, size):
    op, inputs = _example(name, size=size)
    alone = torch.cat([op(*(tensor[i : i + 1] for tensor in inputs)) for i in range(3)])
    torch.testing.assert_close(op(*inputs), alone, rtol=1e-10, atol=1e-12)


@every_op
def test_an_empty_batch_comes_out_empty(name):
    op, inputs = _example(name)
    expected = op(*inputs).shape
    assert op(*(tensor[:0] for tensor in inputs)).shape == (0, *expected[1:])


@every_op
def test_every_parameter_gets_a_gradient(name):
    op, inputs = _example(name)
    op(*inputs).square().sum().backward()
    dead = [key for key, p in op.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


@every_op
def test_gradients_are_those_of_finite_differences(name):
    op, inputs = _example(name, batch=1, size=(4, 5))
    inputs = tuple(tensor.requires_grad_() for tensor in inputs)
    assert torch.autograd.gradcheck(op, inputs)


@every_op
def test_channels_last_gives_the_same_values(name):
    op, inputs = _example(name)
    expected = op(*inputs)
    op = op.to(memory_format=torch.channels_last)
    last = tuple(
        t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for t in inputs
    )
    torch.testing.assert_close(op(*last), expected, rtol=1e-10, atol=1e-12)


@every_op
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_finite_and_close(name, dtype):
    op, inputs = _example(name, dtype=torch.float32)
    expected = op(*inputs).detach()
    actual = op.to(dtype)(*(tensor.to(dtype) for tensor in inputs)).float().detach()
    torch.testing.assert_close(actual, expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))


@every_op
def test_has_a_counting_rule(name):
    op, inputs = _example(name, dtype=torch.float32)
    one, three = (ctxbench.count(op, *(t[:b] for t in inputs)) for b in (1, 3))
    assert one.macs > 0
    assert three.macs == 3 * one.macs


@pytest.mark.slow  # compiles C++
@every_op
def test_trains_compiled_at_changing_sizes(name):
    op, _ = _example(name, dtype=torch.float32)
    compiled = torch.compile(op, fullgraph=True)
    for batch, *size in ((3, 9, 9), (2, 9, 9), (2, 8, 11)):
        _, inputs = _example(name, batch=batch, size=size, dtype=torch.float32)
        y = compiled(*inputs)
        torch.testing.assert_close(y, op(*inputs), rtol=1e-4, atol=1e-5)
        y.sum().backward()


@every_op
def test_compiles_without_a_graph_break(name):
    op, inputs = _example(name, dtype=torch.float32)
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), op(*inputs))
