"""What only a GPU shows of our variants: leftover memory, repeated runs, streams, graphs, devices.

Outputs and gradients of every case are in test_variants.py, by the same variants.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import cases
from tests.cases import Case, by_layer, by_torch, problem, run
from tests.close import TF32_EPS, assert_no_worse
from tests.conftest import Forced

pytestmark = pytest.mark.gpu

Results = dict[str, Tensor]

# Full tiles, tails, several blocks of batch rows, and what the named cases of tests/cases.py have.
WIDER = Case("gpu_wider", "more than one block of rows and units", T=9, B=37, I=40, H=200)
BIG = Case("gpu_big", "weights that one SM does not hold", T=6, B=64, I=128, H=768)
# Of cuda.grid in float32: what the chip does not hold comes out of L2, in two of its kernels.
STREAMED = Case("gpu_streamed", "weights that the chip does not hold", T=4, B=13, I=24, H=1700)
NARROWER = Case("gpu_streamed_1300", "a width less, and fewer rows", T=3, B=5, I=24, H=1300)
ROWS = Case("gpu_rows", "turns of 16 rows in both passes", T=3, B=80, I=24, H=1024)
SHAPES = [
    WIDER,
    BIG,
    STREAMED,
    ROWS,
    *cases.named("prime", "proj_bidirectional", "ragged_bidirectional"),
]
FEW = [WIDER, *cases.named("ragged_bidirectional")]
shapes = pytest.mark.parametrize("case", SHAPES)
few = pytest.mark.parametrize("case", FEW)
dtypes = pytest.mark.parametrize("dtype", cases.DTYPES)
NAP = 50_000_000  # clock ticks: some 30 ms


class Job:
    """A case that lies on a device: run() gives outputs and, with grad, gradients there."""

    layers = staticmethod(by_layer)

    def __init__(self, case: Case, dtype: torch.dtype, device: str, grad: bool = True) -> None:
        given = problem(case, dtype)

        def place(t: Tensor) -> Tensor:
            return t.to(device, dtype, copy=True).requires_grad_(grad)

        self.case, self.grad = case, grad
        self.x = place(given.x)
        self.hx = None if given.hx is None else (place(given.hx[0]), place(given.hx[1]))
        self.params = {name: place(p) for name, p in given.params.items()}
        self.upstream = [place(given.upstream[name]).detach() for name in ("y", "h_n", "c_n")]

    def run(self) -> Results:
        with torch.set_grad_enabled(self.grad):
            outputs = self.layers(self.case, self.params, self.x, self.hx, self.case.batch_sizes)
        results = dict(zip(("y", "h_n", "c_n"), outputs, strict=True))
        if self.grad:
            leaves = {"x": self.x, **self.params}
            if self.hx is not None:
                leaves |= {"h_0": self.hx[0], "c_0": self.hx[1]}
            grads = torch.autograd.grad(outputs, list(leaves.values()), self.upstream)
            results |= {f"grad {name}": g for name, g in zip(leaves, grads, strict=True)}
        return {name: t.detach() for name, t in results.items()}


def kept(results: Results) -> Results:
    return {name: t.clone() for name, t in results.items()}


def assert_same_bits(got: Results, want: Results, what: str) -> None:
    different = [name for name in want if not torch.equal(got[name], want[name])]
    assert not different, f"{what}: {', '.join(different)} differ"


@contextmanager
def without_poison() -> Iterator[None]:
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = True


@contextmanager
def fp32_precision(precision: str) -> Iterator[None]:
    """ "ieee" or "tf32" for scans and for products."""
    places: list[Any] = [torch.backends.cudnn.rnn, torch.backends.cuda.matmul]
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = precision
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value


# Memory


def test_memory_is_poisoned(variant: Forced) -> None:
    """What the other tests rely on: memory that nobody wrote is NaN."""
    assert torch.empty(1000, device=variant.device).isnan().all()
    assert torch.empty(1000, device=variant.device, dtype=torch.float16).isnan().all()


@dtypes
@shapes
def test_what_lay_in_memory_before_does_not_matter(
    variant: Forced, case: Case, dtype: torch.dtype
) -> None:
    """Outputs, saved gates and workspaces, over NaN and over what other tensors left there."""
    job = Job(case, dtype, variant.device)
    want = kept(job.run())
    assert all(t.isfinite().all() for t in want.values())
    for leftover in (1e4, -3.0, 0.0):
        torch.cuda.empty_cache()
        # Blocks of every size that the allocator may hand out again, filled and given back.
        litter = [
            torch.full((1 << n,), leftover, device=variant.device)
            for n in range(6, 25)
            for _ in "ab"
        ]
        del litter
        with without_poison():
            assert_same_bits(job.run(), want, f"over {leftover}")


def settled_bytes() -> int:
    """Bytes in use when kernels have ended, and autograd's thread, which hands the gradients over
    before it lets go of what it held."""
    torch.cuda.synchronize()
    time.sleep(0.005)
    return torch.cuda.memory_allocated()


@few
@pytest.mark.parametrize("grad", [True, False])
def test_memory_stays_put(variant: Forced, case: Case, grad: bool) -> None:
    """After the first calls, another one leaves no byte behind and needs no more than those."""
    job = Job(case, torch.float32, variant.device, grad)
    gc.collect()  # what other tests left in cycles would go at any time
    for _ in range(3):
        job.run()
    before = settled_bytes()
    peaks = []
    for _ in range(20):
        torch.cuda.reset_peak_memory_stats()
        job.run()
        peaks.append(torch.cuda.max_memory_allocated())
        assert settled_bytes() == before
    assert len(set(peaks[1:])) == 1, peaks  # one more to settle


# The same bits


@dtypes
@shapes
def test_thirty_runs_give_the_same_bits(variant: Forced, case: Case, dtype: torch.dtype) -> None:
    job = Job(case, dtype, variant.device)
    want = kept(job.run())
    for number in range(30):
        assert_same_bits(job.run(), want, f"run {number}")


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
@pytest.mark.parametrize("case", [*SHAPES, NARROWER])
def test_each_precision_of_float32(variant: Forced, case: Case, precision: str) -> None:
    """By the rule, with torch's own LSTM at the same precision; and with the same bits."""
    given = problem(case, torch.float32)
    eps = TF32_EPS if precision == "tf32" else None
    ref = run(by_torch, given, torch.float64)
    with fp32_precision(precision):
        yard = run(by_torch, given, torch.float32, device=variant.device)
        ours, again = (run(by_layer, given, torch.float32, device=variant.device) for _ in range(2))
    for name in ref:
        assert_no_worse(name, ours[name], yard[name], ref[name], eps)
    assert_same_bits(again, ours, "second run")


