"""One LSTM layer by the variant that fits."""

from lstm_fused.composite import layer

__all__ = ["layer"]
