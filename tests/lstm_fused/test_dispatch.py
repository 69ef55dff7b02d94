"""Which variant runs, forcing one, and the words about the others."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import lstm_fused
from lstm_fused import dispatch, functional, ops
from lstm_fused.dispatch import KERNELS, names, variant, variants
from lstm_fused.explained import explain
from tests import cases
from tests.cases import by_layer, problem, run

ROOT = Path(__file__).resolve().parents[2]
ROWS = {row.name: row for row in variants()}
# Why a layer of float32 on the CPU is refused.
REASONS = {name: dispatch.why_not(name, dispatch.Case(hidden_size=4)) for name in ROWS}
RUNNABLE = [name for name, reason in REASONS.items() if reason is None]
REFUSED = [name for name, reason in REASONS.items() if reason is not None]


class Seen(TorchDispatchMode):
    """The variants that really ran: the code in each call of ours, or torch's own LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.name()
        if name.startswith("lstm_fused::"):
            places = {a.name: k for k, a in enumerate(func._schema.arguments)}
            code = args[places["variant"]]
            forward, backward = code % ops.TF32, code // ops.BACKWARD
            code = backward - 1 if backward and "backward" in name else forward
            self.names.add("automatic" if args[places["variant"]] < 0 else KERNELS[code])
        elif "lstm" in name or "mkldnn_rnn" in name or "cudnn_rnn" in name:
            self.names.add(dispatch.NATIVE)
        return func(*args, **(kwargs or {}))


def ran(case: cases.Case = cases.PRIME, *, grad: bool = True) -> set[str]:
    with Seen() as seen:
        run(by_layer, problem(case, torch.float32), torch.float32, grad=grad)
    return seen.names


def test_the_table_lists_every_variant_in_order() -> None:
    assert list(ROWS) == names()
    assert {row.device for row in ROWS.values()} == {"cpu", "cuda", "any"}
    for row in ROWS.values():
        assert row.available == (row.why_not is None)
        if row.why_not is not None:
            assert len(row.why_not.split()) >= 3, f"no reason to act on: {row.why_not!r}"
    assert ROWS["torch.composite"].available
    assert ROWS["torch.native"].available


@pytest.mark.parametrize("name", RUNNABLE)
@pytest.mark.parametrize("grad", [True, False])
def test_the_forced_variant_runs_and_no_other(name: str, grad: bool) -> None:
    with variant(name):
        got = ran(grad=grad)
    # torch.native may be dissolved into plain ops before a dispatch mode sees it.
    allowed = {"torch.native": (set(), {"torch.native"}), "torch.composite": (set(),)}
    assert got in allowed.get(name, ({name},))


def test_without_force_the_first_that_takes_the_case_runs() -> None:
    first = next(name for name in RUNNABLE)
    assert f"{first:<16} chosen" in explain(lstm_fused.LSTM(3, 4))
    assert ran() == ({"automatic"} if first in KERNELS else set())


def test_automatic_choice_gives_the_bits_of_the_first_variant() -> None:
    given = problem(cases.ODD, torch.float32)
    automatic = run(by_layer, given, torch.float32)
    with variant(RUNNABLE[0]):
        forced = run(by_layer, given, torch.float32)
    assert all(torch.equal(automatic[name], t) for name, t in forced.items())


@pytest.mark.parametrize("name", REFUSED)
def test_a_forced_variant_that_refuses_says_why_and_nothing_runs(name: str) -> None:
    with variant(name), Seen() as seen:
        for grad in (True, False):
            with pytest.raises(RuntimeError) as caught:
                run(by_layer, problem(cases.PRIME, torch.float32), torch.float32, grad=grad)
            assert name in str(caught.value) and str(REASONS[name]) in str(caught.value)
        with pytest.raises(RuntimeError, match=name):
            lstm_fused.LSTM(3, 4)(torch.zeros(2, 3))
        with pytest.raises(RuntimeError, match=name):
            explain(lstm_fused.LSTM(3, 4))
    assert not seen.names
    assert ran(), "usable afterwards"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_products_of_pairs_are_for_bfloat16(dtype: torch.dtype) -> None:
    """And come first there, where the CPU has them."""
    name = "cpu.avx512bf16"
    takes = ROWS[name].available and dtype == torch.bfloat16
    assert (dispatch.choose(dispatch.Case(hidden_size=4, dtype=dtype)) == (name, name)) == takes
    if ROWS[name].available and not takes:
        assert "bfloat16 only" in str(dispatch.why_not(name, dispatch.Case(4, dtype=dtype)))


