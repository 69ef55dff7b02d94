"""Calls past the dispatcher: the same bits as the op, and everything else left to the op."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import lstm_fused
from lstm_fused import functional, layer, ops

if not ops.available():
    pytest.skip("lstm_fused._C is not built", allow_module_level=True)

Pair = tuple[Tensor, Tensor]
SETTINGS = [torch.no_grad, torch.inference_mode]
DTYPES = [torch.float32, torch.float64]
# T, B, I, H, P, then arguments of the module and whether states are given.
LAYERS = [
    (1, 1, 1, 1, 0, {}, True),
    (1, 3, 5, 7, 0, {}, True),
    (4, 1, 5, 7, 0, {"batch_first": True}, True),
    (1, 3, 5, 7, 0, {"batch_first": True}, False),
    (5, 3, 2, 33, 0, {"bias": False}, False),
    (30, 4, 16, 20, 0, {}, True),  # rows enough to be packed
    (6, 3, 5, 7, 4, {}, True),
    (6, 3, 5, 7, 0, {"bidirectional": True}, True),
    (6, 3, 5, 7, 0, {"num_layers": 2, "bias": False}, False),
    (1, 1, 5, 7, 0, {"num_layers": 4, "dropout": 0.5}, True),  # which is for training
    (6, 3, 5, 7, 4, {"num_layers": 3, "bidirectional": True}, True),
]


@pytest.fixture(autouse=True)
def _protocol() -> None:
    assert layer._direct is not None, "this torch has no __dlpack_c_exchange_api__"


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Whether each call past the dispatcher, of a layer or a step, was answered."""
    found: list[bool] = []

    def spy(call: Callable[..., Any]) -> Callable[..., Any]:
        def direct(*args: Any, **kwargs: Any) -> Any:
            result = call(*args, **kwargs)
            found.append(result is not None)
            return result

        return direct

    monkeypatch.setattr(functional, "direct", spy(layer.direct))
    monkeypatch.setattr(functional, "direct_step", spy(layer.direct_step))
    yield found


