"""The table of costs fitted to result files that are computed from a known one."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import cases, fit, machine
from bench.arms import Arm
from bench.gpu import scans
from bench.least_squares import nonnegative
from bench.machine import SCHEMA
from bench.run import RESULTS, measure
from lstm_fused import _load, costs
from lstm_fused.costs import COSTS, TERMS, Costs, Gpu
from tests.bench.fakes import Recorder, assert_makes_nothing_stale, program

GPU = Gpu(shared=163 << 10)
TABLE = fit.predicted()

pytestmark = pytest.mark.skipif(_load.load() is None, reason="the plans' numbers are not built")


def another_gpu() -> dict[str, Costs]:
    """A GPU whose every number is half to twice what the table says."""
    draw = random.Random(0)
    return {
        name: Costs(*(number * draw.uniform(0.5, 2) for number in row[:-1]), None)
        for name, row in TABLE.items()
    }


def stamp(**changes: Any) -> dict[str, Any]:
    usual = {"schema": SCHEMA, "capability": "9.0", "device": "A GPU"}
    usual |= {"multiprocessors": GPU.multiprocessors, "shared_memory": GPU.shared}
    usual |= {"l2_cache": GPU.l2}
    return usual | {"utc": "2026-12-01T00:00:00+00:00"} | changes


Noise = Callable[[], float]


def scan_figures(truth: fit.Table, noise: Noise) -> dict[str, Any]:
    """What stage `scans` leaves of one variant after the other, and of a scan without a part."""
    details: dict[str, Any] = {}
    for scan in scans.SCANS[:4]:
        figures = details[scan.label] = {}
        for case in [*scan.cases, "bf16:64,300,128,2", "bf16:64,2000,96,1", "tf32:2,40,96,2"]:
            dtype, _, sizes = case.partition(":")
            T, B, H, D = sizes.split(",")
            for direction in ("forward", "backward"):
                name = f"{scan.label}.{dtype}.t{T}b{B}h{H}d{D}.{direction}"
                figure = scans.figure_of(name.replace(" (nobody waits)", ""), GPU)
                if figure is None:
                    figures[name] = {"unit": "", "value": None, "reason": "it has no kernel"}
                    continue
                time = costs.price(figure.work, truth[figure.work.row]) * noise()
                figures[name] = {"unit": "us", "value": time / figure.T}
    for figure in details["cuda.grid (nobody waits)"].values():
        figure["value"] = 1e-3  # must not be fitted to
    return details


def rows_of(truth: fit.Table, noise: Noise) -> list[dict[str, Any]]:
    """What stage `sweep` leaves of a third of the suite for GPUs."""
    rows: list[dict[str, Any]] = []
    for number, case in enumerate(cases.suite("gpu")):
        if number % 3 and not 128 < case.H <= 192:  # few cases are cuDNN's for middling H
            continue
        arms = dict.fromkeys(("cuda.decode", "cuda.grid", "cuda.step"), "ours")
        for arm, family in ({"torch": "torch"} | arms).items():
            name = arm
            if case.dtype == "float32":
                name += random.Random(case.id).choice([".ieee", ".tf32"])
            row = {"case": case.as_dict(), "arm": name, "family": family, "dtype": case.dtype}
            works = fit._works(row, GPU)
            if case.L > 1 or case.packed:
                assert works is None
                time = 1e-9
            elif works is None:
                rows.append(row | {"status": "refused", "reason": "it has no kernel"})
                continue
            else:
                time = sum(costs.price(work, truth[work.row]) for work in works) * noise() / 1e6
            rows.append(row | {"status": "ok", "seconds": {"median": time}})
    rows.append(rows[0] | {"status": "failed", "reason": "wrong"})
    return rows


def write(path: Path, truth: fit.Table, noise: Noise = lambda: 1.0, **changes: Any) -> Path:
    content = {"stamp": stamp(**changes), "rows": rows_of(truth, noise)}
    path.write_text(json.dumps(content | {"details": {"scans": scan_figures(truth, noise)}}))
    return path


def test_what_is_measured_is_found_again(tmp_path: Path) -> None:
    truth = another_gpu()
    measured = fit.read([write(tmp_path / "gpu.json", truth)])
    assert max(fit.error_of(one, TABLE) for one in measured) > 0.3, "another GPU"
    table, settled = fit.fit(measured, TABLE)
    assert settled
    assert max(fit.error_of(one, table) for one in measured) < 0.01
    assert {row.measured for row in table.values()} == {"gpu.json"}
    # Numbers that make up a good part of some time.
    for name, term in [
        ("cuda.grid forward", "wait"),
        ("cuda.grid backward", "product"),
        ("cuda.block forward", "turn"),
        ("cuda.cluster backward", "product"),
        ("cuda.decode", "read"),
        ("cuda.step", "launch"),
        ("torch.native standard", "launch"),
        ("torch.native static forward", "turn"),
        ("torch.native middling forward", "product"),
        ("products", "product"),
    ]:
        found = getattr(table[name], term) / getattr(truth[name], term)
        assert abs(found - 1) < 0.05, (name, term, found)


def test_noise_does_not_lead_it_astray(tmp_path: Path) -> None:
    truth, draw = another_gpu(), random.Random(1)
    noisy = write(tmp_path / "gpu.json", truth, lambda: draw.uniform(0.9, 1.1))
    table, settled = fit.fit(fit.read([noisy]), TABLE)
    assert settled
    exact = fit.read([write(tmp_path / "exact.json", truth)])
    errors = sorted(fit.error_of(one, table) for one in exact)
    assert errors[len(errors) // 2] < 0.02 and errors[-1] < 0.12
    numbers = [number for row in table.values() for number in row[:-1]]
    assert min(numbers) >= 0


def test_what_no_file_speaks_of_stays_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "gpu.json", another_gpu())
    content = json.loads(path.read_text())
    content["rows"] = []
    content["details"]["scans"] = {"cuda.grid": content["details"]["scans"]["cuda.grid"]}
    path.write_text(json.dumps(content))
    table = fit.fit(fit.read([path]), TABLE).table
    for name, row in table.items():
        if name.startswith("cuda.grid"):
            assert row.measured == "gpu.json" and row != TABLE[name]
        else:
            assert row == TABLE[name]
    # And within a row, a term that the table has not.
    assert table["cuda.grid forward"].fragments > 0
    without = {**TABLE, "cuda.grid forward": TABLE["cuda.grid forward"]._replace(fragments=0)}
    assert fit.fit(fit.read([path]), without).table["cuda.grid forward"].fragments == 0


def test_of_what_two_files_have_the_newer_one_counts(tmp_path: Path) -> None:
    old = write(tmp_path / "a.json", TABLE, utc="2026-11-30T23:00:00+00:00")
    new = write(tmp_path / "b.json", another_gpu())
    whole = fit.fit(fit.read([new, old]), TABLE)
    assert whole == fit.fit(fit.read([new]), TABLE)
    content = json.loads(new.read_text())
    content["details"]["scans"].pop("cuda.block")
    figures = content["details"]["scans"]["cuda.grid"]
    content["details"]["scans"]["cuda.grid"] = dict(list(figures.items())[:9])
    new.write_text(json.dumps(content))
    table = fit.fit(fit.read([old, new]), TABLE).table
    assert table["cuda.block forward"].measured == "a.json"
    assert {row.measured for name, row in table.items() if name.startswith("cuda.grid")} == {
        "a.json, b.json"
    }
    assert table["cuda.step"].measured == "b.json"


def only(path: Path, name: str, number: int, direction: str) -> Path:
    """Of a file, so many figures of one variant."""
    content = json.loads(path.read_text())
    figures = content["details"]["scans"][name]
    kept = [n for n, f in figures.items() if n.endswith(direction) and f["value"]][:number]
    content["rows"] = []
    content["details"]["scans"] = {name: {n: figures[n] for n in kept}}
    path.write_text(json.dumps(content))
    return path


def test_a_row_with_fewer_times_than_terms_stays_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, fitted in ((7, False), (8, True)):
        path = only(write(tmp_path / "gpu.json", another_gpu()), "cuda.grid", number, "forward")
        table = fit.fit(fit.read([path]), TABLE).table
        assert (table["cuda.grid forward"] != TABLE["cuda.grid forward"]) is fitted
        assert fit.main([str(path)]) == 0
        said = capsys.readouterr().out
        (line,) = [line for line in said.splitlines() if line.startswith("cuda.grid forward")]
        assert line.split()[2] == str(number)
        assert ("predicted: 8 terms" in line) is not fitted


def test_what_is_not_fitted_draws_no_other_row_along(tmp_path: Path) -> None:
    """Rows of a layer are times of products too: a layer whose scan stays predicted is left out."""
    path = write(tmp_path / "gpu.json", another_gpu())
    content = json.loads(path.read_text())
    content["details"]["scans"] = {}
    seen = {
        row["arm"]: row
        for row in content["rows"]
        if row["status"] == "ok" and row["case"]["L"] == 1
    }
    content["rows"] = [row for arm, row in seen.items() if arm.startswith("cuda.grid")]
    assert content["rows"]
    path.write_text(json.dumps(content))
    assert fit.fit(fit.read([path]), TABLE) == (TABLE, True)


def test_terms_that_ended_at_the_floor_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = {**TABLE, "cuda.grid forward": TABLE["cuda.grid forward"]._replace(wait=0.0)}
    assert fit.main([str(write(tmp_path / "gpu.json", truth))]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("cuda.grid forward")]
    assert line.endswith("at the floor: wait")


def test_precisions_and_dtypes_of_arms_are_told_apart() -> None:
    case = replace(cases.suite("gpu")[0], dtype="float32").as_dict()

    def millions(arm: str, dtype: str, family: str = "ours") -> float:
        row = {"case": case, "arm": arm, "family": family, "dtype": dtype}
        return (fit._works(row, GPU) or [])[0].millions

    half, tf32 = millions("torch.fp16", "float16", "torch"), costs.RELATIVE["tf32"]
    assert millions("torch.tf32", "float32", "torch") == tf32 * half
    assert millions("torch.ieee", "float32", "torch") > 4 * tf32 * half
    assert millions("cuda.step.tf32", "float32") == tf32 * half
    assert millions("cuda.grid.ieee", "float32") == 3 * millions("cuda.grid.tf32", "float32")


def test_files_are_read_as_the_stages_write_them(tmp_path: Path) -> None:
    """Rows by bench.run.measure, figures by stage `scans`; times of a CPU stand for a GPU's."""
    one = next(case for case in cases.suite("cpu", quick=True) if case.L == 1 and not case.packed)
    case = replace(one, T=3, B=2, I=8, H=8)
    from bench.arms import arms

    candidates: list[Arm] = arms(torch.device("cpu"), ("torch",))
    rows = measure(case, candidates, torch.device("cpu"), 1, 1)
    name = "cuda.grid.bf16.t512b8h1024d1"
    line = '{"%s.%s": {"unit": "us", "value": 1.5, "spread": 0.01, "parameters": {}}}'
    lines = "\n".join(line % (name, way) for way in ("inference", "forward", "backward"))
    command = [str(program(tmp_path, f"cat << EOF\n{lines}\nEOF"))]
    figures, _ = scans.micro.figures_of(command, "cuda.grid", scans.SECONDS)
    report = Recorder()
    report.put("cuda.grid", scans.beside_what_was_said(figures, GPU))
    path = tmp_path / "gpu.json"
    content = {"stamp": machine.stamp(torch.device("cpu"), "") | stamp(), "rows": rows}
    path.write_text(json.dumps(content | {"details": {"scans": report.kept, "sweep": {}}}))
    found = [(one.name, one.microseconds) for one in fit.read([path])]
    assert found[:3] == [("cuda.grid", 1.5 * 512)] * 3
    assert [name for name, _ in found[3:]] == [costs.NATIVE] * (len(found) - 3) and found[3:]
    assert found[3][1] == 1e6 * rows[0]["seconds"]["median"]


