"""The functions: what they return, that they save only when asked, and how mistakes are told."""

import doctest
import importlib
import inspect

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

import ctxbench
from ctxbench import api
from ctxbench.cli import app
from ctxbench.errors import CtxbenchError, RecordsError, SpecError, UnknownNameError
from ctxbench.latency import compare
from ctxbench.latency.rows import LatencyRow
from ctxbench.visualize.subject import Image

MODULES = ("costs", "experiments", "pictures", "setup", "tables", "timing")
FUNCTIONS = {
    name: home
    for name, home in ctxbench._HOMES.items()
    if home.startswith("ctxbench.api.") and name.islower()
}
# a command -> its function
COUNTERPARTS = {
    "doctor": "check_setup",
    "models": "describe_models",
    "flops": "count_costs",
    "claims": "check_claims",
    "latency": "time_networks",
    "ablate": "run_experiment",
    "visualize": "draw_networks",
    "report": "build_report",
}
TINY = "coresnet_tiny:width=4:block=basic:blocks=1:levels=2"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Run in an empty folder, whose `results` must stay away."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small(channels=3):
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 2),
    )  # fmt: skip


# processes that are started and timed take a while
SLOW = {"time_networks": pytest.mark.slow}


@pytest.mark.parametrize("name", [pytest.param(n, marks=SLOW.get(n, ())) for n in FUNCTIONS])
def test_every_example_is_true(name):
    function = getattr(ctxbench, name)
    names = {key: getattr(ctxbench, key) for key in FUNCTIONS}
    (found,) = doctest.DocTestFinder(recurse=False).find(function, name, globs=names)
    if name == "experiment_table":
        assert not found.examples  # it needs trained networks; see below
        return
    assert found.examples
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    assert runner.run(found).failed == 0


def test_every_command_has_a_function():
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    commands |= {group.name for group in app.registered_groups}
    assert set(COUNTERPARTS) <= commands
    assert set(COUNTERPARTS.values()) <= set(FUNCTIONS)


def test_names_are_public_and_no_folders():
    assert set(FUNCTIONS) <= set(ctxbench.__all__)
    for name in FUNCTIONS:
        assert inspect.isfunction(getattr(ctxbench, name))


@pytest.mark.parametrize("name", MODULES)
def test_what_is_not_for_callers_begins_with_an_underscore(name):
    module = importlib.import_module(f"{api.__name__}.{name}")
    made = inspect.getmembers(module, lambda x: getattr(x, "__module__", "") == module.__name__)
    public = {key for key, value in made if not key.startswith("_") and callable(value)}
    assert public <= set(ctxbench.__all__)


# counting


def test_a_network_in_memory_counts_as_its_spec_does():
    model = ctxbench.create_model("coresnet_tiny").train()
    table = ctxbench.count_costs(
        {"mine": model, "spec": "coresnet_tiny"}, image_size=32, against="spec"
    )
    assert table["model"].tolist() == ["mine", "spec"]
    assert (table[["params_difference", "macs_difference"]] == 0).all(axis=None)
    assert model.training


def test_layers_of_a_replaced_network_cost_what_its_plain_form_does():
    plain, ours = small(), small()
    ours[0] = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1))
    table = ctxbench.count_costs(ours, against=plain, per_layer=True, image_size="8x10")
    assert table["model"].unique().tolist() == ["Sequential"]
    assert table["against"].unique().tolist() == ["Sequential (2)"]
    assert not table["equal"].all()
    own = table.loc[table["layer"].str.startswith("0"), "macs"].sum()
    assert own == 8 * 10 * (9 * 3 * 4 + 4 * 4)


def test_a_convention_and_the_count_of_torch_are_columns():
    table = ctxbench.count_costs("resnet_tiny", convention="fvcore", cross_check=True)
    assert table["fvcore"].item() > table["macs"].item() == table["torch_macs"].item()


def test_what_is_not_counted_is_warned_of():
    class Sorted(nn.Module):
        def forward(self, x):
            return torch.fft.fft2(x).abs()

    with pytest.warns(UserWarning, match="NOT COUNTED in Sorted"):
        table = ctxbench.count_costs(Sorted(), allow_uncounted=True, image_size=8)
    assert "fft" in table["uncounted"].item()[0]


