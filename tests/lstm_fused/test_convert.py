"""convert and restore: the same parameters in other modules, and nothing else changed."""

from __future__ import annotations

import copy
import gc
import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from lstm_fused import compat
from lstm_fused.convert import convert, restore
from lstm_fused.nn import LSTM, LSTMCell
from tests.close import assert_no_worse
from tests.lstm_fused.sidebyside import assert_same

F64 = {"dtype": torch.float64}


class Recognizer(nn.Module):
    """Convolutions, two LSTM layers, a classifier: the shape of a text or speech recogniser."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv1d(3, 6, 3, bias=False), nn.BatchNorm1d(6), nn.ReLU())
        self.rnn = nn.LSTM(6, 5, 2, bidirectional=True, batch_first=True)
        self.out = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(self.conv(x.transpose(1, 2)).transpose(1, 2))[0])


class Translator(nn.Module):
    """An encoder, a decoder cell stepped by hand, an embedding tied to the output."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.encoder = nn.LSTM(6, 6, proj_size=2, batch_first=True)
        self.bridge = nn.Linear(2, 6)
        self.cells = nn.ModuleList([nn.LSTMCell(6, 6), nn.LSTMCell(6, 6, bias=False)])
        self.gru = nn.GRU(6, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embedding((x[:, :, 0] * 5).long().abs() % 11)
        _, (h, c) = self.encoder(tokens)
        states = [(self.bridge(h[0]), c[0])] * 2
        outputs = []
        for step in self.gru(tokens)[0].unbind(1):
            for index, cell in enumerate(self.cells):
                states[index] = cell(step, states[index])
                step = states[index][0]
            outputs.append(step @ self.embedding.weight.t())
        return torch.stack(outputs, 1)


class Agent(nn.Module):
    """An actor and a critic that share one LSTM, and one in a dict, as in recurrent PPO."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = nn.ModuleDict({"rnn": nn.LSTM(3, 4, batch_first=True)})
        self.critic = self.actor["rnn"]
        self.value = nn.ModuleDict({"rnn": nn.LSTM(3, 4, batch_first=True)})

    def forward(self, x: Tensor) -> Tensor:
        return self.actor["rnn"](x)[0] + self.critic(x)[0] * self.value["rnn"](x)[0]


def _counts(model: nn.Module) -> dict[type, int]:
    """How many LSTMs and cells of each class there are."""
    found: dict[type, int] = {}
    for module in model.modules():
        if isinstance(module, (nn.LSTM, nn.LSTMCell, LSTM, LSTMCell)):
            found[type(module)] = found.get(type(module), 0) + 1
    return found


@pytest.mark.parametrize("build", [Recognizer, Translator, Agent])
def test_models_train_on_as_before(build: Callable[[], nn.Module]) -> None:
    """An optimizer made before converting; five steps; then back again, and five more."""
    torch.set_num_threads(1)  # A hundred small steps: threads on a busy machine would only wait.
    torch.manual_seed(3)
    model = build().double()
    plain = copy.deepcopy(model)
    optimizers = [torch.optim.Adam(m.parameters(), 1e-2) for m in (model, plain)]
    kept = dict(model.named_parameters())
    before = _counts(model)

    assert convert(model) is model
    ours = {nn.LSTM: LSTM, nn.LSTMCell: LSTMCell}
    assert _counts(model) == {ours[cls]: count for cls, count in before.items()}
    for _ in range(2):
        assert list(dict(model.named_parameters())) == list(kept)
        assert all(p is kept[name] for name, p in model.named_parameters())
        for _ in range(5):
            x = torch.randn(2, 7, 3, **F64)
            for m, optimizer in zip((model, plain), optimizers, strict=True):
                optimizer.zero_grad()
                m(x).square().mean().backward()
            for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
                assert (a.grad is None) == (b.grad is None), name
                if a.grad is not None:
                    assert_no_worse(f"grad {name}", a.grad, b.grad, b.grad)
            for optimizer in optimizers:
                optimizer.step()
            model.load_state_dict(plain.state_dict())  # Each step by itself: rounding adds up.
        assert restore(model) is model and _counts(model) == before


def test_shared_modules_stay_shared() -> None:
    agent = Agent()
    shared = agent.critic
    convert(agent)
    assert agent.critic is agent.actor["rnn"] and agent.critic is not shared
    assert type(agent.critic) is LSTM and type(agent.value["rnn"]) is LSTM


@pytest.mark.parametrize(
    "build", [lambda: nn.LSTM(3, 4, 2, dropout=0.5, **F64), lambda: nn.LSTMCell(3, 4, **F64)]
)
def test_a_bare_module_gives_its_replacement(build: Callable[[], nn.Module]) -> None:
    theirs = build().eval()
    x = torch.randn(5, 3, **F64)
    for subclass in (False, True):
        ours = convert(theirs, subclass=subclass)
        assert type(theirs) in (nn.LSTM, nn.LSTMCell) and type(ours) is not type(theirs)
        assert isinstance(ours, type(theirs)) == subclass
        assert repr(ours) == repr(theirs) and ours.training is False
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert a is b
        assert_same(ours(x), theirs(x))
        again = restore(ours)
        assert type(again) is type(theirs)
        assert_same(again(x), theirs(x))
    # A replacement's own parameter is its own.
    name = next(iter(dict(ours.named_parameters())))
    setattr(ours, name, nn.Parameter(torch.zeros_like(getattr(ours, name))))
    assert getattr(theirs, name) is not getattr(ours, name)


def test_what_is_ours_already_stays() -> None:
    model = nn.Sequential(LSTM(3, 4))
    kept = model[0]
    assert convert(model)[0] is kept
    assert convert(kept) is kept
    plain = nn.Sequential(nn.LSTM(3, 4), nn.GRU(4, 4), nn.Linear(4, 4))
    modules = list(plain)
    assert restore(plain) is plain and list(plain) == modules
    assert convert(plain)[1] is modules[1]


def test_between_our_two_classes() -> None:
    model = convert(nn.Sequential(nn.LSTM(3, 4), nn.LSTMCell(3, 4)))
    convert(model, subclass=True)
    assert [type(m) for m in model] == [compat.LSTM, compat.LSTMCell]
    convert(model)
    assert [type(m) for m in model] == [LSTM, LSTMCell]


def test_hooks_and_flags_come_along() -> None:
    model = nn.Sequential(nn.LSTM(3, 4, **F64))
    calls: list[str] = []
    lstm = model[0]
    lstm.bias_hh_l0.requires_grad_(False)
    lstm.note = "kept"
    lstm.register_buffer("scale", torch.ones(2))
    handle = lstm.register_forward_hook(lambda *_: calls.append("forward"))
    lstm.register_full_backward_hook(lambda *_: calls.append("backward"))
    lstm.register_load_state_dict_pre_hook(lambda m, *_: calls.append(type(m).__name__))
    lstm.bias_ih_l0.register_hook(lambda _: calls.append("bias"))
    convert(model)
    del lstm
    gc.collect()

    x = torch.randn(5, 2, 3, **F64, requires_grad=True)
    model(x)[0].sum().backward()
    model.load_state_dict(model.state_dict())
    assert sorted(calls) == ["LSTM", "backward", "bias", "forward"]
    assert model[0].bias_hh_l0.grad is None and model[0].note == "kept"
    assert "0.scale" in model.state_dict()
    handle.remove()
    model(x)
    assert calls.count("forward") == 1


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize(
    "reparametrize",
    [
        lambda m: parametrizations.weight_norm(m, "weight_hh_l0"),
        lambda m: parametrizations.orthogonal(m, "weight_ih_l0"),
        lambda m: nn.utils.weight_norm(m, "weight_hh_l0"),
        lambda m: prune.random_unstructured(m, "weight_hh_l0", 0.5),
    ],
)
def test_reparametrized_weights(reparametrize: Callable[[nn.Module], object]) -> None:
    model, plain = (nn.Sequential(nn.LSTM(3, 4, **F64)) for _ in range(2))
    plain.load_state_dict(model.state_dict())
    for m in (model, plain):
        torch.manual_seed(3)
        reparametrize(m[0])
    convert(model)
    assert isinstance(model[0], LSTM)
    x = torch.randn(5, 2, 3, **F64)
    if parametrize.is_parametrized(model[0]):  # The older ways cannot be copied in torch either.
        assert_same(copy.deepcopy(model)(x), plain(x))
    assert_same(model(x), plain(x))
    model(x)[0].sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    restore(model)
    assert isinstance(model[0], nn.LSTM)
    assert_same(model(x), plain(x))
    if parametrize.is_parametrized(model[0]):
        convert(model)
        name = next(iter(model[0].parametrizations))
        parametrize.remove_parametrizations(model[0], name)
        assert type(model[0]) is LSTM


class Peephole(nn.LSTM):
    """A user's own: what it does we cannot know."""

    def forward(self, input: Tensor, hx: object = None) -> object:
        output, hidden = super().forward(input, hx)
        return 2 * output, hidden


def test_what_is_left_alone_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    patched = nn.LSTM(3, 4)
    patched.forward = lambda x: x
    compiled = nn.LSTM(3, 4)
    compiled.compile(backend="eager")
    model = nn.ModuleDict(
        {"own": Peephole(3, 4), "patched": patched, "compiled": compiled, "rnn": nn.LSTM(3, 4)}
    )
    with caplog.at_level(logging.INFO, logger="lstm_fused"):
        convert(model)
    assert [type(model[k]) for k in ("own", "patched", "compiled")] == [Peephole, nn.LSTM, nn.LSTM]
    assert caplog.messages == [
        "1 replaced by lstm_fused: rnn (LSTM)",
        "left as is: own (Peephole): "
        "it is of a class derived from LSTM, with a behaviour of its own; "
        "patched (LSTM): its forward was replaced by a function of its own; "
        "compiled (LSTM): its call is compiled; convert before .compile()",
    ]
    assert all(record.levelno == logging.INFO for record in caplog.records)
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="lstm_fused"):
        restore(model)
        restore(nn.Linear(2, 2))
        restore(convert(nn.LSTM(3, 4)))
    assert caplog.messages == [
        "1 replaced by torch.nn: rnn (LSTM)",
        "0 replaced by torch.nn: nothing found",
        "1 replaced by lstm_fused: (the model itself) (LSTM)",
        "1 replaced by torch.nn: (the model itself) (LSTM)",
    ]


def test_a_model_whose_lstms_all_stay_gets_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    convert(nn.ModuleDict({"own": Peephole(3, 4)}))
    (record,) = caplog.records  # INFO is not captured
    assert record.levelno == logging.WARNING
    assert "left as is: own (Peephole)" in record.message


def test_a_model_must_be_a_module() -> None:
    for function in (convert, restore):
        with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got list"):
            function([nn.LSTM(3, 4)])
