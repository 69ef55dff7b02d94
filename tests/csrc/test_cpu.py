"""The CPU side around the kernels: teams of threads, forks, one OpenMP runtime, large sizes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lstm_fused import dispatch
from lstm_fused.dispatch import variants
from tests import cases
from tests.cases import Case, by_layer, problem, run, run_both
from tests.close import assert_no_worse
from tests.conftest import Forced

ROOT = Path(__file__).resolve().parents[2]
CPU_ROWS = [row for row in variants() if row.name.startswith(("cpu.", "torch."))]

# Enough work for every member of a team, at every thread count that the tests use.
TEAM = Case("team", "a share for everybody", T=6, B=24, I=40, H=96)
TEAM_PROJ = Case("team_proj", "two products a step", T=5, B=10, I=9, H=70, P=33, bidirectional=True)
# 25 vectors of 8 and 13 of 16: an odd one is left of the pairs, whoever's share it is.
TEAM_SINGLE = Case(
    "team_single", "two panels at once, of several blocks of K", T=70, B=1, I=8, H=200
)
TEAM_SINGLE_PROJ = Case(
    "team_single_proj", "the same, and words that lack a number", T=66, B=1, I=3, H=150, P=135
)
TEAM_CHUNKS = Case(
    "team_chunks", "gradients after every 256 rows", T=61, B=11, I=13, H=72, bidirectional=True
)
TEAM_RAGGED = Case(
    "team_ragged",
    "shares shrink as sequences end",
    T=9,
    B=12,
    I=8,
    H=50,
    lengths=(9, 9, 8, 8, 7, 6, 5, 4, 3, 2, 1, 1),
    bidirectional=True,
)


@pytest.mark.parametrize(
    "case",
    [
        TEAM,
        TEAM_PROJ,
        TEAM_RAGGED,
        TEAM_CHUNKS,
        TEAM_SINGLE,
        TEAM_SINGLE_PROJ,
        cases.WIDE,
        cases.BATCH_1,
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_number_of_threads(
    variant: Forced, threads: int, case: Case, dtype: torch.dtype
) -> None:
    run_both(case, dtype, by_layer, device=variant.device).check()


def bits(case: Case, dtype: torch.dtype, variant: Forced) -> dict[str, Tensor]:
    return run(by_layer, problem(case, dtype), dtype, device=variant.device)


@pytest.mark.parametrize("case", [TEAM, TEAM_PROJ, TEAM_RAGGED, TEAM_CHUNKS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_with_the_same_threads(
    variant: Forced, threads: int, case: Case, dtype: torch.dtype
) -> None:
    first, *others = (bits(case, dtype, variant) for _ in range(4))
    for other in others:
        for name, t in first.items():
            assert torch.equal(t, other[name]), name


@pytest.mark.parametrize(
    "case",
    [TEAM, TEAM_PROJ, TEAM_RAGGED, TEAM_CHUNKS, TEAM_SINGLE, TEAM_SINGLE_PROJ, cases.WIDE],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_our_sums_do_not_depend_on_the_team(
    variant: Forced, case: Case, dtype: torch.dtype
) -> None:
    if not variant.name.startswith("cpu."):
        pytest.skip("torch's products are ordered by its threads")
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            found.append(bits(case, dtype, variant))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for name, t in found[0].items():
            assert torch.equal(t, other[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_calls_from_many_python_threads(variant: Forced, dtype: torch.dtype) -> None:
    """Each caller has a team of its own; nothing is shared between calls."""
    from lstm_fused.dispatch import variant as force

    want = {case: bits(case, dtype, variant) for case in (TEAM, TEAM_PROJ, TEAM_RAGGED)}
    wrong: list[str] = []

    def work(case: Case) -> None:
        with force(variant.name):
            for _ in range(5):
                got = bits(case, dtype, variant)
                wrong.extend(
                    f"{case} {n}" for n, t in got.items() if not torch.equal(t, want[case][n])
                )

    workers = [threading.Thread(target=work, args=(case,)) for case in want for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    # A thread that torch.set_num_threads never saw may have a team of another size, and so other
    # roundings in ATen's products; the same call must agree with itself to the bit all the same.
    assert not wrong, wrong


CHILD = Case("child", "two threads' worth", T=6, B=24, I=40, H=96)
CHILD_SMALL = Case("child_small", "a team of ours, none of ATen's", T=60, B=4, I=2, H=16)

PRELUDE = """
import os, sys, threading, torch
from lstm_fused.dispatch import variant
from tests.cases import by_layer, problem, run
from tests.csrc.test_cpu import CHILD, CHILD_SMALL
name, folder = sys.argv[1:3]
def work(to=None, case=CHILD, grad=True):
    got = run(by_layer, problem(case, torch.float32), torch.float32, grad=grad)
    if to:
        torch.save(got, os.path.join(folder, to))
def os_threads():
    return len(os.listdir("/proc/self/task"))
"""


def run_python(script: str, *arguments: str, timeout: int = 120) -> str:
    """Output of a fresh interpreter in the checkout; a hang is a failure."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + script, *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_right(path: Path, case: Case = CHILD, *, grad: bool = True) -> None:
    """What a child process saved obeys the rule."""
    yard = cases.of_torch(case, torch.float32, torch.float32, grad)
    ref = cases.of_torch(case, torch.float32, torch.float64, grad)
    cases.Runs(torch.load(path), yard, ref).check()


@pytest.fixture(params=[row.name for row in CPU_ROWS])
def cpu_variant(request: pytest.FixtureRequest) -> str:
    """Name of a variant for a child process to force."""
    skip_unless_available(request.param)
    return request.param


