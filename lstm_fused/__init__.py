"""A drop-in torch.nn.LSTM on our own kernels for CPU and CUDA.

rnn = lstm_fused.LSTM(input_size, hidden_size, num_layers)   # in place of torch.nn.LSTM
model = lstm_fused.convert(model)                            # every nn.LSTM in a model
"""

from typing import Any

from lstm_fused import compat, functional
from lstm_fused.convert import convert, restore
from lstm_fused.dispatch import Case, variant, variants
from lstm_fused.explained import explain
from lstm_fused.nn import LSTM, LSTMCell
from lstm_fused.stack import wavefront

__version__ = "0.1.0"
__all__ = [
    "LSTM",
    "Case",
    "LSTMCell",
    "build_info",
    "compat",
    "convert",
    "explain",
    "functional",
    "restore",
    "variant",
    "variants",
    "wavefront",
]


def build_info() -> dict[str, Any] | None:
    """What the compiled part was built with, or None where there is none."""
    from lstm_fused import _load

    module = _load.load()
    return None if module is None else module.build_info()
