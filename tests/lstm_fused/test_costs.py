"""The model of costs: its shape, its table and the files that replace it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from lstm_fused import _load, costs, dispatch
from lstm_fused.costs import COSTS, TERMS, Costs, Gpu, Layer, Work

ROOT = Path(__file__).resolve().parents[2]
H100 = Gpu()
VARIANTS = [*(name for name in dispatch.KERNELS if name.startswith("cuda.")), dispatch.NATIVE]
SCANS = ["cuda.block", "cuda.cluster", "cuda.grid"]
FREE = Costs(*[0] * len(TERMS), None)

pytestmark = pytest.mark.skipif(_load.load() is None, reason="the plans' numbers are not built")


def layer(**changes: Any) -> Layer:
    """One that every variant takes but cuda.decode, and that one with T = 1."""
    usual = Layer(100, 16, 128, 128, 0, 1, torch.bfloat16, False, False, H100)
    return usual._replace(**changes)


def time(name: str, training: bool = False, **changes: Any) -> float:
    works = costs.works([name] * (1 + training), layer(**changes))
    assert works is not None
    return costs.total(works)


def work(name: str, backward: bool = False, **changes: Any) -> Work:
    found = costs.scan(name, layer(**changes), backward)
    assert found is not None
    return found


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("training", [False, True])
def test_more_steps_and_more_rows_take_no_less(name: str, training: bool) -> None:
    if name == "cuda.decode":
        over_rows = [time(name, training, T=1, B=B) for B in (1, 8, 16)]
    else:
        over_steps = [time(name, training, T=T) for T in (1, 2, 10, 100, 1000)]
        assert over_steps == sorted(set(over_steps)), "more steps take more"
        over_rows = [time(name, training, B=B, directions=2) for B in (*range(1, 65), 500, 9000)]
    assert over_rows == sorted(over_rows)
    assert over_rows[-1] > over_rows[0] or name == "cuda.decode"


@pytest.mark.parametrize("name", VARIANTS)
def test_training_takes_longer_than_inference(name: str) -> None:
    sizes = {"T": 1} if name == "cuda.decode" else {}
    assert time(name, True, **sizes) > time(name, False, **sizes) > 0


def test_a_turn_hides_the_wait_of_others() -> None:
    row = FREE._replace(wait=3.0, turn=2.0)
    steps = [costs.price(Work("", 0, 0, 10, (turns,)), row) for turns in (1, 2, 3, 4)]
    assert steps == [50, 50, 60, 80]
    assert costs.price(Work("", 0, 0, 10, (1, 4)), row) == 130, "shares follow each other"
    rounds = row._replace(round=0.5)
    # A turn of 3 hides the wait of two others' turns just so; one of 2 needs three.
    assert costs.price(Work("", 0, 0, 10, (2, 2), (2, 0)), rounds) == 60 + 50


@pytest.mark.parametrize("term", TERMS)
def test_a_price_is_the_sum_of_its_terms(term: str) -> None:
    """Each is counted as often as it occurs."""
    one = Work("", 2, 3.0, 5, (1,), (17,), 7.0, 11.0, 13.0)
    expected = dict(zip(TERMS, (2, 3, 5, 5, 35, 55, 65, 85), strict=True))
    row = FREE._replace(**({"wait": 1e-9} | {term: 1.0}))
    counts = dict(zip(TERMS, costs.counts(one, row), strict=True))
    assert counts == expected


# What the plans say, by the files' heads and bench/NOTES.md, for 132 multiprocessors.
@pytest.mark.parametrize(
    ("name", "sizes", "launches", "turns", "millions", "fragments"),
    [
        ("cuda.block", {"B": 8 * H100.multiprocessors}, 1, [1], 4 * 128 * 128 * 8, 0),
        ("cuda.block", {"B": 8 * H100.multiprocessors + 1}, 1, [1, 1], 4 * 128 * 128 * 8, 0),
        ("cuda.block", {"hidden_size": 160, "backward": True}, 1, [1], 4 * 160 * 160 * 8, 184320),
        ("cuda.cluster", {"hidden_size": 256, "B": 64}, 1, [1], 4 * 32 * 256 * 8, 0),
        # 7 clusters of 16 blocks at once.
        ("cuda.cluster", {"hidden_size": 512, "B": 64}, 1, [2], 4 * 32 * 512 * 8, 0),
        ("cuda.cluster", {"hidden_size": 512, "B": 240}, 1, [5], 4 * 32 * 512 * 8, 0),
        # 16 rows at a time, where there are more than 8 for each of the two groups, backward 24.
        ("cuda.grid", {"hidden_size": 1024, "B": 16}, 1, [1], 4 * 16 * 1024 * 8, 0),
        (
            "cuda.grid",
            {"hidden_size": 1024, "B": 32, "backward": True},
            1,
            [2],
            4 * 16 * 1024 * 8,
            0,
        ),
        ("cuda.grid", {"hidden_size": 1024, "B": 64}, 1, [2], 4 * 16 * 1024 * 16, 0),
        (
            "cuda.grid",
            {"hidden_size": 1024, "B": 64, "backward": True},
            1,
            [2],
            4 * 16 * 1024 * 16,
            0,
        ),
        # 112 rows after 128, and each direction by itself.
        (
            "cuda.grid",
            {"hidden_size": 2048, "B": 240, "directions": 2},
            4,
            [8, 8, 7, 7],
            4 * 16 * 2048 * 16,
            122880,
        ),
    ],
)
def test_a_scan_is_cut_as_its_plan_says(
    name: str,
    sizes: dict[str, Any],
    launches: int,
    turns: list[int],
    millions: int,
    fragments: int,
) -> None:
    found = work(name, **sizes)
    assert (found.launches, found.turns, found.steps) == (launches, turns, 100)
    assert (found.millions * 1e6, found.fragments * 1e6) == (millions, fragments)


@pytest.mark.parametrize(
    ("sizes", "rounds"),
    [
        # 4 pieces of 8 rows at H = 1024, and 8 of 16.
        ({"B": 8}, [1]),
        ({"B": 64}, [2]),
        ({"B": 64, "backward": True}, [3]),
        # Three turns and more ask ahead.
        ({"B": 96}, [0]),
        ({"B": 96, "backward": True}, [0]),
        # 128 rows of each of two groups, and 8 are left, which run as 16.
        ({"B": 264}, [0, 2]),
        # One group for both directions. The widest has no registers to ask ahead with.
        ({"B": 16, "hidden_size": 2048, "directions": 2}, [4, 4]),
        ({"B": 48, "hidden_size": 2304, "gpu": Gpu(148)}, [5]),
        ({"B": 48, "hidden_size": 2304, "gpu": Gpu(148), "backward": True}, [4]),
        # By three products 8 rows ask from two turns on.
        ({"B": 8, "hidden_size": 512, "dtype": torch.float32}, [1]),
        ({"B": 72, "hidden_size": 512, "dtype": torch.float32}, [0]),
        ({"B": 72, "hidden_size": 512, "dtype": torch.float32, "backward": True}, [2]),
    ],
    ids=str,
)
def test_what_is_asked_for_ahead_is_not_waited_for(
    sizes: dict[str, Any], rounds: list[int]
) -> None:
    assert work("cuda.grid", **{"hidden_size": 1024} | sizes).rounds == rounds


def test_what_is_not_held_is_streamed() -> None:
    """Slices of 4 tiles, 16 KB each: 8 of 32 are in registers."""
    wide = {"hidden_size": 2048, "B": 8, "dtype": torch.float32, "tf32": True}
    found = work("cuda.grid", **wide)
    assert (found.fragments * 1e6, found.streamed * 1e6) == (8 * 16384, 16 * 16384)
    found = work("cuda.grid", **wide, gpu=H100._replace(shared=99 << 10))
    assert (found.fragments * 1e6, found.streamed * 1e6) == (0, 24 * 16384)
    assert time("cuda.grid", **wide) < time("cuda.grid", **wide, gpu=H100._replace(shared=99 << 10))
    assert work("cuda.grid", hidden_size=1152, B=8, dtype=torch.float32).streamed > 0


def test_what_l2_does_not_hold_comes_from_memory() -> None:
    """A step's weights, of one direction after the other; and what all blocks stream in a turn."""
    usual: dict[str, Any] = {"hidden_size": 1024, "dtype": torch.float32}  # 16.8 MB
    for name in ("cuda.step", dispatch.NATIVE):
        for directions in (1, 2):
            sizes = usual | {"directions": directions}
            held, not_held = (work(name, **sizes, gpu=Gpu(l2=size)) for size in (1 << 24, 10**7))
            assert not_held.megabytes == held.megabytes * costs.FROM_MEMORY
            assert held == work(name, **sizes)
    wide = usual | {"hidden_size": 1536, "tf32": True}  # 0.164 MB of each of 96 blocks
    held, not_held = (work("cuda.grid", **wide, gpu=Gpu(l2=size * 10**6)) for size in (16, 15))
    assert not_held.streamed == held.streamed * costs.FROM_MEMORY > 0


