"""Stage 1: what machine this is, and the build for its GPU."""

from __future__ import annotations

import torch

import lstm_fused
from bench import machine
from bench.gpu.report import Report
from lstm_fused import _load


def available(device: str) -> dict[str, str | None]:
    """Our kernels for a device by name, with why they cannot run here, or None."""
    rows = lstm_fused.variants()
    return {row.name: row.why_not for row in rows if row.name.startswith(f"{device}.")}


def runnable(report: Report) -> list[str]:
    """Names of our kernels that run on the stage's device; the stage is skipped if none does."""
    kernels = available(report.device)
    names = [name for name, why_not in kernels.items() if why_not is None]
    if not names:
        report.skip("; ".join(f"{name}: {why_not}" for name, why_not in kernels.items()))
    return names


def run(report: Report) -> None:
    device = torch.device(report.device)
    # The first question for the variants is what builds the kernels.
    kernels = available(report.device)
    report.stamp = machine.stamp(device, report.options["command"])
    report.details = {"variants": kernels, "origin": _load.state().origin}
    for key in ("device", "capability", "driver", "clocks", "torch", "cuda", "cudnn", "nvcc"):
        report.say(f"{key:<12}{report.stamp[key]}")
    for key in ("commit", "dirty", "source_hash"):
        report.say(f"{key:<12}{report.stamp[key]}")
    report.say(f"{'SASS':<12}{len(report.stamp['sass_digest'] or ())} kernels with a digest")
    for name, why_not in kernels.items():
        report.say(f"{name:<12}{why_not or 'available'}")
    if all(kernels.values()):
        report.fail(f"no {report.device} variant can run here: {_load.why_not() or kernels}")
