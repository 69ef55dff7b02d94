"""One command for a machine with a GPU: `python -m bench.gpu_check`.

Builds with CUDA, checks every cuda.* variant against float64 on the CPU by the tolerance rule
(ieee and tf32 apart), then determinism, a second backward, a stream of its own and a captured
graph, and at last a few times against cuDNN. Everything goes into one JSON file in bench/results/,
which is written after every stage; a stage that fails is recorded and the next one still runs.

`--device cpu` walks the same path over the cpu.* variants, without streams and graphs.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lstm_fused
from bench import machine
from bench.arms import Arm, arms
from bench.cases import Case, both, suite
from bench.run import QUICK_ROUNDS, RESULTS, describe, measure, prove, result_path, write
from bench.work import Work, reference

DTYPES = ("float16", "bfloat16", "float32", "float64")


def check_cases() -> list[Case]:
    """Shapes that break kernels: smallest, odd, prime, tails, long, wide, every form of a layer."""
    shapes = [
        Case("check", "one", 1, 1, 1, 1),
        Case("check", "odd", 7, 3, 5, 33),
        Case("check", "prime", 13, 17, 31, 127),
        Case("check", "tail", 9, 5, 8, 100),
        Case("check", "square", 20, 16, 64, 64),
        Case("check", "wide", 12, 16, 64, 1024),
        Case("check", "long", 1000, 2, 8, 16),
        Case("check", "stack", 11, 6, 24, 40, L=2, bidirectional=True),
        Case("check", "proj", 9, 6, 24, 40, proj=16),
        Case("check", "packed", 19, 7, 12, 36, packed=True),
        Case("check", "packed-bi", 19, 7, 12, 36, L=2, bidirectional=True, packed=True),
    ]
    steps = [Case("check", "step", 1, 4, 96, 96, kind="step")]
    return [replace(case, dtype=dtype) for dtype in DTYPES for case in both(shapes) + steps]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that are not equal bit for bit (NaN equals NaN)."""
    return [name for name in a if not torch.equal(a[name].nan_to_num(7.0), b[name].nan_to_num(7.0))]


def equal_bits(first: dict[str, Tensor], second: dict[str, Tensor], what: str) -> None:
    different = same(first, second)
    assert not different, f"{what}: {', '.join(different)} differ"


def deterministic(work: Work) -> None:
    """Two runs give the same bits."""
    equal_bits(work.run(), work.run(), "second run")


def backward_twice(work: Work) -> None:
    """A second backward through a retained graph gives the same bits."""
    y, _ = work.module(work.input, work.state)
    rows = y.data if isinstance(y, torch.nn.utils.rnn.PackedSequence) else y
    leaves = list(work.leaves.values())
    first, second = (
        torch.autograd.grad(rows, leaves, work.seeds["y"], retain_graph=True) for _ in range(2)
    )
    names = list(work.leaves)
    equal_bits(
        dict(zip(names, first, strict=True)),
        dict(zip(names, second, strict=True)),
        "second backward",
    )


def own_stream(work: Work) -> None:
    """Work that is ordered behind a slow kernel on another stream sees that kernel's result."""
    expected = work.run()
    good = work.leaves["x"].detach().clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.no_grad():
        work.leaves["x"].fill_(float("nan"))
        torch.cuda._sleep(50_000_000)  # some 30 ms
        work.leaves["x"].copy_(good)
    with torch.cuda.stream(stream):
        got = work.run()
    stream.synchronize()
    equal_bits(expected, got, "on a stream of its own")