def test_files_that_the_table_names_are_there() -> None:
    for row in COSTS.values():
        for name in (row[-1] or "").split(", "):
            assert (RESULTS / name).exists()


# Refusals

BAD_ROW = {"case": {"id": "a case"}, "status": "ok", "seconds": {"median": 1}, "dtype": "float12"}


def test_results_of_cpus_are_nothing_to_fit_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of this repository."""
    for path in RESULTS.glob("*.json"):
        if json.loads(path.read_text())["stamp"]["capability"] is None:
            shutil.copy(path, tmp_path)
    assert any(tmp_path.iterdir())
    monkeypatch.setattr(fit, "RESULTS", tmp_path)
    assert fit.main([]) == 2
    said = capsys.readouterr().err
    assert "has a time of a GPU" in said and "--stages scans,sweep --out" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not a result file of a GPU: JSONDecodeError"),
        ({}, "is not a result file of a GPU: KeyError('stamp')"),
        ({"stamp": stamp(schema=SCHEMA + 1), "rows": []}, "schema must be 1, got 2"),
        ({"stamp": {"schema": SCHEMA, "capability": "9.0"}, "rows": []}, "lacks multiprocessors"),
        ({"stamp": stamp(multiprocessors=None), "rows": []}, "its stamp has None"),
        ({"stamp": stamp(shared_memory=None), "rows": []}, "lacks shared_memory"),
        ({"stamp": stamp(utc=None), "rows": []}, "lacks utc of its GPU"),
        ({"stamp": stamp(), "rows": [], "details": []}, "details, and scans in them, must be"),
        ({"stamp": stamp(), "rows": [], "details": {"scans": []}}, "details, and scans in them"),
        ({"stamp": stamp(), "rows": [BAD_ROW]}, "a case has an unknown dtype 'float12'"),
        ({"stamp": stamp(), "rows": []}, "none of 1 files has a time of a GPU"),
        ({"stamp": stamp(capability=None), "rows": []}, "none of 1 files has a time of a GPU"),
    ],
    ids=str,
)
def test_a_file_without_anything_is_told(
    content: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gpu.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert fit.main([str(path)]) == 2
    assert said in capsys.readouterr().err


def test_two_gpus_have_no_common_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = another_gpu()
    paths = [write(tmp_path / f"{name}.json", truth, device=name) for name in ("H100", "H200")]
    paths.append(write(tmp_path / "pcie.json", truth, device="H100", multiprocessors=114))
    assert fit.main([str(path) for path in paths[:2]]) == 2
    said = capsys.readouterr().err
    of = "(132 multiprocessors, 163 KB of shared memory, 50 MB of L2)"
    assert f"H100.json of H100 {of} and H200.json of H200 {of}" in said
    assert fit.main([str(path) for path in paths[::2]]) == 2
    assert "pcie.json of H100 (114 multiprocessors, " in capsys.readouterr().err


# What it writes


def test_a_file_for_ones_own_gpu_is_what_the_library_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = another_gpu()
    path, out = write(tmp_path / "gpu.json", truth), tmp_path / "costs.json"
    assert fit.main([str(path), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "cuda.cluster" in said and "predicted" not in said
    read = costs.read(out)
    assert set(read) == set(TABLE)
    assert max(fit.error_of(one, read) for one in fit.read([path])) < 0.01


def test_the_table_in_the_library_is_as_it_is_written(tmp_path: Path) -> None:
    assert fit.FILE.read_text(encoding="utf-8") == fit.text(fit.standing())
    assert fit.main(["--check"]) == 0
    table = {**TABLE, "cuda.step": TABLE["cuda.step"]._replace(measured='a "b", ' + "c" * 90)}
    scope: dict[str, Any] = {}
    exec(fit.text(table), scope)
    assert {name: Costs(*row) for name, row in scope["COSTS"].items()} == table
    file = tmp_path / "_costs.py"
    file.write_text(fit.text(table))
    pytest.importorskip("ruff")
    for command in (["format", "--check"], ["check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--config", machine.ROOT / "pyproject.toml"]
        assert subprocess.run([*ruff, file]).returncode == 0


def test_it_writes_the_library_s_table_only_if_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, path = tmp_path / "_costs.py", write(tmp_path / "gpu.json", another_gpu())
    monkeypatch.setattr(fit, "FILE", file)
    assert fit.main([str(path)]) == 0 and not file.exists()
    assert fit.main([str(path), "--write"]) == 0
    scope: dict[str, Any] = {}
    exec(file.read_text(), scope)
    table = {name: Costs(*row) for name, row in scope["COSTS"].items()}
    assert max(fit.error_of(one, table) for one in fit.read([path])) < 0.01


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of result files, with a table beside it."""
    monkeypatch.setattr(fit, "FILE", tmp_path / "_costs.py")
    monkeypatch.setattr(fit, "RESULTS", tmp_path)
    return tmp_path


