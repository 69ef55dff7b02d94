"""The stateless forms: the same numbers as the modules, and a sentence for every mistake."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn.utils.rnn import pack_sequence

from lstm_fused import check, dispatch, functional, ops
from lstm_fused.nn import LSTM, LSTMCell
from tests.cases import STACK_CASES, Case, by_functional, run_both
from tests.lstm_fused.sidebyside import assert_same, outcome

F64 = {"dtype": torch.float64}


def _ones(*shape: int, **kwargs: object) -> Tensor:
    return torch.ones(*shape, **{**F64, **kwargs})


def _params(**kwargs: object) -> list[Tensor]:
    return list(nn.LSTM(3, 4, **{**F64, **kwargs}).parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", STACK_CASES)
def test_no_worse_than_torch(case: Case, dtype: torch.dtype) -> None:
    run_both(case, dtype, by_functional).check()


@pytest.mark.parametrize("bias, proj", list(itertools.product((True, False), (0, 2))))
def test_number_of_parameters_tells_their_kind(bias: bool, proj: int) -> None:
    module = nn.LSTM(3, 4, 2, bias=bias, proj_size=proj, bidirectional=True, **F64)
    x = torch.randn(5, 2, 3, **F64)
    for params in (tuple(module.parameters()), nn.ParameterList(module.parameters())):
        got = functional.lstm(x, None, params, num_layers=2, bidirectional=True)
        assert_same(got, module(x))


def test_every_option() -> None:
    module = nn.LSTM(3, 4, 2, batch_first=True, dropout=0.5, **F64)
    params = list(module.parameters())
    x, hx = torch.randn(2, 5, 3, **F64), (torch.randn(2, 2, 4, **F64), torch.randn(2, 2, 4, **F64))
    options = {"num_layers": 2, "batch_first": True, "dropout": 0.5}
    for training in (False, True):
        module.train(training)
        torch.manual_seed(3)
        got = functional.lstm(x, hx, params, training=training, **options)
        torch.manual_seed(3)
        assert_same(got, module(x, hx))
    unbatched = functional.lstm(x[0], (hx[0][:, 0], hx[1][:, 0]), params, **options)
    assert_same(unbatched, module.eval()(x[0], (hx[0][:, 0], hx[1][:, 0])))
    packed = pack_sequence([x[0], x[1, :2]])
    y, states = functional.lstm(packed.data, hx, params, batch_sizes=packed.batch_sizes, **options)
    wanted, theirs = module(packed, hx)
    assert_same((y, states), (wanted.data, theirs))


def test_one_tensor_as_both_states() -> None:
    params, x = _params(), torch.randn(5, 2, 3, **F64)
    state = torch.randn(1, 2, 4, **F64, requires_grad=True)
    twin = state.detach().clone().requires_grad_()
    module = nn.LSTM(3, 4, **F64)
    module.load_state_dict(dict(zip(module.state_dict(), params, strict=True)))
    got, wanted = functional.lstm(x, (state, state), params), module(x, (twin, twin))
    assert_same(got, wanted)
    for y, leaf in ((got[0], state), (wanted[0], twin)):
        y.square().sum().backward()
        assert leaf.grad is not None
    assert_same(state.grad, twin.grad)


X = _ones(5, 2, 3)
BIG = 10**6

MISTAKES = {
    "no parameters": (X, {"params": []}, ValueError, "params must hold 1 times .* got 0"),
    "six parameters": (X, {"params": _params() + _params()[:2]}, ValueError, "got 6"),
    "one layer for two": (X, {"params": _params()[:3], "num_layers": 2}, ValueError, "2 times"),
    "a number": (X, {"params": [1, 2, 3, 4]}, TypeError, "weight_ih_l0 must be a Tensor, got int"),
    "num_layers 0": (X, {"num_layers": 0}, ValueError, "num_layers must be greater than zero"),
    "num_layers 1.0": (X, {"num_layers": 1.0}, TypeError, "num_layers should be of type int"),
    "dropout 2": (X, {"dropout": 2}, ValueError, r"dropout should be a number in range \[0, 1\]"),
    "dropout nan": (X, {"dropout": float("nan")}, ValueError, "dropout should be a number"),
    "dropout None": (X, {"dropout": None}, ValueError, "dropout should be a number"),
    "integers everywhere": (
        X.long(),
        {"params": [p.long() for p in _params()]},
        ValueError,
        "floating point of 16 bits or more, or complex, got torch.int64",
    ),
    "eight bits": (
        X.to(torch.float8_e4m3fn),
        {"params": [p.to(torch.float8_e4m3fn) for p in _params()]},
        ValueError,
        "got torch.float8_e4m3fn",
    ),
    "transposed weight": (
        X,
        {"params": [_params()[0].t(), *_params()[1:]]},
        RuntimeError,
        "Expected 16, got 3",
    ),
    "two directions for one": (
        X,
        {"params": _params(bidirectional=True)},
        ValueError,
        "params must hold 1 times .* got 8",
    ),
    "second direction of another width": (
        X,
        {"params": _params() + _params(proj_size=2)[:4], "bidirectional": True},
        RuntimeError,
        r"weight_hh_l0_reverse must be \[16, 4\], got \[16, 2\]",
    ),
    "second layer of another input": (
        X,
        {"params": _params() * 2, "num_layers": 2},
        RuntimeError,
        r"weight_ih_l1 must be \[16, 4\], got \[16, 3\]",
    ),
    "projection of another width": (
        X,
        {"params": [*_params(proj_size=2)[:4], _ones(3, 4)]},
        RuntimeError,
        r"weight_hr_l0 must be \[2, 4\], got \[3, 4\]",
    ),
    "batch_sizes, a list": (_ones(5, 3), {"batch_sizes": [5]}, TypeError, "batch_sizes must be a"),
    "batch_sizes, empty": (
        _ones(0, 3),
        {"batch_sizes": torch.zeros(0, dtype=torch.int64)},
        RuntimeError,
        "Expected sequence length to be larger than 0 in RNN",
    ),
    "batch_sizes, a billion": (
        _ones(5, 3),
        {"batch_sizes": torch.full((BIG,), 1 << 40)},
        RuntimeError,
        f"batch_sizes must sum to .*, 5, got {BIG << 40}",
    ),
    "batch_sizes, negative": (
        _ones(5, 3),
        {"batch_sizes": torch.tensor([6, -1])},
        RuntimeError,
        r"batch_sizes must be positive and in descending order, .* got \[6, -1\]",
    ),
    "batch_sizes with a 3-D input": (
        X,
        {"batch_sizes": torch.tensor([5])},
        RuntimeError,
        "input must have 2 dimensions, got 3",
    ),
    "a PackedSequence": (pack_sequence([_ones(3, 3)]), {}, TypeError, "got PackedSequence"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str) -> None:
    input, kwargs, error, words = MISTAKES[name]
    with pytest.raises(error, match=words):
        functional.lstm(input, **{"params": _params(), **kwargs})


def test_a_right_call_is_left_to_the_checks_of_the_op(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's take longer than a small step: they are for calls that the op refuses."""
    module, cell = LSTM(3, 4, **F64), LSTMCell(3, 4, **F64)
    hx = _ones(1, 2, 4), _ones(1, 2, 4)

    def not_to_be_called(*_: object) -> None:
        raise AssertionError("checked in Python")

    for name in ("split", "cell", "states_shape"):
        monkeypatch.setattr(check, name, not_to_be_called)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            module(X[:1], hx)
            cell(X[0], (hx[0][0], hx[1][0]))
    with pytest.raises(AssertionError, match="checked in Python"):
        module(X, (hx[0], hx[1].float()))


