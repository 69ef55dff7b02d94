"""The registered ops (csrc/ops/schema.cpp), their fake kernels and the codes they take.

    layer_forward(x, h0, c0, weights..., batch_sizes, cell, variant, save)
        -> y, h_n, c_n, gates, c
    layer_backward(dy, dh_n, dc_n, x, h0, c0, matrices..., y, gates, c, batch_sizes,
                   cell, variant, needs)
        -> dx, dh0, dc0, then dw_ih, dw_hh, dbias, dw_hr of each direction

`layer` is layer_forward with an autograd formula (autograd.py); `layer_backward_` writes over
the gates.
weights are weight_ih, weight_hh, bias_ih, bias_hh, weight_hr of the forward direction and of the
reverse one, None where they do not exist; matrices are the same without the biases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lstm_fused import _load

CELL_LSTM = 0
DTYPE_CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}

# Bits of `needs`.
NEEDS_X, NEEDS_H0, NEEDS_C0, NEEDS_W_IH, NEEDS_W_HH, NEEDS_BIAS, NEEDS_W_HR = (
    1 << bit for bit in range(7)
)

# Added to a variant's code: scans of float32 on CUDA may round the factors of products to TF32.
TF32 = 1 << 8
# Added 1 + the code of the variant that runs backward times, where that is another one.
BACKWARD = 1 << 9

_registered = False
_when_loaded: list[Callable[[], None]] = []


def when_loaded(action: Callable[[], None]) -> None:
    """Have the action run once, when the ops are there."""
    _when_loaded.append(action)


@torch.compiler.assume_constant_result
def available() -> bool:
    """Whether the compiled ops are there; finds or builds them at the first call."""
    global _registered
    if _load.load() is None:
        return False
    if not _registered:
        _registered = True
        for action in _when_loaded:
            action()
    return True


def state_dtype(x: Tensor) -> torch.dtype:
    """Cell states are kept in float32 at least."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _register_fakes() -> None:
    register = torch.library.register_fake
    register("lstm_fused::layer_forward", _fake_forward)
    register("lstm_fused::layer", _fake_forward)
    register("lstm_fused::layer_backward", _fake_backward)
    register("lstm_fused::layer_backward_", _fake_backward)


def _check_devices(*tensors: Tensor | None) -> None:
    """A meta tensor among real ones would bring a real call here, to be answered with garbage."""
    devices = {t.device for t in tensors if t is not None}
    if len(devices) > 1:
        raise RuntimeError(
            "every tensor must be on the device of x, got "
            + " and ".join(sorted(str(device) for device in devices))
        )


def _sizes(
    x: Tensor, h0: Tensor | None, c0: Tensor | None, weight_hh: Tensor, reverse: Tensor | None
) -> tuple[Any, int, int, int]:
    """B, H, P, D. The batch of packed rows is a value, not a shape: the states tell it if given."""
    batch: Any
    if x.dim() == 3:
        batch = x.shape[1]
    elif h0 is not None:
        batch = h0.shape[1]
    elif c0 is not None:
        batch = c0.shape[1]
    else:
        batch = torch.library.get_ctx().new_dynamic_size()
    return batch, weight_hh.shape[0] // 4, weight_hh.shape[1], 1 if reverse is None else 2


def _fake_forward(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    weight_hr: Tensor | None,
    weight_ih_reverse: Tensor | None,
    weight_hh_reverse: Tensor | None,
    bias_ih_reverse: Tensor | None,
    bias_hh_reverse: Tensor | None,
    weight_hr_reverse: Tensor | None,
    batch_sizes: Tensor | None,
    cell: int,
    variant: int,
    save: bool,
) -> tuple[Tensor, ...]:
    _check_devices(x, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh, weight_hr)
    _check_devices(
        x,
        weight_ih_reverse,
        weight_hh_reverse,
        bias_ih_reverse,
        bias_hh_reverse,
        weight_hr_reverse,
    )
    B, H, P, D = _sizes(x, h0, c0, weight_hh, weight_ih_reverse)
    rows = math.prod(x.shape[:-1])  # Size.numel would make a constant of a dynamic size
    kept = D if save else 0
    return (
        x.new_empty((*x.shape[:-1], D * P)),
        x.new_empty((D, B, P)),
        x.new_empty((D, B, H)),
        x.new_empty((kept, rows, 4, H)),
        x.new_empty((kept, rows, H), dtype=state_dtype(x)),
    )


def _fake_backward(
    dy: Tensor | None,
    dh_n: Tensor | None,
    dc_n: Tensor | None,
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    weight_hr: Tensor | None,
    weight_ih_reverse: Tensor | None,
    weight_hh_reverse: Tensor | None,
    weight_hr_reverse: Tensor | None,
    y: Tensor,
    gates: Tensor,
    c: Tensor,
    batch_sizes: Tensor | None,
    cell: int,
    variant: int,
    needs: int,
) -> tuple[Tensor, ...]:
    _check_devices(dy, dh_n, dc_n, x, h0, c0, weight_ih, weight_hh, weight_hr, y, gates, c)
    _check_devices(x, weight_ih_reverse, weight_hh_reverse, weight_hr_reverse)
    B, H, P, D = _sizes(x, h0, c0, weight_hh, weight_ih_reverse)

    def grad(bit: int, shape: Sequence[int]) -> Tensor:
        return x.new_empty(shape if needs & bit else (0,))

    grads = [grad(NEEDS_X, x.shape), grad(NEEDS_H0, (D, B, P)), grad(NEEDS_C0, (D, B, H))]
    for present in (True, D == 2):
        for bit, shape in (
            (NEEDS_W_IH, (4 * H, x.shape[-1])),
            (NEEDS_W_HH, (4 * H, P)),
            (NEEDS_BIAS, (4 * H,)),
            (NEEDS_W_HR if weight_hr is not None else 0, (P, H)),
        ):
            grads.append(grad(bit if present else 0, shape))
    return tuple(grads)


when_loaded(_register_fakes)
