"""The variants: which ways there are to run a layer, which one runs here, and why not the others.

The kernels' rows stand in csrc/dispatch/registry.cpp as well, in the same order (a test compares):
this list must exist where nothing could be built.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lstm_fused import _load, costs, ops
from lstm_fused._proven import PROVEN

# Fastest first on each device, then those that add_kernels added; a kernel's place is its code in
# the ops.
KERNELS = ["cuda.decode", "cuda.block", "cuda.cluster", "cuda.grid", "cuda.step"]
KERNELS += ["cpu.avx512bf16", "cpu.avx512", "cpu.avx2", "cpu.neon", "cpu.generic"]
# torch.native is torch's own LSTM (cuDNN, oneDNN); torch.composite is composite.py.
NATIVE, COMPOSITE = costs.NATIVE, "torch.composite"
# The device of a kernel that is not the first word of its name.
_DEVICES: dict[str, str] = {}
AUTOMATIC = -1
ABOUT = {
    "cuda.decode": "one time step of up to 16 sequences in one launch, in eager mode; fp16, bf16, "
    "fp32",
    "cuda.block": "a whole sequence in one block, weights on the chip: H to 160 in fp16 and bf16, "
    "to 128 in tf32 and fp32",
    "cuda.cluster": "a whole sequence in a cluster of 1 to 16 blocks, sm_90 and later: H to 512 in "
    "fp16, bf16, tf32 and fp32",
    "cuda.grid": "a whole sequence in a group of blocks, W_hh on their chips: H to 128 for every 8 "
    "SMs, at most 2304 in fp16 and bf16, 1152 in tf32, 1024 in fp32",
    "cuda.step": "one matrix product and one gate kernel per time step; fp16, bf16, fp32, fp64",
    "cpu.avx512bf16": "the same scan for bf16, products of pairs: twice the operations of fp32",
    "cpu.avx512": "fused scan, 6 x 64 tiles; fp32, fp64, and bf16, fp16 as storage",
    "cpu.avx2": "fused scan, 3 x 32 tiles; fp32, fp64, and bf16, fp16 as storage",
    "cpu.neon": "fused scan, 6 x 16 tiles; fp32, fp64, and bf16, fp16 as storage",
    "cpu.generic": "the same scan for any CPU, 3 x 16 tiles",
    NATIVE: "torch's own LSTM (cuDNN, oneDNN, ATen): the yardstick",
    COMPOSITE: "plain PyTorch ops: any device, any dtype, differentiable to any order",
}


class Refused(RuntimeError):
    """The forced variant cannot run the layer; the message says why."""


class Variant(NamedTuple):
    """One row of variants()."""

    name: str
    device: str  # "cpu", "cuda" or "any"
    why_not: str | None  # why it cannot run here; None: it can

    @property
    def available(self) -> bool:
        return self.why_not is None


class Case(NamedTuple):
    """A layer to ask explain() about: T steps, B sequences."""

    hidden_size: int
    proj_size: int = 0
    bidirectional: bool = False
    T: int = 100
    B: int = 32
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    # These three matter to what a layer takes on a GPU, and to nothing else.
    input_size: int = 0  # 0: as hidden_size
    training: bool = False  # gradients will be wanted
    packed: bool = False  # a PackedSequence


def names() -> list[str]:
    """Every variant's name."""
    return [*KERNELS, NATIVE, COMPOSITE]


def add_kernels(path: str | os.PathLike[str]) -> list[str]:
    """Add the kernels of a shared object; returns their names. They run only where forced.

    path  a shared object that exports `lf_variants` (csrc/ops/module.cpp) and was compiled with
          this version's csrc/contract.

    Raises RuntimeError where lstm_fused's own kernels are not built, ImportError for another file.
    """
    module = _load.load()
    if module is None:
        raise RuntimeError(f"kernels can only be added to kernels: {_load.why_not()}")
    module.add_variants(os.fspath(path))
    added = module.variants()[len(KERNELS) :]
    for row in added:
        KERNELS.append(row["name"])
        _DEVICES[row["name"]] = row["device"]
    return [row["name"] for row in added]


def _device(kernel: str) -> str:
    return _DEVICES.get(kernel, kernel.partition(".")[0])


def _checked(name: str | None) -> str | None:
    if name and name not in names():
        raise ValueError(f"variant must be one of {', '.join(names())}, got {name!r}")
    return name or None


_forced: contextvars.ContextVar[str | None] = contextvars.ContextVar("lstm_fused.variant")
# Read once: os.environ takes 0.5 us, a tenth of a small step.
_FROM_ENVIRONMENT = os.environ.get("LSTM_FUSED_VARIANT") or None


@torch.compiler.assume_constant_result
def forced() -> str | None:
    """The name forced by variant(), or by LSTM_FUSED_VARIANT as it was at import, or None.

    Compiled code keeps the name that was forced when it was traced.
    """
    name = _forced.get(None)
    return name if name is not None else _FROM_ENVIRONMENT and _checked(_FROM_ENVIRONMENT)