# Streams


@few
def test_work_is_ordered_on_its_stream(variant: Forced, case: Case) -> None:
    """Behind a slow kernel on a stream of its own, the layer sees what was written after it."""
    job = Job(case, torch.float32, variant.device)
    want, good = kept(job.run()), job.x.detach().clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        with torch.no_grad():
            job.x.fill_(float("nan"))
            torch.cuda._sleep(NAP)
            job.x.copy_(good)
        got = kept(job.run())
    stream.synchronize()
    assert_same_bits(got, want, "on a stream of its own")


@dtypes
@few
def test_two_streams_at_once(variant: Forced, case: Case, dtype: torch.dtype) -> None:
    """Layers that run side by side share no scratch memory."""
    jobs = [Job(case, dtype, variant.device), Job(WIDER, dtype, variant.device)]
    want = [kept(job.run()) for job in jobs]
    streams = [torch.cuda.Stream() for _ in jobs]
    torch.cuda.synchronize()
    for stream in streams:  # so that both have work queued when they begin
        with torch.cuda.stream(stream):
            torch.cuda._sleep(NAP)
    got: list[list[Results]] = [[], []]
    for _ in range(10):
        for number, (job, stream) in enumerate(zip(jobs, streams, strict=True)):
            with torch.cuda.stream(stream):
                got[number].append(job.run())
    torch.cuda.synchronize()
    for number, results in enumerate(got):
        for result in results:
            assert_same_bits(result, want[number], f"stream {number}")


