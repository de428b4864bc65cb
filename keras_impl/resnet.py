"""ResNet in Keras.

`padding="same"` stands only where the stride is 1 and the window odd. The stem pads its pooling with zeros, which is
safe after a ReLU: nothing there is below zero.
"""

from collections.abc import Callable
from functools import partial

import keras
from keras import layers

from keras_impl.layers import BatchNormalization


def basic_block(x: keras.KerasTensor, filters: int, stride: int, *, name: str) -> keras.KerasTensor:
    """Two 3×3 convolutions; where the shape changes, a 1×1 on the shortcut."""
    y = layers.ZeroPadding2D(1, name=f"{name}_conv1_pad")(x)
    y = layers.Conv2D(filters, 3, strides=stride, use_bias=False, name=f"{name}_conv1")(y)
    y = BatchNormalization(epsilon=1e-5, momentum=0.9, name=f"{name}_bn1")(y)
    y = layers.ReLU(name=f"{name}_relu1")(y)
    y = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv2")(y)
    y = BatchNormalization(epsilon=1e-5, momentum=0.9, name=f"{name}_bn2")(y)
    if stride > 1 or x.shape[-1] != filters:
        x = layers.Conv2D(filters, 1, strides=stride, use_bias=False, name=f"{name}_shortcut_conv")(x)
        x = BatchNormalization(epsilon=1e-5, momentum=0.9, name=f"{name}_shortcut_bn")(x)
    y = layers.Add(name=f"{name}_add")([y, x])
    return layers.ReLU(name=f"{name}_relu")(y)


def bottleneck_block(
    x: keras.KerasTensor, filters: int, stride: int, *, name: str, stride_on_3x3: bool = False
) -> keras.KerasTensor:
    """1×1, 3×3 and 1×1 convolutions, the last with four times the filters; the stride on the first, as in the paper."""
    first, second = (1, stride) if stride_on_3x3 else (stride, 1)
    y = layers.Conv2D(filters, 1, strides=first, use_bias=False, name=f"{name}_conv1")(x)
    y = BatchNormalization(epsilon=1e-5, momentum=0.9, name=f"{name}_bn1")(y)
    y = layers.ReLU(name=f"{name}_relu1")(y)
    y = layers.ZeroPadding2D(1, name=f"{name}_conv2_pad")(y)
    y = layers.Conv2D(filters, 3, strides=second, use_bias=False, name=f"{name}_conv2")(y)
    y = BatchNormalization(epsilon=1e-5, momentum=0.9, name=f"{name}_bn2")(y)
    y = layers.ReLU(name=f"{name}_relu2")(y)
    y = layers.Conv2D(4 * filters, 1, use_bias=False, name=f"{name}_conv3")(y)
    y = BatchNormalization(epsilon=1e-5, momentum=0.9, name=f"{name}_bn3")(y)
    if stride > 1 or x.shape[-1] != 4 * filters:
        x = layers.Conv2D(4 * filters, 1, strides=stride, use_bias=False, name=f"{name}_shortcut_conv")(x)
        x = BatchNormalization(epsilon=1e-5, momentum=0.9, name=f"{name}_shortcut_bn")(x)
    y = layers.Add(name=f"{name}_add")([y, x])
    return layers.ReLU(name=f"{name}_relu")(y)


def stem(image: keras.KerasTensor) -> keras.KerasTensor:
    """The paper's beginning, padded alike on every side."""
    # Block 1
    x = layers.ZeroPadding2D(3, name="conv1_pad")(image)
    x = layers.Conv2D(64, 7, strides=2, use_bias=False, name="conv1")(x)  # 112×112×64
    x = BatchNormalization(epsilon=1e-5, momentum=0.9, name="bn1")(x)
    x = layers.ReLU(name="relu1")(x)
    x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
    return layers.MaxPooling2D(3, strides=2, name="pool1")(x)  # 56×56×64


def resnet(
    name: str,
    stem: Callable,
    block: Callable,
    blocks: tuple[int, int, int, int],
    num_classes: int,
    image_size: tuple[int, int],
) -> keras.Model:
    """A stem, four stages of blocks, and the classifier.

    Takes (N, H, W, 3) float32; gives (N, num_classes) logits. `blocks` says how many blocks each stage has.

    Source: Table 1 of the paper.
    """
    image = layers.Input((*image_size, 3), name="image")
    x = stem(image)
    # Blocks 2 to 5: 56×56, 28×28, 14×14, 7×7
    for stage, filters, count in zip((2, 3, 4, 5), (64, 128, 256, 512), blocks, strict=True):
        for number in range(1, count + 1):
            stride = 2 if stage > 2 and number == 1 else 1
            x = block(x, filters, stride, name=f"conv{stage}_block{number}")
    # Classifier
    x = layers.GlobalAveragePooling2D(keepdims=True, name="avg_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    logits = layers.Dense(num_classes, name="fc")(x)
    return keras.Model(image, logits, name=name)


def resnet18(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> keras.Model:
    """ResNet-18 of the paper: basic blocks, 11,689,512 parameters."""
    return resnet("resnet18", stem, basic_block, (2, 2, 2, 2), num_classes, image_size)


def resnet34(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> keras.Model:
    """ResNet-34 of the paper: basic blocks, 21,797,672 parameters."""
    return resnet("resnet34", stem, basic_block, (3, 4, 6, 3), num_classes, image_size)


def resnet50(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> keras.Model:
    """ResNet-50 of the paper: bottleneck blocks, 25,557,032 parameters."""
    return resnet("resnet50", stem, bottleneck_block, (3, 4, 6, 3), num_classes, image_size)


def resnet101(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> keras.Model:
    """ResNet-101 of the paper: bottleneck blocks, 44,549,160 parameters."""
    return resnet("resnet101", stem, bottleneck_block, (3, 4, 23, 3), num_classes, image_size)


def resnet152(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> keras.Model:
    """ResNet-152 of the paper: bottleneck blocks, 60,192,808 parameters."""
    return resnet("resnet152", stem, bottleneck_block, (3, 8, 36, 3), num_classes, image_size)


def resnet50_v1_5(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> keras.Model:
    """ResNet-50 v1.5: the stride is on the 3×3, 25,557,032 parameters.

    In v1 a strided 1×1 never sees three quarters of its input; here the 3×3 sees all of it, for about 6 % more
    multiply-adds. Weights of one load into the other and give another function.

    Source: torchvision.models.resnet.
    """
    block = partial(bottleneck_block, stride_on_3x3=True)
    return resnet("resnet50_v1_5", stem, block, (3, 4, 6, 3), num_classes, image_size)


def resnet101_v1_5(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> keras.Model:
    """ResNet-101 v1.5: the stride is on the 3×3, 44,549,160 parameters."""
    block = partial(bottleneck_block, stride_on_3x3=True)
    return resnet("resnet101_v1_5", stem, block, (3, 4, 23, 3), num_classes, image_size)


def resnet152_v1_5(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> keras.Model:
    """ResNet-152 v1.5: the stride is on the 3×3, 60,192,808 parameters."""
    block = partial(bottleneck_block, stride_on_3x3=True)
    return resnet("resnet152_v1_5", stem, block, (3, 8, 36, 3), num_classes, image_size)
