"""The computation of a case: same weights and input for every arm, and the float64 reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from bench.cases import Case

SEED = 20


@lru_cache(maxsize=2)
def _master(case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and data of a case in float64 on the CPU; every arm rounds them to its dtype."""
    draw = torch.Generator().manual_seed(SEED)
    model = nn.LSTM(
        case.I,
        case.H,
        case.L,
        bidirectional=case.bidirectional,
        proj_size=case.proj,
        dtype=torch.float64,
    )
    bound = case.H**-0.5  # as nn.LSTM starts
    weights = {
        name: torch.empty_like(parameter).uniform_(-bound, bound, generator=draw)
        for name, parameter in model.state_dict().items()
    }
    directions, width = 2 if case.bidirectional else 1, case.proj or case.H
    shapes = {
        "x": (case.T, case.B, case.I),
        "h0": (case.L * directions, case.B, width),
        "c0": (case.L * directions, case.B, case.H),
        "dy": (case.T, case.B, directions * width),
        "dh_n": (case.L * directions, case.B, width),
        "dc_n": (case.L * directions, case.B, case.H),
    }
    data = {
        name: torch.randn(shape, generator=draw, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    data["lengths"] = _lengths(case, draw)
    return weights, data


def _lengths(case: Case, draw: torch.Generator) -> Tensor:
    """[B] int64 lengths, longest first: T for the first, then anything from T / 4 up."""
    low = max(1, case.T // 4)
    lengths = torch.randint(low, case.T + 1, (case.B,), generator=draw)
    lengths[0] = case.T
    return lengths.sort(descending=True).values


class Work:
    """A case set up on a device for one class of module.

    run() is what is timed; results() gives its outputs and gradients by name.
    """

    def __init__(
        self, case: Case, module: Callable[..., nn.Module], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.case = case
        weights, data = _master(replace(case, kind="forward"))
        stored = getattr(torch, case.dtype)

        def place(tensor: Tensor) -> Tensor:
            # Rounded to the dtype of the case first, so that the float64 reference of a bfloat16
            # case starts from the same numbers as the arms.
            return tensor.to(stored).to(device=device, dtype=dtype)

        self.module = module(
            case.I,
            case.H,
            case.L,
            bidirectional=case.bidirectional,
            proj_size=case.proj,
            dtype=dtype,
            device=device,
        )
        self.module.load_state_dict({name: place(tensor) for name, tensor in weights.items()})
        self.state = (place(data["h0"]), place(data["c0"])) if case.kind == "step" else None
        self.seeds = {name: place(data["d" + name]) for name in ("y", "h_n", "c_n")}
        x = place(data["x"])
        self.input: Tensor | PackedSequence = x
        if case.packed:
            # Packed once, outside the timing: x is then the rows [N, I] of the sequence.
            rows = pack_padded_sequence(x, data["lengths"])
            x = rows.data.detach()
            self.input = PackedSequence(x, rows.batch_sizes)
            self.seeds["y"] = pack_padded_sequence(self.seeds["y"], data["lengths"]).data
        training = case.kind == "training"
        self.module.train(training)
        x.requires_grad_(training)
        self.leaves = {"x": x, **dict(self.module.named_parameters())} if training else {}

    def run(self) -> dict[str, Tensor]:
        """Do it once: the outputs, and in training the gradients as d + name of the leaf."""
        if not self.leaves:
            with torch.no_grad():
                return self._forward()
        outputs = self._forward()
        # Gradients of all three outputs and no loss function: only the layer is in the timing.
        gradients = torch.autograd.grad(
            list(outputs.values()),
            list(self.leaves.values()),
            list(self.seeds.values()),
        )
        named = zip(self.leaves, gradients, strict=True)
        return {**outputs, **{f"d{name}": gradient for name, gradient in named}}

    def _forward(self) -> dict[str, Tensor]:
        y, (h_n, c_n) = self.module(self.input, self.state)
        return {"y": y.data if isinstance(y, PackedSequence) else y, "h_n": h_n, "c_n": c_n}


def reference(case: Case, device: torch.device) -> dict[str, Tensor]:
    """The results of torch.nn.LSTM in float64 from the numbers of the case."""
    return Work(case, nn.LSTM, torch.float64, device).run()
