"""The benchmarks: cases, statistics on a fake clock, refusal of wrong arms, files and figures."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lstm_fused
from bench import arms as bench_arms
from bench import machine, plot, results, run, saved_bytes, tables, timing, work
from bench.cases import QUICK, SUITES, Case, suite
from bench.check import judge
from lstm_fused.dispatch import Choice

CPU = torch.device("cpu")
TINY = Case("tiny", "odd", T=5, B=3, I=4, H=7)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """A team of threads waits for each other on a busy machine; tests/conftest.py restores."""
    torch.set_num_threads(1)


# Cases


@pytest.mark.parametrize("name", sorted(SUITES))
def test_case_names_are_unique_and_quick_ones_exist(name: str) -> None:
    ids = [case.id for case in suite(name)]
    assert len(set(ids)) == len(ids)
    assert [case.id for case in suite(name, quick=True)] == [i for i in ids if i in QUICK[name]]
    assert len(suite(name, quick=True)) == len(QUICK[name])
    assert suite(name, matching="no such case") == []


def test_the_two_shapes_that_must_not_be_slower_are_measured() -> None:
    for shape in [(120, 32, 16, 32), (100, 32, 128, 128)]:
        kinds = {c.kind for c in suite("cpu") if (c.T, c.B, c.I, c.H) == shape and c.L == 1}
        assert kinds >= {"forward", "training"}


@pytest.mark.parametrize(
    "case",
    [
        TINY,
        replace(TINY, kind="training"),
        replace(TINY, kind="step", T=1),
        replace(TINY, kind="training", packed=True, L=2, bidirectional=True),
        replace(TINY, kind="training", proj=3),
        replace(TINY, dtype="bfloat16"),
    ],
    ids=["forward", "training", "step", "packed", "proj", "bfloat16"],
)
def test_every_kind_of_case_runs_and_is_right(case: Case) -> None:
    """Outputs, and for training the gradient of every leaf, of each arm of this machine."""
    ref = work.reference(case, CPU)
    assert set(ref) >= {"y", "h_n", "c_n"}
    if case.kind == "training":
        names = work.Work(case, torch.nn.LSTM, torch.float64, CPU).leaves
        assert set(ref) == {"y", "h_n", "c_n", *(f"d{name}" for name in names)}
    rows, runners = run.prove(case, bench_arms.arms(CPU), CPU, 1, ref)
    for runner in runners.values():
        runner.close()
    wrong = [f"{row['arm']}: {row}" for row in rows if row["status"] == "failed"]
    assert not wrong
    assert [row["arm"] for row in rows if row["status"] == "ok"][0] == "torch"


def test_reference_starts_from_the_rounded_numbers() -> None:
    """In bfloat16 the reference sees the weights and inputs that bfloat16 can hold."""
    half = work.Work(replace(TINY, dtype="bfloat16"), torch.nn.LSTM, torch.float64, CPU)
    assert torch.equal(half.input.double(), half.input.to(torch.bfloat16).double())
    full = work.Work(TINY, torch.nn.LSTM, torch.float64, CPU)
    assert not torch.equal(half.input, full.input)


# Timing


class FakeRunner:
    """Says what it is told to, and keeps a diary of who ran when."""

    def __init__(self, name: str, seconds: Callable[[int], float], diary: list[str]) -> None:
        self.name, self.seconds, self.diary = name, seconds, diary
        self.count = itertools.count()

    def results(self) -> dict[str, Tensor]:
        return {}

    def sample(self, calls: int) -> list[float]:
        self.diary.append(self.name)
        return [self.seconds(next(self.count))]

    def close(self) -> None:
        self.diary.append(f"{self.name} closed")


def test_median_and_quartiles() -> None:
    found = timing.summarize([5.0, 1.0, 2.0, 4.0, 3.0], calls=7)
    assert (found.q1, found.median, found.q3, found.calls) == (2.0, 3.0, 4.0, 7)
    assert round(found.spread, 9) == round(2 / 3, 9)
    assert timing.summarize([2.0], calls=1).spread == 0.0


def test_cpu_runner_divides_by_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 108.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    calls: list[int] = []
    runner = timing.CpuRunner(lambda: calls.append(1) or {})
    assert runner.sample(4) == [2.0]
    assert len(calls) == 4


def test_arms_take_turns_in_changing_order() -> None:
    diary: list[str] = []
    runners = {name: FakeRunner(name, lambda _: 0.1, diary) for name in "abc"}
    timing.interleave(runners, rounds=3)
    assert "".join(diary[-9:]) == "abcbcacab"


def test_slow_moment_of_the_machine_meets_all_arms() -> None:
    """The machine halves its speed after a while: the ratio of medians does not notice."""
    diary: list[str] = []

    def drift(scale: float) -> Callable[[int], float]:
        return lambda count: scale * (1.0 if count < 7 else 2.0)

    runners = {"a": FakeRunner("a", drift(1.0), diary), "b": FakeRunner("b", drift(3.0), diary)}
    timings, _ = timing.interleave(runners, rounds=9)
    assert round(timings["b"].median / timings["a"].median, 9) == round(3.0, 9)


@pytest.mark.parametrize(("busy_rounds", "left"), [(4, 5), (7, 9)], ids=["dropped", "too_many"])
def test_busy_rounds_are_left_out_while_enough_remain(busy_rounds: int, left: int) -> None:
    diary: list[str] = []
    answers = iter([True] + [False] * busy_rounds + [True] * (9 - busy_rounds))
    runners = {"a": FakeRunner("a", float, diary)}
    timings, busy = timing.interleave(runners, rounds=9, quiet=lambda: next(answers))
    assert busy == busy_rounds
    assert len(timings["a"].samples) == left


def test_meter_tells_ours_from_foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    def reading(wall: float, busy: float, own: float, steal: float) -> dict[str, float]:
        return {"wall": wall, "busy": busy, "own": own, "steal": steal}

    readings = iter(
        [
            reading(0, 10, 5, 0),
            reading(1, 12, 7, 0),  # 2 CPUs busy, both ours
            reading(2, 14, 8, 0),  # 2 CPUs busy, one ours
            reading(3, 15, 9, 0.5),  # half a CPU stolen
        ]
    )
    monkeypatch.setattr(machine.Meter, "_read", lambda self: next(readings))
    meter = machine.Meter()
    assert meter.quiet()
    assert not meter.quiet() and round(meter.foreign, 9) == round(1.0, 9)
    assert not meter.quiet() and round(meter.steal, 9) == round(0.5, 9)
    assert round(meter.worst_foreign, 9) == round(1.0, 9)


# A wrong arm


def spoil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the forward of lstm_fused.LSTM wrong in one element, by one part in a thousand."""
    import lstm_fused

    right = lstm_fused.LSTM.forward

    def wrong(self: Any, *args: Any) -> Any:
        y, state = right(self, *args)
        y = y.clone()
        y.view(-1)[3] *= 1.001
        return y, state

    monkeypatch.setattr(lstm_fused.LSTM, "forward", wrong)


