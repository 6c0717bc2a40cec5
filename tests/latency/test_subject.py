"""A network made ready under a condition."""

import gc
import weakref

import pytest
import torch

from ctxbench.errors import LatencyError
from ctxbench.latency.subject import DTYPES, TOLERANCES, Subject, compare
from tests.latency.nets import CONV, condition, spec


def step(subject):
    """Make a step and return the weights before and after."""
    before = [p.detach().clone() for p in subject.model.parameters()]
    for phase in subject.phases().values():
        phase()
    return before, [p.detach().clone() for p in subject.model.parameters()]


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_the_input_is_noise_in_the_shape_and_dtype_asked_for(dtype):
    (x,) = Subject("resnet_tiny", condition(dtype=dtype, image_size=(24, 40))).inputs
    assert (x.shape, x.dtype) == ((2, 3, 24, 40), DTYPES[dtype])
    assert abs(x.float().mean()) < 0.1
    assert abs(x.float().std() - 1) < 0.1


def test_every_input_of_an_operator_is_noise():
    inputs = Subject("op/dynamic_block", condition(image_size=(16, 16))).inputs
    assert len(inputs) == 3
    assert all(x.unique().numel() > 0.9 * x.numel() for x in inputs)


def test_the_seed_gives_weights_and_input():
    one, same, other = (Subject("resnet_tiny", condition(seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one.inputs[0], same.inputs[0])
    assert torch.equal(one.results()[0], same.results()[0])
    assert not torch.equal(one.inputs[0], other.inputs[0])


def test_channels_last_holds_for_input_and_weights():
    subject = Subject("resnet_tiny", condition(layout="channels_last"))
    subject.make_fast()
    convolutions = [p for p in subject.model.parameters() if p.ndim == 4]
    for tensor in (*subject.inputs, *convolutions):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_inference_is_a_forward_pass_and_nothing_else():
    subject = Subject("resnet_tiny", condition())
    assert not subject.model.training
    with subject.grad_mode():
        before, after = step(subject)
    assert list(subject.phases()) == ["forward"]
    assert all(map(torch.equal, before, after))


def test_training_has_three_phases_in_their_order():
    subject = Subject("resnet_tiny", condition(mode="training"))
    assert subject.model.training
    assert list(subject.phases()) == ["forward", "backward", "optimiser"]


OWN_LOSS = ["ctx_resnet_tiny", "overlock_tiny"]
NO_LOGITS = ["progan128:widths=64,64,64,64,32,16:latent=32", spec("nested")]
OTHERS = ["resnet_tiny", CONV, "op/contmix", "resnet_tiny:replace=coconv"]


@pytest.mark.parametrize("name", [*OWN_LOSS, *NO_LOGITS, *OTHERS])
def test_a_training_step_changes_weights_and_leaves_no_gradient(name):
    side = 128 if "progan" in name else 32
    subject = Subject(name, condition(mode="training", image_size=(side, side)))
    before, after = step(subject)
    assert not all(map(torch.equal, before, after))
    assert [t for t in (*subject.model.parameters(), *subject.inputs) if t.grad is not None] == []


@pytest.mark.parametrize("name", OWN_LOSS)
def test_a_network_with_a_loss_of_its_own_trains_all_its_weights(name):
    subject = Subject(name, condition(mode="training"))
    _loss, *gradients = subject.results()
    assert len(gradients) == len(list(subject.model.parameters()))


def test_the_loss_of_a_network_is_found_behind_a_replacement_that_shares_an_option():
    name = "coresnet_tiny:levels=1,1,1,1:replace=coconv:levels=2"
    assert len(Subject(name, condition(mode="training")).results()) > 1


def test_training_gives_an_operator_a_gradient_of_its_input():
    subject = Subject(CONV, condition(mode="training"))
    phases = subject.phases()
    phases["forward"]()
    phases["backward"]()
    assert subject.inputs[0].grad.abs().sum() > 0


def test_inference_in_bf16_has_bf16_weights():
    subject = Subject("resnet_tiny", condition(dtype="bf16"))
    assert {p.dtype for p in subject.model.parameters()} == {torch.bfloat16}
    assert subject.results()[0].dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_training_keeps_float32_weights_under_autocast(dtype):
    seen = []
    subject = Subject(CONV, condition(mode="training", dtype=dtype))
    subject.model.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    _, after = step(subject)
    assert {p.dtype for p in after} == {torch.float32}
    assert seen == [DTYPES[dtype]]


@pytest.mark.parametrize(("dtype", "scales"), [("fp16", True), ("bf16", False), ("fp32", False)])
def test_only_fp16_scales_its_loss(dtype, scales):
    subject = Subject(CONV, condition(mode="training", dtype=dtype))
    loss = torch.ones(())
    assert (subject._scaler.scale(loss) > 1) == scales


FOLDED = [
    ("overlock_tiny:reparam=true", "overlock_tiny"),
    ("op/dilated_reparam:channels=8:folded=true", "op/dilated_reparam:channels=8"),
]


@pytest.mark.parametrize(("folded", "plain"), FOLDED)
def test_a_folded_network_comes_from_the_weights_of_the_plain_one(folded, plain):
    subject = Subject(folded, condition())
    expected = Subject(plain, condition()).results()
    count = sum(p.numel() for p in subject.model.parameters())
    subject.make_fast()
    assert sum(p.numel() for p in subject.model.parameters()) < count
    torch.testing.assert_close(subject.results(), expected, rtol=1e-4, atol=1e-5)


def test_a_folded_network_keeps_no_plain_weights():
    subject = Subject("overlock_tiny:reparam=true", condition())
    weights = [weakref.ref(p) for p in subject.model.parameters()]
    subject.make_fast()
    gc.collect()
    assert [ref for ref in weights if ref() is not None] == []


@pytest.mark.parametrize(("folded", "plain"), FOLDED)
def test_a_folded_network_is_not_trained(folded, plain):
    with pytest.raises(LatencyError, match=f"is folded for inference. Train the unfolded {plain}."):
        Subject(folded, condition(mode="training"))


@pytest.mark.parametrize(
    ("name", "given", "fast"),
    [
        (CONV, {}, False),
        (CONV, {"layout": "channels_last"}, True),
        (CONV, {"backend": "compiled"}, True),
        ("overlock_tiny:reparam=true", {}, True),
    ],
)
def test_what_asks_for_another_way_of_computing_is_fast(name, given, fast):
    assert Subject(name, condition(**given)).fast == fast


def test_a_network_without_weights_runs():
    (result,) = Subject(spec("without_weights"), condition()).results()
    assert result.min() == 0


def test_forget_leaves_nothing_of_a_step_that_failed():
    subject = Subject("resnet_tiny", condition(mode="training"))
    subject.phases()["forward"]()
    subject.forget()
    assert (subject._result, subject.inputs) == (None, ())


def test_bytes_are_those_of_weights_input_and_momenta():
    subject = Subject(CONV, condition(mode="training", image_size=(16, 16)))
    weights = 4 * sum(p.numel() for p in subject.model.parameters())
    images = 4 * 2 * 8 * 16 * 16
    assert (subject.weights_bytes, subject.state_bytes) == (weights, images)
    step(subject)
    assert subject.state_bytes == images + weights


# compare: how far from the reference, as a part of its largest value


def test_compare_is_a_part_of_the_largest_value():
    reference = [torch.tensor([1.0, -4.0]), torch.tensor([[2.0]])]
    mine = [torch.tensor([1.5, -4.0]), torch.tensor([[2.25]])]
    assert compare(mine, reference) == 0.5 / 4
    assert compare(reference, reference) == 0


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 1])
def test_compare_lets_no_nan_pass(wrong, place):
    reference = [torch.ones(3), torch.ones(3)]
    mine = [torch.ones(3), torch.ones(3)]
    mine[place][1] = wrong
    assert not compare(mine, reference) <= max(TOLERANCES.values())


def test_compare_refuses_other_shapes():
    with pytest.raises(LatencyError, match="other shapes"):
        compare([torch.ones(3)], [torch.ones(1, 3)])


def test_compare_takes_zeros_and_what_is_empty():
    assert compare([torch.zeros(2), torch.ones(0)], [torch.zeros(2), torch.ones(0)]) == 0


def test_compare_takes_masks():
    masks = [torch.tensor([True, False])], [torch.tensor([True, True])]
    assert compare(*masks) == 1


def test_compare_of_nothing_is_no_difference():
    assert compare([], []) == 0
