"""How autograd sees a layer that a kernel runs: three bindings over the same two ops.

    eager        an autograd.Function in the old style: the least overhead
    transforms.layer  a Function with setup_context, vmap and jvp, for torch.func
    compiled     the registered op `layer`, for torch.compile and torch.export

Derivatives of the backward itself (double backward, forward over reverse) are taken through
composite.py, which is differentiable to any order.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lstm_fused import composite, ops

OptionalTensors = Sequence[Tensor | None]

# Places among the op's arguments: x, h0, c0, then ten weights.
INPUTS = 13
_BITS = (
    (ops.NEEDS_X, (0,)),
    (ops.NEEDS_H0, (1,)),
    (ops.NEEDS_C0, (2,)),
    (ops.NEEDS_W_IH, (3, 8)),
    (ops.NEEDS_W_HH, (4, 9)),
    (ops.NEEDS_BIAS, (5, 6, 10, 11)),
    (ops.NEEDS_W_HR, (7, 12)),
)
# The place of each input's gradient among those that layer_backward returns.
_GRADIENT = (0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 9, 10)
_BIASES = ((5, 6), (10, 11))
_MATRICES = (3, 4, 7, 8, 9, 12)  # inputs that layer_backward reads beside x, h0, c0


def _needs(wanted: Sequence[bool]) -> int:
    return sum(bit for bit, places in _BITS if any(wanted[p] for p in places))


def run_backward(
    op: Any,
    grads: OptionalTensors,  # dy, dh_n, dc_n
    inputs: OptionalTensors,  # x, h0, c0, ten weights
    saved: OptionalTensors,  # y, gates, c
    batch_sizes: Tensor | None,
    variant: int,
    wanted: Sequence[bool],  # of each input
) -> list[Tensor | None]:
    """The gradient of each input, None where it is not wanted."""
    found = op(
        *grads,
        *inputs[:3],
        *(inputs[p] for p in _MATRICES),
        *saved,
        batch_sizes,
        ops.CELL_LSTM,
        variant,
        _needs(wanted),
    )
    result = [found[place] if wanted[p] else None for p, place in enumerate(_GRADIENT)]
    for bias_ih, bias_hh in _BIASES:
        # Two tensors: a hook or an optimizer that scales one must not scale the other.
        if wanted[bias_ih] and wanted[bias_hh]:
            result[bias_hh] = found[_GRADIENT[bias_hh]].clone()
    return result


def plain_backward(
    grads: OptionalTensors,
    inputs: OptionalTensors,
    batch_sizes: Tensor | None,
    wanted: Sequence[bool],
) -> tuple[Any, list[Tensor]]:
    """The backward as a function of plain PyTorch, to be differentiated itself.

    Returns pull(*tensors) -> the wanted gradients, and its tensors: the given grads and inputs.
    """
    given = [k for k, g in enumerate(grads) if g is not None]
    present = [p for p, t in enumerate(inputs) if t is not None]
    sought = [p for p in present if wanted[p]]
    tensors = [t for t in (*grads, *inputs) if t is not None]

    def pull(*values: Tensor) -> tuple[Tensor, ...]:
        at = dict(zip(present, values[len(given) :], strict=True))

        def outputs(*differentiated: Tensor) -> tuple[Tensor, ...]:
            now = {**at, **dict(zip(sought, differentiated, strict=True))}
            found = plain_forward([now.get(p) for p in range(INPUTS)], batch_sizes)
            return tuple(found[k] for k in given)

        back = torch.func.vjp(outputs, *(at[p] for p in sought))[1]
        return tuple(back(tuple(values[: len(given)])))

    return pull, tensors


def plain_forward(
    inputs: OptionalTensors, batch_sizes: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    x, h0, c0, *weights = inputs
    assert x is not None
    directions: list[Any] = [weights[:5], weights[5:]]
    if weights[5] is None:
        del directions[1]
    return composite.layer(x, h0, c0, directions, batch_sizes)


# --- eager ---------------------------------------------------------------------------------------


class OpRefused(RuntimeError):
    """What the forward op says of its arguments."""


@functools.cache
def _op() -> Any:
    """The op itself: the search of its name and overloads takes 0.5 us of each call."""
    return torch.ops.lstm_fused.layer_forward.default


def _forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    try:
        return _op()(*arguments)
    except RuntimeError as error:
        if type(error) is not RuntimeError:  # out of memory, say
            raise
        raise OpRefused(*error.args) from None


def eager(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: OptionalTensors,
    batch_sizes: Tensor | None,
    variant: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, h_n, c_n; without a gradient to record, the op alone."""
    inputs = (x, h0, c0, *weights)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        return _Eager.apply(batch_sizes, variant, *inputs)
    return _forward(*inputs, batch_sizes, ops.CELL_LSTM, variant, False)[:3]


