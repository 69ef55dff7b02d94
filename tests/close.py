"""The one tolerance rule of the repository.

    err(ours, ref) <= 2 * err(yard, ref) + floor

`ref` is the float64 result, `yard` is `torch.nn.LSTM` in the dtype under test and `ours` is what
is judged: we may lose at most twice what PyTorch itself loses. `err` is the largest absolute
difference, taken over the whole tensor and over each row, so that one bad row cannot hide behind
another row on which the yardstick was worse.

A row is a slice along the last dimension: one step of one batch element of y [T, B, P], one gate
of one unit of a weight gradient [4H, I]. Where that holds fewer than 16 numbers, a row takes in
the dimensions before it until it holds 16: on one or two numbers a yardstick is exact by luck,
and torch.nn.LSTM would fail beside itself with oneDNN turned off.

The floor is 8 eps(dtype) of the largest |ref| of the tensor: roundings that nobody can avoid. In
float64 the reference is its own yardstick, so the floor there is 64 eps. Below the smallest
normal number the spacing of a dtype shrinks no more, so the floor stops shrinking there as well.
Where products are rounded more coarsely than the dtype, as TF32 does to float32, 8 eps of that are
the floor: torch.nn.LSTM may take plain float32 at some sizes though TF32 is allowed, and a
yardstick without such roundings says nothing about those that we may make.

NaN and infinities are compared by position and sign, never by size: each of ours must be what the
reference rounded to the dtype is, or what the yardstick is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_FLOOR_EPS = {torch.float64: 64.0}
_FLOOR_EPS_DEFAULT = 8.0
_ROW_AT_LEAST = 16

TF32_EPS = torch.finfo(torch.float16).eps  # 10 bits behind the point as well: 2^-10


class Verdict(NamedTuple):
    """How far `ours` is from its limit; a ratio of at most 1 passes."""

    ratio: float
    where: str  # "row 3", or the kind of mismatch
    worst: tuple[int, ...]  # the index of the worst element
    got: float  # error of ours that was judged
    allowed: float  # 2 * error of the yardstick + floor


def error_ratio(ours: Tensor, yard: Tensor, ref: Tensor, eps: float | None = None) -> float:
    """Error of ours over the allowed error: at most 1 is a pass, inf is a wrong NaN or Inf.

    All three tensors have one shape; ours and yard one dtype; ref is float64.
    eps  of the precision that products are rounded to; None: the dtype's
    """
    return _judge(ours, yard, ref, eps).ratio


def assert_no_worse(
    name: str, ours: Tensor, yard: Tensor, ref: Tensor, eps: float | None = None
) -> None:
    """Fail unless `ours` obeys the rule; the message names the tensor and its worst element."""
    wrong = _form(ours, yard, ref)
    assert wrong is None, f"{name}: {wrong}"
    verdict = _judge(ours, yard, ref, eps)
    if verdict.ratio <= 1.0:
        return
    at = verdict.worst
    raise AssertionError(
        f"{name} {list(ours.shape)} {ours.dtype}: {verdict.where} is wrong; at {list(at)} "
        f"ours {ours[at].item()!r}, yardstick {yard[at].item()!r}, reference {ref[at].item()!r}; "
        f"error {verdict.got:.3g} where {verdict.allowed:.3g} is allowed ({verdict.ratio:.3g}x)"
    )


def _form(ours: Tensor, yard: Tensor, ref: Tensor) -> str | None:
    """Say what is wrong with dtypes or shapes, if anything."""
    if ref.dtype != torch.float64:
        return f"the reference must be torch.float64, got {ref.dtype}"
    if ours.dtype != yard.dtype:
        return f"dtype must be the yardstick's {yard.dtype}, got {ours.dtype}"
    if not ours.shape == yard.shape == ref.shape:
        return (
            f"shape must be {list(ref.shape)} (reference) = {list(yard.shape)} (yardstick), "
            f"got {list(ours.shape)}"
        )
    return None


def _judge(ours: Tensor, yard: Tensor, ref: Tensor, eps: float | None) -> Verdict:
    wrong = _form(ours, yard, ref)
    if wrong is not None:
        raise ValueError(wrong)
    dtype = ours.dtype
    ours, yard, ref = (t.detach().cpu() for t in (ours, yard, ref))
    if ref.numel() == 0:
        return Verdict(0.0, "nothing", (), 0.0, 0.0)
    misplaced = _misplaced(ours, yard, ref.to(dtype))
    if misplaced.any():
        at = tuple(misplaced.nonzero()[0].tolist())
        where = f"NaN or infinity ({int(misplaced.sum())} of {ref.numel()} elements)"
        return Verdict(math.inf, where, at, math.inf, 0.0)

    finite = ref.to(dtype).isfinite()
    magnitude = torch.where(finite, ref, 0.0).abs().max().item()
    info = torch.finfo(dtype)
    roundings = _FLOOR_EPS.get(dtype, _FLOOR_EPS_DEFAULT)
    floor = roundings * (eps or info.eps) * max(magnitude, info.tiny)

    # Every row within its limit means that the whole tensor is within its own.
    width = _row_width(ref.shape)
    mine, theirs = (_errors(t, ref).reshape(-1, width) for t in (ours, yard))
    allowed = 2.0 * theirs.amax(1) + floor
    ratios = mine.amax(1) / allowed
    row = int(ratios.argmax())
    flat = torch.tensor(row * width + int(mine[row].argmax()))
    index = tuple(int(i) for i in torch.unravel_index(flat, ref.shape))
    got, limit = mine[row].max().item(), allowed[row].item()
    return Verdict(ratios[row].item(), f"row {row}", index, got, limit)


def _row_width(shape: torch.Size) -> int:
    """Numbers in a row of a tensor."""
    width = 1
    for size in reversed(shape):
        width *= size
        if width >= _ROW_AT_LEAST:
            break
    return width


def _errors(value: Tensor, ref: Tensor) -> Tensor:
    """|value - ref| in float64, and 0 where either is NaN or infinite."""
    both = value.isfinite() & ref.isfinite()
    return torch.where(both, value.double() - ref, 0.0).abs()


def _misplaced(ours: Tensor, yard: Tensor, ref: Tensor) -> Tensor:
    """Where ours is NaN, +inf, -inf or finite and neither the reference nor the yardstick is."""

    def kind(t: Tensor) -> Tensor:
        return t.isnan() * 1 + t.isposinf() * 2 + t.isneginf() * 3

    return (kind(ours) != kind(ref)) & (kind(ours) != kind(yard))
