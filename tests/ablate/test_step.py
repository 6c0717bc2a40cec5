"""One step beside a hand-written one, and an evaluation beside a hand-made count."""

import copy
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from ctxbench.ablate.checkpoint import WEIGHTS
from ctxbench.ablate.recipe import Recipe
from ctxbench.ablate.step import (
    Objective,
    Stepper,
    evaluate,
    make_optimiser,
    set_seed,
    smoothed,
    step_seed,
)
from ctxbench.ablate.train import train
from ctxbench.data.augment import Augmentation
from ctxbench.data.batches import Batch
from ctxbench.models import resolve
from tests.ablate.tiny import NET, net, run, trial

CPU = torch.device("cpu")
SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}


def stepper(model=None, loss=None, **recipe):
    return Stepper(model or net(dropout=0.0), loss, Recipe(**recipe), CPU)


def batch(count=8, seed=0, *, classes=3, shape=(1, 8, 8), shares=False):
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(count) % classes
    if shares:
        target = torch.softmax(5 * torch.randn(count, classes, generator=generator), 1)
    return Batch(torch.randn(count, *shape, generator=generator), target, (), 0.0)


def network(seed=0, **options):
    torch.manual_seed(seed)
    return net(**{"dropout": 0.0, **options})


def plain():
    """A network whose answer to an image does not depend on the others of its batch."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def weights(model):
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def same(model, other, **tolerance):
    torch.testing.assert_close(weights(model), weights(other), **tolerance)


def by_hand(model, optimiser, *, clip=0.0, smoothing=0.0):
    """Train in the words of torch alone."""
    model.train()
    for seed in range(3):
        x, target = batch(seed=seed)[:2]
        optimiser.param_groups[0]["lr"] = optimiser.param_groups[-1]["lr"] = 0.02
        optimiser.zero_grad()
        F.cross_entropy(model(x), target, label_smoothing=smoothing).backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimiser.step()
    return model


def by_stepper(model, **recipe):
    ours = stepper(model, **recipe)
    for seed in range(3):
        ours.step(batch(seed=seed), lr=0.02, seed=seed)  # not that of the recipe
    return model


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_that_of_torch(nesterov):
    hand = network()
    by_hand(hand, torch.optim.SGD(hand.parameters(), **SGD, nesterov=nesterov))
    same(by_stepper(network(), **SGD, nesterov=nesterov), hand, rtol=0, atol=1e-6)


def test_adamw_is_that_of_torch():
    hand = network()
    by_hand(hand, torch.optim.AdamW(hand.parameters(), lr=1.0, weight_decay=0.05))
    ours = by_stepper(network(), optimiser="adamw", lr=1.0, weight_decay=0.05)
    same(ours, hand, rtol=0, atol=1e-6)


def test_the_norm_of_the_gradient_is_clipped():
    hand = network()
    by_hand(hand, torch.optim.SGD(hand.parameters(), **SGD), clip=0.05)
    same(by_stepper(network(), **SGD, clip=0.05), hand, rtol=0, atol=1e-6)


def test_what_is_clipped_is_the_gradient_and_not_its_scaled_self():
    ours = stepper(network(), momentum=0.0, weight_decay=0.0, amp="fp16", clip=0.05)
    before = [p.detach().clone() for p in ours.model.parameters()]
    ours.step(batch(), lr=0.1, seed=0)
    moved = [p - old for p, old in zip(ours.model.parameters(), before, strict=True)]
    assert nn.utils.get_total_norm(moved) == pytest.approx(0.1 * 0.05, rel=1e-3)


def test_labels_are_smoothed():
    hand = network()
    by_hand(hand, torch.optim.SGD(hand.parameters(), **SGD), smoothing=0.2)
    same(by_stepper(network(), **SGD, label_smoothing=0.2), hand, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_vectors_do_not_decay_when_asked(kind):
    hand = network()
    vectors = [p for p in hand.parameters() if p.ndim == 1]
    matrices = [p for p in hand.parameters() if p.ndim > 1]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    make = torch.optim.AdamW if kind == "adamw" else torch.optim.SGD
    given = {"lr": 0.1, "weight_decay": 0.5, **({"momentum": 0.9} if kind == "sgd" else {})}
    by_hand(hand, make(groups, **given))
    ours = by_stepper(network(), optimiser=kind, lr=0.1, weight_decay=0.5, decay_vectors=False)
    same(ours, hand, rtol=0, atol=1e-6)


def test_every_parameter_is_in_one_group():
    model = network()
    groups = make_optimiser(model, Recipe(decay_vectors=False)).param_groups
    assert [len(group["params"]) for group in groups] == [2, 4]
    assert [group["weight_decay"] for group in groups] == [1e-4, 0.0]
    assert len(make_optimiser(model, Recipe()).param_groups) == 1


def test_it_returns_the_loss_before_the_step():
    model = network()
    expected = F.cross_entropy(copy.deepcopy(model)(batch().images), batch().target)
    loss = stepper(model).step(batch(), lr=0.1, seed=0)
    torch.testing.assert_close(loss, expected.detach())
    assert not loss.requires_grad


@pytest.mark.parametrize("count", [8, 7])
def test_a_batch_in_parts_is_the_same_step(count):
    found = []
    for parts in (1, 2):
        ours = stepper(plain(), **SGD, accumulate=parts, clip=0.1, label_smoothing=0.1)
        losses = [ours.step(batch(count, seed), lr=0.1, seed=seed) for seed in range(3)]
        found.append((losses, weights(ours.model)))
    torch.testing.assert_close(*found, rtol=0, atol=1e-6)


def test_averages_by_hand():
    ours, seen = stepper(network(), ema=0.9), []
    for seed in range(3):
        ours.step(batch(seed=seed), lr=0.1, seed=seed)
        seen.append(weights(ours.model))
    average = weights(ours.evaluated)
    for key in ("0.weight", "6.bias", "1.running_mean", "1.running_var"):
        first, second, third = (at[key] for at in seen)
        value = first * 2 / 11 + second * 9 / 11  # decay min(0.9, (1 + n) / (10 + n)), n = 1
        value = value * 3 / 12 + third * 9 / 12
        torch.testing.assert_close(average[key], value)
    assert average["1.num_batches_tracked"] == seen[-1]["1.num_batches_tracked"] == 3


def test_an_average_reaches_its_decay():
    ours = stepper(network(), ema=0.1)
    ours.step(batch(), lr=0.1, seed=0)
    first = weights(ours.model)["0.weight"]
    ours.step(batch(), lr=0.1, seed=1)
    second = weights(ours.model)["0.weight"]
    found = ours.evaluated.state_dict()["0.weight"]
    torch.testing.assert_close(found, 0.1 * first + 0.9 * second)


def test_what_is_evaluated_is_the_average():
    ours = stepper(network(), ema=0.9)
    for seed in range(3):
        ours.step(batch(seed=seed), lr=0.5, seed=seed)
    assert ours.evaluated is not ours.model
    logits = copy.deepcopy(ours.average.module).eval()(batch().images)
    loss = F.cross_entropy(logits, batch().target).item()
    assert evaluate(ours, [batch()]).loss == pytest.approx(loss)
    assert stepper(network()).evaluated.__class__ is nn.Sequential


def test_shares_are_smoothed_by_hand():
    shares = torch.tensor([[0.7, 0.3, 0.0, 0.0]])
    torch.testing.assert_close(smoothed(shares, 0.2), torch.tensor([[0.61, 0.29, 0.05, 0.05]]))
    model = plain()
    x, target = batch(shares=True)[:2]
    hand = (-(target * 0.8 + 0.2 / 3) * model(x).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(Objective(model, None, 0.2)(x, target), hand)


@pytest.mark.parametrize("name", ["ctx_resnet_tiny", "overlock_tiny"])
@pytest.mark.parametrize("shares", [False, True])
def test_a_network_is_trained_with_its_own_loss(name, shares):
    torch.manual_seed(0)
    known = resolve(name)
    model = known.build().eval()
    with torch.no_grad():  # answers that differ, or smoothing would change nothing
        for layer in model.modules():
            if isinstance(layer, nn.Linear) and layer.out_features == 10:
                layer.weight *= 300
    x, target = batch(4, classes=10, shape=(3, 32, 32), shares=shares)[:2]
    told = {"smoothing": 0.0 if shares else 0.3}
    expected = known.loss(model, x, smoothed(target, 0.3) if shares else target, **told)
    torch.testing.assert_close(Objective(model, known.loss, 0.3)(x, target), expected)
    assert abs(expected - F.cross_entropy(model(x), target, label_smoothing=0.3)) > 0.01
    assert abs(expected - Objective(model, known.loss, 0.0)(x, target)) > 1e-4


UNEVEN = [batch(5, 0, classes=7), batch(5, 1, classes=7), batch(2, 2, classes=7)]


def test_an_evaluation_by_hand():
    model = network(classes=7)
    ours = stepper(model)
    sums = evaluate(ours, UNEVEN)
    model.eval()
    losses, first, fifth = [], 0, 0
    for x, target, *_ in UNEVEN:
        for image, label in zip(x, target.tolist(), strict=True):
            logits = model(image[None])[0].double()
            losses.append((logits.exp().sum().log() - logits[label]).item())
            place = (logits > logits[label]).sum().item()
            first, fifth = first + (place > 0), fifth + (place > 4)
    assert sums.loss == pytest.approx(sum(losses) / 12, rel=1e-6)
    assert sums.top1_error == pytest.approx(100 * first / 12)
    assert sums.top5_error == pytest.approx(100 * fifth / 12)
    assert 0 < fifth < first < 12  # or the test could not tell them apart


def test_few_classes_have_no_top5_error():
    assert evaluate(stepper(network()), [batch()]).top5_error == 0


def test_an_evaluation_leaves_no_trace():
    ours = stepper(network())
    ours.model.train()
    before = weights(ours.model)
    evaluate(ours, [batch()])
    assert ours.model.training
    assert all(module.training for module in ours.model.modules())
    torch.testing.assert_close(weights(ours.model), before, rtol=0, atol=0)
    ours.model.eval()
    evaluate(ours, [batch()])
    assert not ours.model.training


def test_an_evaluation_that_breaks_leaves_the_mode():
    def broken():
        yield batch()
        raise ZeroDivisionError

    ours = stepper(network())
    ours.model.train()
    with pytest.raises(ZeroDivisionError):
        evaluate(ours, broken())
    assert ours.model.training
    assert torch.is_grad_enabled()


def test_no_images_have_no_error():
    sums = evaluate(stepper(network()), [])
    assert str(sums.loss) == str(sums.top1_error) == "nan"


def test_a_step_trains_whatever_mode_it_finds():
    ours = stepper(network())
    ours.model.eval()
    ours.step(batch(), lr=0.1, seed=0)
    assert ours.model.state_dict()["1.num_batches_tracked"] == 1


def test_the_same_seed_has_the_same_dropout_whatever_was_drawn_before():
    found = []
    for drawn, seed in ((0, 5), (17, 5), (0, 6)):
        model = network(dropout=0.5)
        torch.rand(drawn)
        stepper(model).step(batch(), lr=0.1, seed=seed)
        found.append(model.state_dict()["6.weight"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_seeds_of_steps_are_all_different():
    places = [(s, e, t, r) for s in range(3) for e in range(3) for t in range(3) for r in range(2)]
    assert len({step_seed(*place) for place in places}) == len(places)


def test_a_seed_makes_every_source_of_chance_repeat():
    import random

    import numpy as np

    def drawn():
        set_seed(2**40 + 3)
        return random.random(), np.random.rand(), torch.rand(()).item()

    assert drawn() == drawn()


@pytest.mark.parametrize("recipe", [{"amp": "fp16"}, {"optimiser": "adamw"}, {"momentum": 0.5}])
def test_a_state_goes_on_where_it_was(recipe):
    given = {"lr": 0.1, "ema": 0.9, **recipe}
    whole, cut = stepper(network(), **given), stepper(network(), **given)
    for ours in (whole, cut):
        ours.step(batch(seed=0), lr=0.1, seed=0)
    again = stepper(network(seed=1), **given)
    again.load(copy.deepcopy(cut.state()))
    for ours in (whole, again):
        ours.step(batch(seed=1), lr=0.1, seed=1)
    same(whole.model, again.model, rtol=0, atol=0)
    same(whole.evaluated, again.evaluated, rtol=0, atol=0)


def test_a_state_holds_the_scale_of_fp16():
    ours = stepper(network(), amp="fp16")
    ours.step(batch(), lr=0.1, seed=0)
    ours.scaler.update(new_scale=128.0)
    again = stepper(network(), amp="fp16")
    again.load(ours.state())
    assert again.scaler.get_scale() == 128.0
    assert again.scaler.state_dict() == ours.scaler.state_dict()


def test_fp16_takes_no_step_on_what_overflows():
    ours = stepper(network(), amp="fp16", clip=1.0)
    before = weights(ours.model)["6.weight"]
    huge = batch()._replace(images=batch().images * 1e30)
    ours.step(huge, lr=0.1, seed=0)
    torch.testing.assert_close(weights(ours.model)["6.weight"], before, rtol=0, atol=0)
    assert ours.scaler.get_scale() == 2.0**15


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_reduced_precision_trains_and_keeps_whole_weights(amp):
    ours, whole = stepper(network(), amp=amp), stepper(network())
    losses = [each.step(batch(), lr=0.1, seed=0) for each in (ours, whole)]
    assert {p.dtype for p in ours.model.parameters()} == {torch.float32}
    torch.testing.assert_close(*losses, rtol=0.02, atol=0)
    assert not torch.equal(*losses)


def test_a_layout_changes_strides_and_no_result():
    ours, whole = stepper(network(width=8), channels_last=True), stepper(network(width=8))
    losses = [each.step(batch(), lr=0.1, seed=0) for each in (ours, whole)]
    torch.testing.assert_close(*losses)
    x, _ = ours.place(batch(shape=(3, 8, 8)))
    assert x.is_contiguous(memory_format=torch.channels_last)
    same(ours.model, whole.model, rtol=0, atol=1e-6)


def test_processes_exchange_gradients_with_the_last_part_only():
    log = []

    class Shared(nn.Module):
        def __init__(self, objective):
            super().__init__()
            self.objective = objective

        def forward(self, *given):
            log.append("part")
            return self.objective(*given)

        def no_sync(self):
            return nullcontext(log.append("alone"))

    ours = Stepper(network(), None, Recipe(batch=8, accumulate=4), CPU, Shared)
    ours.step(batch(), lr=0.1, seed=0)
    assert log == ["alone", "part"] * 3 + ["part"]


@pytest.mark.slow
def test_a_compiled_network_trains_like_any_other(tmp_path):
    given = {"accumulate": 1, "epochs": 2, "ema": 0.0, "augmentation": Augmentation()}
    losses = []
    for compiled in (False, True):
        one, folder = (
            trial(model=f"{NET}:dropout=0.0", compile=compiled, **given),
            tmp_path / str(compiled),
        )
        row = train(one, folder, run(checkpoint_s=1e9), stop=lambda: False, tell=lambda _: None)
        losses.append(row.train_loss)
        assert not any("_orig_mod" in key for key in load_file(folder / WEIGHTS))
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
