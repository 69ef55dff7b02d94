"""LSTMCell against torch.nn.LSTMCell, side by side."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from lstm_fused import compat
from lstm_fused.nn import LSTMCell
from tests.close import assert_no_worse
from tests.lstm_fused.sidebyside import assert_same, outcome

F64 = {"dtype": torch.float64}


def twins(*args: object, cls: type[nn.Module] = LSTMCell, **kwargs: object) -> tuple:
    """Ours and torch's with the same parameters, in float64 unless a dtype is given."""
    kwargs = {**F64, **kwargs}
    torch.manual_seed(1)
    ours = cls(*args, **kwargs)
    torch.manual_seed(1)
    return ours, nn.LSTMCell(*args, **kwargs)


@pytest.mark.parametrize("cls", [LSTMCell, compat.LSTMCell])
@pytest.mark.parametrize(
    "args, kwargs",
    [
        ((3, 4), {}),
        ((3, 4, False), {}),
        ((3, 4), {"bias": 0}),
        ((3, 0), {}),
        ((3, -1), {}),
        ((), {}),
        ((3, 4.0), {}),
        ((3, 4), {"dtype": torch.int32}),
        ((3, 4), {"device": "meta", "dtype": torch.bfloat16}),
    ],
    ids=str,
)
def test_constructor(args: tuple, kwargs: dict, cls: type[nn.Module]) -> None:
    got, wanted = (outcome(lambda m=m: m(*args, **kwargs)) for m in (cls, nn.LSTMCell))
    assert got == wanted
    if wanted.error is None:
        kwargs = {**F64, **kwargs}
        ours, theirs = twins(*args, cls=cls, **kwargs)
        assert repr(ours) == repr(theirs)
        assert list(ours._parameters) == list(theirs._parameters)
        assert ours.load_state_dict(theirs.state_dict()) == theirs.load_state_dict(
            ours.state_dict()
        )
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
            assert a.is_meta or torch.equal(a, b)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cls", [LSTMCell, compat.LSTMCell])
def test_every_form_of_input(bias: bool, cls: type[nn.Module]) -> None:
    ours, theirs = twins(3, 4, bias, cls=cls)
    h, c = torch.randn(2, 4, **F64), torch.randn(2, 4, **F64)
    x = torch.randn(2, 3, **F64)
    for input, hx in (
        (x, None),
        (x, (h, c)),
        (x, [h, c]),
        (x, (h, h)),
        (x[0], None),
        (x[0], (h[0], c[0])),
        (x[:0], None),
        (x[:0], (h[:0], c[:0])),
        (torch.randn(3, 2, **F64).t(), (h[:1].expand(2, 4), c.t().contiguous().t())),
    ):
        assert_same(ours(input, hx), theirs(input, hx))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_worse_than_torch_over_time(dtype: torch.dtype) -> None:
    """Twenty steps of the loop that people write around a cell, and its gradients."""
    inputs = torch.randn(20, 3, 5).to(dtype)
    ours, yard = twins(5, 7, dtype=dtype)
    ref = copy.deepcopy(yard).double()
    results = []
    for cell in (ours, yard, ref):
        x = inputs.to(next(cell.parameters()).dtype)
        hx, outputs = None, []
        for step in x:
            hx = cell(step, hx)
            outputs.append(hx[0])
        y = torch.stack(outputs)
        grads = torch.autograd.grad(y.sum(0).square().sum(), list(cell.parameters()))
        results.append([y, hx[1], *grads])
    for name, *tensors in zip(("y", "c", "w_ih", "w_hh", "b_ih", "b_hh"), *results, strict=True):
        assert_no_worse(name, *tensors)


def _ones(*shape: int, **kwargs: object) -> torch.Tensor:
    return torch.ones(*shape, **{**F64, **kwargs})


X, STATE = _ones(2, 3), _ones(2, 4)

SAME = {
    "3-D": (_ones(1, 2, 3), None),
    "0-D": (_ones(()), None),
    "width": (_ones(2, 5), None),
    "width, unbatched": (_ones(5), None),
    "h of another B": (X, (_ones(3, 4), _ones(3, 4))),
    "c of another B": (X, (STATE, _ones(3, 4))),
    "h of B = 1": (X, (_ones(1, 4), STATE)),
    "h of another H": (X, (_ones(2, 5), STATE)),
    "c of another H": (X, (STATE, _ones(2, 5))),
    "3-D h": (X, (_ones(1, 2, 4), STATE)),
    "3-D c": (X, (STATE, _ones(1, 2, 4))),
    "three states": (X, (STATE,) * 3),
    "one state": (X, (STATE,)),
}

