"""The table of costs fitted to result files that are computed from a known one."""

from __future__ import annotations

import json
import random
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
from bench.gpu import scans
from bench.machine import SCHEMA
from lstm_fused import _load, costs
from lstm_fused.costs import COSTS, TERMS, Costs

H100 = 132
TABLE = {name: Costs(*row) for name, row in COSTS.items()}

pytestmark = pytest.mark.skipif(_load.load() is None, reason="the plans' numbers are not built")


def another_gpu() -> dict[str, Costs]:
    """A GPU whose every number is half to twice what the table says."""
    draw = random.Random(0)
    return {
        name: Costs(*(number * draw.uniform(0.5, 2) for number in row[:-1]), None)
        for name, row in TABLE.items()
    }


def stamp(**changes: Any) -> dict[str, Any]:
    usual = {"schema": SCHEMA, "capability": "9.0", "device": "A GPU", "multiprocessors": H100}
    return usual | changes


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
                figure = scans.figure_of(name.replace(" (nobody waits)", ""), H100)
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
    for case in cases.suite("gpu")[::3]:
        arms = dict.fromkeys(("cuda.decode", "cuda.grid", "cuda.step"), "ours")
        for arm, family in ({"torch": "torch"} | arms).items():
            name = arm
            if case.dtype == "float32":
                name += random.Random(case.id).choice([".ieee", ".tf32"])
            row = {"case": case.as_dict(), "arm": name, "family": family, "dtype": case.dtype}
            works = fit._works(row, H100)
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
    table = fit.fit(measured, TABLE)
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
    table = fit.fit(fit.read([noisy]), TABLE)
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
    table = fit.fit(fit.read([path]), TABLE)
    for name, row in table.items():
        if name.startswith("cuda.grid"):
            assert row.measured == "gpu.json" and row != TABLE[name]
        else:
            assert row == TABLE[name]
    # And within a row, a term that the table has not.
    assert table["cuda.grid forward"].fragments > 0
    without = {**TABLE, "cuda.grid forward": TABLE["cuda.grid forward"]._replace(fragments=0)}
    assert fit.fit(fit.read([path]), without)["cuda.grid forward"].fragments == 0


def test_two_files_of_one_gpu_are_one_measurement(tmp_path: Path) -> None:
    truth = another_gpu()
    paths = [write(tmp_path / f"{name}.json", truth) for name in "ab"]
    assert fit.fit(fit.read(paths), TABLE)["cuda.step"].measured == "a.json, b.json"


def test_precisions_and_dtypes_of_arms_are_told_apart() -> None:
    case = replace(cases.suite("gpu")[0], dtype="float32").as_dict()

    def millions(arm: str, dtype: str, family: str = "ours") -> float:
        row = {"case": case, "arm": arm, "family": family, "dtype": dtype}
        return (fit._works(row, H100) or [])[0].millions

    half = millions("torch.fp16", "float16", "torch")
    assert millions("torch.tf32", "float32", "torch") == costs.TF32 * half
    assert millions("torch.ieee", "float32", "torch") > 4 * costs.TF32 * half
    assert millions("cuda.step.tf32", "float32") == costs.TF32 * half
    assert (
        fit._works(
            {"case": case, "arm": "cuda.grid.ieee", "family": "ours"} | {"dtype": "float32"}, H100
        )
        is None
    )


# Refusals


def test_results_of_cpus_are_nothing_to_fit_to(capsys: pytest.CaptureFixture[str]) -> None:
    """Those of this repository: no kernel has run on a GPU yet."""
    if any(row.measured for row in TABLE.values()):
        pytest.skip("there is a table that was fitted")
    assert fit.main([]) == 2
    said = capsys.readouterr().err
    assert "has a time of a GPU" in said and "run stages scans and sweep" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not a result file of a GPU: JSONDecodeError"),
        ({}, "is not a result file of a GPU: KeyError('stamp')"),
        ({"stamp": stamp(schema=SCHEMA + 1), "rows": []}, "schema must be 1, got 2"),
        ({"stamp": {"schema": SCHEMA, "capability": "9.0"}, "rows": []}, "'multiprocessors'"),
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
    assert fit.main([str(path) for path in paths]) == 2
    said = capsys.readouterr().err
    assert "H100.json of H100 and H200.json of H200" in said


# What it writes


def test_a_file_for_ones_own_gpu_is_what_the_library_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = another_gpu()
    path, out = write(tmp_path / "gpu.json", truth), tmp_path / "costs.json"
    assert fit.main([str(path), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "cuda.cluster" in said and "still predicted: none" in said
    read = costs.read(out)
    assert set(read) == set(TABLE)
    assert max(fit.error_of(one, read) for one in fit.read([path])) < 0.01


def test_the_table_in_the_library_is_as_it_is_written(tmp_path: Path) -> None:
    assert fit.FILE.read_text(encoding="utf-8") == fit.text(TABLE)
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


def test_a_new_table_makes_no_measurement_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lstm_fused").mkdir()
    file = tmp_path / "lstm_fused" / "_costs.py"
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setattr(machine, "COSTS", file)
    file.write_text(fit.text(TABLE))
    before = machine.source_hash()
    file.write_text(fit.text(another_gpu()))
    assert machine.source_hash() == before


# Least squares


def test_least_squares_of_numbers_that_may_not_be_negative() -> None:
    """The conditions of an optimum: no number that is 0 would help, no other one would."""
    draw = np.random.default_rng(0)
    for _ in range(200):
        rows, columns = int(draw.integers(1, 12)), int(draw.integers(1, 8))
        matrix, target = draw.normal(size=(rows, columns)), draw.normal(size=rows)
        x = fit.nonnegative(matrix, target)
        gain = matrix.T @ (target - matrix @ x)
        assert (x >= 0).all()
        assert gain.max() < 1e-9
        assert np.abs(gain[x > 0]).max(initial=0) < 1e-9


def test_terms_have_a_place_in_every_work() -> None:
    work = costs.scan(
        "cuda.grid",
        costs.Layer(9, 9, 9, 9, 0, 1, torch.bfloat16, False, False, H100),
        False,
    )
    assert work is not None
    assert len(costs.counts(work, TABLE[work.row])) == len(TERMS)
