"""The driver: budget, stages that fail, hang or are missing, its files; and the stages' parts."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench import gpu_check, proven, results
from bench.gpu import child, native, ncu, sanitizer, stress, sweep, tests, tiny, twins
from bench.gpu.report import Report
from bench.gpu_check import Stage
from lstm_fused import dispatch
from tests.simt import building

ROOT = Path(__file__).resolve().parents[2]
MOST_FILES = 8  # that come back from the machine with the GPU

OPTIONS = {"filter": "", "tests": "", "out": "", "command": "test"}
FAKES = {
    "fake_stamp": """
        report.stamp = {"device": "Some GPU", "utc": "2026-01-02T03:04:05", "commit": "abcdef0123"}
    """,
    "fake_good": """
        report.rows.append({"status": "ok"})
        report.check("good", None, variant="cuda.step")
    """,
    "fake_wrong": """
        report.check("wrong", "3 tests failed", variant="cuda.step")
    """,
    "fake_raises": """
        report.put("before", 1)
        raise ValueError("as planned")
    """,
    "fake_hangs": """
        import time
        report.put("before", 2)
        time.sleep(60)
    """,
    "fake_slow": """
        import time
        for number in report.in_time(range(1000)):
            report.details["last"] = number
            time.sleep(0.05)
    """,
}


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stages of a few lines, importable here and in the stages' processes."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    for name, body in FAKES.items():
        (folder / f"{name}.py").write_text(f"def run(report):{body}")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(gpu_check, "LEAST_SECONDS", 0.0)
    return tmp_path / "out"


def go(folder: Path, *names: str, budget: float = 60.0, share: float = 0.5) -> dict[str, Any]:
    """Run fake stages after the one that stamps; the result file, with its Results."""
    stages = [Stage(name, name, share, module=name) for name in ("fake_stamp", *names)]
    found = gpu_check.Results(folder, "cuda")
    gpu_check.run_stages(stages, found, budget, OPTIONS)
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text()) | {"failures": found.failures}


def outcomes(content: dict[str, Any]) -> dict[str, str]:
    return {stage["name"]: stage["result"] for stage in content["stages"]}


# Flags


@pytest.mark.parametrize(
    ("text", "value"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("45", 45), (" 2m ", 120)]
)
def test_budget(text: str, value: float) -> None:
    assert gpu_check.seconds(text) == value


@pytest.mark.parametrize("text", ["", "m", "0s", "-3m", "ten", "10 m", "5d"])
def test_no_budget(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="like 90s, 10m"):
        gpu_check.seconds(text)


def test_stages_are_chosen_in_order_of_value() -> None:
    def names(*args: Any) -> list[str]:
        return [stage.name for stage in gpu_check.select(*args)]

    assert names("sweep, tests") == ["build", "tests", "sweep"]
    proof = [*names(None)[:1], "twins", *proven.REQUIRED]
    assert names(None)[: len(proof)] == proof, "what a proof needs comes first"
    assert names(None) == [stage.name for stage in gpu_check.STAGES]
    assert names(None, True)[-1] == "cpu" and "cpu" not in names(None)
    assert names("tests", True) == ["build", "tests", "cpu"]
    with pytest.raises(argparse.ArgumentTypeError, match="got quick, slow"):
        gpu_check.select("quick,tests,slow")


def test_the_list_names_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(["--list"]) == 0
    said = capsys.readouterr().out
    assert all(stage.name in said for stage in gpu_check.STAGES)


def test_it_needs_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main([]) == 2
    assert "torch finds no CUDA device" in capsys.readouterr().out


# Stages


def test_a_failing_stage_loses_neither_the_earlier_nor_the_later_ones(fakes: Path) -> None:
    content = go(fakes, "fake_good", "fake_raises", "fake_wrong", "fake_absent")
    assert outcomes(content) == {
        "fake_stamp": "ok",
        "fake_good": "ok",
        "fake_raises": "failed",
        "fake_wrong": "failed",
        "fake_absent": "skipped",
    }
    reasons = {stage["name"]: stage["reason"] for stage in content["stages"]}
    assert reasons["fake_raises"] == "ValueError: as planned"
    assert reasons["fake_absent"] == "not there: fake_absent"
    assert content["details"]["fake_raises"] == {"before": 1}
    assert content["rows"] == [{"status": "ok"}]
    assert [check["check"] for check in content["checks"]] == ["good", "wrong"]
    assert content["failures"] == 2
    log = next(fakes.glob("*.log")).read_text()
    assert "as planned" in log and "3 tests failed" in log
    assert next(fakes.glob("*.json")).name == "check-cuda-some-gpu-2026-01-02-abcdef01.json"


def test_a_hanging_stage_is_killed_and_what_it_had_is_kept(fakes: Path) -> None:
    content = go(fakes, "fake_good", "fake_hangs", budget=6.0)
    stages = {stage["name"]: stage for stage in content["stages"]}
    assert stages["fake_hangs"]["result"] == "failed"
    assert stages["fake_hangs"]["reason"].startswith("hung: killed at its limit")
    assert stages["fake_hangs"]["seconds"] < 15
    assert content["details"]["fake_hangs"] == {"before": 2}
    assert content["rows"] == [{"status": "ok"}]


def test_a_stage_that_runs_out_of_time_ends_by_itself(fakes: Path) -> None:
    content = go(fakes, "fake_slow", "fake_good", budget=8.0, share=0.4)
    stages = {stage["name"]: stage for stage in content["stages"]}
    assert stages["fake_slow"]["result"] == "out of time"
    assert "of 1000 cases done" in stages["fake_slow"]["reason"]
    assert content["details"]["fake_slow"]["last"] > 0
    assert stages["fake_good"]["result"] == "ok"
    assert content["failures"] == 0


def test_without_time_a_stage_is_not_begun(fakes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "LEAST_SECONDS", 30.0)
    content = go(fakes, "fake_good", budget=20.0)
    assert set(outcomes(content).values()) == {"out of time"}
    assert content["stamp"]["device"] == "unknown"


def test_a_failure_is_not_made_up_for(tmp_path: Path) -> None:
    report = Report(tmp_path / "x.json", "cpu", 0.0, OPTIONS)
    report.check("wrong", "as planned")
    assert list(report.in_time([1, 2])) == []
    report.skip("no tool")
    assert report.result == "failed"


def test_a_command_is_ended_at_its_limit() -> None:
    ended = child.run([sys.executable, "-c", "print('begun'); import time; time.sleep(60)"], 1.0)
    assert ended.code is None and ended.lines == ["begun"] and ended.seconds < 10


@pytest.mark.slow
def test_the_whole_path_on_a_cpu(tmp_path: Path) -> None:
    """Every stage that needs no GPU, as one runs it, over one case and one test of each variant."""
    command = [sys.executable, "-m", "bench.gpu_check", "--device", "cpu", "--budget", "5m"]
    command += ["--filter", "cpu-dense/keras/float32/forward", "--out", str(tmp_path)]
    command += ["--tests", "test_same_bits and prime and float16 and cpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    files = sorted(path.suffix for path in tmp_path.iterdir())
    assert files == [".json", ".log"] and len(files) <= MOST_FILES
    (path,) = tmp_path.glob("check-cpu-*.json")
    content = json.loads(path.read_text())
    ran = {stage["name"] for stage in content["stages"] if stage["result"] == "ok"}
    assert ran == {"build", "tests", "stress", "native", "sweep"}
    assert {stage["result"] for stage in content["stages"]} == {"ok", "skipped"}
    available = {row.name for row in dispatch.variants() if row.device == "cpu" and row.available}
    # The one case of the sweep is of float32.
    swept = {name for name in available if not dispatch.why_not(name, dispatch.Case(8))}
    for name, variants in {"tests": available, "stress": available, "sweep": swept}.items():
        right = {check["variant"] for check in content["checks"] if check["check"] == name}
        assert right == variants
    assert all(row["seconds"]["median"] > 0 for row in content["details"]["native"]["rows"])
    assert results.read([path]), "bench.plot reads the rows of the sweep"
    assert proven.right(content) == []


# Parts of the stages


def test_only_what_needs_a_gpu_is_marked_so() -> None:
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "--collect-only", "-m", "gpu"]
    folders = ["tests/csrc", "tests/lstm_fused"]
    done = subprocess.run(
        [*command, *folders], capture_output=True, text=True, cwd=ROOT, check=False
    )
    ids = [line for line in done.stdout.splitlines() if "::" in line]
    assert len(ids) > 500, done.stdout + done.stderr
    kernels = {row.name for row in dispatch.variants() if row.device == "cuda"}
    assert {tests.variant_of(line) for line in ids} == {*kernels, "wavefront"}
    assert tests.variant_of("tests/csrc/test_gpu_wavefront.py") == "", "it was not collected"


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("wanted", ["", "prime or odd"])
def test_of_many_failures_none_ends_the_tests_and_torchs_own_are_left_out(
    tmp_path: Path, device: str, wanted: str
) -> None:
    report = Report(tmp_path / "x.json", device, 0.0, OPTIONS | {"tests": wanted})
    command = tests.command(report, tmp_path / "lines")
    assert not any("maxfail" in word for word in command) and command.count("-k") == 1
    expression = command[command.index("-k") + 1]
    (tmp_path / "test_names.py").write_text(
        "import pytest\n"
        "names = ['torch.native@cuda-prime', 'torch.composite@cpu-odd', 'cuda.step@cuda-prime',\n"
        "         'cpu.avx2@cpu-odd', 'cuda.grid@cuda-wide']\n"
        "@pytest.mark.parametrize('name', names)\n"
        "def test_it(name): assert 'step' in name\n"
    )
    lines = tmp_path / "lines"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "bench.gpu.pytest_lines",
        "test_names.py",
    ]
    command += ["--result-lines", str(lines), "-k", expression]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=False)
    assert done.returncode == 1
    more = {} if wanted else {"cuda.grid": {"failed": 1}}
    right = {"cpu.avx2": {"failed": 1}, "cuda.step": {"passed": 1}}
    assert tests.summarize(lines.read_text().splitlines())["counts"] == right | more


@pytest.mark.parametrize(("cores", "workers", "threads"), [(16, 8, 2), (12, 8, 1), (3, 3, 1)])
def test_workers_share_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, threads: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    report = Report(tmp_path / "x.json", "cuda", 0.0, OPTIONS)
    command = tests.command(report, tmp_path / "lines")
    assert command[command.index("-n") + 1] == str(workers)
    assert tests.environment(report) == {"OMP_NUM_THREADS": str(threads)}


def test_results_of_tests_are_counted_by_variant(tmp_path: Path) -> None:
    def line(test: str, outcome: str, why: str = "") -> str:
        return json.dumps({"test": test, "outcome": outcome, "why": why})

    one, two = "t.py::test_a[one-float32-cuda.step@cuda]", "t.py::test_b[cuda.grid@cuda-2]"
    lines = [line(one, "started"), line(two, "started"), line(one, "passed")]
    lines += [line(two, "failed", "assert 1 == 2"), line("t.py::test_c", "skipped", "no GPU")]
    lines += [line("t.py::test_d[cuda.step@cuda]", "started"), '{"test": "cut o']
    found = tests.summarize(lines)
    counts = {"": {"skipped": 1}, "cuda.grid": {"failed": 1}, "cuda.step": {"passed": 1}}
    assert found["counts"] == counts
    assert found["failures"] == [{"test": two, "why": "assert 1 == 2"}]
    assert found["running"] == ["t.py::test_d[cuda.step@cuda]"]

    def checks(complete: bool) -> dict[str, str]:
        report = Report(tmp_path / "x.json", "cuda", 0.0, OPTIONS)
        tests.verdicts(report, found, complete)
        return {check["variant"]: check["result"] for check in report.checks}

    assert checks(False) == {"cuda.grid": "failed: 1 of 1 tests failed"}, "a cut proves nothing"
    assert checks(True)["cuda.step"] == "failed: 1 of 2 tests failed", "it began and never ended"
    found = tests.summarize(lines[:-2])
    assert checks(True) == {"cuda.grid": "failed: 1 of 1 tests failed", "cuda.step": "ok"}


TRAP = """
import os, sys
import pytest, torch