def eager_step(
    x: Tensor,  # [B, I]
    h0: Tensor | None,  # [B, H]
    c0: Tensor | None,
    weights: OptionalTensors,
    variant: int,
) -> tuple[Tensor, Tensor]:
    """h [B, H] and c [B, H] of one step. The time axis is no node of the graph: it cost 15 us."""
    inputs = (x, h0, c0, *weights)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        return _EagerStep.apply(variant, *inputs)
    _, h_n, c_n, _, _ = _forward(*_lift(inputs), None, ops.CELL_LSTM, variant, False)
    return h_n.squeeze_(0), c_n.squeeze_(0)


def _lift(inputs: OptionalTensors) -> tuple[Tensor | None, ...]:
    """The inputs of one step as those of a layer: with a time axis, and with one of directions."""
    x, h0, c0, *weights = inputs
    # t[None] is the same view in three quarters of unsqueeze's time.
    return (
        None if x is None else x[None],
        None if h0 is None else h0[None],
        None if c0 is None else c0[None],
        *weights,
    )


class _Eager(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, batch_sizes: Tensor | None, variant: int, *inputs: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, h_n, c_n, gates, c = _forward(*inputs, batch_sizes, ops.CELL_LSTM, variant, True)
        ctx.batch_sizes, ctx.variant = batch_sizes, variant
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, y, gates, c)
        return y, h_n, c_n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors  # once: each reading unpacks anew under saved_tensors_hooks
        inputs, saved = tensors[:INPUTS], tensors[INPUTS:]
        wanted = ctx.needs_input_grad[2:]
        found = _eager_backward(grads, inputs, saved, ctx.batch_sizes, ctx.variant, wanted)
        return None, None, *found


