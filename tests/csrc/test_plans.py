"""The plans of the CUDA kernels over all hidden sizes: plan_check.cpp, without a GPU."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lstm_fused import _build

HERE = Path(__file__).resolve().parent


def test_plans(tmp_path: Path) -> None:
    program = tmp_path / "plan_check"
    source, include = HERE / "plan_check.cpp", HERE.parents[1] / "csrc"
    command = [*_build.find_compiler(), "-std=c++20", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*command, f"-I{include}", str(source), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stdout
