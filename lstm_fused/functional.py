"""The stateless form of the modules: arguments checked, rows of time made of them, autocast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lstm_fused import check, stack
from lstm_fused.layer import direct, direct_step, step, unchecked

_LOWERED = (torch.float32, torch.float16, torch.bfloat16)


def lstm(
    input: Tensor,
    hx: tuple[Tensor, Tensor] | None = None,
    params: Sequence[Tensor] = (),
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run a stack of LSTM layers over time, as torch.nn.LSTM does.

    input        [T, B, I], [B, T, I] if batch_first, [T, I] unbatched;
                 or a PackedSequence's data [N, I] with its batch_sizes
    hx           (h_0 [L*D, B, P], c_0 [L*D, B, H]), without B if unbatched; None: zeros.
                 With batch_sizes, in the order of the packed rows
    params       for each layer, each direction: weight_ih [4H, I], weight_hh [4H, P], then
                 bias_ih, bias_hh [4H] or neither, then weight_hr [P, H] or not
    dropout      probability of zeroing an output of a layer but the last, if training
    batch_sizes  [T] int64 on the CPU
    returns      output, shaped as input with D*P for I, and (h_n, c_n), shaped as hx

    Under torch.autocast everything but float64 and complex runs in, and comes back in, the
    autocast dtype. Raises TypeError, ValueError or RuntimeError, as nn.LSTM, with a sentence.
    """
    _refuse_tracing()
    if batch_sizes is None and dropout == 0.0:
        found = direct(input, hx, params, num_layers, 2 if bidirectional else 1, batch_first)
        if found is not None:
            return found
    check.tensor("input", input)
    check.stack_arguments(num_layers, dropout)
    if not isinstance(params, (list, tuple)):  # A ParameterList's slice is a module.
        params = list(params)
    if num_layers == 1 and not bidirectional and batch_sizes is None and input.dim() == 3:
        outputs = unchecked(input, hx, params, batch_first=batch_first)
        if outputs is not None:
            return outputs[0], (outputs[1], outputs[2])
    lowered = autocast_dtype(input)
    if lowered is not None:
        input, params = lower(input, lowered), [lower(p, lowered) for p in params]

    # Bring the input to rows of time, [T, B, I] or [N, I], and the states to [L*D, B, .].
    packed = batch_sizes is not None
    batched = packed or check.rank("LSTM", input, 3)
    if not batched:
        input = input.unsqueeze(1)
    if hx is not None:
        h0, c0 = check.pair("lstm", hx)
        if not packed:
            check.states_rank(h0, c0, 3 if batched else 2, batched)
        if not batched:
            h0, c0 = h0.unsqueeze(1), c0.unsqueeze(1)
        hx = (h0, c0) if lowered is None else (lower(h0, lowered), lower(c0, lowered))
    check.input_rows(input, params, 2 if packed else 3)
    directions = 2 if bidirectional else 1
    layers, hidden, out = check.split(input, params, num_layers, directions)
    batch_first = batch_first and batched and not packed
    x = input.transpose(0, 1) if batch_first else input

    if batch_sizes is None:
        if x.shape[0] == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        batch = x.shape[1]
    elif not torch.compiler.is_compiling():
        batch = check.batch_sizes(batch_sizes, x.shape[0])
        batch_sizes = batch_sizes.contiguous()
    else:  # Their values are unknown while tracing; the states' B is taken as right.
        batch = 0 if hx is None else hx[0].shape[1]
    if hx is not None:
        h0, c0 = hx
        cells = num_layers * directions
        check.states_shape(h0, c0, (cells, batch, out), (cells, batch, hidden))
        check.states_like(x, h0, c0)
        if h0 is c0:  # Dynamo refuses one tensor passed twice to an autograd.Function.
            hx = h0, c0.clone()

    dropout = dropout if training else 0.0
    if lowered is None:
        y, h_n, c_n = stack.run(x, hx, layers, dropout, batch_sizes)
    else:
        with torch.autocast(x.device.type, enabled=False):
            y, h_n, c_n = stack.run(x, hx, layers, dropout, batch_sizes)
    if not batched:
        return y.squeeze(1), (h_n.squeeze(1), c_n.squeeze(1))
    # Batch first is a view, not contiguous: nn.LSTM returns the same strides.
    return (y.transpose(0, 1) if batch_first else y), (h_n, c_n)


def lstm_cell(
    input: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run one step of one layer, as torch.nn.LSTMCell does.

    input    [B, I], or [I] unbatched
    hx       (h_0, c_0), [B, H] or [H] each; None: zeros
    weights  weight_ih [4H, I], weight_hh [4H, H], bias_ih and bias_hh [4H] or neither
    returns  h_1, c_1, shaped as hx

    Autocast and errors are as in `lstm`.
    """
    _refuse_tracing()
    given: tuple[Any, ...] = (weight_ih, weight_hh, bias_ih, bias_hh)
    if bias_ih is bias_hh is None:
        given = given[:2]
    found = direct_step(input, hx, given)
    if found is not None:
        return found
    check.tensor("input", input)
    if input.dim() == 2:
        outputs = unchecked(input, hx, given)
        if outputs is not None:
            return outputs[0], outputs[1]
    batched = check.rank("LSTMCell", input, 2)
    if hx is not None:
        h0, c0 = check.pair("lstm_cell", hx)
        check.cell_states_rank(h0, c0, batched)
        if not batched:
            h0, c0 = h0.unsqueeze(0), c0.unsqueeze(0)
        hx = h0, c0
    if not batched:
        input = input.unsqueeze(0)
    params = (weight_ih, weight_hh, bias_ih, bias_hh)
    dtype = autocast_dtype(input)
    if dtype is None:
        h, c = _cell(input, hx, params)
    else:
        if hx is not None:
            hx = lower(hx[0], dtype), lower(hx[1], dtype)
        with torch.autocast(input.device.type, enabled=False):
            h, c = _cell(lower(input, dtype), hx, tuple(lower(p, dtype) for p in params))
    return (h, c) if batched else (h.squeeze(0), c.squeeze(0))


def _cell(
    input: Tensor,  # [B, I]
    hx: tuple[Tensor, Tensor] | None,  # [B, H] each
    params: Sequence[Any],
) -> tuple[Tensor, Tensor]:
    check.cell(input, hx, params)
    h0, c0 = (None, None) if hx is None else hx
    return step(input, h0, c0, (*params, None))


def _refuse_tracing() -> None:
    if torch.jit.is_tracing():
        raise RuntimeError(
            "torch.jit cannot trace lstm_fused.functional: TorchScript would lose its gradients. "
            "Trace a lstm_fused.LSTM or LSTMCell, which show it torch's own forward"
        )


def autocast_dtype(input: Tensor) -> torch.dtype | None:
    """The dtype that torch.autocast asks for on input's device; None outside autocast."""
    device = input.device.type
    # torch.is_autocast_enabled raises for meta tensors.
    if device == "meta" or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def lower(value: Any, dtype: torch.dtype) -> Any:
    """value in the autocast dtype, by autocast's own rule: float64, complex and ints stay."""
    if isinstance(value, Tensor) and value.dtype in _LOWERED:
        return value.to(dtype)
    return value
