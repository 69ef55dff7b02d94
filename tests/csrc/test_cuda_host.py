"""What the CUDA drivers do on the host, without a GPU: plans over all hidden sizes, and dev.cuh."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lstm_fused import _build
from tests.simt import building

HERE = Path(__file__).resolve().parent


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("plan_check", [[]]),
        ("cluster_plan_check", [[]]),
        ("grid_plan_check", [[]]),
        ("dev_check", [[], ["broken"]]),
    ],
)
def test_host(name: str, runs: list[list[str]], tmp_path: Path) -> None:
    program = tmp_path / name
    try:
        headers = [f"-isystem{folder}" for folder in building.cuda_headers()]
    except building.CannotBuild as error:
        pytest.skip(str(error))
    command = [*_build.find_compiler(), "-std=c++20", "-Wall", "-Wextra", "-Werror"]
    command += [f"-I{building.CSRC}", *headers, str(HERE / f"{name}.cpp")]
    subprocess.run([*command, "-o", str(program)], check=True)
    for arguments in runs:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "ok\n"), done.stdout
