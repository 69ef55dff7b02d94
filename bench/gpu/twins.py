"""Are the SIMT machine's twins of ptx.cuh right? Asked of the GPU itself, before all other checks.

One program (tests/simt/probes_dump.cu) runs a small kernel for every wrapper on random and special
words. It is compiled twice, by nvcc for the GPU and by g++ into the machine, and the words that
come out must be the same, bit for bit. Where they are not, nothing that the machine says about the
kernels is to be believed.

Sums of products alone may differ, by BOUND of the sum of their absolute values: tensor cores add
in an order of their own and cut off below the largest term.
"""

from __future__ import annotations

import math
import os
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.gpu import nvcc
from bench.gpu.reporter import Reporter
from tests.simt import building

ROUNDS = 64  # 16 of each scene of probes_inputs.h
SECONDS = 120  # a wait that is never answered ends after some seconds

# Of sum |a||b| + |c|, with K = 16 products in a sum. A tensor core aligns its K + 1 terms with the
# largest and cuts each off there: K + 1 errors of at most 2^-23 of that one, and one of the result.
# The machine does the same, in the same direction. Where hardware sums in two halves, K + 3: 19,
# and 8 to spare.
BOUND = 27 * 2.0**-23
# exp2 is within 2^-22 of itself on a GPU, reciprocal nearer, and both nearer still in the machine.
NEAR = 2.0**-21
# Subnormal operands may count as zero (PTX leaves it open): 16 products of 2^-126 and at most 4.
FLUSHED = 2.0**-120


class Answer(NamedTuple):
    """One round of one probe."""

    rule: str  # "same", "same_but_nan", "near" or "products"
    inputs: str  # their hash
    words: tuple[int, ...]  # [blocks, 32, 8]


class Dump(NamedTuple):
    answers: dict[tuple[str, int], Answer]  # by probe and round
    skipped: dict[str, str]  # by probe: why


def parse(text: str) -> Dump:
    """What probes_dump printed."""
    answers, skipped = {}, {}
    for line in text.splitlines():
        if line.startswith("# "):
            name, _, reason = line[2:].partition(" ")
            skipped[name] = reason
            continue
        name, number, rule, inputs, *words = line.split()
        answers[name, int(number)] = Answer(rule, inputs, tuple(int(w, 16) for w in words))
    return Dump(answers, skipped)


def build_for_gpu(
    target: Path, architectures: Sequence[str] | None = None, strict: bool = False
) -> Path:
    """The probes for a GPU; raises RuntimeError."""
    include = (building.HERE / "gpu", building.HERE)
    return nvcc.compile_program([building.PROBES_DUMP], target, architectures, include, strict)


def build_for_machine(target: Path, strict: bool = False) -> Path:
    """The same in the SIMT machine; raises RuntimeError.

    strict  warnings are errors: not beside a GPU, where a newer compiler may have new ones
    """
    sources = [building.HERE / "machine.cpp", building.PROBES_DUMP]
    try:
        return building.compile_program(sources, target, "plain", strict=strict)
    except (building.CannotBuild, AssertionError) as error:
        raise RuntimeError(f"cannot compile the SIMT machine: {error}") from error


def dump(program: Path, rounds: int, seed: int = 0) -> Dump:
    """Run the probes; raises RuntimeError with the name of the one that did not end."""
    command = [str(program), str(rounds), str(seed)]
    environment = os.environ | building.ENVIRONMENT
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment
        )
    except subprocess.TimeoutExpired as error:
        so_far = (error.stdout or b"").decode().splitlines()
        last = so_far[-1].split()[:2] if so_far else ["nothing"]
        raise RuntimeError(
            f"{program.name} did not end in {SECONDS} s; the last that ended is {' '.join(last)}"
        ) from error
    if done.returncode != 0:
        raise RuntimeError(f"{program.name} failed at {done.stderr.strip()[-1000:]}")
    return parse(done.stdout)


def floats(words: Sequence[int]) -> tuple[float, ...]:
    return struct.unpack(f"{len(words)}f", struct.pack(f"{len(words)}I", *words))


def is_nan(word: int) -> bool:
    return word & 0x7FFFFFFF > 0x7F800000


