"""One LSTM layer, all its directions, by the variant and the binding that the call needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from lstm_fused import _load, autograd, composite, dispatch, native, ops, transforms
from lstm_fused.composite import Direction

_NO_DIRECTION = (None, None, None, None, None)
# The op's weights after so many of one direction.
_ABSENT = {count: (None,) * (10 - count) for count in (2, 4, 5)}
_PLAIN = (Tensor, nn.Parameter)


def layer(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: Sequence[Direction],
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one layer over time.

    x            [T, B, I], or [N, I] with batch_sizes
    h0, c0       [D, B, P], [D, B, H], or None: zeros
    weights      D times (weight_ih [4H, I], weight_hh [4H, P], bias_ih [4H], bias_hh [4H],
                 weight_hr [P, H]), the last three or None
    batch_sizes  [T] int64 on the CPU, rows of each step as in a PackedSequence, or None
    returns      y [T, B, D*P] or [N, D*P], h_n [D, B, P], c_n [D, B, H], all in x.dtype

    Arguments are taken as valid; `lstm_fused.functional` checks them. Raises RuntimeError where a
    forced variant refuses.
    """
    code = _kernel(x, weights, batch_sizes)
    if code == dispatch.COMPOSITE:
        return composite.layer(x, h0, c0, weights, batch_sizes)
    if code == dispatch.NATIVE:
        return native.layer(x, h0, c0, weights, batch_sizes)
    assert isinstance(code, int)
    flat = (*weights[0], *(weights[1] if len(weights) == 2 else _NO_DIRECTION))
    if torch.compiler.is_compiling():
        return autograd.compiled(x, h0, c0, flat, batch_sizes, code)
    if torch._C._are_functorch_transforms_active():
        return transforms.layer(x, h0, c0, flat, batch_sizes, code)
    return autograd.eager(x, h0, c0, flat, batch_sizes, code)


def step(
    x: Tensor, h0: Tensor | None, c0: Tensor | None, weights: Direction
) -> tuple[Tensor, Tensor]:
    """Run one step of a layer without a projection.

    x [B, I], h0 and c0 [B, H] or None: zeros; returns h [B, H], c [B, H]. As `layer` otherwise.
    """
    if not torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active():
        code = _kernel(x, [weights])
        if isinstance(code, int):
            return autograd.eager_step(x, h0, c0, (*weights, *_NO_DIRECTION), code)
    h0 = None if h0 is None else h0.unsqueeze(0)
    c0 = None if c0 is None else c0.unsqueeze(0)
    _, h, c = layer(x.unsqueeze(0), h0, c0, [weights])
    return h.squeeze(0), c.squeeze(0)


# lstm_fused._C where torch has what its direct_* functions need.
_direct: Any = None


def _bind_direct() -> None:
    global _direct
    module = _load.load()
    assert module is not None
    if module.bind_direct(Tensor, nn.Parameter):
        _direct = module


ops.when_loaded(_bind_direct)


def direct(
    x: Any,
    hx: Any,
    weights: Sequence[Any],
    num_layers: int = 1,
    directions: int = 1,
    batch_first: bool = False,
) -> tuple[Tensor, tuple[Tensor, Tensor]] | None:
    """What a stack of layers gives where numbers are all that is wanted, or None: take another
    way, which checks the arguments and says what is wrong.

    Past torch's dispatcher, in half of the time of a small step: so only without gradients, in
    eager mode, for float32 and float64 that lie on a CPU as a kernel takes them. Arguments are
    those of `functional.lstm`, of whatever type; returns y, (h_n, c_n).
    """
    code = _direct_code()
    if code is None:
        return None
    return _direct.direct_stack(x, hx, weights, num_layers, directions, batch_first, code)


def direct_step(x: Any, hx: Any, weights: Sequence[Any]) -> tuple[Tensor, Tensor] | None:
    """The same of one step: x [B, I], hx a pair of [B, H] or None; returns h, c [B, H]."""
    code = _direct_code()
    return None if code is None else _direct.direct_step(x, hx, weights, code)


