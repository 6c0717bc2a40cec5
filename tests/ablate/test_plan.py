"""From variants to trials: bound to their data, counted, named, and asked before they run."""

import random
import time
import tomllib

import numpy as np
import pytest
import torch

from ctxbench.ablate.experiment import ExperimentError
from ctxbench.ablate.experiment_file import parse
from ctxbench.ablate.plan import bound, estimate_s, load, plan, row_of
from ctxbench.ablate.train import train
from ctxbench.claims import load_claims
from ctxbench.errors import CtxbenchError, SpecError, UnknownNameError
from ctxbench.models import create_model
from tests.ablate.tiny import DATA, NET, images, run

LEVELS = """
[grid.levels]
"(1,1,1,1)" = { "model.levels" = "1,1,1,1" }
"(4,3,2,1)" = { "model.levels" = "4,3,2,1" }
"five of each" = { "model.levels" = "5,5,5,5" }
"""
PUBLISHED = '[published]\naxis = "levels"\npaper = "coconv"\ntable = "Table 3"\n'
ABSENT = '[grid]\nmodel.levels = ["1,1,1,1", "4,3,2,1"]\n'


def experiment(text="", *, model="coresnet_tiny:width=8", data=DATA, overrides=()):
    head = f'model = "{model}"\ndata = "{data}"\nseeds = [3, 4]\n[recipe]\nbatch = 16\n'
    return parse(tomllib.loads(head + text), "levels", overrides, where="levels.toml")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("coresnet_tiny", "coresnet_tiny:num_classes=3:in_channels=1"),
        ("coresnet_tiny:levels=2", "coresnet_tiny:levels=2:num_classes=3:in_channels=1"),
        ("resnet_tiny:num_classes=7", "resnet_tiny:num_classes=7:in_channels=1"),
        ("resnet_tiny:in_channels=1", "resnet_tiny:in_channels=1:num_classes=3"),
        (
            "resnet_tiny:replace=coconv:levels=2",
            "resnet_tiny:num_classes=3:in_channels=1:replace=coconv:levels=2",
        ),
        ("torchvision/resnet18", "torchvision/resnet18:num_classes=3"),
        ("torchvision/resnet18:num_classes=5", "torchvision/resnet18:num_classes=5"),
        (NET, NET),
        (f"{NET}:width=6", f"{NET}:width=6"),
    ],
)
def test_a_network_gets_the_classes_and_channels_of_its_data(spec, expected):
    assert bound(spec, images()) == expected


def test_without_data_a_network_stays_as_it_is():
    assert bound("coresnet_tiny", None) == "coresnet_tiny"


@pytest.mark.parametrize("spec", ["resnet_tiny", "torchvision/resnet18", "resnet_tiny:width=8"])
def test_fewer_classes_than_the_data_have(spec):
    with pytest.raises(
        SpecError, match=r"num_classes=2.* has fewer classes than its data.* have 3\."
    ):
        bound(f"{spec}:num_classes=2", images())


def test_a_network_that_is_prepared_for_inference_is_not_trained():
    with pytest.raises(
        CtxbenchError, match=r"prepared for inference. Train resnet_tiny:width=8\.$"
    ):
        plan(experiment("", model="resnet_tiny:width=8:prepared=true"))


def test_a_name_that_does_not_exist():
    with pytest.raises(UnknownNameError, match="Did you mean 'resnet_tiny'"):
        bound("resnet_tin", None)


def test_a_plan_has_a_trial_for_each_variant_and_seed():
    found = plan(experiment(ABSENT))
    assert [[trial.seed for trial in each.trials] for each in found] == [[3, 4], [3, 4]]
    trial = found[1].trials[0]
    assert trial.model == "coresnet_tiny:width=8:levels=4,3,2,1:num_classes=3:in_channels=1"
    assert (trial.data, trial.recipe.batch) == (DATA, 16)


def test_costs_are_those_of_one_image_of_the_data():
    (each,) = plan(experiment(model=NET))
    assert (each.params, each.macs) == (4 * 10 + 8 + 16 * 3 + 3, 8 * 8 * 4 * 9 + 16 * 3)
    assert each.classes == 3


