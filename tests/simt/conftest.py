"""Compiling for the tests of this folder, and the mutation test's count at the end of a run."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.simt import building


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """building.compile_program, once in all processes of pytest-xdist: says where the program is.

    Skips, with its words, where a tool or header is missing.
    """
    common = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        common = common.parent

    def compile_or_skip(sources: list[Path], name: str, mode: str, **options: Any) -> Path:
        folder = common / "-".join(["compiled", mode, *(source.stem for source in sources), name])
        folder.mkdir(exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (folder / name).exists():
                return folder / name
            try:
                return building.compile_program(sources, folder / name, mode, **options)
            except building.CannotBuild as error:
                pytest.skip(str(error))

    return compile_or_skip


def pytest_terminal_summary(terminalreporter: Any) -> None:
    def count(outcome: str) -> int:
        reports = terminalreporter.stats.get(outcome, [])
        return sum("::test_mutants[" in report.nodeid for report in reports)

    noticed = count("passed")
    planted = noticed + count("failed")
    if planted:
        terminalreporter.write_line(f"mutants: {noticed} noticed of {planted} planted")