def test_a_kernel_that_cannot_compute_the_dtype_is_not_replaced() -> None:
    """Complex numbers run in plain PyTorch, but not behind the back of a forced kernel."""
    arguments = [torch.zeros(s, dtype=torch.complex64) for s in ((2, 3, 4), (8, 4), (8, 2))]
    y, _ = functional.lstm(arguments[0], None, arguments[1:])
    assert y.dtype == torch.complex64
    name = RUNNABLE[0]
    with variant(name), pytest.raises(RuntimeError, match=f"{name}.*complex64"):
        functional.lstm(arguments[0], None, arguments[1:])


@pytest.mark.parametrize("name", ["cpu.avx1024", "avx2", "CPU.GENERIC", "cpu.generic "])
def test_an_unknown_name_is_answered_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError) as caught, variant(name):
        pass
    message = str(caught.value)
    assert repr(name) in message
    assert all(known in message for known in names())


def test_force_nests_and_ends() -> None:
    a, b = "torch.composite", RUNNABLE[0]
    assert dispatch.forced() is None
    with variant(a):
        with variant(b):
            assert dispatch.forced() == (b, b)
        assert dispatch.forced() == (a, a)
        with pytest.raises(KeyError), variant(b):
            raise KeyError("an error inside the block")
        assert dispatch.forced() == (a, a)
    assert dispatch.forced() is None


