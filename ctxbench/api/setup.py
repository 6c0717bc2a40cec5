"""What is installed, and whether it works: `ctxbench doctor` as a function."""

from pathlib import Path

from pandas import DataFrame

from ctxbench.api._rows import frame_of
from ctxbench.doctor import examine


def check_setup(results: str | Path = "results") -> DataFrame:
    """Check packages, devices, the folder of results, and one operator of each family.

    A row for each part: its `state` is "ok", "missing" (optional, and absent) or "wrong", and
    `note` says how to get or mend it.

    >>> setup = check_setup()
    >>> setup.loc[setup["part"] == "torch", "state"].item()
    'ok'
    """
    return frame_of([dict(found) for found in examine(Path(results).expanduser())])
