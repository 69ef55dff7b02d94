"""Named cases, and one way to run each of them three times.

`run_both(case, dtype, ours)` gives the numbers of `torch.nn.LSTM` in float64 (the reference), of
`torch.nn.LSTM` in the dtype (the yardstick) and of ours, from equal weights, inputs and upstream
gradients. The numbers are rounded to the dtype first and then widened, so that all three start
from the same values.

The yardstick in float16 and bfloat16 is whatever `torch.nn.LSTM` does on this CPU: oneDNN where it
has the instructions (its state stays wide), torch's own loop elsewhere (rounds after each step).
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from tests.close import assert_no_worse

Params = list[Tensor]
State = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """One configuration of torch.nn.LSTM in the house letters, and why it is there.

    P = 0 means no projection. `lengths` are sorted, longest first; x is then [sum(lengths), I].
    """

    name: str
    why: str
    T: int = 5
    B: int = 3
    I: int = 4  # noqa: E741 - the house letter
    H: int = 6
    P: int = 0
    L: int = 1
    bidirectional: bool = False
    bias: bool = True
    hx: bool = True
    lengths: tuple[int, ...] | None = None
    scale: float = 1.0

    @property
    def D(self) -> int:
        """Directions: 1 or 2."""
        return 2 if self.bidirectional else 1

    @property
    def out(self) -> int:
        """Width of h of one direction: P, or H without a projection."""
        return self.P or self.H

    @property
    def batch_sizes(self) -> Tensor | None:
        """int64 [T] as in PackedSequence, or None when padded."""
        if self.lengths is None:
            return None
        return torch.tensor([sum(n > t for n in self.lengths) for t in range(self.T)])

    def module(
        self, cls: type[torch.nn.Module] = torch.nn.LSTM, **kwargs: object
    ) -> torch.nn.Module:
        """An LSTM of this configuration; `cls` takes torch.nn.LSTM's arguments."""
        return cls(
            self.I,
            self.H,
            num_layers=self.L,
            bias=self.bias,
            bidirectional=self.bidirectional,
            proj_size=self.P,
            **kwargs,
        )

    def __str__(self) -> str:
        return self.name


def _ragged(name: str, why: str, lengths: tuple[int, ...], **kwargs: object) -> Case:
    return Case(name, why, T=lengths[0], B=len(lengths), lengths=lengths, **kwargs)


ONE = Case("one", "every loop runs once", T=1, B=1, I=1, H=1)
ODD = Case("odd", "one unit past every vector width", T=4, B=3, I=5, H=33)
PRIME = Case("prime", "no size divides another", T=7, B=5, I=11, H=13)
WIDE = Case("wide", "weights larger than the second-level cache", T=2, B=2, I=8, H=1024)
LONG = Case("long", "errors add up over many steps", T=2048, B=1, I=2, H=4)
BATCH_37 = Case("batch_37", "a batch that no tile divides", T=3, B=37, I=6, H=20)
BATCH_1 = Case("batch_1", "matrix products become matrix-vector products", T=9, B=1, I=10, H=24)
SUMS = Case("sums", "each element of dh sums 4H products", T=5, B=23, I=220, H=242)
STEP = Case("step", "T = 1 with a real batch: a cell's call", T=1, B=6, I=9, H=16)
EMPTY = Case("empty", "B = 0 is legal and returns empty tensors", T=3, B=0, I=4, H=5)
WIDE_INPUT = Case("wide_input", "I much larger than H", T=3, B=2, I=300, H=7)
NO_BIAS = Case("no_bias", "bias=False", H=10, bias=False)
NO_HX = Case("no_hx", "the initial state is absent, not zeros", H=9, hx=False)
BARE = Case("bare", "neither bias nor initial state", H=18, bias=False, hx=False)
# Not larger: of 12 seeds at scale 100, plain PyTorch ops break the rule for 2, as one rounding of a
# sum near 100 moves a gate between 0 and 1 by more than the yardstick happens to be off.
# test_bad_numbers goes to infinity.
LARGE = Case("large", "gates saturate: exp must neither overflow nor cancel", H=17, scale=10.0)
SMALL = Case("small", "tanh near 0 must keep its relative precision", H=12, scale=1e-3)
BIDIRECTIONAL = Case(
    "bidirectional", "the second direction runs backward", H=11, bidirectional=True
)
PROJ = Case("proj", "h is narrower than c", H=14, P=5)
PROJ_1 = Case("proj_1", "a projection to one number", H=9, P=1, hx=False)
PROJ_NO_BIAS = Case("proj_no_bias", "3 weights per direction", H=8, P=3, bias=False)
PROJ_BIDIRECTIONAL = Case("proj_bidirectional", "both", H=19, P=7, bidirectional=True)
RAGGED = _ragged("ragged", "sequences end at different steps", (7, 5, 5, 2, 1), H=15)
RAGGED_BIDIRECTIONAL = _ragged(
    "ragged_bidirectional",
    "the backward direction starts at each sequence's own end",
    (6, 6, 4, 1),
    H=10,
    bidirectional=True,
)
RAGGED_PROJ = _ragged(
    "ragged_proj",
    "ends, a projection, no state",
    (5, 4, 2),
    H=12,
    P=4,
    bidirectional=True,
    hx=False,
)
RAGGED_EQUAL = _ragged("ragged_equal", "packed although all lengths are equal", (4, 4, 4), H=8)

