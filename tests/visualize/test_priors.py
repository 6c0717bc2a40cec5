"""Class priors: rankings against sorting by hand, exchanged contexts against mergers of our own."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from ctxbench import create_model
from ctxbench.errors import VisualizeError
from ctxbench.visualize.priors import Priors, contextual_part, places, priors, swapped

CLASSES = 10
TINY = "ctx_resnet_tiny:width=8:class_embedding_width=8:num_classes=10:prior_sizes=5,3,2"
REDUCED = f"{TINY}:ranking=reduce"


def _network(spec=TINY):
    """Make a network whose priors differ by image and have an effect, in float64."""
    torch.manual_seed(0)
    model = create_model(spec).double()
    for name, parameter in model.named_parameters():
        if "kernel_net" in name or "offset_net" in name:
            nn.init.normal_(parameter, std=0.5)
    nn.init.normal_(model.classes.weight)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():  # the statistics of these very images: normalised, they differ much
        model.train()(_images())
    return model.eval()


def _images(count=3):
    """Make images of different colours."""
    generator = torch.Generator().manual_seed(1)
    sizes = ((count, 3, 1, 1), (count, 3, 2, 2), (count, 3, 32, 32))
    parts = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    return parts[0] + parts[1].repeat_interleave(16, 2).repeat_interleave(16, 3) + parts[2]


class _Wrapped(nn.Module):
    """A network that holds the one of class priors, and returns something else."""

    def __init__(self, inner, calls=1):
        super().__init__()
        self.body = nn.ModuleDict({"inner": inner})
        self.calls = calls

    def forward(self, x):
        return {"logits": [self.body["inner"](2 * x) for _ in range(self.calls)]}


def _same(first, second):
    for field in fields(first):
        one, other = getattr(first, field.name), getattr(second, field.name)
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


def test_ranks_by_the_scores_of_each_stage():
    model, x = _network(), _images()
    found = priors(model, x)
    assert [stage.name for stage in found.stages] == ["stage 1", "stage 2", "stage 3", "stage 4"]
    assert [stage.prior_size for stage in found.stages] == [5, 3, 2, None]
    assert [stage.kept for stage in found.stages] == [CLASSES] * 4
    with torch.no_grad():
        expected = [scores for scores, _ in model.rankings(x)]
    for stage, scores in zip(found.stages, expected, strict=True):
        assert np.array_equal(stage.scores, scores.numpy())
        by_hand = [sorted(range(CLASSES), key=lambda index: -row[index]) for row in scores.tolist()]
        assert stage.order.tolist() == by_hand


def test_probabilities_are_the_softmax_of_the_scores():
    last = priors(_network(), _images()).stages[-1]
    weights = np.exp(last.scores)
    np.testing.assert_allclose(last.probabilities, weights / weights.sum(1, keepdims=True))


def test_reduction_leaves_the_dropped_classes_out():
    model, x = _network(REDUCED), _images()
    found = priors(model, x, labels=[0, 1, 2])
    assert [stage.order.shape[1] for stage in found.stages] == [10, 5, 3, 2]
    assert [stage.kept for stage in found.stages] == [5, 3, 2, 2]
    left = [set(range(CLASSES))] * len(x)
    for stage in found.stages:
        for image, (row, order) in enumerate(zip(stage.scores, stage.order, strict=True)):
            assert order.tolist() == sorted(left[image], key=lambda index: -row[index])
            dropped = sorted(set(range(CLASSES)) - left[image])
            assert np.isnan(stage.probabilities[image, dropped]).all()
            assert np.nansum(stage.probabilities[image]) == pytest.approx(1)
        left = [set(order[: stage.kept].tolist()) for order in stage.order]


def test_the_true_class_has_a_rank_until_it_is_dropped():
    model, x = _network(REDUCED), _images(2)
    first = priors(model, x).stages[0].order
    labels = [int(first[0, 0]), int(first[1, 9])]  # the first, and one that the first cut drops
    found = priors(model, x, labels=labels)
    assert found.stages[0].true_rank == (1, 10)
    assert found.stages[0].within_prior == 0.5
    assert all(np.isnan(stage.true_rank[1]) for stage in found.stages[1:])
    assert found.stages[1].within_prior <= 0.5
    assert found.stages[-1].within_prior is None  # nothing is merged behind the last stage


def test_a_known_ranking():
    model, x = _network(), _images(2)
    with torch.no_grad():
        # all visual vectors are one; class c stands c * 10 degrees away from it
        for projection in model.projections.values():
            projection.expand.weight.zero_()
            projection.expand.bias.zero_()[0] = 1
        angles = torch.arange(CLASSES) * torch.pi / 18
        model.classes.weight.zero_()[:, 0] = angles.cos()
        model.classes.weight[:, 1] = angles.sin()
    found = priors(model, x, labels=[4, None])
    for stage in found.stages:
        assert stage.order.tolist() == [list(range(CLASSES))] * 2
        assert stage.true_rank == (5, None)
        np.testing.assert_allclose(stage.scores[0], np.cos(angles.numpy()) / 0.07, rtol=1e-6)
    assert [stage.within_prior for stage in found.stages] == [1, 0, 0, None]


def test_without_labels_there_are_no_ranks():
    for stage in priors(_network(), _images()).stages:
        assert stage.true_rank == (None,) * 3
        assert stage.within_prior is None


def test_a_batch_is_its_images_one_by_one():
    model, x = _network(), _images()
    together = priors(model, x)
    for number in range(len(x)):
        alone = priors(model, x[number : number + 1])
        for one, all_of_them in zip(alone.stages, together.stages, strict=True):
            assert one.order[0].tolist() == all_of_them.order[number].tolist()
            np.testing.assert_allclose(one.scores[0], all_of_them.scores[number], rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "stages", "sizes"),
    [
        (":contextual_stages=3,4:prior_sizes=4,3", ["stage 2", "stage 3", "stage 4"], [4, 3, None]),
        (":prior=false", ["stage 1", "stage 2", "stage 3", "stage 4"], [None] * 4),
        (":contextual_stages=none", ["stage 4"], [None]),
    ],
)
def test_names_the_stages_that_rank(options, stages, sizes):
    torch.manual_seed(0)
    found = priors(create_model("ctx_resnet_tiny:width=4" + options), _images(2))
    assert [stage.name for stage in found.stages] == stages
    assert [stage.prior_size for stage in found.stages] == sizes


def _handmade(model, x, donors, stages):
    """Run the rankings with mergers that return what the donors' mergers have returned."""
    kept = {stage: merger.forward for stage, merger in model.mergers.items()}
    seen = {}

    def record(stage):
        return lambda rows: seen.setdefault(stage, kept[stage](rows))

    with torch.no_grad():
        for stage, merger in model.mergers.items():
            merger.forward = record(stage)
        model.rankings(x)
        for stage, merger in model.mergers.items():
            chosen = stage in stages
            merger.forward = (lambda _, s=stage: seen[s][donors]) if chosen else kept[stage]
        found = model.rankings(x)
    for merger in model.mergers.values():
        del merger.forward
    return found[-1][0].numpy()