@pytest.mark.parametrize("name", SCANS)
def test_tf32_takes_longer_than_16_bits(name: str) -> None:
    assert time(name, dtype=torch.float32, tf32=True) > time(name)


def test_products_take_longer_where_torch_does_not_round_their_factors() -> None:
    """torch's defaults: TF32 in its LSTM, not in matrix products, which ours has around scans."""
    sizes: dict[str, Any] = {"dtype": torch.float32, "hidden_size": 512, "tf32": True}
    for name in ("cuda.grid", "cuda.step"):
        assert time(name, **sizes, products_tf32=False) > time(name, **sizes, products_tf32=True)
        assert time(name, **sizes, products_tf32=True) == time(name, **sizes)
    native = [time(dispatch.NATIVE, **sizes, products_tf32=tf32) for tf32 in (False, True)]
    assert native[0] == native[1]


def test_float32_by_three_products_takes_longer_than_by_one() -> None:
    sizes: dict[str, Any] = {"dtype": torch.float32, "hidden_size": 512}
    for name in ("cuda.cluster", "cuda.grid"):
        one, three = work(name, tf32=True, **sizes), work(name, tf32=False, **sizes)
        assert three.millions == 3 * one.millions


def test_what_has_no_kernel_has_no_estimate() -> None:
    for name in VARIANTS:
        assert costs.works([name], layer(dtype=torch.complex64)) is None
    for name in (*SCANS, "torch.composite", "cpu.generic"):
        assert costs.works([name], layer(hidden_size=5000)) is None
        assert costs.works([name], layer(dtype=torch.float64)) is None
    for name, most in (("cuda.block", 128), ("cuda.cluster", 512), ("cuda.grid", 2048)):
        assert time(name, dtype=torch.float32, hidden_size=most) > 0
        too_wide = layer(dtype=torch.float32, hidden_size=most + 1)
        assert costs.works([name], too_wide) is None
    assert costs.works(["cuda.grid"], layer(hidden_size=1024, gpu=Gpu(60))) is None
    for name, most in (("cuda.block", 160), ("cuda.cluster", 512)):
        tight = layer(hidden_size=most, dtype=torch.bfloat16, gpu=H100._replace(shared=48 << 10))
        assert costs.works([name], tight) is None, "a block has too little memory"
    assert costs.works(["cuda.decode"], layer(T=2)) is None
    assert time("cuda.step", dtype=torch.float64, proj_size=7) > 0


