"""Every planted bug of mutants_of_step.py is noticed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simt.mutants_of_step import MUTANTS
from tests.simt.mutation import Planter

pytestmark = pytest.mark.simt


@pytest.fixture(scope="module")
def planter(tmp_path_factory: pytest.TempPathFactory, compiled: Callable[..., Path]) -> Planter:
    return Planter("step.cpp", "simt.step", tmp_path_factory.mktemp("objects"), compiled)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants(name: str, planter: Planter, tmp_path: Path) -> None:
    assert planter.noticed(MUTANTS[name], tmp_path) is not None, f"nobody notices: {name}"


def test_the_control_is_clean(planter: Planter, tmp_path: Path) -> None:
    assert planter.complaint("address", tmp_path / "control") is None