@pytest.mark.parametrize("spec", [TINY, REDUCED, f"{TINY}:parts=offsets"])
def test_exchanged_contexts_are_those_of_the_donors(spec):
    model, x, donors = _network(spec), _images(), [2, 0, 1]
    found = swapped(model, x, donors=donors)
    sets = {"all stages": "123", "stage 2": "1", "stage 3": "2", "stage 4": "3"}
    assert [change.exchanged for change in found.changes] == list(sets)
    for change, stages in zip(found.changes, sets.values(), strict=True):
        np.testing.assert_allclose(change.scores, _handmade(model, x, donors, stages), rtol=1e-12)
        assert change.score_change.max() > 1e-3


def test_an_image_that_is_its_own_donor_stays_as_it_is():
    found = swapped(_network(), _images(), donors=range(3), labels=[1, 2, None])
    own = found.own.stages[-1]
    for change in found.changes:
        assert np.array_equal(change.scores, own.scores)
        assert np.array_equal(change.order, own.order)
        assert change.true_rank == own.true_rank
        assert (change.score_change == 0).all()
        assert (change.top_overlap == 1).all()
        np.testing.assert_allclose(change.correlation, 1)
        assert (change.own_rank == 1).all()


def test_each_image_is_given_the_next_ones_prior():
    model, x = _network(), _images()
    found = swapped(model, x)
    assert found.donors == (1, 2, 0)
    _same(found.changes[0], swapped(model, x, donors=[1, 2, 0]).changes[0])


