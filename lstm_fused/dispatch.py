"""The variants: which ways there are to run a layer, which one runs here, and why not the others.

The kernels' rows stand in csrc/dispatch/registry.cpp as well, in the same order (a test compares):
this list must exist where nothing could be built.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch

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


class Choice(NamedTuple):
    """The variants that run a layer's passes, one or two of them; torch's own run both."""

    forward: str
    backward: str

    def __str__(self) -> str:
        return self.forward if self.forward == self.backward else " and ".join(self)


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


def was_added(kernel: str) -> bool:
    """Whether it is one that add_kernels has added."""
    return kernel in _DEVICES


def _device(kernel: str) -> str:
    return _DEVICES.get(kernel, kernel.partition(".")[0])


def _checked(name: str) -> str:
    if name not in names():
        raise ValueError(f"variant must be one of {', '.join(names())}, got {name!r}")
    return name


_forced: contextvars.ContextVar[Choice] = contextvars.ContextVar("lstm_fused.variant")
# Read once: os.environ takes 0.5 us, a tenth of a small step.
_FROM_ENVIRONMENT = os.environ.get("LSTM_FUSED_VARIANT") or None


@torch.compiler.assume_constant_result
def forced() -> Choice | None:
    """What variant() has forced, or LSTM_FUSED_VARIANT as it was at import, or None.

    Compiled code keeps what was forced when it was traced.
    """
    choice = _forced.get(None)
    if choice is None and _FROM_ENVIRONMENT:
        choice = Choice(_checked(_FROM_ENVIRONMENT), _FROM_ENVIRONMENT)
    return choice


@contextlib.contextmanager
def variant(name: str, backward: str | None = None) -> Iterator[None]:
    """Within the block, in this thread: run every layer by the variant `name` or raise why not.

    name      one of the names of variants()
    backward  the name of the one that runs backward, None: the same. torch.native and
              torch.composite run both passes or none.

    Raises ValueError for another name, and for a pair of which one is torch's.
    """
    choice = Choice(_checked(name), _checked(name if backward is None else backward))
    if choice.forward != choice.backward and not {NATIVE, COMPOSITE}.isdisjoint(choice):
        raise ValueError(
            f"{NATIVE} and {COMPOSITE} run both passes or none, got {choice.forward!r} for forward "
            f"and {choice.backward!r} for backward"
        )
    token = _forced.set(choice)
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
        with _current(case.device):
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


def _current(device: str) -> contextlib.AbstractContextManager[Any]:
    """Makes a GPU the current one, for whose limits kernels answer.

    Not before CUDA is initialised: who only asks may still fork, and hears of the first GPU.
    """
    index = torch.device(device).index
    if index is None or not torch.cuda.is_initialized() or index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(index)


def default(device: str) -> tuple[str, ...]:
    """The names that may run on a device unless one is forced, in order of choice.

    On a GPU a kernel of ours is among them only once a run has proven it, on one of the same
    capability; and of those that take a case estimates decide, for each pass (_fastest).
    """
    kind = torch.device(device).type
    if kind == "cpu":
        return (*(name for name in KERNELS if name.startswith("cpu.")), COMPOSITE)
    if kind == "cuda":
        proven = _proven_on(_index(device)) if PROVEN else ()
        return (*(name for name in KERNELS if name in proven), NATIVE, COMPOSITE)
    return (COMPOSITE,)


@functools.cache
def _proven_on(index: int) -> tuple[str, ...]:
    """By capability: kernels proven on another GPU have run on none like this."""
    if not torch.cuda.is_available():
        return ()
    major, minor = torch.cuda.get_device_capability(index)
    return PROVEN.get(f"{major}.{minor}", ())


def _index(device: str) -> int:
    """Of a GPU; where it is not said, the current one's."""
    index = torch.device(device).index
    if index is not None:
        return index
    return torch.cuda.current_device() if torch.cuda.is_initialized() else 0


