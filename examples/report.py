"""What two models have shown while they were trained, as a table and as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class History:
    """Losses, times and accuracy of one model."""

    name: str
    batch_losses: list[float] = field(default_factory=list)
    train_losses: list[float] = field(default_factory=list)  # mean of each epoch's batches
    validation_losses: list[float] = field(default_factory=list)  # after each epoch
    batch_seconds: list[float] = field(default_factory=list)  # mean of each block of batches
    accuracy: float = 0.0  # on the test part

    def close_epoch(self, batch_losses: Sequence[float], validation_loss: float) -> None:
        self.batch_losses += batch_losses
        self.train_losses.append(statistics.fmean(batch_losses))
        self.validation_losses.append(validation_loss)

    def seconds_per_epoch(self) -> float:
        """From the median over the blocks, so that a busy moment of the machine does not count."""
        batches = len(self.batch_losses) / len(self.train_losses)
        return statistics.median(self.batch_seconds) * batches


def largest_difference(a: History, b: History) -> float:
    """Largest difference between the losses of the two models after the same epoch."""
    pairs = zip(
        a.train_losses + a.validation_losses, b.train_losses + b.validation_losses, strict=True
    )
    return max(abs(x - y) for x, y in pairs)


def table(a: History, b: History, majority: float, needed: float) -> str:
    """The closing table: a is the model to compare with; accuracies are shares of 1."""
    lines = [f"{'':<24}{a.name:>16}{b.name:>18}{'difference':>14}"]
    for epoch in range(len(b.train_losses)):
        for part in ("train", "validation"):
            x, y = (getattr(history, f"{part}_losses")[epoch] for history in (a, b))
            title = f"epoch {epoch + 1} {part} loss"
            lines.append(f"{title:<24}{x:>16.6f}{y:>18.6f}{abs(x - y):>14.1e}")
    x, y = a.seconds_per_epoch(), b.seconds_per_epoch()
    blocks = len(b.batch_seconds)
    return "\n".join(
        [
            *lines,
            f"{'largest difference':<24}{'':>34}{largest_difference(a, b):>14.1e}",
            f"{'test accuracy':<24}{a.accuracy:>16.1%}{b.accuracy:>18.1%}",
            f"{'majority answer':<24}{majority:>16.1%}{majority:>18.1%}  ({needed:.1%} is needed)",
            f"{'seconds per epoch':<24}{x:>16.2f}{y:>18.2f}  (median of {blocks} blocks)",
            f"{'speed':<24}{'1.00x':>16}{f'{x / y:.2f}x':>18}",
        ]
    )


def draw(a: History, b: History, path: Path) -> None:
    """Write a PNG of the loss of both models against the batch number."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=120)
    # The second curve is thin and dashed, so that the first shows on both sides of it.
    for history, color, width, style in ((a, "tab:orange", 4.0, "-"), (b, "tab:blue", 1.2, "--")):
        axes.plot(
            moving_average(history.batch_losses, 25),
            color=color,
            linewidth=width,
            linestyle=style,
            alpha=0.45 if history is a else 1.0,
            label=f"{history.name}, training (mean of 25 batches)",
        )
        batches = len(history.batch_losses) // len(history.validation_losses)
        axes.plot(
            [batches * (i + 1) for i in range(len(history.validation_losses))],
            history.validation_losses,
            color=color,
            linestyle="none",
            marker="o",
            markersize=10.0 if history is a else 4.0,
            label=f"{history.name}, validation",
        )
    axes.set(xlabel="batch", ylabel="binary cross-entropy", title="Sentiment of tweets")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, format="png")
    pyplot.close(figure)


def moving_average(values: Sequence[float], width: int) -> list[float]:
    """Mean of each value and up to width - 1 before it."""
    return [statistics.fmean(values[max(0, i + 1 - width) : i + 1]) for i in range(len(values))]
