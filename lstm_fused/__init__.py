"""A drop-in torch.nn.LSTM on fused kernels."""

from lstm_fused import compat, functional
from lstm_fused.convert import convert, restore
from lstm_fused.nn import LSTM, LSTMCell

__version__ = "0.1.0"
__all__ = ["LSTM", "LSTMCell", "compat", "convert", "functional", "restore"]
