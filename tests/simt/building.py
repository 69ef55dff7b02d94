"""Compile the SIMT machine with the CUDA kernels in it."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from lstm_fused import _build

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"

MACHINE = HERE / "machine.cpp"
VARIANTS = ("block", "cluster", "decode", "grid", "step")
KERNELS = [MACHINE, *(HERE / f"{name}.cpp" for name in ("variants", *VARIANTS))]
PLUGIN = [*KERNELS, HERE / "plugin.cpp"]
SCAN_CHECK = [*KERNELS, HERE / "scan_check.cpp"]
PROBES_CHECK = [MACHINE, HERE / "probes_check.cpp"]
PROBES_DUMP = HERE / "probes_dump.cu"
MICRO_CHECK = [MACHINE, HERE / "micro_check.cpp"]
MACHINE_CHECK = [MACHINE, HERE / "machine_check.cpp"]

# AddressSanitizer's red zones around every local variable double the time to compile.
ADDRESS = ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover"]
ADDRESS += ["--param=asan-stack=0"]
MODES = {"plain": ["-O1", "-g1"], "address": ADDRESS, "thread": ["-O1", "-g1", "-fsanitize=thread"]}
# How kernels are run is not what is tested, and is most of what there is to do: the machine itself
# has no sanitizer, and calls those of the kernels.
OF_MACHINE = {mode: ["-O2", "-g1", "-fPIC", "-fvisibility=hidden"] for mode in MODES}
OF_MACHINE["address"] += ["-D__SANITIZE_ADDRESS__"]
OF_MACHINE["thread"] += ["-D__SANITIZE_THREAD__"]
RACE = 66  # what a program exits with when ThreadSanitizer sees one
# What a sanitizer must be told in the environment. Shared memory is poisoned by hand, so there is
# nothing to leak or to return from.
ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    "TSAN_OPTIONS": f"halt_on_error=1:exitcode={RACE}",
}


class CannotBuild(Exception):
    """Something is not installed; the message says what."""


@functools.cache
def cuda_headers() -> tuple[Path, ...]:
    """Where cuda_bf16.h and vector_types.h lie: a toolkit, or NVIDIA's wheels."""
    toolkit, _ = _build.find_toolkit()
    if toolkit is not None:
        return (toolkit.home / "include",)
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (Path(folder) / "cu13/include/crt/host_defines.h").exists():
            return (Path(folder) / "cu13/include", Path(folder) / "cu13/include/cccl")
    raise CannotBuild(
        "no CUDA headers: install the CUDA toolkit, or "
        "`pip install nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-cccl`"
    )


def compiler(mode: str) -> list[str]:
    """g++, and for "thread" clang: g++'s ThreadSanitizer misses stores that matter here."""
    if mode != "thread":
        return _build.find_compiler()
    if shutil.which("clang++-19") is None:
        raise CannotBuild(
            "clang++-19 is not on PATH: install it (`apt install clang-19 libclang-rt-19-dev`)"
        )
    return ["clang++-19"]


def compile_program(
    sources: Iterable[Path], target: Path, mode: str, *, csrc: Path = CSRC, strict: bool = True
) -> Path:
    """Compile the sources or objects, and link them unless target is an object itself.

    strict  warnings are errors
    """
    sources = list(sources)
    if MACHINE in sources and sources != [MACHINE]:
        machine = target.with_name(f"{target.name}-machine.o")
        compile_program([MACHINE], machine, mode, csrc=csrc, strict=strict)
        sources[sources.index(MACHINE)] = machine
    headers = [flag for folder in cuda_headers() for flag in ("-isystem", str(folder))]
    command = [*compiler(mode), "-std=c++20"]
    command += ["-Wall", "-Wextra", "-Werror"] if strict else ["-w"]
    if strict and mode == "thread":  # clang knows where 64 bits become 32
        command += ["-Wshorten-64-to-32"]
    # `#pragma unroll` is nvcc's and clang's, who may not follow it.
    command += ["-Wno-unknown-pragmas", "-Wno-pass-failed"]
    command += [
        *(OF_MACHINE if sources == [MACHINE] else MODES)[mode],
        "-include",
        str(HERE / "builtins.h"),
    ]
    command += [f"-I{HERE / 'include'}", f"-I{HERE}", f"-I{csrc}", f"-I{HERE.parent / 'csrc'}"]
    if target.suffix == ".so":
        command += ["-shared", "-fPIC", "-fvisibility=hidden"]
    if target.suffix == ".o":
        command += ["-c"]
    for source in sources:
        command += ["-x", "none" if source.suffix == ".o" else "c++", str(source)]
    command += [*headers, "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return target


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a compiled program to its end, with what its sanitizer must be told."""
    return subprocess.run(
        [str(program), *map(str, arguments)],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
