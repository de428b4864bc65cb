"""The LeNet of Caffe in TensorFlow 1 style."""

import tensorflow.compat.v1 as tf

from tf1_style_impl.layers import conv, fc, flatten, max_pool


def lenet_bvlc(images: tf.Tensor, keep_prob: tf.Tensor, num_classes: int = 10) -> tf.Tensor:
    """The LeNet of Caffe's MNIST example, the network of `lenet_iter_10000.caffemodel`.

    Takes (N, 28, 28, 1) float32, the pixels over 256; gives (N, num_classes) logits. Nothing stands between a
    convolution and its pooling: the only ReLU is after ip1. There is no dropout.

    Source: examples/mnist/lenet.prototxt in Caffe.
    """
    # Block 1
    x = conv(images, 5, 20, name="conv1")  # 24×24×20
    x = max_pool(x, 2, stride=2, name="pool1")  # 12×12×20
    # Block 2
    x = conv(x, 5, 50, name="conv2")  # 8×8×50
    x = max_pool(x, 2, stride=2, name="pool2")  # 4×4×50
    # Classifier
    x = flatten(x, name="flatten")  # 800, in the order H, W, C
    x = fc(x, 500, name="ip1")
    x = tf.nn.relu(x, name="relu1")
    return fc(x, num_classes, name="ip2")
