"""torch.native: the layer by torch's own LSTM (cuDNN on a GPU, oneDNN or ATen on a CPU).

The yardstick, and the default on a GPU as long as no kernel of ours is proven there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lstm_fused.composite import Direction


def layer(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: Sequence[Direction],
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments and results as in lstm_fused.layer.layer; limits are those of torch.nn.LSTM."""
    return stack(x, h0, c0, [weights], 0.0, batch_sizes)


def stack(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    layers: Sequence[Sequence[Direction]],
    dropout: float,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """All layers in one call: cuDNN finds the weights of a flattened module in one piece only so.

    h0 [L*D, B, P], c0 [L*D, B, H], or None; dropout between layers, 0 outside training.
    """
    weight_ih, weight_hh, bias_ih, _, weight_hr = layers[0][0]
    output, hidden = weight_hh.shape[1], weight_hh.shape[0] // 4
    L, D = len(layers), len(layers[0])
    if h0 is None or c0 is None:
        batch = x.shape[1] if batch_sizes is None else int(batch_sizes[0])
        h0 = x.new_zeros(L * D, batch, output) if h0 is None else h0
        c0 = x.new_zeros(L * D, batch, hidden) if c0 is None else c0
    flat = [w for directions in layers for weights in directions for w in weights if w is not None]
    # cuDNN refuses a backward after a call with train=False, whatever module.training says; its
    # dropout is then on as well, but for the probability.
    options = (bias_ih is not None, L, dropout, torch.is_grad_enabled() or dropout > 0, D == 2)
    if batch_sizes is None:
        return torch._VF.lstm(x, (h0, c0), flat, *options, False)
    return torch._VF.lstm(x, batch_sizes, (h0, c0), flat, *options)
