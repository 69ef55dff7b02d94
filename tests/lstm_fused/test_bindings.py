"""Where the bindings meet: transforms in compiled code, batched and shared gradients, raw ops."""

from __future__ import annotations

import pytest
import torch

import lstm_fused
from lstm_fused import functional, ops
from tests.close import assert_no_worse


@pytest.fixture
def module() -> lstm_fused.LSTM:
    return lstm_fused.LSTM(3, 5)


def as_double(module: torch.nn.Module) -> torch.nn.LSTM:
    reference = torch.nn.LSTM(3, 5).double()
    reference.load_state_dict({k: v.double() for k, v in module.state_dict().items()})
    return reference


def test_jvp_inside_compiled_code(module: lstm_fused.LSTM) -> None:
    x, tangent = torch.randn(4, 2, 3), torch.randn(4, 2, 3)

    def moved(x: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
        return torch.func.jvp(lambda x: module(x)[0], (x,), (tangent,))[1]

    got = torch.compile(moved, backend="aot_eager")(x, tangent)
    reference = as_double(module)
    want = torch.func.jvp(lambda x: reference(x)[0], (x.double(),), (tangent.double(),))[1]
    assert_no_worse("tangent", got, want.float(), want)


def test_grad_inside_compiled_code(module: lstm_fused.LSTM) -> None:
    x = torch.randn(4, 2, 3)
    got = torch.compile(torch.func.grad(lambda x: module(x)[0].sum()), backend="aot_eager")(x)
    reference = as_double(module)
    want = torch.func.grad(lambda x: reference(x)[0].sum())(x.double())
    assert_no_worse("grad", got, want.float(), want)


def test_the_biases_gradients_are_two_tensors(module: lstm_fused.LSTM) -> None:
    module(torch.randn(4, 2, 3))[0].sum().backward()
    assert torch.equal(module.bias_ih_l0.grad, module.bias_hh_l0.grad)
    module.bias_ih_l0.grad.zero_()
    assert module.bias_hh_l0.grad.abs().max() > 0
    module.zero_grad()
    module.bias_ih_l0.register_hook(lambda grad: grad.mul_(0))
    module(torch.randn(4, 2, 3))[0].sum().backward()
    assert module.bias_ih_l0.grad.abs().max() == 0
    assert module.bias_hh_l0.grad.abs().max() > 0


def test_batched_gradients(module: lstm_fused.LSTM) -> None:
    x = torch.randn(2, 1, 3, requires_grad=True)

    def by_row(retain: bool) -> list[torch.Tensor]:
        y = module(x)[0].flatten()
        rows = [torch.autograd.grad(y[k], x, retain_graph=True)[0] for k in range(10)]
        (batched,) = torch.autograd.grad(
            y, x, torch.eye(10), is_grads_batched=True, retain_graph=retain
        )
        return [torch.stack(rows), batched]

    for retain in (True, False):
        loop, batched = by_row(retain)
        assert_no_worse("jacobian", batched, loop, loop.double())


def test_a_projection_of_no_width_is_refused() -> None:
    params = [torch.randn(16, 3), torch.randn(16, 0), torch.randn(0, 4)]
    with pytest.raises(RuntimeError, match="proj_size greater than zero"):
        functional.lstm(torch.randn(2, 1, 3), None, params)
    assert ops.available()
    with pytest.raises(RuntimeError, match="proj_size must be greater than zero"):
        torch.ops.lstm_fused.layer_forward(
            torch.randn(2, 1, 3),
            *(None, None, params[0], params[1], None, None, params[2]),
            *[None] * 6,
            *(ops.CELL_LSTM, -1, False),
        )


@pytest.mark.parametrize("place", [1, 3, 4, 5])
@pytest.mark.parametrize("change", ["device", "dtype"])
def test_the_raw_op_refuses_tensors_unlike_x(place: int, change: str) -> None:
    assert ops.available()
    given: list[object] = [torch.randn(2, 1, 3), torch.randn(1, 1, 4), torch.randn(1, 1, 4)]
    given += [torch.randn(16, 3), torch.randn(16, 4), torch.randn(16), torch.randn(16)]
    given += [None] * 7 + [ops.CELL_LSTM, -1, False]
    assert len(torch.ops.lstm_fused.layer_forward(*given)) == 5
    tensor = given[place]
    assert isinstance(tensor, torch.Tensor)
    given[place] = tensor.to("meta") if change == "device" else tensor.double()
    with pytest.raises(RuntimeError, match=f"must (have|be on) the {change} of x"):
        torch.ops.lstm_fused.layer_forward(*given)


def test_explain_takes_lstms_only() -> None:
    with pytest.raises(TypeError, match="got GRU"):
        lstm_fused.explain(torch.nn.GRU(3, 4))
