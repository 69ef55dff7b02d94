"""Plant a bug of one line into a CUDA kernel or driver, and hear who objects.

A mutant is compiled into the SIMT machine with a sanitizer and set beside the oracle, as
test_scans.py does with the kernels as they are. One that survives is a hole in the tests.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.simt import building

# With seed 0 the threads run in turn, by which fewer bugs show.
SEEDS, ROUNDS = (1, 0), 2
# Of the tables of plans the rows that mutants are compiled with. Between them they have every path
# of the kernels: of cuda.grid one whose W_hh registers hold, and the first where they do not.
BUCKETS = (
    ("block_plan.h", "kBuckets", (0, 1)),
    ("cluster_plan.h", "kClusterBuckets", (0, 1)),
    ("grid_plan.h", "kGridBuckets", (0, 4)),
)


class Mutant(NamedTuple):
    """One changed place."""

    file: str  # below csrc/cuda
    old: str  # stands there once
    new: str
    mode: str = "address"  # the sanitizer, of building.MODES


class Planter:
    """Builds and runs mutants of one variant; what no mutant changes is compiled once."""

    def __init__(
        self,
        source: str,
        variant: str,
        folder: Path,
        compiled: Callable[..., Path],
        rounds: int = ROUNDS,
    ):
        """
        source    of this folder, the one that includes the mutated files
        compiled  the fixture: skips where a tool is missing
        rounds    of problems
        """
        self.source, self.variant = building.HERE / source, variant
        self._folder, self._compile, self._rounds = folder, compiled, rounds
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
        return self._complaint(mutant.mode, folder, csrc)

    def said_of_control(self, mode: str, folder: Path) -> str | None:
        """The same without a bug: what is said here would be said of every mutant."""
        csrc = folder / "csrc"
        shutil.copytree(building.CSRC, csrc)
        return self._complaint(mode, folder, csrc)

    def _complaint(self, mode: str, folder: Path, csrc: Path) -> str | None:
        for plan, table, kept in BUCKETS:
            _leave_few_buckets(csrc / "cuda" / "lstm_fused" / plan, table, kept)
        program = folder / "mutant"
        building.compile_program(
            [self.source, *self.objects(mode)], program, mode, csrc=csrc, strict=False
        )
        for seed in SEEDS:
            done = building.run(program, self.variant, seed, self._rounds)
            if done.returncode != 0:
                return (done.stdout or done.stderr)[-300:]
        return None


def _leave_few_buckets(plan: Path, table: str, kept: Sequence[int]) -> None:
    """Those in the table's places `kept`, so that it compiles in a third of the time."""
    text = plan.read_text()
    (before, rows, after) = re.split(rf"({table}\[\] = )", text)
    end = after.index("};")
    rows_of_table = re.findall(r"\{(?:[^{}]|\{[^{}]*\})*\}", after[1:end])
    few = ", ".join(rows_of_table[place] for place in kept)
    plan.write_text(f"{before}{rows}{{{few}{after[end:]}")