def test_a_wrong_arm_is_recorded_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch)
    ours = bench_arms.Arm("ours", "ours")
    rows = run.measure(TINY, [bench_arms.arms(CPU)[0], ours], CPU, threads=1, rounds=1)
    by_arm = {row["arm"]: row for row in rows}
    assert by_arm["torch"]["status"] == "ok"
    assert by_arm["ours"]["status"] == "failed"
    assert by_arm["ours"]["error"]["ratio"] > 1
    assert by_arm["ours"]["error"]["worst"] == "y"
    assert "seconds" not in by_arm["ours"]


def test_an_arm_of_tf32_may_lose_what_tf32_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch)
    candidates = [
        bench_arms.Arm(f"{family}.{precision}", family, precision=precision)
        for family in ("torch", "ours")
        for precision in ("tf32", "ieee")
    ]
    rows, _ = run.prove(TINY, candidates, CPU, 1, work.reference(TINY, CPU))
    status = {row["arm"]: row["status"] for row in rows}
    assert status["ours.tf32"] == "ok" and status["ours.ieee"] == "failed"


def test_what_two_kernels_share_has_arms_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of float32 two, which ask for the choice by their own precision."""
    backward = {"tf32": "cuda.grid", "ieee": "cuda.step"}

    def choose(case: lstm_fused.Case) -> Choice:
        return Choice("cuda.grid", backward[torch.backends.cudnn.rnn.fp32_precision])

    monkeypatch.setattr(bench_arms, "choose", choose)
    monkeypatch.setattr(bench_arms, "_our_variants", lambda _: ["cuda.grid"])
    found = {arm.name: arm for arm in bench_arms.arms(torch.device("cuda"))}
    assert found["cuda.pair.ieee"].why_not(TINY) is None and found["cuda.pair.ieee"].default(TINY)
    assert "share" in str(found["cuda.pair.tf32"].why_not(TINY))
    assert found["cuda.grid.tf32"].default(TINY) and not found["cuda.grid.ieee"].default(TINY)
    assert not any(arm.default(TINY) for arm in found.values() if arm.family == "torch")
    assert found["cuda.pair.ieee"].chosen(TINY) == ("cuda.grid", "cuda.step")
    assert not found["cuda.pair.ieee"].default(replace(TINY, dtype="float16")), "not its dtype"


def test_judge_refuses_to_compare_different_things() -> None:
    one = {"y": torch.ones(1, dtype=torch.float64)}
    with pytest.raises(ValueError, match="results must be named"):
        judge({}, one, one)


# Files


@pytest.fixture(scope="module")
def result_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two tiny cases."""
    folder = tmp_path_factory.mktemp("results")
    cases = [TINY, replace(TINY, kind="training")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "suite", lambda *_, **__: cases)
        patch.setattr(timing, "ROUND_SECONDS", 0.01)
        patch.setattr(timing, "SAMPLE_SECONDS", 0.001)
        code = run.main(["--suite", "cpu", "--quick", "--threads", "1", "--out", str(folder)])
    assert code == 0
    (path,) = folder.glob("*.json")
    return path