@pytest.mark.parametrize(
    ("changes", "backward", "row"),
    [
        ({}, False, "small forward"),
        ({}, True, "small backward"),
        ({"hidden_size": 192}, False, "middling forward"),
        ({"hidden_size": 192}, True, "standard"),
        ({"packed": True}, False, "standard"),
        ({"proj_size": 3}, False, "standard"),
        ({"dtype": torch.float64}, False, "standard"),
        ({"hidden_size": 768}, False, "standard"),
        ({"hidden_size": 768, "dtype": torch.float16}, False, "static forward"),
        ({"hidden_size": 768, "dtype": torch.float16}, True, "static backward"),
        ({"hidden_size": 768, "dtype": torch.float16, "B": 4}, False, "standard"),
        ({"hidden_size": 768, "dtype": torch.float16, "B": 136}, False, "standard"),
        ({"hidden_size": 760, "dtype": torch.float16}, False, "standard"),
        ({"hidden_size": 768, "dtype": torch.float16, "input_size": 80}, False, "standard"),
        ({"hidden_size": 768, "dtype": torch.float16, "directions": 2}, False, "standard"),
        ({"hidden_size": 2048, "dtype": torch.float16}, False, "standard"),
        ({"hidden_size": 768, "dtype": torch.float16, "gpu": Gpu(80)}, False, "standard"),
    ],
)
def test_torch_asks_cudnn_for_an_algorithm(
    changes: dict[str, Any], backward: bool, row: str
) -> None:
    assert work(dispatch.NATIVE, backward, **changes).row == f"torch.native {row}"


