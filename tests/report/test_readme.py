import re

import pytest

from ctxbench.errors import RecordsError, UnknownNameError
from ctxbench.report.build import build_report

README = "# Title\n\n<!-- ctxbench:{0} -->\nold\n<!-- /ctxbench:{0} -->\n\nThe end"


@pytest.fixture
def readme(tmp_path):
    """Writes a README and gives its path."""

    def write(text):
        path = tmp_path / "README.md"
        path.write_bytes(text.encode())
        return path

    return write


@pytest.mark.parametrize("name", ["headline", "verdicts", "costs", "claims"])
def test_a_readme_gets_the_table_between_its_markers(raw, tmp_path, readme, name):
    path = readme(README.format(name))
    assert path in build_report([raw], tmp_path / "out", documents=[path]).written
    head, table, tail = re.split(r"<!-- /?ctxbench:\w+ -->\n", path.read_text())
    assert (head, tail) == ("# Title\n\n", "\nThe end")
    assert table.startswith("| ")
    assert table.endswith(" |\n")


def test_a_readme_is_the_same_after_a_second_report(raw, tmp_path, readme):
    path = readme(README.format("headline"))
    texts = []
    for _ in range(2):
        build_report([raw], tmp_path / "out", documents=[path])
        texts.append(path.read_bytes())
    assert texts[0] == texts[1]


def test_all_outside_the_markers_stays_to_the_byte(raw, tmp_path, readme):
    around = "a \r\n\n\tb `<!-- ctxbench:NAME -->`  \n", "\r\n\u00fc no end of line"
    marked = "<!-- ctxbench:costs -->\r\nold\r\n<!-- /ctxbench:costs -->"
    path = readme(f"{around[0]}{marked}{around[1]}")
    build_report([raw], tmp_path / "out", documents=[path])
    assert path.read_bytes().startswith(around[0].encode())
    assert path.read_bytes().endswith(around[1].encode())
    assert b"old" not in path.read_bytes()


def test_a_table_has_the_line_ends_of_its_markers(raw, tmp_path, readme):
    path = readme(README.format("costs").replace("\n", "\r\n"))
    build_report([raw], tmp_path / "out", documents=[path])
    text = path.read_bytes()
    assert b"old" not in text
    assert text.count(b"\n") == text.count(b"\r\n")


def test_a_table_without_rows_leaves_the_readme_and_says_so(raw, tmp_path, readme):
    path = readme(README.format("counting"))
    report = build_report([raw], tmp_path / "out", documents=[path])
    assert path.read_text() == README.format("counting")
    assert any("left counting as it was" in note for note in report.notes)


def test_a_readme_without_markers_is_noted(raw, tmp_path, readme):
    report = build_report([raw], tmp_path / "out", documents=[readme("# Title\n")])
    assert any("no <!-- ctxbench:NAME --> to fill" in note for note in report.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- ctxbench:costs -->\n", "ctxbench:costs --> is not closed"),
        (
            "<!-- ctxbench:costs -->\n<!-- ctxbench:claims -->\n<!-- /ctxbench:claims -->\n",
            "ctxbench:costs --> is not closed",
        ),
        ("<!-- /ctxbench:costs -->\n", "/ctxbench:costs --> closes what nothing opened"),
    ],
)
def test_markers_that_do_not_pair_are_errors(raw, tmp_path, readme, text, message):
    with pytest.raises(RecordsError, match=message):
        build_report([raw], tmp_path / "out", documents=[readme(text)])
    assert not (tmp_path / "out").exists()


def test_an_unknown_table_is_an_error_that_names_the_nearest(raw, tmp_path, readme):
    with pytest.raises(UnknownNameError, match=r"README\.md 'clams'.*mean 'claims'"):
        build_report([raw], tmp_path / "out", documents=[readme(README.format("clams"))])


def test_a_missing_readme_is_an_error(raw, tmp_path):
    with pytest.raises(RecordsError, match=r"Cannot read .*absent\.md"):
        build_report([raw], tmp_path / "out", documents=[tmp_path / "absent.md"])
