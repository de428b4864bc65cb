"""VGG in TensorFlow 1 style."""

import tensorflow.compat.v1 as tf

from tf1_style_impl.layers import batch_norm as bn
from tf1_style_impl.layers import conv, dropout, fc, flatten, global_avg_pool, max_pool


def _vgg(
    images: tf.Tensor,
    keep_prob: tf.Tensor,
    convolutions: tuple[int, ...],
    num_classes: int,
    *,
    batch_norm: bool = False,
    global_average: bool = False,
) -> tf.Tensor:
    """Five blocks of 3×3 convolutions, `convolutions` of them in each, then three dense layers.

    Takes (N, 224, 224, 3) float32, BGR minus the mean, or with batch normalisations RGB, normalised; gives
    (N, num_classes) logits.

    Source: Table 1 of Simonyan, Zisserman 2014.
    """
    x = images
    # Block 1 to block 5: 112×112×64, 56×56×128, 28×28×256, 14×14×512, 7×7×512
    for block, (count, filters) in enumerate(zip(convolutions, (64, 128, 256, 512, 512), strict=True), start=1):
        for number in range(1, count + 1):
            x = conv(x, 3, filters, padding=1, name=f"conv{block}_{number}")
            if batch_norm:
                x = bn(x, eps=1e-5, name=f"bn{block}_{number}")
            x = tf.nn.relu(x, name=f"relu{block}_{number}")
        x = max_pool(x, 2, stride=2, name=f"pool{block}")
    if global_average:
        x = global_avg_pool(x, name="avg_pool")  # 1×1×512
    # Classifier
    x = flatten(x, name="flatten")  # 25088, in the order H, W, C; or 512
    x = fc(x, 4096, name="fc6")
    x = tf.nn.relu(x, name="relu6")
    if not global_average:
        x = dropout(x, keep_prob, name="drop6")
    x = fc(x, 4096, name="fc7")
    x = tf.nn.relu(x, name="relu7")
    if not global_average:
        x = dropout(x, keep_prob, name="drop7")
    return fc(x, num_classes, name="fc8")


def vgg11(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """Configuration A: 8 convolutions and 3 dense layers."""
    return _vgg(images, keep_prob, (1, 1, 2, 2, 2), num_classes)


def vgg13(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """Configuration B: 10 convolutions and 3 dense layers."""
    return _vgg(images, keep_prob, (2, 2, 2, 2, 2), num_classes)


def vgg16(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """Configuration D: 13 convolutions and 3 dense layers."""
    return _vgg(images, keep_prob, (2, 2, 3, 3, 3), num_classes)


def vgg19(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """Configuration E: 16 convolutions and 3 dense layers."""
    return _vgg(images, keep_prob, (2, 2, 4, 4, 4), num_classes)


def vgg11_bn(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """`vgg11` with a batch normalisation between each convolution and its ReLU.

    torchvision's, not the paper's, which is older than batch normalisation. The convolutions keep their biases, and
    photographs are prepared as for torchvision's other networks. `vgg11`'s weights do not fit.

    Source: torchvision/models/vgg.py.
    """
    return _vgg(images, keep_prob, (1, 1, 2, 2, 2), num_classes, batch_norm=True)


def vgg13_bn(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """`vgg13` with a batch normalisation between each convolution and its ReLU; see `vgg11_bn`."""
    return _vgg(images, keep_prob, (2, 2, 2, 2, 2), num_classes, batch_norm=True)


def vgg16_bn(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """`vgg16` with a batch normalisation between each convolution and its ReLU; see `vgg11_bn`."""
    return _vgg(images, keep_prob, (2, 2, 3, 3, 3), num_classes, batch_norm=True)


def vgg19_bn(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """`vgg19` with a batch normalisation between each convolution and its ReLU; see `vgg11_bn`."""
    return _vgg(images, keep_prob, (2, 2, 4, 4, 4), num_classes, batch_norm=True)


def vgg16_gap(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """`vgg16` with a global average before its dense layers: fc6 reads 512 numbers where it read 25,088.

    A variant of tutorials, not of the paper. It has 100,663,296 weights fewer and takes any image of at least 32×32,
    but no longer knows where in the image it saw something, and the published weights of fc6 do not fit. Nor does it
    drop anything.
    """
    return _vgg(images, keep_prob, (2, 2, 3, 3, 3), num_classes, global_average=True)


def vgg19_gap(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """`vgg19` with a global average before its dense layers; see `vgg16_gap`."""
    return _vgg(images, keep_prob, (2, 2, 4, 4, 4), num_classes, global_average=True)
