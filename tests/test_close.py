"""The tolerance rule itself: what it must catch, and what it must let pass."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests import cases
from tests.cases import Case, State, by_torch, run_both
from tests.close import TF32_EPS, assert_no_worse, error_ratio

LOW = (torch.float32, torch.bfloat16, torch.float16)


def rounded(ref: Tensor, dtype: torch.dtype, roundings: float, seed: int = 0) -> Tensor:
    """`ref` in the dtype, off by up to so many eps of its scale."""
    g = torch.Generator().manual_seed(seed)
    noise = (torch.rand(ref.shape, generator=g, dtype=torch.float64) * 2 - 1) * roundings
    return (ref + noise * torch.finfo(dtype).eps * ref.abs().max()).to(dtype)


@pytest.fixture
def ref() -> Tensor:
    return torch.randn(6, 4, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("dtype", LOW)
def test_passes_the_yardstick_and_its_like(ref: Tensor, dtype: torch.dtype) -> None:
    yard = rounded(ref, dtype, 30, seed=1)
    assert_no_worse("itself", yard, yard, ref)
    assert_no_worse("better", ref.to(dtype), yard, ref)
    assert_no_worse("as good, elsewhere", rounded(ref, dtype, 30, seed=2), yard, ref)
    assert 0 < error_ratio(yard, yard, ref) < 0.5


@pytest.mark.parametrize("dtype", LOW)
def test_three_times_the_error_fails(ref: Tensor, dtype: torch.dtype) -> None:
    yard = ref.to(dtype).double()
    off = 100 * torch.finfo(dtype).eps
    assert error_ratio((yard + 2 * off).to(dtype), (yard + off).to(dtype), ref) <= 1
    assert error_ratio((yard + 3 * off).to(dtype), (yard + off).to(dtype), ref) > 1


@pytest.mark.parametrize("dtype", (*LOW, torch.float64))
def test_the_floor_is_a_few_roundings(ref: Tensor, dtype: torch.dtype) -> None:
    few = 64 if dtype == torch.float64 else 8
    step = torch.finfo(dtype).eps * ref.abs().max()
    ref = ref.to(dtype).double()
    zero = torch.zeros_like(ref)
    zero[1, 2, 3] = step
    assert error_ratio((ref + (few - 2) * zero).to(dtype), ref.to(dtype), ref) <= 1
    assert error_ratio((ref + (few + 3) * zero).to(dtype), ref.to(dtype), ref) > 1


def test_where_products_are_rounded_to_tf32_the_floor_is_roundings_of_that(ref: Tensor) -> None:
    yard = ref.float()  # as where cuDNN takes plain float32: no error to speak of
    ours = rounded(ref, torch.float16, 6).float()
    assert error_ratio(ours, yard, ref) > 100
    assert_no_worse("y", ours, yard, ref, TF32_EPS)
    ours[1, 2, 3] += 15 * TF32_EPS * ref.abs().max()
    with pytest.raises(AssertionError, match=r"y .* row 6 is wrong; at \[1, 2, 3\]"):
        assert_no_worse("y", ours, yard, ref, TF32_EPS)


def test_one_wrong_row_cannot_hide_behind_another(ref: Tensor) -> None:
    yard = ref.float()
    yard[0, 0] += 0.5  # the yardstick is bad on this row only
    ours = ref.float()
    ours[5, 1] += 0.01  # far below the yardstick's largest error
    assert (ours - ref).abs().max() < (yard - ref).abs().max()
    with pytest.raises(
        AssertionError, match=r"y \[6, 4, 16\] torch.float32: row 21 is wrong; at \[5, 1, "
    ):
        assert_no_worse("y", ours, yard, ref)


def test_a_narrow_row_reaches_back_until_it_holds_16_numbers() -> None:
    ref = torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    yard, ours = ref.float(), ref.float()
    yard[2, 1, 3] += 1e-3
    ours[2, 3, 0] += 1e-3  # another slice of 4 numbers, the same row of 16
    assert error_ratio(ours, yard, ref) <= 1
    ours[3, 0, 0] += 1e-3  # the next row
    with pytest.raises(AssertionError, match=r"row 3 is wrong; at \[3, 0, 0\]"):
        assert_no_worse("y", ours, yard, ref)


@pytest.mark.parametrize("planted", [math.nan, math.inf, -math.inf])
def test_positions_of_nan_and_infinity(ref: Tensor, planted: float) -> None:
    yard, ours = ref.float(), ref.float()
    ref[2, 1, 0] = yard[2, 1, 0] = ours[2, 1, 0] = planted
    assert_no_worse("the same place", ours, yard, ref)
    ours[2, 1, 0] = -planted if math.isinf(planted) else 0.0
    with pytest.raises(
        AssertionError, match=r"NaN or infinity \(1 of 384 elements\).*at \[2, 1, 0\]"
    ):
        assert_no_worse("y", ours, yard, ref)
    ours[2, 1, 0] = planted
    ours[0, 3, 7] = planted
    assert error_ratio(ours, yard, ref) == math.inf


def test_overflow_of_the_dtype_is_no_error() -> None:
    ref = torch.tensor([1e6, 1.0], dtype=torch.float64)
    half = ref.half()
    assert half[0] == math.inf
    assert_no_worse("overflow", half, half, ref)


def test_an_infinity_in_the_yardstick_excuses_nothing_else(ref: Tensor) -> None:
    yard, ours = ref.float(), ref.float()
    yard[0, 0, 0] = math.inf
    ours[0, 0, 1] += 0.1
    assert error_ratio(ours, yard, ref) > 1


def test_form_is_checked_before_numbers(ref: Tensor) -> None:
    yard = ref.float()
    with pytest.raises(AssertionError, match="y: dtype must be the yardstick's torch.float32"):
        assert_no_worse("y", ref, yard, ref)
    with pytest.raises(AssertionError, match=r"y: shape must be \[6, 4, 16\].*got \[6, 4, 1\]"):
        assert_no_worse("y", yard[..., :1], yard, ref)
    with pytest.raises(AssertionError, match="reference must be torch.float64"):
        assert_no_worse("y", yard, yard, yard)
    with pytest.raises(ValueError, match="shape must be"):
        error_ratio(yard[:1], yard, ref)


def test_empty_and_zero_tensors() -> None:
    nothing = torch.zeros(3, 0, 4)
    assert_no_worse("empty", nothing, nothing, nothing.double())
    zeros = torch.zeros(3, 4)
    assert_no_worse("zero", zeros, zeros, zeros.double())
    assert error_ratio(zeros + 1e-30, zeros, zeros.double()) > 1


# Mistakes that LSTM code makes, made on purpose with torch.nn.LSTM itself.


def swapped_gates(
    case: Case, params: dict[str, Tensor], x: Tensor, hx: State | None, batch_sizes: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """g and o change places in the input weights."""
    i, f, g, o = params["weight_ih_l0"].chunk(4)
    return by_torch(case, params | {"weight_ih_l0": torch.cat([i, f, o, g])}, x, hx, batch_sizes)


def one_bias_forgotten(
    case: Case, params: dict[str, Tensor], x: Tensor, hx: State | None, batch_sizes: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """One unit loses one bias."""
    mask = torch.ones_like(params["bias_hh_l0"])
    mask[-1] = 0
    return by_torch(case, params | {"bias_hh_l0": params["bias_hh_l0"] * mask}, x, hx, batch_sizes)


def last_step_again(
    case: Case, params: dict[str, Tensor], x: Tensor, hx: State | None, batch_sizes: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """c_n is right and h_n is one step old, in one batch element."""
    y, h_n, c_n = by_torch(case, params, x, hx, batch_sizes)
    h_n = torch.cat([h_n[:, :-1], y[-2:-1, -1:, : case.out]], dim=1)
    return y, h_n, c_n


def gradient_through_h_cut(
    case: Case, params: dict[str, Tensor], x: Tensor, hx: State | None, batch_sizes: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The forward is right; the upstream gradient of h_n is dropped."""
    y, h_n, c_n = by_torch(case, params, x, hx, batch_sizes)
    return y, h_n.detach() + 0 * y[-1:], c_n


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize(
    "mistake", [swapped_gates, one_bias_forgotten, last_step_again, gradient_through_h_cut]
)
def test_the_rule_catches_lstm_mistakes(mistake: cases.Ours, dtype: torch.dtype) -> None:
    with pytest.raises(AssertionError, match="is wrong"):
        run_both(cases.PRIME, dtype, mistake).check()


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")
@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_the_rule_lets_another_pytorch_path_pass(dtype: torch.dtype) -> None:
    def without_onednn(*args: object) -> tuple[Tensor, Tensor, Tensor]:
        with torch.backends.mkldnn.flags(enabled=False):
            return by_torch(*args)

    run_both(cases.PRIME, dtype, without_onednn).check()


def test_uninitialised_memory_is_poisoned() -> None:
    for fresh in (
        torch.empty(3, 5),
        torch.empty(7, dtype=torch.float64),
        torch.empty(2, 2, dtype=torch.bfloat16),
        torch.empty(2, 2, dtype=torch.float16),
        torch.empty_strided((2, 3), (1, 2)),
        torch.empty_like(torch.zeros(4)),
        torch.zeros(1).new_empty(4),
    ):
        assert fresh.isnan().all()
    assert (torch.empty(3, dtype=torch.int64) == torch.iinfo(torch.int64).max).all()