def _direct_code() -> int | None:
    """The code of the variant for a direct call, or None: there must be none."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or not _direct or _modes():
        return None
    if torch._C._autograd._profiler_enabled():  # it shows the op
        return None
    choice = dispatch.forced()
    if choice is None:
        return dispatch.AUTOMATIC
    name = choice.forward
    # Of two kernels each may refuse, and only one would be asked.
    if name != choice.backward or not name.startswith("cpu."):
        return None
    return dispatch.KERNELS.index(name)


def _modes() -> bool:
    """Whether a mode is in force by which torch sees, or changes, what its ops are given."""
    return (
        torch._C._is_any_autocast_enabled()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or forward_ad._current_level >= 0
    )


def unchecked(
    x: Tensor, hx: Any, weights: Sequence[Any], *, batch_first: bool = False
) -> tuple[Tensor, ...] | None:
    """What a layer of one direction gives for arguments not yet checked, or None: check them.

    The op looks at every dtype, device and shape in far less time than Python does, though it
    refuses in words that are not for users. Looked at here is what the op cannot: whether all that
    must be there is, fake tensors and other subclasses, and the modes that may be in force.

    x            [T, B, I], or [B, T, I] if batch_first, or [B, I] for one step; with anything but
                 eager mode on a CPU: None
    hx           a pair of states, or None
    weights      2, 4 or 5, as nn.LSTM orders them
    returns      as `layer`, y as x, or as `step`
    """
    if (
        torch.compiler.is_compiling()
        or type(x) not in _PLAIN
        or not x.is_cpu
        or x.dtype not in ops.DTYPE_CODES
        or _modes()
        or len(weights) not in _ABSENT
    ):
        return None
    for weight in weights:
        if type(weight) not in _PLAIN:
            return None
    h0 = c0 = None
    if hx is not None:
        if type(hx) not in (tuple, list) or len(hx) != 2:
            return None
        h0, c0 = hx
        if type(h0) not in _PLAIN or type(c0) not in _PLAIN:
            return None
    choice = dispatch.forced()
    variant = dispatch.AUTOMATIC
    if choice is not None:
        if choice.forward != choice.backward or not choice.forward.startswith("cpu."):
            return None
        variant = dispatch.KERNELS.index(choice.forward)
    if not ops.available():
        return None
    flat = (*weights, *_ABSENT[len(weights)])
    try:
        if x.dim() != 3:
            return autograd.eager_step(x, h0, c0, flat, variant)
        if not batch_first:
            return autograd.eager(x, h0, c0, flat, None, variant)
        y, h_n, c_n = autograd.eager(x.transpose(0, 1), h0, c0, flat, None, variant)
    except autograd.OpRefused:
        return None  # The checks find the words, or another way to do it.
    return y.transpose(0, 1), h_n, c_n


def _kernel(
    x: Tensor, weights: Sequence[Direction], batch_sizes: Tensor | None = None
) -> int | str:
    """The code of the kernels that run a layer, or dispatch.COMPOSITE, or dispatch.NATIVE."""
    choice = dispatch.forced()
    # Dual tensors outside of torch.func: a kernel would drop their tangents without a word.
    forward_mode = forward_ad._current_level >= 0
    transforms_active = torch._C._are_functorch_transforms_active()
    # Dynamo cannot take a Function of ours through torch.func, and would lose the tangents as well.
    if forward_mode or (transforms_active and torch.compiler.is_compiling()):
        return dispatch.COMPOSITE
    # Every dtype with a code is taken by some kernel of a CPU: the op chooses the fastest.
    if choice is None and x.device.type == "cpu" and x.dtype in ops.DTYPE_CODES and ops.available():
        return dispatch.AUTOMATIC
    found = chosen(x, weights, batch_sizes)
    if found.forward == dispatch.NATIVE and choice is None and transforms_active:
        return dispatch.COMPOSITE  # torch's own LSTM knows no transforms
    if found.forward in (dispatch.COMPOSITE, dispatch.NATIVE):
        return found.forward
    ops.available()
    return _code(found) + _precision(x)


def _code(choice: dispatch.Choice) -> int:
    """What the ops know two kernels by."""
    code = dispatch.KERNELS.index(choice.forward)
    if choice.backward != choice.forward:
        code += ops.BACKWARD * (1 + dispatch.KERNELS.index(choice.backward))
    return code


def _precision(x: Tensor) -> int:
    """ops.TF32 where torch allows its own LSTM as much: by default it does."""
    return ops.TF32 if x.dtype == torch.float32 and dispatch.tf32_allowed() else 0


def runs_natively(x: Tensor, weights: Sequence[Direction], batch_sizes: Tensor | None) -> bool:
    """Whether torch's own LSTM runs this layer, and so may run the whole stack in one call."""
    if dispatch.forced() is None and x.device.type != "cuda":
        return False
    if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        return False
    return chosen(x, weights, batch_sizes).forward == dispatch.NATIVE


def chosen(x: Tensor, weights: Sequence[Direction], batch_sizes: Tensor | None) -> dispatch.Choice:
    """The variants that run this layer. Raises Refused if a forced one refuses."""
    weight_ih, weight_hh, _, _, weight_hr = weights[0]
    fixed = (
        weight_hh.shape[0] // 4,
        0 if weight_hr is None else weight_hr.shape[0],
        len(weights) == 2,
    )
    # vmap folds its samples into the batch, after the choice.
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        more = weight_ih.shape[1], torch.is_grad_enabled(), batch_sizes is not None
        return _choose_for_any_length(*fixed, x.dtype, str(x.device), *more)
    if batch_sizes is not None:
        T, B = batch_sizes.shape[0], int(batch_sizes[0])
    else:
        T, B = (1, x.shape[0]) if x.dim() == 2 else (x.shape[0], x.shape[1])
    # Nearly always right, and only an estimate depends on it.
    wanted = x.requires_grad or weight_ih.requires_grad or weight_hh.requires_grad
    training = wanted and torch.is_grad_enabled()
    more = weight_ih.shape[1], training, batch_sizes is not None
    return dispatch.choose(dispatch.Case(*fixed, T, B, x.dtype, str(x.device), *more))


@torch.compiler.assume_constant_result
def _choose_for_any_length(
    hidden_size: int,
    proj_size: int,
    bidirectional: bool,
    dtype: torch.dtype,
    device: str,
    input_size: int,
    training: bool,
    packed: bool,
) -> dispatch.Choice:
    """The choice where T and B are not known: while tracing, and under transforms."""
    case = dispatch.Case(
        hidden_size,
        proj_size,
        bidirectional,
        dtype=dtype,
        device=device,
        input_size=input_size,
        training=training,
        packed=packed,
    )
    return dispatch.choose(case)
