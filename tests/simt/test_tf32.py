"""torch's precision of float32 scans reaches the kernels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lstm_fused
from lstm_fused import dispatch
from tests.simt import building

pytestmark = pytest.mark.simt


def test_tf32_where_torch_allows_it(
    tmp_path: Path, compiled: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and backward: ieee is nearer to float64 than tf32, which is nearer than bfloat16."""
    dispatch.add_kernels(compiled(building.PLUGIN, tmp_path / "simt.so", "plain"))
    module = lstm_fused.LSTM(5, 33, bidirectional=True)
    x = torch.randn(6, 9, 5)

    def run(dtype: torch.dtype, variant: str, precision: str = "ieee") -> list[Tensor]:
        monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", precision)
        given = x.to(dtype, copy=True).requires_grad_()
        with lstm_fused.variant(variant):
            y, (h_n, c_n) = module.to(dtype)(given)
            (y.square().sum() + h_n.sum() + c_n.sum()).backward()
        grads = [p.grad for p in module.parameters()]
        module.zero_grad()
        return [t.detach().double() for t in (y, h_n, c_n, given.grad, *grads)]

    ref = run(torch.float64, "torch.composite")
    ieee, tf32, bf16 = (
        [float((a - b).abs().max()) for a, b in zip(found, ref, strict=True)]
        for found in (
            run(torch.float32, "simt.block"),
            run(torch.float32, "simt.block", "tf32"),
            run(torch.bfloat16, "simt.block"),
        )
    )
    for best, middle, worst in zip(ieee, tf32, bf16, strict=True):
        assert 4 * best < middle < worst
