"""The mutation test's count, at the end of a run."""

from __future__ import annotations

from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    def count(outcome: str) -> int:
        reports = terminalreporter.stats.get(outcome, [])
        return sum("::test_mutants[" in report.nodeid for report in reports)

    noticed = count("passed")
    planted = noticed + count("failed")
    if planted:
        terminalreporter.write_line(f"mutants: {noticed} noticed of {planted} planted")
