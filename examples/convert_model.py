"""Put lstm_fused into a model that was written for torch.nn.LSTM, and take it out again.

    python examples/convert_model.py

The model is the CRNN of text recognition: convolutions turn an image of a line of text into
columns, two bidirectional LSTMs read them, and a linear layer names a character per column.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

if not __package__:  # run as a file: make the folder above importable, as `python -m` does
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lstm_fused


class Crnn(nn.Module):
    """Image of a line of text [B, 1, 32, W] -> scores [W / 4, B, characters]."""

    def __init__(self, characters: int = 37, hidden: int = 256) -> None:
        super().__init__()
        self.columns = nn.Sequential(
            nn.Conv2d(1, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(128, 256, (8, 1)),  # the 8 rows that are left become one
            nn.ReLU(),
        )
        self.reader = nn.LSTM(256, hidden, num_layers=2, bidirectional=True)
        self.scores = nn.Linear(2 * hidden, characters)

    def forward(self, image: Tensor) -> Tensor:
        columns = self.columns(image).squeeze(2).permute(2, 0, 1)  # [W / 4, B, 256]
        read, _ = self.reader(columns)
        return self.scores(read)


def lstm_names(model: nn.Module, kind: type[nn.Module]) -> list[str]:
    """Names of the modules whose class is exactly that."""
    return [name for name, module in model.named_modules() if type(module) is kind]


def gradients(model: nn.Module, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Scores of the model, and the gradient of their mean square with respect to each parameter."""
    model.zero_grad()
    scores = model(image)
    scores.square().mean().backward()
    return scores.detach(), {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def main() -> int:
    torch.manual_seed(0)
    before = Crnn()
    image = torch.randn(4, 1, 32, 160)
    ours = copy.deepcopy(before)
    optimizer = torch.optim.Adam(ours.parameters())  # made before: the parameters stay the same
    replaced = lstm_names(ours, nn.LSTM)

    lstm_fused.convert(ours)

    print(f"replaced: {', '.join(replaced)}")
    print(lstm_fused.explain(ours.reader))
    scores, grads = gradients(before, image)
    our_scores, our_grads = gradients(ours, image)
    print(f"largest difference of the scores     {(scores - our_scores).abs().max():.1e}")
    relative = max(
        ((grads[name] - our_grads[name]).abs().max() / grads[name].abs().max()).item()
        for name in grads
    )
    print(f"largest difference of a gradient     {relative:.1e} of that tensor's largest value")
    optimizer.step()

    lstm_fused.restore(ours)
    print(f"restored: {', '.join(lstm_names(ours, nn.LSTM))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
