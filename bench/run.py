"""Measure a suite: `python -m bench.run --suite cpu`. See NOTES.md.

Every arm of a case is judged first. One that is wrong is recorded as failed, with the numbers, and
is not timed. The result file is rewritten after every case, so that a run cut short leaves
what it had.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import isa, machine
from bench.arms import Arm, against, arms, yardstick
from bench.cases import SUITES, Case, suite
from bench.check import judge
from bench.timing import Runner, interleave
from bench.work import reference

RESULTS = Path(__file__).resolve().parent / "results"
ROUNDS = 11
QUICK_ROUNDS = 5


def prove(
    case: Case,
    candidates: Sequence[Arm],
    device: torch.device,
    threads: int,
    ref: dict[str, Tensor],
) -> tuple[list[dict[str, Any]], dict[str, Runner]]:
    """A row per arm with its correctness, and the runners of those that are right, by name.

    ref  results in float64. An arm that is wrong has the status "failed", one that does not take
    the case "refused"; both say why.
    """
    rows = []
    runners: dict[str, Runner] = {}
    yards: dict[Arm, dict[str, Tensor]] = {}
    for arm in candidates:
        row: dict[str, Any] = {"case": case.as_dict(), "arm": arm.name, "family": arm.family}
        row |= {"threads": threads, "dtype": arm.dtype or case.dtype, "default": arm.default(case)}
        if arm.pair and row["default"]:
            row["pair"] = list(arm.chosen(case))
        rows.append(row)
        reason = arm.why_not(case)
        if reason is not None:
            row |= {"status": "refused", "reason": reason}
            continue
        yard = yardstick(arm, case, candidates)
        try:
            runner = arm.prepare(case, device, threads)
            results = runner.results()
        except (RuntimeError, NotImplementedError, ValueError) as error:
            # A variant that does not take the case says so here; so does one that is broken.
            row |= {"status": "refused", "reason": str(error).split("\n")[0]}
            continue
        if yard == arm:
            yards[arm] = results
        if yard not in yards:
            row |= {"status": "refused", "reason": f"its yardstick {yard.name} did not run"}
            runner.close()
            continue
        verdict = judge(results, yards[yard], ref, arm.eps)
        row |= {"error": asdict(verdict), "against": against(arm, case, candidates).name}
        if not verdict.right and arm.family != "torch":
            row |= {"status": "failed", "reason": f"{verdict.worst} breaks the tolerance rule"}
            runner.close()
            continue
        row["status"] = "ok"
        runners[arm.name] = runner
    return rows, runners


def measure(
    case: Case, candidates: Sequence[Arm], device: torch.device, threads: int, rounds: int
) -> list[dict[str, Any]]:
    """Rows of one case: one per arm, with its correctness and, if it is right, its time."""
    try:
        ref = reference(case, device)
    except RuntimeError as error:  # out of memory, say: the next case may still fit
        reason = f"no reference: {error}".split("\n")[0]
        row = {"case": case.as_dict(), "arm": "all", "family": "none", "threads": threads}
        return [row | {"status": "refused", "reason": reason}]
    rows, runners = prove(case, candidates, device, threads, ref)
    meter = machine.Meter()
    try:
        timings, busy = interleave(runners, rounds, quiet=meter.quiet)
    finally:
        for runner in runners.values():
            runner.close()
    for row in rows:
        if row["arm"] not in timings:
            continue
        timing, other = timings[row["arm"]], timings.get(str(row["against"]))
        row |= {
            "seconds": asdict(timing),
            "spread": timing.spread,
            # A ratio of medians within this one run.
            "speed": other.median / timing.median if other else None,
            "busy_rounds": busy,
            "foreign_cpus": round(meter.worst_foreign, 3),
            "steal_cpus": round(meter.worst_steal, 3),
        }
    return rows


def describe(row: dict[str, Any]) -> str:
    """One line for the terminal."""
    head = f"{row['case']['id']:<44} {row['threads']}t {row['arm']:<18}"
    if row["status"] != "ok":
        return f"{head} {row['status']}: {row['reason']}"
    speed = f"{row['speed']:6.2f}x" if row["speed"] else "       "
    busy = f"  ({row['busy_rounds']} busy rounds)" if row["busy_rounds"] else ""
    return (
        f"{head} {row['seconds']['median'] * 1e3:10.3f} ms +-{row['spread']:5.1%} {speed} "
        f"error {row['error']['ratio']:.2f} of allowed{busy}"
    )


def result_path(folder: Path, name: str, stamp: dict[str, Any]) -> Path:
    """<suite>-<device>-<date>-<commit>.json, with a number behind it if that is there already."""
    device = re.sub(r"[^a-z0-9]+", "-", stamp["device"].lower()).strip("-")
    commit = (stamp["commit"] or "none")[:8]
    stem = "-".join([name, device, stamp["utc"][:10], commit])
    path = folder / f"{stem}.json"
    number = 2
    while path.exists():
        path = folder / f"{stem}-{number}.json"
        number += 1
    return path


def write(path: Path, stamp: dict[str, Any], rows: list[dict[str, Any]], **more: Any) -> None:
    """Write a result file, in one piece or not at all."""
    part = path.with_suffix(".part")
    content = {"stamp": stamp, "rows": rows, **more}
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.run", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--suite", choices=sorted(SUITES), required=True)
    parser.add_argument("--quick", action="store_true", help="one case of each kind, fewer rounds")
    parser.add_argument("--filter", default="", help="cases whose id matches this regex")
    parser.add_argument(
        "--arms", nargs="+", default=[], help="arms whose name contains one of these"
    )
    parser.add_argument("--threads", nargs="+", type=int, help="CPU threads, each in turn")
    parser.add_argument(
        "--isa",
        choices=sorted(isa.ENVIRONMENT),
        help="limit torch and us to an older CPU's vectors",
    )
    parser.add_argument("--rounds", type=int, help=f"rounds per case ({ROUNDS})")
    parser.add_argument("--minutes", type=float, help="start no case after this time")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result file")
    parser.add_argument("--list", action="store_true", help="print the cases and stop")
    args = parser.parse_args(argv)
    args.threads = args.threads or [torch.get_num_threads()]
    args.rounds = args.rounds or (QUICK_ROUNDS if args.quick else ROUNDS)
    if min(args.threads) < 1 or args.rounds < 1:
        parser.error("--threads and --rounds must be at least 1")
    if args.isa and args.suite != "cpu":
        parser.error("--isa is for --suite cpu")
    if args.suite == "gpu" and not torch.cuda.is_available() and not args.list:
        parser.error("--suite gpu needs a CUDA device and torch finds none here")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    from tqdm import tqdm

    args = parse(argv)
    if args.isa:
        isa.rerun("bench.run", argv or sys.argv[1:], args.isa)
    cases = suite(args.suite, quick=args.quick, matching=args.filter)
    if args.list or not cases:
        print("\n".join(case.id for case in cases) or f"no case matches {args.filter!r}")
        return 0 if cases else 2
    device = torch.device("cuda" if args.suite == "gpu" else "cpu")
    candidates = arms(device, tuple(args.arms))
    stamp = machine.stamp(device, " ".join(["python -m bench.run", *(argv or sys.argv[1:])]))
    args.out.mkdir(parents=True, exist_ok=True)
    path = result_path(args.out, args.suite, stamp)
    rows: list[dict[str, Any]] = []
    end = time.monotonic() + 60 * args.minutes if args.minutes else float("inf")
    before = torch.get_num_threads()
    try:
        with tqdm(total=len(args.threads) * len(cases), unit="case") as progress:
            for case in cases:
                for threads in args.threads:
                    if time.monotonic() > end:
                        break
                    progress.set_description(case.id)
                    torch.set_num_threads(threads)
                    new = measure(case, candidates, device, threads, args.rounds)
                    rows += new
                    write(path, stamp, rows)
                    for row in new:
                        progress.write(describe(row))
                    progress.update()
    finally:
        torch.set_num_threads(before)
    print(f"{len(rows)} rows: {path}")
    failed = [row for row in rows if row["status"] == "failed"]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
