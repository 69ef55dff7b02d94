"""What users get wrong, in torch.nn.LSTM's words where those are good, in better ones elsewhere.

Every function returns in about a microsecond when all is well and raises a sentence otherwise.
None reads a value of a tensor on the input's device, so all of them trace under torch.compile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lstm_fused.composite import Direction

# float64 and complex are computed as they are, the halves with float32 sums.
DTYPES = (
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.complex64,
    torch.complex128,
)

_NO_DTYPE = "input and parameters must be floating point of 16 bits or more, or complex, got {}"

# Tensors for one layer and direction -> (has biases, has a projection).
_KINDS = {2: (False, False), 3: (False, True), 4: (True, False), 5: (True, True)}


def stack_arguments(num_layers: int, dropout: float) -> None:
    """The numbers that nn.LSTM checks in its constructor and functional.lstm at every call."""
    if not isinstance(num_layers, int):
        raise TypeError(f"num_layers should be of type int, got: {type(num_layers).__name__}")
    if num_layers <= 0:
        raise ValueError("num_layers must be greater than zero")
    if not isinstance(dropout, (int, float)) or isinstance(dropout, bool) or not 0 <= dropout <= 1:
        raise ValueError(
            "dropout should be a number in range [0, 1] "
            "representing the probability of an element being zeroed"
        )


def tensor(name: str, value: Any) -> None:
    """value is an ordinary (strided) Tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a Tensor, got {type(value).__name__}")
    if value.layout is not torch.strided:
        raise ValueError(
            f"{name} must be a strided tensor, got one of layout {value.layout}; "
            "sequences of different lengths go in as a PackedSequence"
        )


def pair(op: str, hx: Any) -> tuple[Tensor, Tensor]:
    """hx as (h_0, c_0)."""
    if not isinstance(hx, (tuple, list)):
        raise TypeError(f"hx must be a pair of tensors (h_0, c_0), got {type(hx).__name__}")
    if len(hx) != 2:
        raise RuntimeError(f"{op} expects two hidden states")
    h0, c0 = hx
    tensor("hx[0]", h0)
    tensor("hx[1]", c0)
    return h0, c0


def rank(op: str, input: Tensor, batched: int) -> bool:
    """Whether input is batched: [.., B, I] of rank `batched`, or one rank less."""
    dim = input.dim()
    if dim != batched and dim != batched - 1:
        raise ValueError(
            f"{op}: Expected input to be {batched - 1}D or {batched}D, got {dim}D instead"
        )
    return dim == batched


def states_rank(h0: Tensor, c0: Tensor, rank: int, batched: bool) -> None:
    """h0 and c0 have as many dimensions as the input."""
    if h0.dim() != rank or c0.dim() != rank:
        kind = "batched" if batched else "unbatched"
        raise RuntimeError(
            f"For {kind} {rank}-D input, hx and cx should also be {rank}-D "
            f"but got ({h0.dim()}-D, {c0.dim()}-D) tensors"
        )


def cell_states_rank(h0: Tensor, c0: Tensor, batched: bool) -> None:
    """h0 and c0 are [B, H] for a batched input, [H] for an unbatched one."""
    for index, state in enumerate((h0, c0)):
        if state.dim() not in (1, 2):
            raise ValueError(
                f"LSTMCell: Expected hx[{index}] to be 1D or 2D, got {state.dim()}D instead"
            )
    states_rank(h0, c0, 2 if batched else 1, batched)


def states_shape(
    h0: Tensor, c0: Tensor, h_shape: tuple[int, ...], c_shape: tuple[int, ...]
) -> None:
    """h0 is [L*D, B, P] and c0 is [L*D, B, H]."""
    if h0.shape != h_shape:
        raise RuntimeError(f"Expected hidden[0] size {h_shape}, got {list(h0.shape)}")
    if c0.shape != c_shape:
        raise RuntimeError(f"Expected hidden[1] size {c_shape}, got {list(c0.shape)}")


def states_like(input: Tensor, h0: Tensor, c0: Tensor) -> None:
    """h0 and c0 have the input's dtype and device."""
    for index, state in enumerate((h0, c0)):
        if state.dtype is not input.dtype:
            raise RuntimeError(
                f"hx[{index}] must have the dtype of input, {input.dtype}, got {state.dtype}"
            )
    states_device(input, h0, c0)


