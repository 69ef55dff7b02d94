"""The choice by estimates on CUDA, on a GPU that is not there: nothing runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import lstm_fused
from lstm_fused import costs, dispatch, layer
from lstm_fused.costs import TERMS, Costs
from lstm_fused.dispatch import Case, Choice, Refused, choose, variant
from lstm_fused.explained import case_of, explain, support_table

CASE = Case(128, device="cuda", dtype=torch.bfloat16)
ONLY_OURS = ["cuda.block", "cuda.grid", "cuda.step"]
FREE = Costs(*[0] * len(TERMS), None)

pytestmark = pytest.mark.skipif(
    lstm_fused.build_info() is None, reason="the plans' numbers are not built"
)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A GPU with 132 multiprocessors on which three kernels are proven; what they refuse."""
    refusals: dict[str, str] = {}
    own = dispatch.why_not

    def why_not(name: str, case: Case) -> str | None:
        return refusals.get(name) if name.startswith("cuda.") else own(name, case)

    proven = {"9.0": tuple(ONLY_OURS), "8.0": ("cuda.step",)}
    monkeypatch.setattr(dispatch, "PROVEN", proven)
    capabilities = [(9, 0), (8, 6), (8, 0)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
    dispatch._proven_on.cache_clear()
    monkeypatch.setattr(dispatch, "why_not", why_not)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    properties = SimpleNamespace(
        multi_processor_count=132,
        shared_memory_per_block=48 << 10,
        shared_memory_per_block_optin=99 << 10,
        L2_cache_size=6 << 20,
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    dispatch._fastest.cache_clear()
    yield refusals
    dispatch._fastest.cache_clear()
    dispatch._proven_on.cache_clear()


def both(name: str) -> Choice:
    return Choice(name, name)


def rows(monkeypatch: pytest.MonkeyPatch, **turns: float) -> None:
    """A table in which nothing takes time but turns: block=1, grid_backward=2."""
    table = dict.fromkeys(costs.COSTS, FREE)
    for words, turn in turns.items():
        word, _, backward = words.partition("_")
        table[f"cuda.{word} {backward or 'forward'}"] = FREE._replace(turn=turn)
    table["cuda.step"] = table["torch.native small forward"] = FREE._replace(turn=1000.0)
    monkeypatch.setattr(costs, "table", lambda: table)
    dispatch._fastest.cache_clear()


def test_the_lowest_estimate_is_chosen(
    gpu: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows(monkeypatch, block=2.0, grid=1.0)
    assert choose(CASE) == both("cuda.grid")
    rows(monkeypatch, block=1.0, grid=2.0)
    assert choose(CASE) == both("cuda.block")


def test_equal_estimates_keep_the_order(
    gpu: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows(monkeypatch, block=1.0, grid=1.0)
    assert choose(CASE) == both("cuda.block")


def test_torchs_own_is_chosen_where_it_is_estimated_to_take_less(
    gpu: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows(monkeypatch, block=2000.0, grid=3000.0)
    # Both take a 1000 for each step, and cuda.step comes first.
    assert choose(CASE) == both("cuda.step")
    gpu["cuda.step"] = "it is out of order"
    dispatch._fastest.cache_clear()
    assert choose(CASE) == both(dispatch.NATIVE)


def test_what_refuses_is_not_chosen(gpu: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    rows(monkeypatch, block=2.0, grid=1.0)
    gpu["cuda.grid"] = "it is out of order"
    assert choose(CASE) == both("cuda.block")


@pytest.mark.parametrize(
    ("known", "best"),
    [
        # The first is not known: it stays.
        ({"cuda.grid": 1.0, "torch.native": 2.0}, "cuda.block"),
        # One behind it is not known: it takes nobody's place, and is in nobody's way.
        ({"cuda.block": 3.0, "torch.native": 2.0}, "torch.native"),
        ({"cuda.block": 2.0, "torch.native": 3.0}, "cuda.block"),
        ({}, "cuda.block"),
    ],
    ids=str,
)
def test_what_has_no_estimate_keeps_its_place(
    gpu: dict[str, str], monkeypatch: pytest.MonkeyPatch, known: dict[str, float], best: str
) -> None:
    def works(names: list[str], layer: costs.Layer) -> list[costs.Work] | None:
        times = [known.get(name) for name in names]
        return (
            None if None in times else [costs.Work("cuda.step", 1, float(time)) for time in times]
        )

    table = {"cuda.step": FREE._replace(read=1.0)}
    monkeypatch.setattr(costs, "table", lambda: table)
    monkeypatch.setattr(costs, "works", works)
    assert choose(CASE) == both(best)


def test_the_choice_flips_with_the_batch(
    gpu: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks for 8 rows each fill the GPU; a group of grid's takes turns."""
    rows(monkeypatch, block=2.0, grid=1.5)
    assert choose(CASE._replace(B=8)) == both("cuda.grid")
    assert choose(CASE._replace(B=512)) == both("cuda.block")


def test_training_counts_backward(gpu: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    rows(monkeypatch, block=2.0, grid=2.0, block_backward=5.0, grid_backward=5.0)
    table = costs.table()
    table["torch.native small forward"] = FREE._replace(turn=3.0)
    table["torch.native small backward"] = FREE._replace(turn=3.0)
    assert choose(CASE) == both("cuda.block")
    assert choose(CASE._replace(training=True)) == both(dispatch.NATIVE)


def test_each_pass_has_the_kernel_with_its_lowest_estimate(
    gpu: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows(monkeypatch, block=2.0, grid=1.0, block_backward=3.0, grid_backward=5.0)
    assert choose(CASE._replace(training=True)) == ("cuda.grid", "cuda.block")
    assert choose(CASE) == both("cuda.grid")
    gpu["cuda.block"] = "it is out of order"
    dispatch._fastest.cache_clear()
    assert choose(CASE._replace(training=True)) == both("cuda.grid")


def test_two_kernels_share_a_layer_only_where_that_is_faster(
    gpu: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows(monkeypatch, block=2.0, grid=1.0, block_backward=3.0, grid_backward=3.0)
    assert choose(CASE._replace(training=True)) == both("cuda.grid")
    # Backward of cuda.block is not known, that of cuda.grid is: who knows what takes longer?
    rows(monkeypatch, block=1.0, grid=2.0, grid_backward=3.0)
    own = costs.scan
    unknown = ("cuda.block", True)
    monkeypatch.setattr(
        costs, "scan", lambda name, layer, b: None if (name, b) == unknown else own(name, layer, b)
    )
    assert choose(CASE._replace(training=True)) == both("cuda.block")


def test_torchs_own_gives_no_pass_away(
    gpu: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its backward is the fastest, and only it can run it."""
    rows(monkeypatch, block=1.0, grid=1.0, block_backward=3.0, grid_backward=3.0)
    costs.table()["torch.native small backward"] = FREE
    for forward, found in ((2.0, dispatch.NATIVE), (5.0, "cuda.block")):
        costs.table()["torch.native small forward"] = FREE._replace(turn=forward)
        dispatch._fastest.cache_clear()
        assert choose(CASE._replace(training=True)) == both(found)


def test_a_forced_variant_runs_whatever_it_takes(
    gpu: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows(monkeypatch, block=2.0, grid=1.0)
    for name in ("cuda.block", "cuda.cluster", "torch.native"):
        with variant(name):
            assert choose(CASE) == both(name)
    gpu["cuda.block"] = "it is out of order"
    with variant("cuda.block"), pytest.raises(Refused, match="it is out of order"):
        choose(CASE)


def test_a_choice_is_made_once_for_a_case(
    gpu: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(costs, "works", lambda names, *_: asked.append(names[0]))
    choose(CASE)
    first = len(asked)
    assert first > 1
    choose(Case(*CASE))
    assert len(asked) == first
    choose(CASE._replace(T=CASE.T + 1))
    assert len(asked) == 2 * first


def test_what_is_proven_depends_on_the_gpu(gpu: dict[str, str]) -> None:
    ours = [
        [name for name in dispatch.default(f"cuda:{index}") if name.startswith("cuda.")]
        for index in range(3)
    ]
    assert ours == [ONLY_OURS, [], ["cuda.step"]]
    assert dispatch.default("cuda") == dispatch.default("cuda:0")
    table = support_table()
    assert "| `cuda.step` | " in table and " | on CUDA 9.0 and on CUDA 8.0 |" in table
    assert "not yet proven" in table and " | on CUDA |" in table


def test_a_choice_where_no_gpu_is_named_is_asked_for_anew_on_another_one(
    gpu: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows(monkeypatch, block=1.0, grid=2.0)
    monkeypatch.setattr(dispatch, "default", lambda device: ("cuda.block", "cuda.grid"))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    for current, name in ((0, "cuda.block"), (1, "cuda.grid")):
        monkeypatch.setattr(torch.cuda, "current_device", lambda index=current: index)
        assert choose(CASE) == both(name)
        assert choose(CASE._replace(device="cuda:0")) == both("cuda.block")
        gpu["cuda.block"] = "this GPU has too little memory"


def test_kernels_answer_for_the_gpu_of_the_case(monkeypatch: pytest.MonkeyPatch) -> None:
    current = [0]

    @contextlib.contextmanager
    def on(index: int) -> Iterator[None]:
        current.append(index)
        yield
        current.pop()

    module = SimpleNamespace(why_not=lambda *_: f"on {current[-1]}")
    monkeypatch.setattr(dispatch._load, "load", lambda: module)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
    monkeypatch.setattr(torch.cuda, "device", on)
    for device, answer in (("cuda", "on 0"), ("cuda:0", "on 0"), ("cuda:3", "on 3")):
        assert dispatch.why_not("cuda.grid", CASE._replace(device=device)) == answer
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert dispatch.why_not("cuda.grid", CASE._replace(device="cuda:3")) == "on 0"


def test_estimates_ask_for_the_gpus_own_numbers(gpu: dict[str, str]) -> None:
    asked = dispatch.layer_of(CASE)
    assert asked and asked.gpu == (132, 99 << 10, 6 << 20)


def test_without_a_proven_kernel_no_estimate_is_asked_for(
    gpu: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(names: object, *_: object) -> None:
        raise AssertionError(names)

    monkeypatch.setattr(costs, "works", fail)
    assert choose(CASE._replace(device="cuda:1")) == both(dispatch.NATIVE), "proven on other GPUs"
    monkeypatch.setattr(dispatch, "PROVEN", {})
    assert choose(CASE) == both(dispatch.NATIVE)


def test_a_cpu_is_asked_for_no_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(128)
    assert dispatch.estimate(choose(case), case) is None

    def fail(names: object, *_: object) -> None:
        raise AssertionError(names)

    monkeypatch.setattr(costs, "works", fail)
    assert choose(case).forward in dispatch.default("cpu")


def lines_of(case: Case) -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in explain(case).splitlines()[1:])


def test_explain_shows_the_estimates(gpu: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    rows(monkeypatch, block=14.8, grid=0.021)
    gpu["cuda.step"] = "it is out of order"
    lines = lines_of(CASE)
    assert lines["cuda.grid"] == "chosen, about 2.1 us forward (predicted)"
    less = "cuda.grid is estimated to take less"
    assert lines["cuda.block"] == f"{less}, about 1480 us forward (predicted)"
    assert lines["torch.native"] == f"{less}, about 100000 us forward (predicted)"
    assert lines["cuda.step"] == "it is out of order", "nothing of one that cannot run"
    assert lines["torch.composite"] == "cuda.grid comes first"
    # Not proven, but it could be asked for.
    assert lines["cuda.cluster"].endswith("ask for it by name, about 0 us forward (predicted)")


def test_explain_of_measured_rows_and_of_training(
    gpu: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows(monkeypatch, block=1.0, grid=2.0)
    table = {name: row._replace(measured="file.json") for name, row in costs.table().items()}
    monkeypatch.setattr(costs, "table", lambda: table)
    lines = lines_of(CASE._replace(training=True))
    assert lines["cuda.block"] == "chosen, about 100 us forward and backward (fitted to file.json)"
    with variant("cuda.grid"):
        lines = lines_of(CASE)
    assert lines["cuda.grid"] == "forced, about 200 us forward (fitted to file.json)"
    assert lines["cuda.block"] == "cuda.grid is forced, about 100 us forward (fitted to file.json)"


def test_explain_of_two_kernels(gpu: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    rows(monkeypatch, block=2.0, grid=1.0, block_backward=3.0, grid_backward=5.0)
    lines = lines_of(CASE._replace(training=True))
    assert lines["cuda.grid"] == "chosen for forward, about 100 us forward (predicted)"
    assert lines["cuda.block"] == "chosen for backward, about 300 us backward (predicted)"
    less = "cuda.grid and cuda.block are estimated to take less"
    assert lines["cuda.step"].startswith(f"{less}, about 2") and lines["cuda.step"].endswith(
        " us forward and backward (predicted)"
    )
    assert lines["torch.composite"] == "cuda.grid and cuda.block come first"
    with variant("cuda.step", backward="cuda.grid"):
        lines = lines_of(CASE)
    assert lines["cuda.step"].startswith("forced for forward, about ")
    assert lines["cuda.grid"] == "forced for backward, about 500 us backward (predicted)"
    assert lines["torch.native"].startswith("cuda.step and cuda.grid are forced, about ")


def test_explain_says_nothing_of_time_on_a_cpu() -> None:
    assert " us " not in explain(lstm_fused.LSTM(3, 4))


def test_under_transforms_a_layer_asks_for_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Case] = []
    monkeypatch.setattr(dispatch, "choose", lambda case: asked.append(case) or both("cuda.grid"))
    w_ih, w_hh = torch.zeros(16, 3, device="meta"), torch.zeros(16, 4, device="meta")

    def chosen(x: torch.Tensor) -> torch.Tensor:
        layer.chosen(x, [(w_ih, w_hh, None, None, None)], None)
        return x

    torch.func.vmap(chosen)(torch.zeros(5, 2, 3, device="meta"))
    assert [case.device for case in asked] == ["meta"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_a_layer_asks_for_its_own_case(
    monkeypatch: pytest.MonkeyPatch, packed: bool, grad: bool
) -> None:
    asked: list[Case] = []
    monkeypatch.setattr(
        dispatch, "choose", lambda case: asked.append(case) or both(dispatch.COMPOSITE)
    )
    weights = [(torch.zeros(16, 3), torch.zeros(16, 4, requires_grad=True), None, None, None)]
    x = torch.zeros(10, 3) if packed else torch.zeros(5, 2, 3)
    batch_sizes = torch.full((5,), 2) if packed else None
    with torch.set_grad_enabled(grad):
        layer.chosen(x, weights, batch_sizes)
    assert asked == [Case(4, T=5, B=2, input_size=3, training=grad, packed=packed)]


def test_a_module_stands_for_what_it_would_run() -> None:
    module: Any = lstm_fused.LSTM(3, 4)
    assert case_of(module) == Case(4, input_size=3, training=True)
    with torch.no_grad():
        assert not case_of(module).training
    assert not case_of(module.requires_grad_(False)).training
