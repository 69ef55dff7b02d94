"""The layer under torch.func: vmap, grad, jacrev, jvp and their compositions.

vmap over inputs folds into the batch: one call of the kernel. vmap over weights (ensembles) and
over the backward (per-sample gradients) runs the kernel once per sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lstm_fused import autograd, ops
from lstm_fused.autograd import INPUTS

OptionalTensors = Sequence[Tensor | None]


def layer(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: OptionalTensors,
    batch_sizes: Tensor | None,
    variant: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, h_n, c_n; arguments as of lstm_fused.autograd.eager."""
    found = _Layer.apply(batch_sizes, variant, x, h0, c0, *weights)
    return found[0], found[1], found[2]


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        batch_sizes: Tensor | None, variant: int, *inputs: Tensor | None
    ) -> tuple[Tensor, ...]:
        return tuple(
            torch.ops.lstm_fused.layer_forward(*inputs, batch_sizes, ops.CELL_LSTM, variant, True)
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.batch_sizes, ctx.variant, *tensors = inputs
        y, _, _, gates, c = output
        ctx.mark_non_differentiable(gates, c)
        ctx.save_for_backward(*tensors, y, gates, c)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dh_n: Tensor, dc_n: Tensor, *_: Any) -> tuple[Any, ...]:
        wanted = ctx.needs_input_grad[2:]
        found = _LayerBackward.apply(
            ctx.batch_sizes, ctx.variant, wanted, dy, dh_n, dc_n, *ctx.saved_tensors
        )
        return None, None, *_spread(found, wanted)

    @staticmethod
    def jvp(ctx: Any, _batch_sizes: Any, _variant: Any, *tangents: Tensor | None) -> Any:
        tensors = ctx.saved_tensors[:INPUTS]
        present = [p for p in range(INPUTS) if tensors[p] is not None]

        def outputs(*values: Tensor) -> tuple[Tensor, ...]:
            at = dict(zip(present, values, strict=True))
            return autograd.plain_forward([at.get(p) for p in range(INPUTS)], ctx.batch_sizes)

        moved = _jvp(outputs, [tensors[p] for p in present], [tangents[p] for p in present])
        return *moved, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        batch_sizes, variant, *inputs = args
        dims = in_dims[2:]
        if batch_sizes is None and all(d is None for d in dims[3:]):
            return _fold(info.batch_size, dims[:3], variant, inputs)
        return _per_sample(_Layer, info.batch_size, in_dims, args)


class _LayerBackward(torch.autograd.Function):
    """Returns the wanted gradients only; _spread puts them in the inputs' places."""

    @staticmethod
    def forward(
        batch_sizes: Tensor | None, variant: int, wanted: Sequence[bool], *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        grads, inputs, saved = tensors[:3], tensors[3 : 3 + INPUTS], tensors[3 + INPUTS :]
        found = autograd.run_backward(
            torch.ops.lstm_fused.layer_backward,
            grads,
            inputs,
            # A sample of a stack may be a strided view; the kernels read gates and c as they lie.
            [t.contiguous() for t in saved if t is not None],
            batch_sizes,
            variant,
            wanted,
        )
        return tuple(g for g in found if g is not None)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.batch_sizes, _, ctx.wanted, *tensors = inputs
        ctx.save_for_backward(*tensors[: 3 + INPUTS])
        ctx.save_for_forward(*tensors[: 3 + INPUTS])

    @staticmethod
    def backward(ctx: Any, *seconds: Tensor) -> tuple[Any, ...]:
        found = autograd.second_order(
            ctx.saved_tensors, ctx.batch_sizes, ctx.wanted, _spread(seconds, ctx.wanted)
        )
        return None, None, None, *found, None, None, None

    @staticmethod
    def jvp(ctx: Any, _b: Any, _v: Any, _w: Any, *tangents: Tensor | None) -> Any:
        tensors = ctx.saved_tensors
        pull, given = autograd.plain_backward(tensors[:3], tensors[3:], ctx.batch_sizes, ctx.wanted)
        moved = [t for t, s in zip(tangents[: 3 + INPUTS], tensors, strict=True) if s is not None]
        return _jvp(pull, given, moved)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        # vmap's in_dims mirror the structure of args: `wanted` is a tuple of bools.
        return _per_sample(_LayerBackward, info.batch_size, in_dims, args)


def _spread(found: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor | None]:
    left = iter(found)
    return [next(left) if w else None for w in wanted]


def _jvp(function: Any, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Tensor, ...]:
    """The tangents of the function's outputs; a missing tangent is zero."""
    full = [torch.zeros_like(p) if t is None else t for p, t in zip(primals, tangents, strict=True)]
    return tuple(torch.func.jvp(function, tuple(primals), tuple(full))[1])


def _per_sample(
    function: Any, samples: int, in_dims: tuple[Any, ...], args: tuple[Any, ...]
) -> tuple[Any, Any]:
    """Apply the function to each sample and stack the results."""

    def at(k: int, value: Any, dim: Any) -> Any:
        batched = isinstance(value, Tensor) and dim is not None
        return value.select(dim, k) if batched else value

    found = [
        function.apply(*(at(k, a, d) for a, d in zip(args, in_dims, strict=True)))
        for k in range(samples)
    ]
    return tuple(torch.stack(outputs) for outputs in zip(*found, strict=True)), 0


def _fold(
    samples: int, dims: Sequence[Any], variant: int, inputs: Sequence[Any]
) -> tuple[Any, Any]:
    """The samples as rows of one larger batch. x [T, B, I] and the states [D, B, .] alike."""

    def folded(value: Tensor | None, dim: Any) -> Tensor | None:
        if value is None:
            return None
        if dim is None:
            value, dim = value.expand(samples, *value.shape), 0
        return value.movedim(dim, 1).flatten(1, 2)

    states = [folded(value, dim) for value, dim in zip(inputs[:3], dims, strict=True)]
    y, h_n, c_n, gates, c = _Layer.apply(None, variant, *states, *inputs[3:])
    y, h_n, c_n = (t.unflatten(1, (samples, -1)) for t in (y, h_n, c_n))
    steps, batch = y.shape[0], y.shape[2]
    # [D, T*S*B, ...] with the samples apart: [D, S, T*B, ...].
    gates, c = (
        t.unflatten(1, (steps, samples, batch)).transpose(1, 2).flatten(2, 3) for t in (gates, c)
    )
    return (y, h_n, c_n, gates, c), 1
