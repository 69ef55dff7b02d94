"""Stage 4b: ten thousand launches of each variant, whose results must be equal bit for bit.

Meanwhile another stream keeps the SMs busy with kernels of random length, so that the blocks of a
launch start at different times and in another order each time.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import lstm_fused
from bench.cases import Case
from bench.gpu import build, tiny
from bench.gpu.report import Report
from bench.work import Work

LAUNCHES = 10_000  # of a variant, over all shapes
BATCH = 50  # launches between two looks at the clock and the counter of differences
SHAPES = [
    Case("stress", "t8b16h64", 8, 16, 32, 64, kind="training"),
    Case("stress", "t8b33h256", 8, 33, 64, 256, kind="training"),
    Case("stress", "t4b16h768", 4, 16, 768, 768, dtype="bfloat16"),
    Case("stress", "t16b3h100", 16, 3, 50, 100, dtype="float16"),
    Case("stress", "t1b1h1024", 1, 1, 1024, 1024, kind="step"),
]
CPU_LAUNCHES = 10
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(tensor: Tensor) -> Tensor:
    """The same memory as integers: NaN then equals itself."""
    return tensor.detach().contiguous().view(INTEGERS[tensor.element_size()])


class Noise:
    """Kernels of random length on a stream of their own."""

    def __init__(self) -> None:
        self._draw = random.Random(0)
        self._stream = torch.cuda.Stream()
        with torch.cuda.stream(self._stream):
            self._square = torch.randn(2048, 2048, device="cuda", dtype=torch.bfloat16)
            self._product = torch.empty_like(self._square)

    def make(self) -> None:
        """Enqueue a nap of one block, up to 30 us, or a product on all SMs, up to about 25 us."""
        with torch.cuda.stream(self._stream):
            if self._draw.random() < 0.5:
                torch.cuda._sleep(self._draw.randrange(1, 60_000))
            else:
                rows = self._draw.randrange(1, 17) * 128
                torch.mm(self._square[:rows], self._square, out=self._product[:rows])


@dataclass
class Count:
    """Launches done, and the first batch of them with a difference."""

    done: int = 0
    wrong: str | None = None


def repeat(
    run: Callable[[], dict[str, Tensor]], launches: int, noise: Callable[[], None], left: Report
) -> Count:
    """Run again and again and compare with the first results; stops at a difference."""
    first = {name: bits(tensor).clone() for name, tensor in run().items()}
    device = next(iter(first.values())).device
    count = Count(done=1)
    while count.done < launches and left.left() > 0:
        different = {name: torch.zeros((), dtype=torch.int64, device=device) for name in first}
        for _ in range(min(BATCH, launches - count.done)):
            noise()
            for name, tensor in run().items():
                different[name] += (bits(tensor) != first[name]).sum()
            count.done += 1
        found = {name: int(total) for name, total in different.items() if int(total)}
        if found:
            elements = ", ".join(f"{total} elements of {name}" for name, total in found.items())
            count.wrong = f"{elements} changed within {count.done} launches"
            break
    return count


def run(report: Report) -> None:
    variants = build.runnable(report)
    on_gpu = report.device == "cuda"
    launches = LAUNCHES if on_gpu else CPU_LAUNCHES
    noise = Noise().make if on_gpu else lambda: None
    shapes = [replace(case, group=report.device) for case in SHAPES]
    for variant in variants:
        complete, taken = True, 0
        for case in shapes:
            with lstm_fused.variant(variant):
                try:
                    work = Work(
                        case,
                        lstm_fused.LSTM,
                        getattr(torch, case.dtype),
                        torch.device(report.device),
                    )
                    work.run()
                except RuntimeError as error:
                    if not tiny.refuses(error):
                        raise
                    continue
                count = repeat(work.run, launches // len(shapes), noise, report)
            taken += 1
            complete &= count.done >= launches // len(shapes) or count.wrong is not None
            report.details[f"{variant} {case.id}"] = count.done
            report.say(f"{variant} {case.id}: {count.done} launches, {count.wrong or 'equal'}")
            if count.wrong:
                report.check("stress", count.wrong, variant=variant, case=case.id)
            report.save()
        if complete and taken:
            report.check("stress", None, variant=variant)
        elif not complete:
            report.cut(f"{variant} was not launched {launches} times")
