"""What only a GPU shows of a wavefront: streams wait for each other, and graphs take them along.

The numbers of chunks are in tests/lstm_fused/test_stack.py. What fails here says nothing against a
kernel: bench/gpu/tests.py knows these tests by the name of this file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

import lstm_fused
from lstm_fused import stack
from lstm_fused.dispatch import Refused
from tests.cases import Case, by_functional, run_both
from tests.csrc.test_gpu import NAP, Job, assert_same_bits, captured, kept, scale
from tests.lstm_fused import test_stack

pytestmark = pytest.mark.gpu

DEEP, RAGGED = (
    replace(case, name=f"gpu_{case.name}", I=16, H=40)
    for case in (test_stack.DEEP, test_stack.RAGGED)
)
cases = pytest.mark.parametrize("case", [DEEP, RAGGED])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@pytest.fixture(autouse=True, params=["cuda.block", "cuda.cluster", "cuda.step"])
def kernel(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every kernel that may run in chunks, in force."""
    row = next(row for row in lstm_fused.variants() if row.name == request.param)
    if not row.available:
        pytest.skip(f"{row.name}: {row.why_not}")
    with lstm_fused.variant(row.name):
        yield


@pytest.fixture
def chunked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps of every stack that ran in chunks."""
    calls: list[int] = []
    original = stack.in_chunks

    def noted(*args: object) -> object:
        calls.append(args[-1])  # type: ignore[arg-type]
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(stack, "in_chunks", noted)
    return calls


class DeepJob(Job):
    """A case of several layers."""

    layers = staticmethod(by_functional)


def job_of(
    chunked: list[int], case: Case, dtype: torch.dtype, grad: bool = True
) -> tuple[DeepJob, dict]:
    """A job with its results in chunks; skips where the kernel refuses the dtype."""
    job = DeepJob(case, dtype, "cuda", grad)
    try:
        results = kept(job.run())
    except Refused as refusal:
        pytest.skip(str(refusal))
    assert chunked, "the layers ran whole, which shows nothing"
    return job, results


@cases
@dtypes
@pytest.mark.parametrize("steps", [1, 4])
def test_chunks_give_what_whole_layers_give(
    chunked: list[int], case: Case, dtype: torch.dtype, steps: int
) -> None:
    with lstm_fused.wavefront(steps):
        job_of(chunked, case, dtype)
        run_both(case, dtype, by_functional, device="cuda").check()


@cases
@dtypes
@pytest.mark.parametrize("grad", [True, False])
def test_a_layer_held_up_changes_no_bit(
    chunked: list[int], case: Case, dtype: torch.dtype, grad: bool
) -> None:
    """Nothing may be read before it is there, nor written over while it is read."""
    with lstm_fused.wavefront(4):
        job, want = job_of(chunked, case, dtype, grad)
        for slow in stack._lanes(job.x, case.L):
            assert slow.stream is not None
            with torch.cuda.stream(slow.stream):
                torch.cuda._sleep(NAP)
            assert_same_bits(job.run(), want, "with a layer held up")


@cases
@dtypes
def test_a_graph_takes_the_streams_along(
    chunked: list[int], case: Case, dtype: torch.dtype
) -> None:
    with lstm_fused.wavefront(4):
        job, _ = job_of(chunked, case, dtype)
        replay, results = captured(job)
        for factor in (1.0, -0.5):
            scale(job, factor)
            want = kept(job.run())
            for t in results.values():
                t.fill_(float("nan"))
            replay()
            torch.cuda.synchronize()
            assert_same_bits(results, want, f"replayed after x was scaled by {factor}")


def test_layers_are_at_work_at_once(chunked: list[int]) -> None:
    """While the first layer naps in its second chunk, the second layer does its first."""
    with lstm_fused.wavefront(4):
        job, _ = job_of(chunked, DEEP, torch.bfloat16, grad=False)
        lanes = stack._lanes(job.x, DEEP.L)
        ends = []
        original = stack.layer

        def slow(*args: object) -> object:
            stream = torch.cuda.current_stream()
            if stream == lanes[0].stream and ends:
                torch.cuda._sleep(NAP)
            results = original(*args)  # type: ignore[arg-type]
            ends.append((stream, torch.cuda.Event(enable_timing=True)))
            ends[-1][1].record(stream)
            return results

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stack, "layer", slow)
            job.run()
        torch.cuda.synchronize()
        first = [event for stream, event in ends if stream == lanes[0].stream]
        second = [event for stream, event in ends if stream == lanes[1].stream]
        assert second[0].elapsed_time(first[1]) > 0
