"""Bytes that training keeps for the backward pass: `python -m bench.saved_bytes`.

Counts what autograd saves (torch.autograd.graph.saved_tensors_hooks) as distinct storages, each
with its whole size, without the parameters and the input, which exist anyway. nn.LSTM's oneDNN
workspace is among its saved tensors: that is most of its number.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import lstm_fused

SHAPES = [(120, 32, 16, 32), (100, 32, 128, 128), (50, 64, 256, 256), (1000, 16, 64, 128)]


def saved_bytes(module: nn.Module, x: Tensor | PackedSequence) -> int:
    """Bytes of the storages that a training forward of the module on x leaves to backward."""
    kept: dict[int, Tensor] = {}  # the tensors themselves, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(x)
    del output
    ours_anyway = {t.untyped_storage().data_ptr() for t in (x.data, *module.parameters())}
    return sum(
        tensor.untyped_storage().nbytes() for at, tensor in kept.items() if at not in ours_anyway
    )


def row(shape: tuple[int, int, int, int], device: torch.device) -> str:
    """One line: floats per T * B * H of torch's LSTM and of ours, and the ratio."""
    T, B, I, H = shape  # noqa: E741  house letters
    x = torch.randn(T, B, I, device=device, requires_grad=True)
    makers: tuple[Callable[..., nn.Module], ...] = (nn.LSTM, lstm_fused.LSTM)
    theirs, ours = (saved_bytes(maker(I, H, device=device), x) for maker in makers)
    units = 4 * T * B * H  # bytes of one float32 per step, batch element and hidden unit
    return (
        f"{T:>6},{B:>4},{I:>5},{H:>5}{theirs:>16,}{ours:>16,}{theirs / units:>12.1f}"
        f"{ours / units:>12.1f}{ours / theirs:>10.2f}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.saved_bytes", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args(argv).device)
    print(
        f"{'T,   B,    I,    H':>23}{'nn.LSTM bytes':>16}{'ours bytes':>16}"
        f"{'floats/TBH':>12}{'ours':>12}{'ratio':>10}"
    )
    for shape in SHAPES:
        print(row(shape, device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
