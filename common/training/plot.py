"""The plot of a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.files import written_atomically
from common.training.run import Epoch


def plot_history(history: Sequence[Epoch], path: Path, title: str) -> None:
    """Write a PNG: the loss of every step and of every epoch, and the accuracy on the test pictures.

    Raises:
        TriptychError: it cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = np.arange(1, len(history) + 1)
    steps = np.concatenate([epoch.losses for epoch in history])
    left.plot(np.arange(1, len(steps) + 1) / len(history[0].losses), steps, color="0.8", linewidth=0.7, label="step")
    left.plot(epochs, [epoch.loss for epoch in history], label="training")
    left.plot(epochs, [epoch.test_loss for epoch in history], label="test")
    left.set(xlabel="epoch", ylabel="cross-entropy", yscale="log")
    right.plot(epochs, [100 * epoch.top1 for epoch in history], label="top-1")
    right.plot(epochs, [100 * epoch.top5 for epoch in history], label="top-5")
    right.set(xlabel="epoch", ylabel="test accuracy in per cent")
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    with written_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
