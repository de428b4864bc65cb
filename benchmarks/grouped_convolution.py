"""Grouped convolution in TensorFlow 1 style: split, convolve, concatenate, against `tf.nn.conv2d` by itself.

The second runs on a CPU only where TensorFlow uses oneDNN (`TF_ENABLE_ONEDNN_OPTS=1`). Prints, for AlexNet's three
grouped layers, the medians of interleaved runs and their ratio. Run it with
`.venv/bin/python -m benchmarks.grouped_convolution`.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import tensorflow.compat.v1 as tf

from benchmarks.measuring import in_turn, table
from tf1_style_impl.layers import explicit, grouped_conv2d

LAYERS = {"conv2": (27, 96, 5, 256, 2), "conv4": (13, 384, 3, 384, 1), "conv5": (13, 384, 3, 256, 1)}
"""Size of the map, channels, kernel, filters, padding."""


def native_conv2d(x, weight, *, groups, strides, padding):
    """`tf.nn.conv2d`, which sees the groups in the shape of the kernel."""
    return tf.nn.conv2d(x, weight, strides=strides, padding=padding)


def measure(
    size: int, channels: int, kernel: int, filters: int, padding: int, batch: int, runs: int = 31
) -> dict[str, float]:
    """Median seconds of the native and of the split form, on one random batch."""
    with tf.Graph().as_default(), tf.Session() as session:
        images = tf.constant(np.random.default_rng(0).standard_normal((batch, size, size, channels), dtype=np.float32))
        weight = tf.get_variable("weight", [kernel, kernel, channels // 2, filters])
        forms = {
            name: form(images, weight, groups=2, strides=1, padding=explicit(padding)).op
            for name, form in (("native", native_conv2d), ("split", grouped_conv2d))
        }
        session.run(tf.global_variables_initializer())
        return in_turn({name: partial(session.run, form) for name, form in forms.items()}, runs)


def main() -> None:
    """Print a row for each layer and batch size."""
    rows = []
    for name, numbers in LAYERS.items():
        for batch in (1, 16):
            try:
                found = measure(*numbers, batch)
            except tf.errors.UnimplementedError:
                rows.append((f"{name}, batch {batch}", "TensorFlow cannot without oneDNN"))
                continue
            native, split = found["native"], found["split"]
            cells = f"{native * 1e3:.2f}", f"{split * 1e3:.2f}", f"{split / native:.2f}"
            rows.append((f"{name}, batch {batch}", *cells))
    print(table(("layer of AlexNet", "native, ms", "split, ms", "split ÷ native"), rows))


if __name__ == "__main__":
    main()
