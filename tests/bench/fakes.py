"""Stand-ins for what a stage of bench.gpu_check runs and reports to."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any


class Recorder:
    """A report that keeps what it is given."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def put(self, name: str, value: Any) -> None:
        self.kept[name] = value


def program(folder: Path, script: str) -> Path:
    """A program that is a shell script."""
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
