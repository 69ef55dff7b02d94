"""One recorded step, functional.lstm_cell: a node of its own in the graph, without a time axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks

from lstm_fused import functional
from lstm_fused.nn import LSTMCell
from tests.cases import STEP, Case, State, problem, run_both
from tests.close import assert_no_worse
from tests.conftest import Forced

CASES = (
    STEP,
    replace(STEP, name="step_bare", why="neither bias nor state", bias=False, hx=False),
    replace(STEP, name="step_one", why="one row: products of a matrix and a vector", B=1),
    replace(STEP, name="step_many", why="more rows than are multiplied unpacked", B=37, H=33),
)
of_cases = pytest.mark.parametrize("case", CASES)
Cell = Callable[..., tuple[Tensor, Tensor]]


def leaves_of(case: Case, device: str = "cpu") -> list[Tensor]:
    """x [B, I], h [B, H] and c [B, H] if given, weights and biases, in float64."""
    given = problem(case, torch.float64)
    states = () if given.hx is None else (given.hx[0][0], given.hx[1][0])
    leaves = (given.x[0], *states, *given.params.values())
    return [t.to(device, copy=True).requires_grad_() for t in leaves]


def both(case: Case) -> tuple[Cell, Cell]:
    """Our step and torch's, each f(*leaves) = (h, c)."""

    def split(leaves: tuple[Tensor, ...]) -> tuple[Tensor, State, tuple[Tensor, ...]]:
        x, *rest = leaves
        if case.hx:
            return x, (rest[0], rest[1]), tuple(rest[2:])
        zeros = torch.zeros(case.B, case.H, dtype=x.dtype, device=x.device)
        return x, (zeros, zeros), tuple(rest)

    def ours(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        x, hx, params = split(leaves)
        return functional.lstm_cell(x, hx if case.hx else None, *params)

    def theirs(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        x, hx, params = split(leaves)
        return torch.lstm_cell(x, hx, *params)

    return ours, theirs


def loss_of(outputs: tuple[Tensor, Tensor]) -> Tensor:
    return outputs[0].sin().sum() + outputs[1].square().sum()


def grads_of(value: Tensor, leaves: list[Tensor], **kwargs: bool) -> list[Tensor]:
    return list(torch.autograd.grad(value, leaves, **kwargs))


def assert_equal_to(got: list[Tensor], want: list[Tensor]) -> None:
    """The rule in float64, where torch is reference and yardstick."""
    for k, (a, b) in enumerate(zip(got, want, strict=True)):
        assert_no_worse(f"number {k}", a, b, b)


def assert_same_bits(got: list[Tensor], want: list[Tensor]) -> None:
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


@of_cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_no_worse_than_torch(variant: Forced, case: Case, dtype: torch.dtype) -> None:
    def cell(
        _: Case, params: dict[str, Tensor], x: Tensor, hx: State | None, __: None
    ) -> tuple[Tensor, Tensor, Tensor]:
        state = None if hx is None else (hx[0][0], hx[1][0])
        h, c = functional.lstm_cell(x[0], state, *params.values())
        return h[None], h[None], c[None]

    run_both(case, dtype, cell, device=variant.device).check()


@of_cases
def test_gradcheck_twice(variant: Forced, case: Case) -> None:
    if variant == ("torch.native", "cuda"):
        pytest.skip("cuDNN has no double backward")
    ours, leaves = both(case)[0], leaves_of(case, variant.device)
    assert gradcheck(ours, leaves, fast_mode=True)
    assert gradgradcheck(ours, leaves, fast_mode=True, gen_non_contig_grad_outputs=True)


@of_cases
def test_double_backward(case: Case) -> None:
    """A penalty on the gradients of all leaves, and what it leaves of the first graph."""
    leaves, results = leaves_of(case), []
    for step in both(case):
        loss = loss_of(step(*leaves))
        first = grads_of(loss, leaves, create_graph=True)
        penalty = torch.stack([g.square().sum() for g in first]).sum()
        second = grads_of(penalty, leaves, retain_graph=True)
        assert_same_bits(grads_of(loss, leaves), first)
        results.append([*first, *second])
    assert_equal_to(*results)


@of_cases
def test_a_retained_graph_gives_the_same_bits(variant: Forced, case: Case) -> None:
    leaves = leaves_of(case, variant.device)
    loss = loss_of(both(case)[0](*leaves))
    first = grads_of(loss, leaves, retain_graph=True)
    assert_same_bits(grads_of(loss, leaves, retain_graph=True), first)
    assert_same_bits(grads_of(loss, leaves), first)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        grads_of(loss, leaves)


@pytest.mark.parametrize("retain", [True, False])
def test_batched_gradients(retain: bool) -> None:
    """Rows of a Jacobian at once: of every leaf, by h and c."""
    case = replace(STEP, name="step_batched", B=2, I=3, H=2)
    leaves = leaves_of(case)
    results = []
    for step in both(case):
        outputs = torch.cat(step(*leaves)).flatten()
        rows = torch.eye(len(outputs), dtype=torch.float64)
        results.append(
            torch.autograd.grad(outputs, leaves, rows, is_grads_batched=True, retain_graph=retain)
        )
    assert_equal_to(*results)


@of_cases
@pytest.mark.parametrize("used", [0, 1])
def test_one_output_used(variant: Forced, case: Case, used: int) -> None:
    """Backward with an undefined gradient of the other output."""
    leaves = leaves_of(case, variant.device)
    assert_equal_to(*(grads_of(step(*leaves)[used].sin().sum(), leaves) for step in both(case)))


def test_an_output_without_a_gradient_leaves_no_gradients() -> None:
    """Both outputs reach a function that gives no gradient to either."""

    class Cut(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, h: Tensor, c: Tensor) -> Tensor:
            return h.sum() + c.sum()

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> tuple[None, None]:
            return None, None

    leaves = leaves_of(STEP)
    loss = Cut.apply(*both(STEP)[0](*leaves))
    assert all(g is None for g in torch.autograd.grad(loss, leaves, allow_unused=True))


@pytest.mark.parametrize("wanted", [[0], [1], [2], [3], [4], [5], [6], [5, 6], [0, 4], [1, 2]])
def test_frozen_leaves(variant: Forced, wanted: list[int]) -> None:
    """Leaves: x, h, c, weight_ih, weight_hh, bias_ih, bias_hh."""
    leaves = leaves_of(STEP, variant.device)
    for k, leaf in enumerate(leaves):
        leaf.requires_grad_(k in wanted)
    sought = [leaves[k] for k in wanted]
    assert_equal_to(*(grads_of(loss_of(step(*leaves)), sought) for step in both(STEP)))


def test_hooks_of_tensors() -> None:
    """On h and leaves: they see torch's gradients, and what they return is passed on.

    Not on c, of which torch's h on a CPU is a function: there the hook sees h's share as well.
    """
    results = []
    for step in both(STEP):
        leaves, seen = leaves_of(STEP), []

        def halve(grad: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(grad)
            return grad / 2

        outputs = step(*leaves)
        for t in (outputs[0], *leaves):
            t.register_hook(halve)
        found = grads_of(loss_of(outputs), leaves)
        assert len(seen) == len(leaves) + 1
        # The order of leaves that become ready together is the engine's affair.
        results.append([*found, *sorted(seen, key=lambda t: (t.shape, t.sum().item()))])
    assert_equal_to(*results)


@pytest.mark.parametrize(
    "hooked", ["register_full_backward_pre_hook", "register_full_backward_hook"]
)
def test_backward_hooks_of_modules(hooked: str) -> None:
    results = []
    for cls in (LSTMCell, nn.LSTMCell):
        torch.manual_seed(0)
        cell, seen = cls(3, 4, dtype=torch.float64), []

        def keep(module: nn.Module, *grads: tuple[Tensor, ...], seen: list = seen) -> None:
            seen.extend(t for some in grads for t in some)

        getattr(cell, hooked)(keep)
        x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
        loss_of(cell(x)).backward()
        results.append([x.grad, *(p.grad for p in cell.parameters()), *seen])
    assert len(results[0]) > 5
    assert_equal_to(*results)


def test_forward_hooks_of_modules() -> None:
    """What a hook makes of the arguments and of the outputs is what gradients are of."""
    results = []
    for cls in (LSTMCell, nn.LSTMCell):
        torch.manual_seed(0)
        cell = cls(3, 4, dtype=torch.float64)
        cell.register_forward_pre_hook(lambda module, args: (args[0] * 2, *args[1:]))
        cell.register_forward_hook(lambda module, args, out: (out[0] * out[1], out[1]))
        x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
        loss_of(cell(x)).backward()
        results.append([x.grad, *(p.grad for p in cell.parameters())])
    assert_equal_to(*results)


def test_what_a_step_keeps() -> None:
    """Its arguments, the gates and c; not h: no later step reads it."""
    leaves, kept = leaves_of(STEP), []

    def pack(t: Tensor) -> Tensor:
        kept.append(t)
        return t.clone()

    ours = both(STEP)[0]
    want = grads_of(loss_of(ours(*leaves)), leaves)
    with saved_tensors_hooks(pack, lambda t: t):
        outputs = ours(*leaves)
    own = [t for t in kept if all(t.data_ptr() != leaf.data_ptr() for leaf in leaves)]
    assert len(kept) == len(leaves) + len(own)
    assert sum(t.numel() for t in own) == STEP.B * 5 * STEP.H
    assert_same_bits(grads_of(loss_of(outputs), leaves), want)
    with save_on_cpu():
        outputs = ours(*leaves)
    assert_same_bits(grads_of(loss_of(outputs), leaves), want)
