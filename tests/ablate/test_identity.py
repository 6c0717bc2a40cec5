"""The id of a trial changes with all that changes its result, and with nothing else."""

import dataclasses
import shutil
from types import SimpleNamespace

import pytest

from ctxbench.ablate import identity
from ctxbench.ablate.recipe import Recipe
from ctxbench.data import resolve
from ctxbench.data.augment import Augmentation
from tests.ablate.tiny import DATA, NET

PACKAGE = identity._PACKAGE


def name_of(model="coresnet_tiny", data="digits", recipe=None, augmentation=None, seed=0):
    return identity.trial_id(
        model, resolve(data), recipe or Recipe(), augmentation or Augmentation(), seed
    )


def test_it_is_the_same_for_the_same():
    assert name_of() == name_of()
    assert name_of("coresnet_tiny:width=8:levels=1,1,1,1") == name_of(
        "coresnet_tiny:levels=1,1,1,1:width=8"
    )
    assert len(name_of()) == 16


@pytest.mark.parametrize(
    "change",
    [
        {"model": "resnet_tiny"},
        {"model": "coresnet_tiny:width=8"},
        {"model": "coresnet_tiny:replace=cgc"},
        {"data": "digits:image_px=16"},
        {"data": "context"},
        {"recipe": Recipe(lr=0.2)},
        {"augmentation": Augmentation(flip=0.5)},
        {"seed": 1},
    ],
    ids=str,
)
def test_it_changes_with_what_is_asked_for(change):
    assert name_of(**change) != name_of()


@pytest.mark.parametrize("field", dataclasses.fields(Recipe), ids=lambda field: field.name)
def test_every_field_of_a_recipe_counts(field):
    values = {int: 2, float: 0.5, bool: not field.default, str: "other", tuple: (1,)}
    value = values.get(type(field.default), 0.5)
    changed = Recipe()
    object.__setattr__(changed, field.name, value)
    assert name_of(recipe=changed) != name_of()


def files_of(model, data="digits"):
    roots = [identity.Path(str(identity.step.__file__)), *identity._files_of(model)]
    found = identity.closure([*roots, *resolve(data).files])
    return {str(path.relative_to(PACKAGE)) for path in found if path.is_relative_to(PACKAGE)}


def test_the_code_that_counts_is_that_of_the_parts_used():
    plain, co, lock = (files_of(m) for m in ("resnet_tiny", "coresnet_tiny", "overlock_tiny"))
    assert "models/resnet.py" in plain
    assert "ops/coconv.py" not in plain
    assert {"ops/coconv.py", "ops/_conv.py", "models/coresnet.py", "models/resnet.py"} <= co
    assert "ops/contmix.py" in lock
    assert not {"ops/coconv.py", "ops/contmix.py", "models/overlock.py"} & plain
    assert "data/digits.py" in plain
    assert "data/context.py" not in plain
    assert "ops/cgc.py" in files_of("resnet_tiny:replace=cgc")


def changed(tmp_path, file, before, after):
    """Return the id of a trial when a file of the package reads otherwise."""
    copy = tmp_path / "ctxbench"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    text = (copy / file).read_text()
    assert before in text
    (copy / file).write_text(text.replace(before, after, 1))
    real = identity._file
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity, "_PACKAGE", copy)
        patch.setattr(identity, "_file", lambda f: copy / real(f).relative_to(PACKAGE))
        return name_of()


def test_a_comment_changes_nothing_and_a_number_does(tmp_path):
    before = name_of()
    file = "models/resnet.py"
    said = changed(tmp_path / "a", file, "def resnet(", "# why\n\n\ndef resnet(")
    assert said == before
    done = changed(tmp_path / "b", file, "nn.MaxPool2d(3, 2, 1)", "nn.MaxPool2d(3, 2)")
    assert done != before


def test_a_change_of_another_network_changes_nothing(tmp_path):
    before = name_of()
    file = "models/overlock.py"
    after = changed(tmp_path, file, "auxiliary_weight: float = 0.4", "aux: float = 1")
    assert after == before


def test_the_users_own_files_count(tmp_path):
    first = name_of(NET, DATA)
    copy = tmp_path / "tiny.py"
    copy.write_text(identity.Path(NET.rpartition(":")[0]).read_text().replace("+= 100", "+= 90"))
    same_name = f"{copy}:net", f"{copy}:images"
    code = identity.code_of(same_name[0], resolve(same_name[1]))
    assert code != identity.code_of(NET, resolve(DATA))
    assert first == name_of(NET, DATA)


def test_what_a_folder_of_images_holds_counts(tmp_path):
    def data(files):
        return SimpleNamespace(train=SimpleNamespace(files=files), validation=object())

    first = identity.contents_of(data([("/a/train/cat/1.png", 0)]))
    assert first == identity.contents_of(data([("/b/train/cat/1.png", 0)]))
    assert first != identity.contents_of(data([("/a/train/cat/2.png", 0)]))
    assert identity.contents_of(resolve("digits").load()) is None
    source = resolve("digits")
    ids = {
        identity.trial_id("resnet_tiny", source, Recipe(), Augmentation(), 0, contents)
        for contents in (None, "a", "b")
    }
    assert len(ids) == 3


def test_a_file_beside_the_users_own_counts(tmp_path):
    (tmp_path / "beside.py").write_text("WIDTH = 4\n")
    (tmp_path / "mine.py").write_text("from beside import WIDTH\n")
    assert identity.closure([tmp_path / "mine.py"]) == {
        tmp_path / "mine.py",
        tmp_path / "beside.py",
    }


def test_the_kernels_of_an_operator_count_on_every_backend_and_no_others():
    co, ctx = files_of("coresnet_tiny"), files_of("ctx_resnet_tiny")
    for room, found in (("coconv", co), ("ctxconv", ctx)):
        written = (PACKAGE / "kernels" / room).glob("*.py")
        assert {f"kernels/{room}/{path.name}" for path in written} <= found
    assert "kernels/_backend.py" in co
    assert not any(path.startswith("kernels/contmix") for path in co | ctx)
    assert name_of("coresnet_tiny:backend=torch") != name_of("coresnet_tiny")
