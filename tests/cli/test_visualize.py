"""`ctxbench visualize KIND` as a user meets it."""

import csv
import io
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from ctxbench import cli, style
from ctxbench.ablate.checkpoint import WEIGHTS
from ctxbench.ablate.folder import folder_of
from ctxbench.records import read_rows
from tests.ablate import tiny

NET = "resnet_tiny:width=4"
CONTEXTUAL = "ctx_resnet_tiny:width=4"
DATA = "context:image_px=16:classes=2:train=8:validation=8:distance=5"
MANY = DATA.replace("validation=8", "validation=256")
ONE = ("--data", DATA, "--index", "0")
# kind -> what it is asked for
KINDS = {
    "gradcam": (NET, *ONE),
    "offsets": (CONTEXTUAL, *ONE),
    "kernels": ("cgc_resnet_tiny:width=4", *ONE),
    "priors": (CONTEXTUAL, "--data", DATA, "--index", "0,1"),
    "erf": (NET, "--probes", "1", *ONE),
    "cues": (f"{NET}:num_classes=2", "--data", DATA, "--index", "0-3"),
}
EXPERIMENT = f"""
title = "Two widths"
model = "resnet_tiny"
data = "{DATA}"
seeds = [0, 1]
[recipe]
epochs = 1
batch = 8
lr = 0.05
[grid.network]
Narrow = {{ "model.width" = 2 }}
Wide = {{ "model.width" = 4 }}
"""


def picture(seed, size=(20, 20)):
    """Return an image of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.fixture(scope="module", params=KINDS)
def drawn(request, tmp_path_factory):
    """What one kind leaves and prints."""
    kind, out = request.param, tmp_path_factory.mktemp(request.param) / "out"
    words = (*KINDS[kind], "--image-size", "16")
    done = CliRunner().invoke(
        cli.app, ["visualize", kind, *words, "--format", "json", "--out", str(out)]
    )
    rows = read_rows(kind, raw=out / "raw").rows
    return SimpleNamespace(
        kind=kind, out=out, rows=rows, code=done.exit_code, stdout=done.stdout, stderr=done.stderr,
        stems=[out / "figures" / name for name in dict.fromkeys(row["picture"] for row in rows)],
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Results of an experiment of two networks and two seeds."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "widths.toml").write_text(EXPERIMENT)
    words = ["ablate", str(folder / "widths.toml"), "--out", str(folder / "out"), "--quiet"]
    assert CliRunner().invoke(cli.app, words).exit_code == 0
    return folder / "out"


@pytest.fixture
def sketch(run, monkeypatch):
    """Run a command that saves empty files, as drawing their points takes long."""
    figures = []

    def save(figure, path):
        path.write_bytes(b"")
        if path.suffix == ".png":
            figures.append(figure)

    def _sketch(*words):
        return run("visualize", *words)

    monkeypatch.setattr(style, "save", save)
    _sketch.figures = figures
    return _sketch


@pytest.fixture
def rows(tmp_path):
    return lambda kind="gradcam", out=tmp_path / "results": read_rows(kind, raw=out / "raw").rows


@pytest.fixture
def images(tmp_path):
    """Images of noise in the folder where the command runs, and below it."""
    (tmp_path / "more" / "deep").mkdir(parents=True)
    for seed, name in enumerate(("one.png", "more/two.png", "more/deep/three.jpg")):
        picture(seed).save(tmp_path / name)
    (tmp_path / "more" / "notes.txt").write_text("no image")
    return tmp_path


def seen(found):
    """Return the values of the images' column, each once."""
    return list(dict.fromkeys(row["image"] for row in found))


def headings(figure):
    """Return the first line of what stands above each column."""
    return [axis.get_title().split("\n")[0] for axis in figure.axes if axis.get_title()]


# what every kind leaves


