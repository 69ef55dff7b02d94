"""Stage 6: torch.nn.LSTM itself over the published suites: the times to beat, and by which kernels.

Random weights and inputs are drawn on the device, in the dtype: nothing is compared here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench import arms
from bench.cases import Case, suite
from bench.gpu.report import Report
from bench.timing import CpuRunner, CudaRunner, Settings, calls_for, summarize

SECONDS = 0.2  # of a measurement, and at least LEAST calls, at most MOST
LEAST, MOST = 5, 200
KERNELS = 5  # named per case


@dataclass(frozen=True)
class Mode:
    """What torch computes in."""

    name: str
    dtype: torch.dtype
    settings: Settings = nullcontext


MODES = {
    "cuda": [
        Mode("fp16", torch.float16),
        Mode("bf16", torch.bfloat16),
        Mode("fp32-tf32", torch.float32, arms.fp32("tf32")),
        Mode("fp32-ieee", torch.float32, arms.fp32("ieee")),
    ],
    "cpu": [Mode("bf16", torch.bfloat16), Mode("fp32", torch.float32)],
}


def cases(device: str, matching: str) -> list[Case]:
    """Dense cases of the suite in its order, each shape once, whatever dtypes it is there in."""
    found: dict[tuple[Any, ...], Case] = {}
    for case in suite("gpu" if device == "cuda" else "cpu", matching=matching):
        shape = (case.T, case.B, case.I, case.H, case.L, case.bidirectional, case.proj)
        if not case.packed:
            found.setdefault((*shape, case.kind), case)
    return list(found.values())


def computation(case: Case, dtype: torch.dtype, device: str) -> Callable[[], dict[str, Tensor]]:
    """One forward, or one forward and backward, of torch.nn.LSTM."""
    kwargs: dict[str, Any] = {"device": device, "dtype": dtype}
    module = nn.LSTM(
        case.I,
        case.H,
        case.L,
        bidirectional=case.bidirectional,
        proj_size=case.proj,
        **kwargs,
    )
    if device == "cuda":
        module.flatten_parameters()
    training = case.kind == "training"
    module.train(training)
    x = torch.randn(case.T, case.B, case.I, requires_grad=training, **kwargs)
    leaves = [x, *module.parameters()]
    with torch.no_grad():
        dy = torch.randn_like(module(x)[0])

    def run() -> dict[str, Tensor]:
        with torch.set_grad_enabled(training):
            y, _ = module(x)
        if training:
            torch.autograd.grad(y, leaves, dy)
        return {"y": y}

    return run


def measure(run: Callable[[], dict[str, Tensor]], mode: Mode, device: str) -> dict[str, Any]:
    """Median and quartiles of its time in seconds, and what it ran."""
    runner = (CudaRunner if device == "cuda" else CpuRunner)(run, mode.settings)
    calls = max(LEAST, min(MOST, calls_for(runner, SECONDS)))
    # A CPU runner gives a mean of its calls, a CUDA runner the time of each.
    samples = runner.sample(calls) if device == "cuda" else [runner.sample(1)[0] for _ in range(5)]
    timing = asdict(summarize(samples, calls))
    timing.pop("samples")
    with mode.settings():
        kernels = kernels_of(run, device)
    runner.close()
    return {"seconds": timing, "kernels": kernels}


def kernels_of(run: Callable[[], dict[str, Tensor]], device: str) -> list[dict[str, Any]]:
    """The kernels that took most of the time: name, calls, share. On a CPU, torch's operators."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        run()
        if on_gpu:
            torch.cuda.synchronize()
    totals: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for event in seen.events():
        if on_gpu and event.device_type != DeviceType.CUDA:
            continue
        totals[event.name][0] += 1
        # The events of a GPU are its kernels, which have no parts.
        spent = event.time_range.elapsed_us() if on_gpu else event.self_cpu_time_total
        totals[event.name][1] += spent
    whole = sum(spent for _, spent in totals.values()) or 1.0
    most = sorted(totals.items(), key=lambda item: -item[1][1])[:KERNELS]
    return [
        {"name": name, "calls": int(calls), "share": round(spent / whole, 4)}
        for name, (calls, spent) in most
    ]


def work(report: Report) -> Iterator[tuple[Case, Mode]]:
    for case in cases(report.device, report.options["filter"]):
        for mode in MODES[report.device]:
            yield case, mode


def run(report: Report) -> None:
    rows: list[dict[str, Any]] = []
    report.details["rows"] = rows
    for case, mode in report.in_time(work(report), "measurements"):
        row: dict[str, Any] = {"case": case.as_dict(), "mode": mode.name}
        rows.append(row)
        row["case"].pop("dtype")
        try:
            with mode.settings():
                computed = computation(case, mode.dtype, report.device)
            row |= measure(computed, mode, report.device)
            first = row["kernels"][0]["name"] if row["kernels"] else "no kernel seen"
            said = f"{row['seconds']['median'] * 1e3:10.3f} ms  {first[:60]}"
        except (RuntimeError, ValueError) as error:  # out of memory, or cuDNN does not take it
            row["reason"] = said = str(error).split("\n")[0]
            if report.device == "cuda":
                torch.cuda.empty_cache()
        report.say(f"{case.group}/{case.name}/{case.kind} {mode.name}: {said}")
