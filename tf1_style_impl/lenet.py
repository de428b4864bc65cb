"""LeNet in TensorFlow 1 style."""

import tensorflow.compat.v1 as tf

from tf1_style_impl.layers import conv, fc, flatten, max_pool, scaled_tanh, select_channels, sub_sampling

# The maps of S2 that each filter of C3 reads: the columns of the paper's Table I.
MAPS_OF_C3 = [
    [0, 1, 2],
    [1, 2, 3],
    [2, 3, 4],
    [3, 4, 5],
    [0, 4, 5],
    [0, 1, 5],
    [0, 1, 2, 3],
    [1, 2, 3, 4],
    [2, 3, 4, 5],
    [0, 3, 4, 5],
    [0, 1, 4, 5],
    [0, 1, 2, 5],
    [0, 1, 3, 4],
    [1, 2, 4, 5],
    [0, 2, 3, 5],
    [0, 1, 2, 3, 4, 5],
]


def lenet5(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 10) -> tf.Tensor:
    """LeNet-5 as it is usually taught: C3 reads every map of S2, and the output is a dense layer.

    Takes (N, 32, 32, 1) float32; gives (N, num_classes) logits. The paper connects C3 sparsely (see `lenet5_sparse`)
    and ends in radial basis functions. Nothing squashes what a sub-sampling reads. There is no dropout.

    Source: section II.B and appendix A of LeCun et al. 1998.
    """
    # Block 1
    x = conv(images, 5, 6, name="c1")  # 28×28×6
    x = sub_sampling(x, name="s2")  # 14×14×6
    x = tf.sigmoid(x, name="sigmoid2")
    # Block 2
    x = conv(x, 5, 16, name="c3")  # 10×10×16
    x = sub_sampling(x, name="s4")  # 5×5×16
    x = tf.sigmoid(x, name="sigmoid4")
    # Block 3
    x = conv(x, 5, 120, name="c5")  # 1×1×120
    x = scaled_tanh(x, amplitude=1.7159, slope=2 / 3, name="tanh5")
    # Classifier
    x = flatten(x, name="flatten")  # 120
    x = fc(x, 84, name="f6")
    x = scaled_tanh(x, amplitude=1.7159, slope=2 / 3, name="tanh6")
    return fc(x, num_classes, name="output")


def _sparse_c3(x):
    """Sixteen convolutions of one filter, each on its own choice of maps."""
    with tf.variable_scope("c3"):
        filtered = []
        for number, maps in enumerate(MAPS_OF_C3, start=1):
            selected = select_channels(x, maps, name=f"maps{number}")
            filtered.append(conv(selected, 5, 1, name=f"map{number}"))
        return tf.concat(filtered, axis=3, name="output")


def lenet5_sparse(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 10) -> tf.Tensor:
    """LeNet-5 with the paper's connection table: each filter of C3 reads three, four or all six maps of S2.

    Sixteen small convolutions instead of one: 1,516 parameters in C3 instead of 2,416, and more time, since no
    framework has an operation for it. Otherwise `lenet5`.

    Source: section II.B and Table I of LeCun et al. 1998.
    """
    # Block 1
    x = conv(images, 5, 6, name="c1")  # 28×28×6
    x = sub_sampling(x, name="s2")  # 14×14×6
    x = tf.sigmoid(x, name="sigmoid2")
    # Block 2
    x = _sparse_c3(x)  # 10×10×16
    x = sub_sampling(x, name="s4")  # 5×5×16
    x = tf.sigmoid(x, name="sigmoid4")
    # Block 3
    x = conv(x, 5, 120, name="c5")  # 1×1×120
    x = scaled_tanh(x, amplitude=1.7159, slope=2 / 3, name="tanh5")
    # Classifier
    x = flatten(x, name="flatten")  # 120
    x = fc(x, 84, name="f6")
    x = scaled_tanh(x, amplitude=1.7159, slope=2 / 3, name="tanh6")
    return fc(x, num_classes, name="output")


def lenet_caffe(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 10) -> tf.Tensor:
    """LeNet with the widths of Caffe's example (20, 50, 500), max-pooling and ReLU, on a padded 32×32 image.

    Takes (N, 32, 32, 1) float32; gives (N, num_classes) logits. Caffe's own (`lenet_bvlc`) takes 28×28, does not pad,
    and has a ReLU after its first dense layer only; the padding makes fc1 four times as large. There is no dropout.

    Source: examples/mnist/lenet.prototxt in Caffe, with the changes above.
    """
    # Block 1
    x = conv(images, 5, 20, padding=2, name="conv1")  # 32×32×20
    x = tf.nn.relu(x, name="relu1")
    x = max_pool(x, 2, stride=2, name="pool1")  # 16×16×20
    # Block 2
    x = conv(x, 5, 50, padding=2, name="conv2")  # 16×16×50
    x = tf.nn.relu(x, name="relu2")
    x = max_pool(x, 2, stride=2, name="pool2")  # 8×8×50
    # Classifier
    x = flatten(x, name="flatten")  # 3200, in the order H, W, C
    x = fc(x, 500, name="fc1")
    x = tf.nn.relu(x, name="relu3")
    return fc(x, num_classes, name="fc2")