def synchronize():
    if torch.trapped:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

torch.trapped = False
torch.cuda.is_available, torch.cuda.synchronize = lambda: True, synchronize
sys.path.insert(0, {root!r})
from tests.conftest import pytest_pyfunc_call, pytest_runtest_logreport

def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: as in pyproject.toml")
"""
TRAPPED = """
import pytest, torch

pytestmark = pytest.mark.gpu

def names(*found):
    return pytest.mark.parametrize("variant", [f"cuda.{name}@cuda" for name in found])

@names("block", "grid", "step")
def test_of(variant):
    assert not torch.trapped
    if "grid" in variant:
        torch.trapped = True
        assert variant == "what a trap leaves"

@names("cluster", "step")
def test_late(variant):
    torch.trapped = "cluster" in variant
"""


def test_a_trap_is_blamed_on_its_own_test_alone(tmp_path: Path) -> None:
    """A worker without a context ends, whether the test noticed or not, and another goes on."""
    (tmp_path / "conftest.py").write_text(TRAP.format(root=str(ROOT)))
    (tmp_path / "test_trap.py").write_text(TRAPPED)
    lines = tmp_path / "lines"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "1",
        "--max-worker-restart",
        "9",
        "test_trap.py",
    ]
    command += ["-p", "bench.gpu.pytest_lines", "--result-lines", str(lines)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = tests.summarize(lines.read_text().splitlines())
    right, wrong = {"passed": 1}, {"failed": 1}
    assert found["counts"] == {
        "cuda.block": right,
        "cuda.cluster": wrong,
        "cuda.grid": wrong,
        "cuda.step": {"passed": 2},
    }
    assert found["running"] == []
    grid, cluster = (failure["why"] for failure in found["failures"])
    assert "what a trap leaves" in grid and "crashed while running" in grid
    assert "illegal memory access" in cluster and "crashed while running" in cluster


def test_a_warning_of_a_newer_compiler_takes_no_proof_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags: list[list[str]] = []

    def compiled(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        flags.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(building, "cuda_headers", lambda: ())
    monkeypatch.setattr(building.subprocess, "run", compiled)
    twins.build_for_machine(tmp_path / "probes")
    assert len(flags) == 2 and all("-w" in f and "-Werror" not in f for f in flags)


def test_the_sanitizer_blames_a_variant_for_its_own_kernels_only() -> None:
    ours = "=========     at void lf::cuda::gates_forward<float>(...)+0x40"
    theirs = "=========     at void cutlass::Kernel<...>(...)+0x10"
    head = "========= Invalid __global__ read of size 4 bytes"

    def judge(code: int | None, *lines: str) -> sanitizer.Verdict:
        return sanitizer.judge(child.Ended(code, 1.0, ["torch says", *lines]))

    assert judge(0).wrong is None
    wrong = judge(9, head, ours)
    assert wrong.wrong and "gates_forward" in wrong.wrong and wrong.complaint == [head, ours]
    assert judge(9, head, theirs) == (None, [head, theirs], False, False)
    launched_by_us = "=========     Host Frame: lf::forward(...) [0x1] in _C.so"
    assert judge(9, head, theirs, launched_by_us).wrong is None
    assert judge(None).cut and judge(1, "Error: Device not supported").refused
    assert "ended with 1" in str(judge(1, "Segmentation fault").wrong)
    assert len(judge(9, *[ours] * 100).complaint) == sanitizer.KEPT_LINES


def test_a_changed_bit_is_noticed() -> None:
    calls = iter(range(1000))

    def run() -> dict[str, torch.Tensor]:
        y = torch.ones(3, 4)
        y[2, 1] = float("nan")  # equal to itself here
        if next(calls) == 70:
            y[0, 0] += 2.0**-23
        return {"y": y}

    found = stress.repeat(run, 60, lambda: None, lambda: 1.0)
    assert (found.done, found.wrong) == (60, None)
    found = stress.repeat(run, 60, lambda: None, lambda: 1.0)
    assert found.wrong == "1 elements of y changed within 51 launches"


# What the process of a variant does; case and launches are told as stress.main does.
STRESSED = {
    "good": "tell(cases[0]); tell(cases[0], 2); tell(cases[1])",  # which it refuses
    "different": "tell(cases[0]); tell(cases[0], 2, 'y changed'); tell(cases[1])",
    "broken": "tell(cases[0]); tell(cases[0], 2); tell(cases[1]); raise ValueError('a trap')",
    "hangs": "tell(cases[0]); time.sleep(60)",
    "absent": "print('no such device'); sys.exit(3)",
    "slow": "tell(cases[0]); tell(cases[0], 1)",
    "refuses": "tell(cases[0]); tell(cases[1])",
    "last": "tell(cases[0]); tell(cases[0], 2)",
}
TELLING = """
import json, sys, time
cases = ["one", "two"]
def tell(case, done=None, wrong=None):
    more = {} if done is None else {"done": done, "wrong": wrong}
    print(json.dumps({"case": case, **more}), flush=True)
