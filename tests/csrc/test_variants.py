"""Every variant fulfils the contract: outputs, states and all gradients of one layer.

A variant that cannot run here skips with its own words, so `pytest -rs` is the support matrix.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lstm_fused import dispatch, functional
from tests import cases
from tests.cases import Case, State, by_layer, by_torch, problem, run, run_both
from tests.close import assert_no_worse
from tests.conftest import Forced

dtypes = pytest.mark.parametrize("dtype", cases.DTYPES)
Outputs = tuple[Tensor, Tensor, Tensor]


@dtypes
@pytest.mark.parametrize("case", cases.LAYER_CASES)
def test_training(variant: Forced, case: Case, dtype: torch.dtype) -> None:
    run_both(case, dtype, by_layer, device=variant.device).check()


@dtypes
@pytest.mark.parametrize("case", cases.LAYER_CASES)
def test_inference(variant: Forced, case: Case, dtype: torch.dtype) -> None:
    runs = run_both(case, dtype, by_layer, grad=False, device=variant.device)
    runs.check()
    # The forward that saves nothing is the same arithmetic as the one that saves for backward.
    training = run(by_layer, problem(case, dtype), dtype, device=variant.device)
    yard = cases.of_torch(case, dtype, torch.float64 if dtype == torch.float64 else dtype)
    for name, ours in runs.ours.items():
        assert_no_worse(name, ours, yard[name], training[name].double())


@pytest.mark.parametrize("projects", [True, False])
@pytest.mark.parametrize("hidden", range(18, 41))
def test_every_width_and_many_batches(variant: Forced, hidden: int, projects: bool) -> None:
    """Beyond the tails of the named cases: two vectors of 16 lanes and what is left over."""
    batch, width = 1 + hidden * 7 % 23, hidden * 5 % 13
    case = Case(
        f"walk_{hidden}", "some tail", T=2, B=batch, I=1 + hidden % 9, H=hidden, P=width or 1
    )
    dtype = torch.bfloat16 if (hidden % 2 == 0) == projects else torch.float32
    case = case if projects else replace(case, P=0)
    run_both(case, dtype, by_layer, device=variant.device).check()


# The plainest kernels of a device: what each other one keeps for backward, these can read, and the
# other way round. So any two can share a layer.
PLAINEST = {"cpu": "cpu.generic", "cuda": "cuda.step", "simt": "simt.step"}


@pytest.mark.kernels
@dtypes
@pytest.mark.parametrize("case", cases.named("prime", "step", "bare", "bidirectional", "ragged"))
@pytest.mark.parametrize("pass_", ["forward", "backward"])
def test_another_kernel_runs_the_other_pass(
    variant: Forced, case: Case, dtype: torch.dtype, pass_: str
) -> None:
    """Where that is broken, so is every other one: it is what they are held to."""
    plain = PLAINEST[variant.name.partition(".")[0]]
    pair = (variant.name, plain) if pass_ == "forward" else (plain, variant.name)
    with dispatch.variant(*pair):
        run_both(case, dtype, by_layer, device=variant.device).check()


@dtypes
def test_long_memory(variant: Forced, dtype: torch.dtype) -> None:
    """Forget gates of 0.999: their product over the steps forgives no error in 1 - f."""
    case = Case("memory", "c lives for hundreds of steps", T=300, B=2, I=3, H=8, hx=False)
    given = problem(case, dtype)
    for name in given.params:
        if name.startswith("bias_ih"):
            given.params[name][case.H : 2 * case.H] += 7.0

    def last_step_only(*args: object) -> Outputs:
        y, h_n, c_n = by_layer(*args)
        return torch.cat([torch.zeros_like(y[:-1]), y[-1:]]), 0 * h_n, 0 * c_n

    def of_torch(*args: object) -> Outputs:
        y, h_n, c_n = by_torch(*args)
        return torch.cat([torch.zeros_like(y[:-1]), y[-1:]]), 0 * h_n, 0 * c_n

    ours = run(last_step_only, given, dtype, device=variant.device)
    yard = run(of_torch, given, dtype, device=variant.device)
    ref = run(of_torch, given, torch.float64)
    for name, t in ours.items():
        assert_no_worse(name, t.cpu(), yard[name].cpu(), ref[name])


@dtypes
def test_an_input_without_features(variant: Forced, dtype: torch.dtype) -> None:
    """I = 0 leaves the biases and the recurrence; LSTMCell(0, H) is legal."""
    torch.manual_seed(1)
    shapes = (24, 6), (24,), (24,)
    w_hh, b_ih, b_hh = (torch.randn(shape).to(variant.device, dtype) for shape in shapes)

    def cell(features: int) -> Outputs:
        w_ih, x = (torch.zeros(n, features, dtype=dtype, device=variant.device) for n in (24, 3))
        h, c = functional.lstm_cell(x, None, w_ih, w_hh, b_ih, b_hh)
        return functional.lstm_cell(x, (h, c), w_ih, w_hh, b_ih, b_hh)

    for name, ours, yard in zip("hc", cell(0), cell(1), strict=True):
        assert_no_worse(name, ours, yard, yard.double())


def with_arguments(change: Callable[[Tensor], Tensor]) -> Callable[[cases.Ours], cases.Ours]:
    """Pass every tensor, and every gradient that comes in, through `change` first."""

    def of(inner: cases.Ours) -> cases.Ours:
        def changed(
            case: Case,
            params: dict[str, Tensor],
            x: Tensor,
            hx: State | None,
            batch_sizes: Tensor | None,
        ) -> Outputs:
            params = {name: change(p) for name, p in params.items()}
            hx = None if hx is None else (change(hx[0]), change(hx[1]))
            outputs = inner(case, params, change(x), hx, batch_sizes)
            for t in outputs:
                if t.requires_grad:
                    t.register_hook(change)
            return outputs

        return changed

    return of


def transposed(t: Tensor) -> Tensor:
    """The last two dimensions swapped in memory."""
    return t.mT.contiguous().mT if t.dim() > 1 else t


def spread(t: Tensor) -> Tensor:
    """NaN between any two elements."""
    return torch.stack([t, torch.full_like(t, math.nan)], dim=-1)[..., 0]


def misaligned(t: Tensor) -> Tensor:
    """Contiguous, one element past an aligned address."""
    return torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape)


def reversed_dimensions(t: Tensor) -> Tensor:
    """All dimensions in reverse order in memory."""
    order = tuple(reversed(range(t.dim())))
    return t.permute(order).contiguous().permute(order)


@dtypes
@pytest.mark.parametrize("change", [transposed, spread, misaligned, reversed_dimensions])
@pytest.mark.parametrize("case", cases.named("prime", "proj_bidirectional", "ragged", "tail_16"))
def test_memory_layouts(
    variant: Forced, case: Case, change: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    run_both(case, dtype, with_arguments(change)(by_layer), device=variant.device).check()


def expanded(inner: cases.Ours) -> cases.Ours:
    """Everything that can have stride 0 has it; y's gradient arrives expanded from a sum."""

    def of(
        case: Case,
        params: dict[str, Tensor],
        x: Tensor,
        hx: State | None,
        batch_sizes: Tensor | None,
    ) -> Outputs:
        params = {n: p[:1].expand_as(p) if p.dim() == 1 else p for n, p in params.items()}
        hx = None if hx is None else (hx[0][:, :1].expand_as(hx[0]), hx[1][:, :1].expand_as(hx[1]))
        y, h_n, c_n = inner(case, params, x[:1].expand_as(x), hx, batch_sizes)
        return y.sum(), h_n.sum(), c_n

    return of


