"""What cuda.block, cuda.cluster and cuda.grid multiply and sum in: torch's precision of float32,
and float for 16 bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lstm_fused
from lstm_fused import dispatch, ops
from tests import cases
from tests.close import TF32_EPS, assert_no_worse
from tests.simt import building

pytestmark = pytest.mark.simt


@pytest.fixture(scope="module", autouse=True)
def _plugin(compiled: Callable[..., Path]) -> None:
    if "simt.block" not in dispatch.KERNELS:
        dispatch.add_kernels(compiled(building.PLUGIN, "simt.so", "plain"))


@pytest.fixture(params=["simt.block", "simt.cluster", "simt.grid"])
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    """The variant that runs."""
    with lstm_fused.variant(request.param):
        yield request.param


@pytest.fixture
def _block() -> Iterator[None]:
    """The quickest of them, for what is not about products."""
    with lstm_fused.variant("simt.block"):
        yield


def precision(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", name)


def test_tf32_where_torch_allows_it(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward: ieee is nearer to float64 than tf32, which is nearer than bfloat16."""
    module = lstm_fused.LSTM(5, 33, bidirectional=True)
    x = torch.randn(6, 9, 5)

    def run(dtype: torch.dtype, variant: str, name: str = "ieee") -> list[Tensor]:
        precision(monkeypatch, name)
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
            run(torch.float32, kernel),
            run(torch.float32, kernel, "tf32"),
            run(torch.bfloat16, kernel),
        )
    )
    for best, middle, worst in zip(ieee, tf32, bf16, strict=True):
        assert 4 * best < middle < worst
    plain = run(torch.float32, kernel, "none")
    assert all(map(torch.equal, plain, run(torch.float32, kernel)))


WIDER = cases.Case("tf32_wider", "the most units that all three take", T=9, B=11, I=40, H=128)


