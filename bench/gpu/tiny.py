"""A few launches of one variant, for tools that slow a program down or record each kernel.

    compute-sanitizer --tool racecheck python -m bench.gpu.tiny cuda.step
    ncu --profile-from-start off python -m bench.gpu.tiny cuda.step --profile flashrnn

The variant "torch" is torch.nn.LSTM.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import nn

import lstm_fused
from bench.cases import Case
from bench.work import Work

# Small grids: tails in every dimension, full tiles, a projection, sequences that end early.
TINY = [
    Case("tiny", "odd", 3, 3, 5, 33, kind="training"),
    Case("tiny", "tile", 3, 16, 32, 64, kind="training"),
    Case("tiny", "wide", 2, 17, 16, 256, kind="training"),
    Case("tiny", "proj", 3, 5, 8, 40, proj=16, kind="training"),
    Case("tiny", "packed-bi", 5, 6, 8, 24, bidirectional=True, packed=True, kind="training"),
    Case("tiny", "inference", 4, 4, 16, 48),
    Case("tiny", "step", 1, 9, 16, 48, kind="training"),
    Case("tiny", "step-odd", 1, 1, 5, 33, kind="step"),
]
DTYPES = ("float32", "bfloat16", "float16", "float64")

# Few steps, as ncu repeats every kernel for every set of counters.
PROFILED = {
    "flashrnn": Case("ncu", "t16b16h768", 16, 16, 768, 768, dtype="bfloat16", kind="training"),
    "pyannote": Case("ncu", "t16b32h128", 16, 32, 60, 128, bidirectional=True, kind="training"),
    "encodec": Case("ncu", "t16b1h512", 16, 1, 512, 512, kind="forward"),
    "step": Case("ncu", "t1b1h1024", 1, 1, 1024, 1024, dtype="float16", kind="step"),
}


def work_of(variant: str, case: Case, device: torch.device) -> Work:
    module = nn.LSTM if variant == "torch" else lstm_fused.LSTM
    return Work(case, module, getattr(torch, case.dtype), device)


def forced(variant: str) -> AbstractContextManager[None]:
    return nullcontext() if variant == "torch" else lstm_fused.variant(variant)


def refuses(error: RuntimeError) -> bool:
    """Whether a forced variant said that it does not take the case."""
    return "cannot run this layer" in str(error)


def run_tiny(variant: str, device: torch.device) -> int:
    """Run every tiny case that the variant takes; returns how many."""
    done = 0
    for case in [replace(case, dtype=dtype) for case in TINY for dtype in DTYPES]:
        with forced(variant):
            try:
                results = work_of(variant, case, device).run()
            except RuntimeError as error:
                if not refuses(error):
                    raise
                continue
        finite = all(bool(tensor.isfinite().all()) for tensor in results.values())
        assert finite, f"{case.id}: NaN or infinity in what finite numbers gave"
        done += 1
    return done


def run_profiled(variant: str, case: Case, device: torch.device) -> int:
    """Run a case three times, the last time between the profiler's marks; 0 if it is refused."""
    with forced(variant):
        try:
            work = work_of(variant, case, device)
            for _ in range(2):
                work.run()
        except RuntimeError as error:
            if not refuses(error):
                raise
            return 0
        if device.type == "cpu":
            work.run()
            return 1
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        work.run()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.gpu.tiny", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("variant", help="cuda.step and so on, or torch")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--profile", choices=sorted(PROFILED), help="this case, between marks")
    args = parser.parse_args(argv)
    device = torch.device(args.device)
    if args.profile:
        done = run_profiled(args.variant, PROFILED[args.profile], device)
    else:
        done = run_tiny(args.variant, device)
    print(f"{args.variant}: {done} cases ran")
    return 0


if __name__ == "__main__":
    sys.exit(main())
