"""Stage 8: counters of every kernel of four cases, ours and torch's, by Nsight Compute.

The clocks are left as they are (`--clock-control none`): the machine is not ours to set.
"""

from __future__ import annotations

import csv
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.gpu import build, child, tiny
from bench.gpu.report import Report

# Known to every architecture since 7.0.
METRICS = [
    "gpu__time_duration.sum",
    "dram__bytes.sum",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "lts__t_bytes.sum",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "sm__warps_active.avg.pct_of_peak_sustained_active",
    "launch__registers_per_thread",
    "launch__grid_size",
    "launch__block_size",
]
# Asked for as well; left out where ncu does not know one of them.
MORE = [
    "sm__inst_executed_pipe_tensor.sum",
    "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio",
    "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio",
    "smsp__average_warps_issue_stalled_membar_per_issue_active.ratio",
]
LAUNCHES = 40  # of a case: cuda.step has some for every time step


def command(variant: str, profiled: str, metrics: list[str], log: Path) -> list[str]:
    return [
        *("ncu", "--clock-control", "none", "--profile-from-start", "off", "--csv"),
        *("--log-file", str(log), "--launch-count", str(LAUNCHES), "--metrics", ",".join(metrics)),
        *(sys.executable, "-m", "bench.gpu.tiny", variant, "--profile", profiled),
    ]


def parse(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Kernels in the order of their launches, from ncu's CSV: a row per kernel and metric."""
    kept = [line for line in lines if line.startswith('"')]
    kernels: dict[str, dict[str, Any]] = {}
    for row in csv.DictReader(kept):
        kernel = kernels.setdefault(row["ID"], {"kernel": row["Kernel Name"]})
        value = row["Metric Value"].replace(",", "")
        name = row["Metric Name"]
        try:
            kernel[name] = float(value)
        except ValueError:
            kernel[name] = value
        if row.get("Metric Unit"):
            kernel[f"{name} unit"] = row["Metric Unit"]
    return list(kernels.values())


def run(report: Report) -> None:
    variants = build.runnable(report)
    if not variants:
        return
    if shutil.which("ncu") is None:
        report.skip("ncu is not on PATH: it comes with the CUDA toolkit (Nsight Compute)")
        return
    metrics = METRICS + MORE
    pairs = [(name, variant) for name in tiny.PROFILED for variant in (*variants, "torch")]
    with tempfile.TemporaryDirectory() as folder:
        for name, variant in report.in_time(pairs, "profiles"):
            log = Path(folder) / "ncu.csv"
            ended = child.run(command(variant, name, metrics, log), report.left())
            if ended.code not in (0, None) and metrics != METRICS:
                metrics = METRICS
                ended = child.run(command(variant, name, metrics, log), report.left())
            lines = log.read_text(errors="replace").splitlines() if log.exists() else []
            log.unlink(missing_ok=True)
            kernels = parse(lines)
            found: dict[str, Any] = {"exit": ended.code, "kernels": kernels}
            if not kernels:
                found["said"] = (lines + ended.lines)[-20:]
            report.details[f"{variant} {name}"] = found
            report.say(f"{variant} {name}: {len(kernels)} kernels")
    if not any(found["kernels"] for found in report.details.values()):
        last = next(reversed(report.details.values()), {"said": ["no time"]})
        report.skip(f"ncu recorded nothing: {' '.join(last['said'][-3:])}")