@contextlib.contextmanager
def variant(name: str) -> Iterator[None]:
    """Within the block, in this thread: run every layer by the variant `name` or raise why not.

    name  one of the names of variants(). Raises ValueError for another.
    """
    token = _forced.set(_checked(name))
    try:
        yield
    finally:
        _forced.reset(token)


def variants() -> list[Variant]:
    """Every variant, fastest first on each device, and why it cannot run here if it cannot."""
    module = _load.load()
    if module is None:
        reason = f"not built: {_load.why_not()}"
        rows = [Variant(name, _device(name), reason) for name in KERNELS]
    else:
        rows = [Variant(row["name"], row["device"], row["why_not"]) for row in module.variants()]
    return [*rows, Variant(NATIVE, "any", None), Variant(COMPOSITE, "any", None)]


def why_not(name: str, case: Case) -> str | None:
    """Why the variant refuses the case, as a clause, or None if it takes it."""
    if name == NATIVE:
        return None if torch.device(case.device).type != "meta" else "it needs real tensors"
    if name == COMPOSITE:
        return None
    device, kernel_device = torch.device(case.device).type, _device(name)
    if device != kernel_device:
        return f"it runs on {kernel_device}, the tensors are on {device}"
    module = _load.load()
    if module is None:
        return f"not built: {_load.why_not()}"
    if case.dtype not in ops.DTYPE_CODES:
        return f"it computes in float16, bfloat16, float32 and float64, not in {case.dtype}"
    wide = case.dtype in (torch.float16, torch.bfloat16) and device == "cpu"

    def ask(dtype: torch.dtype) -> str | None:
        return module.why_not(
            KERNELS.index(name),
            ops.DTYPE_CODES[dtype],
            dtype == torch.float32 and tf32_allowed(),
            case.T,
            case.B,
            case.hidden_size,
            case.proj_size or case.hidden_size,
            2 if case.bidirectional else 1,
        )

    reason = ask(case.dtype)
    return ask(torch.float32) if reason and wide else reason  # 16 bits may be widened


def default(device: str) -> tuple[str, ...]:
    """The names that may run on a device unless one is forced, in order of choice.

    On a GPU a kernel of ours is among them only once a run there has proven it; and of those that
    take a case, the one with the lowest estimate is chosen.
    """
    if device == "cpu":
        return (*(name for name in KERNELS if name.startswith("cpu.")), COMPOSITE)
    if device == "cuda":
        return (*(name for name in KERNELS if name in PROVEN), NATIVE, COMPOSITE)
    return (COMPOSITE,)


def estimate(name: str, case: Case) -> float | None:
    """Microseconds of the case by the variant, as the model of costs.py says, or None: not known.

    Forward, and backward if case.training. Known are layers on a GPU that this machine has. Raises
    ValueError where the file of LSTM_FUSED_COSTS is not right.
    """
    layer = _layer(case)
    return None if layer is None else costs.estimate(name, layer, case.training)


def _layer(case: Case) -> costs.Layer | None:
    device = torch.device(case.device)
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    return costs.Layer(
        case.T,
        case.B,
        case.input_size or case.hidden_size,
        case.hidden_size,
        case.proj_size,
        2 if case.bidirectional else 1,
        case.dtype,
        tf32_allowed(),
        case.packed,
        torch.cuda.get_device_properties(device).multi_processor_count,
        _products_tf32(),
    )


def choose(case: Case) -> str:
    """The name of the variant that runs the case.

    Raises Refused if the forced one refuses, and, where estimates decide, ValueError if the file of
    LSTM_FUSED_COSTS is not right.
    """
    name = forced()
    if name is None:
        device = torch.device(case.device).type
        candidates = default(device)
        if device == "cuda" and candidates[0] != NATIVE:
            index = torch.cuda.current_device() if torch.cuda.is_initialized() else 0
            tf32 = case.dtype == torch.float32 and tf32_allowed()
            return _fastest(case, candidates, (tf32, _products_tf32()), index)
        return next(name for name in candidates if not why_not(name, case))
    reason = why_not(name, case)
    if reason:
        raise Refused(f"variant {name} was asked for and cannot run this layer: {reason}")
    return name


# Every call of a layer asks: a choice takes some 50 us, to find the one made before takes 3.
@functools.lru_cache(maxsize=4096)
def _fastest(case: Case, candidates: tuple[str, ...], tf32: tuple[bool, bool], device: int) -> str:
    """The candidate with the lowest estimate of those that take the case, the first of equals.

    One without an estimate neither gives its place to a later one nor takes an earlier one's.

    tf32, device  what the answer depends on beside the rest, as they are now
    """
    able = [name for name in candidates if not why_not(name, case)]
    best = able[0]
    lowest = estimate(best, case)
    for name in able[1:]:
        other = estimate(name, case)
        if lowest is not None and other is not None and other < lowest:
            best, lowest = name, other
    return best


