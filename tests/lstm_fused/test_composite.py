"""The plain PyTorch layer: exact everywhere, differentiable twice, and under every transform."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, jvp, vmap

from lstm_fused import composite
from tests import cases
from tests.cases import Case, State, directions, problem, run_both

SMALL = Case("composite_small", "gradcheck", T=3, B=2, I=2, H=3, P=2, bidirectional=True)
RAGGED = Case(
    "composite_ragged",
    "gradcheck",
    T=3,
    B=3,
    I=2,
    H=2,
    lengths=(3, 2, 1),
    bidirectional=True,
    bias=False,
)


def by_composite(
    case: Case, params: dict[str, Tensor], x: Tensor, hx: State | None, batch_sizes: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    h0, c0 = (None, None) if hx is None else hx
    return composite.layer(x, h0, c0, directions(case, params), batch_sizes)


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("case", cases.LAYER_CASES)
def test_no_worse_than_torch(case: Case, dtype: torch.dtype) -> None:
    run_both(case, dtype, by_composite).check()


@pytest.mark.parametrize("case", [SMALL, RAGGED])
@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
def test_gradients(case: Case, check: object) -> None:
    given = problem(case, torch.float64)
    leaves = [given.x, *given.hx, *given.params.values()]
    leaves = [t.clone().requires_grad_() for t in leaves]

    def function(x: Tensor, h: Tensor, c: Tensor, *params: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(given.params, params, strict=True))
        return by_composite(case, named, x, (h, c), case.batch_sizes)

    # Forward mode too, which nn.LSTM has not in float32.
    extra = {"check_forward_ad": True} if check is gradcheck else {}
    assert check(function, leaves, **extra)


@pytest.mark.parametrize("case", cases.named("proj_bidirectional", "ragged_proj"))
def test_meta(case: Case) -> None:
    given = problem(case, torch.float32)
    x = given.x.float()
    named = {name: p.float() for name, p in given.params.items()}
    real = by_composite(case, named, x, None, case.batch_sizes)
    meta = by_composite(
        case, {n: p.to("meta") for n, p in named.items()}, x.to("meta"), None, case.batch_sizes
    )
    for a, b in zip(real, meta, strict=True):
        assert b.is_meta and (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())


def test_transforms() -> None:
    """vmap over models, per-sample gradients and jvp: three things that nn.LSTM refuses."""
    module = torch.nn.LSTM(2, 3, dtype=torch.float64)
    params = dict(module.named_parameters())
    x = torch.randn(4, 5, 2, dtype=torch.float64)

    def loss(p: dict[str, Tensor], rows: Tensor) -> Tensor:  # rows [T, I]
        one = Case("", "", T=5, B=1, I=2, H=3)
        y, _, c = by_composite(one, p, rows.unsqueeze(1), None, None)
        return y.square().sum() + c.sum()

    def by_torch(p: dict[str, Tensor], rows: Tensor) -> Tensor:
        y, (_, c) = functional_call(module, p, (rows.unsqueeze(1),))
        return y.square().sum() + c.sum()

    each = vmap(grad(loss), in_dims=(None, 0))(params, x)
    for index in range(len(x)):
        alone = torch.autograd.grad(by_torch(params, x[index]), list(params.values()))
        for name, g in zip(params, alone, strict=True):
            cases.assert_no_worse(name, each[name][index], g, g)

    stacked = {name: torch.stack((p, 2 * p)).detach() for name, p in params.items()}
    both = vmap(loss, in_dims=(0, None))(stacked, x[0])
    for index in range(2):
        alone = by_torch({name: p[index] for name, p in stacked.items()}, x[0])
        cases.assert_no_worse("loss", both[index], alone, alone.detach())

    plain = {name: p.detach() for name, p in params.items()}
    tangent = {name: torch.randn_like(p) for name, p in plain.items()}
    _, forward = jvp(lambda p: loss(p, x[0]), (plain,), (tangent,))
    reverse = grad(loss)(plain, x[0])
    dot = torch.stack([(reverse[name] * tangent[name]).sum() for name in plain]).sum()
    cases.assert_no_worse("jvp", forward, dot, dot)


def test_cell_state_is_wide_in_half_precision() -> None:
    """c grows by 1/256 a step from 1: in bfloat16 it could never leave 1."""
    ones, steps = torch.ones(1, 1), 256
    big = 30.0  # sigmoid(30) is 1 in float32
    bias = torch.tensor([0.0, big, big, big])  # i f g o
    weight_ih = torch.tensor([[-5.5413], [0.0], [0.0], [0.0]])  # sigmoid(-5.5413) = 1/256
    weights = [(weight_ih, torch.zeros(4, 1), bias, torch.zeros(4), None)]
    half = [tuple(None if w is None else w.bfloat16() for w in d) for d in weights]
    x = torch.ones(steps, 1, 1, dtype=torch.bfloat16)
    _, _, c = composite.layer(x, None, ones[None].bfloat16(), half)
    assert c.dtype is torch.bfloat16
    assert 1.9 < c.item() < 2.1