# One below, at and above 4, 8 and 16 lanes, and everything between.
TAILS = tuple(
    Case(f"tail_{h}", f"{h} units: lanes left over", T=3, B=2, I=3, H=h) for h in range(1, 18)
)

LAYER_CASES = (
    ONE,
    ODD,
    PRIME,
    WIDE,
    LONG,
    BATCH_37,
    BATCH_1,
    SUMS,
    STEP,
    EMPTY,
    WIDE_INPUT,
    NO_BIAS,
    NO_HX,
    BARE,
    LARGE,
    SMALL,
    BIDIRECTIONAL,
    PROJ,
    PROJ_1,
    PROJ_NO_BIAS,
    PROJ_BIDIRECTIONAL,
    RAGGED,
    RAGGED_BIDIRECTIONAL,
    RAGGED_PROJ,
    RAGGED_EQUAL,
    *TAILS,
)

STACK_CASES = (
    Case("stack", "the second layer reads the first", H=9, L=2),
    Case("stack_bidirectional", "layer 1 reads both directions", H=7, L=2, bidirectional=True),
    Case(
        "stack_proj", "layer 1 reads a projection", H=10, L=3, P=4, bidirectional=True, bias=False
    ),
    replace(RAGGED_BIDIRECTIONAL, name="stack_ragged", why="packed rows through layers", L=2),
)

CASES = (*LAYER_CASES, *STACK_CASES)

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Problem:
    """The numbers of a case in float64, each exactly representable in the dtype under test."""

    case: Case
    dtype: torch.dtype
    x: Tensor  # [T, B, I], or [N, I] when ragged
    hx: State | None  # h_0 [L*D, B, P], c_0 [L*D, B, H]
    params: dict[str, Tensor]  # as in torch.nn.LSTM.named_parameters()
    upstream: dict[str, Tensor]  # gradients of y, h_n, c_n


@dataclass(frozen=True)
class Runs:
    """Every output and gradient by name ("y", "h_n", "grad x", "grad weight_ih_l0", ...)."""

    ours: dict[str, Tensor]
    yard: dict[str, Tensor]
    ref: dict[str, Tensor]

    def check(self) -> None:
        """The rule, for every tensor."""
        assert self.ours.keys() == self.ref.keys() == self.yard.keys()
        for name, ours in self.ours.items():
            assert_no_worse(name, ours, self.yard[name], self.ref[name])


# What is under test: (case, parameters by name, x, hx, batch_sizes) -> y, h_n, c_n
Ours = Callable[
    [Case, dict[str, Tensor], Tensor, State | None, Tensor | None], tuple[Tensor, Tensor, Tensor]
]


@functools.cache
def problem(case: Case, dtype: torch.dtype) -> Problem:
    """Draw the case's numbers; the same ones in every process."""
    g = torch.Generator().manual_seed(zlib.crc32(case.name.encode()))

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        numbers = torch.randn(*shape, generator=g, dtype=torch.float64) * scale
        return numbers.to(dtype).double()

    rows = (case.T, case.B) if case.lengths is None else (sum(case.lengths),)
    layers = case.L * case.D
    params = {}
    for name, p in case.module(device="meta").named_parameters():
        uniform = torch.rand(p.shape, generator=g, dtype=torch.float64) * 2 - 1
        params[name] = (uniform / case.H**0.5).to(dtype).double()
    hx = (draw(layers, case.B, case.out), draw(layers, case.B, case.H, scale=case.scale))
    return Problem(
        case,
        dtype,
        x=draw(*rows, case.I, scale=case.scale),
        hx=hx if case.hx else None,
        params=params,
        upstream={
            "y": draw(*rows, case.D * case.out),
            "h_n": draw(layers, case.B, case.out),
            "c_n": draw(layers, case.B, case.H),
        },
    )