@pytest.mark.skipif("avx2" not in machine.cpu_flags(), reason="this CPU has no AVX2")
def test_a_limited_run_says_so(tmp_path: Path) -> None:
    """In a program of its own: torch reads the limits once."""
    command = [sys.executable, "-m", "bench.run", "--suite", "cpu", "--isa", "avx2"]
    command += ["--filter", "cpu-step/h128", "--rounds", "1", "--threads", "1"]
    subprocess.run([*command, "--out", str(tmp_path)], check=True, timeout=300, cwd=machine.ROOT)
    (path,) = tmp_path.glob("*.json")
    content = json.loads(path.read_text())
    assert content["stamp"]["device"].endswith(" as avx2") and "-as-avx2-" in path.name
    assert content["stamp"]["cpu_as_torch_sees_it"] == "AVX2"
    ok = {row["arm"] for row in content["rows"] if row["status"] == "ok"}
    assert ok == {"torch", "torch.no-onednn", "cpu.avx2"}


def test_result_file_is_stamped_and_complete(result_file: Path) -> None:
    content = json.loads(result_file.read_text())
    stamp, rows = content["stamp"], content["rows"]
    for key in ("device", "cpu", "cpu_flags", "torch", "utc", "commit", "dirty", "source_hash"):
        assert key in stamp
    assert stamp["sass_digest"] is None and stamp["driver"] is None
    assert result_file.name.startswith("cpu-") and stamp["utc"][:10] in result_file.name
    ok = [row for row in rows if row["status"] == "ok"]
    assert {row["case"]["kind"] for row in ok} == {"forward", "training"}
    for row in ok:
        assert row["seconds"]["q1"] <= row["seconds"]["median"] <= row["seconds"]["q3"]
        assert row["error"]["ratio"] <= 1 or row["family"] == "torch"
        assert row["speed"] > 0
    assert all(row["speed"] == 1 for row in ok if row["arm"] == "torch")


@pytest.mark.parametrize("form", ["png", "svg"])
def test_figures_render(result_file: Path, tmp_path: Path, form: str) -> None:
    assert plot.main([str(result_file), "--out", str(tmp_path), "--format", form]) == 0
    pictures = list(tmp_path.glob(f"*.{form}"))
    assert len(pictures) == 2
    starts = {"png": b"\x89PNG", "svg": b"<?xml"}
    assert all(picture.read_bytes().startswith(starts[form]) for picture in pictures)


