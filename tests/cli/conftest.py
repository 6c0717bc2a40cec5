"""A command as a user runs it."""

import sys

import pytest
from typer.testing import CliRunner

from ctxbench import cli


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a command in an empty folder; a deliberate error is handled as `main` does."""
    monkeypatch.chdir(tmp_path)

    def _run(*words):
        monkeypatch.setattr(sys, "argv", ["ctxbench", *words])
        with CliRunner().isolation() as (out, err, _):
            try:
                cli.main()
            except SystemExit as stop:
                code = stop.code or 0
            return code, out.getvalue().decode(), err.getvalue().decode()

    return _run
