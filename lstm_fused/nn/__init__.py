"""The modules: drop-ins for torch.nn.LSTM and torch.nn.LSTMCell."""

from lstm_fused.nn.cell import LSTMCell
from lstm_fused.nn.lstm import LSTM

__all__ = ["LSTM", "LSTMCell"]