@dtypes
@pytest.mark.parametrize("case", cases.named("prime", "proj_bidirectional", "ragged"))
def test_expanded_arguments(variant: Forced, case: Case, dtype: torch.dtype) -> None:
    given = problem(case, dtype)
    scalar = given.upstream["y"].flatten()[0]
    given = replace(given, upstream=given.upstream | {"y": scalar, "h_n": scalar})
    ref, yard = (run(expanded(by_torch), given, d) for d in (torch.float64, dtype))
    ours = run(expanded(by_layer), given, dtype, device=variant.device)
    for name in ref:
        assert_no_worse(name, ours[name], yard[name], ref[name])


@pytest.mark.parametrize("case", cases.named("prime", "proj_bidirectional", "ragged", "bare"))
@dtypes
def test_arguments_are_not_written(variant: Forced, case: Case, dtype: torch.dtype) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def watched(
        case: Case,
        params: dict[str, Tensor],
        x: Tensor,
        hx: State | None,
        batch_sizes: Tensor | None,
    ) -> Outputs:
        seen.extend((t, t.detach().clone()) for t in (*params.values(), x, *(hx or ())))
        outputs = by_layer(case, params, x, hx, batch_sizes)
        for t in outputs:
            t.register_hook(lambda g: seen.append((g, g.clone())))
        seen.extend((t, t.detach().clone()) for t in outputs)
        return outputs

    run(watched, problem(case, dtype), dtype, device=variant.device)
    assert len(seen) >= 3 + len(problem(case, dtype).params) + 1 + 3
    for now, before in seen:
        assert torch.equal(now, before)


