"""The package as a program, which is how torchrun starts it."""

import subprocess
import sys

import ctxbench


def test_the_package_is_a_program():
    run = subprocess.run(
        [sys.executable, "-m", "ctxbench", "--version"], capture_output=True, text=True, check=True
    )
    assert run.stdout == f"ctxbench {ctxbench.__version__}\n"
