"""Each scan kernel by itself: microseconds a time step, and where they go.

A program (bench/gpu/scans/) runs the scan of one variant without the products over all rows. It is
compiled once as the kernels are and once for each of PARTS, mostly without a part of the kernel:
what then remains is the time of the others. Results are wrong then, and nobody looks at them.
"""

from __future__ import annotations

import concurrent.futures
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.gpu import micro, nvcc
from bench.gpu.reporter import Reporter
from lstm_fused import costs

SOURCE = Path(__file__).with_suffix("") / "main.cu"
SECONDS = 60  # for one program

# dtype:T,B,H,D. The floors are those of the design, in microseconds a step of forward in bf16.
GRID = ["bf16:1024,16,768,1", "bf16:64,16,768,1", "bf16:512,1,1024,1", "bf16:512,8,1024,1"]
GRID += [
    "bf16:512,64,1024,1",
    "bf16:512,256,1024,1",
    "bf16:512,1,512,1",
    "bf16:512,16,512,2",
    "bf16:256,64,2048,1",
]
GRID += ["fp16:1024,16,768,1", "tf32:512,16,512,1", "fp32:512,16,512,1", "fp32:512,8,1024,1"]
GRID += ["tf32:512,8,1024,1"]  # twice the blocks
STREAMED = ["tf32:256,8,1536,1", "tf32:256,32,1536,1", "tf32:256,8,2048,1", "fp32:256,8,1536,1"]
GRID += STREAMED
FEW = ["bf16:1024,16,768,1", "bf16:512,64,1024,1", "bf16:512,256,1024,1", "bf16:512,1,512,1"]
FEW += ["bf16:256,64,2048,1"]
BLOCK = ["bf16:1024,64,128,1", "tf32:1024,64,128,1", "bf16:1024,8,64,1", "fp16:1024,32,160,1"]
CLUSTER = ["bf16:1024,8,256,1", "bf16:1024,64,256,1", "bf16:512,8,512,1", "bf16:512,64,512,1"]
CLUSTER += [
    "bf16:512,512,256,1",
    "bf16:512,1,512,1",
    "bf16:512,16,256,2",
    "fp16:512,16,256,1",
    "tf32:512,16,256,1",
    "fp32:512,16,256,1",
]
FLOORS = {
    "bf16.t1024b16h768d1": 0.95,
    "bf16.t512b1h1024d1": 0.92,
    "bf16.t512b64h1024d1": 1.6,
    "bf16.t512b256h1024d1": 4.1,
    "bf16.t512b1h512d1": 0.74,
    "bf16.t256b64h2048d1": 3.9,
    "bf16.t1024b64h128d1": 0.41,
    "bf16.t1024b64h256d1": 0.59,
    "bf16.t512b512h256d1": 1.0,
    "bf16.t512b64h512d1": 1.0,
}
NAME = re.compile(
    r"(cuda\.\w+)\.(bf16|fp16|tf32|fp32)\.t(\d+)b(\d+)h(\d+)d(\d)\.(inference|forward|backward)"
)
DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "tf32": torch.float32,
    "fp32": torch.float32,
}


class Edit(NamedTuple):
    """One changed place of a kernel, where `old` stands once."""

    file: str  # below csrc/cuda/lstm_fused
    old: str
    new: str


class Scan(NamedTuple):
    """A program to compile and run."""

    driver: str  # below csrc/cuda
    variant: str  # the name of the Variant in it
    label: str
    cases: Sequence[str]
    edits: Sequence[Edit] = ()


