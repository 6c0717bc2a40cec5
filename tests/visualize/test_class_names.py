import json

import pytest
from torch import nn

from ctxbench.errors import VisualizeError
from ctxbench.visualize.class_names import (
    class_index,
    class_names_of,
    classes_of,
    known_names,
    names_of_folders,
)

NAMES = ("tench", "tabby cat", "Egyptian cat", "crane", "crane", "7up")
NET = nn.Identity()


def written(tmp_path, content):
    path = tmp_path / "names"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("spec", "classes"),
    [
        ("resnet_tiny", 10),
        ("resnet50", 1000),
        ("resnet_tiny:num_classes=7", 7),
        ("resnet_tiny:num_classes=7:replace=coconv:levels=2", 7),
        ("torchvision/resnet18", 1000),
        ("torchvision/resnet18:num_classes=5", 5),
        ("torchvision/fcn_resnet50", 21),
        ("nets.py:net", None),
        ("nets.py:net:num_classes=4", 4),
    ],
)
def test_classes_are_counted_from_the_spec(spec, classes):
    assert classes_of(spec, NET) == classes


def test_a_network_may_say_how_many_classes_it_has():
    model = nn.Identity()
    model.num_classes = 12
    assert classes_of("timm/resnet18", model) == 12
    model.num_classes = "many"
    assert classes_of("nets.py:net", model) is None


def test_names_are_those_of_imagenet_where_there_are_as_many():
    model = nn.Identity()
    model.num_classes = 1000
    for spec in ("resnet50", "timm/resnet18", "torchvision/resnet18"):
        names = known_names(spec, model)
        assert (names[0], names[281], len(names)) == ("tench", "tabby", 1000)
    assert known_names("torchvision/fcn_resnet50", NET)[:2] == ("__background__", "aeroplane")


@pytest.mark.parametrize("spec", ["resnet_tiny", "torchvision/resnet18:num_classes=9", "n.py:net"])
def test_no_names_are_made_up(spec):
    model = nn.Identity()
    model.num_classes = 1000  # of anybody's file: nobody knows which
    assert known_names(spec, model) is None


def test_folders_are_classes_and_those_of_imagenet_have_words(tmp_path):
    for name in ("bee", "ant"):
        (tmp_path / "train" / name).mkdir(parents=True)
    assert names_of_folders(f"imagefolder:{tmp_path}:image_px=32") == ("ant", "bee")
    assert names_of_folders(f"imagefolder:{tmp_path / 'gone'}") is None
    assert names_of_folders("digits") is None
    for number in range(1000):
        (tmp_path / "all/train" / f"n{number:08}").mkdir(parents=True)
    assert names_of_folders(f"imagefolder:{tmp_path / 'all'}")[999] == "toilet tissue"


@pytest.mark.parametrize(
    "content",
    [
        "ant\nbee\n\ncat cat\n",
        "\ufeffant\r\nbee\r\ncat cat",
        ["ant", "bee", "cat cat"],
        {"2": "cat cat", "0": "ant", "1": "bee"},
        {"0": ["n0", "ant"], "1": ["n1", "bee"], "2": ["n2", "cat cat"]},
    ],
)
def test_files_of_names_are_read(tmp_path, content):
    path = written(tmp_path, content)
    assert class_names_of(path, 3) == class_names_of(path, None) == ("ant", "bee", "cat cat")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ant\nbee", "has 2 class names for a network of 3 classes"),
        ("[1, 2", "is no JSON"),
        ([1, "ant", "bee"], "holds 1 where the name of a class should be"),
        ({"0": "a", "1": "b", "4": "c"}, "names classes by '4'; they are numbered from '0' to '2'"),
        ({"ant": "0"}, "names classes by 'ant'"),
    ],
)
def test_other_files_are_an_error(tmp_path, content, message):
    with pytest.raises(VisualizeError, match=message):
        class_names_of(written(tmp_path, content), 3)


def test_files_that_cannot_be_read_are_an_error(tmp_path):
    with pytest.raises(VisualizeError, match="Cannot read the class names in .*No such file"):
        class_names_of(tmp_path / "gone", None)
    (tmp_path / "names").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(VisualizeError, match="it is no text"):
        class_names_of(tmp_path / "names", None)
    with pytest.raises(VisualizeError, match="has no class names"):
        class_names_of(written(tmp_path, "\n"), None)


@pytest.mark.parametrize(
    ("text", "index"),
    [("0", 0), (" 5 ", 5), ("TENCH", 0), ("tabby", 1), ("egypt", 2), ("7UP", 5)],
)
def test_a_class_is_a_number_or_a_name_or_a_part_of_one(text, index):
    assert class_index(text, NAMES, 6) == index


def test_an_exact_name_counts_before_a_part_of_others():
    assert class_index("cat", ("cat tail", "cat", "wild cat"), 3) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("6", "There is no class 6: they are 0 to 5"),
        ("-1", "There is no class -1: they are 0 to 5"),
        ("cat", "'cat' could be 1 'tabby cat', 2 'Egyptian cat'. Give the number"),
        ("Crane", "'Crane' could be 3 'crane', 4 'crane'"),
        ("tensh", "no class 'tensh'. Did you mean 'tench'"),
        ("xyzzy", "no class 'xyzzy'. There are 6: 'tench', 'tabby cat'"),
        ("", "no class ''"),
    ],
)
def test_a_class_that_is_none_or_several_is_an_error(text, message):
    with pytest.raises(VisualizeError, match=message):
        class_index(text, NAMES, 6)


def test_without_names_there_are_numbers():
    assert class_index("123", None, None) == 123
    with pytest.raises(VisualizeError, match="There is no class 10: they are 0 to 9"):
        class_index("10", None, 10)
    with pytest.raises(VisualizeError, match="names of the classes are not known. Give a number"):
        class_index("tench", None, 10)
