"""torch.compile, torch.export and torch.autocast."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim

import lstm_fused
from lstm_fused import _load
from tests import cases
from tests.cases import Case, by_functional, by_module, problem, run, run_both
from tests.close import assert_no_worse

COMPILED = cases.named(
    "prime", "no_hx", "bare", "bidirectional", "proj", "stack_bidirectional", "stack_proj"
)
STACK_PROJ = cases.named("stack_proj")[0]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(of: cases.Ours, **options: object) -> cases.Ours:
    """The same function as one graph: fullgraph=True fails on any break."""
    return torch.compile(of, fullgraph=True, **{"backend": "aot_eager", **options})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", COMPILED)
def test_compiled_training(case: Case, dtype: torch.dtype) -> None:
    run_both(case, dtype, compiled(by_functional)).check()


@pytest.mark.parametrize("case", COMPILED)
def test_compiled_inference(case: Case) -> None:
    run_both(case, torch.float32, compiled(by_functional), grad=False).check()


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("grad", [True, False])
def test_compiled_module(backend: str, grad: bool) -> None:
    """The module itself, called as users call it; its parameters are its own."""
    case = STACK_PROJ
    given = problem(case, torch.float32)
    module = case.module(lstm_fused.LSTM)
    module.load_state_dict({name: p.float() for name, p in given.params.items()})
    x, h0, c0 = (t.float().requires_grad_(grad) for t in (given.x, *given.hx))
    with torch.set_grad_enabled(grad):
        y, (h_n, c_n) = torch.compile(module, fullgraph=True, backend=backend)(x, (h0, c0))
    got = {"y": y, "h_n": h_n, "c_n": c_n}
    if grad:
        torch.autograd.backward([y, h_n, c_n], [given.upstream[name].float() for name in got])
        leaves = {"x": x, **dict(module.named_parameters()), "h_0": h0, "c_0": c0}
        got |= {f"grad {name}": leaf.grad for name, leaf in leaves.items()}
    yard = cases.of_torch(case, torch.float32, torch.float32, grad)
    ref = cases.of_torch(case, torch.float32, torch.float64, grad)
    assert got.keys() == ref.keys()
    for name in ref:
        assert_no_worse(name, got[name].detach(), yard[name], ref[name])


def kernels_in(graph: torch.fx.GraphModule) -> int:
    """Calls of our op in a graph."""
    return sum("lstm_fused" in str(node.target) for node in graph.graph.nodes)


def built() -> bool:
    return _load.load() is not None


def test_the_compiled_graph_holds_one_op_per_layer() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    module = torch.compile(lstm_fused.LSTM(3, 4, num_layers=2), fullgraph=True, backend=keep)
    module(torch.randn(50, 2, 3))
    assert len(graphs) == 1
    if built():
        assert kernels_in(graphs[0]) == 2


def test_dynamic_shapes_compile_once() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    module = lstm_fused.LSTM(7, 5, num_layers=2, bidirectional=True)
    fused = torch.compile(module, fullgraph=True, backend=counter, dynamic=True)
    # The first T and B differ from every size of the module: equal sizes share a symbol.
    sizes = [(4, 3), (9, 2), (2, 7), (13, 5)]
    compiled_at: list[int] = []
    for steps, batch in sizes if built() else sizes[:1]:
        x = torch.randn(steps, batch, 7, requires_grad=True)
        y, (h_n, c_n) = fused(x)
        want, (want_h, want_c) = module(x)
        for name, a, b in (("y", y, want), ("h_n", h_n, want_h), ("c_n", c_n, want_c)):
            assert_no_worse(name, a, b, b.double())
        (dx,) = torch.autograd.grad(y.sum() + c_n.sum(), x)
        (want_dx,) = torch.autograd.grad(want.sum() + want_c.sum(), x)
        assert_no_worse("dx", dx, want_dx, want_dx.double())
        compiled_at.append(counter.frame_count)
    assert compiled_at == compiled_at[:1] * len(compiled_at), "compiled again for another size"


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_export_with_dynamic_steps_and_batch(strict: bool, batch_first: bool) -> None:
    module = lstm_fused.LSTM(
        3, 5, num_layers=2, bidirectional=True, proj_size=2, batch_first=batch_first
    ).eval()
    x = torch.randn(4, 6, 3)
    hx = torch.randn(4, 4 if batch_first else 6, 2), torch.randn(4, 4 if batch_first else 6, 5)
    batch, steps = Dim("batch", min=2, max=4096), Dim("steps", min=2, max=4096)
    order = (batch, steps) if batch_first else (steps, batch)
    dynamic = {"input": dict(enumerate(order)), "hx": ({1: batch}, {1: batch})}
    if not built():
        dynamic = {"input": {0: None, 1: None}, "hx": ({1: None}, {1: None})}
    program = torch.export.export(module, (x, hx), dynamic_shapes=dynamic, strict=strict)
    if built():
        assert kernels_in(program.graph_module) == 2
    for b, t in [(2, 3), (7, 11)] if built() else [(4, 6) if batch_first else (6, 4)]:
        x = torch.randn((b, t, 3) if batch_first else (t, b, 3))
        hx = torch.randn(4, b, 2), torch.randn(4, b, 5)
        got, (got_h, got_c) = program.module()(x, hx)
        want, (want_h, want_c) = module(x, hx)
        for name, a, w in (("y", got, want), ("h_n", got_h, want_h), ("c_n", got_c, want_c)):
            w = w.detach()
            assert_no_worse(name, a.detach(), w, w.double())


def test_exported_program_survives_saving(tmp_path: object) -> None:
    module = lstm_fused.LSTM(3, 5).eval()
    x = torch.randn(4, 2, 3)
    torch.export.save(torch.export.export(module, (x,)), f"{tmp_path}/lstm.pt2")
    again = torch.export.load(f"{tmp_path}/lstm.pt2").module()
    assert torch.equal(again(x)[0], module(x)[0])


LOW = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
AUTOCAST_CASES = cases.named("prime", "no_hx", "stack_proj", "ragged", "large")


def under_autocast(dtype: torch.dtype, of: cases.Ours) -> cases.Ours:
    def ours(*arguments: object) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast("cpu", dtype=dtype):
            return of(*arguments)

    return ours


@LOW
@pytest.mark.parametrize("case", AUTOCAST_CASES)
@pytest.mark.parametrize(
    "of", [by_functional, by_module(lstm_fused.LSTM)], ids=["function", "module"]
)
def test_autocast_is_the_lower_dtype(case: Case, of: cases.Ours, dtype: torch.dtype) -> None:
    """float32 arguments that the lower dtype can hold: the results are those in that dtype."""
    got = run(under_autocast(dtype, of), problem(case, dtype), torch.float32)
    ref = cases.of_torch(case, dtype, torch.float64)
    yard = cases.of_torch(case, dtype, dtype)
    for name in ref:
        assert got[name].dtype == (torch.float32 if name.startswith("grad") else dtype)
        assert_no_worse(name, got[name].to(dtype), yard[name], ref[name])


@LOW
def test_autocast_in_a_compiled_graph(dtype: torch.dtype) -> None:
    case = STACK_PROJ
    plain = run(under_autocast(dtype, by_functional), problem(case, dtype), torch.float32)
    fused = run(compiled(under_autocast(dtype, by_functional)), problem(case, dtype), torch.float32)
    for name, t in plain.items():
        assert fused[name].dtype == t.dtype
        assert_no_worse(name, fused[name], t, t.double())


def test_autocast_leaves_float64_alone() -> None:
    got = run(
        under_autocast(torch.bfloat16, by_functional),
        problem(STACK_PROJ, torch.float64),
        torch.float64,
    )
    for name, t in cases.of_torch(STACK_PROJ, torch.float64, torch.float64).items():
        assert_no_worse(name, got[name], t, t)


def test_the_state_of_one_autocast_step_enters_the_next() -> None:
    """Without a cast: (h_n, c_n) come back in the autocast dtype, beside float32 inputs."""
    module = lstm_fused.LSTM(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, hx = module(torch.randn(2, 5, 3))
        y, hx = module(torch.randn(2, 5, 3), hx)
    assert y.dtype == hx[0].dtype == hx[1].dtype == torch.bfloat16
