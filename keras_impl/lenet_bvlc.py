"""The LeNet of Caffe in Keras, as a Sequential model and as a functional one."""

import keras
from keras import layers

from keras_impl.layers import called


def lenet_bvlc_sequential(num_classes: int = 10, image_size: tuple[int, int] = (28, 28)) -> keras.Sequential:
    """`lenet_bvlc` as a Sequential model."""
    model = keras.Sequential(
        [
            layers.Input((*image_size, 1), name="image"),
            # Block 1
            layers.Conv2D(20, 5, name="conv1"),  # 24×24×20
            layers.MaxPooling2D(2, strides=2, name="pool1"),  # 12×12×20
            # Block 2
            layers.Conv2D(50, 5, name="conv2"),  # 8×8×50
            layers.MaxPooling2D(2, strides=2, name="pool2"),  # 4×4×50
            # Classifier
            layers.Flatten(name="flatten"),  # 800, in the order H, W, C
            layers.Dense(500, name="ip1"),
            layers.ReLU(name="relu1"),
            layers.Dense(num_classes, name="ip2"),
        ],
        name="lenet_bvlc",
    )
    return called(model)


def lenet_bvlc(num_classes: int = 10, image_size: tuple[int, int] = (28, 28)) -> keras.Model:
    """The LeNet of Caffe's MNIST example, the network of `lenet_iter_10000.caffemodel`.

    Takes (N, 28, 28, 1) float32, the pixels over 256; gives (N, num_classes) logits. Nothing stands between a
    convolution and its pooling: the only ReLU is after ip1.

    Source: examples/mnist/lenet.prototxt in Caffe.
    """
    image = x = layers.Input((*image_size, 1), name="image")
    # Block 1
    x = layers.Conv2D(20, 5, name="conv1")(x)  # 24×24×20
    x = layers.MaxPooling2D(2, strides=2, name="pool1")(x)  # 12×12×20
    # Block 2
    x = layers.Conv2D(50, 5, name="conv2")(x)  # 8×8×50
    x = layers.MaxPooling2D(2, strides=2, name="pool2")(x)  # 4×4×50
    # Classifier
    x = layers.Flatten(name="flatten")(x)  # 800, in the order H, W, C
    x = layers.Dense(500, name="ip1")(x)
    x = layers.ReLU(name="relu1")(x)
    logits = layers.Dense(num_classes, name="ip2")(x)
    return keras.Model(image, logits, name="lenet_bvlc")