def states_device(input: Tensor, h0: Tensor, c0: Tensor) -> None:
    """h0 and c0 are on the input's device."""
    for state in (h0, c0):
        if state.device != input.device:
            raise RuntimeError(
                "Input and hidden tensors are not at the same device, found input tensor at "
                f"{input.device} and hidden tensor at {state.device}"
            )


def input_rows(input: Tensor, params: Sequence[Any], dims: int) -> None:
    """input [.., I] fits params[0], weight_ih_l0 [4H, I], in dtype, rank and width."""
    if not len(params) or not isinstance(params[0], Tensor) or params[0].dim() != 2:
        return  # For split to refuse.
    weight = params[0]
    dtype = input.dtype
    if dtype is not weight.dtype:
        raise ValueError(
            f"RNN input dtype ({dtype}) does not match weight dtype ({weight.dtype}). "
            f"Convert input: input.to({weight.dtype}), or convert model: model.to({dtype})"
        )
    if dtype not in DTYPES:
        raise ValueError(_NO_DTYPE.format(dtype))
    if input.dim() != dims:
        raise RuntimeError(f"input must have {dims} dimensions, got {input.dim()}")
    if input.shape[-1] != weight.shape[1]:
        raise RuntimeError(
            "input.size(-1) must be equal to input_size. "
            f"Expected {weight.shape[1]}, got {input.shape[-1]}"
        )


def split(
    input: Tensor, params: Sequence[Any], num_layers: int, directions: int
) -> tuple[list[list[Direction]], int, int]:
    """params, as nn.LSTM orders them, by layer and direction; and H, P.

    input is any tensor of the dtype and device that the parameters must have.
    """
    cells = num_layers * directions
    if not isinstance(params, Sequence):
        raise TypeError(f"params must be a sequence of tensors, got {type(params).__name__}")
    each, rest = divmod(len(params), cells)
    if rest or each not in _KINDS:
        raise ValueError(
            f"params must hold {cells} times (num_layers times directions) 2, 3, 4 or 5 tensors: "
            "weight_ih, weight_hh, then bias_ih and bias_hh or neither, then weight_hr or not; "
            f"got {len(params)}"
        )
    biased, projected = _KINDS[each]
    tensor("weight_ih_l0", params[0])
    tensor("weight_hh_l0", params[1])
    shape = params[1].shape
    if len(shape) != 2 or shape[0] == 0 or shape[0] % 4:
        raise RuntimeError(
            "weight_hh_l0 must be [4*hidden_size, hidden_size], or proj_size wide with a "
            f"weight_hr, got {list(shape)}"
        )
    hidden = shape[0] // 4
    out = shape[1] if projected else hidden
    if out == 0:
        raise RuntimeError(
            f"weight_hh_l0 must be [{4 * hidden}, proj_size] with proj_size greater than zero, "
            f"got {list(shape)}"
        )
    if params[0].dim() != 2:
        raise RuntimeError(
            f"weight_ih_l0 must be [{4 * hidden}, input_size], got {list(params[0].shape)}"
        )

    width = params[0].shape[1]
    layers: list[list[Direction]] = []
    for layer in range(num_layers):
        shapes: list[tuple[int, ...]] = [(4 * hidden, width), (4 * hidden, out)]
        if biased:
            shapes += [(4 * hidden,), (4 * hidden,)]
        if projected:
            shapes += [(out, hidden)]
        rows = []
        for d in range(directions):
            start = (layer * directions + d) * each
            own = params[start : start + each]
            direction(input, own, shapes, f"_l{layer}" + ("_reverse" if d else ""))
            bias_ih, bias_hh = (own[2], own[3]) if biased else (None, None)
            rows.append((own[0], own[1], bias_ih, bias_hh, own[each - 1] if projected else None))
        layers.append(rows)
        width = out * directions
    return layers, hidden, out


def direction(
    input: Tensor, params: Sequence[Any], shapes: Sequence[tuple[int, ...]], suffix: str = ""
) -> None:
    """One layer's parameters in one direction have these shapes, input's dtype and device.

    suffix completes the name in a message: weight_ih + "_l1_reverse".
    """
    dtype, device = input.dtype, input.device
    for index, shape in enumerate(shapes):
        param = params[index]
        if not (
            isinstance(param, Tensor)
            and param.shape == shape
            and param.dtype is dtype
            and param.device == device
        ):
            _refuse(input, param, shape, _name(index, len(shapes)) + suffix)


