"""Our forward in subclasses of torch.nn's modules, for code that asks isinstance(m, nn.LSTM).

torch.compile breaks the graph at every instance of nn.LSTM, whatever its forward does: prefer
`lstm_fused.LSTM` wherever nobody asks.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lstm_fused.nn import cell, lstm


class LSTM(nn.LSTM):
    """lstm_fused.LSTM that is an nn.LSTM; the same but for torch.compile, see above."""

    def forward(self, input: Any, hx: Any = None) -> Any:
        return lstm.forward(self, input, hx)


class LSTMCell(nn.LSTMCell):
    """lstm_fused.LSTMCell that is an nn.LSTMCell; compiles as well as that does."""

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        return cell.forward(self, input, hx)
