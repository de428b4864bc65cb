"""ResNet in TensorFlow 1 style."""

from collections.abc import Callable
from functools import partial

import tensorflow.compat.v1 as tf

from tf1_style_impl.layers import batch_norm, conv, fc, flatten, global_avg_pool, max_pool


def basic_block(x: tf.Tensor, filters: int, stride: int, *, name: str) -> tf.Tensor:
    """Two 3×3 convolutions; where the shape changes, a 1×1 on the shortcut."""
    with tf.variable_scope(name):
        y = conv(x, 3, filters, stride=stride, padding=1, bias=False, name="conv1")
        y = batch_norm(y, eps=1e-5, name="bn1")
        y = tf.nn.relu(y, name="relu1")
        y = conv(y, 3, filters, padding=1, bias=False, name="conv2")
        y = batch_norm(y, eps=1e-5, name="bn2")
        if stride > 1 or x.shape[3] != filters:
            x = conv(x, 1, filters, stride=stride, bias=False, name="shortcut_conv")
            x = batch_norm(x, eps=1e-5, name="shortcut_bn")
        y = tf.add(y, x, name="add")
        return tf.nn.relu(y, name="relu")


def bottleneck_block(x: tf.Tensor, filters: int, stride: int, *, name: str, stride_on_3x3: bool = False) -> tf.Tensor:
    """1×1, 3×3 and 1×1 convolutions, the last with four times the filters; the stride on the first, as in the paper."""
    first, second = (1, stride) if stride_on_3x3 else (stride, 1)
    with tf.variable_scope(name):
        y = conv(x, 1, filters, stride=first, bias=False, name="conv1")
        y = batch_norm(y, eps=1e-5, name="bn1")
        y = tf.nn.relu(y, name="relu1")
        y = conv(y, 3, filters, stride=second, padding=1, bias=False, name="conv2")
        y = batch_norm(y, eps=1e-5, name="bn2")
        y = tf.nn.relu(y, name="relu2")
        y = conv(y, 1, 4 * filters, bias=False, name="conv3")
        y = batch_norm(y, eps=1e-5, name="bn3")
        if stride > 1 or x.shape[3] != 4 * filters:
            x = conv(x, 1, 4 * filters, stride=stride, bias=False, name="shortcut_conv")
            x = batch_norm(x, eps=1e-5, name="shortcut_bn")
        y = tf.add(y, x, name="add")
        return tf.nn.relu(y, name="relu")


def stem(images: tf.Tensor) -> tf.Tensor:
    """The paper's beginning, padded alike on every side."""
    # Block 1
    x = conv(images, 7, 64, stride=2, padding=3, bias=False, name="conv1")  # 112×112×64
    x = batch_norm(x, eps=1e-5, name="bn1")
    x = tf.nn.relu(x, name="relu1")
    return max_pool(x, 3, stride=2, padding=1, name="pool1")  # 56×56×64


def resnet(
    images: tf.Tensor, stem: Callable, block: Callable, blocks: tuple[int, int, int, int], num_classes: int
) -> tf.Tensor:
    """A stem, four stages of blocks, and the classifier.

    Takes (N, H, W, 3) float32; gives (N, num_classes) logits. `blocks` says how many blocks each stage has.

    Source: Table 1 of the paper.
    """
    x = stem(images)
    # Blocks 2 to 5: 56×56, 28×28, 14×14, 7×7
    for stage, filters, count in zip((2, 3, 4, 5), (64, 128, 256, 512), blocks, strict=True):
        for number in range(1, count + 1):
            stride = 2 if stage > 2 and number == 1 else 1
            x = block(x, filters, stride, name=f"conv{stage}_block{number}")
    # Classifier
    x = global_avg_pool(x, name="avg_pool")
    x = flatten(x, name="flatten")
    return fc(x, num_classes, name="fc")


def resnet18(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """ResNet-18 of the paper: basic blocks, 11,689,512 parameters."""
    return resnet(images, stem, basic_block, (2, 2, 2, 2), num_classes)


def resnet34(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """ResNet-34 of the paper: basic blocks, 21,797,672 parameters."""
    return resnet(images, stem, basic_block, (3, 4, 6, 3), num_classes)


def resnet50(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """ResNet-50 of the paper: bottleneck blocks, 25,557,032 parameters."""
    return resnet(images, stem, bottleneck_block, (3, 4, 6, 3), num_classes)


def resnet101(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """ResNet-101 of the paper: bottleneck blocks, 44,549,160 parameters."""
    return resnet(images, stem, bottleneck_block, (3, 4, 23, 3), num_classes)


def resnet152(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """ResNet-152 of the paper: bottleneck blocks, 60,192,808 parameters."""
    return resnet(images, stem, bottleneck_block, (3, 8, 36, 3), num_classes)


def resnet50_v1_5(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """ResNet-50 v1.5: the stride is on the 3×3, 25,557,032 parameters.

    In v1 a strided 1×1 never sees three quarters of its input; here the 3×3 sees all of it, for about 6 % more
    multiply-adds. Weights of one load into the other and give another function.

    Source: torchvision.models.resnet.
    """
    block = partial(bottleneck_block, stride_on_3x3=True)
    return resnet(images, stem, block, (3, 4, 6, 3), num_classes)


def resnet101_v1_5(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """ResNet-101 v1.5: the stride is on the 3×3, 44,549,160 parameters."""
    block = partial(bottleneck_block, stride_on_3x3=True)
    return resnet(images, stem, block, (3, 4, 23, 3), num_classes)


def resnet152_v1_5(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """ResNet-152 v1.5: the stride is on the 3×3, 60,192,808 parameters."""
    block = partial(bottleneck_block, stride_on_3x3=True)
    return resnet(images, stem, block, (3, 8, 36, 3), num_classes)