class Verdict:
    """Two answers side by side, round after round of one probe."""

    def __init__(self, rule: str) -> None:
        self.rule = rule
        self.words = self.wrong = self.flushed = 0
        self.worst = 0.0  # error of a sum of products, of what is allowed
        self.first = ""  # the first difference, in words

    def add(self, number: int, gpu: Sequence[int], machine: Sequence[int]) -> None:
        self.words += len(machine)
        if self.rule == "products":
            right = self.sums(floats(gpu), floats(machine))
        elif self.rule == "near":
            right = [
                a == b or (math.isnan(a) and math.isnan(b)) or abs(a - b) <= NEAR * abs(b)
                for a, b in zip(floats(gpu), floats(machine), strict=True)
            ]
        else:
            nan = self.rule == "same_but_nan"
            right = [
                a == b or (nan and is_nan(a) and is_nan(b))
                for a, b in zip(gpu, machine, strict=True)
            ]
        self.wrong += right.count(False)
        if False in right and not self.first:
            at = right.index(False)
            self.first = (
                f"round {number}, block {at // 256}, lane {at // 8 % 32}, word {at % 8}: "
                f"{gpu[at]:#010x} on the GPU, {machine[at]:#010x} in the machine"
            )

    def sums(self, gpu: Sequence[float], machine: Sequence[float]) -> list[bool]:
        """Of every 8 words 4 are sums of products and 4 the same of absolute values."""
        right = []
        for k, (a, b) in enumerate(zip(gpu, machine, strict=True)):
            if not math.isfinite(a) or not math.isfinite(b):
                right.append(a == b or (math.isnan(a) and math.isnan(b)))
                continue
            size = machine[k // 8 * 8 + 4 + k % 4]
            error = abs(a - b)
            self.flushed += BOUND * size < error <= FLUSHED
            right.append(error <= max(BOUND * size, FLUSHED))
            if error > FLUSHED:
                self.worst = max(self.worst, error / (BOUND * size) if size else math.inf)
        return right

    def row(self) -> dict[str, Any]:
        row: dict[str, Any] = {"words": self.words, "rule": self.rule}
        if self.rule == "products":
            row |= {"worst": self.worst, "flushed": self.flushed}
        return row


def compare(gpu: Dump, machine: Dump) -> dict[str, Any]:
    """What was compared, by probe; raises RuntimeError that names every probe that differs."""
    verdicts: dict[str, Verdict] = {}
    for (name, number), expected in machine.answers.items():
        if name in gpu.skipped:
            continue
        verdict = verdicts.setdefault(name, Verdict(expected.rule))
        answer = gpu.answers.get((name, number))
        if answer is None or len(answer.words) != len(expected.words):
            raise RuntimeError(f"the GPU did not answer round {number} of {name}")
        if answer.inputs != expected.inputs:
            raise RuntimeError(f"round {number} of {name} ran on other words on the GPU")
        verdict.add(number, answer.words, expected.words)
    if not verdicts:
        raise RuntimeError("the GPU ran none of the probes")
    wrong = {name: verdict for name, verdict in verdicts.items() if verdict.wrong}
    if wrong:
        differences = "; ".join(
            f"{name} in {verdict.wrong} of {verdict.words} words ({verdict.first})"
            for name, verdict in wrong.items()
        )
        raise RuntimeError(
            f"the GPU and the SIMT machine differ in {len(wrong)} of {len(verdicts)} probes, so "
            f"what the machine says about these is not to be believed: {differences}"
        )
    return {
        "probes": {name: verdict.row() for name, verdict in verdicts.items()},
        "skipped": gpu.skipped,
        "bound": BOUND,
    }


def conformance(rounds: int = ROUNDS) -> dict[str, Any]:
    """Build and run both sides and compare them; raises RuntimeError with a sentence."""
    with tempfile.TemporaryDirectory() as folder:
        on_gpu = build_for_gpu(Path(folder) / "probes-on-gpu")
        in_machine = build_for_machine(Path(folder) / "probes-in-machine")
        return {"rounds": rounds} | compare(dump(on_gpu, rounds), dump(in_machine, rounds))


def run(report: Reporter) -> None:
    report.put("twins", conformance())