def planted(where: str, what: float) -> Callable[[cases.Ours], cases.Ours]:
    """Put one bad number into x, h_0, c_0 or a weight, without hiding its gradient."""

    def plant(t: Tensor) -> Tensor:
        bad = torch.zeros_like(t)
        bad.view(-1)[t.numel() // 2] = what
        return t + bad

    def of(inner: cases.Ours) -> cases.Ours:
        def bad(
            case: Case,
            params: dict[str, Tensor],
            x: Tensor,
            hx: State | None,
            batch_sizes: Tensor | None,
        ) -> Outputs:
            assert hx is not None
            h0, c0 = hx
            if where == "x":
                x = plant(x)
            elif where == "h_0":
                h0 = plant(h0)
            elif where == "c_0":
                c0 = plant(c0)
            else:
                params = params | {where: plant(params[where])}
            return inner(case, params, x, (h0, c0), batch_sizes)

        return bad

    return of


@functools.cache
def planted_in_torch(
    case: Case, where: str, what: float, rounded: torch.dtype, dtype: torch.dtype, grad: bool
) -> dict[str, Tensor]:
    return run(planted(where, what)(by_torch), problem(case, rounded), dtype, grad=grad)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("what", [math.nan, math.inf, -math.inf, 1e30, 6e4])
@pytest.mark.parametrize("where", ["x", "h_0", "c_0", "weight_ih_l0", "weight_hh_l0", "bias_hh_l0"])
@pytest.mark.parametrize("case", cases.named("prime", "proj", "ragged"))
def test_bad_numbers_go_where_they_go_in_torch(
    variant: Forced, case: Case, where: str, what: float, dtype: torch.dtype, grad: bool
) -> None:
    """NaN and infinities in outputs and gradients stand where torch has them."""
    ref = planted_in_torch(case, where, what, dtype, torch.float64, grad)
    yard = planted_in_torch(case, where, what, dtype, dtype, grad)
    bad = planted(where, what)(by_layer)
    ours = run(bad, problem(case, dtype), dtype, grad=grad, device=variant.device)
    for name in ref:
        assert_no_worse(name, ours[name], yard[name], ref[name])


@dtypes
@pytest.mark.parametrize("case", cases.named("prime", "batch_37", "proj_bidirectional", "ragged"))
def test_same_bits_twice(variant: Forced, case: Case, dtype: torch.dtype) -> None:
    first, second = (
        run(by_layer, problem(case, dtype), dtype, device=variant.device) for _ in range(2)
    )
    for name, t in first.items():
        assert torch.equal(t, second[name]), name


@dtypes
@pytest.mark.parametrize("case", cases.named("prime", "proj_bidirectional", "ragged", "bare"))
def test_retained_graph_gives_the_same_bits(
    variant: Forced, case: Case, dtype: torch.dtype
) -> None:
    """Backward may reuse saved memory only when nobody can come back for it."""

    def twice(
        case: Case,
        params: dict[str, Tensor],
        x: Tensor,
        hx: State | None,
        batch_sizes: Tensor | None,
    ) -> Outputs:
        outputs = by_layer(case, params, x, hx, batch_sizes)
        leaves = [x, *params.values(), *(hx or ())]
        loss = sum(t.float().square().sum() for t in outputs)
        first = torch.autograd.grad(loss, leaves, retain_graph=True)
        second = torch.autograd.grad(loss, leaves, retain_graph=True)
        third = torch.autograd.grad(loss, leaves)
        for a, b, c in zip(first, second, third, strict=True):
            assert torch.equal(a, b)
            assert torch.equal(a, c)
        return by_layer(case, params, x, hx, batch_sizes)

    run(twice, problem(case, dtype), dtype, device=variant.device)


@dtypes
def test_rows_of_a_batch_do_not_touch_each_other(variant: Forced, dtype: torch.dtype) -> None:
    """NaN in one batch element leaves the others alone, forward and backward."""
    case = cases.BATCH_37
    given = problem(case, dtype)
    bad_x = given.x.clone()
    bad_x[:, 11] = math.nan
    good = run(by_layer, given, dtype, device=variant.device)
    bad = run(by_layer, replace(given, x=bad_x), dtype, device=variant.device)
    others = [b for b in range(case.B) if b != 11]
    for name in ("y", "h_n", "c_n", "grad x", "grad h_0", "grad c_0"):
        assert bad[name][:, 11].isnan().all(), name
        assert torch.equal(bad[name][:, others], good[name][:, others]), name
