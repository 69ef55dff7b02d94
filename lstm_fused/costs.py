"""What a layer takes on a GPU: a model with one table, by which CUDA variants are chosen.

A pass of a layer is works, one after the other: the scan and the products over all rows. A work is
launches, megabytes of weights that are read, and steps of time. A step is turns, groups of rows of
a batch; each is a product and what stands around it, and while one waits for what other blocks
send, the others multiply. In microseconds:

    turn = costs.turn + rounds of loads that it waits for * round
         + millions of multiply-adds * product
         + megabytes of fragments * fragments + megabytes of streamed ones * streamed
    step = the longer one of  wait + turn  and  turns * turn
    work = launches * launch + megabytes * read + steps * step

How often each occurs follows from the layer, and for a scan from the plan of its kernel
(csrc/dispatch/work.h). What each takes stands in the table, _costs.py, which `python -m bench.fit`
fits to measurements. A row that no file has measured holds what the head of the kernel's file
predicts for an H100, or for torch's own LSTM what others have published (bench/NOTES.md).

LSTM_FUSED_COSTS, set before the import, names a JSON file whose numbers take the place of the
table's: `python -m bench.fit --out FILE` writes one of what bench.gpu_check has measured.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lstm_fused import _load, ops
from lstm_fused._costs import COSTS

NATIVE = "torch.native"
# What a multiply-add takes, relative to one of 16 bits: so many times as many clocks on an H100. By
# the products of csrc/cuda/lstm_fused/product_plan.h; float64, as products of torch have it, takes
# as long as float32 without tensor cores.
RELATIVE = {"bf16": 1.0, "f16": 1.0, "tf32": 2.0, "tf32x3": 6.0, "ieee": 10.0}
# What a megabyte takes that every step reads and L2 does not hold, relative to one that it does:
# 5.5 TB/s to 3 of an H100.
FROM_MEMORY = 1.83


class Costs(NamedTuple):
    """A row of the table: what a work takes, in microseconds."""

    launch: float  # a launch, one after the other
    read: float  # a megabyte of weights that comes to where it is multiplied
    wait: float  # a step, for what other blocks send
    turn: float  # a turn of a step beside its product: cells, sums, barriers
    product: float  # a million multiply-adds of a turn on one multiprocessor, in 16 bits
    fragments: float  # a megabyte of weights that a turn reads out of shared memory
    streamed: float  # a megabyte of weights that a turn reads out of L2
    round: float  # loads of what other blocks have sent that a turn has not asked for ahead
    measured: str | None  # the result file that it was fitted to; None: it is predicted


TERMS = Costs._fields[:-1]


class Gpu(NamedTuple):
    """What the model asks of a GPU; by default as of an H100."""

    multiprocessors: int = 132
    shared: int = 227 << 10  # bytes of shared memory that a block may have
    l2: int = 50 << 20  # bytes of L2


def gpu_of(device: torch.device | int) -> Gpu:
    """Of a GPU that is here."""
    properties = torch.cuda.get_device_properties(device)
    # ROCm's have no such number.
    usual: int = properties.shared_memory_per_block
    shared = int(getattr(properties, "shared_memory_per_block_optin", usual))
    return Gpu(properties.multi_processor_count, shared, properties.L2_cache_size)


class Layer(NamedTuple):
    """What the model asks of a layer, and where it runs."""

    T: int
    B: int
    input_size: int
    hidden_size: int
    proj_size: int  # 0: none
    directions: int
    dtype: torch.dtype
    tf32: bool  # float32 may be rounded to TF32 in scans, and in all that torch.native does
    packed: bool  # taken as if all sequences were as long as the longest
    gpu: Gpu
    products_tf32: bool | None = None  # the same of other products of torch; None: as in scans

    @property
    def output_size(self) -> int:
        return self.proj_size or self.hidden_size


class Work(NamedTuple):
    """How often the terms of a row of the table occur."""

    row: str
    launches: int
    megabytes: float
    steps: int = 0
    turns: Sequence[int] = ()  # of each share of the batch; shares run one after the other
    rounds: Sequence[int] = ()  # of loads that a turn of each share waits for; (): none
    millions: float = 0.0  # of multiply-adds of a turn on a multiprocessor, as in 16 bits
    fragments: float = 0.0  # megabytes of each multiprocessor
    streamed: float = 0.0  # megabytes of each multiprocessor


def price(work: Work, costs: Costs) -> float:
    """Microseconds of a work."""
    return sum(n * cost for n, cost in zip(counts(work, costs), costs[:-1], strict=True))


def counts(work: Work, costs: Costs) -> list[float]:
    """How often a work has each of TERMS to wait for."""
    same = costs.turn + work.millions * costs.product
    same += work.fragments * costs.fragments + work.streamed * costs.streamed
    waits = turns = rounds = 0
    for n, loads in zip(work.turns, work.rounds or [0] * len(work.turns), strict=True):
        turn = same + loads * costs.round
        idle = costs.wait + turn > n * turn
        waits += idle
        turns += 1 if idle else n
        rounds += loads * (1 if idle else n)
    turns *= work.steps
    return [
        work.launches,
        work.megabytes,
        work.steps * waits,
        turns,
        turns * work.millions,
        turns * work.fragments,
        turns * work.streamed,
        work.steps * rounds,
    ]


def total(works: Iterable[Work]) -> float:
    """Microseconds of works, one after the other, by the table."""
    return sum(price(work, table()[work.row]) for work in works)


def sources(works: Iterable[Work]) -> list[str] | None:
    """The files that prices of works rest on, or None where nobody has measured a row of them."""
    files = {table()[work.row].measured for work in works}
    return None if None in files else sorted(file for file in files if file is not None)


def works(names: Sequence[str | None], layer: Layer) -> list[Work] | None:
    """What the time of a layer's passes is the sum of, or None where a variant is not known.

    With the products over all rows, which variants share: torch.native does its own, and is taken
    to need as long for them, but by the precision of scans.

    names  of the variants that run forward and backward; None, or one alone: without the other
    """
    found = []
    for backward, name in zip((False, True), names, strict=False):
        if name is None:
            continue
        own = scan(name, layer, backward)
        if own is None:
            return None
        found.append(own)
        if name != "cuda.decode" or backward:  # forward it has the input's product in it
            tf32 = layer.tf32 if name == NATIVE else _products_tf32(layer)
            found.append(_products(layer, backward, tf32))
    return found


def scan(name: str, layer: Layer, backward: bool) -> Work | None:
    """The scan of a pass; None where the model does not know the variant, or it has no kernel."""
    if layer.dtype not in ops.DTYPE_CODES:
        return None
    if name == NATIVE:
        return _native(layer, backward)
    if name == "cuda.decode" and not backward:
        inputs = layer.input_size + layer.output_size
        return Work(name, 1, _weights(layer, inputs)) if layer.T == 1 else None
    if name in ("cuda.step", "cuda.decode"):  # backward is the same in both
        return _step_by_step("cuda.step", layer, _products_tf32(layer))
    module = _load.load()
    if module is None:
        return None
    found = module.scan_work(
        name,
        backward,
        ops.DTYPE_CODES[layer.dtype],
        layer.tf32 and layer.dtype == torch.float32,
        layer.B,
        layer.hidden_size,
        layer.directions,
        layer.gpu.multiprocessors,
        layer.gpu.shared,
    )
    if found is None:
        return None
    launches, turns, rounds, multiply_adds, fragments, streamed, streamed_by_all, product = found
    return Work(
        f"{name} {'backward' if backward else 'forward'}",
        launches,
        _weights(layer, layer.output_size),
        layer.T,
        turns,
        rounds,
        multiply_adds * RELATIVE[product] / 1e6,
        fragments / 1e6,
        _read_in_every_step(streamed / 1e6, layer.gpu, streamed_by_all),
    )


def _step_by_step(row: str, layer: Layer, tf32: bool) -> Work:
    """A matrix product and a gate kernel a step, with a projection another product."""
    steps = layer.T * layer.directions
    gates = 4 * layer.hidden_size * layer.output_size * layer.B
    projection = layer.proj_size * layer.hidden_size * layer.B
    megabytes = _weights(layer, layer.output_size)
    return Work(
        row,
        (3 if layer.proj_size else 2) * steps,
        # One direction after the other.
        layer.T * _read_in_every_step(megabytes, layer.gpu, 1e6 * megabytes / layer.directions),
        steps,
        (1,),
        millions=_millions(layer, gates + projection, tf32),
    )


def _native(layer: Layer, backward: bool) -> Work:
    """torch.nn.LSTM, by the algorithm of cuDNN that torch asks for (aten/.../cudnn/RNN.cpp)."""
    H, B = layer.hidden_size, layer.B
    direction = "backward" if backward else "forward"
    persistent = not layer.packed and not layer.proj_size
    static = layer.directions == 1 and H <= 1024 and B <= 128
    static &= layer.gpu.multiprocessors >= 98
    static &= not (H % 128 or layer.input_size % 128 or B % 8)
    steps, gates = layer.T * layer.directions, 4 * H * H * B
    if persistent and layer.dtype != torch.float64 and H <= (128 if backward else 192):
        row = f"{NATIVE} {'small' if H <= 128 else 'middling'} {direction}"
        # What it takes is far from what multiply-adds of any kind do.
        millions = gates / layer.gpu.multiprocessors / 1e6
    elif persistent and layer.dtype == torch.float16 and static:
        row = f"{NATIVE} static {direction}"
        millions = _millions(layer, gates, layer.tf32)
    else:
        return _step_by_step(f"{NATIVE} standard", layer, layer.tf32)
    return Work(row, 1, _weights(layer, H), steps, (1,), millions=millions)


def _products(layer: Layer, backward: bool, tf32: bool) -> Work:
    """x W_ih^T; backward the gradients of x, of W_ih and of W_hh."""
    inputs = 2 * layer.input_size + layer.output_size if backward else layer.input_size
    gates = layer.T * layer.B * 4 * layer.hidden_size * layer.directions
    return Work(
        "products",
        (3 if backward else 1) * layer.directions,
        _weights(layer, layer.input_size),
        1,
        (1,),
        millions=_millions(layer, gates * inputs, tf32),
    )


def _weights(layer: Layer, inputs: int) -> float:
    """Megabytes of the weights of four gates for so many inputs, of all directions."""
    return layer.directions * 4 * layer.hidden_size * inputs * layer.dtype.itemsize / 1e6


def _products_tf32(layer: Layer) -> bool:
    return layer.tf32 if layer.products_tf32 is None else layer.products_tf32


def _millions(layer: Layer, multiply_adds: int, tf32: bool) -> float:
    """Of each multiprocessor where all take their part, as in 16 bits."""
    in_32_bits = RELATIVE["tf32" if tf32 and layer.dtype == torch.float32 else "ieee"]
    relative = 1.0 if layer.dtype.itemsize == 2 else in_32_bits
    return multiply_adds * relative / layer.gpu.multiprocessors / 1e6


def _read_in_every_step(megabytes: float, gpu: Gpu, together: float) -> float:
    """As megabytes of L2, of `together` bytes that all are read before one is read again."""
    return megabytes * (1.0 if together <= gpu.l2 else FROM_MEMORY)


# Read once, as LSTM_FUSED_VARIANT is.
_FROM_ENVIRONMENT = os.environ.get("LSTM_FUSED_COSTS") or None


@functools.cache
def table() -> dict[str, Costs]:
    """The costs in force. Raises ValueError where the file of LSTM_FUSED_COSTS is not right."""
    own = {name: Costs(*row) for name, row in COSTS.items()}
    if _FROM_ENVIRONMENT is None:
        return own
    try:
        return own | read(Path(_FROM_ENVIRONMENT))
    except ValueError as error:
        raise ValueError(f"LSTM_FUSED_COSTS: {error}") from error


def read(path: Path) -> dict[str, Costs]:
    """The rows of a file of `bench.fit --out`: {row: {term: microseconds, "measured": file}}.

    Terms that a row leaves out are the table's, and it is predicted if it does not say by what it
    was measured. Raises ValueError, which says what is wrong.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold an object with a row for each cost")
    return {name: _checked(f"{path}: {name!r}", name, row) for name, row in content.items()}


def _checked(place: str, name: str, row: Any) -> Costs:
    if name not in COSTS:
        raise ValueError(f"{place} is not among the rows {', '.join(map(repr, COSTS))}")
    if not isinstance(row, dict):
        raise ValueError(f"{place} must be an object of {', '.join(Costs._fields)}")
    for term, value in row.items():
        if term not in Costs._fields:
            raise ValueError(f"{place} has {term!r}, terms are {', '.join(Costs._fields)}")
        if term == "measured":
            if not isinstance(value, str | None):
                raise ValueError(f"{place}: measured must name a file or be null, got {value!r}")
        elif not _is_time(value):
            raise ValueError(f"{place}: {term} must be microseconds, 0 or more, got {value!r}")
    return Costs(*COSTS[name])._replace(measured=None)._replace(**row)


def _is_time(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value <= sys.float_info.max
