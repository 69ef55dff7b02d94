"""Who is measured: torch.nn.LSTM in each of its modes, onnxruntime, and ours by variant.

An arm is a way of running a case. It says why it cannot run one, and otherwise gives a runner.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

import lstm_fused
from bench import isa
from bench.cases import Case
from bench.onnx_arm import OnnxRunner
from bench.timing import CpuRunner, CudaRunner, Runner, Settings
from bench.work import Work
from lstm_fused.dispatch import Choice, choose
from tests.close import TF32_EPS

# Steps of a chunk.
WAVEFRONT = 100


@dataclass(frozen=True)
class Arm:
    """One way of running the cases of a device.

    family     "torch", "onnxruntime" or "ours"; torch's arms are yardsticks and never refused
    dtypes     dtypes of a case that the arm takes
    dtype      the dtype that it runs in instead of the case's, or None
    precision  "ieee" or "tf32" for float32 on CUDA, else None: arms are judged within their own
    variant    the name of ours that it forces, or None
    wavefront  whether it runs stacks of layers in chunks
    pair       whether it forces nothing, and is for what two kernels share then
    """

    name: str
    family: str
    settings: Settings = nullcontext
    dtypes: tuple[str, ...] = ("float16", "bfloat16", "float32", "float64")
    dtype: str | None = None
    precision: str | None = None
    variant: str | None = None
    wavefront: bool = False
    pair: bool = False

    def why_not(self, case: Case) -> str | None:
        """Why this arm does not take the case, or None."""
        if case.dtype not in self.dtypes:
            return f"takes {', '.join(self.dtypes)} only"
        if self.family == "onnxruntime":
            if case.kind == "training":
                return "has no training"
            if case.packed or case.proj:
                return "runs dense input without a projection only"
        if self.wavefront and (case.L == 1 or case.bidirectional or case.T <= WAVEFRONT):
            return f"runs several layers of one direction over more than {WAVEFRONT} steps only"
        if self.pair and not self.default(case):
            return "runs what two kernels share by themselves only"
        return None

    def default(self, case: Case) -> bool:
        """Whether it is what runs the case when nothing is forced."""
        if self.family != "ours" or self.wavefront or case.dtype not in self.dtypes:
            return False
        forward, backward = self.chosen(case)
        return forward != backward if self.pair else forward == backward == self.variant

    def chosen(self, case: Case) -> Choice:
        """What runs the case when nothing is forced, in the arm's precision."""
        device = "cuda" if self.variant is None else self.variant.split(".")[0]
        layer = lstm_fused.Case(
            hidden_size=case.H,
            proj_size=case.proj,
            bidirectional=case.bidirectional,
            T=case.T,
            B=case.B,
            dtype=self.judged_in(case),
            device=device,
            input_size=case.I,
            training=case.kind == "training",
            packed=case.packed,
        )
        with fp32(self.precision)() if self.precision else nullcontext():
            return choose(layer)

    def judged_in(self, case: Case) -> torch.dtype:
        """The dtype of the arm's results."""
        return getattr(torch, self.dtype or case.dtype)

    @property
    def eps(self) -> float | None:
        """eps of the tolerance rule; None: that of the dtype."""
        return TF32_EPS if self.precision == "tf32" else None

    def prepare(self, case: Case, device: torch.device, threads: int) -> Runner:
        """Set the case up. Errors of the arm come out of here or of the runner."""
        if self.family == "onnxruntime":
            return OnnxRunner(case, threads)
        module = lstm_fused.LSTM if self.family == "ours" else nn.LSTM
        work = Work(case, module, self.judged_in(case), device)
        if self.family == "torch" and device.type == "cuda":
            work.module.flatten_parameters()  # type: ignore[operator]

        runner = CudaRunner if device.type == "cuda" else CpuRunner
        return runner(work.run, self.settings)


@contextmanager
def _onednn(enabled: bool) -> Iterator[None]:
    # Not mkldnn.flags(): that also sets tf32, and warns of it on every call.
    mkldnn: Any = torch.backends.mkldnn
    before = mkldnn.enabled
    mkldnn.enabled = enabled
    try:
        yield
    finally:
        mkldnn.enabled = before


