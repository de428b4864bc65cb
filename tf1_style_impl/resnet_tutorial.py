"""ResNet as a popular Keras tutorial has it, in TensorFlow 1 style."""

import tensorflow.compat.v1 as tf

from tf1_style_impl.layers import batch_norm, conv, max_pool
from tf1_style_impl.resnet import resnet


def tutorial_basic_block(x: tf.Tensor, filters: int, stride: int, *, name: str) -> tf.Tensor:
    """Two 3×3 convolutions, each with BN and ReLU, the projection too; a ReLU after the addition."""
    with tf.variable_scope(name):
        y = conv(x, 3, filters, stride=stride, padding="SAME", name="conv1")
        y = batch_norm(y, eps=1e-3, momentum=0.99, name="bn1")
        y = tf.nn.relu(y, name="relu1")
        y = conv(y, 3, filters, padding="SAME", name="conv2")
        y = batch_norm(y, eps=1e-3, momentum=0.99, name="bn2")
        y = tf.nn.relu(y, name="relu2")
        if stride > 1 or x.shape[3] != filters:
            x = conv(x, 1, filters, stride=stride, name="shortcut_conv")
            x = batch_norm(x, eps=1e-3, momentum=0.99, name="shortcut_bn")
            x = tf.nn.relu(x, name="shortcut_relu")
        y = tf.add(y, x, name="add")
        return tf.nn.relu(y, name="relu")


def tutorial_bottleneck_block(x: tf.Tensor, filters: int, stride: int, *, name: str) -> tf.Tensor:
    """1×1, 3×3 and 1×1 convolutions, each with BN and ReLU, the projection too; the addition is the end."""
    with tf.variable_scope(name):
        y = conv(x, 1, filters, stride=stride, name="conv1")
        y = batch_norm(y, eps=1e-3, momentum=0.99, name="bn1")
        y = tf.nn.relu(y, name="relu1")
        y = conv(y, 3, filters, padding="SAME", name="conv2")
        y = batch_norm(y, eps=1e-3, momentum=0.99, name="bn2")
        y = tf.nn.relu(y, name="relu2")
        y = conv(y, 1, 4 * filters, name="conv3")
        y = batch_norm(y, eps=1e-3, momentum=0.99, name="bn3")
        y = tf.nn.relu(y, name="relu3")
        if stride > 1 or x.shape[3] != 4 * filters:
            x = conv(x, 1, 4 * filters, stride=stride, name="shortcut_conv")
            x = batch_norm(x, eps=1e-3, momentum=0.99, name="shortcut_bn")
            x = tf.nn.relu(x, name="shortcut_relu")
        return tf.add(y, x, name="add")


def tutorial_stem(images: tf.Tensor) -> tf.Tensor:
    """The tutorial's beginning, padded SAME: (2, 3) around the convolution, (0, 1) around the pooling."""
    # Block 1
    x = conv(images, 7, 64, stride=2, padding="SAME", name="conv1")  # 112×112×64
    x = batch_norm(x, eps=1e-3, momentum=0.99, name="bn1")
    x = tf.nn.relu(x, name="relu1")
    return max_pool(x, 3, stride=2, padding="SAME", name="pool1")  # 56×56×64


def resnet18_tutorial(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """ResNet-18 as a popular Keras tutorial has it: 11,694,312 parameters.

    Every convolution has a bias, and BN and ReLU after it, those before the addition and on the shortcut too, so that
    a residual can add but never subtract. Everything is padded SAME, which at stride 2 shifts the windows by a pixel;
    eps is Keras' default. Where the tutorial is silent this is the paper's v1: projections where the shape changes, the
    stride on the first convolution.
    """
    return resnet(images, tutorial_stem, tutorial_basic_block, (2, 2, 2, 2), num_classes)


def resnet34_tutorial(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """ResNet-34 as the tutorial has it: basic blocks, 21,806,184 parameters."""
    return resnet(images, tutorial_stem, tutorial_basic_block, (3, 4, 6, 3), num_classes)


def resnet50_tutorial(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """ResNet-50 as the tutorial has it: bottleneck blocks, 25,583,592 parameters."""
    return resnet(images, tutorial_stem, tutorial_bottleneck_block, (3, 4, 6, 3), num_classes)


def resnet101_tutorial(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """ResNet-101 as the tutorial has it: bottleneck blocks, 44,601,832 parameters."""
    return resnet(images, tutorial_stem, tutorial_bottleneck_block, (3, 4, 23, 3), num_classes)


def resnet152_tutorial(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """ResNet-152 as the tutorial has it: bottleneck blocks, 60,268,520 parameters."""
    return resnet(images, tutorial_stem, tutorial_bottleneck_block, (3, 8, 36, 3), num_classes)