def test_rows_are_saved_only_when_asked(folder):
    ctxbench.count_costs(TINY, per_layer=True, against="resnet_tiny")
    ctxbench.check_claims("cgc")
    assert list(folder.iterdir()) == []
    ctxbench.count_costs(TINY, per_layer=True, out=str(folder / "mine"))
    assert {p.stem for p in (folder / "mine/raw").iterdir()} == {"costs", "layers"}


def test_no_claim_with_a_verdict_is_an_empty_table():
    table = ctxbench.check_claims("cgc", verdict="refuted")
    assert len(table) == 0
    assert "published" in table


def test_numbers_are_numbers_beside_empty_cells():
    table = ctxbench.describe_models()
    assert table["params"].dtype == np.int64
    assert table["baseline"].isna().any()


# timing, with what is measured left out


def fake_measure(specs, conditions, *, against, **_):
    names = [*specs, *([against] if against else [])]
    model = ctxbench.create_model(names[0])  # another process can load it
    for condition in conditions:
        yield compare.Measured(
            [
                LatencyRow(
                    model=name, against=against if name != against else None, group=str(condition),
                    status="ok", device="cpu", device_name="a", threads=1, mode="inference",
                    batch=condition.batch, image_size=condition.image_size, dtype="fp32",
                    layout="contiguous", backend="eager", cache="warm",
                    params=sum(p.numel() for p in model.parameters()), macs=2, median_ms=3.0,
                    ratio=1.5 if name != against else None, phases_ms={"forward": 3.0},
                    notes=[f"{against} is disturbed"],
                )
                for name in names
            ]
        )  # fmt: skip


def test_networks_in_memory_are_timed_by_their_names(monkeypatch, folder):
    monkeypatch.setattr("ctxbench.api._times.measure_all", fake_measure)
    mine, plain = small(), small()
    table = ctxbench.time_networks(
        {"mine": mine}, against=plain, batch=[1, 8], image_size=16, out=folder / "out"
    )
    assert table["model"].tolist() == ["mine", "Sequential"] * 2
    assert table["batch"].tolist() == [1, 1, 8, 8]
    assert table["answer"].iloc[0].startswith("mine takes 1.50 times as long as Sequential")
    assert "Sequential is disturbed" in table["notes"].iloc[0]
    assert table["params"].iloc[0] == sum(p.numel() for p in mine.parameters())
    saved = ctxbench.read_rows("latency", results=folder / "out")
    assert saved["model"].tolist() == table["model"].tolist()


def test_a_name_in_a_note_stands_for_its_own_network_alone(monkeypatch):
    monkeypatch.setattr("ctxbench.api._times.measure_all", fake_measure)
    table = ctxbench.time_networks(
        {"mine": "op/conv:channels=8"}, against="op/conv:channels=80", image_size=8
    )
    assert table["notes"].iloc[0] == "op/conv:channels=80 is disturbed"


@pytest.mark.parametrize("against", ["a", "op/coconv"])
def test_one_network_under_two_names_is_not_timed(monkeypatch, against):
    monkeypatch.setattr("ctxbench.api._times.measure_all", fake_measure)
    with pytest.raises(CtxbenchError, match=r"a and b are both op/conv\. Name it once"):
        ctxbench.time_networks({"a": "op/conv", "b": "op/conv"}, against=against, image_size=8)


def test_a_class_that_another_process_cannot_import_is_told(monkeypatch):
    net = type("Net", (nn.Sequential,), {"__module__": "__main__"})(nn.Conv2d(3, 4, 3))
    with pytest.raises(CtxbenchError, match=r"Net is defined in the notebook.*FILE.py:FUNCTION"):
        ctxbench.time_networks(net)


def test_a_mistake_in_timing_names_the_network_as_the_caller_does():
    with pytest.raises(CtxbenchError, match=r"^mine: The network cannot run on inputs \(1, 3, 9"):
        ctxbench.time_networks({"mine": nn.Linear(3, 3)}, image_size=9)


# experiments


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    experiment = {
        "title": "levels",
        "data": "context:image_px=12:classes=2:distance=4:train=64:validation=32",
        "recipe": {"epochs": 1, "batch": 16},
        "seeds": (0, 1),
        "grid": {"model": [TINY, TINY.replace("levels=2", "levels=1")]},
    }
    return experiment, out, ctxbench.run_experiment(experiment, out=out)


