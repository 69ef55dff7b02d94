"""LSTM against torch.nn.LSTM, side by side: construction, forward, mistakes."""

from __future__ import annotations

import inspect
import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

from lstm_fused import compat
from lstm_fused.nn import LSTM
from tests.cases import STACK_CASES, Case, by_module, run_both
from tests.lstm_fused.sidebyside import assert_same, outcome

F64 = {"dtype": torch.float64}


def twins(*args: object, cls: type[nn.Module] = LSTM, **kwargs: object) -> tuple[nn.Module, ...]:
    """Ours and torch's with the same parameters, in float64 unless a dtype is given."""
    kwargs = {**F64, **kwargs}
    torch.manual_seed(1)
    ours = cls(*args, **kwargs)
    torch.manual_seed(1)
    return ours, nn.LSTM(*args, **kwargs)


# ---- construction ---------------------------------------------------------------------------

CONSTRUCTIONS = {
    "plain": ((3, 4), {}),
    "everything": ((3, 4, 2, False, True, 0.5, True, 2), {}),
    "by name": ((), {"input_size": 3, "hidden_size": 4, "proj_size": 1, "num_layers": 3}),
    "no sizes": ((), {}),
    "one size": ((3,), {}),
    "unknown argument": ((3, 4), {"peephole": True}),
    "too many": ((3, 4, 1, True, False, 0.0, False, 0, None, None, None), {}),
    "dropout 1.5": ((3, 4, 2), {"dropout": 1.5}),
    "dropout -1": ((3, 4, 2), {"dropout": -1}),
    "dropout True": ((3, 4, 2), {"dropout": True}),
    "dropout a": ((3, 4, 2), {"dropout": "a"}),
    "dropout of one layer warns": ((3, 4), {"dropout": 0.3}),
    "bias 1": ((3, 4), {"bias": 1}),
    "batch_first 1": ((3, 4), {"batch_first": 1}),
    "bidirectional 1 is accepted": ((3, 4), {"bidirectional": 1}),
    "input_size 3.0": ((3.0, 4), {}),
    "hidden_size 4.0": ((3, 4.0), {}),
    "input_size True is accepted": ((True, 4), {}),
    "input_size 0": ((0, 4), {}),
    "hidden_size -1": ((3, -1), {}),
    "num_layers 0": ((3, 4, 0), {}),
    "num_layers 2.0": ((3, 4, 2.0), {}),
    "proj_size -1": ((3, 4), {"proj_size": -1}),
    "proj_size 4": ((3, 4), {"proj_size": 4}),
    "integers": ((3, 4), {"dtype": torch.int32}),
    "complex": ((3, 4), {"dtype": torch.complex64}),
    "meta": ((3, 4), {"device": "meta", "bidirectional": True}),
    "device": ((3, 4), {"device": "nowhere"}),
}


@pytest.mark.parametrize("name", CONSTRUCTIONS)
@pytest.mark.parametrize("cls", [LSTM, compat.LSTM])
def test_constructor(name: str, cls: type[nn.Module]) -> None:
    args, kwargs = CONSTRUCTIONS[name]
    got, wanted = (outcome(lambda m=m: m(*args, **kwargs)) for m in (cls, nn.LSTM))
    assert got == wanted
    if wanted.error is None:
        torch.manual_seed(3)
        ours = cls(*args, **kwargs)
        torch.manual_seed(3)
        theirs = nn.LSTM(*args, **kwargs)
        assert repr(ours) == repr(theirs)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
            assert a.is_meta or torch.equal(a, b)
        plain = {k: v for k, v in vars(theirs).items() if isinstance(v, (bool, int, float, str))}
        assert {k: vars(ours)[k] for k in plain} == plain
        for key in ("_flat_weights_names", "_all_weights"):
            assert getattr(ours, key) == getattr(theirs, key)
        assert len(ours.all_weights) == len(theirs.all_weights)


def test_public_names_are_there() -> None:
    ours, theirs = twins(3, 4)
    assert set(dir(theirs)) <= set(dir(ours))
    assert list(inspect.signature(LSTM.forward).parameters) == ["self", "input", "hx"]
    assert isinstance(ours, nn.RNNBase) and not isinstance(ours, nn.LSTM)
    assert isinstance(compat.LSTM(3, 4), nn.LSTM)
    ours.flatten_parameters()
    x, hx = torch.randn(5, 2, 3, **F64), (torch.randn(1, 2, 4, **F64),) * 2
    ours.check_forward_args(x, hx, None)
    assert ours.get_expected_cell_size(x, None) == (1, 2, 4)
    assert_same(*(m.permute_hidden(hx, torch.tensor([1, 0])) for m in (ours, theirs)))


