"""The microbenchmarks (bench/gpu/micro.py): their kernels in the SIMT machine, their text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.gpu import micro
from lstm_fused import _build
from tests.bench.fakes import Recorder, program
from tests.simt import building

pytestmark = pytest.mark.simt

BARRIER = (
    '{"cluster_barrier.8": {"unit": "us", "value": 0.42, "spread": 0.01, '
    '"parameters": {"threads": 256, "cycles": 740.5, "outside": 0.43, "operations": 2000}}}\n'
)
REFUSED = (
    '{"cluster_barrier.16": {"unit": "", "value": null, "spread": null, '
    '"reason": "lstm_fused: launch: cluster misconfiguration", "parameters": {}}}\n'
)
OTHER = '{"latency.hbm": {"unit": "us", "value": 0.6, "spread": 0, "parameters": {"bytes": 1e9}}}\n'


def test_figures_stand_beside_predictions() -> None:
    figures = micro.beside_predictions(micro.parse(BARRIER + REFUSED + OTHER))
    assert list(figures) == ["cluster_barrier.8", "cluster_barrier.16", "latency.hbm"]
    barrier = figures["cluster_barrier.8"]
    assert barrier["parameters"]["cycles"] == 740.5
    assert (barrier["predicted"], barrier["ratio"]) == (0.35, 0.42 / 0.35)
    refused = figures["cluster_barrier.16"]
    assert (refused["value"], refused["predicted"], refused["ratio"]) == (None, 0.40, None)
    assert "misconfiguration" in refused["reason"]
    assert figures["latency.hbm"]["predicted"] is None


def test_a_line_that_was_cut_off_is_left_out() -> None:
    for end in range(1, len(OTHER)):
        assert list(micro.parse(BARRIER + OTHER[:end])) == ["cluster_barrier.8"]
    assert micro.parse("") == {}
    with pytest.raises(RuntimeError, match="printed no figure but 'Segmentation"):
        micro.parse(BARRIER + "Segmentation fault\n")


def test_a_time_limit_leaves_what_was_there(tmp_path: Path) -> None:
    slow = program(tmp_path, f"printf '%s' '{BARRIER}'; exec sleep 60")
    result = micro.measure(slow, seconds=2)
    assert list(result["figures"]) == ["cluster_barrier.8"]
    assert result["stopped"] == "the microbenchmarks did not end in 2 s"
    with pytest.raises(RuntimeError, match="did not end in 1 s"):
        micro.measure(program(tmp_path, "exec sleep 60"), seconds=1)


def test_a_failure_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="failed: this machine has no CUDA device"):
        micro.measure(program(tmp_path, "echo 'this machine has no CUDA device' >&2; exit 1"))
    with pytest.raises(RuntimeError, match="no microbenchmark has a name with 'nothing'"):
        micro.measure(program(tmp_path, "exit 0"), only="nothing")
    # What came before the failure is reported, and then the failure is.
    half = program(tmp_path, f"printf '%s' '{BARRIER}'; echo oh >&2; exit 1")
    monkeypatch.setattr(micro, "build", lambda target: half)
    report = Recorder()
    with pytest.raises(RuntimeError, match="failed: oh"):
        micro.run(report)
    assert report.kept == {"micro": micro.measure(half)}


@pytest.mark.parametrize("mode", list(building.MODES))
def test_kernels_exchange_what_they_should(mode: str, compiled: Callable[..., Path]) -> None:
    check = compiled(building.MICRO_CHECK, "check", mode)
    for seed in range(4):
        done = building.run(check, seed)
        assert (done.returncode, done.stdout) == (0, "ok\n"), done.stdout + done.stderr


def test_nvcc_compiles_them_and_every_prediction_is_of_one(tmp_path: Path) -> None:
    toolkit, why_not = _build.find_toolkit()
    if toolkit is None:
        pytest.skip(str(why_not))
    built = micro.build(tmp_path / "micro", ["9.0a"], strict=True)
    names = building.run(built, "--names").stdout.split()
    assert len(set(names)) == len(names) > 90
    assert set(micro.predictions()) <= set(names)