def test_what_is_told_of_a_variant():
    each = plan(experiment(LEVELS))[1]
    told = each.told()
    assert told["variant"] == "levels (4,3,2,1)"
    assert told["model"] == "coresnet_tiny:width=8:levels=4,3,2,1:num_classes=3:in_channels=1"
    assert (told["data"], told["seeds"]) == (DATA, 2)
    assert told["params"] == sum(p.numel() for p in create_model(told["model"]).parameters())


@pytest.mark.parametrize(
    ("model", "text", "message"),
    [
        ("coresnet_tiny", '[grid]\nmodel.levels = ["1,1"]', r"^levels, levels 1,1: .*levels"),
        ("ctx_resnet_tiny", '[grid]\nmodel.prior_sizes = ["9,5,3"]', "asks for more classes than"),
        ("ctx_resnet_tiny", '[grid]\nmodel.prior_sizes = ["9,5,3"]', r"^levels, prior_sizes 9,5"),
        ("resnet_tiny", "[grid]\nmodel.num_classes = [2]", r"^levels, num_classes 2: .*fewer"),
        (
            "coresnet_tiny",
            "[grid]\nmodel.level = [1]",
            r"^levels, level 1: .*Did you mean 'levels'",
        ),
        ("coresnet_tin", "", r"^levels: .*Did you mean 'coresnet_tiny'"),
        ("coresnet_tiny:levels=1,1", "", r"^levels: coresnet_tiny"),
    ],
)
def test_an_error_names_the_variant(model, text, message):
    with pytest.raises(CtxbenchError, match=message):
        plan(experiment(text, model=model))


def test_a_network_that_cannot_take_the_images_is_an_error():
    message = r"^levels, epochs 2: .*cannot run on inputs \(1, 1, 8, 8\)"
    with pytest.raises(ExperimentError, match=message):
        plan(experiment("[grid]\nrecipe.epochs = [2]", model="torchvision/resnet18"))


def test_a_network_of_a_file_with_too_few_classes_is_an_error():
    with pytest.raises(CtxbenchError, match="classes"):
        plan(experiment(model=f"{NET}:classes=2"))


def test_a_batch_that_is_more_than_the_data_is_an_error():
    with pytest.raises(CtxbenchError, match=r"^levels, batch 65: .*more than the 64 training"):
        plan(experiment("[grid]\nrecipe.batch = [64, 65]", model=NET))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("digit", "Did you mean 'digits'"),
        ("context:distence=4", "Did you mean 'distance'"),
        ("nowhere.py:images", "there is no file 'nowhere.py'"),
        ("imagefolder:nowhere", "nowhere"),
    ],
)
def test_data_that_cannot_be(data, message):
    with pytest.raises(CtxbenchError, match=message):
        plan(experiment(data=data))


def test_published_figures_stand_beside_their_label():
    text = LEVELS + PUBLISHED
    found = [
        each["published"] for each in row_of(experiment(text), plan(experiment(text))).variants
    ]
    assert [row and (row["top1_error"], row["top5_error"]) for row in found] == [
        (23.88, 7.06), (22.73, 6.49), None,
    ]  # fmt: skip
    source = load_claims("coconv")[0].source
    assert (found[0]["data"], found[0]["source"]) == ("ImageNet", f"{source}, Table 3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("Table 3", "Table 33"), "prints no errors in 'Table 33', but in Table 3, Table 4"),
        (("Table 3", "Figure 3"), "prints no errors in 'Figure 3', but in"),
        (('"coconv"', '"cocnv"'), "Unknown paper 'cocnv'. Did you mean 'coconv'"),
    ],
)
def test_a_table_that_is_not_there(change, message):
    found = experiment(LEVELS + PUBLISHED.replace(*change))
    with pytest.raises(CtxbenchError, match=message):
        row_of(found, plan(found))


