"""What a module must live through: copies, checkpoints, reparametrization, hooks, wrappers."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.rnn import pack_sequence

from lstm_fused import compat, functional
from lstm_fused.nn import LSTM, LSTMCell
from tests.close import assert_no_worse
from tests.lstm_fused.nn.test_lstm import F64, twins
from tests.lstm_fused.sidebyside import assert_same

KWARGS = {"num_layers": 2, "bidirectional": True, "proj_size": 2}


def inputs() -> Tensor:
    return torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(2), **F64)


def assert_same_gradients(ours: nn.Module, theirs: nn.Module) -> None:
    """Run both, backward too: outputs and every parameter's gradient, by the one rule."""
    results = [module(inputs()) for module in (ours, theirs)]
    assert_same(*results)
    for module, (y, _) in zip((ours, theirs), results, strict=True):
        module.zero_grad()
        y.square().sum().backward()
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if b.grad is not None:
            assert_no_worse(name, a.grad, b.grad, b.grad)


# ---- copies and checkpoints -----------------------------------------------------------------


def _saved(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("cls", [LSTM, compat.LSTM])
@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), _saved]
)
def test_copies(copied: object, cls: type[nn.Module]) -> None:
    ours, theirs = twins(3, 4, cls=cls, **KWARGS)
    ours(inputs())
    again = copied(ours)
    assert type(again) is cls and list(again.state_dict()) == list(theirs.state_dict())
    assert_same_gradients(again, theirs)


@pytest.mark.parametrize("assign", [False, True])
def test_state_dicts_go_both_ways(assign: bool) -> None:
    ours, theirs = twins(3, 4, **KWARGS)
    fresh = LSTM(3, 4, **KWARGS, **F64)
    fresh.load_state_dict(theirs.state_dict(), assign=assign)
    assert_same_gradients(fresh, theirs)
    back = nn.LSTM(3, 4, **KWARGS, **F64)
    back.load_state_dict(ours.state_dict(), assign=assign)
    assert_same_gradients(ours, back)


def test_meta_then_real() -> None:
    _, theirs = twins(3, 4, **KWARGS)
    ours = LSTM(3, 4, **KWARGS, **F64, device="meta")
    y, (h, c) = ours(inputs().to("meta"))
    assert y.is_meta and y.shape == (5, 2, 4) and h.shape == (4, 2, 2) and c.shape == (4, 2, 4)
    ours.to_empty(device="cpu")
    torch.manual_seed(1)
    ours.reset_parameters()
    assert_same_gradients(ours, theirs)
    other = LSTM(3, 4, **KWARGS, **F64, device="meta")
    other.load_state_dict(theirs.state_dict(), assign=True)
    assert_same_gradients(other, theirs)


def test_moves_between_dtypes() -> None:
    ours, _ = twins(3, 4)
    for move, dtype in (("float", torch.float32), ("bfloat16", torch.bfloat16), ("half", None)):
        getattr(ours, move)()
        assert ours(inputs().to(dtype or torch.float16))[0].dtype is (dtype or torch.float16)
    with pytest.raises(ValueError, match="does not match weight dtype"):
        ours(inputs())


# ---- weights that are not plain parameters ---------------------------------------------------


