"""What the SIMT machine must notice, it notices, in the mode that should."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simt import building

pytestmark = pytest.mark.simt

# By case, what is said about it: by the machine itself, by AddressSanitizer, by ThreadSanitizer.
# None: it may go unnoticed.
WRONG = {
    "no_barrier": ("data[5] is", "data[5] is", "data race"),
    "barrier_of_a_warp": (None, None, "data race"),
    "divergent_barrier": ("__syncthreads in divergent code",) * 3,
    "barrier_of_some": ("deadlock",) * 3,
    "shuffle_of_some": ("deadlock",) * 3,
    "shuffle_from_outside": ("reads a lane outside of its mask",) * 3,
    "too_much_shared": ("takes 272 bytes of shared memory, the launch gave 256",) * 3,
    "past_an_array": (None, "use-after-poison", None),
    "reads_unwritten": ("data[5] is -nan",) * 3,
    "copies_without_wait": (
        "copies that it has not waited for",
        "use-after-poison",
        "copies that it has not waited for",
    ),
    "copies_without_barrier": (None, None, "data race"),
    "misaligned_copy": ("cp.async: an address is not a multiple of 16",) * 3,
    "misaligned_matrix": ("ldmatrix: an address is not a multiple of 16",) * 3,
    "waits_without_cooperation": ("deadlock",) * 3,
    "hands_over_relaxed": (None, None, "data race"),
    "publishes_believing_one": ("data[5] is",) * 3,
    "asks_ahead_believing_one": ("data[5] is",) * 3,
    "publishes_a_flag": (None, None, "data race"),
    "never_comes": ("deadlock",) * 3,
    "ring_without_first_sync": (None, None, "data race"),
    "ring_without_last_sync": (None, "use-after-poison", None),
    "sends_without_wait": (None, None, "data race"),
    "sends_expecting_less": (None, None, "data race"),
    "sends_expecting_more": ("deadlock",) * 3,
    "barrier_not_made": ("an mbarrier that was not initialised",) * 3,
    "arrives_twice": ("more arrivals at an mbarrier than it counts",) * 3,
}
RIGHT = ["sum_of_neighbours", "collectives", "copies", "waits_for_another_block", "hands_over"]
RIGHT += ["publishes", "asks_ahead", "ring", "sends"]
# Noticed whatever the schedule is: no order of the threads hides them.
ALWAYS = {"data race", "deadlock"}
# But for this one: the messages that nobody waits for may happen to come early.
SOMETIMES = {"sends_expecting_less"}
SEEDS = {"plain": range(8), "address": range(4), "thread": range(4)}


@pytest.fixture(scope="module", params=list(building.MODES))
def program(request: pytest.FixtureRequest, compiled: Callable[..., Path]) -> Path:
    return compiled(building.MACHINE_CHECK, request.param, request.param)


def run(program: Path, case: str, seed: int) -> tuple[int, str]:
    done = building.run(program, case, seed)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("case", RIGHT)
def test_right_kernels_run(program: Path, case: str) -> None:
    for seed in SEEDS[program.name]:
        code, said = run(program, case, seed)
        assert (code, said) == (0, "ok\n"), f"seed {seed}: {said}"


@pytest.mark.parametrize(
    ("program", "case", "wanted"),
    [
        (mode, case, wanted)
        for case, by_mode in WRONG.items()
        for mode, wanted in zip(building.MODES, by_mode, strict=True)
        if wanted is not None
    ],
    indirect=["program"],
)
def test_wrong_kernels_are_noticed(program: Path, case: str, wanted: str) -> None:
    reports = [run(program, case, seed) for seed in SEEDS[program.name]]
    seen = [code != 0 and wanted in said for code, said in reports]
    assert any(seen), reports[1][1]
    if wanted in ALWAYS and case not in SOMETIMES:
        assert all(seen), reports[seen.index(False)][1]
