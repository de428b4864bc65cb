"""The handful of helpers that a TensorFlow 1 model is written with.

Every helper ends in an operation that bears the layer's name, so that layer `conv1` is the tensor `conv1:0` and its
variables are `conv1/weight` and `conv1/bias`. Maps are (N, H, W, C).
"""

from collections.abc import Callable

import tensorflow.compat.v1 as tf

Convolve = Callable[..., tf.Tensor]


def grouped_conv2d(x, weight, *, groups, strides, padding):
    """Grouped convolution as `tf.nn.conv2d` does it: it groups by itself where the kernel takes fewer channels."""
    return tf.nn.conv2d(x, weight, strides=strides, padding=padding)


def split_conv2d(x, weight, *, groups, strides, padding):
    """Grouped convolution as it had to be written in 2016: split the channels, convolve, concatenate.

    The same function as `grouped_conv2d`, to the bit on integers (a test proves it), and a few per cent slower
    (benchmarks/grouped_convolution.py).
    """
    if groups == 1:
        return tf.nn.conv2d(x, weight, strides=strides, padding=padding)
    inputs = tf.split(x, groups, axis=3)
    weights = tf.split(weight, groups, axis=3)
    outputs = [tf.nn.conv2d(i, w, strides=strides, padding=padding) for i, w in zip(inputs, weights, strict=True)]
    return tf.concat(outputs, axis=3)


def conv(x, kernel, filters, *, stride=1, padding=0, groups=1, name, convolve: Convolve = grouped_conv2d):
    """Convolution and bias, `padding` pixels of zeros on every side; `convolve` says how groups are computed."""
    with tf.variable_scope(name) as scope:
        channels = x.shape[3]
        weight = tf.get_variable("weight", [kernel, kernel, channels // groups, filters])
        bias = tf.get_variable("bias", [filters], initializer=tf.zeros_initializer())
        pads = [[0, 0], [padding, padding], [padding, padding], [0, 0]]
        y = convolve(x, weight, groups=groups, strides=[1, stride, stride, 1], padding=pads)
        return tf.nn.bias_add(y, bias, name=scope.original_name_scope)


def fc(x, units, *, name):
    """Dense layer: x·W + b, with W (in, out)."""
    with tf.variable_scope(name) as scope:
        weight = tf.get_variable("weight", [x.shape[1], units])
        bias = tf.get_variable("bias", [units], initializer=tf.zeros_initializer())
        return tf.nn.bias_add(tf.matmul(x, weight), bias, name=scope.original_name_scope)


def max_pool(x, kernel, *, stride, name):
    """Maximum over `kernel`×`kernel` windows that lie wholly inside the map."""
    return tf.nn.max_pool2d(x, ksize=kernel, strides=stride, padding="VALID", name=name)


def lrn(x, *, radius, alpha, beta, bias, name):
    """Local response normalisation in TensorFlow's convention: a radius, and alpha not divided by the window."""
    return tf.nn.local_response_normalization(x, depth_radius=radius, bias=bias, alpha=alpha, beta=beta, name=name)


def flatten(x, *, name):
    """(N, H, W, C) → (N, H·W·C)."""
    _, height, width, channels = x.shape
    return tf.reshape(x, [-1, height * width * channels], name=name)


def dropout(x, keep_prob, *, name):
    """Keep each value with probability `keep_prob`, scaled by its inverse; the identity at 1.0."""
    with tf.name_scope(name) as scope:
        return tf.identity(tf.nn.dropout(x, rate=1.0 - keep_prob), name=scope)