# ---- forward --------------------------------------------------------------------------------

STACKS = [
    {"num_layers": layers, "bidirectional": two, "proj_size": p, "bias": bias, "batch_first": bf}
    for layers, two, p, bias, bf in itertools.product(
        (1, 2), (False, True), (0, 2), (True, False), (False, True)
    )
]


@pytest.mark.parametrize("case", STACK_CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_worse_than_torch(case: Case, dtype: torch.dtype) -> None:
    run_both(case, dtype, by_module(LSTM)).check()


@pytest.mark.parametrize("given_states", [False, True])
@pytest.mark.parametrize("kwargs", STACKS, ids=str)
def test_every_form_of_input(kwargs: dict, given_states: bool) -> None:
    ours, theirs = twins(3, 4, **kwargs)
    cells = kwargs["num_layers"] * (2 if kwargs["bidirectional"] else 1)
    h = torch.randn(cells, 4, kwargs["proj_size"] or 4, **F64)
    c = torch.randn(cells, 4, 4, **F64)
    x = torch.randn(4, 4, 3, **F64)
    sequences = [torch.randn(n, 3, **F64) for n in (2, 5, 1, 5)]
    alone = (h[:, 0], c[:, 0])
    for hx, input in (
        ((h, c), x),
        ([h, c], x[:1] if not kwargs["batch_first"] else x[:, :1]),  # T = 1
        ((h[:, :0], c[:, :0]), x[:0] if kwargs["batch_first"] else x[:, :0]),  # B = 0
        (alone, x[0]),  # unbatched
        ((h, c), pack_sequence(sequences, enforce_sorted=False)),
        ((h, c), pack_sequence(sorted(sequences, key=len, reverse=True))),
        ((h, c), torch.randn(1, 1, 3, **F64).expand(4, 4, 3)),
        ((h, c), torch.randn(3, 4, 4, **F64).permute(2, 1, 0)),
        ((h.transpose(0, 1).contiguous().transpose(0, 1), c[:, :1].expand(-1, 4, -1)), x),
    ):
        hx = hx if given_states else None
        results = [module(input, hx) for module in (ours, theirs)]
        assert_same(*results)
        assert all(isinstance(r[1], tuple) for r in results)


@st.composite
def any_case(draw: st.DrawFn) -> Case:
    sizes = st.integers(1, 9)
    hidden = draw(sizes)
    lengths = draw(st.none() | st.lists(sizes, min_size=1, max_size=5))
    if lengths is not None:
        lengths = tuple(sorted(lengths, reverse=True))
    return Case(
        f"random {draw(st.integers(0, 999))}",
        "drawn by hypothesis",
        T=lengths[0] if lengths else draw(sizes),
        B=len(lengths) if lengths else draw(st.integers(0, 5)),
        I=draw(sizes),
        H=hidden,
        P=draw(st.integers(0, hidden - 1)),
        L=draw(st.integers(1, 3)),
        bidirectional=draw(st.booleans()),
        bias=draw(st.booleans()),
        hx=draw(st.booleans()),
        lengths=lengths,
        # Not where gates saturate: s (1 - s) of a saved s cancels to any digit for everybody,
        # plain PyTorch too, and a yardstick of two numbers may win by luck.
        scale=draw(st.sampled_from([1.0, 1e-3])),
    )


@given(case=any_case(), dtype=st.sampled_from([torch.float32, torch.float64]))
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_random_configurations(case: Case, dtype: torch.dtype) -> None:
    torch.set_num_threads(1)  # A thousand small steps: threads on a busy machine would only wait.
    run_both(case, dtype, by_module(LSTM)).check()


def test_states_do_not_alias_the_output() -> None:
    """Writing into what came back must not change anything else that came back."""
    for kwargs in ({}, {"bidirectional": True}, {"proj_size": 2}, {"num_layers": 2}):
        ours, _ = twins(3, 4, **kwargs)
        with torch.no_grad():
            output, (h_n, c_n) = ours(torch.randn(1, 2, 3, **F64))
        before = output.clone(), c_n.clone()
        h_n.zero_()
        assert torch.equal(output, before[0]) and torch.equal(c_n, before[1])


def test_dropout_draws_torchs_masks() -> None:
    ours, theirs = twins(3, 4, 3, dropout=0.5, bidirectional=True)
    x = torch.randn(6, 2, 3, **F64)
    packed = pack_sequence([torch.randn(n, 3, **F64) for n in (4, 2)])
    for input in (x, packed):
        results = []
        for module in (ours, theirs):
            torch.manual_seed(7)
            results.append(module(input))
        assert_same(*results)
    assert_same(ours.eval()(x), theirs.eval()(x))
    ours.train().dropout = theirs.train().dropout = 1.0  # Changed afterwards: takes effect.
    assert_same(ours(x), theirs(x))


def test_nan_and_infinity_pass_through() -> None:
    ours, theirs = twins(3, 4)
    for bad in (float("nan"), float("inf"), -float("inf")):
        x = torch.randn(5, 2, 3, **F64)
        x[2, 1, 0] = bad
        c = torch.full((1, 2, 4), -bad, **F64)
        hx = torch.randn(1, 2, 4, **F64), c
        assert_same(ours(x), theirs(x))
        assert_same(ours(x, hx), theirs(x, hx))


def test_complex() -> None:
    ours, theirs = twins(3, 4, dtype=torch.complex128)
    x = torch.randn(5, 2, 3, dtype=torch.complex128)
    got, wanted = ours(x), theirs(x)
    for a, b in zip((got[0], *got[1]), (wanted[0], *wanted[1]), strict=True):
        assert_same(torch.view_as_real(a), torch.view_as_real(b))


# ---- mistakes -------------------------------------------------------------------------------


def _ones(*shape: int, **kwargs: object) -> torch.Tensor:
    return torch.ones(*shape, **{**F64, **kwargs})


STATES = (_ones(1, 2, 4), _ones(1, 2, 4))
X = _ones(5, 2, 3)
PACKED = pack_sequence([_ones(3, 3), _ones(2, 3)])
WIDE = pack_sequence([_ones(3, 7), _ones(2, 7)])

# torch's words are good: ours are the same ones.
SAME = {
    "4-D": (_ones(1, 5, 2, 3), None),
    "1-D": (_ones(3), None),
    "float32": (X.float(), None),
    "integers": (X.long(), None),
    "width": (_ones(5, 2, 4), None),
    "width, unbatched": (_ones(5, 4), None),
    "T = 0": (_ones(0, 2, 3), None),
    "T = 0, unbatched": (_ones(0, 3), None),
    "T = B = 0": (_ones(0, 0, 3), None),
    "h of another B": (X, (_ones(1, 3, 4), _ones(1, 2, 4))),
    "c of another B": (X, (_ones(1, 2, 4), _ones(1, 3, 4))),
    "h of another H": (X, (_ones(1, 2, 5), _ones(1, 2, 5))),
    "h of two layers": (X, (_ones(2, 2, 4), _ones(2, 2, 4))),
    "2-D states": (X, (_ones(1, 4), _ones(1, 4))),
    "2-D h": (X, (_ones(1, 4), _ones(1, 2, 4))),
    "unbatched, 3-D states": (X[:, 0], STATES),
    "unbatched, states of another H": (X[:, 0], (_ones(1, 5), _ones(1, 5))),
    "three states": (X, (*STATES, STATES[0])),
    "meta input": (X.to("meta"), None),
    "meta states": (X, tuple(s.to("meta") for s in STATES)),
}

# torch's words are bad, or there is no complaint at all: what ours say.
BETTER = {
    "no tensor": ([1.0], None, TypeError, "input must be a Tensor, got list"),
    "None": (None, None, TypeError, "input must be a Tensor, got NoneType"),
    "sparse": (X.to_sparse(), None, ValueError, "input must be a strided tensor"),
    "nested": (
        torch.nested.nested_tensor([_ones(2, 3), _ones(3, 3)], layout=torch.jagged),
        None,
        ValueError,
        "PackedSequence",
    ),
    "a tensor for hx": (X, STATES[0], TypeError, "hx must be a pair .*, got Tensor"),
    "one state": (X, STATES[:1], RuntimeError, "lstm expects two hidden states"),
    "a state is None": (X, (STATES[0], None), TypeError, r"hx\[1\] must be a Tensor, got NoneType"),
    "float32 h": (
        X,
        (STATES[0].float(), STATES[1]),
        RuntimeError,
        r"hx\[0\] must have the dtype of input, torch.float64, got torch.float32",
    ),
    "float32 c": (X, (STATES[0], STATES[1].float()), RuntimeError, r"hx\[1\] must have the dtype"),
    "packed width": (WIDE, None, RuntimeError, r"input_size. Expected 3, got 7"),
    "packed float32": (PACKED.float(), None, ValueError, "does not match weight dtype"),
    "packed 3-D": (
        PackedSequence(_ones(5, 1, 3), torch.tensor([2, 2, 1])),
        None,
        RuntimeError,
        "input must have 2 dimensions, got 3",
    ),
    "packed, h of another B": (
        PACKED,
        (_ones(1, 3, 4), _ones(1, 3, 4)),
        RuntimeError,
        r"Expected hidden\[0\] size \(1, 2, 4\), got \[1, 3, 4\]",
    ),
    "packed unsorted, h of another B": (
        pack_sequence([_ones(2, 3), _ones(3, 3)], enforce_sorted=False),
        (_ones(1, 3, 4), _ones(1, 3, 4)),
        RuntimeError,
        r"Expected hidden\[0\] size \(1, 2, 4\), got \[1, 3, 4\]",
    ),
    "packed, wrong sum": (
        PackedSequence(_ones(9, 3), torch.tensor([2, 2, 1])),
        None,
        RuntimeError,
        "batch_sizes must sum to the number of rows of input, 9, got 5",
    ),
    "packed, rising": (
        PackedSequence(_ones(5, 3), torch.tensor([1, 2, 2])),
        None,
        RuntimeError,
        r"batch_sizes must be positive and in descending order.*got \[1, 2, 2\]",
    ),
    "packed, empty steps": (
        PackedSequence(_ones(2, 3), torch.tensor([1, 1] + [0] * 8)),
        None,
        RuntimeError,
        r"got \[1, 1, 0, 0, 0, 0, 0, 0, ...\]",
    ),
    "packed, int32 sizes": (
        PackedSequence(_ones(5, 3), torch.tensor([2, 2, 1], dtype=torch.int32)),
        None,
        RuntimeError,
        "batch_sizes must be a 1-D int64 tensor on the CPU",
    ),
}


@pytest.mark.parametrize("cls", [LSTM, compat.LSTM])
@pytest.mark.parametrize("name", SAME)
def test_torchs_words(name: str, cls: type[nn.Module]) -> None:
    ours, theirs = twins(3, 4, cls=cls)
    input, hx = SAME[name]
    got, wanted = (outcome(lambda m=m: m(input, hx)) for m in (ours, theirs))
    assert wanted.error is not None
    assert got == wanted
    assert_same(ours(X), theirs(X))  # The module stays usable.


@pytest.mark.parametrize("name", BETTER)
def test_better_words(name: str) -> None:
    ours, theirs = twins(3, 4)
    input, hx, error, words = BETTER[name]
    with pytest.raises(error, match=words):
        ours(input, hx)
    assert_same(ours(X), theirs(X))


def test_broken_weights_are_named() -> None:
    module = LSTM(3, 4, num_layers=2, bidirectional=True)
    x = torch.ones(5, 2, 3)
    for name, bad, words in (
        ("weight_hh_l1_reverse", torch.ones(16, 5), r"weight_hh_l1_reverse must be \[16, 4\], got"),
        ("bias_ih_l0", torch.ones(15), r"bias_ih_l0 must be \[16\], got \[15\]"),
        ("weight_ih_l1", torch.ones(16, 8).double(), "weight_ih_l1 must have the dtype of input"),
        ("bias_hh_l1", torch.ones(16, device="meta"), "parameter tensor bias_hh_l1 at meta"),
        ("weight_hh_l0", torch.ones(15, 4), "weight_hh_l0 must be"),
        ("weight_ih_l0", torch.ones(16), "weight_ih_l0 must be"),
    ):
        kept = getattr(module, name)
        setattr(module, name, nn.Parameter(bad))
        with pytest.raises(RuntimeError, match=words):
            module(x)
        setattr(module, name, kept)
        module(x)
    module.bias_hh_l0 = None
    with pytest.raises(TypeError, match="bias_hh_l0 must be a Tensor, got NoneType"):
        module(x)


def test_packed_sequences_from_lengths() -> None:
    ours, theirs = twins(3, 4, bidirectional=True, batch_first=True)
    x = torch.randn(3, 6, 3, **F64)
    for lengths, ordered in (([6, 4, 1], True), ([2, 6, 3], False)):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=ordered)
        assert_same(ours(packed), theirs(packed))
