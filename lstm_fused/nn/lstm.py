"""LSTM: torch.nn.LSTM's interface over lstm_fused.functional.lstm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lstm_fused import check, functional


class LSTM(nn.RNNBase):
    """A drop-in for torch.nn.LSTM: the same arguments, shapes, parameters, errors and warnings.

    LSTM(input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0,
         bidirectional=False, proj_size=0, device=None, dtype=None)

    input    [T, B, I], [B, T, I] if batch_first, [T, I] unbatched, or a PackedSequence
    hx       (h_0 [L*D, B, P], c_0 [L*D, B, H]), without B if unbatched; default: zeros
    returns  output [T, B, D*P] (or as input is), (h_n, c_n) shaped as hx

    Unlike torch.nn.LSTM it compiles and exports, is differentiable twice, and
    checks packed input and the states' dtype. It is no subclass of nn.LSTM, at which Dynamo
    breaks the graph: `lstm_fused.compat.LSTM` is, for code that asks isinstance.
    """

    @overload
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None: ...

    @overload
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)  # Its checks, and their words, are torch's.

    # Public methods of nn.LSTM that subclasses call. Our forward does not: it checks for itself.
    get_expected_cell_size = nn.LSTM.get_expected_cell_size
    check_forward_args = nn.LSTM.check_forward_args  # type: ignore[assignment]
    permute_hidden = nn.LSTM.permute_hidden  # type: ignore[assignment]

    def forward(self, input: Any, hx: Any = None) -> Any:
        return forward(self, input, hx)


def forward(module: nn.RNNBase, input: Any, hx: Any) -> Any:
    """The forward of nn.LSTM for any module with its attributes.

    torch.jit.trace and what is built on it, ONNX export for one, see torch's own forward: it can be
    saved and loaded anywhere, and TorchScript would lose the gradients of our ops without a word.
    """
    if torch.jit.is_tracing():
        module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]
        return nn.LSTM.forward(module, input, hx)  # type: ignore[call-overload]
    packed = isinstance(input, PackedSequence)
    if packed:
        data, batch_sizes, sorted_indices, unsorted_indices = input
        if hx is not None and sorted_indices is not None:
            hx = _sort_states(module, input, hx, sorted_indices)
    else:
        data, batch_sizes = input, None
    output, hidden = functional.lstm(
        data,
        hx,
        parameters(module, module._flat_weights_names),
        num_layers=module.num_layers,
        bidirectional=module.bidirectional,
        batch_first=module.batch_first,
        dropout=module.dropout if module.training else 0.0,
        training=module.training,
        batch_sizes=batch_sizes,
    )
    if not packed:
        return output, hidden
    if unsorted_indices is not None:
        h_n, c_n = hidden
        hidden = h_n.index_select(1, unsorted_indices), c_n.index_select(1, unsorted_indices)
    return PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices), hidden


def parameters(module: nn.Module, names: Iterable[str]) -> list[Tensor]:
    """Parameters by name, read anew at each call: weight_norm, prune and parametrizations replace
    them, and then they are attributes. As what they mostly are, four take 0.3 us instead of 3."""
    own = module._parameters
    return [own[name] if name in own else getattr(module, name) for name in names]  # type: ignore[misc]


def _sort_states(
    module: nn.RNNBase, input: PackedSequence, hx: Any, indices: Tensor
) -> tuple[Tensor, Tensor]:
    """hx in the order of the packed rows; checked before, as an index select would not fail."""
    h0, c0 = check.pair("lstm", hx)
    batch = check.batch_sizes(input.batch_sizes, input.data.shape[0])
    cells = module.num_layers * (2 if module.bidirectional else 1)
    out = module.proj_size or module.hidden_size
    check.states_shape(h0, c0, (cells, batch, out), (cells, batch, module.hidden_size))
    check.states_device(input.data, h0, c0)
    return h0.index_select(1, indices), c0.index_select(1, indices)
