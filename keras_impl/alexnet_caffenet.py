"""CaffeNet in Keras, as a Sequential model and as a functional one.

`padding="same"` stands only where the stride is 1 and the window odd, so that it is the same number on every side.
"""

import keras
from keras import layers

from keras_impl.layers import LocalResponseNormalization, called


def caffenet_sequential(num_classes: int = 1000, image_size: tuple[int, int] = (227, 227)) -> keras.Sequential:
    """`caffenet` as a Sequential model."""
    model = keras.Sequential(
        [
            layers.Input((*image_size, 3), name="image"),
            # Block 1
            layers.Conv2D(96, 11, strides=4, name="conv1"),  # 55×55×96
            layers.ReLU(name="relu1"),
            layers.MaxPooling2D(3, strides=2, name="pool1"),  # 27×27×96
            # This layer divides alpha by size, as Caffe does.
            LocalResponseNormalization(size=5, alpha=1e-4, beta=0.75, k=1.0, name="norm1"),
            # Block 2
            layers.Conv2D(256, 5, padding="same", groups=2, name="conv2"),  # 27×27×256
            layers.ReLU(name="relu2"),
            layers.MaxPooling2D(3, strides=2, name="pool2"),  # 13×13×256
            LocalResponseNormalization(size=5, alpha=1e-4, beta=0.75, k=1.0, name="norm2"),
            # Block 3
            layers.Conv2D(384, 3, padding="same", name="conv3"),  # 13×13×384
            layers.ReLU(name="relu3"),
            # Block 4
            layers.Conv2D(384, 3, padding="same", groups=2, name="conv4"),  # 13×13×384
            layers.ReLU(name="relu4"),
            # Block 5
            layers.Conv2D(256, 3, padding="same", groups=2, name="conv5"),  # 13×13×256
            layers.ReLU(name="relu5"),
            layers.MaxPooling2D(3, strides=2, name="pool5"),  # 6×6×256
            # Classifier
            layers.Flatten(name="flatten"),  # 9216, in the order H, W, C
            layers.Dense(4096, name="fc6"),
            layers.ReLU(name="relu6"),
            layers.Dropout(rate=0.5, name="drop6"),
            layers.Dense(4096, name="fc7"),
            layers.ReLU(name="relu7"),
            layers.Dropout(rate=0.5, name="drop7"),
            layers.Dense(num_classes, name="fc8"),
        ],
        name="caffenet",
    )
    return called(model)


def caffenet(num_classes: int = 1000, image_size: tuple[int, int] = (227, 227)) -> keras.Model:
    """CaffeNet, the network of `bvlc_reference_caffenet.caffemodel`.

    Takes (N, 227, 227, 3) float32, BGR minus the mean; gives (N, num_classes) logits. It is `alexnet_bvlc`, but that
    each normalisation stands after its pooling: the weights of the two fit into each other, silently.

    Source: models/bvlc_reference_caffenet/deploy.prototxt in Caffe.
    """
    image = x = layers.Input((*image_size, 3), name="image")
    # Block 1
    x = layers.Conv2D(96, 11, strides=4, name="conv1")(x)  # 55×55×96
    x = layers.ReLU(name="relu1")(x)
    x = layers.MaxPooling2D(3, strides=2, name="pool1")(x)  # 27×27×96
    # This layer divides alpha by size, as Caffe does.
    x = LocalResponseNormalization(size=5, alpha=1e-4, beta=0.75, k=1.0, name="norm1")(x)
    # Block 2
    x = layers.Conv2D(256, 5, padding="same", groups=2, name="conv2")(x)  # 27×27×256
    x = layers.ReLU(name="relu2")(x)
    x = layers.MaxPooling2D(3, strides=2, name="pool2")(x)  # 13×13×256
    x = LocalResponseNormalization(size=5, alpha=1e-4, beta=0.75, k=1.0, name="norm2")(x)
    # Block 3
    x = layers.Conv2D(384, 3, padding="same", name="conv3")(x)  # 13×13×384
    x = layers.ReLU(name="relu3")(x)
    # Block 4
    x = layers.Conv2D(384, 3, padding="same", groups=2, name="conv4")(x)  # 13×13×384
    x = layers.ReLU(name="relu4")(x)
    # Block 5
    x = layers.Conv2D(256, 3, padding="same", groups=2, name="conv5")(x)  # 13×13×256
    x = layers.ReLU(name="relu5")(x)
    x = layers.MaxPooling2D(3, strides=2, name="pool5")(x)  # 6×6×256
    # Classifier
    x = layers.Flatten(name="flatten")(x)  # 9216, in the order H, W, C
    x = layers.Dense(4096, name="fc6")(x)
    x = layers.ReLU(name="relu6")(x)
    x = layers.Dropout(rate=0.5, name="drop6")(x)
    x = layers.Dense(4096, name="fc7")(x)
    x = layers.ReLU(name="relu7")(x)
    x = layers.Dropout(rate=0.5, name="drop7")(x)
    logits = layers.Dense(num_classes, name="fc8")(x)
    return keras.Model(image, logits, name="caffenet")