def test_a_row_says_what_is_compared():
    text = ABSENT + '[[expects]]\nwords = "w"\nbetter = {levels = "4,3,2,1"}\nthan = 50\n'
    found = experiment(text)
    planned = plan(found)
    row = row_of(found, planned)
    assert (row.experiment, row.axes) == ("levels", {"levels": ["1,1,1,1", "4,3,2,1"]})
    assert (row.baseline, row.seeds) == ({"levels": "1,1,1,1"}, [3, 4])
    assert row.expects == [
        {"words": "w", "better": {"levels": "4,3,2,1"}, "than": 50.0, "at_least": 1.0}
    ]
    first = row.variants[0]
    assert (first["classes"], first["recipe"]) == (3, {"batch": 16})
    assert first["trials"] == [trial.id for trial in planned[0].trials]


def ids(text=ABSENT, **given):
    return [trial.id for each in plan(experiment(text, **given)) for trial in each.trials]


def test_ids_are_all_different_and_stay():
    first = ids()
    assert len(set(first)) == 4
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in first)
    assert ids() == first


@pytest.mark.parametrize(
    "override", ["recipe.lr=0.2", "model.width=4", "augmentation.flip=0.5", "seeds=5,6"]
)
def test_ids_change_with_what_changes_the_result(override):
    assert not set(ids(overrides=[override])) & set(ids())


def test_a_trial_is_the_same_wherever_it_stands():
    small = '[grid]\nmodel.levels = ["4,3,2,1"]\n'
    assert ids(small) == ids()[2:]


def test_the_number_of_classes_written_out_is_the_same_trial():
    assert ids("", model="resnet_tiny:num_classes=3:in_channels=1") == ids("", model="resnet_tiny")


def test_absent_data_are_an_error_unless_only_asked():
    found = experiment(ABSENT, data="cifar10")
    with pytest.raises(CtxbenchError, match="--download"):
        plan(found)
    planned = plan(found, absent=True)
    assert [each.classes for each in planned] == [None, None]
    assert planned[0].trials[0].model == "coresnet_tiny:width=8:levels=1,1,1,1"
    assert planned[0].params > 0


def test_data_are_loaded_once():
    assert load(DATA) is load(DATA)


def test_an_estimate_is_of_the_right_order(tmp_path, monkeypatch):
    # the clock of this thread alone, which other load does not move
    monkeypatch.setattr("ctxbench.ablate.plan.time.monotonic", time.thread_time)
    (each,) = plan(experiment("epochs = 40\n", model=NET))
    estimate_s(each, run())  # what is slow the first time
    train(each.trials[0], tmp_path / "first", run(), stop=lambda: False, tell=lambda _: None)
    settings = run(checkpoint_s=1e9)
    guess, began = estimate_s(each, settings), time.thread_time()
    train(each.trials[1], tmp_path, settings, stop=lambda: False, tell=lambda _: None)
    took = time.thread_time() - began
    assert took / 5 < guess < took * 5


@pytest.mark.parametrize(("text", "factor"), [("epochs = 4\n", 2), ("epochs = 200\n", 100)])
def test_an_estimate_counts_the_epochs(text, factor, monkeypatch):
    now = iter(range(10**6))
    monkeypatch.setattr("ctxbench.ablate.plan.time.monotonic", lambda: next(now))
    (each,) = plan(experiment(text, model=NET))
    assert estimate_s(each, run()) == pytest.approx(2 * factor * (64 + (40 + 40) / 3) / 16, rel=0.1)


def test_minutes_are_what_they_are():
    (each,) = plan(experiment("minutes = 2\n", model=NET))
    assert estimate_s(each, run()) == 120


def test_an_estimate_changes_nothing_of_the_program_that_asks():
    (each,) = plan(experiment())
    threads, states = torch.get_num_threads(), _random_states()
    torch.set_num_threads(3)
    try:
        estimate_s(each, run())
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert _random_states() == states


def _random_states():
    numpy = np.random.get_state()
    return random.getstate(), numpy[1].tolist(), numpy[2], torch.get_rng_state().tolist()


def test_an_estimate_changes_nothing_of_the_data(tmp_path):
    (each,) = plan(experiment("epochs = 1\n", model=NET))
    first = train(each.trials[0], tmp_path / "a", run(), stop=lambda: False, tell=lambda _: None)
    estimate_s(each, run())
    again = train(each.trials[0], tmp_path / "b", run(), stop=lambda: False, tell=lambda _: None)
    assert first.weights == again.weights