def test_force_belongs_to_one_thread() -> None:
    """Two threads force different variants at once; a third forces none."""
    barrier = threading.Barrier(3, timeout=30)
    got: dict[str | None, set[dispatch.Choice | None]] = {}

    def work(name: str | None) -> None:
        got[name] = set()
        for _ in range(20):
            if name is None:
                barrier.wait()
                got[name].add(dispatch.forced())
                barrier.wait()
                continue
            with variant(name):
                barrier.wait()
                got[name].add(dispatch.forced())
                barrier.wait()

    workers = [
        threading.Thread(target=work, args=(name,))
        for name in ("torch.composite", RUNNABLE[0], None)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert got == {name: {name and (name, name)} for name in ("torch.composite", RUNNABLE[0], None)}


def test_the_backward_runs_by_the_variant_of_its_forward() -> None:
    """Also where the block has ended, or another has begun."""
    given = problem(cases.PRIME, torch.float32)
    kernels = [name for name in RUNNABLE if name in KERNELS]
    if len(kernels) < 2:
        pytest.skip(f"{KERNELS[-1]}: {ROWS[KERNELS[-1]].why_not}")
    x = given.x.float().requires_grad_()
    params = {name: p.float() for name, p in given.params.items()}
    with variant(kernels[-1]):
        y, _, _ = by_layer(cases.PRIME, params, x, None, None)
    with Seen() as seen, variant(kernels[0]):
        y.sum().backward()
    assert seen.names == {kernels[-1]}


class Codes(TorchDispatchMode):
    """What our ops were told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: set[tuple[str, int]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        op = func.name().removeprefix("lstm_fused::").rstrip("_")
        if op in ("layer_forward", "layer_backward"):
            at = [argument.name for argument in func._schema.arguments].index("variant")
            self.told.add((op, args[at] & ~ops.TF32))
        return func(*args, **(kwargs or {}))


def code_of(forward: str, backward: str) -> int:
    code = KERNELS.index(forward)
    return code if forward == backward else code + ops.BACKWARD * (1 + KERNELS.index(backward))


@pytest.mark.parametrize("functional_", [False, True], ids=["eager", "torch.func"])
def test_two_kernels_share_a_layer(functional_: bool) -> None:
    kernels = [name for name in RUNNABLE if name in KERNELS]
    if len(kernels) < 2:
        pytest.skip(f"{KERNELS[-1]}: {ROWS[KERNELS[-1]].why_not}")
    pair = kernels[-1], kernels[0]
    module = lstm_fused.LSTM(3, 4)
    x = torch.randn(5, 2, 3)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return module(x)[0].sum()

    with Codes() as codes, variant(*pair):
        torch.func.grad(loss)(x) if functional_ else loss(x).backward()
    assert codes.told == {("layer_forward", code_of(*pair)), ("layer_backward", code_of(*pair))}


@pytest.mark.parametrize("pair", [(dispatch.NATIVE, RUNNABLE[0]), (RUNNABLE[0], "torch.composite")])
def test_torchs_own_share_no_layer(pair: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=f"got '{pair[0]}' for forward and '{pair[1]}'"):
        with variant(*pair):
            pass


@pytest.mark.parametrize("name", [name for name in REFUSED if name in KERNELS])
@pytest.mark.parametrize("grad", [False, True])
def test_a_refusal_names_the_one_of_two_that_refuses(name: str, grad: bool) -> None:
    """Before anything runs, on each of the ways past the checks."""
    kernel = RUNNABLE[0]
    for pair in ((name, kernel), (kernel, name)):
        for call in (
            lambda: lstm_fused.LSTM(3, 4)(torch.zeros(2, 5, 3)),
            lambda: lstm_fused.LSTMCell(3, 4)(torch.zeros(2, 3)),
        ):
            with (
                torch.set_grad_enabled(grad),
                variant(*pair),
                pytest.raises(dispatch.Refused, match=f"variant {name} was asked"),
            ):
                call()


def test_meta_tensors_run_in_plain_pytorch() -> None:
    module = lstm_fused.LSTM(3, 4, device="meta")
    y, (h_n, c_n) = module(torch.zeros(5, 2, 3, device="meta"))
    assert (y.shape, h_n.shape, c_n.shape) == ((5, 2, 4), (1, 2, 4), (1, 2, 4))
    assert y.device.type == "meta"


# LSTM_FUSED_VARIANT


SCRIPT = """
import torch, lstm_fused
module = lstm_fused.LSTM(3, 4)
try:
    module(torch.zeros(2, 3))
except (RuntimeError, ValueError) as error:
    print(type(error).__name__, error)
else:
    print(lstm_fused.explain(module))
"""


def in_environment(value: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env=os.environ | {"LSTM_FUSED_VARIANT": value},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("name", [RUNNABLE[-3], "torch.composite"])
def test_the_environment_forces_a_variant(name: str) -> None:
    assert f"{name:<16} forced" in in_environment(name)


def test_the_environment_with_a_refused_variant() -> None:
    name = REFUSED[0]
    out = in_environment(name)
    assert out.startswith("Refused") and name in out


def test_the_environment_with_an_unknown_name() -> None:
    out = in_environment("fastest")
    assert out.startswith("ValueError") and "'fastest'" in out
    assert all(name in out for name in names())


def test_an_empty_environment_variable_forces_nothing() -> None:
    assert "chosen" in in_environment("")


def test_the_block_outranks_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_FROM_ENVIRONMENT", RUNNABLE[0])
    assert dispatch.forced() == (RUNNABLE[0],) * 2
    with variant("torch.composite"):
        assert dispatch.forced() == ("torch.composite",) * 2
        assert not ran()


@pytest.mark.parametrize("shared", [False, True])
def test_a_variant_forced_while_tracing_stays_in_the_graph(shared: bool) -> None:
    torch._dynamo.reset()
    codes: list[int] = []

    def keep(graph: torch.fx.GraphModule, inputs: object) -> object:
        for node in graph.graph.nodes:
            if "lstm_fused" in str(node.target):
                schema = getattr(node.target, "default", node.target)._schema
                places = [argument.name for argument in schema.arguments]
                codes.append(node.args[places.index("variant")])
        return graph.forward

    kernels = [name for name in RUNNABLE if name in KERNELS]
    if len(kernels) < 2:
        pytest.skip(f"{KERNELS[-1]}: {ROWS[KERNELS[-1]].why_not}")
    pair = kernels[0], kernels[-1 if shared else 0]
    fused = torch.compile(lstm_fused.LSTM(3, 4), backend=keep, fullgraph=True)
    with variant(*pair):
        fused(torch.randn(2, 5, 3))
    assert codes == [code_of(*pair)]
