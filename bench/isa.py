"""A CPU limited to an older instruction set, so that one machine can stand for another.

torch's libraries are told by environment variables, which they read once: `rerun` starts the
program again with them. Ours run by a forced variant. onnxruntime takes no such limit and is left
out; on CPUs of AMD, MKL has one path, which the limit does not change.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# Of oneDNN, MKL and ATen, then ours.
ENVIRONMENT = {
    "avx2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "LSTM_FUSED_VARIANT": "cpu.avx2",
    }
}
_CHOSEN = "LSTM_FUSED_BENCH_ISA"


def limit() -> str | None:
    """The limit that this program runs under; None: the whole CPU."""
    return os.environ.get(_CHOSEN)


def rerun(module: str, arguments: Sequence[str], isa: str) -> None:
    """Replace this program by `python -m module arguments` under a limit, unless it is that."""
    wanted = ENVIRONMENT[isa] | {_CHOSEN: isa}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        sys.stdout.flush()
        command = [sys.executable, "-m", module, *arguments]
        os.execve(sys.executable, command, os.environ | wanted)
