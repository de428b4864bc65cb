"""The handful of helpers that a TensorFlow 1 model is written with.

Every helper ends in an operation that bears the layer's name, so that layer `conv1` is the tensor `conv1:0` and its
variables are `conv1/weight` and `conv1/bias`. Maps are (N, H, W, C).
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import tensorflow.compat.v1 as tf

from common.operations import AdaptiveAveragePool


def grouped_conv2d(x, weight, *, groups, strides, padding):
    """Grouped convolution: split the channels, convolve each group with its own filters, concatenate.

    `tf.nn.conv2d` by itself groups where the kernel takes fewer channels, but not everywhere: on a CPU it has no
    gradient then, and without oneDNN no kernel for the bias that TensorFlow's optimiser fuses into it. It is a few per
    cent faster where it runs (benchmarks/grouped_convolution.py).
    """
    if groups == 1:
        return tf.nn.conv2d(x, weight, strides=strides, padding=padding)
    inputs = tf.split(x, groups, axis=3)
    weights = tf.split(weight, groups, axis=3)
    outputs = [tf.nn.conv2d(i, w, strides=strides, padding=padding) for i, w in zip(inputs, weights, strict=True)]
    return tf.concat(outputs, axis=3)


def conv(x, kernel, filters, *, stride=1, padding=0, groups=1, bias=True, name):
    """Convolution, `padding` pixels of zeros on every side (or "SAME")."""
    with tf.variable_scope(name) as scope:
        weight = tf.get_variable("weight", [kernel, kernel, x.shape[3] // groups, filters])
        pads = padding if isinstance(padding, str) else explicit(padding)
        strides = [1, stride, stride, 1]
        y = grouped_conv2d(x, weight, groups=groups, strides=strides, padding=pads)
        if not bias:
            return tf.identity(y, name=scope.original_name_scope)
        biases = tf.get_variable("bias", [filters], initializer=tf.zeros_initializer())
        return tf.nn.bias_add(y, biases, name=scope.original_name_scope)


def explicit(padding):
    """Pixels on every side, or ((top, bottom), (left, right)), as `tf.nn` takes them for (N, H, W, C)."""
    height, width = ((padding, padding), (padding, padding)) if isinstance(padding, int) else padding
    return [[0, 0], list(height), list(width), [0, 0]]


def fc(x, units, *, name):
    """Dense layer: x·W + b, with W (in, out)."""
    with tf.variable_scope(name) as scope:
        weight = tf.get_variable("weight", [x.shape[1], units])
        bias = tf.get_variable("bias", [units], initializer=tf.zeros_initializer())
        return tf.nn.bias_add(tf.matmul(x, weight), bias, name=scope.original_name_scope)


def max_pool(x, kernel, *, stride, padding=0, name):
    """Maximum over `kernel`×`kernel` windows; padding (pixels, or "SAME") never wins."""
    pads = padding if isinstance(padding, str) else explicit(padding)
    return tf.nn.max_pool2d(x, ksize=kernel, strides=stride, padding=pads, name=name)


def avg_pool(x, kernel, *, stride, name):
    """Mean over `kernel`×`kernel` windows that lie wholly inside the map."""
    return tf.nn.avg_pool2d(x, ksize=kernel, strides=stride, padding="VALID", name=name)


def adaptive_avg_pool(x, positions, *, name):
    """PyTorch's: the means of `positions`×`positions` windows, spread evenly and all of one size."""
    rows, columns = (AdaptiveAveragePool(positions).windows(length) for length in x.shape[1:3])
    with tf.name_scope(name) as scope:
        means = tf.nn.avg_pool2d(x, ksize=[rows[0][1], columns[0][1]], strides=1, padding="VALID")
        chosen = tf.gather(means, [begin for begin, _ in rows], axis=1)
        return tf.gather(chosen, [begin for begin, _ in columns], axis=2, name=scope)


def global_avg_pool(x, *, name):
    """(N, H, W, C) → (N, 1, 1, C)."""
    return tf.reduce_mean(x, axis=[1, 2], keepdims=True, name=name)