def test_an_experiment_returns_its_variants_and_keeps_them_where_asked(trained):
    experiment, out, table = trained
    assert table["n"].tolist() == [2, 2]
    assert table["pairs"].isna().tolist() == [True, False]
    again = ctxbench.experiment_table("levels", results=str(out))
    assert again.equals(table)
    status = ctxbench.experiment_status(experiment, results=out)
    assert status["state"].tolist() == ["done"] * 4


def test_what_is_done_is_not_trained_again(trained):
    experiment, out, _ = trained
    events = []
    ctxbench.run_experiment(experiment, out=out, on_event=events.append)
    assert events == []


def test_trials_and_errors_of_an_experiment_are_tables(trained):
    _, out, table = trained
    trials = ctxbench.experiment_table("levels", of="trials", results=out)
    means = trials.groupby("variant", sort=False)["top1_error"].mean()
    assert means.to_numpy() == pytest.approx(table["top1_error"].to_numpy())
    errors = ctxbench.experiment_table("levels", of="errors", results=out)
    assert errors["difference_interval"].iloc[0] == "baseline"
    assert len(ctxbench.experiment_table("levels", of="expectations", results=out)) == 0


def test_a_trained_network_is_drawn_by_the_name_of_its_run(trained):
    _, out, _ = trained
    (picture,) = ctxbench.draw_networks(
        "gradcam", f"run:levels/{TINY}/0", index=[0, 1], results=str(out)
    )
    assert picture.table["trained"].all()
    assert len(picture.table) == 2


def test_an_experiment_without_a_place_keeps_nothing(folder):
    ctxbench.plan_experiment({"data": "digits:image_px=8", "model": TINY}, "seeds=0,1")
    assert list(folder.iterdir()) == []


def test_a_failed_trial_is_in_the_table(folder):
    table = ctxbench.run_experiment(
        {
            "data": "digits:image_px=8",
            "model": TINY,
            "recipe": {"lr": 1000.0, "weight_decay": 1000.0},
        }
    )
    assert table["failed"].item() == 1
    assert table["reasons"].item()


# pictures


def test_a_module_is_drawn_as_a_copy_in_eval_mode(folder):
    model = small().train()
    image = Image("grey", torch.full((1, 20, 30), 128, dtype=torch.uint8))
    (picture,) = ctxbench.draw_networks("gradcam", {"a:b=c": model}, image, target=1, image_size=16)
    assert picture.table["network"].tolist() == ["a:b=c"]
    assert picture.table["class_index"].tolist() == [1]
    assert model.training
    assert picture._repr_png_().startswith(b"\x89PNG")
    assert list(folder.iterdir()) == []


def test_a_module_sees_images_as_its_data_are(folder):
    (picture,) = ctxbench.draw_networks(
        "gradcam", small(channels=1), data="digits:image_px=8", index=[3]
    )
    assert picture.table["label"].notna().all()


def test_a_broken_image_is_warned_of_and_the_others_go_on(folder):
    (folder / "broken.png").write_bytes(b"no image")
    PIL.Image.new("RGB", (20, 20)).save(folder / "whole.png")
    with pytest.warns(UserWarning, match=r"broken\.png"):
        (picture,) = ctxbench.draw_networks(
            "gradcam", small(), ["broken.png", "whole.png"], image_size=16
        )
    assert picture.table["image"].tolist() == ["whole.png"]


def test_a_picture_saves_figure_and_numbers(folder):
    (picture,) = ctxbench.draw_networks("erf", small(), image_size=16, probes=1)
    paths = picture.save("deep/er/field.png")
    assert [path.name for path in paths] == ["field.png", "field.svg", "field.npz"]
    assert set(np.load(paths[2])) == set(picture.arrays)


def test_pictures_of_other_networks_or_images_do_not_replace_each_other(folder):
    networks, images = [small(), small()], [picture(0), picture(200)]
    pairs = [(networks[0], images[0]), (networks[0], images[1]), (networks[1], images[0])]
    for network, image in [*pairs, pairs[0]]:
        ctxbench.draw_networks("erf", network, [image], image_size=16, probes=1, out="o")
    rows = ctxbench.read_rows("erf", results="o")
    assert rows["picture"].nunique() == 3
    assert rows["picture"].iloc[0] == rows["picture"].iloc[-1]  # the same again is the same
    assert len(list((folder / "o/figures/erf").glob("*.png"))) == 3


