"""Memory of training: bytes kept, the peak of a step, the file and its table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

import lstm_fused
from bench import memory, results, saved_bytes, tables
from bench.cases import Case

TINY = Case("tiny", "odd", T=5, B=3, I=4, H=7)


def test_saved_bytes_of_packed_rows() -> None:
    """y, four gates and c of each of 5 rows; neither the rows nor the parameters."""
    rows = pack_sequence([torch.randn(3, 4), torch.randn(2, 4)])
    assert saved_bytes.saved_bytes(lstm_fused.LSTM(4, 7), rows) == 5 * 6 * 7 * 4


@pytest.fixture(scope="module")
def memory_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What training of a tiny case takes, of torch and of ours."""
    folder = tmp_path_factory.mktemp("memory")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in memory.ALLOCATOR.items():
            patch.setenv(name, value)  # main sets them for its children: taken back after it
        patch.setattr(memory, "suite", lambda *_, **__: [TINY, replace(TINY, kind="training")])
        assert memory.main(["--out", str(folder)]) == 0
    (path,) = folder.glob("memory-*.json")
    return path


def test_memory_of_training_is_measured_for_torch_and_ours(memory_file: Path) -> None:
    assert results.read([memory_file]) == []  # no times
    rows = results.read([memory_file], "memory")
    assert [row.data["family"] for row in rows] == ["torch", "ours"]
    for row in rows:
        assert row.case["kind"] == "training"
        assert row.data["kept"] > 0 and row.data["peak"] > 0
    table = memory.markdown(rows, results.Staleness())
    assert "| odd | 5, 3, 4, 7, 1 |" in table and "(stale)" not in table
    for cut_short in (rows[:1], []):
        assert memory.markdown(cut_short, results.Staleness()) == ""


def test_the_readme_shows_memory_below_times(
    memory_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "CPU_GROUPS", (TINY.group,))
    (tmp_path / memory_file.name).write_text(memory_file.read_text())
    block = tables.block(tmp_path, results.Staleness())
    assert block.lstrip("\n").startswith(f"**{TINY.group}, memory of training**")


def test_the_peak_of_a_step_is_what_it_held_at_once() -> None:
    """Larger than the blocks that the C library may keep: two in turn count once."""
    size = 1 << 26

    class Step:
        def run(self) -> None:
            for _ in range(2):
                torch.ones(size, dtype=torch.uint8)

    assert round(memory._peak_of_step(Step()) / size) == 1
