"""Stacks of layers in chunks of time: the numbers, and who waits for whom.

Streams are only on a GPU (tests/csrc/test_gpu_wavefront.py). Here lanes are watched that keep
vector clocks: a lane knows what it has waited for, and a layer may read only what its lane knows to
be done.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import lstm_fused
from lstm_fused import dispatch, stack
from tests.cases import (
    EMPTY,
    Case,
    Ours,
    Params,
    by_functional,
    directions,
    problem,
    run,
    run_both,
)

DEEP = Case("chunks", "three layers at once", T=11, B=3, I=4, H=6, L=3)
RAGGED = Case(
    "chunks_ragged",
    "sequences end within chunks, with them, and all but one early",
    T=9,
    B=6,
    I=3,
    H=5,
    L=3,
    lengths=(9, 8, 4, 4, 2, 1),
)
CASES = (
    DEEP,
    RAGGED,
    replace(DEEP, name="chunks_proj", why="h is narrower than c", P=4, L=2, bias=False),
    replace(RAGGED, name="chunks_ragged_no_hx", why="the first chunk has no states", hx=False),
    replace(EMPTY, name="chunks_empty", why="no sequence in any chunk", L=2),
)
cases = pytest.mark.parametrize("case", CASES)


def layers_of(case: Case, params: dict[str, Tensor]) -> list[list[tuple]]:
    return [directions(case, params, index) for index in range(case.L)]


def by_chunks(steps: int) -> Ours:
    return lambda case, params, x, hx, batch_sizes: stack.in_chunks(
        x, hx, layers_of(case, params), 0.0, batch_sizes, steps
    )


@cases
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chunks_give_what_whole_layers_give(case: Case, steps: int, dtype: torch.dtype) -> None:
    run_both(case, dtype, by_chunks(steps)).check()


@cases
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_chunks_in_16_bits(case: Case, dtype: torch.dtype) -> None:
    run_both(case, dtype, by_chunks(5)).check()


class WatchedLane(stack.Lane):
    """A lane with a vector clock: how much of each lane's work it knows to be done."""

    active: WatchedLane | None = None

    def __init__(self, number: int) -> None:
        super().__init__(None)
        self.number, self.time = number, 0
        self.seen: dict[int, int] = {}
        self.left: dict[int, int] = {}  # what it knew when it last finished something
        self.kept: set[int] = set()

    def __enter__(self) -> None:
        WatchedLane.active = self

    def __exit__(self, *_: object) -> None:
        WatchedLane.active = None
        self.time += 1
        self.seen[self.number] = self.time
        self.left = dict(self.seen)

    def after(self, other: stack.Lane) -> None:
        assert isinstance(other, WatchedLane)
        for number, time in other.left.items():
            self.seen[number] = max(self.seen.get(number, 0), time)

    def uses(self, *tensors: Tensor | None) -> None:
        self.kept |= {storage(t) for t in tensors if t is not None}


