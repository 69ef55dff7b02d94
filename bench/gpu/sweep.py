"""Stage 7: ours against torch's, as bench.run measures it, headline cases first."""

from __future__ import annotations

import torch

from bench.arms import arms
from bench.cases import suite
from bench.gpu import build
from bench.gpu.report import Report
from bench.run import QUICK_ROUNDS, describe, measure


def run(report: Report) -> None:
    if not build.runnable(report):
        return
    device, matching = torch.device(report.device), report.options["filter"]
    on_gpu = report.device == "cuda"
    cases = suite("gpu" if on_gpu else "cpu", quick=not on_gpu, matching=matching)
    candidates = arms(device)
    # What goes wrong with chunks and streams says nothing against a kernel.
    variant = {arm.name: arm.variant for arm in candidates if not arm.wavefront}
    right: dict[str, bool] = {}
    for case in report.in_time(cases):
        for row in measure(case, candidates, device, torch.get_num_threads(), QUICK_ROUNDS):
            report.rows.append(row)
            if row["status"] != "refused":
                report.say(describe(row))
            name = variant.get(row["arm"])
            # Of two kernels that give a wrong result together each may be wrong.
            for kernel in row.get("pair") or ([name] if name else []):
                if row["status"] == "failed":
                    report.check("sweep", row["reason"], variant=kernel, case=case.id)
                if row["status"] != "refused":
                    right[kernel] = right.get(kernel, True) and row["status"] == "ok"
        if on_gpu:
            torch.cuda.empty_cache()
    for name, is_right in right.items():
        if is_right:
            report.check("sweep", None, variant=name)
