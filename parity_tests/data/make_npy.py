"""Writes the .npy and .npz files beside it, in the formats of bvlc_alexnet.npy, with few channels.

They were written by CPython 2.7.18 with NumPy 1.16.6: `python2.7 make_npy.py`. Plain Python, so that both versions and
the tests can import it. No line of it is run when the files are read.
"""

import os

import numpy as np

SHAPES = (
    ("conv1", (11, 11, 3, 4)),
    ("conv2", (5, 5, 2, 6)),
    ("conv3", (3, 3, 6, 8)),
    ("fc6", (72, 5)),
    ("fc7", (5, 5)),
    ("fc8", (5, 3)),
)
"""Kernels (H, W, in, out) and dense kernels (in, out)."""


def arrays():
    """Layer, weights, biases: counted in eighths, no two alike; fc7 is transposed, as converters leave it."""
    start = 0
    for layer, shape in SHAPES:
        size = int(np.prod(shape))
        weights = (np.arange(start, start + size, dtype=np.float32) / np.float32(8)).reshape(shape)
        biases = np.arange(shape[-1], dtype=np.float32) - np.float32(start) / np.float32(4)
        if layer == "conv1":
            biases[:3] = [-0.0, 1e-40, 3.4e38]
        if layer == "fc7":
            weights = np.ascontiguousarray(weights.T).T
        start += size
        yield layer, weights, biases


def main():
    folder = os.path.dirname(os.path.abspath(__file__))
    as_list = {layer: [weights, biases] for layer, weights, biases in arrays()}
    as_dict = {layer: {"weights": weights, "biases": biases} for layer, weights, biases in arrays()}
    in_unicode = {layer.encode("ascii").decode("ascii"): pair for layer, pair in as_list.items()}
    flat = {}
    for layer, weights, biases in arrays():
        flat[layer + "_W"], flat[layer + "_b"] = weights, biases
    np.save(os.path.join(folder, "python2_list.npy"), as_list)
    np.save(os.path.join(folder, "python2_dict.npy"), as_dict)
    np.save(os.path.join(folder, "python2_unicode.npy"), in_unicode)
    np.savez(os.path.join(folder, "python2_layers.npz"), **as_dict)
    np.savez(os.path.join(folder, "python2_flat.npz"), **flat)
    np.savez_compressed(os.path.join(folder, "python2_compressed.npz"), **flat)


if __name__ == "__main__":
    main()
