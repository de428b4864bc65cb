"""CaffeNet in TensorFlow 1 style."""

import tensorflow.compat.v1 as tf

from tf1_style_impl.layers import conv, dropout, fc, flatten, lrn, max_pool


def caffenet(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 1000) -> tf.Tensor:
    """CaffeNet, the network of `bvlc_reference_caffenet.caffemodel`.

    Takes (N, 227, 227, 3) float32, BGR minus the mean; gives (N, num_classes) logits. It is `alexnet_bvlc`, but that
    each normalisation stands after its pooling: the weights of the two fit into each other, silently.

    Source: models/bvlc_reference_caffenet/deploy.prototxt in Caffe.
    """
    # Block 1
    x = conv(images, 11, 96, stride=4, name="conv1")  # 55×55×96
    x = tf.nn.relu(x, name="relu1")
    x = max_pool(x, 3, stride=2, name="pool1")  # 27×27×96
    # TensorFlow does not divide alpha by the window: 2e-5 = 1e-4 / 5, and radius 2 is size 5.
    x = lrn(x, radius=2, alpha=2e-5, beta=0.75, bias=1.0, name="norm1")
    # Block 2
    x = conv(x, 5, 256, padding=2, groups=2, name="conv2")  # 27×27×256
    x = tf.nn.relu(x, name="relu2")
    x = max_pool(x, 3, stride=2, name="pool2")  # 13×13×256
    x = lrn(x, radius=2, alpha=2e-5, beta=0.75, bias=1.0, name="norm2")
    # Block 3
    x = conv(x, 3, 384, padding=1, name="conv3")  # 13×13×384
    x = tf.nn.relu(x, name="relu3")
    # Block 4
    x = conv(x, 3, 384, padding=1, groups=2, name="conv4")  # 13×13×384
    x = tf.nn.relu(x, name="relu4")
    # Block 5
    x = conv(x, 3, 256, padding=1, groups=2, name="conv5")  # 13×13×256
    x = tf.nn.relu(x, name="relu5")
    x = max_pool(x, 3, stride=2, name="pool5")  # 6×6×256
    # Classifier
    x = flatten(x, name="flatten")  # 9216, in the order H, W, C
    x = fc(x, 4096, name="fc6")
    x = tf.nn.relu(x, name="relu6")
    x = dropout(x, keep_prob, name="drop6")
    x = fc(x, 4096, name="fc7")
    x = tf.nn.relu(x, name="relu7")
    x = dropout(x, keep_prob, name="drop7")
    return fc(x, num_classes, name="fc8")
