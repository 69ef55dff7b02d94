"""Every wrapper of ptx.cuh: its twin beside the definition. Beside a GPU: test_twins.py."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simt import building

pytestmark = pytest.mark.simt

PTX = "cuda/lstm_fused/ptx.cuh"
TWIN = building.HERE / "include" / PTX
# Functions of a twin that are the twin's own.
INSIDE = {
    "without_subnormals",
    "check_aligned",
    "cut_sum",
    "multiply",
    "bf16_of",
    "f16_of",
    "tf32_of",
    "tick",
    "poll_later",
    "counting",
}


@pytest.mark.parametrize("mode", list(building.MODES))
def test_twins_do_what_is_defined(mode: str, compiled: Callable[..., Path]) -> None:
    program = compiled(building.PROBES_CHECK, "probes", mode)
    for seed in range(4):
        done = building.run(program, seed)
        assert (done.returncode, done.stdout) == (0, "ok\n"), done.stdout + done.stderr


def functions(path: Path) -> set[str]:
    text = path.read_text()
    return set(re.findall(r"^(?:[\w:<>*&]+ )+?\**(\w+)\([^;]*?\) ?\{", text, re.M)) - {"take"}


def test_every_wrapper_has_a_twin_and_a_probe() -> None:
    wrappers = functions(building.CSRC / PTX) - {"shared_address"}
    assert len(wrappers) > 15
    assert wrappers == functions(TWIN) - INSIDE
    probes = "".join(path.read_text() for path in building.HERE.glob("probes*.cuh"))
    assert not [name for name in wrappers if f"ptx::{name}" not in probes]


def test_what_touches_memory_stays_where_it_stands() -> None:
    """Without volatile and the clobber a compiler may move it over a barrier, and one day will."""
    text = (building.CSRC / PTX).read_text()
    statements = re.findall(r"asm( volatile)?\((.*?)\);\n", text, re.S)
    assert len(statements) > 20
    for volatile, rest in statements:
        first = re.search(r'"(?:\{\\n)?(?:\.reg[^"]*"\s*")?\s*([a-z]+)', rest)
        assert first is not None, rest
        if first.group(1) in {
            "ld",
            "ldmatrix",
            "st",
            "cp",
            "red",
            "bar",
            "barrier",
            "mbarrier",
            "fence",
        }:
            assert volatile and '"memory"' in rest, rest
