"""One command for a machine with a GPU: `python -m bench.gpu_check --budget 7m --out FOLDER`.

It runs the stages below in order of their value, each in a process of its own with a time limit,
and rewrites one result file while they run: what fails, hangs or is cut off loses nothing else.
The machine needs neither network nor git. `--device cpu` walks the same path without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from bench import machine, proven, revision
from bench.gpu import child
from bench.gpu.report import FAILED, OUT_OF_TIME, SKIPPED
from bench.run import RESULTS, result_path, write

LEAST_SECONDS = 5.0  # a stage is not begun with less
MARGIN_SECONDS = 15.0  # between a stage's end and its limit, at most a fifth of its time


@dataclass(frozen=True)
class Stage:
    """One stage.

    share      the most it may take of the time that is left; the last one takes all
    needs_gpu  there is nothing to walk through without one
    """

    name: str
    about: str
    share: float
    needs_gpu: bool = False
    module: str = ""

    @property
    def code(self) -> str:
        return self.module or f"bench.gpu.{self.name}"


STAGES = (
    Stage("build", "stamp of the machine and the sources, build for this GPU", 0.6),
    Stage("twins", "every probe of ptx.cuh on the GPU and on the CPU, bit by bit", 0.3, True),
    Stage("tests", "pytest -m gpu: every variant against float64, streams, graphs", 0.7),
    Stage("stress", "2000 launches of each variant with each shape with equal bits", 0.4),
    Stage("sanitizer", "compute-sanitizer's four tools over tiny grids", 0.6, True),
    Stage("micro", "microbenchmarks that the kernels' design rests on", 0.4, True),
    Stage("scans", "each scan alone, us a step, and without some of its parts", 0.4, True),
    Stage("native", "torch.nn.LSTM over the published suites, and its kernels", 0.4),
    Stage("sweep", "ours against torch, headline cases first", 0.75),
    Stage("ncu", "counters of every kernel of four cases", 1.0, True),
)
CPU_STAGE = Stage("cpu", "the test suite and bench.run --suite cpu on this CPU", 1.0)


def seconds(text: str) -> float:
    """ "90s", "10m", "1.5h" or plain seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    value = float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]] if found else 0.0
    if value <= 0:
        raise argparse.ArgumentTypeError(f"must be a time like 90s, 10m or 1h, got {text!r}")
    return value


def select(names: str | None, cpu: bool = False) -> list[Stage]:
    """The stages of a comma-separated list, in the table's order; the first always among them."""
    table = [*STAGES, CPU_STAGE]
    known = [stage.name for stage in table]
    wanted = [name.strip() for name in names.split(",")] if names else []
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"--stages must be of {', '.join(known)}, got {', '.join(unknown)}"
        )
    chosen = wanted or [stage.name for stage in STAGES]
    if cpu:
        chosen.append(CPU_STAGE.name)
    return [stage for stage in table if stage.name in chosen or stage is STAGES[0]]


