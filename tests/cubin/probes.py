"""The machine code of ptx.cuh's probes, by digest: `python -m tests.cubin.probes` writes it down.

No machine without a GPU can execute PTX, so nothing here can say that it is right. But it can say
that it is not what it was when a GPU last compared it with the SIMT machine, or when a person last
read it: change ptx.cuh, look at the probe's instructions, and write the digests anew. Whoever next
has a GPU runs `python -m bench.gpu_check --stages twins`.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

from bench import machine, sass
from bench.gpu import twins
from lstm_fused import _build
from tests.cubin import gate

FILE = Path(__file__).with_name("probes.json")


def digests(kernels: Iterable[sass.Kernel]) -> dict[str, str]:
    """A digest for each probe, of its code for all architectures."""
    kernels = [kernel for kernel in kernels if "probes" in kernel.symbol]
    of: dict[str, list[str]] = {}
    for kernel, name in zip(kernels, gate.names(kernels), strict=True):
        of.setdefault(name, []).append(f"{kernel.arch} {kernel.code.digest}")
    return {
        name: hashlib.sha256("\n".join(sorted(codes)).encode()).hexdigest()
        for name, codes in sorted(of.items())
    }


def compile_probes(target: Path) -> list[sass.Kernel]:
    """The probes for every architecture of the library. Raises RuntimeError."""
    return sass.read(twins.build_for_gpu(target, _build.DEFAULT_ARCHITECTURES, strict=True))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = digests(compile_probes(Path(folder) / "probes.o"))
    FILE.write_text(json.dumps({"nvcc": machine.nvcc_version(), "digests": found}, indent=2) + "\n")
    print(f"{len(found)} probes: {FILE}")


if __name__ == "__main__":
    main()
