"""The registered ops: opcheck, fake kernels against real ones, and refusals by name."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from lstm_fused import _load, ops
from lstm_fused.dispatch import AUTOMATIC, KERNELS
from tests import cases
from tests.cases import Case, problem

CSRC = Path(__file__).resolve().parents[2] / "csrc"
ALL_NEEDS = 127
OPS = ("layer", "layer_forward", "layer_backward", "layer_backward_")
CHECKED = cases.named(
    "prime", "bare", "proj_bidirectional", "ragged", "ragged_bidirectional", "empty", "one"
)
dtypes = pytest.mark.parametrize("dtype", cases.DTYPES)


@pytest.fixture(autouse=True)
def _ops_exist() -> None:
    if not ops.available():
        pytest.skip(f"not built: {_load.why_not()}")


def weights_of(case: Case, dtype: torch.dtype) -> list[Tensor | None]:
    """Ten weights, None where there is none."""
    params = {name: p.to(dtype) for name, p in problem(case, dtype).params.items()}
    both = cases.directions(case, params)
    return [*both[0], *(both[1] if case.D == 2 else (None,) * 5)]


def forward_arguments(case: Case, dtype: torch.dtype, save: bool = True) -> list[object]:
    given = problem(case, dtype)
    h0, c0 = (None, None) if given.hx is None else (t.to(dtype) for t in given.hx)
    return [
        given.x.to(dtype),
        h0,
        c0,
        *weights_of(case, dtype),
        case.batch_sizes,
        ops.CELL_LSTM,
        AUTOMATIC,
        save,
    ]


def backward_arguments(case: Case, dtype: torch.dtype, needs: int = ALL_NEEDS) -> list[object]:
    forward = forward_arguments(case, dtype)
    y, _, _, gates, c = torch.ops.lstm_fused.layer_forward(*forward)
    x, h0, c0, *weights = forward[:13]
    matrices = [w for k, w in enumerate(weights) if k % 5 not in (2, 3)]
    upstream = [t.to(dtype) for t in problem(case, dtype).upstream.values()]
    codes = [ops.CELL_LSTM, AUTOMATIC, needs]
    return [*upstream, x, h0, c0, *matrices, y, gates, c, case.batch_sizes, *codes]


def test_every_op_is_tested_here() -> None:
    names = torch._C._dispatch_get_all_op_names()
    registered = {name.removeprefix("lstm_fused::") for name in names if "lstm_fused::" in name}
    assert registered == set(OPS)


@dtypes
@pytest.mark.parametrize("case", CHECKED)
def test_opcheck_of_the_forward(case: Case, dtype: torch.dtype) -> None:
    for save in (True, False):
        arguments = tuple(forward_arguments(case, dtype, save))
        torch.library.opcheck(torch.ops.lstm_fused.layer_forward.default, arguments)


@dtypes
@pytest.mark.parametrize("case", CHECKED)
def test_opcheck_of_the_op_with_gradients(case: Case, dtype: torch.dtype) -> None:
    arguments = [
        t.clone().requires_grad_() if isinstance(t, Tensor) and t.is_floating_point() else t
        for t in forward_arguments(case, dtype)
    ]
    torch.library.opcheck(torch.ops.lstm_fused.layer.default, tuple(arguments))


@pytest.mark.parametrize("op", ["layer_backward", "layer_backward_"])
@dtypes
@pytest.mark.parametrize("case", CHECKED)
def test_opcheck_of_the_backward(case: Case, dtype: torch.dtype, op: str) -> None:
    overload = getattr(torch.ops.lstm_fused, op).default
    torch.library.opcheck(overload, tuple(backward_arguments(case, dtype)))


def assert_same_form(real: tuple[Tensor, ...], fake: tuple[Tensor, ...]) -> None:
    assert len(real) == len(fake)
    for k, (a, b) in enumerate(zip(real, fake, strict=True)):
        assert (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device), f"output {k}"
        assert a.numel() == 0 or a.stride() == b.stride(), f"output {k}"


def faked(mode: FakeTensorMode, arguments: list[object]) -> list[object]:
    return [mode.from_tensor(a) if isinstance(a, Tensor) else a for a in arguments]


@dtypes
@pytest.mark.parametrize("case", [c for c in cases.LAYER_CASES if not (c.lengths and not c.hx)])
def test_fake_kernels_give_the_form_of_real_ones(case: Case, dtype: torch.dtype) -> None:
    mode = FakeTensorMode()
    forward, backward = torch.ops.lstm_fused.layer_forward, torch.ops.lstm_fused.layer_backward
    for save in (True, False):
        arguments = forward_arguments(case, dtype, save)
        assert_same_form(forward(*arguments), forward(*faked(mode, arguments)))
    for needs in (ALL_NEEDS, 0, *(1 << bit for bit in range(7))):
        arguments = backward_arguments(case, dtype, needs)
        assert_same_form(backward(*arguments), backward(*faked(mode, arguments)))


def test_fake_batch_of_packed_rows_without_states_is_unknown() -> None:
    mode = FakeTensorMode(shape_env=ShapeEnv())
    arguments = forward_arguments(cases.RAGGED_PROJ, torch.float32)
    y, h_n, *_ = torch.ops.lstm_fused.layer_forward(*faked(mode, arguments))
    assert y.shape == (sum(cases.RAGGED_PROJ.lengths), 8)
    assert h_n.shape[0] == 2 and h_n.shape[2] == 4
    assert isinstance(h_n.shape[1], torch.SymInt)


@dtypes
@pytest.mark.parametrize("case", cases.named("prime", "proj_bidirectional", "ragged"))
def test_in_place_backward_gives_the_same_bits(case: Case, dtype: torch.dtype) -> None:
    arguments = backward_arguments(case, dtype)
    gates = arguments[13]
    kept = gates.clone()
    fresh = torch.ops.lstm_fused.layer_backward(*arguments)
    assert torch.equal(gates, kept), "layer_backward must leave the saved gates alone"
    for a, b in zip(fresh, torch.ops.lstm_fused.layer_backward_(*arguments), strict=True):
        assert torch.equal(a, b)


@dtypes
@pytest.mark.parametrize("case", cases.named("prime", "proj_bidirectional", "ragged"))
def test_each_gradient_asked_for_alone(case: Case, dtype: torch.dtype) -> None:
    together = torch.ops.lstm_fused.layer_backward(*backward_arguments(case, dtype))
    bits = (1, 2, 4, *(8, 16, 32, 64) * 2)
    for bit in (1 << k for k in range(7)):
        alone = torch.ops.lstm_fused.layer_backward(*backward_arguments(case, dtype, bit))
        for a, b, own in zip(alone, together, bits, strict=True):
            assert torch.equal(a, b) if own == bit else a.numel() == 0


@dtypes
def test_saved_for_backward_is_four_gates_and_c(dtype: torch.dtype) -> None:
    """[D, N, 4, H] and [D, N, H] in the compute dtype, and nothing where nothing is saved."""
    case = cases.PROJ_BIDIRECTIONAL
    rows = case.D * case.T * case.B
    *_, gates, c = torch.ops.lstm_fused.layer_forward(*forward_arguments(case, dtype))
    assert (gates.numel(), c.numel()) == (rows * 4 * case.H, rows * case.H)
    *_, gates, c = torch.ops.lstm_fused.layer_forward(*forward_arguments(case, dtype, save=False))
    assert gates.untyped_storage().nbytes() == c.untyped_storage().nbytes() == 0


# One argument made wrong: its place, what it becomes, the name that the message must hold.
# Arguments: x 0, h0 1, c0 2, weight_ih 3, weight_hh 4, bias_ih 5, bias_hh 6, weight_hr 7,
# the same reversed 8 to 12, batch_sizes 13, cell 14, variant 15, save 16.
WRONG = [
    (0, torch.zeros(4), "x"),
    (0, torch.zeros(3, 2, 5), r"weight_ih.*(x|\[)"),
    (0, torch.zeros(5, 3, 4, dtype=torch.int32), "dtype|x"),
    (1, torch.zeros(1, 4, 6), "h0"),
    (1, torch.zeros(3, 6), "h0"),
    (1, torch.zeros(2, 3, 6), "h0"),
    (2, torch.zeros(1, 3, 5), "c0"),
    (3, torch.zeros(24, 5), "weight_ih"),
    (3, torch.zeros(23, 4), "weight_ih"),
    (3, torch.zeros(24), "weight_ih"),
    (4, torch.zeros(24, 5), "weight_hh"),
    (4, torch.zeros(22, 6), "weight_hh"),
    (4, torch.zeros(0, 6), "weight_hh|weight_ih"),
    (5, torch.zeros(23), "bias_ih"),
    (6, torch.zeros(6, 4), "bias_hh"),
    (7, torch.zeros(5, 6), "weight_h[hr]"),
    (8, torch.zeros(24, 4), "every direction must have a weight_hh"),
    (13, torch.tensor([5, 5, 5]), "batch_sizes|x"),
    (14, 7, "cell"),
    (15, 99, "variant"),
]


@pytest.mark.parametrize("place,value,word", WRONG, ids=range(len(WRONG)))
def test_wrong_arguments_are_refused_by_name(place: int, value: object, word: str) -> None:
    case = Case("refused", "a valid case to spoil")
    arguments = forward_arguments(case, torch.float32)
    good = torch.ops.lstm_fused.layer_forward(*arguments)
    kept, arguments[place] = arguments[place], value
    with pytest.raises(RuntimeError, match=word):
        torch.ops.lstm_fused.layer_forward(*arguments)
    # The op stays usable.
    arguments[place] = kept
    again = torch.ops.lstm_fused.layer_forward(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(good, again, strict=True))


WRONG_SIZES = (
    torch.tensor([1, 2, 2]),  # grows
    torch.tensor([3, 3, -1]),
    torch.tensor([3, 2, 0]),
    torch.tensor([3, 2, 1]),
    torch.tensor([], dtype=torch.int64),
    torch.tensor([3, 2], dtype=torch.int32),  # right but for its dtype
    torch.tensor([[3, 2]]),
    torch.tensor([2**62, 2**62, 2**62, 2**62, 5]),  # sums to 5 in 64 bits
)


@pytest.mark.parametrize("sizes", WRONG_SIZES, ids=lambda t: str(t.tolist()))
def test_wrong_batch_sizes_are_refused_by_name(sizes: Tensor) -> None:
    case = Case("sizes", "packed rows", T=2, B=3, lengths=(2, 2, 1))
    arguments = forward_arguments(case, torch.float32)
    torch.ops.lstm_fused.layer_forward(*arguments)
    arguments[1] = arguments[2] = None  # They would betray a wrong batch before its sum does.
    arguments[13] = sizes
    with pytest.raises(RuntimeError, match="batch_sizes"):
        torch.ops.lstm_fused.layer_forward(*arguments)


@pytest.mark.parametrize(
    "place", [0, 1, 2, 12, 13, 14], ids=["dy", "dh_n", "dc_n", "y", "gates", "c"]
)
def test_wrong_backward_arguments_are_refused(place: int) -> None:
    case = Case("refused", "a valid case to spoil")
    arguments = backward_arguments(case, torch.float32)
    arguments[place] = torch.zeros(2, 2)
    names = {0: "dy", 1: "dh_n", 2: "dc_n", 12: "y", 13: "gates", 14: "c"}
    with pytest.raises(RuntimeError, match=names[place]):
        torch.ops.lstm_fused.layer_backward(*arguments)


def test_sizes_whose_products_leave_64_bits_are_refused() -> None:
    """Expanded tensors make them without memory."""
    case = Case("refused", "a valid case to spoil")
    arguments = forward_arguments(case, torch.float32)
    arguments[0] = torch.zeros(1, 1, 4).expand(2, 2**58, 4)
    arguments[1] = arguments[2] = None
    with pytest.raises(RuntimeError):
        torch.ops.lstm_fused.layer_forward(*arguments)


# Facts that stand in C++ and in Python.


def test_the_table_of_kernels_is_the_same_on_both_sides() -> None:
    module = _load.load()
    assert [row["name"] for row in module.variants()] == KERNELS


def test_dtype_codes_are_the_same_on_both_sides() -> None:
    text = (CSRC / "common" / "types.h").read_text()
    listed = re.search(r"enum class DType[^{]*\{([^}]*)\}", text)[1]
    codes = {name: int(code) for name, code in re.findall(r"(\w+)\s*=\s*(\d+)", listed)}
    names = {"f32": torch.float32, "f64": torch.float64}
    names |= {"bf16": torch.bfloat16, "f16": torch.float16}
    assert {names[name]: code for name, code in codes.items()} == ops.DTYPE_CODES


def test_needs_bits_are_the_same_on_both_sides() -> None:
    text = (CSRC / "ops" / "ops.h").read_text()
    listed = re.search(r"enum Need[^{]*\{([^}]*)\}", text)[1]
    bits = [int(code) for code in re.findall(r"=\s*(\d+)", listed)]
    assert bits == [
        ops.NEEDS_X,
        ops.NEEDS_H0,
        ops.NEEDS_C0,
        ops.NEEDS_W_IH,
        ops.NEEDS_W_HH,
        ops.NEEDS_BIAS,
        ops.NEEDS_W_HR,
    ]


def test_parts_of_a_code_are_the_same_on_both_sides() -> None:
    text = (CSRC / "ops" / "ops.h").read_text()
    found = re.search(r"kTf32 = (\d+), kBackward = (\d+);", text)
    assert found and (int(found[1]), int(found[2])) == (ops.TF32, ops.BACKWARD)
    assert len(KERNELS) < ops.TF32 == ops.BACKWARD // 2


PAST = len(KERNELS)
GENERIC = KERNELS.index("cpu.generic")


@pytest.mark.parametrize("code", [PAST, ops.TF32 - 1, GENERIC + ops.BACKWARD * (1 + PAST)])
def test_unknown_variants_are_refused(code: int) -> None:
    arguments = forward_arguments(cases.named("one")[0], torch.float32)
    assert arguments[-2] == AUTOMATIC
    arguments[-2] = code
    with pytest.raises(RuntimeError, match=f"unknown variant code {code}"):
        torch.ops.lstm_fused.layer_forward(*arguments)
    arguments = backward_arguments(cases.named("one")[0], torch.float32)
    arguments[-2] = code
    with pytest.raises(RuntimeError, match=f"unknown variant code {code}"):
        torch.ops.lstm_fused.layer_backward(*arguments)


@pytest.mark.parametrize("refused", ["forward", "backward"])
def test_each_pass_runs_by_its_own_part_of_a_code(refused: str) -> None:
    """A variant for another device, or for other machines, says so in its own pass and no other."""
    other = KERNELS.index("cuda.step")
    first, second = (other, GENERIC) if refused == "forward" else (GENERIC, other)
    code = first + ops.BACKWARD * (1 + second)
    forward = forward_arguments(cases.named("one")[0], torch.float32)
    backward = backward_arguments(cases.named("one")[0], torch.float32)
    forward[-2] = backward[-2] = code
    runs = {
        "forward": lambda: torch.ops.lstm_fused.layer_forward(*forward),
        "backward": lambda: torch.ops.lstm_fused.layer_backward(*backward),
    }
    with pytest.raises(RuntimeError, match="cuda.step refuses this layer: it runs on CUDA"):
        runs.pop(refused)()
    for run in runs.values():
        run()


def test_fake_kernels_take_the_arguments_of_the_schema() -> None:
    for op, fake in itertools.chain(
        (("layer_forward", ops._fake_forward), ("layer", ops._fake_forward)),
        (("layer_backward", ops._fake_backward), ("layer_backward_", ops._fake_backward)),
    ):
        schema = getattr(torch.ops.lstm_fused, op).default._schema
        wanted = fake.__code__.co_varnames[: fake.__code__.co_argcount]
        assert tuple(argument.name for argument in schema.arguments) == wanted
