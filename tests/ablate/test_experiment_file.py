"""Experiment files: what they say, and what is said of a mistake in them."""

import tomllib

import pytest

from ctxbench.ablate.experiment import ExperimentError, with_option
from ctxbench.ablate.experiment_file import parse, read
from ctxbench.errors import CtxbenchError, UnknownNameError

WHOLE = """
title = "Levels"
model = "coresnet_tiny:width=8"
data = "context"
seeds = [3, 4]
baseline = { levels = "1,1,1,1" }

[recipe]
epochs = 4
lr = 1
milestones = [2, 3]
schedule = "step"
amp = "bf16"
nesterov = true

[augmentation]
flip = 0.5

[grid]
model.levels = ["1,1,1,1", "4,3,2,1"]
data.distance = [4, 8]
[grid.training]
short = { "recipe.epochs" = 3 }
long = {}

[[expects]]
words = "several levels beat one"
better = { levels = "4,3,2,1", distance = 8 }
than = { levels = "1,1,1,1", distance = 8 }
at_least = 2

[[expects]]
words = "better than guessing"
better = { levels = "4,3,2,1" }
than = 75
"""


def experiment(text=WHOLE, *overrides):
    return parse(tomllib.loads(text), "levels", overrides, where="levels.toml")


def test_the_grid_is_the_product_of_its_axes():
    variants = experiment().variants()
    assert len(variants) == 2 * 2 * 2
    assert variants[1].labels == {"levels": "1,1,1,1", "distance": "4", "training": "long"}
    assert variants[-1].model == "coresnet_tiny:width=8:levels=4,3,2,1"
    assert variants[-1].data == "context:distance=8"
    assert [v.recipe.epochs for v in variants[:2]] == [3, 4]


def test_values_are_of_their_type():
    recipe = experiment().variants()[0].recipe
    assert recipe.lr == 1.0
    assert isinstance(recipe.lr, float)
    assert recipe.milestones == (2, 3)
    assert (recipe.schedule, recipe.amp, recipe.nesterov) == ("step", "bf16", True)
    assert experiment().variants()[0].augmentation.flip == 0.5


def test_expectations_and_baseline():
    found = experiment()
    assert found.baseline == {"levels": "1,1,1,1"}
    assert found.expects[0].better == {"levels": "4,3,2,1", "distance": "8"}
    assert (found.expects[0].at_least, found.expects[1].than) == (2.0, 75.0)


def test_without_a_baseline_the_first_label_of_the_first_axis_is_it():
    found = experiment(WHOLE.replace('baseline = { levels = "1,1,1,1" }', ""))
    assert found.baseline == {"levels": "1,1,1,1"}


def test_a_new_network_forgets_the_options_of_the_old_one():
    found = experiment(
        'model = "coresnet_tiny"\ndata = "digits"\n[grid.net]\n'
        'a = {"model.levels" = "1,1,1,1"}\nb = {model = "resnet_tiny"}'
    )
    assert [v.model for v in found.variants()] == ["coresnet_tiny:levels=1,1,1,1", "resnet_tiny"]


def test_overrides():
    found = experiment(WHOLE, "recipe.lr=0.5", "model.width=4", "seeds=7,9")
    first = found.variants()[0]
    assert (first.recipe.lr, found.seeds) == (0.5, (7, 9))
    assert first.model == "coresnet_tiny:levels=1,1,1,1:width=4"
    assert found.name == "levels (recipe.lr=0.5, model.width=4, seeds=7,9)"


def test_an_override_takes_the_place_of_an_axis():
    found = experiment(WHOLE, "data.distance=6")
    assert {v.data for v in found.variants()} == {"context:distance=6"}
    assert [entry.words for entry in found.expects] == ["better than guessing"]
    several = experiment(WHOLE, "data.distance=2,8")
    assert [axis.choices.keys() for axis in several.axes][1] == {"2", "8"}
    assert len(several.expects) == 2


def test_a_value_that_is_a_list_is_one_value():
    found = experiment(WHOLE, "model.levels=3,3,2,1")
    assert {v.labels["levels"] for v in found.variants()} == {"3,3,2,1"}
    assert found.variants()[0].model == "coresnet_tiny:width=8:levels=3,3,2,1"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('[grid.network]\nplain = { "model.levels" = "1,1,1,1" }', "both set model.levels"),
        ('[grid.distance]\nnear = { "data.noise" = 0 }', "two axes are named 'distance'"),
    ],
)
def test_two_axes_do_not_undo_each_other(more, message):
    with pytest.raises(ExperimentError, match=message):
        experiment(WHOLE.replace("[[expects]]", f"{more}\n[[expects]]", 1))


