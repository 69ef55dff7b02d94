"""Code for one instruction set stays in its own namespace, so the linker cannot hand it to all."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from lstm_fused import _build

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "csrc/cpu").glob("isa_*.cpp"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_mergeable_functions_carry_the_name_of_their_isa(source: Path, tmp_path: Path) -> None:
    # Without optimisation nothing is inlined that need not be: every mergeable copy is to be seen.
    out = tmp_path / "isa.o"
    compiler = _build.find_compiler()
    flags = ["-std=c++20", "-O0", f"-I{ROOT / 'csrc'}"]
    subprocess.run([*compiler, *flags, "-c", str(source), "-o", str(out)], check=True)
    symbols = subprocess.run(
        ["nm", "-C", str(out)], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    weak = [line.split(maxsplit=2)[2] for line in symbols if re.match(r"\w+ [WV] ", line)]
    isa = source.stem.removeprefix("isa_")
    ours = [name for name in weak if "lf::" in name and f"lf::{isa}::" not in name]
    assert not ours
    if source.stem == "isa_generic":
        assert any(f"lf::{isa}::" in name for name in weak), "the test sees no mergeable function"