def test_each_kind_writes_pictures(drawn):
    assert drawn.code == 0
    assert drawn.stems
    for stem in drawn.stems:
        assert stem.parent == drawn.out / "figures" / drawn.kind
        with Image.open(f"{stem}.png") as image:
            assert min(image.size) > 200
        assert "<svg" in stem.with_name(f"{stem.name}.svg").read_text()


def test_each_kind_writes_the_numbers_behind_a_picture(drawn):
    for stem in drawn.stems:
        with np.load(f"{stem}.npz") as arrays:
            sizes = {name: arrays[name].size for name in arrays.files}
        assert sizes
        assert all(sizes.values()), sizes


def test_each_kind_prints_the_rows_that_it_appends(drawn):
    appended = [{k: v for k, v in row.items() if k != "stamp"} for row in drawn.rows]
    assert appended
    assert json.loads(drawn.stdout) == appended


def test_each_kind_says_where_its_pictures_are(drawn):
    assert drawn.stderr.splitlines() == [f"{stem}.png, .svg, .npz" for stem in drawn.stems]


def test_each_kind_leaves_nothing_else(drawn):
    left = {str(path.relative_to(drawn.out)) for path in drawn.out.rglob("*") if path.is_file()}
    made = {
        str(stem.relative_to(drawn.out)) + end
        for stem in drawn.stems for end in (".png", ".svg", ".npz")
    }  # fmt: skip
    assert left == {*made, f"raw/{drawn.kind}.jsonl"}


def test_each_kind_says_that_weights_are_random(drawn):
    assert {row["weights"] for row in drawn.rows} == {"random weights (seed 0)"}
    assert {row["trained"] for row in drawn.rows} == {False}


def test_a_table_has_a_line_for_each_row(sketch):
    code, out, _ = sketch("gradcam", NET, "coresnet_tiny:width=4", *ONE)
    assert code == 0
    head, _, *lines = out.splitlines()
    assert [line.split()[0] for line in lines] == [NET, "coresnet_tiny:width=4"]
    assert {"method", "image", "probability", "deletion"} < set(head.split())
    assert "picture" not in head


def test_a_table_has_a_column_for_each_statistic(sketch):
    _, out, _ = sketch("kernels", "coresnet_tiny:width=4", *ONE, "--format", "csv")
    found = list(csv.DictReader(io.StringIO(out)))
    assert [row["layer"] for row in found] == [f"layer{n}.0.conv2" for n in range(1, 5)]
    assert all(0 < float(row["energy_share_dilation1"]) <= 1 for row in found)


def test_quiet_says_nothing(sketch, tmp_path):
    code, out, err = sketch("gradcam", NET, *ONE, "--quiet")
    assert (code, err) == (0, "")
    assert out.splitlines()[2].startswith(NET)
    assert list((tmp_path / "results/figures/gradcam").glob("resnet_tiny-width=4-??????.npz"))


# names of pictures


def test_a_name_may_have_a_folder(sketch, rows, tmp_path):
    code, _, err = sketch("gradcam", NET, *ONE, "--name", "paper/figure2", "--out", "mine")
    assert (code, err) == (0, "mine/figures/paper/figure2.png, .svg, .npz\n")
    assert [row["picture"] for row in rows(out=tmp_path / "mine")] == ["paper/figure2"]
    assert sorted(path.suffix for path in (tmp_path / "mine/figures/paper").iterdir()) == [
        ".npz", ".png", ".svg",
    ]  # fmt: skip


def test_further_pages_are_numbered(sketch, rows, tmp_path):
    sketch("gradcam", NET, "--data", DATA, "--index", "0-4", "--name", "five")
    assert [row["picture"] for row in rows()] == ["five"] * 4 + ["five-2"]
    with np.load(tmp_path / "results/figures/five-2.npz") as arrays:
        assert [name.split()[2] for name in arrays["images"]] == ["4"]


