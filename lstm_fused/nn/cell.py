"""LSTMCell: torch.nn.LSTMCell's interface over lstm_fused.functional.lstm_cell."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lstm_fused import functional
from lstm_fused.nn.lstm import parameters

_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class LSTMCell(nn.RNNCellBase):
    """A drop-in for torch.nn.LSTMCell: one step of one layer.

    input    [B, I], or [I] unbatched
    hx       (h_0, c_0), [B, H] or [H] each; default: zeros
    returns  h_1, c_1, shaped as hx
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, num_chunks=4, device=device, dtype=dtype)

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        return forward(self, input, hx)


def forward(
    module: nn.RNNCellBase, input: Tensor, hx: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """The forward of nn.LSTMCell for any module with its attributes; traced as torch's own."""
    if torch.jit.is_tracing():
        return nn.LSTMCell.forward(module, input, hx)  # type: ignore[arg-type]
    return functional.lstm_cell(input, hx, *parameters(module, _NAMES))