def _name(index: int, count: int) -> str:
    names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"]
    if count == 3:
        names[2:4] = []
    return names[index]


def _refuse(input: Tensor, param: Any, shape: tuple[int, ...], name: str) -> None:
    tensor(name, param)
    if param.shape != shape:
        raise RuntimeError(f"{name} must be {list(shape)}, got {list(param.shape)}")
    if param.dtype is not input.dtype:
        raise RuntimeError(f"{name} must have the dtype of input, {input.dtype}, got {param.dtype}")
    # Of the first one torch's words: there the input is as likely to be the one misplaced.
    which = "" if name in ("weight_ih_l0", "weight_ih") else f"{name} "
    raise RuntimeError(
        "Input and parameter tensors are not at the same device, found input tensor at "
        f"{input.device} and parameter tensor {which}at {param.device}"
    )


def cell(
    input: Tensor,  # [B, I]
    hx: tuple[Tensor, Tensor] | None,  # [B, H] each
    params: Sequence[Any],
) -> None:
    """A cell's input, states and parameters, (weight_ih, weight_hh, bias_ih, bias_hh)."""
    weight_ih, weight_hh, bias_ih, bias_hh = params
    tensor("weight_ih", weight_ih)
    tensor("weight_hh", weight_hh)
    if weight_ih.dim() != 2 or weight_hh.dim() != 2:
        raise RuntimeError(
            "weight_ih and weight_hh must be [4*hidden_size, input_size] and "
            "[4*hidden_size, hidden_size], "
            f"got {list(weight_ih.shape)} and {list(weight_hh.shape)}"
        )
    width, hidden = weight_ih.shape[1], weight_hh.shape[1]
    if input.dtype is not weight_ih.dtype:
        raise RuntimeError(
            f"RNN input dtype ({input.dtype}) does not match weight dtype ({weight_ih.dtype}). "
            f"Convert input: input.to({weight_ih.dtype}), "
            f"or convert model: model.to({input.dtype})"
        )
    if input.dtype not in DTYPES:
        raise ValueError(_NO_DTYPE.format(input.dtype))
    if input.shape[1] != width:
        raise RuntimeError(
            f"input has inconsistent input_size: got {input.shape[1]} expected {width}"
        )
    shapes: list[tuple[int, ...]] = [(4 * hidden, width), (4 * hidden, hidden)]
    if bias_ih is not None or bias_hh is not None:
        shapes += [(4 * hidden,), (4 * hidden,)]
    direction(input, params, shapes)
    if hx is None:
        return
    for index, state in enumerate(hx):
        if state.shape[0] != input.shape[0]:
            raise RuntimeError(
                f"Input batch size {input.shape[0]} doesn't match "
                f"hidden{index} batch size {state.shape[0]}"
            )
        if state.shape[1] != hidden:
            raise RuntimeError(
                f"hidden{index} has inconsistent hidden_size: "
                f"got {state.shape[1]}, expected {hidden}"
            )
    states_like(input, *hx)


def batch_sizes(value: Any, rows: int) -> int:
    """batch_sizes as a PackedSequence has them; returns B, the first of them."""
    if not isinstance(value, Tensor):
        raise TypeError(f"batch_sizes must be a Tensor, got {type(value).__name__}")
    if value.device.type != "cpu" or value.dtype is not torch.int64 or value.dim() != 1:
        raise RuntimeError(
            "batch_sizes must be a 1-D int64 tensor on the CPU, as in a PackedSequence, "
            f"got {value.dim()}-D {value.dtype} on {value.device}"
        )
    steps = value.tolist()
    if not steps:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    if steps[-1] <= 0 or sorted(steps, reverse=True) != steps:
        raise RuntimeError(
            "batch_sizes must be positive and in descending order, as in a PackedSequence, "
            f"got {_short(steps)}"
        )
    if sum(steps) != rows:
        raise RuntimeError(
            f"batch_sizes must sum to the number of rows of input, {rows}, got {sum(steps)}"
        )
    return int(steps[0])


def _short(values: list[int]) -> str:
    """At most eight values: a message stays readable for ten thousand steps."""
    return str(values) if len(values) <= 8 else str(values[:8])[:-1] + ", ...]"