BETTER = {
    "float32": (X.float(), None, RuntimeError, r"RNN input dtype \(torch.float32\) does not match"),
    "integers": (X.int(), None, RuntimeError, r"RNN input dtype \(torch.int32\) does not match"),
    "float32 h": (X, (STATE.float(), STATE), RuntimeError, r"hx\[0\] must have the dtype of input"),
    "a tensor for hx": (X, _ones(2, 2, 4), TypeError, "hx must be a pair .*, got Tensor"),
    "no tensor": ([1.0], None, TypeError, "input must be a Tensor, got list"),
    "a state is None": (X, (STATE, None), TypeError, r"hx\[1\] must be a Tensor, got NoneType"),
    "1-D states": (
        X,
        (_ones(4), _ones(4)),
        RuntimeError,
        r"For batched 2-D input, hx and cx should also be 2-D but got \(1-D, 1-D\) tensors",
    ),
    "unbatched, 2-D states": (X[0], (STATE, STATE), RuntimeError, "For unbatched 1-D input"),
    "meta input": (X.to("meta"), None, RuntimeError, "input tensor at meta and parameter tensor"),
}


@pytest.mark.parametrize("name", SAME)
def test_torchs_words(name: str) -> None:
    ours, theirs = twins(3, 4)
    input, hx = SAME[name]
    got, wanted = (outcome(lambda m=m: m(input, hx)) for m in (ours, theirs))
    assert wanted.error is not None
    assert got == wanted
    assert_same(ours(X), theirs(X))


@pytest.mark.parametrize("name", BETTER)
def test_better_words(name: str) -> None:
    ours, theirs = twins(3, 4)
    input, hx, error, words = BETTER[name]
    with pytest.raises(error, match=words):
        ours(input, hx)
    assert_same(ours(X), theirs(X))


def test_broken_weights_are_named() -> None:
    for name, bad, words in (
        ("weight_hh", torch.ones(16, 5), r"weight_ih must be \[20, 3\], got \[16, 3\]"),
        ("weight_ih", torch.ones(3), r"must be \[4\*hidden_size, input_size\]"),
        ("bias_ih", torch.ones(15), r"bias_ih must be \[16\], got \[15\]"),
        ("bias_hh", torch.ones(16).double(), "bias_hh must have the dtype of input"),
    ):
        cell = LSTMCell(3, 4)
        setattr(cell, name, nn.Parameter(bad))
        with pytest.raises(RuntimeError, match=words):
            cell(torch.ones(2, 3))


def test_copies() -> None:
    ours, _ = twins(3, 4)
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert_same(copied(X), ours(X))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    """float32 goes in and the autocast dtype comes out; float64 is left alone."""
    cell, x = LSTMCell(3, 4), torch.randn(2, 3)
    with torch.autocast("cpu", dtype):
        h, c = cell(x)
        h2, c2 = cell(x, (h, torch.zeros(2, 4)))
        assert {t.dtype for t in (h, c, h2, c2)} == {dtype}
        assert cell.double()(x.double())[0].dtype is torch.float64
    (h2.sum() + c2.sum()).backward()


def test_compiles_whole() -> None:
    cell, x = LSTMCell(3, 4), torch.randn(2, 3)
    zeros = torch.zeros(2, 4)
    whole = torch.compile(cell, fullgraph=True, backend="aot_eager")
    for hx in (None, (zeros, zeros), cell(x)):
        for a, b in zip(whole(x, hx), cell(x, hx), strict=True):
            assert_no_worse("state", a, b, b.detach().double())


@pytest.mark.parametrize("cls", [LSTMCell, nn.LSTMCell])
def test_outputs_can_be_changed_in_place(cls: type[nn.Module]) -> None:
    """As a loop does that resets the states of episodes which ended."""
    x, mask = torch.randn(3, 4), torch.tensor([[1.0], [0.0], [1.0]])
    gradients = []
    for in_place in (False, True):
        torch.manual_seed(0)
        cell = cls(4, 5)
        h, c = cell(x)
        h, c = (h.mul_(mask), c.mul_(mask)) if in_place else (h * mask, c * mask)
        (h.sum() + c.sum()).backward()
        gradients.append([p.grad for p in cell.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("batch", [1, 65])
@pytest.mark.parametrize("state", [False, True])
def test_an_input_without_columns(batch: int, state: bool) -> None:
    """nn.LSTMCell takes it: biases and the state alone decide."""
    ours, theirs = twins(0, 5, dtype=torch.float32)
    x = torch.zeros(batch, 0)
    hx = (torch.randn(batch, 5), torch.randn(batch, 5)) if state else None
    found, yard = ours(x, hx), theirs(x, hx)
    ref = theirs.double()(x.double(), (hx[0].double(), hx[1].double()) if hx else None)
    for name, *tensors in zip("hc", found, yard, ref, strict=True):
        assert_no_worse(name, *tensors)
