"""DenseNet in TensorFlow 1 style."""

import tensorflow.compat.v1 as tf

from tf1_style_impl.layers import avg_pool, batch_norm, conv, fc, flatten, global_avg_pool, max_pool


def dense_block(x: tf.Tensor, growth: int, *, name: str) -> tf.Tensor:
    """BN, ReLU, 1×1 to four times the growth, BN, ReLU, 3×3 to the growth; appended to what came in."""
    with tf.variable_scope(name):
        y = batch_norm(x, eps=1e-5, name="bn1")
        y = tf.nn.relu(y, name="relu1")
        y = conv(y, 1, 4 * growth, bias=False, name="conv1")
        y = batch_norm(y, eps=1e-5, name="bn2")
        y = tf.nn.relu(y, name="relu2")
        y = conv(y, 3, growth, padding=1, bias=False, name="conv2")
        return tf.concat([x, y], axis=3, name="concat")


def transition(x: tf.Tensor, *, name: str) -> tf.Tensor:
    """BN, ReLU, 1×1 to half the channels, and the mean of each 2×2."""
    channels = x.shape[3]
    with tf.variable_scope(name):
        x = batch_norm(x, eps=1e-5, name="bn")
        x = tf.nn.relu(x, name="relu")
        x = conv(x, 1, channels // 2, bias=False, name="conv")
        return avg_pool(x, 2, stride=2, name="pool")


def densenet(images: tf.Tensor, blocks: tuple[int, int, int, int], *, growth: int, num_classes: int) -> tf.Tensor:
    """Stem, four stages of dense blocks with a transition between them, classifier.

    Takes (N, H, W, 3) float32, RGB, standardised; gives (N, num_classes) logits. `blocks` says how many dense blocks
    each stage has; each adds `growth` channels.

    Source: Table 1 of the paper; DenseNet-BC, with compression 0.5.
    """
    # Block 1
    x = conv(images, 7, 2 * growth, stride=2, padding=3, bias=False, name="conv1")  # 112×112
    x = batch_norm(x, eps=1e-5, name="bn1")
    x = tf.nn.relu(x, name="relu1")
    x = max_pool(x, 3, stride=2, padding=1, name="pool1")  # 56×56
    # Blocks 2 to 5: 56×56, 28×28, 14×14, 7×7
    for stage, count in enumerate(blocks, start=2):
        for number in range(1, count + 1):
            x = dense_block(x, growth, name=f"conv{stage}_block{number}")
        if stage < 5:
            x = transition(x, name=f"transition{stage}")
    # Classifier
    x = batch_norm(x, eps=1e-5, name="bn")
    x = tf.nn.relu(x, name="relu")
    x = global_avg_pool(x, name="avg_pool")
    x = flatten(x, name="flatten")
    return fc(x, num_classes, name="fc")


def densenet121(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """DenseNet-121: 7,978,856 parameters."""
    return densenet(images, (6, 12, 24, 16), growth=32, num_classes=num_classes)


def densenet161(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """DenseNet-161, the wide one: 28,681,000 parameters."""
    return densenet(images, (6, 12, 36, 24), growth=48, num_classes=num_classes)


def densenet169(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """DenseNet-169: 14,149,480 parameters."""
    return densenet(images, (6, 12, 32, 32), growth=32, num_classes=num_classes)


def densenet201(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """DenseNet-201: 20,013,928 parameters."""
    return densenet(images, (6, 12, 48, 32), growth=32, num_classes=num_classes)
