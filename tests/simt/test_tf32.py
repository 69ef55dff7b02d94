"""What cuda.block, cuda.cluster and cuda.grid multiply and sum in: torch's precision of float32,
and float for 16 bits."""

from __future__ import annotations

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

REFUSED = "in float32 it rounds the factors of products to TF32"


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
    """simt.block, for what the others refuse: products of IEEE float32."""
    with lstm_fused.variant("simt.block"):
        yield


def precision(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", name)


def test_tf32_where_torch_allows_it(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward: ieee is nearer to float64 than tf32, which is nearer than bfloat16."""
    has_ieee = kernel == "simt.block"
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
            run(torch.float32, kernel if has_ieee else "simt.step"),
            run(torch.float32, kernel, "tf32"),
            run(torch.bfloat16, kernel),
        )
    )
    for best, middle, worst in zip(ieee, tf32, bf16, strict=True):
        assert 4 * best < middle < worst
    if has_ieee:
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


@pytest.mark.parametrize("refusing", ["simt.cluster", "simt.grid"])
@pytest.mark.parametrize("name", ["ieee", "none"])
def test_refused_where_torch_does_not_allow_tf32(
    name: str, refusing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = lstm_fused.LSTM(3, 16)
    x = torch.randn(4, 2, 3)
    precision(monkeypatch, name)

    def output(x: Tensor) -> Tensor:
        return module(x)[0]

    with lstm_fused.variant(refusing):
        with pytest.raises(dispatch.Refused, match=REFUSED):
            module(x)
        with pytest.raises(dispatch.Refused, match=REFUSED):
            torch.func.vjp(output, x)
        precision(monkeypatch, "tf32")
        assert module(x)[0].shape == (4, 2, 16)
        assert module.bfloat16()(x.bfloat16())[0].dtype == torch.bfloat16


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
        if not tf32 and kernel != "simt.block":  # the others have no such product
            with pytest.raises(RuntimeError, match=REFUSED):
                one_step(kernel, torch.float32, h0, weight_hh.view(4, 1), tf32)
            continue
        found = one_step(kernel, torch.float32, h0, weight_hh.view(4, 1), tf32)
        ref = 0.5 * torch.tensor([0.5 * factor], dtype=torch.float64).tanh()
        assert_no_worse("c", found, ref.float(), ref)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_and_states_of_16_bits_are_float(dtype: torch.dtype, kernel: str) -> None:
    H = 40
    h0, weight_hh = torch.randn(H).to(dtype), torch.randn(4 * H, H).div(H**0.5).to(dtype)
    found = one_step(kernel, dtype, h0, weight_hh, tf32=False)

    def by_torch(dtype: torch.dtype) -> Tensor:
        i, _, g, _ = (weight_hh.to(dtype) @ h0.to(dtype)).view(4, H)
        return i.sigmoid() * g.tanh()

    assert_no_worse("c", found, by_torch(torch.float32), by_torch(torch.float64))
