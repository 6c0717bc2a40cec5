"""The tour runs from its first cell to its last, and its committed outputs are what it gives.

`python -m tests.test_notebook` runs it and writes its outputs anew.
"""

import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TOUR = Path(__file__).parent.parent / "docs/tour.ipynb"
# cells whose outputs are of trained networks: other processors round differently
TRAINED = "trained"
MOST_BYTES = 600_000


def run(folder):
    """Return the tour, run in a folder."""
    notebook = nbformat.read(TOUR, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=300,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    notebook.metadata.language_info = {"name": "python"}  # its version is that of the machine
    return notebook


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell):
    """Return what a cell has printed, and its tables as text."""
    found = []
    for output in cell.outputs:
        found.append(output.text if output.output_type == "stream" else output.data["text/plain"])
    return found


def complaints(notebook):
    """Return what cells have said on standard error, and what they have raised."""
    return [
        (cell.source, output)
        for cell in code_cells(notebook)
        for output in cell.outputs
        if output.output_type == "error" or output.get("name") == "stderr"
    ]


def forms(cell):
    """Return the kinds of output that a cell has, as text/plain and image/png."""
    return [set(output.get("data", ())) for output in cell.outputs]


@pytest.fixture
def executed(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "default")  # any is printed
    # nothing of the user's own set-up, and no history
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / ".ipython"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    return run(tmp_path)


@pytest.fixture
def committed():
    return nbformat.read(TOUR, as_version=4)


# one test, since processes that share the tests would each run it again
def test_the_tour_runs_and_gives_what_is_committed(executed, committed, tmp_path):
    assert complaints(executed) == []
    for ours, theirs in zip(code_cells(executed), code_cells(committed), strict=True):
        assert ours.source == theirs.source
        assert forms(ours) == forms(theirs)
        if TRAINED not in ours.metadata.get("tags", ()):
            assert texts(ours) == texts(theirs)
    (cell,) = [cell for cell in code_cells(executed) if "run_experiment" in cell.source]
    trainings = [line.split()[3] for line in texts(cell)[0].splitlines()[1:]]
    assert trainings == ["3", "3"]
    assert {path.name for path in tmp_path.iterdir()} <= {".ipython"}


def test_the_tour_shows_its_pictures(committed):
    drawn = [o for cell in code_cells(committed) for o in cell.outputs if "image/png" in str(o)]
    assert len(drawn) == 2


def test_the_committed_file_is_small_and_tells_nothing_of_a_machine(committed):
    text = TOUR.read_text()
    assert len(text) < MOST_BYTES
    assert not re.search(r"/(home|tmp|root|work|usr|Users)/|\d{4}-\d\d-\d\d", text)
    assert set(committed.metadata) == {"kernelspec", "language_info"}
    assert set(committed.metadata.language_info) == {"name"}
    assert {key for cell in committed.cells for key in cell.metadata} <= {"tags"}


def test_cells_are_numbered_as_run(committed):
    numbers = [cell.execution_count for cell in code_cells(committed)]
    assert numbers == list(range(1, len(numbers) + 1))


def main():
    """Run the tour and write its outputs."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        nbformat.write(run(folder), TOUR)


if __name__ == "__main__":
    sys.exit(main())