"""


def test_a_variant_that_breaks_or_hangs_takes_no_other_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(variant: str, device: str, end: float) -> list[str]:
        return [sys.executable, "-c", TELLING + STRESSED[variant]]

    monkeypatch.setattr(stress, "command", command)
    monkeypatch.setattr(stress.build, "runnable", lambda _: list(STRESSED))
    report = Report(tmp_path / "x.json", "cpu", time.time() + 16, OPTIONS)
    stress.run(report)
    found = {check["variant"]: (check["case"], check["result"]) for check in report.checks}
    hung = found.pop("hangs")
    assert hung[0] == "one" and hung[1].startswith("failed: hung: killed after ")
    assert found == {
        "good": ("", "ok"),
        "different": ("one", "failed: y changed"),
        "broken": ("two", "failed: ended with 1: ValueError: a trap"),
        "absent": ("", "failed: ended with 3: no such device"),
        "last": ("", "ok"),
    }
    assert report.reason == "slow was not launched 2 times with each shape"
    assert report.details["broken one"] == 2


def test_an_error_is_told_of_its_case(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(self: stress.Work) -> dict[str, torch.Tensor]:
        if self.case.dtype == "bfloat16":
            raise RuntimeError("CUDA error: a trap\nand advice")
        return {"y": torch.ones(3)}

    monkeypatch.setattr(stress.Work, "run", run)
    assert stress.main(["cpu.generic", "--device", "cpu", "--end", str(time.time() + 99)]) == 1
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row.get("done"), row.get("wrong")) for row in told] == [
        *[(None, None), (2, None)] * 2,
        *[(None, None), (0, "CUDA error: a trap")],
    ]


def test_every_variant_that_runs_here_takes_the_tiny_cases() -> None:
    cpu = torch.device("cpu")
    for row in dispatch.variants():
        if row.device == "cpu" and row.available:
            cases = [dispatch.Case(8, dtype=getattr(torch, dtype)) for dtype in tiny.DTYPES]
            taken = [case for case in cases if not dispatch.why_not(row.name, case)]
            assert tiny.run_tiny(row.name, cpu) == len(tiny.TINY) * len(taken) > 0
    assert tiny.run_profiled("torch", tiny.PROFILED["step"], cpu) == 1


def test_counters_are_read_from_csv() -> None:
    lines = [
        "==PROF== Connected to process 7",
        '"ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value"',
        '"0","void a<int, 2>(P)","Command line","dram__bytes.sum","byte","1,024"',
        '"0","void a<int, 2>(P)","Command line","launch__grid_size","","8"',
        '"1","b","Command line","dram__bytes.sum","byte","n/a"',
    ]
    assert ncu.parse(lines) == [
        {
            "kernel": "void a<int, 2>(P)",
            "dram__bytes.sum": 1024.0,
            "dram__bytes.sum unit": "byte",
            "launch__grid_size": 8.0,
        },
        {"kernel": "b", "dram__bytes.sum": "n/a", "dram__bytes.sum unit": "byte"},
    ]
    assert ncu.parse(["==ERROR== no permission"]) == []


def test_torch_is_measured_on_each_shape_once_headline_first() -> None:
    found = native.cases("cuda", "")
    assert [case.id for case in found[:2]] == [
        "flashrnn-b/t1024b16h768/bfloat16/forward",
        "flashrnn-b/t1024b16h768/bfloat16/training",
    ]
    shapes = [(c.T, c.B, c.I, c.H, c.L, c.bidirectional, c.proj, c.kind) for c in found]
    assert len(set(shapes)) == len(shapes)
    assert [mode.name for mode in native.MODES["cuda"]] == [
        "fp16",
        "bf16",
        "fp32-tf32",
        "fp32-ieee",
    ]


def test_a_wrong_pair_speaks_against_both_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a right one for none more than its own rows do."""
    report = Report(tmp_path / "report.json", "cpu", time.time() + 60, OPTIONS)
    kernels = ["cuda.block", "cuda.grid", "cuda.step"]
    rows: list[dict[str, Any]] = [{"arm": name, "status": "ok"} for name in kernels]
    wrong = {"status": "failed", "reason": "dx breaks the tolerance rule"}
    rows.append({"arm": "cuda.pair", "pair": ["cuda.grid", "cuda.step"]} | wrong)
    found = [SimpleNamespace(name=name, variant=name, wavefront=False) for name in kernels]
    found.append(SimpleNamespace(name="cuda.pair", variant=None, wavefront=False))
    monkeypatch.setattr(sweep.build, "runnable", lambda _: kernels)
    monkeypatch.setattr(sweep, "arms", lambda _: found)
    monkeypatch.setattr(sweep, "suite", lambda *_, **__: [SimpleNamespace(id="case")])
    monkeypatch.setattr(sweep, "measure", lambda *_: rows)
    monkeypatch.setattr(sweep, "describe", str)
    sweep.run(report)
    found_right = {check["variant"]: check["result"] == "ok" for check in report.checks}
    assert found_right == {"cuda.block": True, "cuda.grid": False, "cuda.step": False}
