"""AlexNet as a popular tutorial for TensorFlow 1 has it, in Keras: a Sequential model and a functional one.

`padding="same"` stands only where the stride is 1 and the window odd, so that it is the same number on every side.
"""

import keras
from keras import layers

from keras_impl.layers import LocalResponseNormalization, called


def alexnet_tf_tutorial_sequential(
    num_classes: int = 1000, image_size: tuple[int, int] = (227, 227)
) -> keras.Sequential:
    """`alexnet_tf_tutorial` as a Sequential model."""
    model = keras.Sequential(
        [
            layers.Input((*image_size, 3), name="image"),
            # Block 1
            layers.Conv2D(96, 11, strides=4, name="conv1"),  # 55×55×96
            layers.ReLU(name="relu1"),
            # This layer divides alpha by size, the tutorial does not: 5e-4 = 5 · 1e-4.
            LocalResponseNormalization(size=5, alpha=5e-4, beta=0.75, k=1.0, name="norm1"),
            layers.MaxPooling2D(3, strides=2, name="pool1"),  # 27×27×96
            # Block 2
            layers.Conv2D(256, 5, padding="same", groups=2, name="conv2"),  # 27×27×256
            layers.ReLU(name="relu2"),
            LocalResponseNormalization(size=5, alpha=5e-4, beta=0.75, k=1.0, name="norm2"),
            layers.MaxPooling2D(3, strides=2, name="pool2"),  # 13×13×256
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
        name="alexnet_tf_tutorial",
    )
    return called(model)


def alexnet_tf_tutorial(num_classes: int = 1000, image_size: tuple[int, int] = (227, 227)) -> keras.Model:
    """The AlexNet of a popular TensorFlow 1 tutorial, "finetune_alexnet_with_tensorflow", as it was in 2018.

    Takes (N, 227, 227, 3) float32, BGR minus the mean; gives (N, num_classes) logits. It is `alexnet_bvlc` but for
    the normalisation: the tutorial gives Caffe's alpha of 1e-4 to TensorFlow, which does not divide it by the window of
    5. In Caffe's convention that is 5e-4, with a k of 1. BVLC's weights fit in, silently, and give other numbers.

    Source: alexnet.py in kratzert/finetune_alexnet_with_tensorflow, from May to August 2018 and in its many copies.
    """
    image = x = layers.Input((*image_size, 3), name="image")
    # Block 1
    x = layers.Conv2D(96, 11, strides=4, name="conv1")(x)  # 55×55×96
    x = layers.ReLU(name="relu1")(x)
    # This layer divides alpha by size, the tutorial does not: 5e-4 = 5 · 1e-4.
    x = LocalResponseNormalization(size=5, alpha=5e-4, beta=0.75, k=1.0, name="norm1")(x)
    x = layers.MaxPooling2D(3, strides=2, name="pool1")(x)  # 27×27×96
    # Block 2
    x = layers.Conv2D(256, 5, padding="same", groups=2, name="conv2")(x)  # 27×27×256
    x = layers.ReLU(name="relu2")(x)
    x = LocalResponseNormalization(size=5, alpha=5e-4, beta=0.75, k=1.0, name="norm2")(x)
    x = layers.MaxPooling2D(3, strides=2, name="pool2")(x)  # 13×13×256
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
    return keras.Model(image, logits, name="alexnet_tf_tutorial")