class Results:
    """The result file and the log beside it."""

    def __init__(self, folder: Path, device: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.device = folder, device
        self.stages: list[dict[str, Any]] = []
        self.path: Path | None = None
        self._found: dict[str, dict[str, Any]] = {}  # by stage, as its process wrote it
        self._lines: list[str] = []  # until the log has a name

    def say(self, line: str) -> None:
        print(line, flush=True)
        if self.path is None:
            self._lines.append(line)
        else:
            with self.path.with_suffix(".log").open("a", encoding="utf-8") as log:
                log.write("".join(f"{each}\n" for each in [*self._lines, line]))
            self._lines = []

    def take(self, stage: str, found: dict[str, Any]) -> None:
        """Keep what a stage has so far."""
        self._found[stage] = found
        self.save()

    @property
    def stamp(self) -> dict[str, Any]:
        known = [found["stamp"] for found in self._found.values() if found.get("stamp")]
        return known[0] if known else unknown_machine()

    @property
    def checks(self) -> list[dict[str, Any]]:
        return [
            {"stage": stage, **check}
            for stage, found in self._found.items()
            for check in found["checks"]
        ]

    @property
    def failures(self) -> int:
        """Wrong checks, and stages that went wrong otherwise."""
        wrong = [check for check in self.checks if check["result"] != "ok"]
        explained = {check["stage"] for check in wrong}
        failed = {stage["name"] for stage in self.stages if stage["result"] == FAILED}
        return len(wrong) + len(failed - explained)

    def save(self) -> None:
        stamp = self.stamp
        if self.path is None:
            if not self.stages:  # the first stage runs: the name of the device is still to come
                return
            self.path = result_path(self.folder, f"check-{self.device}", stamp)
        rows = [row for found in self._found.values() for row in found["rows"]]
        details = {stage: found["details"] for stage, found in self._found.items()}
        write(self.path, stamp, rows, checks=self.checks, stages=self.stages, details=details)


def unknown_machine() -> dict[str, Any]:
    """The stamp where the first stage could not make one."""
    sources = machine.source_hash()
    commit, dirty = revision.find(sources)
    unknown = "capability multiprocessors shared_memory l2_cache driver clocks cuda cudnn".split()
    unknown += ["sass_digest"]
    nothing = dict.fromkeys(unknown)
    known = {"schema": machine.SCHEMA, "utc": datetime.now(UTC).isoformat(timespec="seconds")}
    more = {"device": "unknown", "torch": "unknown", "cpu": machine.cpu_model()}
    return known | more | nothing | {"commit": commit, "dirty": dirty, "source_hash": sources}


def run_stage(stage: Stage, results: Results, limit: float, options: dict[str, Any]) -> None:
    """Run one stage to its end or to its limit, and keep what it has found."""
    row: dict[str, Any] = {"name": stage.name, "result": SKIPPED, "reason": None, "seconds": 0.0}
    results.say(f"\n== {stage.name}: {stage.about} (at most {limit:.0f} s)")
    if stage.needs_gpu and results.device == "cpu":
        row["reason"] = "it needs a GPU"
    elif find_spec(stage.code) is None:
        row["reason"] = f"not there: {stage.code}"
    elif limit < LEAST_SECONDS:
        row |= {"result": OUT_OF_TIME, "reason": "no time was left"}
    else:
        row |= run_process(stage, results, limit, options)
    results.stages.append(row)
    results.say(f"-- {stage.name}: {row['result']}, {row['seconds']:.0f} s {row['reason'] or ''}")
    results.save()


def run_process(
    stage: Stage, results: Results, limit: float, options: dict[str, Any]
) -> dict[str, Any]:
    """The stage's process: result, reason and seconds."""
    # Kernels are of no use where they were left out because torch and nvcc disagree: be told.
    env = {"LSTM_FUSED_BUILD": "cuda"} if results.device == "cuda" else {}
    end = time.time() + limit - min(MARGIN_SECONDS, limit / 5)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{stage.name}.json"
        seen = 0.0

        def poll() -> None:
            nonlocal seen
            if file.exists() and file.stat().st_mtime != seen:
                seen = file.stat().st_mtime
                results.take(stage.name, json.loads(file.read_text()))

        command = [sys.executable, "-m", "bench.gpu", stage.code, str(file), results.device]
        command += [str(end), json.dumps(options)]
        ended = child.run(
            command, limit, say=results.say, poll=poll, env={**env, **os.environ}, group=True
        )
        found = json.loads(file.read_text()) if file.exists() else {}
    row = {"result": found.get("result", FAILED), "reason": found.get("reason")}
    if ended.code is None:
        row = {"result": FAILED, "reason": f"hung: killed at its limit, after {ended.last!r}"}
    elif ended.code != 0:
        row = {"result": FAILED, "reason": ended.last}
    return {**row, "seconds": round(ended.seconds, 1)}


def run_stages(
    stages: Sequence[Stage], results: Results, budget: float, options: dict[str, Any]
) -> None:
    end = time.monotonic() + budget
    for stage in stages:
        left = end - time.monotonic()
        limit = left if stage is stages[-1] else left * stage.share
        run_stage(stage, results, limit, options)


def prove(folder: Path, check_only: bool) -> int:
    """Write the list of proven variants, or say whether it is what it should be."""
    names, why_kept = proven.generate(folder, machine.sass_digest())
    if why_kept:
        print(f"lstm_fused/_proven.py is kept: {why_kept}")
    right = proven.FILE.read_text(encoding="utf-8") == proven.text(names)
    if not right and not check_only:
        proven.FILE.write_text(proven.text(names), encoding="utf-8")
    print(f"proven: {proven.words(names)}{'' if right else ', the file said otherwise'}")
    return 0 if right or not check_only else 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.gpu_check", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--budget", type=seconds, default=420.0, help="90s, 10m, 1h; 7m if not given")
    add("--stages", help="of --list, with commas between; the first is always run")
    add("--cpu", action="store_true", help="at last, the CPU tests and CPU benchmarks as well")
    add("--device", choices=["cuda", "cpu"], default="cuda")
    add("--filter", default="", help="native, sweep: cases whose id matches this regex")
    add("--tests", default="", help="tests: an expression for pytest -k")
    add("--out", type=Path, default=RESULTS, help="folder of the result file and its log")
    add("--list", action="store_true", help="print the stages and stop")
    add("--write-revision", action="store_true", help="write revision.json and stop: see NOTES.md")
    add("--prove", action="store_true", help="write lstm_fused/_proven.py from --out and stop")
    add("--check", action="store_true", help="with --prove: write nothing, exit 1 if it differs")
    args = parser.parse_args(argv)
    try:
        args.stages = select(args.stages, args.cpu)
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.list:
        for stage in (*STAGES, CPU_STAGE):
            there = "" if find_spec(stage.code) else f" (not there: {stage.code})"
            print(f"{stage.name:<10} {stage.about}{there}")
        return 0
    if args.write_revision:
        print(revision.write(machine.source_hash()))
        return 0
    if args.prove:
        return prove(args.out, args.check)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no CUDA device here; --device cpu walks the same path without one")
        return 2
    arguments = sys.argv[1:] if argv is None else argv
    options = {
        "filter": args.filter,
        "tests": args.tests,
        "out": str(args.out.resolve()),
        "command": " ".join(["python -m bench.gpu_check", *arguments]),
    }
    # As an exception, so that the stage that runs ends with this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
    results = Results(args.out, args.device)
    run_stages(args.stages, results, args.budget, options)
    results.say("")
    for row in results.stages:
        results.say(
            f"{row['name']:<10} {row['result']:<12} {row['seconds']:5.0f} s  {row['reason'] or ''}"
        )
    results.say(f"{results.failures} failures: {results.path}")
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())