def captured(work: Work) -> None:
    """A captured graph, replayed with another input, gives what eager gives on that input."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work.run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = work.run()
    with torch.no_grad():
        work.leaves["x"].mul_(-0.5)
    graph.replay()
    torch.cuda.synchronize()
    got = {name: tensor.clone() for name, tensor in replayed.items()}
    equal_bits(work.run(), got, "replayed graph")


class Report:
    """The result file and what the terminal shows."""

    def __init__(self, path: Path, stamp: dict[str, Any]) -> None:
        self.path = path
        self.stamp = stamp
        self.rows: list[dict[str, Any]] = []
        self.checks: list[dict[str, str]] = []

    def stage(self, title: str) -> None:
        print(f"\n{title}", flush=True)

    def add(self, row: dict[str, Any], shown: bool) -> None:
        self.rows.append(row)
        if shown:
            print(describe(row), flush=True)

    def check(self, name: str, arm: str, case: str, run: Callable[[], None]) -> None:
        """Run one check; what it raises is the result, with the place where it was raised."""
        result = "ok"
        try:
            run()
        except (RuntimeError, ValueError, TypeError, LookupError, AssertionError) as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            result = f"failed: {error} ({Path(place.filename).name}:{place.lineno})"
        self.checks.append({"check": name, "arm": arm, "case": case, "result": result})
        if result != "ok":
            print(f"{name:<16} {arm:<18} {case}: {result}", flush=True)

    def save(self) -> None:
        write(self.path, self.stamp, self.rows, checks=self.checks)

    @property
    def failures(self) -> int:
        wrong = sum(row["status"] == "failed" for row in self.rows)
        return wrong + sum(check["result"] != "ok" for check in self.checks)


def correctness(report: Report, candidates: Sequence[Arm], device: torch.device) -> None:
    """Every arm on every case that it takes; only what is not right is printed."""
    from tqdm import tqdm

    for case in tqdm(check_cases(), desc="correctness", unit="case"):
        ref = reference(case, torch.device("cpu"))
        threads = torch.get_num_threads()
        try:
            rows, runners = prove(case, candidates, device, threads, ref)
        except (RuntimeError, LookupError) as error:
            report.checks.append(
                {
                    "check": "correctness",
                    "arm": "all",
                    "case": case.id,
                    "result": f"failed: {error}",
                }
            )
            continue
        for runner in runners.values():
            runner.close()
        for row in rows:
            ours = row["family"] == "ours"
            # torch itself cannot run everything (cuDNN and float16 with projections, ...).
            report.add(row, shown=ours and row["status"] != "ok" and "error" in row)
    ok = [row for row in report.rows if row["family"] == "ours" and row["status"] == "ok"]
    worst = max(ok, key=lambda row: row["error"]["ratio"], default=None)
    print(f"{len(ok)} right", end="")
    if worst is not None:
        at = f"{worst['arm']}, {worst['case']['id']}, {worst['error']['worst']}"
        print(f"; the worst has {worst['error']['ratio']:.2f} of the allowed error ({at})")
    refused = [row for row in report.rows if row["family"] == "ours" and row["status"] == "refused"]
    for text in sorted({f"  {row['arm']}: {row['reason']}" for row in refused}):
        print(f"{text}")


def behaviour(report: Report, candidates: Sequence[Arm], device: torch.device) -> None:
    """Determinism, second backward and, on a GPU, streams and graphs, for each of our arms."""
    checks = {"deterministic": deterministic, "backward_twice": backward_twice}
    if device.type == "cuda":
        checks |= {"own_stream": own_stream, "captured": captured}
    cases = [case for case in check_cases() if case.kind == "training"]
    cases = [case for case in cases if case.name in {"odd", "square", "stack", "packed"}]
    for arm in candidates:
        for case in cases:
            if arm.family != "ours" or arm.why_not(case) is not None:
                continue
            for name, check in checks.items():

                def run(arm: Arm = arm, case: Case = case, check: Any = check) -> None:
                    with arm.settings():
                        check(Work(case, lstm_fused.LSTM, arm.judged_in(case), device))

                report.check(name, arm.name, case.id, run)
    counts = {
        name: sum(c["check"] == name and c["result"] == "ok" for c in report.checks)
        for name in checks
    }
    print(", ".join(f"{name}: {count} ok" for name, count in counts.items()))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.gpu_check", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result file")
    parser.add_argument("--no-times", action="store_true", help="leave the timings out")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error(
            "torch finds no CUDA device here; --device cpu walks the same path without one"
        )
    device = torch.device(args.device)
    if device.type == "cuda":
        os.environ.setdefault("LSTM_FUSED_BUILD", "cuda")

    # The first question for the variants is what builds the kernels.
    kernels = [row for row in lstm_fused.variants() if row.device == device.type]
    stamp = machine.stamp(device, " ".join(["python -m bench.gpu_check", *(argv or sys.argv[1:])]))
    for key in ("device", "capability", "driver", "clocks", "torch", "cuda", "cudnn", "commit"):
        print(f"{key:<12}{stamp[key]}")
    for kernel in kernels:
        print(f"{kernel.name:<12}{kernel.why_not or 'available'}")
    if not any(kernel.available for kernel in kernels):
        print(
            f"no {device.type} variant can run here, so there is nothing to check", file=sys.stderr
        )
        return 1

    args.out.mkdir(parents=True, exist_ok=True)
    report = Report(result_path(args.out, f"check-{device.type}", stamp), stamp)
    candidates = arms(device)
    report.stage("correctness, against float64 on the CPU")
    correctness(report, candidates, device)
    report.save()
    report.stage("behaviour")
    behaviour(report, candidates, device)
    report.save()
    if not args.no_times:
        report.stage("times")
        for case in suite("gpu" if device.type == "cuda" else "cpu", quick=True):
            threads = torch.get_num_threads()
            for row in measure(case, candidates, device, threads, QUICK_ROUNDS):
                report.add(row, shown=row["status"] != "refused")
            report.save()
    print(f"\n{report.failures} failures: {report.path}")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
