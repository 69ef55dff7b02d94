"""Which result files prove a CUDA variant, and the file that says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import machine, proven
from bench.run import RESULTS
from lstm_fused import dispatch
from tests.bench.fakes import assert_makes_nothing_stale

CODE = {
    "sm_90a _ZN2lf4cuda13gates_forwardIfEE": "1",
    "sm_90a _ZN2lf4cuda14gates_backwardIfEE": "2",
    "sm_90a _ZN2lf4cuda5otherIfEE": "3",
}
TODAY = {**CODE, "sm_80 _ZN2lf4cuda13gates_forwardIfEE": "9"}


def measured(**changes: Any) -> dict[str, Any]:
    """A result file of a GPU that proves cuda.step, but for the changes."""
    checks = [
        {"stage": name, "check": name, "variant": "cuda.step", "case": "", "result": "ok"}
        for name in ("tests", "memcheck", "stress", "sweep")
    ]
    content = {
        "stamp": {"capability": "9.0", "sass_digest": CODE},
        "checks": checks,
        "stages": [{"name": "twins", "result": "ok"}],
    }
    return content | changes


def names(content: dict[str, Any], today: dict[str, str] | None = TODAY) -> tuple[str, ...]:
    found = proven.proven([content], today, ["cuda.other", "cuda.step"])
    assert set(found) <= {"9.0"}
    return found.get("9.0", ())


def test_a_right_file_with_todays_machine_code_proves_a_variant() -> None:
    assert names(measured()) == ("cuda.step",)
    changed = {**TODAY, "sm_90a _ZN2lf4cuda13gates_forwardIfEE": "changed"}
    assert names(measured(), changed) == ()
    added = {**TODAY, "sm_90a _ZN2lf4cuda15output_gradientIfEE": "new"}
    assert names(measured(), added) == (), "a kernel that did not run then"
    other = {**TODAY, "sm_90a _ZN2lf4cuda5otherIfEE": "changed"}
    assert names(measured(), other) == ("cuda.step",), "a kernel of another variant"
    assert names(measured(), {"sm_80 _ZN2lf4cuda13gates_forwardIfEE": "1"}) == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"stamp": {"capability": None, "sass_digest": CODE}},
        {"stamp": {"capability": "9.0", "sass_digest": None}},
        {"checks": []},
        {"checks": [c for c in measured()["checks"] if c["check"] != "stress"]},
        {"checks": [{**c, "result": "failed: x"} for c in measured()["checks"]]},
        {"checks": [*measured()["checks"], {**measured()["checks"][1], "result": "failed: race"}]},
        {
            "checks": [
                *measured()["checks"],
                {**measured()["checks"][0], "variant": "", "result": "failed"},
            ]
        },
        {"stages": [{"name": "twins", "result": "failed"}]},
    ],
    ids=["cpu", "no_digest", "none", "no_stress", "all", "one", "general", "twins"],
)
def test_less_than_everything_proves_nothing(changes: dict[str, Any]) -> None:
    assert names(measured(**changes)) == ()


def test_a_variant_without_listed_kernels_depends_on_all() -> None:
    checks = [{**check, "variant": "cuda.other"} for check in measured()["checks"]]
    assert names(measured(checks=checks)) == ("cuda.other",)
    changed = {**TODAY, "sm_90a _ZN2lf4cuda14gates_backwardIfEE": "changed"}
    assert names(measured(checks=checks), changed) == ()


def test_failures_of_others_of_wavefronts_and_of_timings_do_not_count() -> None:
    more = [{**measured()["checks"][0], "variant": "cuda.other", "result": "failed: x"}]
    more += [{**measured()["checks"][0], "variant": "wavefront", "result": "failed: x"}]
    stages = [{"name": "tests", "result": "failed"}, {"name": "native", "result": "failed"}]
    assert names(measured(checks=measured()["checks"] + more, stages=stages)) == ("cuda.step",)


def test_the_list_is_what_the_result_files_prove() -> None:
    found, _ = proven.generate(RESULTS, machine.sass_digest())
    assert dispatch.PROVEN == found
    assert proven.FILE.read_text(encoding="utf-8") == proven.text(found)


def test_without_cuobjdump_nothing_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert proven.generate(tmp_path, None) == ({}, None)
    (tmp_path / "gpu.json").write_text(json.dumps(measured()))
    kept, why = proven.generate(tmp_path, None)
    assert kept == {} and why and "cuda.step on 9.0 could be proven" in why and "cuobjdump" in why
    monkeypatch.setattr(dispatch, "PROVEN", {"8.0": ("cuda.step",)})
    assert proven.generate(tmp_path, None)[0] == {}
    monkeypatch.setattr(dispatch, "PROVEN", {"9.0": ("cuda.step", "cuda.gone")})
    assert proven.generate(tmp_path, None)[0] == {"9.0": ("cuda.step",)}
    assert proven.generate(tmp_path, TODAY) == ({"9.0": ("cuda.step",)}, None)


def test_each_gpu_proves_for_its_like() -> None:
    stamp = measured()["stamp"]
    files = [measured(stamp={**stamp, "capability": where}) for where in ("10.0", "8.6", "10.0")]
    both = {"8.6": ("cuda.step",), "10.0": ("cuda.step",)}
    found = proven.proven(files, TODAY, ["cuda.step"])
    assert list(found.items()) == list(both.items())
    assert proven.words(both) == "cuda.step on 8.6, cuda.step on 10.0"


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"9.0": ("cuda.step",)},
        {"8.6": tuple(proven.KERNELS), "9.0": ("cuda.grid", "cuda.step")},
    ],
    ids=str,
)
def test_the_written_list_is_python_as_ruff_likes_it(found: proven.Proven, tmp_path: Path) -> None:
    scope: dict[str, Any] = {}
    exec(proven.text(found), scope)
    assert scope["PROVEN"] == found
    file = tmp_path / "_proven.py"
    file.write_text(proven.text(found))
    pytest.importorskip("ruff")
    assert subprocess.run([sys.executable, "-m", "ruff", "format", "--check", file]).returncode == 0


def test_proving_a_variant_makes_no_measurement_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = proven.text({}), proven.text({"9.0": ("cuda.step",)})
    assert_makes_nothing_stale(tmp_path, monkeypatch, proven, "FILE", texts)