def test_pictures_are_named_by_networks_and_not_by_images(sketch, rows, images):
    sketch("gradcam", NET, "coresnet_tiny:width=4", "one.png", str(images / "more"))
    (name,) = {row["picture"] for row in rows()}
    assert re.fullmatch(r"gradcam/resnet_tiny-width=4-coresnet_tiny-width=4-[0-9a-f]{6}", name)


def test_another_request_has_another_picture_and_the_same_one_the_same(sketch, rows):
    for words in (["--class", "1"], ["--class", "2"], ["--class", "1", "--quiet"]):
        sketch("gradcam", NET, *ONE, *words)
    first, second, again = (row["picture"] for row in rows())
    assert first == again != second


# words: networks, images, folders


def test_networks_files_and_folders_are_told_apart(sketch, rows, images):
    code, _, err = sketch("gradcam", NET, "coresnet_tiny:width=4", "one.png", str(images / "more"))
    assert code == 0, err
    found = [(row["model"], row["image"]) for row in rows()]
    names = ("one.png", "deep/three.jpg", "two.png")
    assert found == [(net, name) for net in (NET, "coresnet_tiny:width=4") for name in names]


def test_images_may_stand_before_networks(sketch, rows, images):
    del images
    assert sketch("gradcam", "one.png", NET)[0] == 0
    assert [(row["model"], row["image"]) for row in rows()] == [(NET, "one.png")]


def test_a_pattern_is_every_network_that_fits(sketch, rows):
    assert sketch("gradcam", "*resnet_tiny:width=4", *ONE)[0] == 0
    names = ("cgc_resnet_tiny", "coresnet_tiny", "ctx_resnet_tiny", "resnet_tiny")
    assert [row["model"] for row in rows()] == [f"{name}:width=4" for name in names]


def test_a_network_of_ones_own_file(sketch, rows, images):
    del images
    code, _, err = sketch("gradcam", tiny.NET, "one.png", "--image-size", "8", "--layer", "2")
    assert code == 0, err
    assert [(row["model"], row["layer"]) for row in rows()] == [(tiny.NET, "2")]


def test_a_broken_image_is_a_line_and_the_others_go_on(sketch, rows, images):
    (images / "more" / "broken.png").write_bytes(b"no image")
    code, out, err = sketch("gradcam", NET, "more")
    assert code == 0
    told, _ = err.splitlines()
    assert "broken.png" in told
    assert "it is in no format that Pillow knows." in told
    assert seen(rows()) == ["deep/three.jpg", "two.png"]
    assert "broken" not in out


