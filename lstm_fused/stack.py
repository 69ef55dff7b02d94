"""A stack of layers: one after the other, or as a wavefront over time on CUDA streams.

A wavefront (Appleyard, Kocisky, Blunsom: Optimizing Performance of Recurrent Neural Networks on
GPUs, 2016) cuts time into chunks. Chunk k of a layer needs chunk k of the layer below and the
states that its own chunk k - 1 ended with; so all layers can be at work at once, each on a stream
of its own, and of L T steps one after the other T + (L - 1) chunks' are left. Autograd runs each
node of backward on the stream of its forward, and so backward is a wavefront as well.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from lstm_fused import native
from lstm_fused.composite import Direction
from lstm_fused.dispatch import Choice, variant
from lstm_fused.layer import chosen, layer, runs_natively

_steps: contextvars.ContextVar[int] = contextvars.ContextVar("lstm_fused.wavefront", default=0)


@contextlib.contextmanager
def wavefront(steps: int) -> Iterator[None]:
    """Within the block, in this thread: run stacks of layers on CUDA in chunks of `steps` steps,
    each layer on a stream of its own.

    Numbers are those of whole layers but for rounding: in 16 bits states and their gradients are
    rounded where a chunk ends, and so is each chunk's share of a weight's gradient. Dropout draws
    a mask for each chunk, so other masks for the same seed. As always run: what has one layer, two
    directions, or no more than `steps` steps; torch's own LSTM, torch.compile, torch.func and
    forward mode; and cuda.grid, whose launches on a device wait for each other.

    A chunk of a layer costs the host a call: short steps want long chunks, or a CUDA graph, which
    takes the streams along, and keeps what they exchange for as long as it lives. A function for
    torch.utils.checkpoint must enter the block itself: it runs again in another thread.

    steps  at least 1. Raises TypeError or ValueError for another.
    """
    if not isinstance(steps, int) or isinstance(steps, bool):
        raise TypeError(f"steps must be an int, got {type(steps).__name__}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    token = _steps.set(steps)
    try:
        yield
    finally:
        _steps.reset(token)


def run(
    x: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    layers: Sequence[Sequence[Direction]],
    dropout: float,
    batch_sizes: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the layers; dropout, 0 outside training, on what all but the last put out.

    x        [T, B, I], or [N, I] with batch_sizes
    hx       ([L*D, B, P], [L*D, B, H]), or None: zeros
    returns  y [T, B, D*P] or [N, D*P], h_n and c_n, shaped as hx
    """
    h0, c0 = (None, None) if hx is None else hx
    if len(layers) == 1:
        return layer(x, h0, c0, layers[0], batch_sizes)
    if runs_natively(x, layers[0], batch_sizes):
        return native.stack(x, h0, c0, layers, dropout, batch_sizes)
    choice = _choice_for_chunks(x, layers, batch_sizes)
    if choice is not None:
        # The same for all chunks. Left to itself, a chunk of few rows might go to cuda.grid. No
        # variant that takes the whole refuses a part of it.
        with variant(*choice):
            return in_chunks(x, hx, layers, dropout, batch_sizes, _steps.get())
    h_n, c_n = [], []
    for index, weights in enumerate(layers):
        if dropout and index:
            x = F.dropout(x, dropout)
        rows = slice(index * len(weights), (index + 1) * len(weights))
        h0, c0 = (None, None) if hx is None else (hx[0][rows], hx[1][rows])
        x, h, c = layer(x, h0, c0, weights, batch_sizes)
        h_n.append(h)
        c_n.append(c)
    return x, torch.cat(h_n), torch.cat(c_n)


def _choice_for_chunks(
    x: Tensor, layers: Sequence[Sequence[Direction]], batch_sizes: Tensor | None
) -> Choice | None:
    """The variants of a wavefront's layers, or None: there must be none."""
    if torch.compiler.is_compiling() or not x.is_cuda or len(layers[0]) == 2:
        return None
    if not 0 < _steps.get() < (x if batch_sizes is None else batch_sizes).shape[0]:
        return None
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return None
    choice = chosen(x, layers[0], batch_sizes)
    # Its blocks wait for each other. So a launch waits for the one before it, whatever its stream
    # (csrc/cuda/lstm_fused/dev.cuh), and no graph may hold two side by side: they could wait for
    # each other's place until both give up.
    return None if "cuda.grid" in choice else choice