def estimate(choice: Choice, case: Case) -> float | None:
    """Microseconds of the case by its variants, as the model of costs.py says, or None: not known.

    Forward, and backward if case.training. Known are layers on a GPU that this machine has. Raises
    ValueError where the file of LSTM_FUSED_COSTS is not right.
    """
    layer = layer_of(case)
    return None if layer is None else _estimate(passes_of(choice, case), layer)


def passes_of(choice: Choice, case: Case) -> Sequence[str]:
    """The variants of the passes that are expected."""
    return choice if case.training else choice[:1]


def _estimate(names: Sequence[str | None], layer: costs.Layer) -> float | None:
    works = costs.works(names, layer)
    return None if works is None else costs.total(works)


def layer_of(case: Case) -> costs.Layer | None:
    """What the model of costs.py asks of a case, or None where it knows nothing of the device."""
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
        costs.gpu_of(device),
        product_precision() == "tf32",
    )


def choose(case: Case) -> Choice:
    """The variants that run the case.

    Raises Refused if a forced one refuses, and, where estimates decide, ValueError if the file of
    LSTM_FUSED_COSTS is not right.
    """
    choice = forced()
    if choice is None:
        candidates = default(case.device)
        if candidates[0].startswith("cuda."):
            tf32 = case.dtype == torch.float32 and tf32_allowed()
            precision = tf32, product_precision() == "tf32"
            return _fastest(case, candidates, precision, _index(case.device))
        return _both(next(name for name in candidates if not why_not(name, case)))
    for name in dict.fromkeys(choice):
        reason = why_not(name, case)
        if reason:
            raise Refused(f"variant {name} was asked for and cannot run this layer: {reason}")
    return choice


def _both(name: str) -> Choice:
    return Choice(name, name)


# Every call of a layer asks: a choice takes some 100 us, to find the one made before takes 3.
@functools.lru_cache(maxsize=4096)
def _fastest(
    case: Case, candidates: tuple[str, ...], tf32: tuple[bool, bool], device: int
) -> Choice:
    """The candidates with the lowest estimates of those that take the case.

    Any two kernels can share a layer, as they keep the same for backward (csrc/contract/params.h).

    tf32, device  what the answer depends on beside the rest, as they are now
    """
    able = [name for name in candidates if not why_not(name, case)]
    layer = layer_of(case)
    if layer is None:
        return _both(able[0])
    choices = [_both(name) for name in able if name not in KERNELS]
    kernels = [name for name in able if name in KERNELS]
    if kernels:
        forward = backward = _lowest(kernels, lambda name: _estimate([name], layer))
        if case.training:  # by another one only if that is faster
            backward = _lowest([forward, *kernels], lambda name: _estimate([None, name], layer))
        choices.insert(0, Choice(forward, backward))
    return _lowest(choices, lambda choice: _estimate(passes_of(choice, case), layer))


_Option = TypeVar("_Option")


def _lowest(options: Sequence[_Option], estimate_of: Callable[[_Option], float | None]) -> _Option:
    """The one with the lowest estimate, the first of equals.

    One without an estimate neither gives its place to a later one nor takes an earlier one's.
    """
    best, *others = options
    lowest = estimate_of(best)
    for option in others:
        found = estimate_of(option)
        if lowest is not None and found is not None and found < lowest:
            best, lowest = option, found
    return best


def scan_precision() -> str:
    """Of float32 in scans on CUDA, as torch sets it for its own LSTM: "ieee", "tf32" or "none"."""
    return _precision(torch.backends.cudnn.rnn)


@torch.compiler.assume_constant_result
def tf32_allowed() -> bool:
    """Whether torch allows its own LSTM to round the factors of float32 products to TF32."""
    return scan_precision() == "tf32"


def product_precision() -> str:
    """The same of torch's own products of float32 on CUDA."""
    return _precision(torch.backends.cuda.matmul)


def _precision(backend: Any) -> str:
    return str(backend.fp32_precision)
