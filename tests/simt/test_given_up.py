"""What a user sees when blocks of cuda.grid wait in vain: the next call says so, once."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lstm_fused
from lstm_fused import dispatch
from tests.conftest import SIMT_LIBRARY
from tests.simt import building

pytestmark = pytest.mark.simt

Run = Callable[[], Tensor]


@pytest.fixture
def given_up(compiled: Callable[..., Path]) -> Callable[[Run], Tensor]:
    """Runs something with the first block of cuda.grid's launches held back."""
    library = os.environ.get(SIMT_LIBRARY) or compiled(building.PLUGIN, "simt.so", "plain")
    if "simt.grid" not in dispatch.KERNELS:
        dispatch.add_kernels(library)
    hold_back = ctypes.CDLL(str(library)).simt_hold_back

    def run(something: Run) -> Tensor:
        hold_back(1, 128)
        try:
            return something()
        finally:
            hold_back(0, 1 << 25)

    return run


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("asked", ["simt.grid", "simt.step", "simt.decode", "simt.block"])
def test_the_next_call_says_so(
    given_up: Callable[[Run], Tensor], backward: bool, asked: str
) -> None:
    module = lstm_fused.LSTM(5, 24).bfloat16()
    x, x_of_a_step = torch.randn(6, 2, 5).bfloat16(), torch.randn(1, 2, 5).bfloat16()

    def forward() -> Tensor:
        return module(x)[0]

    def gradient() -> Tensor:
        (grad,) = torch.autograd.grad(y.sum(), module.weight_hh_l0, retain_graph=True)
        return grad

    with lstm_fused.variant("simt.grid"):
        y = forward()
        run = gradient if backward else forward
        right = run()
        wrong = given_up(run)
        assert wrong.isnan().any()
    with (
        lstm_fused.variant(asked),
        pytest.raises(RuntimeError, match="earlier call.*two captured CUDA graphs"),
    ):
        module(x_of_a_step)
    with lstm_fused.variant("simt.grid"):
        assert torch.equal(run(), right)