def run(
    ours: Ours, given: Problem, dtype: torch.dtype, *, grad: bool = True, device: str = "cpu"
) -> dict[str, Tensor]:
    """Outputs, states and, unless grad=False, the gradient of every input and parameter.

    Everything comes back to the CPU; that it was on the device before is checked here.
    """

    def leaf(t: Tensor) -> Tensor:
        return t.to(device, dtype, copy=True).requires_grad_(grad)

    case = given.case
    x, params = leaf(given.x), {name: leaf(p) for name, p in given.params.items()}
    hx = None if given.hx is None else (leaf(given.hx[0]), leaf(given.hx[1]))
    with torch.set_grad_enabled(grad):
        results = ours(case, params, x, hx, case.batch_sizes)
    got = dict(zip(("y", "h_n", "c_n"), results, strict=True))
    if grad:
        leaves = {"x": x, **params}
        if hx is not None:
            leaves |= {"h_0": hx[0], "c_0": hx[1]}
        grads = torch.autograd.grad(
            list(got.values()),
            list(leaves.values()),
            [given.upstream[name].to(t) for name, t in got.items()],
        )
        got |= {f"grad {name}": g for name, g in zip(leaves, grads, strict=True)}
    for name, t in got.items():
        assert t.device == x.device, f"{name} must be on {x.device}, got {t.device}"
    return {name: t.detach().cpu() for name, t in got.items()}


def run_both(
    case: Case, dtype: torch.dtype, ours: Ours, *, grad: bool = True, device: str = "cpu"
) -> Runs:
    """Run the case with the reference (on the CPU), the yardstick and ours (on the device)."""
    ref = of_torch(case, dtype, torch.float64, grad)
    yard = ref if dtype == torch.float64 else of_torch(case, dtype, dtype, grad, device)
    return Runs(run(ours, problem(case, dtype), dtype, grad=grad, device=device), yard, ref)


@functools.cache
def of_torch(
    case: Case, rounded: torch.dtype, dtype: torch.dtype, grad: bool = True, device: str = "cpu"
) -> dict[str, Tensor]:
    """torch.nn.LSTM on the case's numbers `rounded` to one dtype and computed in another.

    Where it refuses on a GPU (cuDNN does not know every combination), on the CPU.
    """
    try:
        return run(by_torch, problem(case, rounded), dtype, grad=grad, device=device)
    except RuntimeError:
        if device == "cpu":
            raise
        return run(by_torch, problem(case, rounded), dtype, grad=grad)


def by_torch(
    case: Case, params: dict[str, Tensor], x: Tensor, hx: State | None, batch_sizes: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """torch.nn.LSTM itself: reference and yardstick."""
    return by_module(torch.nn.LSTM)(case, params, x, hx, batch_sizes)


def by_module(cls: type[torch.nn.Module]) -> Ours:
    """Judge a module class that takes torch.nn.LSTM's arguments."""

    def ours(
        case: Case,
        params: dict[str, Tensor],
        x: Tensor,
        hx: State | None,
        batch_sizes: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        module = case.module(cls, device="meta", dtype=x.dtype)
        given = x if batch_sizes is None else PackedSequence(x, batch_sizes)
        y, (h_n, c_n) = torch.func.functional_call(module, params, (given, hx))
        return (y if batch_sizes is None else y.data), h_n, c_n

    return ours


def directions(case: Case, params: dict[str, Tensor], layer: int = 0) -> list[tuple]:
    """Parameters of one layer as `lstm_fused.layer.layer` takes them, one tuple per direction."""
    ends = [f"_l{layer}{way}" for way in ("", "_reverse")[: case.D]]
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    return [tuple(params.get(kind + end) for kind in kinds) for end in ends]


def by_layer(
    case: Case, params: dict[str, Tensor], x: Tensor, hx: State | None, batch_sizes: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The one-layer primitive, with whatever variant is in force."""
    from lstm_fused.layer import layer

    h0, c0 = (None, None) if hx is None else hx
    return layer(x, h0, c0, directions(case, params), batch_sizes)


def by_functional(
    case: Case, params: dict[str, Tensor], x: Tensor, hx: State | None, batch_sizes: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """lstm_fused.functional.lstm: the stack of layers."""
    from lstm_fused import functional

    y, (h_n, c_n) = functional.lstm(
        x,
        hx,
        tuple(params.values()),
        num_layers=case.L,
        bidirectional=case.bidirectional,
        batch_sizes=batch_sizes,
    )
    return y, h_n, c_n


def named(*names: str) -> list[Case]:
    """Cases by name, in the order asked for."""
    table = {case.name: case for case in CASES}
    return [table[name] for name in names]
