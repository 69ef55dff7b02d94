"""Result files read back, and which of their rows still speak of today's sources."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import SCHEMA, sass_digest, source_hash

STALE = " (stale)"

# Flags of CPUs whose speed differs most, the widest vectors first.
VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}


@dataclass(frozen=True)
class Row:
    """One arm of one case, with the stamp of its file."""

    stamp: dict[str, Any]
    data: dict[str, Any]

    @property
    def case(self) -> dict[str, Any]:
        return self.data["case"]

    @property
    def ok(self) -> bool:
        return self.data["status"] == "ok"

    @property
    def milliseconds(self) -> float:
        return self.data["seconds"]["median"] * 1e3

    @property
    def on_cpu(self) -> bool:
        return self.stamp["capability"] is None

    @property
    def limited(self) -> bool:
        """Whether a CPU stood for an older one (isa.py)."""
        return self.on_cpu and self.stamp["device"] != self.stamp["cpu"]

    @property
    def where(self) -> str:
        """Device, or CPU with its widest vectors, as two may have one name, and threads."""
        if not self.on_cpu:
            return self.stamp["device"]
        threads = self.data["threads"]
        known = [name for flag, name in VECTORS.items() if flag in self.stamp["cpu_flags"]]
        vectors = f" ({known[0]})" if known and not self.limited else ""
        return f"{self.stamp['device']}{vectors}, {threads} thread{'' if threads == 1 else 's'}"


def read(paths: Iterable[Path], part: str = "rows") -> list[Row]:
    """All rows of the files; a file that is not one of ours is named in a ValueError.

    part  "rows" are times; "memory" is what bench.memory writes beside none of these
    """
    rows = []
    for path in paths:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            stamp = content["stamp"]
            if stamp["schema"] != SCHEMA:
                raise ValueError(f"{path}: schema must be {SCHEMA}, got {stamp['schema']}")
            found = content["rows"] if part == "rows" else content.get(part, [])
            rows += [Row(stamp, data) for data in found]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a result file of bench.run: {error!r}") from error
    return rows


def newest(rows: Iterable[Row]) -> list[Row]:
    """Of rows with the same place, case and arm, the latest measured."""
    latest: dict[tuple[str, str, str], Row] = {}
    for row in sorted(rows, key=lambda row: row.stamp["utc"]):
        latest[row.where, row.case["id"], row.data["arm"]] = row
    return list(latest.values())


class Staleness:
    """Whether a row was measured on other sources than today's.

    The hash is of the sources themselves, so it also holds for a tree that was not committed.
    A CPU's rows do not depend on csrc/cuda. With an equal digest of the machine code a CUDA row
    stays fresh when only host code or comments changed.
    """

    def __init__(self) -> None:
        self._source = source_hash()
        self._cpu_source = source_hash(cuda=False)
        self._sass: dict[str, str] | None = None
        self._asked = False

    def stale(self, row: Row) -> bool:
        if row.stamp["source_hash"] == self._source:
            return False
        # Files from before 2026-11-27 have no hash without the kernels for GPUs.
        if row.on_cpu and row.stamp.get("cpu_source_hash") == self._cpu_source:
            return False
        then = row.stamp["sass_digest"]
        if not then:
            return True
        # A build holds the GPUs of its machine: of today's kernels compare those for the same ones.
        architectures = {name.split()[0] for name in then}
        today = (self._today() or {}).items()
        return then != {name: code for name, code in today if name.split()[0] in architectures}

    def mark(self, row: Row) -> str:
        """What stands behind the numbers of a row in a table."""
        return STALE if self.stale(row) else ""

    def _today(self) -> dict[str, str] | None:
        if not self._asked:
            self._sass, self._asked = sass_digest(), True
        return self._sass
