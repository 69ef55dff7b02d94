"""Stage 4: thousands of launches of each variant, whose results must be equal bit for bit.

Meanwhile another stream keeps the SMs busy with kernels of random length, so that the blocks of a
launch start at different times and in another order each time.

Each variant has a process of its own, as one that breaks its CUDA context or hangs would take those
after it along:

    python -m bench.gpu.stress cuda.step --end $(($(date +%s) + 30))
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

import lstm_fused
from bench.cases import Case
from bench.gpu import build, child, tiny
from bench.gpu.report import Report
from bench.work import Work

LAUNCHES = {"cuda": 2000, "cpu": 2}  # of a variant with each shape
BATCH = 50  # launches between two looks at the clock and the counter of differences
SHAPES = [
    Case("stress", "t8b16h64", 8, 16, 32, 64, kind="training"),
    Case("stress", "t8b33h256", 8, 33, 64, 256, kind="training"),
    Case("stress", "t4b70h768", 4, 70, 64, 768, dtype="bfloat16", kind="training"),
    Case("stress", "t3b40h1300", 3, 40, 64, 1300, kind="training"),
    Case("stress", "t16b3h100", 16, 3, 50, 100, dtype="float16"),
    Case("stress", "t1b1h1024", 1, 1, 1024, 1024, kind="step"),
]
# Between a process' end and its limit, at most half of its time: whoever is killed there has hung,
# and was not only slow to load torch or to do a batch.
MARGIN_SECONDS = 10.0
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
    run: Callable[[], dict[str, Tensor]],
    launches: int,
    noise: Callable[[], None],
    left: Callable[[], float],
) -> Count:
    """Run again and again and compare with the first results; stops at a difference.

    left  seconds for it
    """
    first = {name: bits(tensor).clone() for name, tensor in run().items()}
    device = next(iter(first.values())).device
    count = Count(done=1)
    while count.done < launches and left() > 0:
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


def tell(case: Case, count: Count | None = None) -> None:
    """A line of JSON for the stage: a case begins, or has ended with this."""
    more = {} if count is None else {"done": count.done, "wrong": count.wrong}
    print(json.dumps({"case": case.id, **more}), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.gpu.stress", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("variant", help="cuda.step and so on")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--end", type=float, required=True, help="seconds since 1970")
    args = parser.parse_args(argv)
    launches = LAUNCHES[args.device]
    noise = Noise().make if args.device == "cuda" else lambda: None
    for case in [replace(case, group=args.device) for case in SHAPES]:
        tell(case)
        dtype, device = getattr(torch, case.dtype), torch.device(args.device)
        try:
            with lstm_fused.variant(args.variant):
                run = Work(case, lstm_fused.LSTM, dtype, device).run
                count = repeat(run, launches, noise, lambda: args.end - time.time())
        except RuntimeError as error:
            if tiny.refuses(error):
                continue
            traceback.print_exc()
            tell(case, Count(wrong=str(error).split("\n")[0]))
            return 1
        tell(case, count)
    return 0


def command(variant: str, device: str, end: float) -> list[str]:
    process = [sys.executable, "-m", "bench.gpu.stress", variant, "--device", device]
    return [*process, "--end", str(end)]


@dataclass
class Heard:
    """What the process of a variant has told so far."""

    begun: str = ""  # the last case
    done: dict[str, int] = field(default_factory=dict)  # launches by case
    wrong: dict[str, str] = field(default_factory=dict)  # by case, or by "" what is of none


def stress(report: Report, variant: str, seconds: float) -> Heard:
    """Run the process of one variant for at most so many seconds."""
    heard = Heard()

    def hear(line: str) -> None:
        if not line.startswith('{"case"'):
            report.say(line)
            return
        told = json.loads(line)
        case = heard.begun = told["case"]
        if "done" in told:
            heard.done[case] = report.details[f"{variant} {case}"] = told["done"]
            if told["wrong"]:
                heard.wrong[case] = told["wrong"]
            report.say(f"{variant} {case}: {told['done']} launches, {told['wrong'] or 'equal'}")
            report.save()

    end = time.time() + seconds - min(MARGIN_SECONDS, seconds / 2)
    ended = child.run(command(variant, report.device, end), seconds, say=hear)
    if ended.code is None and heard.begun:
        heard.wrong.setdefault(heard.begun, f"hung: killed after {ended.seconds:.0f} s")
    elif ended.code and not heard.wrong:
        heard.wrong[heard.begun] = f"ended with {ended.code}: {ended.last}"
    return heard


def run(report: Report) -> None:
    variants = build.runnable(report)
    launches = LAUNCHES[report.device]
    for number, variant in enumerate(variants):
        heard = stress(report, variant, max(1.0, report.left() / (len(variants) - number)))
        for case, wrong in heard.wrong.items():
            report.check("stress", wrong, variant=variant, case=case)
        if heard.wrong:
            continue
        complete = heard.begun and all(done >= launches for done in heard.done.values())
        if complete and heard.done:
            report.check("stress", None, variant=variant)
        elif not complete:
            report.cut(f"{variant} was not launched {launches} times with each shape")
        report.save()


if __name__ == "__main__":
    sys.exit(main())
