"""Plant a bug of one line into a CUDA kernel or driver, and hear who objects.

A mutant is compiled into the SIMT machine with a sanitizer and set beside the oracle, as
test_scans.py does with the kernels as they are. One that survives is a hole in the tests.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.simt import building

SEEDS, ROUNDS = range(2), 2


class Mutant(NamedTuple):
    """One changed place."""

    file: str  # below csrc/cuda
    old: str  # stands there once
    new: str
    mode: str = "address"  # the sanitizer, of building.MODES


class Planter:
    """Builds and runs mutants of one variant; what no mutant changes is compiled once."""

    def __init__(self, source: str, variant: str, folder: Path, compiled: Callable[..., Path]):
        """
        source    of this folder, the one that includes the mutated files
        compiled  the fixture: skips where a tool is missing
        """
        self.source, self.variant = building.HERE / source, variant
        self._folder, self._compile = folder, compiled
        self._objects: dict[str, list[Path]] = {}

    def objects(self, mode: str) -> list[Path]:
        if mode not in self._objects:
            sources = [s for s in building.SCAN_CHECK if s != self.source]
            self._objects[mode] = [
                self._compile([s], self._folder / f"{mode}-{s.stem}.o", mode) for s in sources
            ]
        return self._objects[mode]

    def noticed(self, mutant: Mutant, folder: Path) -> str | None:
        """What is said of the mutant, or None if nobody objects."""
        csrc = folder / "csrc"
        shutil.copytree(building.CSRC, csrc)
        path = csrc / "cuda" / mutant.file
        text = path.read_text()
        assert text.count(mutant.old) == 1, f"{mutant.old!r} stands {text.count(mutant.old)} times"
        path.write_text(text.replace(mutant.old, mutant.new))
        _leave_few_buckets(csrc / "cuda" / "lstm_fused" / "block_plan.h")
        return self.complaint(mutant.mode, folder / "mutant", csrc)

    def complaint(self, mode: str, program: Path, csrc: Path = building.CSRC) -> str | None:
        building.compile_program(
            [self.source, *self.objects(mode)], program, mode, csrc=csrc, strict=False
        )
        for seed in SEEDS:
            done = building.run(program, self.variant, seed, ROUNDS)
            if done.returncode != 0:
                return (done.stdout or done.stderr)[-300:]
        return None


def _leave_few_buckets(plan: Path) -> None:
    """The first two buckets have every path of the kernels, and compile in a third of the time."""
    text, changed = re.subn(
        r"(kBuckets\[\] = \{\s*\{[^\n]*\n\s*\{[^\n]*\n).*?\n\};",
        r"\1};",
        plan.read_text(),
        flags=re.S,
    )
    assert changed == 1
    plan.write_text(text)