def test_a_forced_kernel_is_left_to_the_op_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "split", None)
    with dispatch.variant("cpu.generic"):
        LSTM(3, 4, **F64)(X)


def test_a_hook_that_fails_is_not_run_again() -> None:
    """Only what the op itself refuses is tried in another way."""
    packed = []

    def pack(t: Tensor) -> Tensor:
        packed.append(t)
        if len(packed) == 3:
            raise RuntimeError("the store is full")
        return t

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t),
        pytest.raises(RuntimeError, match="the store is full"),
    ):
        LSTM(3, 4, **F64)(X)
    assert len(packed) == 3


def test_plain_torch_asks_for_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which might have to be built first."""
    monkeypatch.setattr(ops, "available", None)
    for name in (dispatch.COMPOSITE, dispatch.NATIVE):
        with dispatch.variant(name):
            LSTM(3, 4, **F64)(X)
            LSTMCell(3, 4, **F64)(X[0])


def test_fake_tensors_are_checked() -> None:
    """The op has no kernel for them that would look at a shape."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        for input in (X[..., :2], torch.ones(5, 2, 2, **F64)):  # a real one, and a fake one
            with pytest.raises(RuntimeError, match="Expected 3, got 2"):
                LSTM(3, 4, **F64)(input)


def test_sizes_that_overflow_32_bits() -> None:
    """T*B*4H = 2^35: refused for want of memory or computed, never wrapped. On meta: computed."""
    module = nn.LSTM(1, 1 << 10, device="meta")
    x = torch.ones(1, 1, 1, device="meta").expand(4, 1 << 21, 1)
    y, (h, _) = functional.lstm(x, None, list(module.parameters()))
    assert y.shape == (4, 1 << 21, 1 << 10) and h.shape == (1, 1 << 21, 1 << 10)


def test_a_cell_is_a_layer_of_one_step() -> None:
    params = _params()
    x, h, c = torch.randn(2, 3, **F64), torch.randn(2, 4, **F64), torch.randn(2, 4, **F64)
    got = functional.lstm_cell(x, (h, c), *params)
    assert_same(got, torch.lstm_cell(x, (h, c), *params))
    assert_same(
        functional.lstm_cell(x, None, *params[:2]),
        torch.lstm_cell(x, (torch.zeros_like(h), torch.zeros_like(c)), *params[:2]),
    )
    with pytest.raises(TypeError, match="bias_hh must be a Tensor, got NoneType"):
        functional.lstm_cell(x, None, *params[:3])


@pytest.mark.parametrize("kwargs", [{}, {"proj_size": 2}, {"bidirectional": True}], ids=str)
def test_no_warning_is_given(kwargs: dict) -> None:
    params, both = _params(**kwargs), "bidirectional" in kwargs
    assert outcome(lambda: functional.lstm(X, None, params, bidirectional=both)).warned == ()
