"""DenseNet in Keras.

The stem pads its pooling with zeros, which is safe after a ReLU: nothing there is below zero.
"""

import keras
from keras import layers

from keras_impl.layers import BatchNormalization


def dense_block(x: keras.KerasTensor, growth: int, *, name: str) -> keras.KerasTensor:
    """BN, ReLU, 1×1 to four times the growth, BN, ReLU, 3×3 to the growth; appended to what came in."""
    y = BatchNormalization(epsilon=1e-5, momentum=0.9, name=f"{name}_bn1")(x)
    y = layers.ReLU(name=f"{name}_relu1")(y)
    y = layers.Conv2D(4 * growth, 1, use_bias=False, name=f"{name}_conv1")(y)
    y = BatchNormalization(epsilon=1e-5, momentum=0.9, name=f"{name}_bn2")(y)
    y = layers.ReLU(name=f"{name}_relu2")(y)
    y = layers.Conv2D(growth, 3, padding="same", use_bias=False, name=f"{name}_conv2")(y)
    return layers.Concatenate(name=f"{name}_concat")([x, y])


def transition(x: keras.KerasTensor, *, name: str) -> keras.KerasTensor:
    """BN, ReLU, 1×1 to half the channels, and the mean of each 2×2."""
    channels = x.shape[-1]
    x = BatchNormalization(epsilon=1e-5, momentum=0.9, name=f"{name}_bn")(x)
    x = layers.ReLU(name=f"{name}_relu")(x)
    x = layers.Conv2D(channels // 2, 1, use_bias=False, name=f"{name}_conv")(x)
    return layers.AveragePooling2D(2, strides=2, name=f"{name}_pool")(x)


def densenet(
    name: str, blocks: tuple[int, int, int, int], *, growth: int, num_classes: int, image_size: tuple[int, int]
) -> keras.Model:
    """Stem, four stages of dense blocks with a transition between them, classifier.

    Takes (N, H, W, 3) float32, RGB, standardised; gives (N, num_classes) logits. `blocks` says how many dense blocks
    each stage has; each adds `growth` channels.

    Source: Table 1 of the paper; DenseNet-BC, with compression 0.5.
    """
    image = layers.Input((*image_size, 3), name="image")
    # Block 1
    x = layers.ZeroPadding2D(3, name="conv1_pad")(image)
    x = layers.Conv2D(2 * growth, 7, strides=2, use_bias=False, name="conv1")(x)  # 112×112
    x = BatchNormalization(epsilon=1e-5, momentum=0.9, name="bn1")(x)
    x = layers.ReLU(name="relu1")(x)
    x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
    x = layers.MaxPooling2D(3, strides=2, name="pool1")(x)  # 56×56
    # Blocks 2 to 5: 56×56, 28×28, 14×14, 7×7
    for stage, count in enumerate(blocks, start=2):
        for number in range(1, count + 1):
            x = dense_block(x, growth, name=f"conv{stage}_block{number}")
        if stage < 5:
            x = transition(x, name=f"transition{stage}")
    # Classifier
    x = BatchNormalization(epsilon=1e-5, momentum=0.9, name="bn")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.GlobalAveragePooling2D(keepdims=True, name="avg_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    logits = layers.Dense(num_classes, name="fc")(x)
    return keras.Model(image, logits, name=name)


def densenet121(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> keras.Model:
    """DenseNet-121: 7,978,856 parameters."""
    return densenet("densenet121", (6, 12, 24, 16), growth=32, num_classes=num_classes, image_size=image_size)


def densenet161(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> keras.Model:
    """DenseNet-161, the wide one: 28,681,000 parameters."""
    return densenet("densenet161", (6, 12, 36, 24), growth=48, num_classes=num_classes, image_size=image_size)


def densenet169(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> keras.Model:
    """DenseNet-169: 14,149,480 parameters."""
    return densenet("densenet169", (6, 12, 32, 32), growth=32, num_classes=num_classes, image_size=image_size)


def densenet201(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> keras.Model:
    """DenseNet-201: 20,013,928 parameters."""
    return densenet("densenet201", (6, 12, 48, 32), growth=32, num_classes=num_classes, image_size=image_size)
