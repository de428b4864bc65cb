"""AlexNet in one tower, in TensorFlow 1 style: the variants of tutorials and of torchvision."""

import tensorflow.compat.v1 as tf

from tf1_style_impl.layers import conv, dropout, fc, flatten, max_pool


def _single_tower(conv1, filters, num_classes, *, keep_prob=None):
    """What the tutorials share: the paper's layers without groups and normalisation, after conv1.

    `filters` are those of the 3×3 convolutions, from conv3 on. Without a `keep_prob` there is no dropout.
    """
    # Block 1
    x = tf.nn.relu(conv1, name="relu1")
    x = max_pool(x, 3, stride=2, name="pool1")
    # Block 2
    x = conv(x, 5, 256, padding=2, name="conv2")
    x = tf.nn.relu(x, name="relu2")
    x = max_pool(x, 3, stride=2, name="pool2")
    # Block 3
    for number, width in enumerate(filters, start=3):
        x = conv(x, 3, width, padding=1, name=f"conv{number}")
        x = tf.nn.relu(x, name=f"relu{number}")
    x = max_pool(x, 3, stride=2, name=f"pool{number}")
    # Classifier
    x = flatten(x, name="flatten")
    x = fc(x, 4096, name="fc6")
    x = tf.nn.relu(x, name="relu6")
    if keep_prob is not None:
        x = dropout(x, keep_prob, name="drop6")
    x = fc(x, 4096, name="fc7")
    x = tf.nn.relu(x, name="relu7")
    if keep_prob is not None:
        x = dropout(x, keep_prob, name="drop7")
    return fc(x, num_classes, name="fc8")


def alexnet_single_tower(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """The paper's filters in one tower: no groups, no normalisation, as most tutorials have it.

    Takes (N, 227, 227, 3) float32; gives (N, num_classes) logits. Without groups every filter reads all channels, which
    costs 1,413,120 parameters and 57 % more arithmetic than `alexnet_bvlc`, whose weights do not fit. There is
    no dropout.

    Source: PyTorch tutorials; figure 2 and section 3.5 of Krizhevsky et al. 2012, with the two towers drawn together.
    """
    x = conv(images, 11, 96, stride=4, name="conv1")  # 55×55×96; the pools give 27×27, 13×13, 6×6
    return _single_tower(x, [384, 384, 256], num_classes)


def alexnet_four_conv(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """`alexnet_single_tower` less one 3×3 convolution, with dropout, as a popular Keras tutorial has it.

    Takes (N, 227, 227, 3) float32; gives (N, num_classes) logits. AlexNet has five convolutions: here 1,327,488
    parameters and a fifth of the arithmetic are missing. The dense layers are called fc6 to fc8 all the same.

    Source: Krizhevsky et al. 2012, less the fourth layer.
    """
    x = conv(images, 11, 96, stride=4, name="conv1")  # 55×55×96; the pools give 27×27, 13×13, 6×6
    return _single_tower(x, [384, 256], num_classes, keep_prob=keep_prob)


def alexnet_mnist(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 10) -> tf.Tensor:
    """AlexNet's filters on 28×28 digits: every convolution has stride 1 and keeps the size, and the pools halve it.

    Takes (N, 28, 28, 1) float32; gives (N, num_classes) logits. It has 24.7 million parameters, 400 times as many as
    `lenet5`.

    Source: tutorials; the filters of Krizhevsky et al. 2012 without groups and normalisation.
    """
    x = conv(images, 11, 96, padding=5, name="conv1")  # 28×28×96; the pools give 13×13, 6×6, 2×2
    return _single_tower(x, [384, 384, 256], num_classes, keep_prob=keep_prob)


def alexnet_d2l(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 10) -> tf.Tensor:
    """The AlexNet of *Dive into Deep Learning*: Fashion-MNIST, enlarged to 224×224, in one grey channel.

    Takes (N, 224, 224, 1) float32; gives (N, num_classes) logits. conv1 is padded by 1 and gives 54×54, not 55×55, so
    that fc6 reads 6400 numbers, not 9216: neither conv1 nor fc6 of another AlexNet fits.

    Source: Zhang et al., Dive into Deep Learning, section 8.1.
    """
    x = conv(images, 11, 96, stride=4, padding=1, name="conv1")  # 54×54×96; the pools give 26×26, 12×12, 5×5
    return _single_tower(x, [384, 384, 256], num_classes, keep_prob=keep_prob)


def alexnet_owt(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """torchvision's AlexNet, that of Krizhevsky's "one weird trick": one tower, other widths, no normalisation.

    Takes (N, 224, 224, 3) float32, RGB, normalised; gives (N, num_classes) logits. conv1 is padded by 2, and dropout
    stands *before* fc6 and fc7. torchvision averages the last map to 6×6, which at 224×224 changes nothing and is left
    out. Its weights fit no other AlexNet.

    Source: torchvision/models/alexnet.py.
    """
    # Block 1
    x = conv(images, 11, 64, stride=4, padding=2, name="conv1")  # 55×55×64
    x = tf.nn.relu(x, name="relu1")
    x = max_pool(x, 3, stride=2, name="pool1")  # 27×27×64
    # Block 2
    x = conv(x, 5, 192, padding=2, name="conv2")  # 27×27×192
    x = tf.nn.relu(x, name="relu2")
    x = max_pool(x, 3, stride=2, name="pool2")  # 13×13×192
    # Block 3
    x = conv(x, 3, 384, padding=1, name="conv3")  # 13×13×384
    x = tf.nn.relu(x, name="relu3")
    # Block 4
    x = conv(x, 3, 256, padding=1, name="conv4")  # 13×13×256
    x = tf.nn.relu(x, name="relu4")
    # Block 5
    x = conv(x, 3, 256, padding=1, name="conv5")  # 13×13×256
    x = tf.nn.relu(x, name="relu5")
    x = max_pool(x, 3, stride=2, name="pool5")  # 6×6×256
    # Classifier
    x = flatten(x, name="flatten")  # 9216, in the order H, W, C
    x = dropout(x, keep_prob, name="drop5")
    x = fc(x, 4096, name="fc6")
    x = tf.nn.relu(x, name="relu6")
    x = dropout(x, keep_prob, name="drop6")
    x = fc(x, 4096, name="fc7")
    x = tf.nn.relu(x, name="relu7")
    return fc(x, num_classes, name="fc8")