def test_a_second_fit_gives_the_same_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder / "gpu.json", another_gpu())
    assert fit.main(["--write"]) == 0
    first = fit.FILE.read_text()
    assert first != fit.text(TABLE)
    monkeypatch.setattr(costs, "COSTS", {name: tuple(row) for name, row in fit.standing().items()})
    assert fit.main(["--write"]) == 0 and fit.FILE.read_text() == first


def test_without_files_the_table_is_what_is_predicted(folder: Path) -> None:
    assert fit.main(["--check"]) == 1, "there is none"
    assert fit.main(["--write"]) == 0 and fit.FILE.read_text() == fit.text(TABLE)
    assert fit.main(["--check"]) == 0
    fit.FILE.write_text(fit.FILE.read_text().replace("0.33", "0.34", 1))
    assert fit.main(["--check"]) == 1


def test_a_table_is_held_to_its_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(folder / "gpu.json", another_gpu())
    assert fit.main(["--write"]) == 0 and fit.main(["--check"]) == 0
    write(folder / "other.json", TABLE, device="Another GPU")
    assert fit.main(["--check"]) == 0, "a table of one GPU stays of that one"
    write(path, TABLE)
    capsys.readouterr()
    assert fit.main(["--check"]) == 1
    assert "_costs.py is not what" in capsys.readouterr().err


