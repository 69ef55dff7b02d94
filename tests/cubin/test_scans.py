"""nvcc compiles the programs that time scans alone (bench/gpu/scans.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.gpu import scans
from bench.gpu.scans import Scan

pytestmark = pytest.mark.cubin

# Whole ones, and the one that lacks most.
SOME = [scan for scan in scans.SCANS if not scan.edits] + scans.SCANS[-1:]


@pytest.mark.parametrize("scan", SOME, ids=lambda scan: scan.label)
def test_scans_compile(scan: Scan, tmp_path: Path) -> None:
    assert scans.build(scan, tmp_path / "build", ["9.0a"], strict=True).exists()
