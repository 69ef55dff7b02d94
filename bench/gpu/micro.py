"""Microbenchmarks of what the kernels are designed by, beside what the design predicted.

The program (bench/gpu/micro/) is compiled by nvcc when it is wanted and prints a line of JSON for
each figure as soon as it is there, so a time limit leaves what was measured until then.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.gpu import nvcc
from bench.gpu.reporter import Reporter

SOURCES = Path(__file__).with_suffix("")
SECONDS = 180

# What an H100 was expected to do: microseconds, products or bytes a cycle, clusters. 1.755 GHz.
SYNC = {2: 0.30, 4: 0.30, 8: 0.35, 16: 0.40}  # one way between blocks of a cluster
CLUSTER_BYTES = 0.06 / 4  # us a KB of h into a block, from its cluster
L2_BYTES = 0.58 / 64  # the same from L2
# Cells of a multiprocessor, by warps and cells of a thread.
CELLS = {"w1.c4": 128, "w4.c4": 512, "w8.c4": 1024, "w16.c4": 2048, "w1.c1": 32, "w8.c1": 256}

Prediction = tuple[float, str]


def predictions() -> dict[str, Prediction]:
    """By name of a figure: its value, and what that follows from."""
    table: dict[str, Prediction] = {
        "co_resident_clusters.2": (66, "a pair on each of 66 pairs of SMs"),
        "co_resident_clusters.8": (15, "120 of 132 SMs, seen in others' traces"),
        "co_resident_clusters.16": (7, "one GPC has fewer than 16 SMs"),
        "l2_hop": (0.65, "data as its own flag, one hop"),
        "launch.stream": (2.5, "2 to 3 us a launch"),
        "launch.stream.one_block": (2.5, "2 to 3 us a launch"),
    }
    for cluster, sync in SYNC.items():
        table[f"cluster_barrier.{cluster}"] = (sync, "sync and one way")
        table[f"cluster_round_trip.{cluster}"] = (2 * sync, "twice one way")
        for kilobytes in (4, 16):
            whole = sync + kilobytes * CLUSTER_BYTES
            for kind in ("cluster_exchange", "cluster_exchange_all"):
                table[f"{kind}.{cluster}.{kilobytes}KB"] = (whole, "one way, and 0.06 us for 4 KB")
    for blocks, kilobytes in ((32, 4), (64, 16), (128, 16), (64, 64)):
        whole = 0.70 + kilobytes * L2_BYTES
        because = "0.70 for one hop of a grid, and 0.58 for 64 KB"
        table[f"word_exchange.{blocks}.{kilobytes}KB"] = (whole, because)
        table[f"flag_exchange.{blocks}.{kilobytes}KB"] = (whole + 0.6, f"{because}; 0.6 for a flag")
    for size in ("32", "64", "all"):
        for kind in ("flag_barrier", "counter_barrier"):
            table[f"{kind}.{size}"] = (0.87, "two of the three trips to L2 of 1.3 us")
    for warps in (8, 16):
        table[f"multiply_bf16.w{warps}.s4"] = (1270, "62 % of 2048, as mma.sync on Hopper")
        table[f"multiply_tf32.w{warps}.s4"] = (635, "half of bf16")
    for warps in (4, 8, 16):
        table[f"load_matrix.w{warps}"] = (128, "shared memory's width")
    for warps in (2, 4, 8, 16):
        table[f"block_barrier.w{warps}"] = (0.06, "sync and one way in a block")
    for name, cells in CELLS.items():
        whole = 0.10 + 5 * cells / 16 / 1755
        table[f"cell.{name}"] = (whole, "0.10, and 5 MUFU a cell, 16 a cycle")
    return table


def build(target: Path, architectures: Sequence[str] | None = None, strict: bool = False) -> Path:
    """Compile the program; raises RuntimeError."""
    return nvcc.compile_program(
        sorted(SOURCES.glob("*.cu")), target, architectures, [SOURCES], strict
    )


def parse(text: str) -> dict[str, Any]:
    """The figures by name. A last line without its end is what a time limit cut off."""
    figures: dict[str, Any] = {}
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        try:
            figures |= json.loads(line)
        except (ValueError, TypeError) as error:
            raise RuntimeError(f"the microbenchmarks printed no figure but {line!r}") from error
    return figures


def beside_predictions(figures: dict[str, Any]) -> dict[str, Any]:
    """Each figure with what was predicted and measured over predicted, both None where nothing."""
    table = predictions()
    rows = {}
    for name, figure in figures.items():
        predicted, because = table.get(name, (None, None))
        value = figure["value"]
        ratio = value / predicted if predicted and value is not None else None
        rows[name] = figure | {"predicted": predicted, "because": because, "ratio": ratio}
    return rows


def figures_of(
    command: Sequence[str], what: str, seconds: float
) -> tuple[dict[str, Any], str | None]:
    """The figures that a command has printed when it ends or is stopped, and why it did not come to
    its end, None where it did."""
    stopped = None
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, check=False)
        out = done.stdout
        if done.returncode != 0:
            stopped = f"{what} failed: {done.stderr.decode().strip()[-1000:]}"
    except subprocess.TimeoutExpired as error:
        out, stopped = error.stdout or b"", f"{what} did not end in {seconds:g} s"
    return parse(out.decode()), stopped


def measure(program: Path, only: str = "", seconds: float = SECONDS) -> dict[str, Any]:
    """Run the program; "stopped" says why it did not come to its end, None where it did.

    only  part of the names that are wanted

    Raises RuntimeError where there is no figure at all.
    """
    figures, stopped = figures_of([str(program), only], "the microbenchmarks", seconds)
    if not figures:
        raise RuntimeError(stopped or f"no microbenchmark has a name with {only!r}")
    return {"figures": beside_predictions(figures), "stopped": stopped}


def run(report: Reporter) -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = measure(build(Path(folder) / "micro"))
    report.put("micro", result)
    if result["stopped"]:
        raise RuntimeError(result["stopped"])