def test_every_row_of_the_table_is_of_use() -> None:
    layers = [layer(**changes) for changes in ({}, {"T": 1}, {"hidden_size": 192})]
    layers += [layer(hidden_size=768, dtype=torch.float16)]
    used = {
        part.row
        for each in layers
        for name in VARIANTS
        for part in costs.works([name, name], each) or ()
    }
    assert used == set(COSTS)


def test_a_measured_row_is_no_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {name: Costs(*row)._replace(measured="file.json") for name, row in COSTS.items()}
    monkeypatch.setattr(costs, "table", lambda: rows)
    forward, backward = (costs.works(["cuda.block"] * n, layer()) or [] for n in (1, 2))
    assert costs.sources(backward) == ["file.json"]
    rows["cuda.block backward"] = Costs(*COSTS["cuda.block backward"])._replace(measured=None)
    assert costs.sources(backward) is None
    assert costs.sources(forward) == ["file.json"]


# Files


def write(folder: Path, content: Any) -> Path:
    path = folder / "costs.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_file_takes_the_place_of_what_it_names(tmp_path: Path) -> None:
    path = write(tmp_path, {"cuda.grid forward": {"wait": 9, "measured": "mine.json"}})
    own = Costs(*COSTS["cuda.grid forward"])
    assert costs.read(path) == {
        "cuda.grid forward": own._replace(wait=9, measured="mine.json"),
    }
    assert costs.read(write(tmp_path, {})) == {}


ROW = "cuda.grid forward"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ([1], "must hold an object with a row for each cost"),
        ({"cuda.gird forward": {}}, "'cuda.gird forward' is not among the rows 'cuda.decode', "),
        ({ROW: 3}, "'cuda.grid forward' must be an object of launch, read, wait, "),
        ({ROW: {"weight": 1}}, "has 'weight', terms are launch, read, wait, "),
        ({ROW: {"wait": -1}}, "wait must be microseconds, 0 or more, got -1"),
        ({ROW: {"wait": "1"}}, "wait must be microseconds, 0 or more, got '1'"),
        ({ROW: {"wait": True}}, "wait must be microseconds, 0 or more, got True"),
        ({ROW: {"wait": float("inf")}}, "wait must be microseconds, 0 or more, got inf"),
        ({ROW: {"wait": None}}, "wait must be microseconds, 0 or more, got None"),
        ({ROW: {"measured": 3}}, "measured must name a file or be null, got 3"),
    ],
    ids=str,
)
def test_a_file_that_is_wrong_is_told_by_a_sentence(
    content: Any, said: str, tmp_path: Path
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ValueError) as caught:
        costs.read(path)
    assert str(path) in str(caught.value) and said in str(caught.value)


def test_a_file_that_is_not_there_is_told_by_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gone.json cannot be read: No such file or directory"):
        costs.read(tmp_path / "gone.json")


SCRIPT = "from lstm_fused import costs; print(costs.table()['cuda.grid forward'].wait)"


def in_environment(path: str) -> subprocess.CompletedProcess[str]:
    environment: Mapping[str, str] = os.environ | {"LSTM_FUSED_COSTS": path}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_environment_names_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, {ROW: {"wait": 12.5}})
    assert in_environment(str(path)).stdout == "12.5\n"
    assert in_environment("").stdout == f"{Costs(*COSTS[ROW]).wait}\n"


def test_a_wrong_file_in_the_environment_is_told_where_it_is_asked_for() -> None:
    done = in_environment("/nowhere/costs.json")
    assert done.returncode != 0
    assert "ValueError: LSTM_FUSED_COSTS: /nowhere/costs.json cannot be read" in done.stderr