def batch_norm(x, *, eps, momentum=0.9, name):
    """Batch normalisation with stored statistics, `mean` and `variance`, or while `training` with those of the batch.

    `momentum` is what a step leaves of the stored statistics; the variance stored is the unbiased one, n / (n − 1)
    times the batch's, as in the paper. TensorFlow 1's `tf.nn.fused_batch_norm` silently raised eps to 1.001e-5 (2.21
    does not any more); `tf.nn.batch_normalization` has always taken it as it is.
    """
    with tf.variable_scope(name) as scope:
        channels = [x.shape[3]]
        gamma = tf.get_variable("gamma", channels, initializer=tf.ones_initializer())
        beta = tf.get_variable("beta", channels, initializer=tf.zeros_initializer())
        mean = tf.get_variable("mean", channels, initializer=tf.zeros_initializer(), trainable=False)
        variance = tf.get_variable("variance", channels, initializer=tf.ones_initializer(), trainable=False)
        if _training is not None:
            stored = {mean: 1.0, variance: _bessel(x)}
            mean, variance = tf.nn.moments(x, axes=[0, 1, 2])
            for (variable, factor), value in zip(stored.items(), (mean, variance), strict=True):
                _training.updates.append(tf.assign_sub(variable, (1 - momentum) * (variable - factor * value)))
        y = tf.nn.batch_normalization(x, mean, variance, beta, gamma, eps)
        return tf.identity(y, name=scope.original_name_scope)


def _bessel(x):
    """n / (n − 1) for the n values of each channel."""
    n = tf.cast(tf.reduce_prod(tf.shape(x)[:3]), x.dtype)
    return n / (n - 1)


@dataclass
class _Training:
    seed: int
    step: tf.Variable
    updates: list[tf.Operation] = field(default_factory=list)


_training: _Training | None = None


@contextmanager
def training(seed: int, step: tf.Variable) -> Iterator[list[tf.Operation]]:
    """Build the layers within as they are while training; gives the list of the updates of stored statistics.

    What is dropped depends on the seed, the layer and the step, and on nothing that a checkpoint does not hold.
    """
    global _training
    _training = _Training(seed, step)
    try:
        yield _training.updates
    finally:
        _training = None


def select_channels(x, channels, *, name):
    """Some channels of a map, by number."""
    return tf.gather(x, channels, axis=3, name=name)


def sub_sampling(x, *, name):
    """LeNet-5's: the sum of each 2×2 window, times a trainable coefficient, plus a trainable bias, for each channel."""
    with tf.variable_scope(name) as scope:
        shape = [1, 1, x.shape[3]]
        weight = tf.get_variable("weight", shape, initializer=tf.constant_initializer(0.25))  # at first, the mean
        bias = tf.get_variable("bias", shape, initializer=tf.zeros_initializer())
        sums = 4.0 * tf.nn.avg_pool2d(x, ksize=2, strides=2, padding="VALID")
        return tf.add(sums * weight, bias, name=scope.original_name_scope)


def scaled_tanh(x, *, amplitude, slope, name):
    """amplitude · tanh(slope · x)."""
    with tf.name_scope(name) as scope:
        return tf.multiply(tf.constant(amplitude, x.dtype), tf.tanh(slope * x), name=scope)


def lrn(x, *, radius, alpha, beta, bias, name):
    """Local response normalisation in TensorFlow's convention: a radius, and alpha not divided by the window."""
    if x.dtype == tf.float64:  # which TensorFlow's own does not take
        channels = x.shape[3]
        squares = tf.pad(tf.square(x), [[0, 0], [0, 0], [0, 0], [radius, radius]])
        sums = tf.add_n([squares[..., offset : offset + channels] for offset in range(2 * radius + 1)])
        return tf.multiply(x, tf.pow(bias + alpha * sums, -beta), name=name)
    return tf.nn.local_response_normalization(x, depth_radius=radius, bias=bias, alpha=alpha, beta=beta, name=name)


def flatten(x, *, name):
    """(N, H, W, C) → (N, H·W·C)."""
    _, height, width, channels = x.shape
    return tf.reshape(x, [-1, height * width * channels], name=name)


def dropout(x, keep_prob, *, name):
    """Keep each value with probability `keep_prob`, scaled by its inverse; the identity at 1.0."""
    with tf.name_scope(name) as scope:
        rate = 1.0 - keep_prob
        if _training is None:
            return tf.identity(tf.nn.dropout(x, rate=rate), name=scope)
        seed = tf.stack([tf.constant(_training.seed ^ zlib.crc32(scope.encode()), tf.int64), _training.step])
        return tf.identity(tf.nn.experimental.stateless_dropout(x, rate=rate, seed=seed), name=scope)
