"""Memory of training on a CPU: `python -m bench.memory` writes a result file.

kept   bytes that a forward leaves to backward (saved_bytes.py), as they were allocated
peak   resident bytes that a training step takes at most, over what lay there before it: forward
       and backward with all that they allocate, outputs and gradients too

peak also has the scratch memory that oneDNN and MKL take past torch's allocator, but not what they
keep from step to step, and no page that nobody touches. oneDNN's workspace, most of what torch
keeps, has such pages: a peak may be less than what is kept.

Each arm of a case runs in a fresh process. There the C library gives large blocks back at once, a
first step loads and caches what later ones find, and the kernel's high-water mark is set back
before each step that counts.
"""

from __future__ import annotations

import argparse
import mmap
import multiprocessing
import os
import re
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lstm_fused
from bench import machine
from bench.arms import Arm, arms
from bench.cases import Case, suite
from bench.plot import label
from bench.results import Row, Staleness
from bench.run import RESULTS, result_path, write
from bench.saved_bytes import saved_bytes
from bench.work import Work

CPU = torch.device("cpu")
STEPS = 5
# glibc raises this by itself, up to 32 MiB, and keeps what it frees below it.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def competitors(case: Case) -> list[Arm]:
    """torch as it is, and what of ours runs the case unless told otherwise."""
    return [arm for arm in arms(CPU) if arm.name == "torch" or arm.default(case)]


def measure(case: Case, name: str) -> dict[str, int]:
    """Bytes that the arm `name` keeps and takes for the case; in this process, on one thread."""
    torch.set_num_threads(1)
    # Linux counts pages by CPU and adds them up now and then: from two CPUs, 0.3 MB went missing.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    arm = next(arm for arm in competitors(case) if arm.name == name)
    module = lstm_fused.LSTM if arm.family == "ours" else nn.LSTM
    work = Work(case, module, arm.judged_in(case), CPU)
    with arm.settings():
        kept = saved_bytes(work.module, work.input)
        work.run()
        peak = statistics.median(_peak_of_step(work) for _ in range(STEPS))
    return {"kept": kept, "peak": max(round(peak), mmap.PAGESIZE)}  # no share of nothing


def _peak_of_step(work: Work) -> int:
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark is now what is resident
    before = _high_water()
    work.run()
    return _high_water() - before


def _high_water() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise RuntimeError("/proc/self/status must say VmHWM: memory is measured on Linux only")
    return 1024 * int(found[1])


def row(case: Case, arm: Arm) -> dict[str, Any]:
    """A row of the result file, measured in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        found = pool.submit(measure, case, arm.name).result()
    head = {"case": case.as_dict(), "arm": arm.name, "family": arm.family, "threads": 1}
    return {**head, "dtype": arm.dtype or case.dtype, **found}


def markdown(rows: Sequence[Row], staleness: Staleness) -> str:
    """A table for each place and group: what is kept and the peak, ours with its share of torch's.

    The last line is the geometric mean of the shares and the largest of them.
    """
    parts = []
    for where, group in dict.fromkeys((row.where, row.case["group"]) for row in rows):
        members = [row for row in rows if (row.where, row.case["group"]) == (where, group)]
        theirs = {row.case["id"]: row for row in members if row.data["family"] == "torch"}
        ours = [row for row in members if row.data["family"] == "ours" and row.case["id"] in theirs]
        if not ours:  # a run cut short after torch's first row
            continue
        shares: dict[str, list[float]] = {"kept": [], "peak": []}
        names = " and ".join(dict.fromkeys(row.data["arm"] for row in ours))
        lines = [
            f"**{group}, memory of training**: {where}, torch {members[0].stamp['torch']}",
            "",
            f"| case | T, B, I, H, L | kept: torch | {names} | peak of a step: torch | {names} |",
            "|---|---|---|---|---|---|",
        ]
        for mine in ours:
            case, yard = mine.case, theirs[mine.case["id"]]
            cells = [label(mine).replace("\n", " "), ", ".join(str(case[k]) for k in "TBIHL")]
            for what, found in shares.items():
                found.append(mine.data[what] / yard.data[what])
                cells.append(megabytes(yard.data[what]))
                share = f"{found[-1]:.2f}x{staleness.mark(mine)}"
                cells.append(f"{megabytes(mine.data[what])}, {share}")
            lines.append("| " + " | ".join(cells) + " |")
        overall = [
            f"{statistics.geometric_mean(found):.2f}x, worst {max(found):.2f}x"
            for found in shares.values()
        ]
        lines.append(f"| all | | | {overall[0]} | | {overall[1]} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def megabytes(count: int) -> str:
    return f"{count / 1e6:.3g} MB"


def main(argv: Sequence[str] | None = None) -> int:
    from tqdm import tqdm

    parser = argparse.ArgumentParser(
        prog="bench.memory", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--filter", default="", help="cases whose id matches this regex")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result file")
    args = parser.parse_args(argv)
    cases = [case for case in suite("cpu", matching=args.filter) if case.kind == "training"]
    runs = [(case, arm) for case in cases for arm in competitors(case)]
    if not runs:
        parser.error(f"no training case matches {args.filter!r}")
    os.environ.update(ALLOCATOR)  # read when a process starts: by those that measure
    stamp = machine.stamp(CPU, " ".join(["python -m bench.memory", *(argv or sys.argv[1:])]))
    args.out.mkdir(parents=True, exist_ok=True)
    path = result_path(args.out, "memory", stamp)
    found: list[dict[str, Any]] = []
    for case, arm in tqdm(runs):
        new = row(case, arm)
        found.append(new)
        write(path, stamp, [], memory=found)
        kept, peak = megabytes(new["kept"]), megabytes(new["peak"])
        tqdm.write(f"{case.id:<40} {arm.name:<12} kept {kept:>9}, peak {peak:>9}")
    print(f"{len(found)} rows: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