def by_op(call: Callable[[], Any]) -> Any:
    """The same without a call past the dispatcher."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer, "_direct", None)
        return call()


def flat(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else [t for o in outputs for t in flat(o)]


def assert_same(got: Any, want: Any) -> None:
    for a, b in zip(flat(got), flat(want), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", LAYERS)
def test_layers_have_the_bits_of_the_op(
    answers: list[bool], shape: Any, dtype: torch.dtype, setting: Callable[[], Any]
) -> None:
    T, B, I, H, P, arguments, has_states = shape  # noqa: E741
    module = lstm_fused.LSTM(I, H, proj_size=P, dtype=dtype, **arguments).eval()
    cells = arguments.get("num_layers", 1) * (2 if module.bidirectional else 1)
    x = torch.randn((B, T, I) if arguments.get("batch_first") else (T, B, I), dtype=dtype)
    states = [torch.randn(cells, B, size, dtype=dtype) for size in (P or H, H)]
    hx = tuple(states) if has_states else None
    with setting():
        got, want = module(x, hx), by_op(lambda: module(x, hx))
    assert answers == [True, False]
    assert_same(got, want)
    assert all(t.is_contiguous() and not t.requires_grad for t in flat(got))
    assert {t.is_inference() for t in flat(got)} == {setting is torch.inference_mode}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("has_states", [True, False])
@pytest.mark.parametrize("B", [1, 3, 70])
def test_a_step_has_the_bits_of_the_op(
    answers: list[bool], B: int, has_states: bool, bias: bool, dtype: torch.dtype
) -> None:
    module = lstm_fused.LSTMCell(5, 7, bias=bias, dtype=dtype)
    x, h, c = (torch.randn(B, size, dtype=dtype) for size in (5, 7, 7))
    hx = (h, c) if has_states else None
    with torch.no_grad():
        got, want = module(x, hx), by_op(lambda: module(x, hx))
    assert answers == [True, False]
    assert_same(got, want)


@torch.no_grad()
def test_outputs_are_tensors_like_others() -> None:
    module, x = lstm_fused.LSTM(3, 4), torch.randn(2, 5, 3)
    y, (h_n, c_n) = module(x)
    owners = {t.untyped_storage().data_ptr() for t in (y, h_n, c_n, x)}
    assert len(owners) == 4
    assert y.untyped_storage().resizable() and y._version == 0 and type(y) is Tensor
    y += 1
    h, c = lstm_fused.LSTMCell(3, 4)(x[0])
    assert h.untyped_storage().data_ptr() != c.untyped_storage().data_ptr()


# What is not for a call past the dispatcher


class Recorder(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Marked(Tensor):
    pass


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "gradients": torch.enable_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "a dispatch mode": Recorder,
    "a default device": lambda: torch.device("cpu"),
    "a profiler": torch.profiler.profile,
    "forward mode": torch.autograd.forward_ad.dual_level,
    "torch's own": lambda: lstm_fused.variant("torch.native"),
    "plain ops": lambda: lstm_fused.variant("torch.composite"),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_sees_the_op(answers: list[bool], mode: str) -> None:
    module, cell, x = lstm_fused.LSTM(3, 4), lstm_fused.LSTMCell(3, 4), torch.randn(2, 5, 3)
    with torch.no_grad(), MODES[mode]():
        module(x)
        cell(x[0])
    assert answers == [False, False]


def test_a_profiler_shows_the_op() -> None:
    module, x = lstm_fused.LSTM(3, 4), torch.randn(2, 5, 3)
    with torch.no_grad(), torch.profiler.profile() as seen:
        module(x)
    assert any("lstm_fused::layer_forward" in event.name for event in seen.events())


def test_a_forced_kernel_of_a_cpu_is_the_one_that_runs(answers: list[bool]) -> None:
    module, x = lstm_fused.LSTM(3, 40), torch.randn(50, 5, 3)
    with torch.no_grad(), lstm_fused.variant("cpu.generic"):
        got, want = module(x), by_op(lambda: module(x))
    assert answers == [True, False]
    assert_same(got, want)


@torch.no_grad()
def test_transforms_and_fake_tensors(answers: list[bool]) -> None:
    module, x = lstm_fused.LSTM(3, 4), torch.randn(6, 2, 5, 3)
    got = torch.vmap(lambda one: module(one)[0])(x)
    assert torch.equal(got[4], by_op(lambda: module(x[4]))[0])
    with FakeTensorMode():
        assert lstm_fused.LSTM(3, 4)(torch.empty(2, 5, 3))[0].shape == (2, 5, 4)
    assert not any(answers)


ODD: dict[str, Callable[[Tensor], Tensor]] = {
    "not contiguous": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "a part": lambda t: torch.cat([t, t], -1)[..., : t.shape[-1]],
    "negated": lambda t: torch._neg_view(t.neg()),
    "a subclass": lambda t: t.as_subclass(Marked),
    "half": lambda t: t,
}


@torch.no_grad()
@pytest.mark.parametrize("what", ["x", "h", "c", "weight_hh_l0", "bias_ih_l0"])
@pytest.mark.parametrize("how", ODD)
def test_odd_tensors(answers: list[bool], how: str, what: str) -> None:
    """Whatever is not plain memory is for the op, and what comes out is right."""
    module = lstm_fused.LSTM(3, 4)
    if how == "half":
        module = module.bfloat16()
    dtype = module.weight_hh_l0.dtype
    x, h, c = (torch.randn(size, dtype=dtype) for size in ((2, 5, 3), (1, 5, 4), (1, 5, 4)))
    want = by_op(lambda: module(x, (h, c)))
    given = {"x": x, "h": h, "c": c}
    if what in given:
        given[what] = ODD[how](given[what])
    elif how == "not contiguous" and getattr(module, what).dim() == 1:
        return  # it has one axis
    else:
        setattr(module, what, nn.Parameter(ODD[how](getattr(module, what).detach())))
    answers.clear()
    got = module(given["x"], (given["h"], given["c"]))
    a_bias = what == "bias_ih_l0" and how == "a part"  # the first half of a vector is contiguous
    assert answers == [a_bias]
    for a, b in zip(flat(got), flat(want), strict=True):
        assert torch.equal(a.as_subclass(Tensor), b)


@torch.no_grad()
def test_other_objects_are_left_to_the_checks(answers: list[bool]) -> None:
    module = lstm_fused.LSTM(3, 4)
    x, h = torch.randn(2, 5, 3), torch.randn(1, 5, 4)
    wrong: list[tuple[Any, Any]] = [
        (None, None),
        ([[[0.0]]], None),
        (x, h),
        (x, (h, None)),
        (x, (h, h, h)),
        (x[0, 0], None),
        (torch.randn(2, 5, 6), None),
        (torch.randn(0, 5, 3), None),
        (x.double(), None),
        (x.long(), None),
        (x.to_sparse(), None),
        (x, (h[:, :4], h)),
        (x, (h.double(), h)),
    ]
    for given, hx in wrong:
        with pytest.raises((TypeError, ValueError, RuntimeError, NotImplementedError)):
            module(given, hx)
    assert not any(answers)


@torch.no_grad()
def test_dropout_is_for_the_op(answers: list[bool]) -> None:
    module = lstm_fused.LSTM(3, 4, num_layers=2, dropout=0.5).train()
    y = module(torch.randn(2, 5, 3))[0]
    assert not torch.equal(y, module.eval()(torch.randn(2, 5, 3))[0])
    assert answers == [True]  # and not even asked for in training


@torch.no_grad()
@pytest.mark.parametrize(
    "wrong",
    [{"num_layers": 1.0}, {"num_layers": 0}, {"dropout": 2.0}, {"num_layers": torch.tensor(1)}],
)
def test_wrong_numbers(answers: list[bool], wrong: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        functional.lstm(
            torch.randn(2, 5, 3), None, list(lstm_fused.LSTM(3, 4).parameters()), **wrong
        )
    assert not any(answers)


@torch.no_grad()
@pytest.mark.parametrize("batch_first", [1, 0, 1.0, "yes", "", np.True_])
def test_batch_first_is_what_python_takes_for_true(batch_first: Any) -> None:
    params, x = list(lstm_fused.LSTM(3, 4).parameters()), torch.randn(2, 1, 3)

    def run() -> Any:
        return functional.lstm(x, None, params, batch_first=batch_first)

    assert_same(run(), by_op(run))


@torch.no_grad()
def test_lists_may_change_meanwhile(answers: list[bool]) -> None:
    """Other threads run while a layer does."""
    module = lstm_fused.LSTM(64, 64, num_layers=6)
    params = [p.detach().clone() for p in module.parameters()]
    x, hx = torch.randn(400, 8, 64), [torch.zeros(6, 8, 64), torch.zeros(6, 8, 64)]
    want = module(x)
    stop = threading.Event()

    def forget() -> None:
        while not stop.is_set():
            params[4:] = [p.clone() for p in params[4:]]
            hx[:] = [h.clone() for h in hx]

    thread = threading.Thread(target=forget)
    thread.start()
    try:
        for _ in range(10):
            got = functional.lstm(x, hx, params, num_layers=6)  # type: ignore[arg-type]
            assert_same(got, want)
    finally:
        stop.set()
        thread.join()
    assert all(answers)


@torch.no_grad()
def test_zeros_without_memory(answers: list[bool]) -> None:
    module = lstm_fused.LSTM(3, 4)
    for zeros in (torch._efficientzerotensor((2, 5, 3)), torch._efficientzerotensor((4, 5, 3))[2:]):
        assert_same(module(zeros), module(torch.zeros(2, 5, 3)))
    assert answers == [False, True, False, True]


@torch.no_grad()
def test_empty_batches_and_inputs(answers: list[bool]) -> None:
    assert lstm_fused.LSTM(3, 4)(torch.randn(2, 0, 3))[0].shape == (2, 0, 4)
    assert lstm_fused.LSTM(3, 4)(torch.randn(2, 3))[0].shape == (2, 4)
    assert not any(answers)


@torch.no_grad()
def test_nothing_is_kept_and_nothing_is_lost() -> None:
    module, cell = lstm_fused.LSTM(3, 4), lstm_fused.LSTMCell(3, 4)
    x, h, c = torch.randn(2, 5, 3), torch.randn(1, 5, 4), torch.randn(1, 5, 4)
    tensors = [x, h, c, *module.parameters(), Tensor, nn.Parameter]

    def run() -> None:
        for _ in range(100):
            module(x, (h, c))
            cell(x[0], (h[0], c[0]))

    run()
    gc.collect()
    before = [sys.getrefcount(t) for t in tensors], len(gc.get_objects())
    run()
    gc.collect()
    after = [sys.getrefcount(t) for t in tensors], len(gc.get_objects())
    assert after[0] == before[0]
    assert abs(after[1] - before[1]) < 50


@torch.no_grad()
def test_where_torch_lacks_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = lstm_fused.LSTM(3, 4), torch.randn(2, 5, 3)
    want = module(x)
    monkeypatch.setattr(layer, "_direct", None)
    assert_same(module(x), want)


def test_binding_to_what_has_no_protocol() -> None:
    from lstm_fused import _load

    module = _load.load()
    assert module is not None
    assert module.bind_direct(int, nn.Parameter) is False
    assert module.bind_direct(Tensor, nn.Parameter) is True
    with pytest.raises(TypeError, match="takes Tensor and Parameter"):
        module.bind_direct(Tensor)
