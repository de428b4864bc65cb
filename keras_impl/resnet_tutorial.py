"""ResNet as a popular Keras tutorial has it, in Keras: defined by `padding="same"`, at stride 2 too."""

import keras
from keras import layers

from keras_impl.layers import BatchNormalization
from keras_impl.resnet import resnet


def tutorial_basic_block(x: keras.KerasTensor, filters: int, stride: int, *, name: str) -> keras.KerasTensor:
    """Two 3×3 convolutions, each with BN and ReLU, the projection too; a ReLU after the addition."""
    y = layers.Conv2D(filters, 3, strides=stride, padding="same", name=f"{name}_conv1")(x)
    y = BatchNormalization(epsilon=1e-3, momentum=0.99, name=f"{name}_bn1")(y)
    y = layers.ReLU(name=f"{name}_relu1")(y)
    y = layers.Conv2D(filters, 3, padding="same", name=f"{name}_conv2")(y)
    y = BatchNormalization(epsilon=1e-3, momentum=0.99, name=f"{name}_bn2")(y)
    y = layers.ReLU(name=f"{name}_relu2")(y)
    if stride > 1 or x.shape[-1] != filters:
        x = layers.Conv2D(filters, 1, strides=stride, name=f"{name}_shortcut_conv")(x)
        x = BatchNormalization(epsilon=1e-3, momentum=0.99, name=f"{name}_shortcut_bn")(x)
        x = layers.ReLU(name=f"{name}_shortcut_relu")(x)
    y = layers.Add(name=f"{name}_add")([y, x])
    return layers.ReLU(name=f"{name}_relu")(y)


def tutorial_bottleneck_block(x: keras.KerasTensor, filters: int, stride: int, *, name: str) -> keras.KerasTensor:
    """1×1, 3×3 and 1×1 convolutions, each with BN and ReLU, the projection too; the addition is the end."""
    y = layers.Conv2D(filters, 1, strides=stride, name=f"{name}_conv1")(x)
    y = BatchNormalization(epsilon=1e-3, momentum=0.99, name=f"{name}_bn1")(y)
    y = layers.ReLU(name=f"{name}_relu1")(y)
    y = layers.Conv2D(filters, 3, padding="same", name=f"{name}_conv2")(y)
    y = BatchNormalization(epsilon=1e-3, momentum=0.99, name=f"{name}_bn2")(y)
    y = layers.ReLU(name=f"{name}_relu2")(y)
    y = layers.Conv2D(4 * filters, 1, name=f"{name}_conv3")(y)
    y = BatchNormalization(epsilon=1e-3, momentum=0.99, name=f"{name}_bn3")(y)
    y = layers.ReLU(name=f"{name}_relu3")(y)
    if stride > 1 or x.shape[-1] != 4 * filters:
        x = layers.Conv2D(4 * filters, 1, strides=stride, name=f"{name}_shortcut_conv")(x)
        x = BatchNormalization(epsilon=1e-3, momentum=0.99, name=f"{name}_shortcut_bn")(x)
        x = layers.ReLU(name=f"{name}_shortcut_relu")(x)
    return layers.Add(name=f"{name}_add")([y, x])


def tutorial_stem(image: keras.KerasTensor) -> keras.KerasTensor:
    """The tutorial's beginning, padded SAME: (2, 3) around the convolution, (0, 1) around the pooling."""
    # Block 1
    x = layers.Conv2D(64, 7, strides=2, padding="same", name="conv1")(image)  # 112×112×64
    x = BatchNormalization(epsilon=1e-3, momentum=0.99, name="bn1")(x)
    x = layers.ReLU(name="relu1")(x)
    return layers.MaxPooling2D(3, strides=2, padding="same", name="pool1")(x)  # 56×56×64


def resnet18_tutorial(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> keras.Model:
    """ResNet-18 as a popular Keras tutorial has it: 11,694,312 parameters.

    Every convolution has a bias, and BN and ReLU after it, those before the addition and on the shortcut too, so that
    a residual can add but never subtract. Everything is padded SAME, which at stride 2 shifts the windows by a pixel;
    eps is Keras' default. Where the tutorial is silent this is the paper's v1: projections where the shape changes, the
    stride on the first convolution.
    """
    return resnet("resnet18_tutorial", tutorial_stem, tutorial_basic_block, (2, 2, 2, 2), num_classes, image_size)


def resnet34_tutorial(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> keras.Model:
    """ResNet-34 as the tutorial has it: basic blocks, 21,806,184 parameters."""
    return resnet("resnet34_tutorial", tutorial_stem, tutorial_basic_block, (3, 4, 6, 3), num_classes, image_size)


def resnet50_tutorial(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> keras.Model:
    """ResNet-50 as the tutorial has it: bottleneck blocks, 25,583,592 parameters."""
    return resnet("resnet50_tutorial", tutorial_stem, tutorial_bottleneck_block, (3, 4, 6, 3), num_classes, image_size)


def resnet101_tutorial(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> keras.Model:
    """ResNet-101 as the tutorial has it: bottleneck blocks, 44,601,832 parameters."""
    return resnet(
        "resnet101_tutorial", tutorial_stem, tutorial_bottleneck_block, (3, 4, 23, 3), num_classes, image_size
    )


def resnet152_tutorial(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> keras.Model:
    """ResNet-152 as the tutorial has it: bottleneck blocks, 60,268,520 parameters."""
    return resnet(
        "resnet152_tutorial", tutorial_stem, tutorial_bottleneck_block, (3, 8, 36, 3), num_classes, image_size
    )