def test_an_option_stands_before_what_replaces_convolutions():
    spec = "resnet_tiny:replace=cgc:groups=2"
    assert with_option(spec, "width", "8") == "resnet_tiny:width=8:replace=cgc:groups=2"
    assert with_option("resnet_tiny:width=4", "width", "8") == "resnet_tiny:width=8"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("title", "titel"), r"key of levels.toml 'titel'. Did you mean 'title'"),
        (("seeds = [3, 4]", "epochs = 4"), r"'epochs' stands alone. It belongs into \[recipe\]"),
        (("at_least = 2", "at_least = -1"), r"at_least = -1 are no percentage points"),
        (("epochs = 4", "epoch = 4"), r"\[recipe\] in levels.toml 'epoch'. Did you mean 'epochs'"),
        (("epochs = 4", 'epochs = "4"'), r"recipe.epochs = '4' is text, not a whole number"),
        (("epochs = 4", "epochs = 4.5"), r"recipe.epochs = '4.5' is not a whole number"),
        (("epochs = 4", "epochs = 0"), r"epochs=0 is out of range"),
        (("lr = 1", "lr = true"), r"recipe.lr = 'true' is not a number"),
        (('"bf16"', '"bf17"'), r"recipe.amp = 'bf17' is not none or bf16 or fp16"),
        (("nesterov = true", "nesterov = 1"), r"recipe.nesterov = '1' is not true or false"),
        (("seeds = [3, 4]", "seeds = [3, 3]"), r"\[3, 3\] are not whole numbers, each once"),
        (("seeds = [3, 4]", "seeds = []"), r"not whole numbers"),
        (("seeds = [3, 4]", "seeds = 3"), r"seeds = 3 is not a list"),
        (("{ levels = \"1,1,1,1\" }\n\n[rec", "{ level = \"1\" }\n\n[rec"), r"axis in baseline"),
        (("distance = 8 }\nat", "distance = 7 }\nat"), r"label of distance in expects.than"),
        (("words = \"several levels beat one\"\n", ""), r"no 'words'"),
        (("at_least = 2", "atleast = 2"), r"'atleast'. Did you mean 'at_least'"),
        (("flip = 0.5", "flop = 0.5"), r"\[augmentation\] in levels.toml 'flop'. Did"),
        (("flip = 0.5", "flip = 2.0"), r"flip"),
        (("[4, 8]", "[4, 4]"), r"axis 'distance' has no values, or one of them twice"),
        (("[4, 8]", "[]"), r"axis 'distance' has no values"),
        (('"recipe.epochs" = 3', '"recipes.epochs" = 3'), r"'recipes.epochs'. Did you mean"),
        (('model = "coresnet_tiny:width=8"\n', ""), r"no model. Write model = "),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)  # fmt: skip
def test_mistakes_are_named(change, message):
    before, after = change
    text = WHOLE.replace(before, after, 1)
    assert text != WHOLE
    if "no model" in message:
        text = text.replace("model.levels = ", "recipe.lr = ").replace('"1,1,1,1", "4,3,2,1"', "1")
        text = text.split("[[expects]]")[0].replace('baseline = { levels = "1,1,1,1" }', "")
    with pytest.raises(CtxbenchError, match=message):
        experiment(text)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("recipe.epoch=3", "Did you mean 'epochs'"),
        ("recipe.epochs=many", "recipe.epochs = 'many' is not a whole number"),
        ("epochs=3", "setting of --set 'epochs'"),
        ("recipe.epochs", "not of the form"),
        ("seeds=a", "seeds=a are not whole numbers"),
        ("model=resnet_tiny", "--set model would undo the axis 'levels'"),
    ],
)
def test_mistaken_overrides_are_named(override, message):
    with pytest.raises(CtxbenchError, match=message):
        experiment(WHOLE, override)


def test_files_that_are_none(tmp_path):
    with pytest.raises(ExperimentError, match="Cannot read the experiment .*absent.toml"):
        read(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("title = ")
    with pytest.raises(ExperimentError, match=r"bad.toml is no TOML"):
        read(tmp_path / "bad.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ExperimentError, match=r"is no TOML"):
        read(tmp_path / "binary.toml")


def test_published_figures_need_their_keys():
    head, tail = WHOLE.split("[recipe]")
    table = '[published]\naxis = "levels"\npaper = "coconv"\n'
    with pytest.raises(ExperimentError, match=r"\[published\] lacks 'table'"):
        experiment(f"{head}{table}[recipe]{tail}")
    table = '[published]\naxis = "level"\npaper = "coconv"\ntable = "Table 3"\n'
    with pytest.raises(UnknownNameError, match="Did you mean 'levels'"):
        experiment(f"{head}{table}[recipe]{tail}")
