"""Compile a program for the GPU of this machine, as the library's kernels are compiled."""

from __future__ import annotations

import concurrent.futures
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lstm_fused import _build

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"


def compile_program(
    sources: Sequence[Path],
    target: Path,
    architectures: Sequence[str] | None = None,
    include: Sequence[Path] = (),
    strict: bool = False,
    define: Sequence[str] = (),
) -> Path:
    """Compile and link `sources` with nvcc; raises RuntimeError with what it says.

    architectures  in the notation of TORCH_CUDA_ARCH_LIST; None: what the library is built for
    include        folders that come before csrc
    strict         warnings, spilled registers and local memory are errors
    define         flags like -DNAME=VALUE
    """
    toolkit, why_not = _build.find_toolkit()
    if toolkit is None:
        raise RuntimeError(f"cannot compile {target.name}: {why_not}")
    if any("," in str(folder) for folder in include):
        raise ValueError(f"nvcc cuts the names of folders at commas: {list(map(str, include))}")
    chosen = tuple(architectures or _build.choose_architectures(toolkit))
    plan = _build.Plan(CSRC, toolkit, chosen, None, strict)
    folders = [f"-I{folder}" for folder in (*include, CSRC)]
    command = [toolkit.nvcc, *_build.nvcc_flags(plan), *define, *folders]

    def call(*arguments: str) -> None:
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"nvcc cannot compile {target.name}: {done.stderr.strip()[:2000]}")

    def compile_one(source: Path) -> str:
        out = target.with_name(f"{target.name}-{source.stem}.o")
        call("-c", str(source), "-o", str(out))
        return str(out)

    with concurrent.futures.ThreadPoolExecutor(_build.jobs()) as pool:
        objects = list(pool.map(compile_one, sources))
    call(*objects, "-o", str(target))
    return target
