"""Contextual networks: the authors' outputs, the ranking, and the loss of ranked stages."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ctxbench import count, create_model, load_checkpoint
from ctxbench.errors import CheckpointError, SpecError
from ctxbench.models import resolve, without_weights
from ctxbench.models.contextual import contextual_loss
from tests.conformance import vectors

TINY = "ctx_resnet_tiny:width=8"


def _tiny(options="", *, classes=10):
    torch.manual_seed(0)
    return create_model(f"{TINY}:num_classes={classes}{options}").eval()


@pytest.mark.parametrize("name", ["ctx_resnet50", "ctx_convnext_tiny"])
@torch.no_grad()
def test_equals_the_authors_network(name, tmp_path):
    described, state, (x,), expected = vectors.load(name)
    torch.save({"state_dict": state}, tmp_path / "authors.pth")
    model = create_model(name).double().eval()
    load_checkpoint(model, tmp_path / "authors.pth")
    assert sum(p.numel() for p in model.parameters()) == described["parameters"]
    for stage, logits in enumerate(model.stage_logits(x), 1):
        assert vectors.relative_error(logits, expected[f"stage{stage}_logits"]) < 1e-9
    assert vectors.relative_error(model(x), expected["prediction"]) < 1e-9


@pytest.mark.parametrize(
    ("spec", "params_m", "gmacs"),
    [
        ("ctx_resnet50:contextual_every=1", 29.56, 4.27),
        ("ctx_resnet50", 27.97, 4.22),
        ("ctx_resnet50:contextual_every=3", 26.93, 4.20),
        ("ctx_convnext_tiny:contextual_every=1", 43.01, 5.09),
        ("ctx_convnext_tiny:contextual_every=2", 37.81, 4.85),
        ("ctx_convnext_tiny", 33.95, 4.68),
        ("ctx_convnext_small:contextual_every=1", 76.73, 9.99),
        ("ctx_convnext_small:contextual_every=2", 65.48, 9.41),
        ("ctx_convnext_small", 59.61, 9.13),
        ("ctx_convnext_base:contextual_every=1", 132.62, 17.13),
        ("ctx_convnext_base:contextual_every=2", 113.96, 16.34),
        ("ctx_convnext_base", 104.16, 15.96),
    ],
)
def test_costs_what_the_authors_code_does(spec, params_m, gmacs):
    counted = count(without_weights(resolve(spec)), torch.zeros(1, 3, 224, 224))
    assert counted.params / 1e6 == pytest.approx(params_m, abs=0.005)
    cosines = 4 * 1000 * 256  # products that a counter of layers does not see
    assert (counted.macs - cosines) / 1e9 == pytest.approx(gmacs, abs=0.005)


@torch.no_grad()
def test_each_stage_sorts_what_the_stage_before_left():
    model, x = _tiny(), torch.randn(2, 3, 32, 32)
    found = model.rankings(x)
    for (scores, before), (_, after) in pairwise(found):
        assert after.sort().values.tolist() == [list(range(10))] * 2
        assert torch.equal(after, scores.argsort(1, descending=True))
        assert before.shape == after.shape
    assert torch.equal(model(x), found[-1][0])


@torch.no_grad()
def test_reduction_keeps_the_top_classes_alone():
    model, x = _tiny(":ranking=reduce"), torch.randn(2, 3, 32, 32)
    assert [len(logits[0]) for logits in model.stage_logits(x)] == [10, 8, 5, 3]
    scores, order = model.rankings(x)[-1]
    dropped = torch.ones_like(scores).scatter(1, order, 0).bool()
    prediction = model(x)
    assert torch.equal(prediction[~dropped], scores[~dropped])
    assert (prediction[dropped] == -model.classes.limit).all()
    assert (prediction[dropped] < prediction[~dropped].min()).all()


@torch.no_grad()
def test_the_prior_changes_what_the_next_stage_sees():
    model, x = _tiny(), torch.randn(2, 3, 32, 32)
    for conv in model.backbone.modules():
        if hasattr(conv, "kernel_net"):
            nn.init.normal_(conv.kernel_net[-1].weight, std=0.1)
    before = model.rankings(x)
    model.classes.weight.copy_(torch.randn_like(model.classes.weight))
    after = model.rankings(x)
    assert not torch.allclose(before[1][0], after[1][0])


@pytest.mark.parametrize(
    ("options", "stages", "mergers"),
    [
        ("", 4, ["1", "2", "3"]),
        (":contextual_stages=3,4:prior_sizes=5,3", 3, ["2", "3"]),
        (":contextual_stages=4:prior_sizes=3", 2, ["3"]),
        (":contextual_stages=2,3:prior_sizes=5,3", 4, ["1", "2"]),
        (":contextual_stages=none", 1, []),
        (":prior=false", 4, []),
    ],
)
@torch.no_grad()
def test_the_first_ranked_stage_is_the_one_before_the_first_contextual(options, stages, mergers):
    model = _tiny(options)
    assert len(model.stage_logits(torch.randn(2, 3, 32, 32))) == stages
    assert list(model.mergers) == mergers


@pytest.mark.parametrize(
    "options", [":parts=offsets", ":parts=kernels", ":mask=false", ":prior=false"]
)
def test_every_part_can_be_left_out(options):
    model, whole = _tiny(options), _tiny()
    assert model(torch.randn(1, 3, 32, 32)).isfinite().all()
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in whole.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("num_classes=5", "prior_sizes=8,5,3 asks for more classes than num_classes=5"),
        (
            "prior_sizes=5,3",
            "prior_sizes=5,3 does not fit contextual_stages=2,3,4. Give one size a",
        ),
        ("prior_sizes=3,5,8:ranking=reduce", "prior_sizes=3,5,8 grows"),
        ("contextual_stages=1,2,3", "contextual_stages=1,2,3 is out of range. .* from 2 to 4"),
        ("contextual_stages=3,2:prior_sizes=5,3", "Give rising stages"),
        ("contextual_every=0", "contextual_every=0 is out of range"),
        ("parts=all", "parts=all is not both or offsets or kernels"),
        ("block=basic", "block=basic has two 3x3 convolutions"),
    ],
)
def test_options_that_do_not_fit_are_named(options, message):
    with pytest.raises(SpecError, match=message):
        create_model(f"ctx_resnet_tiny:{options}")


def test_weights_of_another_network_are_refused(tmp_path):
    _, state, _, _ = vectors.load("ctx_resnet50")
    torch.save(state, tmp_path / "authors.pth")
    with pytest.raises(CheckpointError, match=r"Build it with num_classes=1000\."):
        load_checkpoint(create_model("ctx_resnet50:num_classes=600"), tmp_path / "authors.pth")
    with pytest.raises(CheckpointError, match="does not fit the network"):
        load_checkpoint(create_model("ctx_resnet50:contextual_every=1"), tmp_path / "authors.pth")


class _Fixed(nn.Module):
    """Ranks three classes as told: first 2 0 1, then as found."""

    def __init__(self):
        super().__init__()
        self.classes = nn.Linear(1, 3)
        self.scores = [torch.tensor([[1.0, 0.0, 3.0]]), torch.tensor([[0.5, 2.0, 0.25]])]
        self.orders = [torch.tensor([[0, 1, 2]]), torch.tensor([[2, 0, 1]])]

    def rankings(self, x):
        del x
        return list(zip(self.scores, self.orders, strict=True))


def test_the_loss_by_hand():
    # class 1 is the third place after the first stage; its score there is 2 of 0.25, 0.5, 2
    first = -0.0 + math.log(math.exp(1) + 1 + math.exp(3))
    last = -2.0 + math.log(math.exp(0.5) + math.exp(2) + math.exp(0.25))
    loss = contextual_loss(_Fixed(), torch.zeros(1), torch.tensor([1]), smoothing=0.0)
    assert loss.item() == pytest.approx(0.15 * first + last, rel=1e-6)

    mixed = torch.tensor([[0.0, 0.75, 0.25]])
    first = 0.75 * first + 0.25 * (first - 3.0)
    last = 0.75 * last + 0.25 * (last + 2.0 - 0.25)
    loss = contextual_loss(_Fixed(), torch.zeros(1), mixed)
    assert loss.item() == pytest.approx(0.15 * first + last, rel=1e-6)


def test_the_ranked_labels_point_at_the_same_classes():
    model, x, label = _tiny(), torch.randn(4, 3, 32, 32), torch.tensor([3, 1, 4, 1])
    expected = 0
    for stage, (scores, _) in enumerate(model.rankings(x)):
        each = F.cross_entropy(scores, label, label_smoothing=0.1)
        expected = expected + (1.0 if stage == 3 else 0.15) * each
    torch.testing.assert_close(contextual_loss(model, x, label), expected)
    shares = F.one_hot(label, 10).float()
    torch.testing.assert_close(
        contextual_loss(model, x, shares), contextual_loss(model, x, label, smoothing=0.0)
    )


def test_an_image_whose_class_is_dropped_counts_no_further():
    model, x = _tiny(":ranking=reduce"), torch.randn(2, 3, 32, 32)
    last = model.rankings(x)[-1][1]
    gone = torch.tensor([next(c for c in range(10) if c not in row.tolist()) for row in last])
    kept = last[:, 0]
    losses = [contextual_loss(model, x, label).item() for label in (gone, kept)]
    assert all(math.isfinite(loss) for loss in losses)
    whole = sum(
        (1.0 if stage == 3 else 0.15)
        * F.cross_entropy(
            scores.gather(1, order), (order == kept[:, None]).int().argmax(1), label_smoothing=0.1
        ).item()
        for stage, (scores, order) in enumerate(model.rankings(x))
    )
    assert losses[1] == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("ranking", ["rerank", "reduce"])
def test_the_loss_falls_in_training(ranking):
    model = _tiny(f":ranking={ranking}").train()
    torch.manual_seed(0)
    x, label = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(25):
        loss = contextual_loss(model, x, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_shares_left_by_smoothing_of_a_dropped_class_hardly_count():
    model, x = _tiny(":ranking=reduce"), torch.randn(2, 3, 32, 32)
    last = model.rankings(x)[-1][1]
    gone = torch.tensor([next(c for c in range(10) if c not in row.tolist()) for row in last])
    shares = F.one_hot(gone, 10).float()
    smoothed = 0.9 * shares + 0.01
    with_floor = contextual_loss(model, x, smoothed) - contextual_loss(model, x, shares)
    scores = model.stage_logits(x)[-1]
    assert with_floor.abs().item() < 0.15 * F.cross_entropy(scores, scores.argmin(1)).item()


def test_contextual_convolutions_begin_like_the_others_of_their_network():
    torch.manual_seed(0)
    stage = create_model("ctx_convnext_nano:contextual_every=2:width=32").backbone.stages[2]
    contextual, plain = stage[0].dwconv, stage[1].dwconv
    assert contextual.weight.std().item() == pytest.approx(plain.weight.std().item(), rel=0.1)
    assert not contextual.bias.any()
