"""The CUDA kernels, driver and all, in the SIMT machine beside the naive oracle in double.

scan_check.cpp draws the problems; tests/csrc/scan_check.h says what its criterion is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simt import building

pytestmark = pytest.mark.simt

VARIANTS = ["simt.block", "simt.cluster", "simt.decode", "simt.grid", "simt.step"]
# Seeds and rounds of problems. A seed draws its own problems and its own order of the threads.
RUNS = {"plain": (range(10), 2), "address": (range(3), 1), "thread": (range(3), 1)}
# Backward of simt.grid has 2048 threads at the least, and simt.cluster an effect of its own for
# every 16 bytes that it sends: a minute a seed for the sanitizers.
FEW = {
    "simt.cluster": {"plain": 2, "address": 1, "thread": 1},
    "simt.grid": {"plain": 5, "address": 2, "thread": 2},
}
WIDE = {"plain": range(1, 3), "address": range(1), "thread": range(0)}


# A seed is a test of its own, and those of all buckets come first, so that no process has much to
# run at the end.
SCANS = [
    (mode, name, seed)
    for mode, (seeds, _) in RUNS.items()
    for name in VARIANTS
    for seed in seeds[: FEW.get(name, {}).get(mode)]
]
SCANS.sort(key=lambda scan: scan[2] not in WIDE[scan[0]])


@pytest.fixture(scope="module")
def program(request: pytest.FixtureRequest, compiled: Callable[..., Path]) -> Path:
    return compiled(building.SCAN_CHECK, request.param, request.param)


@pytest.mark.parametrize("program", building.MODES, indirect=True)
def test_limits(program: Path) -> None:
    """What a variant takes, on GPUs of several generations."""
    done = building.run(program, "limits")
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stdout


@pytest.mark.parametrize(("program", "name", "seed"), SCANS, indirect=["program"])
def test_scans(program: Path, name: str, seed: int) -> None:
    _, rounds = RUNS[program.name]
    # Every bucket of hidden sizes where there is time for it.
    small = name == "simt.cluster" and program.name != "plain"
    wide = ["wide"] if seed in WIDE[program.name] and not small else []
    done = building.run(program, name, seed, rounds, *wide)
    report = "\n".join(done.stderr.splitlines()[-40:])
    assert done.returncode == 0, f"{done.stdout}\n{report}"
    assert "problems, worst error" in done.stdout