def picture(brightness):
    pixels = torch.full((3, 20, 20), 90, dtype=torch.uint8)
    pixels[:, 5:15, 5:15] = brightness  # in the middle, which torch leaves out where it prints
    return Image("image", pixels)


def test_pictures_and_rows_are_saved_where_asked(folder):
    ctxbench.draw_networks("erf", small(), image_size=16, probes=1, out="o", name="mine/erf")
    assert (folder / "o/figures/mine/erf.svg").is_file()
    assert ctxbench.read_rows("erf", results="o")["picture"].item() == "mine/erf"


# mistakes

MISTAKES = {
    "count_costs": [
        (([],), {}, "No network is named"),
        ((3,), {}, "3 is no network"),
        ((nn.Linear,), {}, "Linear is a class"),
        (("resnet5",), {}, "Did you mean 'resnet50'"),
        (("resnet_tiny",), {"against": 3}, "3 is no network"),
        (("resnet_tiny",), {"image_size": "big"}, "image_size='big' is no size"),
        (("resnet_tiny",), {"image_size": (1, 2, 3)}, "is no size"),
        (("resnet_tiny",), {"batch": 0}, "batch=0 is no batch"),
        (("resnet_tiny",), {"convention": "flop"}, "flop"),
        (("resnet_tiny",), {"convention": "fvcore", "per_layer": True}, "per_layer"),
        ((nn.Linear(3, 3),), {}, r"Linear: .*ctxbench.count\(model, \*tensors\)"),
    ],
    "check_claims": [
        (("coconf",), {}, "Did you mean 'coconv'"),
        ((), {"verdict": "difers"}, "Did you mean 'differs'"),
    ],
    "time_networks": [
        (("resnet_tiny",), {"dtype": "fp8"}, "fp8"),
        (("resnet_tiny",), {"batch": 0}, "'0' is no batch"),
    ],
    "run_experiment": [
        (("no.toml",), {}, "Cannot read the experiment no.toml"),
        ((3,), {}, "3 is no experiment"),
        (({"data": "digits"},), {}, "no model"),
        (({"data": "digits", "model": TINY},), {"tensorboard": True}, "Give out"),
        (({"data": "digits", "model": TINY}, "epochs=3"), {}, "epochs"),
    ],
    "experiment_table": [(("levels",), {}, "Unknown experiment 'levels'")],
    "draw_networks": [
        (("erv", TINY), {}, "Did you mean 'erf'"),
        (("cues", TINY), {"layer": "layer1"}, "cues has no option 'layer'"),
        (("erf", TINY, "no.png"), {}, "no image or folder 'no.png'"),
        (("erf", TINY, 3), {}, "int is no image"),
        (("erf", TINY, "a.png"), {"index": [1]}, "either images, or data and index"),
        (("erf", TINY), {"index": [1]}, "data, which is not given"),
        (("erf", "op/coconv"), {}, "one operator"),
        (("erf", small()), {"checkpoint": "a.pth"}, r"load_checkpoint\(model, 'a.pth'\)"),
        (("erf", small()), {"out": "o", "name": "../x"}, "leads out of"),
        (("erf", nn.Conv2d(5, 1, 3)), {}, "5 channels"),
    ],
    "read_table": [(("cost",), {}, "Did you mean 'costs'"), (("costs",), {}, "ctxbench flops")],
    "read_rows": [(("cost",), {}, "Did you mean 'costs'"), (("costs",), {}, "none of any kind")],
    "build_report": [(([],), {}, "No folder"), (("no",), {}, "no rows in no/raw")],
    "describe_models": [(("resnet5",), {}, "called 'resnet5'")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "given", "options", "said"),
    [(name, *each) for name, several in MISTAKES.items() for each in several],
)
def test_a_mistake_is_told_in_one_line(name, given, options, said):
    with pytest.raises(CtxbenchError, match=said) as caught:
        getattr(ctxbench, name)(*given, **options)
    assert "\n" not in str(caught.value)


def test_mistakes_have_types():
    with pytest.raises(SpecError):
        ctxbench.count_costs([])
    with pytest.raises(UnknownNameError):
        ctxbench.read_table("cost")
    with pytest.raises(RecordsError):
        ctxbench.build_report("nowhere")