NOBODY_WAITS = [
    Edit("grid.cuh", "!source.is_there(first + k, words[k])", "false"),
    Edit("grid_forward.cuh", "    if (!is_there(piece, words)) return false;\n", ""),
    Edit("grid_backward.cuh", "    if (!source.is_there(piece, words)) return false;\n", ""),
]
NOBODY_ASKS = [Edit("grid.cuh", "    if (source.wanted(piece)) source.ask(piece);\n", "")]
NOTHING_COMES = [
    *NOBODY_WAITS,
    *NOBODY_ASKS,
    Edit(
        "grid.cuh",
        "    if (wanted(k)) source.poll(first + k, words[k]);\n  for (unsigned",
        "    for (int w = 0; w < 4; ++w) words[k][w] = uint32_t(first);\n  for (unsigned",
    ),
]
NO_PRODUCTS = [
    Edit(
        "grid_forward.cuh",
        "w_hh.template multiply_add<kPlan.pitch, 0>(factors, sums);",
        "(void)factors;",
    ),
    Edit(
        "grid_forward.cuh",
        "w_hh.template multiply_add<kPlan.pitch, 0>(factors, sums, of_next_eight);",
        "(void)factors;",
    ),
    Edit(
        "grid_backward.cuh",
        "w_hh.template multiply_add<kPlan.pitch, kSlab>(now_read, sums);",
        "(void)kSlab;",
    ),
    Edit(
        "grid_backward.cuh",
        "w_hh.template multiply_add<kPlan.pitch, kSlab>(now_read, sums, of_next_eight);",
        "(void)kSlab;",
    ),
]
EIGHT_ROWS = [
    Edit(
        "grid_plan.h",
        "const bool fits = has_wide(",
        "const bool fits = false && has_wide(",
    )
]
NOTHING_AHEAD = [
    Edit(
        "grid_plan.h",
        "plan.copies = !forward || ahead ? 2 : 1;",
        "plan.copies = !forward || (ahead && false) ? 2 : 1;",
    )
]
NOTHING_ASKED_FOR = [
    Edit("grid_plan.h", "plan.asks = bucket.units == kGridUnits", "plan.asks = false")
]
NOTHING_STREAMED = [Edit("product.cuh", "= *in_l2(tile, slice + k);", "= {1, 1, 1, 1};")]
PARTS = {
    "nobody waits": NOBODY_WAITS,
    "nothing comes": NOTHING_COMES,
    "no products": NO_PRODUCTS,
    "nothing comes, no products": [*NOTHING_COMES, *NO_PRODUCTS],
    "8 rows at a time": EIGHT_ROWS,
    "nothing ahead": [*NOTHING_AHEAD, *NOTHING_ASKED_FOR],
    "nothing asked for": NOTHING_ASKED_FOR,
}
SCANS = [
    Scan("grid.cu", "cuda_grid", "cuda.grid", GRID),
    Scan("block.cu", "cuda_block", "cuda.block", BLOCK),
    Scan("cluster.cu", "cuda_cluster", "cuda.cluster", CLUSTER),
]
SCANS += [
    Scan("grid.cu", "cuda_grid", f"cuda.grid ({part})", FEW, edits) for part, edits in PARTS.items()
]
SCANS += [
    Scan("grid.cu", "cuda_grid", "cuda.grid (nothing streamed)", STREAMED, NOTHING_STREAMED),
]


def changed(csrc: Path, edits: Sequence[Edit]) -> None:
    """Make the edits in a copy of csrc; raises RuntimeError where a text is not there once."""
    for edit in edits:
        path = csrc / "cuda" / "lstm_fused" / edit.file
        text = path.read_text()
        if text.count(edit.old) != 1:
            raise RuntimeError(f"{edit.old!r} stands {text.count(edit.old)} times in {edit.file}")
        path.write_text(text.replace(edit.old, edit.new))


def build(
    scan: Scan, folder: Path, architectures: Sequence[str] | None = None, strict: bool = False
) -> Path:
    """Compile a program in a folder of its own; raises RuntimeError."""
    csrc = folder / "csrc"
    shutil.copytree(nvcc.CSRC, csrc)
    changed(csrc, scan.edits)
    define = (f'-DLF_SCANS="cuda/{scan.driver}"', f"-DLF_VARIANT={scan.variant}")
    return nvcc.compile_program([SOURCE], folder / "scans", architectures, [csrc], strict, define)


class Figure(NamedTuple):
    """What a figure of a whole scan is of."""

    T: int
    work: costs.Work

    @property
    def predicted(self) -> float:
        """Microseconds a step, by the model of costs."""
        return costs.price(self.work, costs.table()[self.work.row]) / self.T


def figure_of(name: str, gpu: costs.Gpu) -> Figure | None:
    """What a name stands for; None: for no whole scan, or for one that the model does not know."""
    found = NAME.fullmatch(name)
    if found is None:
        return None
    variant, dtype, *sizes, direction = found.groups()
    T, B, H, D = map(int, sizes)
    tf32 = dtype == "tf32"
    layer = costs.Layer(T, B, H, H, 0, D, DTYPES[dtype], tf32, False, gpu)
    work = costs.scan(variant, layer, direction == "backward")
    return None if work is None else Figure(T, work)


def beside_what_was_said(figures: dict[str, Any], gpu: costs.Gpu) -> dict[str, Any]:
    """Each figure with what is predicted of it and the floor, None where nothing was said."""
    rows = {}
    for name, value in figures.items():
        size = name.rpartition(".")[0].split(".", 2)[-1]
        floor = None if name.endswith("backward") else FLOORS.get(size)
        figure = figure_of(name, gpu)
        rows[name] = {**value, "predicted": figure and figure.predicted, "floor": floor}
    return rows


def run(report: Reporter) -> None:
    with tempfile.TemporaryDirectory() as folder:

        def built(number: int) -> Path:
            return build(SCANS[number], Path(folder) / str(number))

        with concurrent.futures.ThreadPoolExecutor() as pool:
            programs = [pool.submit(built, number) for number in range(len(SCANS))]
        wrong = []
        for scan, program in zip(SCANS, programs, strict=True):  # no compiler runs beside them
            try:
                command = [str(program.result()), scan.label, *scan.cases]
                figures, stopped = micro.figures_of(command, scan.label, SECONDS)
            except RuntimeError as error:  # it did not compile, or printed no figures
                figures, stopped = {}, str(error)
            report.put(scan.label, beside_what_was_said(figures, costs.gpu_of(0)))
            if stopped:
                wrong.append(stopped)
    if wrong:
        raise RuntimeError("; ".join(wrong))
