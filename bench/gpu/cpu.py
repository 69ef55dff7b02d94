"""Only with --cpu: the whole test suite on this machine's CPU, then `bench.run --suite cpu`."""

from __future__ import annotations

import os
import sys

from bench.gpu import child
from bench.gpu.report import Report


def run(report: Report) -> None:
    workers = str(max(1, min(8, (os.cpu_count() or 1) // 2)))
    # As on a machine without a GPU, whose tests have been run.
    env = {"CUDA_VISIBLE_DEVICES": "", "LSTM_FUSED_BUILD": "auto"}
    tests = [sys.executable, "-m", "pytest", "-q", "-n", workers]
    if report.options["tests"]:
        tests += ["-k", report.options["tests"]]
    ended = child.run(tests, report.left() * 0.6, say=report.say, env=env)
    report.details["tests"] = {"exit": ended.code, "last": ended.last, "seconds": ended.seconds}
    if ended.code is None:
        report.cut("the test suite was stopped at its limit")
    elif ended.code:
        report.check("cpu tests", ended.last)
    report.save()

    minutes = max(report.left() - 20, 1) / 60  # the case that runs then is still finished
    bench = [sys.executable, "-m", "bench.run", "--suite", "cpu", "--minutes", f"{minutes:.2f}"]
    bench += ["--out", report.options["out"], "--filter", report.options["filter"]]
    ended = child.run(bench, report.left(), say=report.say, env=env)
    report.details["bench"] = {"exit": ended.code, "last": ended.last, "seconds": ended.seconds}
    if ended.code is None:
        report.cut("bench.run was stopped at its limit; its file holds the cases that ended")
    elif ended.code:
        report.check("cpu bench", ended.last)