# Graphs


def captured(job: Job) -> tuple[Callable[[], None], Results]:
    """A graph of one run: what replays it, and where its results lie."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            job.run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = job.run()
    return graph.replay, results


def scale(job: Job, factor: float) -> None:
    with torch.no_grad():
        job.x.mul_(factor)


@pytest.mark.parametrize("grad", [False, True], ids=["forward", "training"])
@dtypes
@few
def test_a_graph_replays(variant: Forced, case: Case, dtype: torch.dtype, grad: bool) -> None:
    """With other inputs in the same memory, a replay gives what eager gives on them."""
    job = Job(case, dtype, variant.device, grad)
    replay, results = captured(job)
    for factor in (1.0, -0.5, 3.0):
        scale(job, factor)
        want = kept(job.run())
        for _ in range(3):
            for t in results.values():
                t.fill_(float("nan"))
            replay()
            torch.cuda.synchronize()
            assert_same_bits(results, want, f"replayed after x was scaled by {factor}")


@pytest.mark.parametrize("case", [BIG])
def test_two_graphs_at_once_are_right_or_end(variant: Forced, case: Case) -> None:
    """Of cuda.grid both may hold a part of the GPU and wait for the rest: then they give up."""
    jobs = [Job(case, torch.bfloat16, variant.device, grad=False) for _ in range(2)]
    want = kept(jobs[0].run())
    graphs = [(torch.cuda.Stream(), *captured(job)) for job in jobs]
    torch.cuda.synchronize()
    for stream, replay, _ in graphs:
        with torch.cuda.stream(stream):
            replay()
    torch.cuda.synchronize()
    if not all(torch.equal(got[name], want[name]) for _, _, got in graphs for name in want):
        with pytest.raises(RuntimeError, match="earlier call"):
            jobs[0].run()
    assert_same_bits(jobs[0].run(), want, "after both")


@few
def test_two_graphs_take_turns(variant: Forced, case: Case) -> None:
    jobs = [Job(case, torch.float32, variant.device), Job(WIDER, torch.float32, variant.device)]
    want = [kept(job.run()) for job in jobs]
    graphs = [captured(job) for job in jobs]
    for _ in range(5):
        for (replay, results), expected in zip(graphs, want, strict=True):
            replay()
            torch.cuda.synchronize()
            assert_same_bits(results, expected, "replayed in turns")


# Devices


@few
def test_a_device_that_is_not_the_current_one(variant: Forced, case: Case) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("this machine has one GPU")
    if torch.cuda.get_device_capability(1) != torch.cuda.get_device_capability(0):
        pytest.skip("the second GPU is of another kind")
    want = kept(Job(case, torch.float32, "cuda:0").run())
    with torch.cuda.device(0):
        got = kept(Job(case, torch.float32, "cuda:1").run())
        assert torch.cuda.current_device() == 0
    assert all(t.device.index == 1 for t in got.values())
    assert_same_bits({name: t.to("cuda:0") for name, t in got.items()}, want, "on cuda:1")


def test_many_launches_in_flight(variant: Forced) -> None:
    """Nothing waits for the device: a queue of layers behind a nap is filled before it ends."""
    job = Job(WIDER, torch.float32, variant.device, grad=False)
    want = kept(job.run())
    torch.cuda.synchronize()
    done = torch.cuda.Event()
    torch.cuda._sleep(10 * NAP)
    got = [job.run() for _ in range(5)]
    done.record()
    assert not done.query(), "the calls came back only when the device had caught up"
    torch.cuda.synchronize()
    for result in got:
        assert_same_bits(result, want, "queued")
