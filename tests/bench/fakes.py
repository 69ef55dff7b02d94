"""Stand-ins for what a stage of bench.gpu_check runs and reports to; what tests of bench share."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bench import machine


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


def assert_makes_nothing_stale(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: ModuleType,
    name: str,
    texts: Iterable[str],
) -> None:
    """The hash of sources is the same with each text of a generated file, `owner.name`."""
    file = folder / "lstm_fused" / getattr(owner, name).name
    file.parent.mkdir()
    monkeypatch.setattr(machine, "ROOT", folder)
    monkeypatch.setattr(owner, name, file)
    hashes = set()
    for text in texts:
        file.write_text(text)
        hashes.add(machine.source_hash())
    assert len(hashes) == 1
    (file.parent / "other.py").write_text("")
    assert machine.source_hash() not in hashes