def test_what_did_not_settle_is_not_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write(folder / "gpu.json", another_gpu()), folder / "own"
    monkeypatch.setattr(fit, "ROUNDS", 1)
    assert fit.main(["--write"]) == 1 and not fit.FILE.exists()
    assert "still changes after 1 rounds" in capsys.readouterr().err
    assert fit.main(["--check"]) == 1
    assert fit.main([str(path), "--out", str(out)]) == 0 and out.exists()


def test_a_new_table_makes_no_measurement_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = fit.text(TABLE), fit.text(another_gpu())
    assert_makes_nothing_stale(tmp_path, monkeypatch, machine, "COSTS", texts)


# Least squares


def test_least_squares_of_numbers_that_may_not_be_negative() -> None:
    """The conditions of an optimum: no number that is 0 would help, no other one would."""
    draw = np.random.default_rng(0)
    for _ in range(200):
        rows, columns = int(draw.integers(1, 12)), int(draw.integers(1, 8))
        matrix, target = draw.normal(size=(rows, columns)), draw.normal(size=rows)
        x = nonnegative(matrix, target)
        gain = matrix.T @ (target - matrix @ x)
        assert (x >= 0).all()
        assert gain.max() < 1e-9
        assert np.abs(gain[x > 0]).max(initial=0) < 1e-9


def test_terms_have_a_place_in_every_work() -> None:
    work = costs.scan(
        "cuda.grid",
        costs.Layer(9, 9, 9, 9, 0, 1, torch.bfloat16, False, False, GPU),
        False,
    )
    assert work is not None
    assert len(costs.counts(work, TABLE[work.row])) == len(TERMS)