def test_own_rankings_of_a_swap_are_those_of_priors():
    model, x = _network(), _images()
    own = swapped(model, x, labels=[1, None, 3]).own
    for one, other in zip(own.stages, priors(model, x, labels=[1, None, 3]).stages, strict=True):
        _same(one, other)


def test_changes_by_their_definitions():
    found = swapped(_network(), _images(), labels=[4, 5, 6], top=3)
    own = found.own.stages[-1]
    for change in found.changes:
        for b in range(3):
            before, after = own.order[b].tolist(), change.order[b].tolist()
            assert change.predicted[b] == after[0]
            assert change.own_rank[b] == after.index(before[0]) + 1
            assert change.true_rank[b] == after.index(4 + b) + 1
            assert change.top_overlap[b] == len({*before[:3]} & {*after[:3]}) / 3
            expected = spearmanr(own.scores[b], change.scores[b]).statistic
            assert change.correlation[b] == pytest.approx(expected)
            moved = np.abs(change.scores[b] - own.scores[b]).mean()
            assert change.score_change[b] == pytest.approx(moved / own.scores[b].std())


def test_dropped_classes_share_the_last_place_of_a_correlation():
    found = swapped(_network(REDUCED), _images())
    own, change = found.own.stages[-1], found.changes[0]
    assert found.top == 2  # five are asked for, two are left
    for b in range(3):
        ranked = [
            [order.index(c) if c in order else 99 for c in range(CLASSES)]
            for order in (own.order[b].tolist(), change.order[b].tolist())
        ]
        assert change.correlation[b] == pytest.approx(spearmanr(*ranked).statistic)


def test_rankings_without_any_order_have_no_correlation():
    torch.manual_seed(0)
    model = create_model("ctx_resnet_tiny:width=4:num_classes=1:prior_sizes=1,1,1")
    change = swapped(model, _images(2)).changes[0]
    assert np.isnan(change.correlation).all()
    assert np.isnan(change.score_change).all()


def test_places_counts_from_one():
    order = np.array([[3, 1, 2], [0, 2, 3]])
    found = places(order, np.array([[2, 0], [2, 0]]))
    np.testing.assert_array_equal(found, [[3, np.nan], [2, 1]])


def test_finds_the_network_inside_another():
    model, x = _network(), _images()
    found = priors(_Wrapped(model), x, labels=[1, 2, 3])
    for one, other in zip(found.stages, priors(model, 2 * x, labels=[1, 2, 3]).stages, strict=True):
        _same(one, other)
    _same(swapped(_Wrapped(model), x).changes[1], swapped(model, 2 * x).changes[1])
    assert contextual_part(_Wrapped(model)) == ("body.inner", model)


def test_a_compiled_network_is_the_network():
    model, x = _network(), _images()
    _same(priors(torch.compile(model), x).stages[-1], priors(model, x).stages[-1])


@pytest.mark.parametrize("spec", [TINY, "ctx_convnext_nano:width=4"])
def test_bfloat16_ranks_as_the_network_does(spec):
    torch.manual_seed(0)
    model = create_model(spec).bfloat16().eval()
    x = torch.randn(2, 3, 32, 32)
    found = priors(model, x)
    assert found.stages[0].scores.dtype == np.float32
    with torch.no_grad():
        rankings = model.rankings(x.bfloat16())
    for stage, (_, before) in zip(found.stages, rankings[1:], strict=False):
        assert np.array_equal(stage.order, before.numpy())  # also where scores tie
    assert (swapped(model, x, donors=(0, 1)).changes[0].score_change == 0).all()


