"""What nvcc made: the CUDA kernels in a compiled file, as cuobjdump shows them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lstm_fused import _build

Name = tuple[str, str]  # architecture, "sm_90a"; symbol, as the linker knows it


class CannotRead(Exception):
    """Machine code cannot be looked at; the message says why and what to install."""


@dataclass(frozen=True)
class Usage:
    """What one kernel takes of a multiprocessor."""

    registers: int  # of a thread
    stack: int  # bytes of a thread: spilled registers, arrays that a variable indexes
    local: int  # bytes of a thread, more of the same
    shared: int  # bytes of a block, without what a launch asks for


@dataclass(frozen=True)
class Code:
    """The instructions of one kernel."""

    text: tuple[str, ...]  # "LDG.E.128 R4, desc[UR4][R2.64]", without predicates
    digest: str  # sha256 of the encodings, in which there is no name, folder or line number


@dataclass(frozen=True)
class Kernel:
    """A kernel as compiled for one architecture."""

    arch: str
    symbol: str
    usage: Usage
    code: Code


def read(file: Path) -> list[Kernel]:
    """The kernels in a cubin, an object or a library, by architecture and symbol."""
    usages = sorted(parse_usage(cuobjdump("--dump-resource-usage", file)), key=_name)
    codes = sorted(parse_code(cuobjdump("-sass", file)), key=_name)
    if [*map(_name, usages)] != [*map(_name, codes)]:
        raise CannotRead(
            f"cuobjdump shows the resources of {len(usages)} kernels in {file}, "
            f"and the instructions of {len(codes)}"
        )
    return [
        Kernel(*name, usage, code) for (name, usage), (_, code) in zip(usages, codes, strict=True)
    ]


def digests(kernels: Iterable[Kernel]) -> dict[str, str]:
    """sha256 of the machine code of each kernel, by "arch symbol"."""
    found: dict[str, str] = {}
    for kernel in kernels:
        # Symbols in an unnamed namespace hold a hash of the source's path.
        symbol = re.sub(r"_GLOBAL__N__[0-9a-f]{8}_", "_GLOBAL__N__", kernel.symbol)
        name = f"{kernel.arch} {symbol}"
        if name in found:  # two sources have one of this name each
            both = found[name] + kernel.code.digest
            found[name] = hashlib.sha256(both.encode()).hexdigest()
        else:
            found[name] = kernel.code.digest
    return found


def demangle(symbols: Iterable[str]) -> list[str]:
    """Names as in the source: `lf::cuda::output_gradient<float>`, without type and parameters."""
    if shutil.which("c++filt") is None:
        raise CannotRead("c++filt is not on PATH: install it (`apt install binutils`)")
    names = "\n".join(symbols)
    done = subprocess.run(
        ["c++filt", "--no-params"], input=names, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


# What cuobjdump prints


def parse_usage(dump: str) -> list[tuple[Name, Usage]]:
    """From `cuobjdump --dump-resource-usage`."""
    found = []
    for name, line in _named(dump):
        number = {key: int(value) for key, value in re.findall(r"\b([A-Z]+):(\d+)", line)}
        if number:
            usage = Usage(number["REG"], number["STACK"], number["LOCAL"], number["SHARED"])
            found.append((name, usage))
    return found


def parse_code(dump: str) -> list[tuple[Name, Code]]:
    """From `cuobjdump -sass`: an instruction's address, text and encoding, half of it below."""
    found: list[tuple[Name, list[str], list[str]]] = []
    for name, line in _named(dump):
        if "Function :" in line:
            found.append((name, [], []))
        elif halves := re.findall(r"/\* 0x([0-9a-f]+) \*/", line):
            found[-1][2].extend(halves)
            text = re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?(.*?)\s*;", line)
            if text:
                found[-1][1].append(text[1])
    return [
        (name, Code(tuple(texts), hashlib.sha256(" ".join(encodings).encode()).hexdigest()))
        for name, texts, encodings in found
    ]


def _named(dump: str) -> Iterator[tuple[Name, str]]:
    """The lines that belong to a kernel, each with the kernel's name."""
    arch = symbol = ""
    for line in dump.splitlines():
        if found := re.match(r"arch = (\w+)", line):
            arch, symbol = found[1], ""
        elif found := re.match(r"\s+Function (?:: )?([\w.$]+)", line):
            symbol = found[1]
        if symbol:
            yield (arch, symbol), line


def _name(entry: tuple[Name, object]) -> Name:
    return entry[0]


# The program


def cuobjdump(what: str, file: Path) -> str:
    """What cuobjdump prints; nothing for a file without machine code of a GPU."""
    program, path = find_programs()
    done = subprocess.run(
        [program, what, str(file)],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if "does not contain device code" in done.stdout + done.stderr:
        return ""
    if done.returncode != 0:
        raise CannotRead(f"cuobjdump cannot read {file}: {done.stderr.strip()}")
    return done.stdout


def find_programs() -> tuple[str, str]:
    """cuobjdump, and a PATH on which it finds nvdisasm; raises CannotRead."""
    path = search_path()
    program = shutil.which("cuobjdump", path=path)
    if program is None or shutil.which("nvdisasm", path=path) is None:
        raise CannotRead(
            "cuobjdump and nvdisasm are neither on PATH nor in the CUDA toolkit: "
            "`pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm`"
        )
    return program, path


def search_path() -> str:
    """PATH, then the CUDA toolkit's programs, then those of NVIDIA's wheels."""
    folders = [os.environ.get("PATH", os.defpath)]
    toolkit, _ = _build.find_toolkit()
    if toolkit is not None:
        folders.append(str(toolkit.home / "bin"))
    wheels = importlib.util.find_spec("nvidia")
    for folder in (wheels and wheels.submodule_search_locations) or ():
        folders += sorted(map(str, Path(folder).glob("cu*/bin")), reverse=True)
    return os.pathsep.join(folders)