def test_only_broken_images_are_a_mistake(sketch, rows, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    code, out, err = sketch("gradcam", NET, "broken.png")
    assert (code, out, rows()) == (2, "", [])
    assert err.splitlines()[-1] == (
        "ctxbench: Nothing to draw: the image 'broken.png' cannot be read."
    )


# images that nobody names


def test_without_images_there_are_two_photographs(sketch, rows):
    sketch("gradcam", NET, "--image-size", "32")
    assert seen(rows()) == ["china.jpg (scikit-learn)", "flower.jpg (scikit-learn)"]


def test_a_run_is_shown_images_of_its_data_of_all_classes(sketch, rows, trained):
    assert sketch("gradcam", "run:widths/wide/0", "--out", str(trained), "--name", "own")[0] == 0
    found = [row for row in rows(out=trained) if row["picture"] == "own"]
    assert len(found) == 4
    assert {row["label"] for row in found} == {0, 1}
    assert found[0]["image"].startswith("validation image ")


def test_images_of_data_may_be_chosen_for_a_run(sketch, rows, trained):
    words = ("run:widths/wide/0", "--index", "5", "--out", str(trained), "--name", "fifth")
    assert sketch("gradcam", *words)[0] == 0
    found = [row for row in rows(out=trained) if row["picture"] == "fifth"]
    assert [row["image"].split()[2] for row in found] == ["5"]


def test_files_are_shown_to_a_run_too(sketch, rows, trained, images):
    del images
    words = ("run:widths/wide/0", "one.png", "--out", str(trained), "--name", "file")
    assert sketch("gradcam", *words)[0] == 0
    assert seen(row for row in rows(out=trained) if row["picture"] == "file") == ["one.png"]


@pytest.mark.parametrize(
    ("kind", "words", "count"),
    [("cues", (f"{NET}:num_classes=2",), 256), ("erf", ("resnet_tiny:width=2",), 64)],
)
def test_means_are_over_many_images_of_data(sketch, rows, kind, words, count):
    code, _, err = sketch(kind, *words, "--data", MANY, "--image-size", "16")
    assert code == 0, err
    assert {row["images"] for row in rows(kind)} == {count}


def test_an_index_is_numbers_and_ranges(sketch, rows):
    sketch("gradcam", NET, "--data", DATA, "--index", "0, 3,5-7")
    assert [name.split()[2] for name in seen(rows())] == ["0", "3", "5", "6", "7"]


# networks that `ctxbench ablate` trained


@pytest.mark.parametrize(
    ("word", "titles"),
    [
        ("run:widths", [("Narrow", 0), ("Narrow", 1), ("Wide", 0), ("Wide", 1)]),
        ("run:widths/wide", [("Wide", 0), ("Wide", 1)]),
        ("run:widths/Narrow/1", [("Narrow", 1)]),
    ],
)
def test_runs_of_an_experiment_are_drawn_under_their_labels(sketch, trained, word, titles):
    words = (word, "--index", "0", "--out", str(trained), "--format", "json")
    code, out, err = sketch("gradcam", *words)
    assert code == 0, err
    (figure,) = sketch.figures
    _, *columns = headings(figure)  # the first is that of the images
    seeds = [int(row["weights"].split("seed ")[1][0]) for row in json.loads(out)]
    assert [row["network"] for row in json.loads(out)] == columns
    assert list(zip(columns, seeds, strict=True)) == titles


def test_the_beginning_of_an_id_is_a_run(sketch, rows, trained):
    run = rows("trials", trained)[-1]["trial"]
    words = (f"run:{run[:8]}", "--index", "0", "--out", str(trained), "--format", "json")
    code, out, err = sketch("gradcam", *words)
    assert code == 0, err
    (row,) = json.loads(out)
    assert (row["model"], row["trained"]) == (f"run:{run[:8]}", True)
    assert row["weights"].startswith(f"trained: run {run[:8]}, context:")
    assert "resnet_tiny:width=4" in headings(sketch.figures[0])


def test_seeds_of_one_label_are_one_column_of_cues(sketch, trained):
    words = ("run:widths", "--index", "0-3", "--out", str(trained))
    assert sketch("cues", *words)[0] == 0
    (figure,) = sketch.figures
    titles = [axis.get_title().splitlines()[:2] for axis in figure.axes if axis.get_title()]
    assert titles == [["Narrow", "trained, 2 seeds"], ["Wide", "trained, 2 seeds"]]


RUN_MISTAKES = [
    (("run:widths/Broad",), "widths has the labels Narrow, Wide and the seeds 0, 1."),
    (("run:widths/Wide/7",), "Write run:widths/LABEL/SEED."),
    (("run:zzzz",), "none of the 4 runs in "),
    (("run:",), "is the beginning of 4 runs: "),
    (("run:widths/Wide/0", "--checkpoint", "x.safetensors"), "has weights of its own."),
    (("run:widths/Wide/0", "--index", "8"), "has no validation image 8. It has 8: 0 to 7."),
]


@pytest.mark.parametrize(("words", "message"), RUN_MISTAKES)
def test_a_run_that_is_not_there_is_a_mistake(sketch, trained, words, message):
    code, out, err = sketch("gradcam", *words, "--out", str(trained))
    assert (code, out, sketch.figures) == (2, "", [])
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_run_where_none_was_trained_is_a_mistake(sketch):
    code, _, err = sketch("gradcam", "run:widths")
    assert code == 2
    assert "there are no runs in results/raw/trials.jsonl. Train with `ctxbench ablate" in err


def test_weights_may_come_from_a_file(sketch, rows, trained):
    run = rows("trials", trained)[-1]
    file = folder_of(trained, run["trial"]) / WEIGHTS
    code, _, err = sketch("gradcam", run["model"], *ONE, "--checkpoint", str(file))
    assert code == 0, err
    (row,) = rows()
    assert (row["weights"], row["trained"]) == (f"weights of {WEIGHTS}", True)


# options


def test_a_seed_decides_the_random_weights(sketch, rows):
    for seed in ("0", "1", "1"):
        sketch("gradcam", NET, *ONE, "--seed", seed, "--class", "0")
    first, second, again = rows()
    assert (first["weights"], second["weights"]) == tuple(
        f"random weights (seed {n})" for n in (0, 1)
    )
    assert first["score"] != second["score"] == again["score"]
    assert [row["stamp"]["seed"] for row in rows()] == [0, 1, 1]


def test_drawing_leaves_torchs_random_numbers(sketch):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    sketch("gradcam", NET, *ONE)
    assert torch.equal(torch.get_rng_state(), before)


def test_methods_are_a_list(sketch, rows):
    sketch("gradcam", NET, *ONE, "--method", "gradcam,hirescam")
    assert [row["method"] for row in rows()] == ["gradcam", "hirescam"]


def test_a_class_is_a_number_or_a_name(sketch, rows, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(f"thing {n}" for n in range(10)))
    for words in (("7",), ("thing 4", "--class-names", "names.txt")):
        assert sketch("gradcam", NET, *ONE, "--class", *words)[0] == 0
    found = [(row["class_index"], row["class_name"]) for row in rows()]
    assert found == [(7, "class 7"), (4, "thing 4")]


def test_an_image_size_is_what_the_network_sees(sketch, rows, tmp_path):
    sketch("gradcam", NET, *ONE, "--image-size", "24x40", "--name", "wide")
    with np.load(tmp_path / "results/figures/wide.npz") as arrays:
        assert arrays["shown_0"].shape == (1, 24, 40, 3)
    assert len(rows()) == 1


def test_layers_are_a_list(sketch, rows):
    names = ["backbone.layer2.0.conv2", "backbone.layer3.0.conv2"]
    sketch("offsets", CONTEXTUAL, *ONE, "--image-size", "16", "--layer", ", ".join(names))
    assert [row["layer"] for row in rows("offsets")] == names


def test_layers_of_kernels_are_a_list(sketch, rows):
    names = ["layer1.0.conv2", "layer4.0.conv2"]
    sketch("kernels", "coresnet_tiny:width=4", *ONE, "--layer", ",".join(names))
    assert [row["layer"] for row in rows("kernels")] == names


def test_positions_are_a_list(sketch, tmp_path):
    words = (CONTEXTUAL, *ONE, "--image-size", "16", "--name", "at")
    code, _, err = sketch("offsets", *words, "--at", "3,4; 10.5,12")
    assert code == 0, err
    with np.load(tmp_path / "results/figures/at.npz") as arrays:
        assert arrays["positions_yx"].tolist() == [[3, 4], [10.5, 12]]


# mistakes

MISTAKES = [
    (("resnet_tin:width=4",), "Unknown network 'resnet_tin'. Did you mean 'resnet_tiny'?"),
    (("x*",), "Unknown network 'x*'."),
    ((f"{NET}:level=3",), "Unknown option of resnet_tiny 'level'"),
    ((NET, "none.png"), "There is no image 'none.png', and no network of that name."),
    ((NET, "none/at/all"), "There is no image 'none/at/all', and no network of that name."),
    (("one.png",), "'one.png' names no network. Write networks first, then images."),
    ((NET, "empty"), "There are no images in the folder 'empty'"),
    ((NET, "one.png", *ONE), "Give either image files, or --data and --index."),
    ((NET, "one.png", "--index", "0"), "Give either image files, or --data and --index."),
    ((NET, "--index", "0"), "--index 0 is of images of --data, which is not given."),
    ((NET, "--data", "contxt"), "'contxt'"),
    ((NET, "--data", DATA, "--index", "0,8"), "has no validation image 8. It has 8: 0 to 7."),
    ((NET, *ONE, "--image-size", "big"), "--image-size 'big' is no size."),
    ((NET, *ONE, "--device", "tpu"), "tpu"),
    ((NET, *ONE, "--checkpoint", "none.pt"), "none.pt"),
    ((NET, *ONE, "--class-names", "none.txt"), "none.txt"),
    (
        (NET, *ONE, "--class", "cat"),
        "Class 'cat' is no number, and the names of the classes are not known.",
    ),
    ((NET, *ONE, "--class", "10"), "There is no class 10: the network's classes are 0 to 9."),
    ((NET, *ONE, "--layer", "layer9"), "Unknown layer 'layer9'."),
    ((NET, *ONE, "--method", "gradcm"), "'gradcm'. Did you mean 'gradcam'?"),
    ((NET, *ONE, "--method", "gradcam,"), "has an empty place between its commas."),
    ((NET, *ONE, "--out", "one.png"), "Cannot write to one.png/raw"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(sketch, images, words, message):
    (images / "empty").mkdir()
    code, out, err = sketch("gradcam", *words)
    assert (code, out, sketch.figures) == (2, "", [])
    assert err.startswith("ctxbench: ")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("text", ["a", "1-", "3-1", "-1", "1.5", "1 2", "0,b"])
def test_an_index_that_is_none_is_a_mistake(sketch, text):
    code, out, err = sketch("gradcam", NET, "--data", DATA, "--index", text)
    assert (code, out) == (2, "")
    assert err == f"ctxbench: --index {text!r} is no list of numbers. Write 0,3,5-9.\n"


@pytest.mark.parametrize("kind", ["offsets", "kernels"])
@pytest.mark.parametrize("text", ["3", "3,4;", "a,b", "1,2,3", "1;2"])
def test_a_position_that_is_none_is_a_mistake(sketch, kind, text):
    code, out, err = sketch(kind, CONTEXTUAL, *ONE, "--at", text)
    assert (code, out) == (2, "")
    assert err == f"ctxbench: --at {text!r} is no position. Write Y,X or Y,X;Y,X.\n"


KIND_MISTAKES = [
    (("offsets", CONTEXTUAL, *ONE, "--image-size", "16", "--at", "16,0"), "16"),
    (("offsets", CONTEXTUAL, *ONE, "--image-size", "16", "--at", "nan,0"), "nan"),
    (("offsets", NET, *ONE), "ResNet samples on the regular grid everywhere"),
    (("offsets", CONTEXTUAL, *ONE, "--image-size", "16", "--layer", "conv1"), "conv1"),
    (("kernels", NET, *ONE), "ResNet"),
    (("kernels", "coresnet_tiny:width=4", *ONE, "--layer", "fc"), "fc"),
    (("priors", NET, *ONE), "ResNet ranks no classes between its stages."),
    (("erf", NET, *ONE, "--layer", "layer9"), "layer9"),
    (("cues", NET, "--image-size", "32"), "china.jpg"),
]


@pytest.mark.parametrize(("words", "message"), KIND_MISTAKES)
def test_what_a_kind_cannot_draw_is_one_line(sketch, words, message):
    code, out, err = sketch(*words)
    assert (code, out, sketch.figures) == (2, "", [])
    assert err.startswith("ctxbench: ")
    assert message in err
    assert len(err.splitlines()) == 1


USAGE = [
    ("gradcam",), ("gradcm", NET), ("gradcam", NET, "--dtype", "fp64"),
    ("offsets", CONTEXTUAL, "--depth", "5"), ("priors", CONTEXTUAL, "--top", "0"),
    ("erf", NET, "--probes", "0"), ("erf", NET, "--format", "xml"), ("cues", NET, "--layer", "x"),
]  # fmt: skip


@pytest.mark.parametrize("words", USAGE)
def test_wrong_usage_is_exit_code_2(sketch, words):
    assert sketch(*words)[0] == 2
    assert sketch.figures == []


# what was drawn before a mistake


def test_a_file_in_the_way_of_the_pictures_is_one_line(sketch, rows, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "figures").write_text("in the way")
    code, out, err = sketch("gradcam", NET, *ONE)
    assert (code, out, rows()) == (2, "", [])
    assert err.startswith("ctxbench: Cannot write results/figures/gradcam/resnet_tiny-width=4-")
    assert len(err.splitlines()) == 1


def test_pages_before_one_that_cannot_be_written_stay(sketch, rows, tmp_path):
    (tmp_path / "results/figures/two-2.npz").mkdir(parents=True)
    words = (CONTEXTUAL, "--data", DATA, "--index", "0,1", "--image-size", "16", "--name", "two")
    code, out, err = sketch("offsets", *words, "--format", "json")
    assert (code, err.splitlines()[-1]) == (
        2, "ctxbench: Cannot write results/figures/two-2: Is a directory. Choose --out.",
    )  # fmt: skip
    assert {row["picture"] for row in rows("offsets")} == {"two"}
    assert [row["layer"] for row in json.loads(out)] == [row["layer"] for row in rows("offsets")]
    assert (tmp_path / "results/figures/two.npz").is_file()


def test_a_network_that_cannot_be_drawn_is_named_before_the_first_page(sketch, rows):
    code, out, err = sketch("offsets", CONTEXTUAL, NET, *ONE, "--image-size", "16")
    assert (code, out, rows("offsets")) == (2, "", [])
    assert err.startswith(f"ctxbench: {NET}: ResNet samples on the regular grid")


def test_pages_before_a_mistake_stay(sketch, rows, tmp_path):
    words = ("overlock_tiny:in_channels=1", *ONE, "--image-size", "32", "--at", "99,9")
    code, out, err = sketch("kernels", *words)
    assert code == 2
    assert "Position y=99, x=9 is outside the image" in err.splitlines()[-1]
    found = rows("kernels")
    assert {row["operator"] for row in found} == {"DilatedReparam"}
    assert "stage1.0.spatial" in out
    assert (tmp_path / f"results/figures/{found[0]['picture']}.npz").exists()


# help

SHARED = (
    "--checkpoint", "--data", "--index", "--class-names", "--image-size", "--dtype", "--device",
    "--seed", "--name", "--format", "--out", "--quiet",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_help_of_each_kind_lists_the_shared_options(run, kind):
    code, out, _ = run("visualize", kind, "--help")
    assert code == 0
    listed = {line.split()[0] for line in out.splitlines() if line.startswith("  --")}
    assert set(SHARED) < listed
    assert "SPEC... [IMAGE...]" in out


OWN = {
    "gradcam": {"--method", "--class", "--layer"},
    "offsets": {"--layer", "--at", "--depth"},
    "kernels": {"--layer", "--at"},
    "priors": {"--top"},
    "erf": {"--layer", "--probes"},
    "cues": set(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_help_of_each_kind_lists_its_own_options(run, kind):
    _, out, _ = run("visualize", kind, "--help")
    listed = {line.split()[0] for line in out.splitlines() if line.startswith("  --")}
    assert listed - {*SHARED, "--help"} == OWN[kind]


def test_help_lists_the_kinds(run):
    _, out, _ = run("visualize", "--help")
    commands = out.partition("Commands:")[2].splitlines()
    assert [line.split()[0] for line in commands if line.strip()] == list(KINDS)
