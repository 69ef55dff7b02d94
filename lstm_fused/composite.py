"""One LSTM layer in plain PyTorch ops: the fallback, and the text the kernels are read against.

Nothing here is clever. It runs on any device (meta too) and in any dtype, is differentiable to
any order in both modes of autograd, and works under every torch.func transform.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# weight_ih [4H, I], weight_hh [4H, P], bias_ih [4H], bias_hh [4H], weight_hr [P, H]
Direction = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]


def layer(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: Sequence[Direction],
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one layer, all its directions, over time; direction 1 runs from the last step back.

    x            [T, B, I], or [N, I] with batch_sizes
    h0, c0       [D, B, P], [D, B, H], or None: zeros
    weights      D times (weight_ih, weight_hh, bias_ih, bias_hh, weight_hr)
    batch_sizes  [T] int64 on the CPU, rows of each step as in a PackedSequence, or None
    returns      y [T, B, D*P] or [N, D*P], h_n [D, B, P], c_n [D, B, H], all in x.dtype

    Arithmetic is at least float32: half inputs are widened here and rounded once, at the end.
    Arguments are taken as valid; `lstm_fused.functional` checks them.
    """
    dtype = x.dtype
    wide = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    ys, hs, cs = [], [], []
    for d, direction in enumerate(weights):
        y, h, c = _scan(
            x.to(wide),
            None if h0 is None else h0[d].to(wide),
            None if c0 is None else c0[d].to(wide),
            [None if w is None else w.to(wide) for w in direction],
            batch_sizes,
            backwards=d == 1,
        )
        ys.append(y)
        hs.append(h)
        cs.append(c)
    y = ys[0] if len(ys) == 1 else torch.cat(ys, dim=-1)
    return y.to(dtype), torch.stack(hs).to(dtype), torch.stack(cs).to(dtype)


def _scan(
    x: Tensor,  # [T, B, I] or [N, I]
    h: Tensor | None,  # [B, P]
    c: Tensor | None,  # [B, H]
    weights: Sequence[Any],  # a Direction, widened
    batch_sizes: Tensor | None,
    *,
    backwards: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """One direction: y [T, B, P] or [N, P], and the last h [B, P] and c [B, H]."""
    weight_ih, weight_hh, bias_ih, bias_hh, weight_hr = weights
    xw = F.linear(x, weight_ih, bias_ih)
    # A copy by columns: over 4H = 4096 terms and few rows, MKL's float32 product for dh loses
    # 2.5 times less this way round.
    weight_hh = weight_hh.t().contiguous().t()
    # The rows of step t are those of the sequences longer than t: the first ones, as lengths
    # are in descending order.
    steps = list(xw.unbind(0) if batch_sizes is None else xw.split(batch_sizes.tolist()))
    batch = steps[0].shape[0]
    if h is None:
        h = xw.new_zeros(batch, weight_hh.shape[1])
    if c is None:
        c = xw.new_zeros(batch, weight_hh.shape[0] // 4)

    outputs: list[Tensor] = [xw] * len(steps)
    for t in reversed(range(len(steps))) if backwards else range(len(steps)):
        rows = steps[t].shape[0]
        if rows == batch:
            h, c = _cell(steps[t], h, c, weight_hh, bias_hh, weight_hr)
            outputs[t] = h
            continue
        # A sequence that has ended keeps its state; backwards, one not yet begun keeps h0, c0.
        h_t, c_t = _cell(steps[t], h[:rows], c[:rows], weight_hh, bias_hh, weight_hr)
        outputs[t] = h_t
        h, c = torch.cat((h_t, h[rows:])), torch.cat((c_t, c[rows:]))
    y = torch.stack(outputs) if batch_sizes is None else torch.cat(outputs)
    return y, h, c


def _cell(
    xw: Tensor,  # [B, 4H]  W_ih x_t + b_ih
    h: Tensor,  # [B, P]
    c: Tensor,  # [B, H]
    weight_hh: Tensor,
    bias_hh: Tensor | None,
    weight_hr: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The equations of torch.nn.LSTM for one time step."""
    i, f, g, o = (xw + F.linear(h, weight_hh, bias_hh)).chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return (h if weight_hr is None else F.linear(h, weight_hr)), c
