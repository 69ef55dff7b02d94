"""Compiling for the tests of this folder, and the table of kernels at the end of a run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from bench import sass
from lstm_fused import _build, _first_use

Compile = Callable[..., list[sass.Kernel]]


def missing(why: object) -> NoReturn:
    """Skip; where nothing may go unnoticed (CI), fail."""
    if os.environ.get("LSTM_FUSED_STRICT") == "1":
        pytest.fail(str(why))
    pytest.skip(str(why))


@pytest.fixture(scope="session")
def toolkit() -> _build.Toolkit:
    found, why_not = _build.find_toolkit()
    if found is None:
        missing(why_not)
    try:
        sass.find_programs()
    except sass.CannotRead as error:
        missing(error)
    return found


@pytest.fixture(scope="session")
def compile_cuda(toolkit: _build.Toolkit, tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Compile a CUDA source with the library's flags; returns its kernels."""

    def run(source: Path, architectures: Sequence[str] = ("9.0a",)) -> list[sass.Kernel]:
        plan = _build.Plan(_build.find_csrc(), toolkit, tuple(architectures), None, False)
        target = tmp_path_factory.mktemp("cuda") / "compiled.o"
        command = [toolkit.nvcc, *_build.nvcc_flags(plan), f"-I{plan.csrc}"]
        done = subprocess.run(
            [*command, "-c", str(source), "-o", str(target)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return sass.read(target)

    return run


@pytest.fixture(scope="session")
def library(toolkit: _build.Toolkit) -> list[sass.Kernel]:
    """The kernels of lstm_fused._C: of the strict build that CI made before, else built now."""
    architectures = tuple(_build.DEFAULT_ARCHITECTURES)
    plan = _build.Plan(_build.find_csrc(), toolkit, architectures, None, True)
    return sass.read(_first_use.finished(plan) or _first_use.build(plan)[0])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for report in terminalreporter.stats.get("passed", []) + terminalreporter.stats.get(
        "failed", []
    ):
        for name, line in report.user_properties:
            if name == "cubin":
                terminalreporter.write_line(line)
