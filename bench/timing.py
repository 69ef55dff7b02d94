"""Time of many arms in one run: in turns, as medians with their spread.

A machine changes its speed over minutes (neighbours, clocks, heat), so two arms are compared only
within one run in which they took turns, round by round, each round in another order.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Results = dict[str, Tensor]

# A sample is repeated calls for at least this long: clock and loop are then below 0.1 % of it.
SAMPLE_SECONDS = 0.02
# A round of all arms lasts at least this long: the counters that tell whether somebody else used
# the machine meanwhile tick every 10 ms on each CPU.
ROUND_SECONDS = 0.3
MAX_CALLS = 10_000


class Runner(Protocol):
    """A case, set up for one arm."""

    def results(self) -> Results:
        """Run once and return outputs and gradients by name."""

    def sample(self, calls: int) -> list[float]:
        """Seconds of each of `calls` runs, or one mean where single calls cannot be told apart."""

    def close(self) -> None:
        """Free what it holds."""


@dataclass(frozen=True)
class Timing:
    """Seconds per call over the rounds: one sample per round."""

    median: float
    q1: float
    q3: float
    samples: list[float]
    calls: int  # per sample

    @property
    def spread(self) -> float:
        """Interquartile range over the median."""
        return (self.q3 - self.q1) / self.median


Settings = Callable[[], AbstractContextManager[None]]


class CpuRunner:
    """Times a loop of calls. The settings are entered once for all of them: they cost some us."""

    def __init__(self, run: Callable[[], Results], settings: Settings = nullcontext) -> None:
        self._run = run
        self._settings = settings

    def results(self) -> Results:
        with self._settings():
            return self._run()

    def sample(self, calls: int) -> list[float]:
        with self._settings():
            start = time.perf_counter()
            for _ in range(calls):
                self._run()
            return [(time.perf_counter() - start) / calls]

    def close(self) -> None:
        del self._run


class CudaRunner(CpuRunner):
    """Times each call by events, with a cold L2: a layer in a model never finds its input there."""

    def __init__(self, run: Callable[[], Results], settings: Settings = nullcontext) -> None:
        super().__init__(run, settings)
        size = torch.cuda.get_device_properties().L2_cache_size
        self._flush = torch.empty(2 * size, dtype=torch.int8, device="cuda")

    def sample(self, calls: int) -> list[float]:
        events = []
        with self._settings():
            for _ in range(calls):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                self._flush.zero_()
                start.record()
                self._run()
                end.record()
                events.append((start, end))
            torch.cuda.synchronize()
        return [start.elapsed_time(end) * 1e-3 for start, end in events]  # from ms

    def close(self) -> None:
        super().close()
        del self._flush


def calls_for(runner: Runner, seconds: float) -> int:
    """Warm the runner up and say how many calls make a sample of that length."""
    runner.sample(1)
    once = min(runner.sample(1)[0] for _ in range(3))
    return max(1, min(MAX_CALLS, round(seconds / max(once, 1e-9))))


def interleave(
    runners: Mapping[str, Runner],
    rounds: int,
    *,
    round_seconds: float = ROUND_SECONDS,
    quiet: Callable[[], bool] = lambda: True,
    on_sample: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Timing], int]:
    """Sample all runners in each round and return their timings and the number of busy rounds.

    quiet() is asked after each round whether the machine was ours during it. Busy rounds are
    left out if half of the rounds, and at least 3, remain; otherwise all are kept.
    """
    seconds = max(SAMPLE_SECONDS, round_seconds / max(len(runners), 1))
    calls = {name: calls_for(runner, seconds) for name, runner in runners.items()}
    names = list(runners)
    by_round: list[dict[str, float]] = []
    kept: list[bool] = []
    quiet()  # what came before the first round is not its fault
    for number in range(rounds):
        turn = number % max(len(names), 1)
        times = {}
        for name in names[turn:] + names[:turn]:
            times[name] = statistics.median(runners[name].sample(calls[name]))
            on_sample()
        by_round.append(times)
        kept.append(quiet())
    busy = kept.count(False)
    if len(kept) - busy >= max(3, rounds / 2):
        by_round = [times for times, keep in zip(by_round, kept, strict=True) if keep]
    return {name: summarize([t[name] for t in by_round], calls[name]) for name in names}, busy


def summarize(samples: Sequence[float], calls: int) -> Timing:
    """Median and quartiles of the samples."""
    if len(samples) == 1:
        return Timing(samples[0], samples[0], samples[0], list(samples), calls)
    q1, median, q3 = statistics.quantiles(samples, n=4, method="inclusive")
    return Timing(median, q1, q3, list(samples), calls)