def case_of(module: nn.Module) -> Case:
    """The case that an LSTM or LSTMCell module stands for. Raises TypeError for another object."""
    weight = getattr(module, "weight_hh_l0", getattr(module, "weight_hh", None))
    hidden_size = getattr(module, "hidden_size", 0)
    if not isinstance(weight, Tensor) or weight.shape[0] != 4 * hidden_size:
        raise TypeError(
            "explain takes an LSTM or LSTMCell module or a lstm_fused.Case, "
            f"got {type(module).__name__}"
        )
    return Case(
        hidden_size=hidden_size,
        proj_size=getattr(module, "proj_size", 0),
        bidirectional=bool(getattr(module, "bidirectional", False)),
        dtype=weight.dtype,
        device=str(weight.device),
        input_size=getattr(module, "input_size", 0),
        training=weight.requires_grad and torch.is_grad_enabled(),
    )


def support_table() -> str:
    """The variants as the Markdown table of the README: the same on every machine."""
    lines = ["| variant | what it is | chosen by itself |", "|---|---|---|"]
    for name in ABOUT:
        devices = [device for device in ("cpu", "cuda") if name in default(device)]
        when = " and ".join(f"on {device.upper()}" for device in devices)
        if name == COMPOSITE:
            when = "where nothing is built, and on other devices"
        lines.append(f"| `{name}` | {ABOUT[name]} | {when or 'no: not yet proven on a GPU'} |")
    return "\n".join(lines)


def scan_precision() -> str:
    """Of float32 in scans on CUDA, as torch sets it for its own LSTM: "ieee", "tf32" or "none"."""
    return _precision(torch.backends.cudnn.rnn)


@torch.compiler.assume_constant_result
def tf32_allowed() -> bool:
    """Whether torch allows its own LSTM to round the factors of float32 products to TF32."""
    return scan_precision() == "tf32"


def _precision(backend: Any) -> str:
    return str(backend.fp32_precision)


def _products_tf32() -> bool:
    """Whether torch rounds the factors of its own products of float32 to TF32."""
    return _precision(torch.backends.cuda.matmul) == "tf32"


def _words_of_estimate(name: str, case: Case) -> str:
    """ ", about 1480 us forward (predicted)", or "(fitted to ...json)", or nothing."""
    layer, microseconds = _layer(case), estimate(name, case)
    if layer is None or microseconds is None:
        return ""
    passes = "forward and backward" if case.training else "forward"
    files = costs.sources(name, layer, case.training)
    rests_on = "predicted" if files is None else f"fitted to {', '.join(files)}"
    number = f"{microseconds:.0f}" if microseconds >= 100 else f"{microseconds:.3g}"
    return f", about {number} us {passes} ({rests_on})"


def explain(module_or_case: nn.Module | Case) -> str:
    """Which variant runs a module or Case, and a line for each of the others with the reason.

    On a GPU with an estimate for each that can run it: forward, or forward and backward where
    gradients would be wanted; by measurements ("fitted") or without any ("predicted"). A module is
    taken with Case's T and B. Raises Refused if the forced variant refuses the case, TypeError for
    what is neither, and on CUDA ValueError if the file of LSTM_FUSED_COSTS is not right.
    """
    case = module_or_case if isinstance(module_or_case, Case) else case_of(module_or_case)
    chosen = choose(case)
    candidates = default(torch.device(case.device).type)
    how = "forced" if forced() else "chosen"
    lines = [
        f"LSTM H={case.hidden_size}"
        + (f" P={case.proj_size}" if case.proj_size else "")
        + (" bidirectional" if case.bidirectional else "")
        + f" {str(case.dtype).removeprefix('torch.')} on {case.device}"
    ]
    for name in names():
        refusal = why_not(name, case)
        if name == chosen:
            reason = how
        elif refusal is not None:
            reason = refusal
        elif forced():
            reason = f"{chosen} is forced"
        elif name not in candidates:
            if name in _DEVICES:
                reason = "it was added; ask for it by name"
            elif name.startswith("cuda."):
                reason = "not proven on a GPU by this build's results; ask for it by name"
            else:
                reason = "the yardstick; ask for it by name"
        else:
            own, others = estimate(name, case), estimate(chosen, case)
            known = own is not None and others is not None and own != others
            reason = f"{chosen} {'is estimated to take less' if known else 'comes first'}"
        lines.append(f"  {name:<16} {reason}{'' if refusal else _words_of_estimate(name, case)}")
    if torch.device(case.device).type == "cuda" and case.dtype == torch.float32:
        lines.append(f"  float32 in scans: {scan_precision()}")
        products = _precision(torch.backends.cuda.matmul)
        lines.append(f"  float32 in products: {products}")
    return "\n".join(lines)
