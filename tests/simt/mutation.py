"""Plant a bug of one line into a CUDA kernel or driver, and hear who objects.

A mutant is compiled into the SIMT machine, with a sanitizer where it takes one to notice, and set
beside the oracle, as test_scans.py does with the kernels. One that survives is a hole in the tests.
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
# Of cuda.cluster one round is a minute to who looks for races, and has all of its paths.
FEWER_ROUNDS = {"cluster": 1}
# Of the tables of plans the rows that mutants are compiled with. Between them they have every path
# of the kernels: of cuda.grid one whose W_hh registers hold, the first where they do not, one that
# streams, and one of few rows.
BUCKETS = (
    ("block_plan.h", "kBuckets", (0, 1)),
    ("cluster_plan.h", "kClusterBuckets", (0, 1)),
    ("grid_plan.h", "kGridBuckets", (0, 4, 7, 11)),
)


class Mutant(NamedTuple):
    """One changed place."""

    file: str  # below csrc/cuda
    old: str  # stands there once
    new: str
    # Of building.MODES, the cheapest that notices.
    mode: str = "plain"


class Planter:
    """Builds and runs mutants; what no mutant of a kind changes is compiled once."""

    def __init__(self, folder: Path, compiled: Callable[..., Path]):
        """compiled: the fixture, which skips where a tool is missing."""
        self._compile = compiled
        self._csrc = folder / "csrc"
        shutil.copytree(building.CSRC, self._csrc)
        for plan, table, kept in BUCKETS:
            _leave_few_buckets(self._csrc / "cuda" / "lstm_fused" / plan, table, kept)

    def noticed(self, kind: str, mutant: Mutant, folder: Path) -> str | None:
        """What is said of the mutant, or None if nobody objects.

        kind  of a variant: its source in this folder is the one that includes the mutated files
        """
        csrc = folder / "csrc"
        shutil.copytree(self._csrc, csrc)
        path = csrc / "cuda" / mutant.file
        text = path.read_text()
        assert text.count(mutant.old) == 1, f"{mutant.old!r} stands {text.count(mutant.old)} times"
        path.write_text(text.replace(mutant.old, mutant.new))
        return self._complaint(kind, mutant.mode, folder, csrc)

    def said_of_control(self, kind: str, mode: str, folder: Path) -> str | None:
        """The same without a bug: what is said here would be said of every mutant."""
        return self._complaint(kind, mode, folder, self._csrc)

    def _object(self, source: Path, mode: str) -> Path:
        return self._compile([source], f"few-{source.stem}.o", mode, csrc=self._csrc)

    def _complaint(self, kind: str, mode: str, folder: Path, csrc: Path) -> str | None:
        mutated, program = building.HERE / f"{kind}.cpp", folder / "mutant"
        same = [self._object(s, mode) for s in building.SCAN_CHECK if s != mutated]
        building.compile_program([mutated, *same], program, mode, csrc=csrc, strict=False)
        for seed in SEEDS:
            done = building.run(program, f"simt.{kind}", seed, FEWER_ROUNDS.get(kind, ROUNDS))
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
