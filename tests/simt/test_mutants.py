"""Bugs of one line, planted into the CUDA kernels and drivers: every one must be noticed.

Each is compiled into the SIMT machine with AddressSanitizer and set beside the oracle, as
test_scans.py does with the kernels as they are. A mutant that survives is a hole in the tests.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.simt import building

pytestmark = pytest.mark.simt


class Mutant(NamedTuple):
    file: str  # below csrc/cuda
    old: str  # stands there once
    new: str


STEP, GATES, MEMORY = "step.cu", "lstm_fused/gates.cuh", "lstm_fused/memory.cuh"
MUTANTS = {
    "swapped gates": Mutant(GATES, "{pre[0][k], pre[1][k],", "{pre[1][k], pre[0][k],"),
    "one thread too many, forward": Mutant(
        GATES,
        "if (index >= p.rows * p.H) return;\n  const int64_t row = index / p.H, "
        "unit = index - row * p.H;",
        "if (index > p.rows * p.H) return;\n  const int64_t row = index / p.H, "
        "unit = index - row * p.H;",
    ),
    "one thread too many, backward": Mutant(
        GATES,
        "if (index >= p.rows * p.H) return;\n  const int64_t row = index / p.H, "
        "unit = index - row * p.H, at",
        "if (index > p.rows * p.H) return;\n  const int64_t row = index / p.H, "
        "unit = index - row * p.H, at",
    ),
    "one thread too many, projection": Mutant(
        GATES, "if (index >= p.rows * p.P)", "if (index > p.rows * p.P)"
    ),
    "folded gates are not unfolded": Mutant(
        GATES, "  change_sigmoids<Cell, T, unfold>(gates);\n", ""
    ),
    "the tanh is folded too": Mutant(MEMORY, "k < kCount && Cell::is_sigmoid(g)", "k < kCount"),
    "a row that ends asks its next step": Mutant(
        GATES, "row < continuing ? dh_recurrent", "row <= continuing ? dh_recurrent"
    ),
    "a row that starts takes another's c": Mutant(
        GATES, "row < p.continued ? p.c_prev", "row <= p.continued ? p.c_prev"
    ),
    "c is not kept": Mutant(GATES, "  store(p.c_state + index, c);\n", ""),
    "dc is not kept": Mutant(GATES, "  store(p.dc + index, dc);\n", ""),
    "h without its stride": Mutant(GATES, "p.h + row * p.h_stride + unit", "p.h + index"),
    "dy without its stride": Mutant(GATES, "dy + row * dy_stride", "dy + row * width"),
    "h_cell at its row": Mutant(GATES, "store(p.h_cell + index", "store(p.h_cell + row"),
    "gates at the wrong stride": Mutant(
        GATES, "load(p.gates + at + g * p.H", "load(p.gates + at + g * p.rows"
    ),
    "the last of a pack is not loaded": Mutant(
        MEMORY, "k < kCount; ++k) to[k]", "k < kCount - 1; ++k) to[k]"
    ),
    "the last of a pack is not stored": Mutant(
        MEMORY, "k < kCount; ++k) narrow", "k < kCount - 1; ++k) narrow"
    ),
    "too few blocks": Mutant(
        STEP, "ceil_div(threads, kGateThreads)", "(threads - 1) / kGateThreads + (threads % 2)"
    ),
    "idle tail": Mutant(
        STEP,
        "launch(context, gates_forward<CellType, T, 1>, k, units)",
        "launch(context, gates_forward<CellType, T, 1>, k, units & ~31)",
    ),
    "h0 is forgotten": Mutant(STEP, "if (h0 && continued < k.rows)", "if (false)"),
    "h_n at the first row": Mutant(STEP, "h_n + continuing * d.P", "h_n"),
    "dh0 at the first row": Mutant(STEP, "matrix(dh0 + k.continued * d.P", "matrix(dh0"),
    "later steps are forgotten": Mutant(STEP, "      k.continuing = continuing;\n", ""),
    "half of c0": Mutant(
        STEP,
        "at<State<T>>(p.c0, i * d.B * d.H), d.B * d.H * sizeof(State<T>));\n  const T* y_prev",
        "at<State<T>>(p.c0, i * d.B * d.H), d.B * d.H * sizeof(T));\n  const T* y_prev",
    ),
    "the workspace is too small": Mutant(
        STEP, "(recurrent_elements(p.d) + cell)", "(p.d.B * p.d.P + cell - 1)"
    ),
    "packs across rows": Mutant(STEP, "d.H % kPacked<T> == 0 && k.dy_stride", "k.dy_stride"),
    "the input of another direction": Mutant(
        STEP, "k.gates = at<T>(p.gates, (i * d.N + row)", "k.gates = at<T>(p.gates, (0 * d.N + row)"
    ),
}
SEEDS, ROUNDS = range(2), 2


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory, compiled: Callable[..., Path]) -> list[Path]:
    """What no mutant changes, compiled once."""
    folder = tmp_path_factory.mktemp("objects")
    sources = [source for source in building.SCAN_CHECK if source.name != "step.cpp"]
    return [compiled([source], folder / f"{source.stem}.o", "address") for source in sources]


def noticed(program: Path) -> str | None:
    """What is said of the program, or None if nobody objects."""
    for seed in SEEDS:
        done = building.run(program, "simt.step", seed, ROUNDS)
        if done.returncode != 0:
            return (done.stdout or done.stderr)[-300:]
    return None


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants(name: str, objects: list[Path], tmp_path: Path) -> None:
    csrc = tmp_path / "csrc"
    shutil.copytree(building.CSRC, csrc)
    mutant = MUTANTS[name]
    path = csrc / "cuda" / mutant.file
    text = path.read_text()
    assert text.count(mutant.old) == 1, f"{mutant.old!r} stands {text.count(mutant.old)} times"
    path.write_text(text.replace(mutant.old, mutant.new))
    step = building.HERE / "step.cpp"
    program = building.compile_program(
        [step, *objects], tmp_path / "mutant", "address", csrc=csrc, strict=False
    )
    assert noticed(program) is not None, f"nobody notices: {name}"


def test_the_control_is_clean(objects: list[Path], tmp_path: Path) -> None:
    step = building.HERE / "step.cpp"
    program = building.compile_program([step, *objects], tmp_path / "control", "address")
    assert noticed(program) is None