class _DropConnect(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return nn.functional.dropout(weight, 0.5, self.training)


REPARAMETRIZED = {
    "weight_norm": lambda m: parametrizations.weight_norm(m, "weight_hh_l0"),
    "old weight_norm": lambda m: nn.utils.weight_norm(m, "weight_hh_l0"),
    "spectral_norm": lambda m: parametrizations.spectral_norm(m, "weight_ih_l0"),
    "orthogonal": lambda m: parametrizations.orthogonal(m, "weight_ih_l0"),
    "prune": lambda m: prune.random_unstructured(m, "weight_hh_l0", 0.5),
    "frozen": lambda m: m.weight_hh_l0.requires_grad_(False),
    "all frozen but one": lambda m: [p.requires_grad_(p is m.bias_hh_l0) for p in m.parameters()],
    "tied biases": lambda m: setattr(m, "bias_hh_l0", m.bias_ih_l0),
    "assigned": lambda m: setattr(m, "weight_hh_l0", nn.Parameter(torch.ones(16, 4, **F64))),
    "data": lambda m: setattr(m.weight_hh_l0, "data", torch.ones(16, 4, **F64)),
    "in place": lambda m: nn.init.constant_(m.bias_ih_l0[4:8], 1.0),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("name", REPARAMETRIZED)
def test_weights_are_read_at_every_call(name: str) -> None:
    ours, theirs = twins(3, 4)
    for module in (ours, theirs):
        module(inputs())  # Whatever is cached is stale from here on.
        torch.manual_seed(5)
        REPARAMETRIZED[name](module)
        # In training spectral_norm iterates once a read, and nn.LSTM reads a weight three times.
        module.eval()
    results = []
    for module in (ours, theirs):
        y, _ = module(inputs())
        leaves = [p for p in module.parameters() if p.requires_grad]
        results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    for index, (a, b) in enumerate(zip(*results, strict=True)):
        assert_no_worse(f"{name} {index}", a, b, b.detach())


def test_drop_connect_draws_once_per_call() -> None:
    ours, theirs = twins(3, 4)
    parametrize.register_parametrization(ours, "weight_hh_l0", _DropConnect())
    torch.manual_seed(6)
    got = ours(inputs())
    torch.manual_seed(6)
    dropped = nn.functional.dropout(theirs.weight_hh_l0, 0.5)
    assert_same(got, functional_call(theirs, {"weight_hh_l0": dropped}, (inputs(),)))
    assert not torch.equal(ours(inputs())[0], got[0])
    got[0].sum().backward()
    assert ours.parametrizations.weight_hh_l0.original.grad is not None


def test_weights_tied_across_layers_and_directions() -> None:
    ours, theirs = twins(4, 4, 2)
    for module in (ours, theirs):
        module.weight_hh_l1, module.weight_ih_l1 = module.weight_hh_l0, module.weight_ih_l0
    x = torch.randn(5, 2, 4, **F64)
    assert_same(ours(x), theirs(x))
    for module in (ours, theirs):
        module(x)[0].square().sum().backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert_no_worse(name, a.grad, b.grad, b.grad)


def test_functional_call_and_ensembles() -> None:
    ours, theirs = twins(3, 4)
    doubled = {name: 2 * p for name, p in theirs.named_parameters()}
    assert_same(*(functional_call(m, doubled, (inputs(),)) for m in (ours, theirs)))
    models = [LSTM(3, 4, **F64) for _ in range(3)]
    params, buffers = stack_module_state(models)

    def one(p: dict, b: dict, x: Tensor) -> Tensor:
        return functional_call(ours, (p, b), (x,))[0]

    all_at_once = vmap(one, in_dims=(0, 0, None))(params, buffers, inputs())
    for index, model in enumerate(models):
        alone = model(inputs())[0].detach()
        assert_no_worse(f"model {index}", all_at_once[index], alone, alone)


# ---- hooks and wrappers ----------------------------------------------------------------------


def test_hooks_see_what_torchs_see() -> None:
    seen: dict[nn.Module, list] = {}
    modules = twins(3, 4)
    x = inputs().requires_grad_()
    for module in modules:
        log = seen.setdefault(module, [])
        module.register_forward_pre_hook(lambda m, args, log=log: log.append(args))
        module.register_forward_hook(lambda m, args, out, log=log: log.append(out))
        module.register_full_backward_hook(lambda m, gi, go, log=log: log.append((gi, go)))
        y, (h, c) = module(x)
        (y.sum() + c.sum()).backward()
    ours, theirs = (seen[module] for module in modules)
    for a, b in zip(ours, theirs, strict=True):
        assert_same(a, b, "hook")


@pytest.fixture
def gloo(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("gloo")
def test_distributed_data_parallel() -> None:
    ours, theirs = twins(3, 4, **KWARGS)
    wrapped = [nn.parallel.DistributedDataParallel(m) for m in (ours, theirs)]
    assert_same_gradients(*wrapped)


@pytest.mark.usefixtures("gloo")
def test_fully_sharded_data_parallel() -> None:
    from torch.distributed.fsdp import fully_shard

    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    ours, theirs = twins(3, 4)
    fully_shard(ours, mesh=mesh)
    assert_same(ours(inputs()), theirs(inputs()))
    for module in (ours, theirs):
        module(inputs())[0].square().sum().backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert_no_worse(name, a.grad.full_tensor(), b.grad, b.grad)


def test_modules_that_look_like_sb3s() -> None:
    """Code that asks isinstance(m, nn.LSTM), as sb3-contrib does, gets compat.LSTM."""

    def process_sequence(lstm: nn.Module, x: Tensor) -> Tensor:
        is_lstm = isinstance(lstm, nn.LSTM)
        state = torch.zeros(lstm.num_layers, 2, lstm.hidden_size, **F64)
        output, hidden = lstm(x, (state, state) if is_lstm else state)
        return output

    ours, theirs = twins(3, 4, cls=compat.LSTM)
    assert_same(process_sequence(ours, inputs()), process_sequence(theirs, inputs()))


# ---- autocast and compile ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", ["padded", "unbatched", "packed"])
def test_autocast(form: str, dtype: torch.dtype) -> None:
    """float32 goes in and the autocast dtype comes out, forward and backward, in every form."""
    module = LSTM(3, 4, num_layers=2, bidirectional=True)
    x = inputs().float()
    packed = pack_sequence([x[:4, 0], x[:2, 1]])
    input = {"padded": x, "unbatched": x[:, 0], "packed": packed}[form]
    states = torch.zeros(4, 2, 4), torch.zeros(4, 2, 4)
    if form == "unbatched":
        states = states[0][:, 0], states[1][:, 0]
    with torch.autocast("cpu", dtype):
        for hx in (None, states):
            y, (h, c) = module(input, hx)
            y = y.data if form == "packed" else y
            assert {y.dtype, h.dtype, c.dtype} == {dtype}
        assert torch.is_autocast_enabled("cpu")
    (y.sum() + c.sum()).backward()
    assert all(p.grad.dtype is torch.float32 for p in module.parameters())
    # As the module itself does in that dtype.
    same = copy.deepcopy(module).to(dtype)
    again = same(input.to(dtype), tuple(s.to(dtype) for s in states))[0]
    assert torch.equal(again.data if form == "packed" else again, y)


def test_autocast_leaves_float64_alone() -> None:
    ours, theirs = twins(3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        got = ours(inputs())
        with pytest.raises(ValueError, match="does not match weight dtype"):
            ours(inputs().float())
    assert_same(got, theirs(inputs()))


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("cls", [LSTM, compat.LSTM])
def test_a_trace_is_torchs_own(cls: type[nn.Module], grad: bool) -> None:
    """It generalises, differentiates, and loads where nobody knows us."""
    module = cls(3, 4, num_layers=2, bidirectional=True, **F64)
    parametrizations.weight_norm(module, "weight_hh_l0")
    with torch.set_grad_enabled(grad):
        traced = torch.jit.trace(module, (inputs(),))
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    x = torch.randn(9, 7, 3, requires_grad=True, **F64)
    want = module(x)
    got = torch.jit.load(file)(x)
    assert_same(got, want)
    weight = torch.randn_like(want[0])
    assert_same(*(torch.autograd.grad(y[0], x, weight)[0] for y in (got, want)))
    assert "lstm_fused::" not in str(traced.inlined_graph)


def test_a_traced_cell_is_torchs_own() -> None:
    cell = LSTMCell(3, 4, **F64)
    x, states = inputs()[0], (torch.randn(2, 4, **F64), torch.randn(2, 4, **F64))
    traced = torch.jit.trace(cell, (x, states))
    assert_same(
        traced(x[:1], (states[0][:1], states[1][:1])), cell(x[:1], (states[0][:1], states[1][:1]))
    )
    assert "lstm_fused::" not in str(traced.inlined_graph)


def test_the_stateless_form_refuses_to_be_traced() -> None:
    module = LSTM(3, 4, **F64)

    def run(x: Tensor) -> Tensor:
        return functional.lstm(x, None, list(module.parameters()))[0]

    with pytest.raises(RuntimeError, match="torch.jit cannot trace lstm_fused.functional"):
        torch.jit.trace(run, (inputs(),))


def test_compiles_whole() -> None:
    """Forms that test_compile.py has not: unbatched, batch first, one tensor as both states."""
    module = LSTM(3, 4, batch_first=True, **F64)
    whole = torch.compile(module, fullgraph=True, backend="aot_eager")
    zeros = torch.zeros(1, 5, 4, **F64)
    for x, hx in (
        (inputs(), None),
        (inputs(), (zeros, zeros)),
        (inputs()[0], (zeros[:, 0], zeros[:, 0])),
    ):
        got = whole(x, hx)
        assert_same(got, module(x, hx))
        got[0].sum().backward()