class Lane:
    """Where a layer runs: a CUDA stream, or, on other devices, in turn with all others."""

    def __init__(self, stream: torch.cuda.Stream | None) -> None:
        self.stream = stream
        self._done: torch.cuda.Event | None = None
        self._entered = contextlib.ExitStack()

    def __enter__(self) -> None:
        if self.stream is not None:
            self._entered.enter_context(torch.cuda.stream(self.stream))

    def __exit__(self, *_: object) -> None:
        with self._entered:
            if self.stream is not None:
                self._done = self.stream.record_event()

    def after(self, other: Lane) -> None:
        """Wait for what `other` has been given until now."""
        if self.stream is not None and other._done is not None:
            self.stream.wait_event(other._done)

    def uses(self, *tensors: Tensor | None) -> None:
        """Keep memory of other streams until what this one has been given is done."""
        for t in tensors:
            if self.stream is not None and t is not None:
                t.record_stream(self.stream)


# By device and place above the first layer, which runs on the caller's stream.
_streams: dict[tuple[torch.device, int], torch.cuda.Stream] = {}


def _lanes(x: Tensor, count: int) -> list[Lane]:
    if not x.is_cuda:
        return [Lane(None) for _ in range(count)]
    lanes = [Lane(torch.cuda.current_stream(x.device))]
    for index in range(1, count):
        key = x.device, index
        if key not in _streams:
            _streams[key] = torch.cuda.Stream(x.device)
        lanes.append(Lane(_streams[key]))
    return lanes


class _Chunk(NamedTuple):
    """Some steps of the input."""

    x: Tensor  # [steps, B, I], or [rows, I] with batch_sizes
    batch_sizes: Tensor | None
    going_on: int  # sequences that the next chunk has


def _chunks(x: Tensor, batch_sizes: Tensor | None, steps: int) -> list[_Chunk]:
    if batch_sizes is None:
        parts = x.split(steps)
        going_on = [x.shape[1]] * (len(parts) - 1) + [0]
        return [_Chunk(part, None, rows) for part, rows in zip(parts, going_on, strict=True)]
    sizes = batch_sizes.split(steps)
    parts = x.split([int(part.sum()) for part in sizes])
    going_on = [int(part[0]) for part in sizes[1:]] + [0]
    return [_Chunk(*chunk) for chunk in zip(parts, sizes, going_on, strict=True)]


def in_chunks(
    x: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    layers: Sequence[Sequence[Direction]],
    dropout: float,
    batch_sizes: Tensor | None,
    steps: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """`run` for layers of one direction, as a wavefront of chunks of `steps` steps."""
    count = len(layers)
    lanes = _lanes(x, count)
    chunks = _chunks(x, batch_sizes, steps)
    h: list[Tensor | None] = [None] * count if hx is None else list(hx[0].split(1))
    c: list[Tensor | None] = [None] * count if hx is None else list(hx[1].split(1))
    ended: list[list[tuple[Tensor, Tensor]]] = [[] for _ in layers]
    output: list[Tensor] = []
    below: list[Tensor] = [x] * count  # what the layer below has put out last
    for index, lane in enumerate(lanes[1:], 1):
        lane.uses(h[index], c[index], *layers[index][0])
    # One diagonal after the other, from the top layer down: its input is that of the last diagonal.
    for diagonal in range(len(chunks) + count - 1):
        for index in range(min(diagonal, count - 1), max(-1, diagonal - len(chunks)), -1):
            chunk, lane = chunks[diagonal - index], lanes[index]
            given = below[index] if index else chunk.x
            if index:
                lane.after(lanes[index - 1])
                lane.uses(given)
            with lane:
                if dropout and index:
                    given = F.dropout(given, dropout)
                y, h_n, c_n = layer(given, h[index], c[index], layers[index], chunk.batch_sizes)
                # On the lane as well: backward runs each of these nodes on its stream.
                if chunk is chunks[-1]:
                    ended[index].append((h_n, c_n))
                elif chunk.going_on < h_n.shape[1]:
                    rows = chunk.going_on
                    ended[index].append((h_n[:, rows:], c_n[:, rows:]))
                    h_n, c_n = h_n[:, :rows], c_n[:, :rows]
            h[index], c[index] = h_n, c_n
            if index + 1 < count:
                below[index + 1] = y
            else:
                output.append(y)
    for index, lane in enumerate(lanes[1:], 1):
        lanes[0].after(lane)
        lanes[0].uses(*(t for states in ended[index] for t in states))
    lanes[0].uses(*output)
    # Sequences are sorted by length: those that end last come first.
    h_n, c_n = (
        torch.cat([torch.cat([pair[i] for pair in reversed(states)], 1) for states in ended])
        for i in range(2)
    )
    return torch.cat(output), h_n, c_n
