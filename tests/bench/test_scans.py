"""The stage that times scan kernels alone (bench/gpu/scans.py), without a GPU."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench import fit
from bench.gpu import micro, scans
from bench.gpu.nvcc import CSRC
from bench.gpu.scans import Edit, Scan
from lstm_fused import costs
from tests.bench.fakes import Recorder, program

H100 = costs.Gpu()

LINE = (
    '{"cuda.grid.bf16.t512b8h1024d1.forward": {"unit": "us", "value": 1.5, "spread": 0.01, '
    '"parameters": {}}}'
)


@pytest.mark.parametrize(
    "scan", [scan for scan in scans.SCANS if scan.edits], ids=lambda scan: scan.label
)
def test_every_part_can_be_left_out(scan: Scan, tmp_path: Path) -> None:
    shutil.copytree(CSRC, tmp_path / "csrc")
    kernels = tmp_path / "csrc/cuda/lstm_fused"
    scans.changed(tmp_path / "csrc", scan.edits)
    for edit in scan.edits:
        assert edit.old not in (kernels / edit.file).read_text()
    for kernel in kernels.glob("grid_*ward.cuh") if "no products" in scan.label else ():
        assert "multiply_add<" not in kernel.read_text()


def test_an_edit_of_text_that_is_gone_is_a_sentence(tmp_path: Path) -> None:
    shutil.copytree(CSRC, tmp_path / "csrc")
    with pytest.raises(RuntimeError, match=r"'no such text' stands 0 times in grid\.cuh"):
        scans.changed(tmp_path / "csrc", [Edit("grid.cuh", "no such text", "")])


def figure_names() -> set[str]:
    """What the programs print, for all their cases."""
    names = set()
    for scan in scans.SCANS:
        for case in scan.cases:
            dtype, _, sizes = case.partition(":")
            T, B, H, D = sizes.split(",")
            for direction in ("inference", "forward", "backward"):
                names.add(f"{scan.label}.{dtype}.t{T}b{B}h{H}d{D}.{direction}")
    return names


def test_what_was_said_is_of_figures_that_there_are() -> None:
    names = figure_names()
    with_floor = scans.beside_what_was_said({name: {} for name in names}, H100)
    assert {row["floor"] for row in with_floor.values()} == {None, *scans.FLOORS.values()}
    assert len({scan.label for scan in scans.SCANS}) == len(scans.SCANS)


def test_figures_stand_beside_what_was_said(tmp_path: Path) -> None:
    command = [str(program(tmp_path, f"echo '{LINE}'"))]
    figures, stopped = micro.figures_of(command, "cuda.grid", scans.SECONDS)
    assert stopped is None
    (row,) = scans.beside_what_was_said(figures, H100).values()
    figure = scans.figure_of("cuda.grid.bf16.t512b8h1024d1.forward", H100)
    assert figure is not None
    assert (row["value"], row["predicted"], row["floor"]) == (1.5, figure.predicted, None)


# In microseconds a step, what stands under "Bound" in the heads of the kernels' files.
HEADS = {
    "cuda.cluster.bf16.t1024b8h256d1.forward": 0.7,
    "cuda.cluster.bf16.t1024b8h256d1.backward": 0.85,
    "cuda.cluster.bf16.t512b8h512d1.forward": 0.9,
    "cuda.cluster.bf16.t512b8h512d1.backward": 1.2,
    "cuda.grid.bf16.t512b16h1024d1.forward": 1.45,  # two groups, of 8 rows each
    "cuda.grid.bf16.t512b8h1024d1.forward": 1.3,  # one, of half the units a block
    "cuda.grid.tf32.t512b8h1024d1.forward": 1.6,
    "cuda.grid.bf16.t512b8h2048d1.forward": 2.4,
    "cuda.grid.bf16.t512b64h1024d1.forward": 2.2,  # two turns of 16 rows
    "cuda.grid.bf16.t512b256h1024d1.forward": 6.4,  # eight, which ask ahead
    "cuda.grid.bf16.t512b8h1024d1.backward": 2.0,
    "cuda.grid.fp32.t512b16h1024d1.forward": 3.6,
    "cuda.grid.fp32.t512b8h1024d1.forward": 2.2,
    "cuda.grid.fp32.t512b32h512d1.forward": 2.3,
    "cuda.grid.fp32.t512b8h512d1.forward": 1.6,
    "cuda.grid.fp32.t512b8h1024d1.backward": 4.4,
    "cuda.grid.fp32.t512b8h512d1.backward": 2.8,
    "cuda.grid.tf32.t256b8h1536d1.forward": 5.9,
    "cuda.grid.tf32.t256b8h2048d1.forward": 9.4,
    "cuda.block.bf16.t1024b64h128d1.forward": 0.57,
    "cuda.block.bf16.t1024b64h128d1.backward": 0.63,
}


@pytest.mark.parametrize("name", HEADS)
def test_what_is_predicted_is_what_the_heads_of_the_kernels_say(name: str) -> None:
    figure = scans.figure_of(name, H100)
    assert figure is not None
    predicted = costs.price(figure.work, fit.predicted()[figure.work.row]) / figure.T
    assert abs(predicted / HEADS[name] - 1) < 0.05


def test_a_gpu_with_little_shared_memory_streams_more() -> None:
    name = "cuda.grid.tf32.t256b8h1536d1.forward"
    usual, little = (
        scans.figure_of(name, H100),
        scans.figure_of(name, H100._replace(shared=99 << 10)),
    )
    assert usual and little and little.work.streamed > usual.work.streamed > 0
    assert little.predicted > usual.predicted


def test_a_scan_without_a_part_has_no_prediction() -> None:
    rest = "bf16.t512b8h1024d1.forward"
    assert scans.figure_of(f"cuda.grid.{rest}", H100)
    assert scans.figure_of(f"cuda.grid (no products).{rest}", H100) is None
    assert scans.figure_of(f"cuda.gone.{rest}", H100) is None
    assert scans.figure_of("cuda.block.bf16.t8b8h1024d1.forward", H100) is None, "no such kernel"


def test_one_failure_leaves_the_other_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Scan("grid.cu", "cuda_grid", "good", [])
    bad = Scan("grid.cu", "cuda_grid", "bad", [])
    scripts = {
        "good": f"echo '{LINE}'",
        "bad": f"echo '{LINE}'; echo 'the scan: unspecified launch failure' >&2; exit 1",
    }

    def build(scan: Scan, folder: Path) -> Path:
        folder.mkdir()
        return program(folder, scripts[scan.label])

    monkeypatch.setattr(scans, "SCANS", [bad, good])
    monkeypatch.setattr(scans, "build", build)
    monkeypatch.setattr(costs, "gpu_of", lambda _: H100)
    report = Recorder()
    with pytest.raises(RuntimeError, match="bad failed: the scan: unspecified launch failure"):
        scans.run(report)
    assert [len(figures) for figures in report.kept.values()] == [1, 1]


def test_a_time_limit_leaves_what_was_there(tmp_path: Path) -> None:
    slow = program(tmp_path, f"echo '{LINE}'; exec sleep 60")
    figures, stopped = micro.figures_of([str(slow)], "slow", 2)
    assert len(figures) == 1 and stopped == "slow did not end in 2 s"


def test_no_folder_has_a_comma(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at commas"):
        scans.build(scans.SCANS[0], tmp_path / "a, b")