@contextmanager
def _fp32_precision(precision: str) -> Iterator[None]:
    """Set the precision of cuDNN's RNN and of matmul, which our projections use."""
    rnn: Any = torch.backends.cudnn.rnn
    matmul: Any = torch.backends.cuda.matmul
    before = rnn.fp32_precision, matmul.fp32_precision
    rnn.fp32_precision = matmul.fp32_precision = precision
    try:
        yield
    finally:
        rnn.fp32_precision, matmul.fp32_precision = before


def fp32(precision: str) -> Settings:
    """Settings of a precision of float32: "ieee" or "tf32"."""
    return lambda: _fp32_precision(precision)


def _ours(name: str, precision: str | None = None, steps: int = 0) -> Settings:
    @contextmanager
    def settings() -> Iterator[None]:
        chunks = lstm_fused.wavefront(steps) if steps else nullcontext()
        products = _fp32_precision(precision) if precision else nullcontext()
        with lstm_fused.variant(name), products, chunks:
            yield

    return settings


def _our_variants(device: str) -> list[str]:
    """Names of our own kernels that can run here; torch's two are measured as themselves."""
    return [row.name for row in lstm_fused.variants() if row.available and row.device == device]


def _cpu() -> list[Arm]:
    arms = [
        Arm("torch", "torch", lambda: _onednn(True)),
        Arm("torch.no-onednn", "torch", lambda: _onednn(False)),
    ]
    limit = isa.limit()
    if not limit and find_spec("onnxruntime") and find_spec("onnx"):
        arms.append(Arm("onnxruntime", "onnxruntime", dtypes=("float32",)))
    names = [isa.ENVIRONMENT[limit]["LSTM_FUSED_VARIANT"]] if limit else _our_variants("cpu")
    return arms + [Arm(name, "ours", _ours(name), variant=name) for name in names]


def _cuda() -> list[Arm]:
    half = ("float16", "bfloat16", "float64")
    arms = [Arm("torch", "torch", dtypes=half)]
    for precision in ("tf32", "ieee"):  # tf32 is what torch's RNN does unless told otherwise
        arms.append(
            Arm(f"torch.{precision}", "torch", fp32(precision), ("float32",), precision=precision)
        )
    # cuDNN's fastest dtype beside bf16 and fp32 cases: its persistent kernels are fp16 only.
    arms.append(Arm("torch.fp16", "torch", dtypes=("bfloat16", "float32"), dtype="float16"))
    for name in _our_variants("cuda"):
        arms.append(Arm(name, "ours", _ours(name), half, variant=name))
        for p in ("ieee", "tf32"):
            full = f"{name}.{p}"
            arms.append(Arm(full, "ours", _ours(name, p), ("float32",), precision=p, variant=name))
        if name != "cuda.grid":  # it never runs in chunks
            chunks, only = f"{name}.wavefront", ("float16", "bfloat16")
            settings = _ours(name, steps=WAVEFRONT)
            arms.append(Arm(chunks, "ours", settings, only, variant=name, wavefront=True))
    arms.append(Arm("cuda.pair", "ours", dtypes=half, pair=True))
    for p in ("ieee", "tf32"):
        full = f"cuda.pair.{p}"
        arms.append(Arm(full, "ours", fp32(p), ("float32",), precision=p, pair=True))
    return arms


def arms(device: torch.device, containing: tuple[str, ...] = ()) -> list[Arm]:
    """Arms of a device; with texts, those whose name contains one, and torch's always."""
    found = _cuda() if device.type == "cuda" else _cpu()
    if not containing:
        return found
    return [
        arm
        for arm in found
        if any(text in arm.name for text in containing) or arm.family == "torch"
    ]


def yardstick(arm: Arm, case: Case, among: Sequence[Arm]) -> Arm:
    """torch's own arm of the same dtype and precision, by which the rule judges."""
    wanted = arm.judged_in(case), arm.precision
    for other in among:
        if other.family == "torch" and other.why_not(case) is None:
            if (other.judged_in(case), other.precision) == wanted:
                return other
    raise LookupError(f"no torch arm for {arm.name} on {case.id}")


def against(arm: Arm, case: Case, among: Sequence[Arm]) -> Arm:
    """Whose time is to beat: the yardstick, and for torch's own arms what torch does by default."""
    if arm.family != "torch":
        return yardstick(arm, case, among)
    return next(a for a in among if a.family == "torch" and a.why_not(case) is None)
