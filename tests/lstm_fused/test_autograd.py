"""Differentiation: twice, in parts, under hooks and checkpoints, and under torch.func.

The forward and first backward of every case and dtype are tested in tests/csrc.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from lstm_fused.dispatch import variant as force
from lstm_fused.layer import layer
from tests import cases
from tests.cases import Case, State, by_layer, by_torch, problem, run
from tests.close import assert_no_worse
from tests.conftest import Forced

TINY = (
    Case("grad_tiny", "all arguments", T=3, B=2, I=2, H=3),
    Case("grad_bare", "no state, no bias", T=3, B=2, I=2, H=3, bias=False, hx=False),
    Case("grad_proj", "a projection", T=3, B=2, I=2, H=3, P=2),
    Case("grad_both", "two directions, a projection", T=2, B=2, I=2, H=3, P=2, bidirectional=True),
    Case(
        "grad_ragged",
        "two directions over sequences of unequal length",
        T=3,
        B=3,
        I=2,
        H=2,
        lengths=(3, 2, 1),
        bidirectional=True,
    ),
)
tiny = pytest.mark.parametrize("case", TINY)


def function_of_leaves(
    case: Case, device: str = "cpu"
) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
    """f(x, [h_0, c_0,] *params) = (y, h_n, c_n) of our layer, and its float64 leaves."""
    given = problem(case, torch.float64)
    names = list(given.params)
    states = 0 if given.hx is None else 2

    def f(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        hx = rest[:states] or None
        params = dict(zip(names, rest[states:], strict=True))
        return by_layer(case, params, x, hx, case.batch_sizes)

    leaves = [given.x, *(given.hx or ()), *given.params.values()]
    return f, [t.to(device, copy=True).requires_grad_() for t in leaves]


def skip_cudnn(variant: Forced) -> None:
    if variant == ("torch.native", "cuda"):
        pytest.skip("cuDNN has no double backward")


@tiny
def test_gradcheck(variant: Forced, case: Case) -> None:
    f, leaves = function_of_leaves(case, variant.device)
    assert gradcheck(f, leaves)


@tiny
def test_gradgradcheck(variant: Forced, case: Case) -> None:
    skip_cudnn(variant)
    f, leaves = function_of_leaves(case, variant.device)
    assert gradgradcheck(f, leaves, fast_mode=True, gen_non_contig_grad_outputs=True)


def test_gradgradcheck_of_every_element() -> None:
    f, leaves = function_of_leaves(TINY[0])
    assert gradgradcheck(f, leaves)


def gradient_penalty(of: cases.Ours) -> cases.Ours:
    """As in WGAN-GP: outputs that depend on the gradient with respect to x."""

    def penalised(
        case: Case,
        params: dict[str, Tensor],
        x: Tensor,
        hx: State | None,
        batch_sizes: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, h_n, c_n = of(case, params, x, hx, batch_sizes)
        (dx,) = torch.autograd.grad(y.square().sum() + c_n.sum(), x, create_graph=True)
        return y + dx.square().sum(), h_n, c_n * (1 + dx.norm())

    return penalised


@functools.cache
def penalty_of_torch(case: Case, rounded: torch.dtype, dtype: torch.dtype) -> dict[str, Tensor]:
    return run(gradient_penalty(by_torch), problem(case, rounded), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "case", cases.named("prime", "bidirectional", "proj", "ragged_bidirectional", "bare")
)
def test_gradient_penalty_is_that_of_torch(variant: Forced, case: Case, dtype: torch.dtype) -> None:
    skip_cudnn(variant)
    ref, yard = penalty_of_torch(case, dtype, torch.float64), penalty_of_torch(case, dtype, dtype)
    ours = run(gradient_penalty(by_layer), problem(case, dtype), dtype, device=variant.device)
    for name in ref:
        assert_no_worse(name, ours[name], yard[name], ref[name])


def test_third_derivative() -> None:
    case = Case("third", "one number", T=2, B=1, I=1, H=1)
    f, leaves = function_of_leaves(case)

    def third(fn: Callable[..., tuple[Tensor, ...]]) -> Tensor:
        x = leaves[0]
        value = fn(*leaves)[0].sum()
        for _ in range(3):
            (dx,) = torch.autograd.grad(value, x, create_graph=True)
            value = dx.square().sum()
        return dx.detach()

    names = problem(case, torch.float64).params

    def of_torch(x: Tensor, h0: Tensor, c0: Tensor, *params: Tensor) -> tuple[Tensor, ...]:
        return by_torch(case, dict(zip(names, params, strict=True)), x, (h0, c0), None)

    assert_no_worse("third derivative", third(f), third(of_torch), third(of_torch))


def grads_of(value: Tensor, leaves: list[Tensor], **kwargs: bool) -> list[Tensor]:
    return list(torch.autograd.grad(value, leaves, **kwargs))


def loss_of(outputs: tuple[Tensor, ...]) -> Tensor:
    y, h_n, c_n = outputs
    return y.square().sum() + (h_n * 3).sin().sum() + c_n.cos().sum()


def assert_same_bits(got: list[Tensor], want: list[Tensor]) -> None:
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


@tiny
def test_retained_graph_gives_the_same_bits(variant: Forced, case: Case) -> None:
    f, leaves = function_of_leaves(case, variant.device)
    loss = loss_of(f(*leaves))
    first = grads_of(loss, leaves, retain_graph=True)
    second = grads_of(loss, leaves, retain_graph=True)
    last = grads_of(loss, leaves)
    assert_same_bits(second, first)
    assert_same_bits(last, first)


def test_double_backward_then_backward_gives_the_same_bits(variant: Forced) -> None:
    skip_cudnn(variant)
    f, leaves = function_of_leaves(TINY[0], variant.device)
    loss = loss_of(f(*leaves))
    plain = grads_of(loss, leaves, retain_graph=True)
    with_graph = grads_of(loss, leaves, create_graph=True)
    grads_of(sum(g.square().sum() for g in with_graph), leaves, retain_graph=True)
    assert_same_bits(grads_of(loss, leaves), plain)


def test_backward_after_a_freed_graph_is_refused(variant: Forced) -> None:
    f, leaves = function_of_leaves(TINY[0], variant.device)
    loss = loss_of(f(*leaves))
    grads_of(loss, leaves)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        grads_of(loss, leaves)


@pytest.mark.parametrize("changed", ["weight_hh", "x", "y"])
def test_what_backward_reads_changed_in_place_is_noticed_or_harmless(
    variant: Forced, changed: str
) -> None:
    f, leaves = function_of_leaves(TINY[0], variant.device)
    y, _, c_n = f(*leaves)
    loss = (y * 2).sum() + c_n.sum()
    want = grads_of(loss, leaves, retain_graph=True)
    with torch.no_grad():
        {"x": leaves[0], "weight_hh": leaves[4], "y": y}[changed].zero_()
    try:
        got = grads_of(loss, leaves)
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
    else:
        assert_same_bits(got, want)


@pytest.mark.parametrize("wanted", [[0], [1], [2], [3], [4], [5, 6], [0, 4], [1, 2]])
def test_frozen_leaves(variant: Forced, wanted: list[int]) -> None:
    """Leaves: x, h_0, c_0, weight_ih, weight_hh, bias_ih, bias_hh."""
    f, leaves = function_of_leaves(TINY[0], variant.device)
    want = grads_of(loss_of(f(*leaves)), leaves)
    for i, leaf in enumerate(leaves):
        leaf.requires_grad_(i in wanted)
    got = grads_of(loss_of(f(*leaves)), [leaves[i] for i in wanted])
    # Not wanting a gradient may change which products are formed, never by more than rounding.
    for i, g in zip(wanted, got, strict=True):
        assert_no_worse(f"leaf {i}", g, want[i], want[i])


@pytest.mark.parametrize("used", [0, 1, 2])
def test_one_output_used(variant: Forced, used: int) -> None:
    """Backward with undefined gradients of the other outputs."""
    f, leaves = function_of_leaves(TINY[0], variant.device)
    given = problem(TINY[0], torch.float64)

    def of_torch(x: Tensor, h0: Tensor, c0: Tensor, *params: Tensor) -> tuple[Tensor, ...]:
        return by_torch(given.case, dict(zip(given.params, params, strict=True)), x, (h0, c0), None)

    got, want = (grads_of(fn(*leaves)[used].sin().sum(), leaves) for fn in (f, of_torch))
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        assert_no_worse(f"leaf {i}", a, b, b)


def test_one_tensor_as_two_arguments() -> None:
    """h0 and c0 are one tensor, and so are both biases: gradients add up."""
    case = TINY[0]
    given = problem(case, torch.float64)
    state = given.hx[0].clone().requires_grad_()
    bias = given.params["bias_ih_l0"].clone().requires_grad_()
    params = given.params | {"bias_ih_l0": bias, "bias_hh_l0": bias}
    got, want = (
        grads_of(loss_of(fn(case, params, given.x, (state, state), None)), [state, bias])
        for fn in (by_layer, by_torch)
    )
    for name, a, b in zip(("state", "bias"), got, want, strict=True):
        assert_no_worse(name, a, b, b)


@tiny
def test_checkpoint_gives_the_same_bits(variant: Forced, case: Case) -> None:
    g, leaves = function_of_leaves(case, variant.device)

    def f(*leaves: Tensor) -> tuple[Tensor, ...]:
        with force(variant.name):  # on a GPU it runs again in autograd's own thread
            return g(*leaves)

    want = grads_of(loss_of(f(*leaves)), leaves)
    for reentrant in (False, True):
        for leaf in leaves:
            leaf.grad = None
        loss_of(checkpoint(f, *leaves, use_reentrant=reentrant)).backward()
        assert_same_bits([leaf.grad for leaf in leaves], want)


@tiny
def test_saved_tensors_hooks(variant: Forced, case: Case) -> None:
    f, leaves = function_of_leaves(case, variant.device)
    want = grads_of(loss_of(f(*leaves)), leaves)
    packed: list[Tensor] = []

    def pack(t: Tensor) -> Tensor:
        packed.append(t)
        return t.clone()

    with saved_tensors_hooks(pack, lambda t: t):
        outputs = f(*leaves)
    assert packed, "backward keeps tensors that hooks do not see"
    assert_same_bits(grads_of(loss_of(outputs), leaves), want)
    with save_on_cpu():
        outputs = f(*leaves)
    assert_same_bits(grads_of(loss_of(outputs), leaves), want)


@tiny
def test_no_grad_and_inference_mode(variant: Forced, case: Case) -> None:
    f, leaves = function_of_leaves(case, variant.device)
    want = f(*leaves)
    with torch.no_grad():
        got = f(*leaves)
    assert not any(t.requires_grad for t in got)
    with torch.inference_mode():
        inferred = f(*leaves)
    assert all(t.is_inference() for t in inferred)
    for name, a, b, c in zip(("y", "h_n", "c_n"), got, inferred, want, strict=True):
        assert_no_worse(name, a, c.detach(), c.detach())
        assert torch.equal(a, b)


def test_inference_tensors_as_input(variant: Forced) -> None:
    """Tensors made in inference mode may be read outside it, but not saved for backward."""
    f, leaves = function_of_leaves(TINY[0], variant.device)
    with torch.inference_mode():
        frozen = [leaf.clone() for leaf in leaves]
    with torch.no_grad():
        assert_same_bits(list(f(*frozen)), list(f(*leaves)))


def test_gradients_accumulate_into_grad(variant: Forced) -> None:
    f, leaves = function_of_leaves(TINY[0], variant.device)
    want = grads_of(loss_of(f(*leaves)), leaves)
    for _ in range(2):
        loss_of(f(*leaves)).backward()
    assert_same_bits([leaf.grad for leaf in leaves], [2 * g for g in want])


# torch.func


def pure(case: Case) -> tuple[Callable[..., tuple[Tensor, ...]], Tensor, dict[str, Tensor], State]:
    """f(params, x, h0, c0) = (y, h_n, c_n), and float64 arguments that need no gradient."""
    given = problem(case, torch.float64)

    def f(params: dict[str, Tensor], x: Tensor, h0: Tensor, c0: Tensor) -> tuple[Tensor, ...]:
        return by_layer(case, params, x, (h0, c0), case.batch_sizes)

    assert given.hx is not None
    return f, given.x, given.params, given.hx


func_cases = pytest.mark.parametrize(
    "case", [case for case in TINY if case.hx and case.lengths is None]
)


def assert_equal_to(name: str, got: Tensor, want: Tensor) -> None:
    """The rule in float64, where a plain loop is reference and yardstick."""
    assert_no_worse(name, got, want, want)


@func_cases
def test_func_grad(case: Case) -> None:
    f, x, params, hx = pure(case)

    def loss(params: dict[str, Tensor], x: Tensor, h0: Tensor, c0: Tensor) -> Tensor:
        return loss_of(f(params, x, h0, c0))

    got = torch.func.grad(loss, argnums=(0, 1, 2, 3))(params, x, *hx)
    leaves = [t.clone().requires_grad_() for t in (*params.values(), x, *hx)]
    named = dict(zip(params, leaves, strict=False))
    want = grads_of(loss(named, *leaves[len(params) :]), leaves)
    for name, a, b in zip(
        (*params, "x", "h0", "c0"), (*got[0].values(), *got[1:]), want, strict=True
    ):
        assert_equal_to(name, a, b)


@func_cases
def test_vmap_over_inputs(case: Case) -> None:
    f, x, params, hx = pure(case)
    xs = torch.stack([x, x * 2, x - 1])
    got = torch.func.vmap(f, in_dims=(None, 0, None, None))(params, xs, *hx)
    for k, name in enumerate(("y", "h_n", "c_n")):
        want = torch.stack([f(params, one, *hx)[k] for one in xs])
        assert_equal_to(name, got[k], want)


def test_vmap_over_another_dimension() -> None:
    f, x, params, hx = pure(TINY[0])
    xs = torch.stack([x, x * 2, x - 1], dim=2)
    got = torch.func.vmap(f, in_dims=(None, 2, None, None), out_dims=1)(params, xs, *hx)
    want = torch.stack([f(params, xs.select(2, k), *hx)[0] for k in range(3)], dim=1)
    assert_equal_to("y", got[0], want)


@func_cases
def test_vmap_over_weights(case: Case) -> None:
    """An ensemble: stacked parameters, one input."""
    f, x, params, hx = pure(case)
    stacked = {name: torch.stack([p, p * 0.5, -p]) for name, p in params.items()}
    got = torch.func.vmap(f, in_dims=(0, None, None, None))(stacked, x, *hx)
    for k, name in enumerate(("y", "h_n", "c_n")):
        members = [{key: p[e] for key, p in stacked.items()} for e in range(3)]
        want = torch.stack([f(member, x, *hx)[k] for member in members])
        assert_equal_to(name, got[k], want)


@func_cases
def test_per_sample_gradients(case: Case) -> None:
    f, x, params, (h0, c0) = pure(case)

    def loss(params: dict[str, Tensor], x: Tensor, h0: Tensor, c0: Tensor) -> Tensor:
        return loss_of(f(params, x.unsqueeze(1), h0.unsqueeze(1), c0.unsqueeze(1)))

    grad = torch.func.grad(loss)
    got = torch.func.vmap(grad, in_dims=(None, 1, 1, 1))(params, x, h0, c0)
    for b in range(case.B):
        want = grad(params, x[:, b], h0[:, b], c0[:, b])
        for name in params:
            assert_equal_to(f"{name} of sample {b}", got[name][b], want[name])


@func_cases
def test_jacrev(case: Case) -> None:
    f, x, params, hx = pure(case)
    got = torch.func.jacrev(lambda x: f(params, x, *hx)[2])(x)
    want = torch.autograd.functional.jacobian(lambda x: by_torch(case, params, x, hx, None)[2], x)
    assert_equal_to("jacobian", got, want)


@func_cases
def test_jvp(case: Case) -> None:
    f, x, params, hx = pure(case)
    tangents = ({name: p.sin() for name, p in params.items()}, x.cos(), hx[0].sin(), hx[1].cos())
    got, got_tangents = torch.func.jvp(f, (params, x, *hx), tangents)

    def of_torch(
        params: dict[str, Tensor], x: Tensor, h0: Tensor, c0: Tensor
    ) -> tuple[Tensor, ...]:
        return by_torch(case, params, x, (h0, c0), None)

    want, want_tangents = torch.func.jvp(of_torch, (params, x, *hx), tangents)
    for k, name in enumerate(("y", "h_n", "c_n")):
        assert_equal_to(name, got[k], want[k])
        assert_equal_to(f"tangent of {name}", got_tangents[k], want_tangents[k])


def test_hessian() -> None:
    f, x, params, hx = pure(TINY[0])
    got = torch.func.hessian(lambda x: loss_of(f(params, x, *hx)))(x)
    want = torch.autograd.functional.hessian(
        lambda x: loss_of(by_torch(TINY[0], params, x, hx, None)), x
    )
    assert_equal_to("hessian", got, want)


def test_func_grad_of_grad() -> None:
    f, x, params, hx = pure(TINY[2])

    def penalty(params: dict[str, Tensor], of: Callable[..., tuple[Tensor, ...]]) -> Tensor:
        return torch.func.grad(lambda x: loss_of(of(params, x, *hx)))(x).square().sum()

    def of_torch(params: dict[str, Tensor], x: Tensor, *hx: Tensor) -> tuple[Tensor, ...]:
        return by_torch(TINY[2], params, x, hx, None)

    got = torch.func.grad(lambda p: penalty(p, f))(params)
    want = torch.func.grad(lambda p: penalty(p, of_torch))(params)
    for name in params:
        assert_equal_to(name, got[name], want[name])


def test_forward_mode_outside_transforms_is_right_or_refused() -> None:
    """A silently missing tangent would be the one wrong answer."""
    f, x, params, hx = pure(TINY[0])
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        try:
            y = f(params, dual, *hx)[0]
        except NotImplementedError as error:
            assert "torch.func.jvp" in str(error)
            return
        tangent = forward_ad.unpack_dual(y).tangent
    _, want = torch.func.jvp(
        lambda x: by_torch(TINY[0], params, x, hx, None)[0], (x,), (torch.ones_like(x),)
    )
    assert_equal_to("tangent", tangent, want)


def test_layer_takes_no_state(variant: Forced) -> None:
    """h0 and c0 may be absent one at a time."""
    case = TINY[0]
    given = problem(case, torch.float64)
    x = given.x.to(variant.device)
    h0, c0 = (t.to(variant.device) for t in given.hx)
    params = {name: p.to(variant.device) for name, p in given.params.items()}
    weights = cases.directions(case, params)
    zeros = torch.zeros_like
    for got, want in (
        (layer(x, None, c0, weights), layer(x, zeros(h0), c0, weights)),
        (layer(x, h0, None, weights), layer(x, h0, zeros(c0), weights)),
        (layer(x, None, None, weights), layer(x, zeros(h0), zeros(c0), weights)),
    ):
        for name, a, b in zip(("y", "h_n", "c_n"), got, want, strict=True):
            assert_equal_to(name, a, b)
