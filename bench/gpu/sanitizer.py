"""Stage 5: NVIDIA's compute-sanitizer over tiny grids, each tool over each variant.

It sees races in shared memory only; those between blocks are found in tests/simt.
"""

from __future__ import annotations

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from bench.gpu import build, child
from bench.gpu.report import Report

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
COMPLAINT = 9  # the exit status that we ask for
SIDE_BY_SIDE = 4  # processes on one GPU: most of their time goes into loading torch
OURS = "lf::"  # in the name of every kernel of ours
KEPT_LINES = 40


class Verdict(NamedTuple):
    """What a tool said of a variant."""

    wrong: str | None
    complaint: list[str]  # its first lines, also where it is about kernels of others
    cut: bool = False  # stopped at its limit
    refused: bool = False  # the tool does not work on this machine


def judge(ended: child.Ended) -> Verdict:
    """Complaints about kernels of torch and cuBLAS are kept, and are no fault of the variant."""
    lines = [line for line in ended.lines if line.startswith("=========")]
    if ended.code is None:
        return Verdict(None, lines[:KEPT_LINES], cut=True)
    if ended.code == 0:
        return Verdict(None, [])
    if any("Device not supported" in line for line in ended.lines):
        return Verdict(None, lines[:KEPT_LINES], refused=True)
    if ended.code == COMPLAINT:
        # Host frames show who launched a kernel, ours or not.
        device = ["" if "Host Frame" in line else line for line in lines]
        ours = next((i for i, line in enumerate(device) if OURS in line), None)
        if ours is None:
            return Verdict(None, lines[:KEPT_LINES])
        first = max(0, ours - 2)
        kept = lines[first : first + KEPT_LINES]
        return Verdict(" ".join(line.strip("= ") for line in kept[:3]), kept)
    return Verdict(f"ended with {ended.code}: {ended.last}", ended.lines[-KEPT_LINES:])


def command(tool: str, variant: str) -> list[str]:
    return [
        *("compute-sanitizer", "--tool", tool, "--error-exitcode", str(COMPLAINT)),
        *(sys.executable, "-m", "bench.gpu.tiny", variant),
    ]


def run(report: Report) -> None:
    variants = build.runnable(report)
    if not variants:
        return
    if shutil.which("compute-sanitizer") is None:
        report.skip("compute-sanitizer is not on PATH: it comes with the CUDA toolkit")
        return
    pairs = [(tool, variant) for variant in variants for tool in TOOLS]

    def ask(pair: tuple[str, str]) -> Verdict:
        # torch's allocator would hide what is outside of a tensor but inside of its block.
        env = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        return judge(child.run(command(*pair), max(report.left(), 1.0), env=env))

    verdicts = []
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for (tool, variant), verdict in zip(pairs, pool.map(ask, pairs), strict=True):
            verdicts.append(verdict)
            state = "stopped at the limit" if verdict.cut else "refused" if verdict.refused else ""
            report.say(f"{variant} {tool}: {state or verdict.wrong or 'right'}")
            report.details[f"{variant} {tool}"] = {**verdict._asdict()}
            if not verdict.cut and not verdict.refused:
                report.check(tool, verdict.wrong, variant=variant)
            report.save()
    if all(verdict.refused for verdict in verdicts):
        report.skip("compute-sanitizer does not support this device")
    elif any(verdict.cut for verdict in verdicts):
        report.cut(f"{sum(verdict.cut for verdict in verdicts)} of {len(pairs)} runs were stopped")