def storage(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()


class Watch:
    """What lanes have made, and when; stands in for `layer` and `_lanes`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lanes: list[WatchedLane] = []
        self.made: dict[int, tuple[int, int]] = {}  # storage: lane, its time
        self.results: list[tuple[int, tuple[Tensor, ...]]] = []  # lane; kept, so none comes twice
        self.below: list[tuple[int, int]] = []  # of each call above the first layer
        self._layer = stack.layer
        monkeypatch.setattr(stack, "_lanes", self._make)
        monkeypatch.setattr(stack, "layer", self._watched)

    def _make(self, x: Tensor, count: int) -> list[WatchedLane]:
        self.lanes = [WatchedLane(number) for number in range(count)]
        return self.lanes

    def _watched(
        self, x: Tensor, h0: Tensor | None, c0: Tensor | None, weights: list, sizes: Tensor | None
    ) -> tuple[Tensor, ...]:
        lane = WatchedLane.active
        assert lane is not None, "a layer ran outside of its lane"
        for t in (x, h0, c0, *weights[0]):
            if t is None:
                continue
            maker, time = self.made.get(storage(t), (0, 1))  # else the caller's
            assert maker == lane.number or lane.seen.get(maker, 0) >= time, (
                f"lane {lane.number} reads what it did not wait for lane {maker} to make"
            )
            assert maker == lane.number or storage(t) in lane.kept
        above = [number for number in lane.seen if number > lane.number]
        assert not above, f"lane {lane.number} waited for lanes {above}, which it does not read"
        if lane.number:
            self.below.append((lane.seen[lane.number - 1], self.made[storage(x)][1]))
        results = self._layer(x, h0, c0, weights, sizes)
        self.results.append((lane.number, results))
        self.made |= {storage(t): (lane.number, lane.time + 1) for t in results}
        return results


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    yield Watch(monkeypatch)


@pytest.mark.parametrize("case", [DEEP, RAGGED])
@pytest.mark.parametrize("steps", [1, 3, 8])
def test_lanes_wait_for_what_they_read_and_for_no_more(
    watch: Watch, case: Case, steps: int
) -> None:
    run(by_chunks(steps), problem(case, torch.float64), torch.float64, grad=False)
    chunks = -(-case.T // steps)
    assert [lane.time for lane in watch.lanes] == [chunks] * case.L
    # The layer below has done this chunk and is not waited for to do the next.
    assert len(watch.below) == chunks * (case.L - 1)
    assert all(known == made for known, made in watch.below)


@pytest.mark.parametrize("case", [DEEP, RAGGED])
def test_the_caller_waits_for_all(watch: Watch, case: Case) -> None:
    run(by_chunks(2), problem(case, torch.float64), torch.float64, grad=False)
    home = watch.lanes[0]
    for lane in watch.lanes[1:]:
        assert home.seen[lane.number] == lane.time
    read = [results[0] for lane, results in watch.results if lane == case.L - 1]
    sizes = case.batch_sizes
    for number in range(1, case.L):
        # The last chunk's states, and of others those after which sequences have ended.
        states = [results[1:] for lane, results in watch.results if lane == number]
        for place, pair in enumerate(states):
            last = place + 1 == len(states)
            if last or (sizes is not None and sizes[2 * place] > sizes[2 * place + 2]):
                read += pair
    assert {storage(t) for t in read} <= home.kept


def test_dropout_is_on_what_all_but_the_last_put_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, Tensor, Tensor]] = []
    given = problem(DEEP, torch.float64)
    layers = layers_of(DEEP, given.params)
    original = stack.layer

    def noted(x: Tensor, h0: Tensor, c0: Tensor, weights: Params, sizes: Tensor | None) -> tuple:
        results = original(x, h0, c0, weights, sizes)
        index = next(i for i, w in enumerate(layers) if w is weights)
        seen.append((index, x, results[0]))
        return results

    monkeypatch.setattr(stack, "layer", noted)

    def once() -> Tensor:
        seen.clear()
        torch.manual_seed(3)
        return stack.in_chunks(given.x, given.hx, layers, 0.5, None, 4)[0]

    first = once()
    assert torch.equal(first, torch.cat([y for i, _, y in seen if i == 2]))
    assert torch.equal(first, once())
    for index in (1, 2):
        put_out = torch.cat([y for i, _, y in seen if i == index - 1])
        read = torch.cat([x for i, x, _ in seen if i == index])
        kept = read != 0
        assert torch.equal(read[kept], 2 * put_out[kept])
        assert 0.3 < kept.double().mean() < 0.7
    assert torch.equal(torch.cat([x for i, x, _ in seen if i == 0]), given.x)


@pytest.mark.parametrize(
    ("steps", "error", "words"),
    [
        (0, ValueError, "steps must be at least 1, got 0"),
        (-3, ValueError, "got -3"),
        (2.0, TypeError, "steps must be an int, got float"),
        (True, TypeError, "got bool"),
    ],
)
def test_steps_are_checked(steps: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words), lstm_fused.wavefront(steps):  # type: ignore[arg-type]
        raise AssertionError("entered")


@pytest.mark.parametrize("case", [DEEP, RAGGED])
def test_functional_hands_stacks_over(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    """As on a GPU, where this is the rule: states, dropout and batch_sizes come along."""

    def choice(x: Any, layers: Any, batch_sizes: Any) -> dispatch.Choice | None:
        return stack.chosen(x, layers[0], batch_sizes) if stack._steps.get() else None

    monkeypatch.setattr(stack, "_choice_for_chunks", choice)
    calls = []
    original = stack.in_chunks
    monkeypatch.setattr(stack, "in_chunks", lambda *args: calls.append(args[3:]) or original(*args))
    with lstm_fused.wavefront(4):
        run_both(case, torch.float32, by_functional).check()
        lstm_fused.LSTM(3, 4, num_layers=2, dropout=0.25)(torch.randn(9, 2, 3))
    assert [(args[0], args[2]) for args in calls] == [(0.0, 4), (0.25, 4)]
    assert (calls[0][1] is None) == (case.lengths is None)


def test_all_chunks_run_by_the_variant_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk might be given to another one, and cuda.grid must not run beside itself."""
    pair = "torch.composite", "torch.composite"
    monkeypatch.setattr(stack, "_choice_for_chunks", lambda *_: pair)
    seen = []
    original = stack.layer
    monkeypatch.setattr(
        stack, "layer", lambda *args: seen.append(dispatch.forced()) or original(*args)
    )
    with lstm_fused.wavefront(4):
        lstm_fused.LSTM(3, 4, num_layers=2)(torch.randn(9, 2, 3))
    assert seen == [pair] * 6


@pytest.mark.parametrize("pair", [("cuda.step", "cuda.grid"), ("cuda.grid", "cuda.step")])
def test_no_wavefront_where_a_pass_is_of_cuda_grid(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[str, str]
) -> None:
    x: Any = SimpleNamespace(is_cuda=True, shape=(9, 2, 3))
    layers: Any = [[None]] * 2
    for choice, expected in ((dispatch.Choice(*pair), None), (("cuda.step",) * 2,) * 2):
        monkeypatch.setattr(stack, "chosen", lambda *_, choice=choice: choice)
        with lstm_fused.wavefront(4):
            assert stack._choice_for_chunks(x, layers, None) == expected


def test_a_cpu_runs_whole_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = stack.layer
    monkeypatch.setattr(stack, "layer", lambda *args: calls.append(0) or original(*args))
    rnn = lstm_fused.LSTM(3, 4, num_layers=2)
    x = torch.randn(9, 2, 3)
    with lstm_fused.wavefront(2):
        inside = rnn(x)[0]
    assert len(calls) == 2 and torch.equal(inside, rnn(x)[0])


def test_a_wavefront_ends_with_its_block() -> None:
    with lstm_fused.wavefront(7):
        with lstm_fused.wavefront(2):
            assert stack._steps.get() == 2
        assert stack._steps.get() == 7
    assert stack._steps.get() == 0
