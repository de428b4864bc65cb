"""LeNet, written out."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def conv(x, weight, bias, padding):
    height, width = weight.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(padded, (height, width), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True) + bias[:, None, None]


def max_pool(x, size):
    n, c, height, width = x.shape
    return x.reshape(n, c, height // size, size, width // size, size).max(axis=(3, 5))


class LeNetCaffe:
    """Widths of 20, 50 and 500. Each layer is seen, and what comes after it reads what `see` returns."""

    SHAPES = {  # noqa: RUF012
        "conv1/weight": (20, 1, 5, 5),
        "conv1/bias": (20,),
        "conv2/weight": (50, 20, 5, 5),
        "conv2/bias": (50,),
        "fc1/weight": (500, 3200),
        "fc1/bias": (500,),
        "fc2/weight": (10, 500),
        "fc2/bias": (10,),
    }

    def __init__(self):
        generator = np.random.default_rng(0)
        self.weights = {
            name: generator.normal(0, 0.05, shape).astype(np.float32) for name, shape in self.SHAPES.items()
        }

    def __call__(self, x, see=lambda name, output: output):
        w = self.weights
        # Block 1
        x = see("conv1", conv(x, w["conv1/weight"], w["conv1/bias"], padding=2))
        x = see("relu1", np.maximum(x, 0))
        x = see("pool1", max_pool(x, 2))
        # Block 2
        x = see("conv2", conv(x, w["conv2/weight"], w["conv2/bias"], padding=2))
        x = see("relu2", np.maximum(x, 0))
        x = see("pool2", max_pool(x, 2))
        # Classifier
        x = see("flatten", x.reshape(len(x), -1))
        x = see("fc1", x @ w["fc1/weight"].T + w["fc1/bias"])
        x = see("relu3", np.maximum(x, 0))
        return see("fc2", x @ w["fc2/weight"].T + w["fc2/bias"])