def skip_unless_available(name: str, dtype: torch.dtype = torch.float32) -> None:
    """Most child processes run float32."""
    row = next(row for row in CPU_ROWS if row.name == name)
    reason = row.why_not or dispatch.why_not(name, dispatch.Case(hidden_size=CHILD.H, dtype=dtype))
    if reason:
        pytest.skip(f"{name}: {reason}")


def test_set_num_threads_is_obeyed(cpu_variant: str) -> None:
    """In the main thread and in a new one, whose OpenMP default knows nothing of the setting."""
    out = run_python(
        """
torch.set_num_threads(1)
with variant(name):
    before = os_threads()
    work()
    one = os_threads() - before
    def in_thread():
        global inside
        with variant(name):
            work()
            inside = os_threads() - before - 1
    t = threading.Thread(target=in_thread); t.start(); t.join()
    torch.set_num_threads(3)
    work()
    three = os_threads() - before
print(one, inside, three)
""",
        cpu_variant,
        "",
    )
    one, inside, three = map(int, out.split())
    assert (one, inside) == (0, 0), "a team was started although one thread was asked for"
    assert three == 2, "three threads were asked for"


FORK = """
import signal
threads, case = int(sys.argv[3]), {"train": CHILD, "infer": CHILD_SMALL}[sys.argv[4]]
grad = case is CHILD
torch.set_num_threads(3)
with variant(name):
    work(None, case, grad)
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        torch.set_num_threads(threads)
        work("child", case, grad)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    work("parent", case, grad)
"""
NO_HANG = "0\n"  # A hang ends by the alarm: -14.


def test_fork_does_not_hang(cpu_variant: str, tmp_path: Path) -> None:
    """The parent has had a team, and the child asks for one thread, as DataLoader workers do."""
    assert run_python(FORK, cpu_variant, str(tmp_path), "1", "train") == NO_HANG
    assert_right(tmp_path / "child")
    assert_right(tmp_path / "parent")


@pytest.mark.parametrize("name", [row.name for row in CPU_ROWS if row.name.startswith("cpu.")])
def test_fork_that_keeps_its_threads_does_not_hang(name: str, tmp_path: Path) -> None:
    """GNU libgomp hangs in a child that wants a team after its parent had one.

    torch.mm alone hangs there too, so this is about the scan: a forward whose input product ATen
    does not share among threads.
    """
    skip_unless_available(name)
    assert run_python(FORK, name, str(tmp_path), "3", "infer") == NO_HANG
    assert_right(tmp_path / "child", CHILD_SMALL, grad=False)
    assert_right(tmp_path / "parent", CHILD_SMALL, grad=False)


def test_data_loader_workers(cpu_variant: str, tmp_path: Path) -> None:
    run_python(
        """
class Data(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, i):
        with variant(name):
            work(f"worker {i}")
        return i
torch.set_num_threads(3)
with variant(name):
    work()
loader = torch.utils.data.DataLoader(Data(), num_workers=2, timeout=60)
assert sorted(int(i) for i in loader) == [0, 1, 2, 3]
""",
        cpu_variant,
        str(tmp_path),
    )
    for i in range(4):
        assert_right(tmp_path / f"worker {i}")


def test_one_openmp_runtime() -> None:
    """Two libgomps in a process are two pools of threads that fight for the cores."""
    out = run_python(
        """
from lstm_fused import _load
_load.load()
with variant(name):
    work()
print(*{line.split()[-1] for line in open("/proc/self/maps") if "omp" in line.split()[-1]})
""",
        "cpu.generic",
        "",
    )
    runtimes = [path for path in out.split() if "gomp" in path or "iomp" in path]
    assert len(runtimes) == 1, runtimes


@pytest.mark.parametrize("steps,batch", [(1, 40_000), (40_000, 1), (200, 300)])
def test_many_rows(variant: Forced, steps: int, batch: int) -> None:
    """More rows than 15 bits count, in either dimension and in their product."""
    case = Case(f"rows_{steps}", "many rows", T=steps, B=batch, I=1, H=2)
    run_both(case, torch.float32, by_layer, grad=False, device=variant.device).check()


@pytest.mark.slow
@pytest.mark.parametrize("name", [row.name for row in CPU_ROWS if row.name.startswith("cpu.")])
def test_more_than_two_gigabytes_of_gates(name: str, tmp_path: Path) -> None:
    """N * 4H numbers of 2^31 bytes and a little: offsets in bytes leave 32 bits.

    Gates are kept only for a backward, so there is one. In a process without poison, which would
    touch every page once more.
    """
    dtype = torch.bfloat16 if name == "cpu.avx512bf16" else torch.float32
    skip_unless_available(name, dtype)
    run_python(
        """
from lstm_fused.layer import layer
dtype = getattr(torch, sys.argv[3])
hidden, batch = 512, (1 << 20) // dtype.itemsize + 3
torch.manual_seed(0)
x = torch.randn(batch, 1, dtype=dtype)
sizes = (4 * hidden, 1), (4 * hidden, hidden), (4 * hidden,)
w = (*(torch.randn(size, dtype=dtype) for size in sizes), None, None)
def both(x):
    x = x.clone().requires_grad_()
    y, h, c = layer(x.unsqueeze(0), None, None, [w])
    y.backward(x.detach().expand_as(y))
    return y.detach()[0], x.grad
with variant(name):
    got = both(x)
    want = both(torch.cat([x[:3], x[-3:]]))
torch.save(([torch.cat([t[:3], t[-3:]]) for t in got], want), os.path.join(folder, "ends"))
""",
        name,
        str(tmp_path),
        str(dtype).removeprefix("torch."),
    )
    got, want = torch.load(tmp_path / "ends")
    for what, ends, whole in zip(("y", "dx"), got, want, strict=True):
        assert_no_worse(f"the first and last rows of {what}", ends, whole, whole.double())