def test_table_marks_stale_rows(
    result_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plot.main([str(result_file), "--markdown"]) == 0
    fresh = capsys.readouterr().out
    assert "| odd | 5, 3, 4, 7, 1 |" in fresh and "(stale)" not in fresh
    content = json.loads(result_file.read_text())
    content["stamp"] |= {"source_hash": "0" * 64, "cpu_source_hash": "0" * 64}
    old = tmp_path / "old.json"
    old.write_text(json.dumps(content))
    assert plot.main([str(old), "--markdown"]) == 0
    assert "(stale)" in capsys.readouterr().out


def test_cuda_rows_stay_fresh_while_the_machine_code_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    today = {"sm_90 kernel": "abc", "sm_80 kernel": "abc", "sm_80 other": "abc"}
    monkeypatch.setattr(results, "sass_digest", lambda: today)
    staleness = results.Staleness()
    digests = (
        ({"sm_90 kernel": "abc"}, False),
        ({"sm_90 kernel": "xyz"}, True),
        ({"sm_90 kernel": "abc", "sm_90 gone": "abc"}, True),
        ({"sm_100 kernel": "abc"}, True),
        (None, True),
    )
    for digest, stale in digests:
        stamp = {"source_hash": "older", "sass_digest": digest, "capability": "9.0"}
        assert staleness.stale(results.Row(stamp, {})) is stale


@pytest.mark.parametrize(("capability", "stale"), [(None, False), ("9.0", True)])
def test_kernels_for_gpus_make_no_row_of_a_cpu_stale(capability: str | None, stale: bool) -> None:
    stamp = machine.stamp(torch.device("cpu"), "") | {"capability": capability}
    changed = stamp | {"source_hash": "older"}
    assert results.Staleness().stale(results.Row(changed, {})) is stale
    changed["cpu_source_hash"] = "older"
    assert results.Staleness().stale(results.Row(changed, {}))


def test_sources_of_a_cpu_are_all_but_the_kernels_for_gpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("csrc/cuda/lstm_fused/a.cuh", "csrc/cpu/b.h", "lstm_fused/c.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("before")
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setattr(machine, "CUDA", tmp_path / "csrc" / "cuda")
    hashes = [(machine.source_hash(), machine.source_hash(cuda=False))]
    for name in ("csrc/cuda/lstm_fused/a.cuh", "csrc/cpu/b.h", "lstm_fused/c.py"):
        (tmp_path / name).write_text("after")
        hashes.append((machine.source_hash(), machine.source_hash(cuda=False)))
    both, cpu = zip(*hashes, strict=True)
    assert len(set(both)) == 4
    assert cpu[0] == cpu[1] and len(set(cpu)) == 3


def test_cpus_of_one_name_are_told_apart_by_their_vectors(result_file: Path) -> None:
    row = results.read([result_file])[0]
    wide, narrow = (
        results.Row(
            row.stamp | {"device": "CPU", "cpu": "CPU", "cpu_flags": flags},
            row.data | {"threads": 1},
        )
        for flags in (["avx", "avx2", "avx512f"], ["avx", "avx2"])
    )
    assert (wide.where, narrow.where) == ("CPU (AVX-512), 1 thread", "CPU (AVX2), 1 thread")
    assert results.newest([wide, narrow]) == [wide, narrow]


def test_readme_shows_no_cpu_that_stood_for_another(result_file: Path) -> None:
    row = results.read([result_file])[0]
    case = row.case | {"group": "cpu-dense"}
    shown = results.Row(row.stamp, row.data | {"case": case, "threads": 1})
    limited = results.Row(row.stamp | {"device": row.stamp["device"] + " as avx2"}, shown.data)
    assert tables.shown([shown, limited]) == [shown]


def test_other_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"other\.json is not a result file"):
        results.read([path])


def test_a_second_run_does_not_overwrite_the_first(tmp_path: Path) -> None:
    stamp = {"device": "NVIDIA H100 80GB", "utc": "2026-01-02T03:04:05", "commit": "abcdef0123"}
    first = run.result_path(tmp_path, "gpu", stamp)
    assert first.name == "gpu-nvidia-h100-80gb-2026-01-02-abcdef01.json"
    first.touch()
    assert run.result_path(tmp_path, "gpu", stamp).name.endswith("-abcdef01-2.json")


# Other programs


def test_saved_bytes_of_a_known_graph() -> None:
    """Linear keeps its input, which is not counted; sigmoid keeps its output [5, 7]."""
    module = torch.nn.Sequential(torch.nn.Linear(4, 7), torch.nn.Sigmoid())
    assert saved_bytes.saved_bytes(module, torch.randn(5, 4, requires_grad=True)) == 5 * 7 * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{}, {"proj_size": 8}, {"bidirectional": True}], ids=str)
def test_we_keep_no_more_for_backward_than_torch(
    dtype: torch.dtype, options: dict[str, Any]
) -> None:
    import lstm_fused

    x = torch.randn(20, 8, 16, dtype=dtype, requires_grad=True)
    theirs, ours = (
        saved_bytes.saved_bytes(lstm(16, 32, dtype=dtype, **options), x)
        for lstm in (torch.nn.LSTM, lstm_fused.LSTM)
    )
    assert 0 < ours <= theirs


def test_gpu_needs_a_gpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        run.main(["--suite", "gpu"])
    assert "torch finds none" in capsys.readouterr().err


def test_a_case_without_a_reference_does_not_stop_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: object) -> None:
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setattr(run, "reference", too_large)
    (row,) = run.measure(TINY, [], CPU, threads=1, rounds=1)
    assert (row["status"], row["reason"]) == ("refused", "no reference: out of memory")
    assert "out of memory" in run.describe(row)