@pytest.mark.parametrize("case", [WIDER, *cases.named("prime", "ragged_bidirectional")])
def test_tf32_keeps_the_rule_beside_plain_float32(
    kernel: str, case: cases.Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where cuDNN takes plain float32 though it may round."""
    given = cases.problem(case, torch.float32)
    ref, yard = (
        cases.run(cases.by_torch, given, dtype) for dtype in (torch.float64, torch.float32)
    )
    precision(monkeypatch, "tf32")
    ours = cases.run(cases.by_layer, given, torch.float32)
    for name in ref:
        assert_no_worse(name, ours[name], yard[name], ref[name], TF32_EPS)


def test_ieee_keeps_the_rule_where_terms_have_one_sign(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensor cores cut their sums off, as the machine's do. Where no term is negative nothing makes
    up for it: summed up by them alone, 512 terms are off by twice what the rule allows."""
    H = 512 if kernel == "simt.cluster" else 128  # as many as it takes here
    torch.manual_seed(3)
    precision(monkeypatch, "ieee")
    given = torch.nn.LSTM(16, H, bias=False)
    with torch.no_grad():
        given.weight_hh_l0.abs_().mul_(0.2)
    x, h0, c0 = torch.randn(8, 2, 16), torch.rand(1, 2, H) / 2, torch.rand(1, 2, H)
    upstream = [torch.rand(8, 2, H) / 100, torch.rand(1, 2, H), torch.rand(1, 2, H)]

    def run(module: torch.nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
        module.to(dtype).load_state_dict(given.state_dict())
        leaves = [t.to(dtype, copy=True).requires_grad_() for t in (x, h0, c0)]
        y, (h_n, c_n) = module(leaves[0], (leaves[1], leaves[2]))
        torch.autograd.backward((y, h_n, c_n), [t.to(dtype) for t in upstream])
        grads = zip(("x", "h0", "c0", "w_ih", "w_hh"), [*leaves, *module.parameters()], strict=True)
        found = {"y": y, "h_n": h_n, "c_n": c_n} | {f"grad {name}": t.grad for name, t in grads}
        return {name: t.detach() for name, t in found.items()}

    ref, yard = (
        run(torch.nn.LSTM(16, H, bias=False), dtype) for dtype in (torch.float64, torch.float32)
    )
    ours = run(lstm_fused.LSTM(16, H, bias=False), torch.float32)
    for name in ref:
        assert_no_worse(name, ours[name], yard[name], ref[name])


@pytest.mark.usefixtures("_block")
def test_every_binding_hands_the_precision_on(monkeypatch: pytest.MonkeyPatch) -> None:
    module = lstm_fused.LSTM(3, 16)
    x = torch.randn(4, 2, 3)

    def output(x: Tensor) -> Tensor:
        return module(x)[0]

    found = {}
    for name in ("ieee", "tf32"):
        precision(monkeypatch, name)
        torch._dynamo.reset()
        found[name] = output(x).detach()
        of_transform, pull = torch.func.vjp(output, x)
        of_compiler = torch.compile(output, backend="aot_eager", fullgraph=True)(x)
        for other in (of_transform, of_compiler):
            assert torch.equal(other.detach(), found[name])
        found[f"gradient in {name}"] = pull(torch.ones_like(of_transform))[0].detach()
    assert not torch.equal(found["ieee"], found["tf32"])
    assert not torch.equal(found["gradient in ieee"], found["gradient in tf32"])


@pytest.mark.usefixtures("_block")
def test_backward_has_the_precision_of_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    module = lstm_fused.LSTM(3, 16, bias=False)
    w_ih, w_hh = (p.detach() for p in module.parameters())
    x, dy = torch.randn(4, 2, 3), torch.randn(4, 2, 16)
    code = dispatch.KERNELS.index("simt.block")
    weights = [w_ih, w_hh, None, None, None, *[None] * 5]
    forward = [x, None, None, *weights, None, ops.CELL_LSTM, code + ops.TF32, True]
    y, _, _, gates, c = torch.ops.lstm_fused.layer_forward(*forward)

    def dx(code: int) -> Tensor:
        given = [dy, None, None, x, None, None, w_ih, w_hh, *[None] * 4, y, gates, c]
        last = [None, ops.CELL_LSTM, code, ops.NEEDS_X]
        return torch.ops.lstm_fused.layer_backward(*given, *last)[0]

    assert not torch.equal(dx(code), dx(code + ops.TF32))
    precision(monkeypatch, "tf32")
    leaf = x.clone().requires_grad_()
    module(leaf)[0].backward(dy)
    _, pull = torch.func.vjp(lambda x: module(x)[0], x)
    compiled_leaf = x.clone().requires_grad_()
    torch.compile(lambda x: module(x)[0], backend="aot_eager")(compiled_leaf).backward(dy)
    for found in (leaf.grad, pull(dy)[0], compiled_leaf.grad):
        assert torch.equal(found, dx(code + ops.TF32))


def one_step(kernel: str, dtype: torch.dtype, h0: Tensor, weight_hh: Tensor, tf32: bool) -> Tensor:
    """c in float32 [H] after one step from c0 = 0, of which nothing but h0 decides."""
    H = h0.numel()
    code = dispatch.KERNELS.index(kernel) + (ops.TF32 if tf32 else 0)
    x, weight_ih = torch.zeros(1, 1, 1, dtype=dtype), torch.zeros(4 * H, 1, dtype=dtype)
    given = [x, h0.view(1, 1, H).to(dtype), None, weight_ih, weight_hh.to(dtype)]
    given += [None] * 9
    return torch.ops.lstm_fused.layer_forward(*given, ops.CELL_LSTM, code, True)[4].view(H)


@pytest.mark.parametrize("rounded", ["h0", "weight_hh"])
def test_tf32_rounds_to_the_nearest(rounded: str, kernel: str) -> None:
    """Cut off instead, 1 + 2^-11 + 2^-12 would be 1, and errors would add up over the steps."""
    between, near = 1 + 2.0**-11 + 2.0**-12, 1 + 2.0**-10
    h0 = torch.tensor([between if rounded == "h0" else 0.5])
    weight_hh = torch.tensor([0.0, 0.0, between if rounded == "weight_hh" else 0.5, 0.0])
    for tf32, factor in ((True, near), (False, between)):
        found = one_step(kernel, torch.float32, h0, weight_hh.view(4, 1), tf32)
        ref = 0.5 * torch.tensor([0.5 * factor], dtype=torch.float64).tanh()
        assert_no_worse("c", found, ref.float(), ref)


LARGEST = torch.finfo(torch.float32).max


@pytest.mark.parametrize("where", ["h0", "weight_hh"])
@pytest.mark.parametrize("size", [LARGEST, 3.4025e38, 2.0**-130, 2.0**-149, math.inf, math.nan])
def test_ieee_takes_every_float(size: float, where: str, kernel: str) -> None:
    """The largest ones would be infinite if they were rounded to TF32; zero times them is zero."""
    H = 16
    for other in (0.0, 0.7, 1 / LARGEST):
        h0, weight_hh = torch.zeros(H), torch.zeros(4 * H, H)
        a, b = (size, other) if where == "h0" else (other, size)
        h0[3], weight_hh[2 * H : 3 * H, 3] = a, b
        found = one_step(kernel, torch.float32, h0, weight_hh, tf32=False)
        product = weight_hh[2 * H : 3 * H].double() @ h0.double()
        # Only the exact zeros beside it meet an infinite or NaN h0.
        ref = 0.5 * product.tanh()
        yard = 0.5 * (weight_hh[2 * H : 3 * H] @ h0).tanh()
        if where == "h0" and not math.isfinite(size):  # i of 0 times it is NaN
            assert found.isnan().all()
        else:
            assert_no_worse("c", found, yard, ref)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_and_states_of_16_bits_are_float(dtype: torch.dtype, kernel: str) -> None:
    H = 40
    h0, weight_hh = torch.randn(H).to(dtype), torch.randn(4 * H, H).div(H**0.5).to(dtype)
    found = one_step(kernel, dtype, h0, weight_hh, tf32=False)

    def by_torch(dtype: torch.dtype) -> Tensor:
        i, _, g, _ = (weight_hh.to(dtype) @ h0.to(dtype)).view(4, H)
        return i.sigmoid() * g.tanh()

    assert_no_worse("c", found, by_torch(torch.float32), by_torch(torch.float64))