def _state(model):
    modules = [
        (module.training, len(module._forward_hooks), len(module._forward_pre_hooks))
        for module in model.modules()
    ]
    return modules, [(p.requires_grad, id(p.grad)) for p in model.parameters()]


@pytest.mark.parametrize("look", [priors, swapped])
def test_the_network_comes_back_as_it_was(look):
    model = _network().train()
    model.backbone.layer1.eval()
    next(model.parameters()).requires_grad_(False)
    model.classes.weight.grad = torch.ones_like(model.classes.weight)
    before, values = _state(model), {k: v.clone() for k, v in model.state_dict().items()}
    look(model, _images())
    assert _state(model) == before
    assert all(torch.equal(values[k], v) for k, v in model.state_dict().items())


class _FailsAt(nn.Module):
    def __init__(self, model, call):
        super().__init__()
        self.model, self.left = model, call

    def forward(self, x):
        found = self.model(x)
        self.left -= 1
        if not self.left:
            raise RuntimeError("out of luck")
        return found


@pytest.mark.parametrize("call", [1, 2])
def test_the_network_comes_back_after_an_error(call):
    model = _FailsAt(_network().train(), call)
    before = _state(model)
    with pytest.raises(VisualizeError, match="out of luck"):
        swapped(model, _images())
    assert _state(model) == before


class _Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = create_model(TINY), create_model(TINY)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: create_model("resnet_tiny:width=4"),
            "ResNet ranks no classes between its stages. Networks with class priors: ctx_resnet50",
        ),
        (_Pair, r"_Pair holds 2 networks with class priors \(one, other\). Give one of them."),
        (
            lambda: _Wrapped(create_model(TINY), calls=2),
            "_Wrapped asks the class embedding 'body.inner.classes' 8 times for 4 ranked stages",
        ),
        (
            lambda: _Wrapped(create_model(TINY), calls=0),
            "_Wrapped asks the class embedding 'body.inner.classes' 0 times",
        ),
    ],
)
def test_networks_without_one_ranking_are_named(make, message):
    for look in (priors, swapped):
        with pytest.raises(VisualizeError, match=message):
            look(make(), _images())


def test_scores_must_be_finite():
    model = _network()
    nn.init.constant_(model.classes.weight, torch.nan)
    with pytest.raises(VisualizeError, match="gives scores that are not finite"):
        priors(model, _images())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": [1, 2]}, "2 labels do not fit 3 images"),
        ({"labels": [1, 2, 10]}, "Label 10 is none of the network's 10 classes. Give 0 to 9"),
        ({"labels": [1, -1, 2]}, "Label -1 is none"),
        ({"donors": [1, 0]}, r"donors=\(1, 0\) does not fit 3 images"),
        ({"donors": [1, 0, 3]}, r"donors=\(1, 0, 3\) does not fit 3 images. .* 0 to 2"),
        ({"top": 0}, "top=0 shows no class. Give 1 or more"),
    ],
)
def test_values_that_do_not_fit_are_named(options, message):
    with pytest.raises(VisualizeError, match=message):
        swapped(_network(), _images(), **options)


def test_one_image_has_no_donor():
    with pytest.raises(VisualizeError, match="One image alone has no other's prior"):
        swapped(_network(), _images(1))
    assert isinstance(swapped(_network(), _images(1), donors=[0]).own, Priors)


@pytest.mark.parametrize("options", [":prior=false", ":contextual_stages=none"])
def test_without_a_prior_there_is_nothing_to_exchange(options):
    with pytest.raises(
        VisualizeError, match="no stage takes a prior, so there is none to exchange"
    ):
        swapped(create_model(TINY + options), _images())
