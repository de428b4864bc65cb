"""Grouped convolution in TensorFlow 1 style: split, convolve, concatenate, against `tf.nn.conv2d` by itself.

The second runs on a CPU only where TensorFlow uses oneDNN (`TF_ENABLE_ONEDNN_OPTS=1`). Prints, for AlexNet's three
grouped layers, the ratio of the medians of interleaved runs. Run it with
`.venv/bin/python -m benchmarks.grouped_convolution`.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import tensorflow.compat.v1 as tf

from tf1_style_impl.layers import explicit, grouped_conv2d

LAYERS = {"conv2": (27, 96, 5, 256, 2), "conv4": (13, 384, 3, 384, 1), "conv5": (13, 384, 3, 256, 1)}
"""Size of the map, channels, kernel, filters, padding."""


def native_conv2d(x, weight, *, groups, strides, padding):
    """`tf.nn.conv2d`, which sees the groups in the shape of the kernel."""
    return tf.nn.conv2d(x, weight, strides=strides, padding=padding)


def measure(
    size: int, channels: int, kernel: int, filters: int, padding: int, batch: int, runs: int = 31
) -> list[float]:
    """Median seconds of the native and of the split form, on one random batch."""
    with tf.Graph().as_default(), tf.Session() as session:
        images = tf.constant(np.random.default_rng(0).standard_normal((batch, size, size, channels), dtype=np.float32))
        weight = tf.get_variable("weight", [kernel, kernel, channels // 2, filters])
        forms = [
            form(images, weight, groups=2, strides=1, padding=explicit(padding)).op
            for form in (native_conv2d, grouped_conv2d)
        ]
        session.run(tf.global_variables_initializer())
        times: list[list[float]] = [[], []]
        for _ in range(runs):
            for number, form in enumerate(forms):
                started = time.perf_counter()
                session.run(form)
                times[number].append(time.perf_counter() - started)
    return [statistics.median(measured[1:]) for measured in times]


def main() -> None:
    """Print a line for each layer and batch size."""
    for name, numbers in LAYERS.items():
        for batch in (1, 16):
            native, split = measure(*numbers, batch)
            print(
                f"{name} batch {batch:2}: native {native * 1e3:6.2f} ms, split {split * 1e3:6.2f} ms, "
                f"split ÷ native {split / native:.2f}"
            )


if __name__ == "__main__":
    main()
