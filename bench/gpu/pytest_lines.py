"""A pytest plugin: a line of JSON for every test as it ends, so that a run cut short is not lost.

`python -m pytest -p bench.gpu.pytest_lines --result-lines FILE`
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Writer:
    """Appends {"test", "outcome", "why"}, and {"test", "outcome": "started"} before."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", buffering=1)

    def _write(self, test: str, outcome: str, why: str = "") -> None:
        self._file.write(json.dumps({"test": test, "outcome": outcome, "why": why}) + "\n")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write(nodeid, "started")

    def pytest_runtest_logreport(self, report: Any) -> None:
        # The setup tells of skips and errors, the teardown of errors.
        if report.when == "call" or report.outcome == "failed" or report.skipped:
            self._write(report.nodeid, report.outcome, _why(report))

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self._write(report.nodeid, "failed", _why(report))


def _why(report: Any) -> str:
    """The reason of a skip, the message of a failure."""
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    found = crash.message if crash is not None else report.longrepr or ""
    return str(found)[:500]


def pytest_addoption(parser: Any) -> None:
    # A string: xdist cannot send a Path to its workers.
    parser.addoption("--result-lines", help="write a line of JSON per test into this file")


def pytest_configure(config: Any) -> None:
    path = config.getoption("--result-lines")
    if path and not hasattr(config, "workerinput"):  # xdist: workers report to the first process
        config.pluginmanager.register(Writer(Path(path)))
