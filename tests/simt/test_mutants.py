"""Every planted bug of mutants_of_*.py is noticed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simt import (
    mutants_of_block,
    mutants_of_cluster,
    mutants_of_grid,
    mutants_of_grid_backward,
    mutants_of_step,
)
from tests.simt.mutation import ROUNDS, Planter

pytestmark = pytest.mark.simt

MUTANTS = {
    "block": mutants_of_block.MUTANTS,
    "cluster": mutants_of_cluster.MUTANTS,
    "grid": mutants_of_grid.MUTANTS | mutants_of_grid_backward.MUTANTS,
    "step": mutants_of_step.MUTANTS,
}
CASES = [(kind, name) for kind, mutants in MUTANTS.items() for name in mutants]
MODES = [
    ("block", "address"),
    ("block", "thread"),
    ("cluster", "address"),
    ("cluster", "thread"),
    ("grid", "address"),
    ("grid", "thread"),
    ("step", "address"),
]


@pytest.fixture(scope="module")
def planters(
    tmp_path_factory: pytest.TempPathFactory, compiled: Callable[..., Path]
) -> dict[str, Planter]:
    # Of cuda.cluster one round is a minute to who looks for races, and has all of its paths.
    rounds = {"cluster": 1}
    return {
        kind: Planter(
            f"{kind}.cpp",
            f"simt.{kind}",
            tmp_path_factory.mktemp(kind),
            compiled,
            rounds.get(kind, ROUNDS),
        )
        for kind in MUTANTS
    }


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_mutants(kind: str, name: str, planters: dict[str, Planter], tmp_path: Path) -> None:
    noticed = planters[kind].noticed(MUTANTS[kind][name], tmp_path)
    assert noticed is not None, f"nobody notices: {name}"


@pytest.mark.parametrize(("kind", "mode"), MODES)
def test_the_control_is_clean(
    kind: str, mode: str, planters: dict[str, Planter], tmp_path: Path
) -> None:
    assert planters[kind].said_of_control(mode, tmp_path) is None
