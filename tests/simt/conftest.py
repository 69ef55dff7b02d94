"""Compiling for the tests of this folder, and the mutation test's count at the end of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.simt import building


@pytest.fixture(scope="session")
def compiled() -> Callable[..., Path]:
    """building.compile_program; skips, with its words, where a tool or header is missing."""

    def compile_or_skip(sources: list[Path], target: Path, mode: str) -> Path:
        try:
            return building.compile_program(sources, target, mode)
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
