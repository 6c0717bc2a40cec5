import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ctxbench.ablate.folder import folder_of
from ctxbench.ablate.train import train
from ctxbench.data import resolve
from ctxbench.data.augment import Augmentation, evaluation
from ctxbench.errors import (
    CheckpointError,
    CtxbenchError,
    DataError,
    UnknownNameError,
    VisualizeError,
)
from ctxbench.models import create_model
from ctxbench.records import append_rows, as_row
from ctxbench.visualize.load import data_of_run, photographs, some_images, subject_of
from tests.ablate import tiny

ID = "02eb2235c0ffee00"
OTHER = "02ff000000000000"
FAILED = "ab00000000000000"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return a folder of results: a training, a row whose weights are gone, and a failed one."""
    out = tmp_path_factory.mktemp("results")
    trial = tiny.trial(1, name=ID)
    row = train(trial, folder_of(out, ID), tiny.run(), stop=lambda: False, tell=lambda _: None)
    told = as_row(row)
    failed = {"trial": FAILED, "status": "failed", "reason": "the loss is nan\nat step 3."}
    older = {**told, "status": "failed", "reason": "first attempt"}
    append_rows(
        "trials", [older, told, {**told, "trial": OTHER}, {**told, **failed}], raw=out / "raw"
    )
    return out


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all((one[key] == other[key]).all() for key in one)


def test_a_network_has_random_weights_of_its_seed_and_says_so():
    subject = subject_of("resnet_tiny:width=4", device="cpu")
    assert (subject.spec, subject.title) == ("resnet_tiny:width=4", "resnet_tiny:width=4")
    assert subject.weights == "random weights (seed 0)"
    assert not subject.trained
    torch.manual_seed(3)
    expected = state(create_model("resnet_tiny:width=4"))
    assert same(state(subject_of("resnet_tiny:width=4", seed=3, device="cpu").model), expected)
    assert not same(state(subject.model), expected)


def test_the_random_numbers_of_others_are_left_alone(results):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    subject_of("resnet_tiny:width=4", device="cpu")
    subject_of(f"run:{ID}", out=results, device="cpu")
    with pytest.raises(UnknownNameError, match="resnet_tiny"):
        subject_of("resnet_tony", device="cpu")
    assert (torch.get_rng_state() == before).all()


def test_a_checkpoint_is_loaded_and_named(tmp_path):
    model = create_model("resnet_tiny:width=4")
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    subject = subject_of(
        "resnet_tiny:width=4", checkpoint=tmp_path / "mine.safetensors", device="cpu"
    )
    assert subject.weights == "weights of mine.safetensors"
    assert subject.trained
    assert same(state(subject.model), state(model))
    with pytest.raises(CheckpointError, match="does not fit"):
        subject_of("resnet_tiny", checkpoint=tmp_path / "mine.safetensors", device="cpu")


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_weights_and_inputs_have_the_type_that_is_asked_for(dtype):
    subject = subject_of("resnet_tiny:width=4", dtype=dtype, device="cpu")
    expected = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    sample = subject.sample(next(photographs()))
    assert {p.dtype for p in subject.model.parameters()} == {expected} == {sample.x.dtype}
    assert subject.model(sample.x[None]).shape == (1, 10)


def test_a_device_that_is_not_there_is_an_error():
    with pytest.raises(CtxbenchError, match="no device 'warp'"):
        subject_of("resnet_tiny", device="warp")


def test_a_size_is_taken(results):
    assert subject_of("resnet_tiny", size=(20, 24), device="cpu").preprocess.height == 20
    preprocess = subject_of(f"run:{ID}", out=results, size=(20, 24), device="cpu").preprocess
    assert (preprocess.height, preprocess.width, preprocess.mean) == (20, 24, (0.3,))


@pytest.mark.parametrize("wanted", [ID, "02eb", f" {ID[:8]}"])
def test_a_run_has_the_weights_that_it_ended_with(results, wanted):
    subject = subject_of(f"run:{wanted}", out=results, device="cpu")
    row = [json.loads(line) for line in (results / "raw/trials.jsonl").read_text().splitlines()][1]
    assert subject.trained
    assert subject.title == "tiny.py:net"
    assert subject.weights == (
        f"trained: run 02eb2235, tiny.py:images, seed 1, top-1 error {row['top1_error']:.1f} %"
    )
    data = resolve(tiny.DATA).load()
    samples = [
        subject.sample(image) for image in some_images(data_of_run(f"run:{ID}", results), 40)
    ]
    found = subject.model(torch.stack([sample.x for sample in samples])).argmax(1).tolist()
    wrong = sum(a != sample.label for a, sample in zip(found, samples, strict=True))
    assert len(samples) == len(data.validation) == 40
    assert row["top1_error"] == pytest.approx(100 * wrong / 40)


def test_a_run_sees_its_images_as_its_evaluation_did(results):
    subject = subject_of(f"run:{ID}", out=results, device="cpu")
    data = resolve(tiny.DATA).load()
    expected = evaluation(data, Augmentation())
    for image in some_images(data_of_run(f"run:{ID}", results), 4):
        torch.testing.assert_close(subject.sample(image).x, expected(image.pixels))


def test_a_run_on_files_frames_them_as_its_evaluation_did(tmp_path):
    from PIL import Image

    for place in ("train/ant", "train/bee", "val/ant", "val/bee"):
        (tmp_path / "data" / place).mkdir(parents=True)
        Image.effect_mandelbrot((90, 60), (-2, -1.5, 1, 1.5), 50).convert("RGB").save(
            tmp_path / "data" / place / "0.png"
        )
    spec, model = (
        f"imagefolder:{tmp_path / 'data'}:image_px=40",
        "resnet_tiny:width=4:num_classes=2",
    )
    framed = {"eval_crop": 0.8, "interpolation": "bicubic"}
    row = {"trial": "f0", "model": model, "data": spec, "augmentation": framed, "seed": 0}
    append_rows("trials", [{**row, "status": "ok"}], raw=tmp_path / "raw")
    folder_of(tmp_path, "f0").mkdir(parents=True)
    save_file(create_model(model).state_dict(), folder_of(tmp_path, "f0") / "weights.safetensors")
    subject = subject_of("run:f0", out=tmp_path, device="cpu")
    expected = evaluation(resolve(spec).load(), Augmentation(**framed))
    (first, second) = some_images(data_of_run("run:f0", tmp_path), 4)
    torch.testing.assert_close(subject.sample(first).x, expected(first.pixels))
    assert (first.label, second.label) == (0, 1)
    assert subject.class_names == ("ant", "bee")
    assert subject.weights == "trained: run f0, imagefolder:data:image_px=40, seed 0"
    assert subject.title == "resnet_tiny:width=4"


def test_images_of_a_run_are_of_different_classes_and_of_others_photographs(results):
    assert data_of_run(f"run:{ID[:4]}", results) == tiny.DATA
    assert data_of_run("resnet_tiny", results) is None
    labels = [image.label for image in some_images(data_of_run(f"run:{ID}", results), 3)]
    assert labels == [0, 1, 2]
    names = [image.name for image in photographs()]
    assert names == ["china.jpg (scikit-learn)", "flower.jpg (scikit-learn)"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("77", f"none of the 3 runs in .*trials.jsonl has that ID. Near it are .*{FAILED[:2]}"),
        ("02eb2236c0ffee00", f"none of the 3 runs .* Near it are {ID}"),
        ("02", f"run:02 is the beginning of 2 runs: {ID}, {OTHER}. Write more of it"),
        ("", "is the beginning of 3 runs"),
        (FAILED, f"Run {FAILED} has no weights, since it has failed: the loss is nan at step 3.$"),
        (OTHER, f"Run {OTHER}: its weights are not in .*trials/{OTHER}: train it again with "
                "`ctxbench ablate FILE --weights`"),
    ],
)  # fmt: skip
def test_a_run_that_cannot_be_drawn_is_told_in_a_line(results, wanted, message):
    with pytest.raises(VisualizeError, match=message) as error:
        subject_of(f"run:{wanted}", out=results, device="cpu")
    assert "\n" not in str(error.value)


def test_without_any_run_the_way_to_one_is_told(tmp_path):
    with pytest.raises(VisualizeError, match="run:ab: there are no runs in .*ablate FILE"):
        subject_of("run:ab", out=tmp_path, device="cpu")


def test_weights_that_are_not_those_of_the_row_are_not_drawn(results, tmp_path):
    lines = (results / "raw/trials.jsonl").read_text().splitlines()
    append_rows("trials", [json.loads(lines[1])], raw=tmp_path / "raw")
    folder = folder_of(tmp_path, ID)
    folder.mkdir(parents=True)
    save_file(create_model(tiny.NET).state_dict(), folder / "weights.safetensors")
    with pytest.raises(VisualizeError, match="is not what its row tells of"):
        subject_of(f"run:{ID}", out=tmp_path, device="cpu")


def test_a_run_takes_no_checkpoint(results, tmp_path):
    with pytest.raises(VisualizeError, match=f"run:{ID} has weights of its own.*tiny.py:net"):
        subject_of(f"run:{ID}", out=results, checkpoint=tmp_path / "a.pt", device="cpu")


def test_a_run_whose_data_are_gone_is_told_in_a_line(results, tmp_path):
    row = json.loads((results / "raw/trials.jsonl").read_text().splitlines()[1])
    append_rows("trials", [{**row, "data": f"imagefolder:{tmp_path}"}], raw=tmp_path / "raw")
    folder_of(tmp_path, ID).mkdir(parents=True)
    weights = folder_of(results, ID) / "weights.safetensors"
    (folder_of(tmp_path, ID) / weights.name).write_bytes(weights.read_bytes())
    with pytest.raises(DataError, match="there is no folder"):
        subject_of(f"run:{ID}", out=tmp_path, device="cpu")


def test_a_subject_rests_and_has_names(tmp_path):
    (tmp_path / "names.txt").write_text("\n".join("abcdefghij"))
    subject = subject_of("resnet_tiny", class_names=tmp_path / "names.txt", device="cpu")
    assert not any(module.training for module in subject.model.modules())
    assert isinstance(subject.model, nn.Module)
    assert subject.class_names == tuple("abcdefghij")
    assert subject_of("resnet_tiny", device="cpu").class_names is None


def test_an_unknown_run_names_the_experiments_too(tmp_path):
    append_rows("trials", [{"trial": ID, "status": "ok"}], raw=tmp_path / "raw")
    append_rows("experiments", [{"experiment": "mine"}], raw=tmp_path / "raw")
    with pytest.raises(VisualizeError, match=r"^run:mien: .*, or an experiment: mine\.$"):
        subject_of("run:mien", out=tmp_path, device="cpu")
