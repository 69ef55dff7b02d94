"""Stage 3: the tests that need a GPU, `pytest -m gpu`, every variant against float64."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.gpu import build, child
from bench.gpu.report import Report

MOST_FAILURES = 50  # that are kept: a broken kernel breaks thousands of tests
# Nothing is to be proven of torch's own code, which a quarter of the tests would run.
OURS = "not torch.native and not torch.composite"
PROCESSES = 8  # on one GPU; the references are computed by the CPU
WAVEFRONT = "tests/csrc/test_gpu_wavefront.py::"
HANGING_SECONDS = 120  # after which a test says where it is
# Workers that ended with a broken context: past pytest-xdist's own limit, four for each process, it
# leaves the rest of the tests out and comes to its end as if they had passed.
MOST_WORKERS = 100_000


def workers() -> int:
    return min(PROCESSES, os.cpu_count() or 1)


def environment(report: Report) -> dict[str, str]:
    """Threads for each worker's references: by itself each takes one for every core."""
    if report.device != "cuda":
        return {}
    return {"OMP_NUM_THREADS": str((os.cpu_count() or 1) // workers())}


def command(report: Report, lines: Path) -> list[str]:
    found = [sys.executable, "-m", "pytest", "-q", "-p", "bench.gpu.pytest_lines"]
    # No --maxfail: stopped by it, pytest says that it was interrupted, and nothing would be proven.
    found += ["--result-lines", str(lines), "--tb=short"]
    found += ["-o", f"faulthandler_timeout={HANGING_SECONDS}"]
    wanted = report.options["tests"]
    found += ["-k", f"({wanted}) and {OURS}" if wanted else OURS]
    if report.device == "cuda":
        found += ["-n", str(workers()), "--dist", "worksteal"]
        found += ["--max-worker-restart", str(MOST_WORKERS)]
        found += ["-m", "gpu", "tests/csrc", "tests/lstm_fused"]
    else:
        found += ["-n", "0", "-m", "not gpu and not slow", "tests/csrc/test_variants.py"]
    return found


def variant_of(test: str) -> str:
    """The variant that a test forces, by its id; "wavefront" of tests that say nothing against a
    kernel; "" of a file that could not be collected, which may have had tests of all."""
    if WAVEFRONT in test:
        return "wavefront"
    found = re.search(r"\[(?:[^\]]*-)?([a-z]+\.\w+)@(?:cpu|cuda)\b", test)
    return found.group(1) if found else ""


def summarize(lines: Iterable[str]) -> dict[str, Any]:
    """Counts by variant, the failures, why tests were skipped, and what never ended."""
    outcomes: dict[str, str] = {}
    failures: dict[str, list[str]] = defaultdict(list)  # by test: a worker that ended adds a reason
    skips: Counter[str] = Counter()
    running: dict[str, None] = {}
    for line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # the last line of a run that was killed
            continue
        test, outcome = row["test"], row["outcome"]
        if outcome == "started":
            running[test] = None
            continue
        running.pop(test, None)
        if outcome == "failed":
            failures[test].append(row["why"])
        elif outcome == "skipped":
            skips[row["why"]] += 1
        outcomes[test] = "failed" if test in failures else outcome
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for test, outcome in outcomes.items():
        counts[variant_of(test)][outcome] += 1
    reasons = [{"test": test, "why": "; ".join(whys)} for test, whys in failures.items()]
    return {
        "counts": {name: dict(found) for name, found in sorted(counts.items())},
        "failures": reasons[:MOST_FAILURES],
        "skips": dict(skips.most_common(20)),
        "running": list(running)[:20],
    }


def verdicts(report: Report, found: dict[str, Any], complete: bool) -> None:
    """A check per variant; only tests that came to their end say that a variant is right."""
    lost = Counter(variant_of(test) for test in found["running"]) if complete else Counter()
    for name in sorted({*found["counts"], *lost}):
        counts = found["counts"].get(name, {})
        failed = counts.get("failed", 0) + lost[name]
        if failed:
            total = sum(counts.values()) + lost[name]
            report.check("tests", f"{failed} of {total} tests failed", variant=name)
        elif complete and counts.get("passed", 0):
            report.check("tests", None, variant=name)


def run(report: Report) -> None:
    if not build.runnable(report):
        return
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "lines"

        def read() -> dict[str, Any]:
            return summarize(lines.read_text().splitlines()) if lines.exists() else summarize([])

        def poll() -> None:
            report.details = read()
            report.save()

        ended = child.run(
            command(report, lines),
            report.left(),
            say=report.say,
            poll=poll,
            env=environment(report),
        )
        report.details = {**read(), "exit": ended.code}
    # pytest: 0 all passed, 1 some failed, and more if it could not do its work.
    verdicts(report, report.details, complete=ended.code in (0, 1))
    if ended.code is None:
        where = ", ".join(report.details["running"][:3]) or "none was running"
        report.cut(f"stopped after {ended.seconds:.0f} s, in: {where}")
    elif ended.code not in (0, 1):
        report.fail(f"pytest ended with {ended.code}: {ended.last}")
