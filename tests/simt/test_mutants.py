"""Every planted bug of mutants_of_*.py is noticed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simt import (
    building,
    mutants_of_block,
    mutants_of_cluster,
    mutants_of_decode,
    mutants_of_grid,
    mutants_of_grid_backward,
    mutants_of_step,
)
from tests.simt.mutation import Planter

pytestmark = pytest.mark.simt

MUTANTS = {
    "block": mutants_of_block.MUTANTS,
    "cluster": mutants_of_cluster.MUTANTS,
    "decode": mutants_of_decode.MUTANTS,
    "grid": mutants_of_grid.MUTANTS | mutants_of_grid_backward.MUTANTS,
    "step": mutants_of_step.MUTANTS,
}
CASES = [(kind, name) for kind, mutants in MUTANTS.items() for name in mutants]
MODES = [(kind, mode) for kind in MUTANTS for mode in building.MODES]


@pytest.fixture(scope="module")
def planter(tmp_path_factory: pytest.TempPathFactory, compiled: Callable[..., Path]) -> Planter:
    return Planter(tmp_path_factory.mktemp("planter"), compiled)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_mutants(kind: str, name: str, planter: Planter, tmp_path: Path) -> None:
    noticed = planter.noticed(kind, MUTANTS[kind][name], tmp_path)
    assert noticed is not None, f"nobody notices: {name}"


@pytest.mark.parametrize(("kind", "mode"), MODES)
def test_the_control_is_clean(kind: str, mode: str, planter: Planter, tmp_path: Path) -> None:
    assert planter.said_of_control(kind, mode, tmp_path) is None