class _EagerStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, variant: int, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        _, h_n, c_n, gates, c = _forward(*_lift(inputs), None, ops.CELL_LSTM, variant, True)
        ctx.variant = variant
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, gates, c)
        # In place: a view of what a Function made could not be changed in place by its user.
        return h_n.squeeze_(0), c_n.squeeze_(0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        inputs, (gates, c) = _lift(tensors[:INPUTS]), tensors[INPUTS:]
        # Of y, the states before later steps, nothing is read. Another dtype would be converted.
        unread = c if c.dtype == gates.dtype else torch.empty_like(c, dtype=gates.dtype)
        saved = unread, gates, c
        lifted = [None, *(None if g is None else g.unsqueeze(0) for g in grads)]
        wanted = ctx.needs_input_grad[1:]
        found = _eager_backward(lifted, inputs, saved, None, ctx.variant, wanted)
        return None, *(None if g is None else g.squeeze(0) for g in found[:3]), *found[3:]


def _eager_backward(
    grads: OptionalTensors,  # dy, dh_n, dc_n
    inputs: OptionalTensors,
    saved: OptionalTensors,
    batch_sizes: Tensor | None,
    variant: int,
    wanted: Sequence[bool],
) -> Sequence[Tensor | None]:
    if all(g is None for g in grads):
        return (None,) * INPUTS
    if torch.is_grad_enabled():
        found: Sequence[Tensor | None] = _EagerBackward.apply(
            batch_sizes, variant, wanted, saved, *grads, *inputs
        )
        return found
    # The gates are ours alone unless the graph stays for another backward.
    # vmap over the gradients (is_grads_batched) has no rule for an op that writes into them.
    keep = torch._C._autograd._get_current_graph_task_keep_graph() or any(
        g is not None and _is_batched(g) for g in grads
    )
    op = torch.ops.lstm_fused.layer_backward if keep else torch.ops.lstm_fused.layer_backward_
    return run_backward(op, grads, inputs, saved, batch_sizes, variant, wanted)


def _is_batched(tensor: Tensor) -> bool:
    functorch = torch._C._functorch
    return functorch.is_batchedtensor(tensor) or functorch.is_legacy_batchedtensor(tensor)


class _EagerBackward(torch.autograd.Function):
    """The backward with a graph of its own (create_graph=True)."""

    @staticmethod
    def forward(
        ctx: Any,
        batch_sizes: Tensor | None,
        variant: int,
        wanted: Sequence[bool],
        saved: Sequence[Tensor],
        *tensors: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        ctx.batch_sizes, ctx.wanted = batch_sizes, wanted
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return tuple(
            run_backward(
                torch.ops.lstm_fused.layer_backward,
                tensors[:3],
                tensors[3:],
                saved,
                batch_sizes,
                variant,
                wanted,
            )
        )

    @staticmethod
    def backward(ctx: Any, *seconds: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        found = second_order(tensors, ctx.batch_sizes, ctx.wanted, seconds)
        return None, None, None, None, *found


def second_order(
    tensors: OptionalTensors,  # dy, dh_n, dc_n, then the inputs
    batch_sizes: Tensor | None,
    wanted: Sequence[bool],
    seconds: OptionalTensors,  # gradients of what the backward returned
) -> list[Tensor | None]:
    """The gradients of the backward's own arguments."""
    pull, given = plain_backward(tensors[:3], tensors[3:], batch_sizes, wanted)
    firsts, back = torch.func.vjp(pull, *given)[:2]
    sought = [p for p in range(INPUTS) if tensors[3 + p] is not None and wanted[p]]
    cotangents = []
    for p, first in zip(sought, firsts, strict=True):
        second = seconds[p]
        cotangents.append(torch.zeros_like(first) if second is None else second)
    found = iter(back(tuple(cotangents)))
    return [None if t is None else next(found) for t in tensors]


# --- torch.compile, torch.export -----------------------------------------------------------------


def compiled(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: OptionalTensors,
    batch_sizes: Tensor | None,
    variant: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, h_n, c_n as one node of the graph."""
    inputs = (x, h0, c0, *weights)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        found = torch.ops.lstm_fused.layer(*inputs, batch_sizes, ops.CELL_LSTM, variant, True)
    else:
        found = torch.ops.lstm_fused.layer_forward(
            *inputs, batch_sizes, ops.CELL_LSTM, variant, False
        )
    return found[0], found[1], found[2]


def _setup_op(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.variant, _save = inputs[:INPUTS] + inputs[-2:]
    y, _, _, gates, c = output
    ctx.batch_sizes = inputs[INPUTS]
    ctx.save_for_backward(*tensors, y, gates, c)
    ctx.set_materialize_grads(False)


def _backward_op(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    tensors = ctx.saved_tensors
    found = run_backward(
        torch.ops.lstm_fused.layer_backward,
        grads[:3],
        tensors[:INPUTS],
        tensors[INPUTS:],
        ctx.batch_sizes,
        ctx.variant,
        ctx.needs_input_grad[:INPUTS],
    )
    return *found, None, None, None, None


def _register_formula() -> None:
    torch.library.register_autograd("lstm_fused::layer", _backward_op, setup_context=_setup_op)


ops.when_loaded(_register_formula)
