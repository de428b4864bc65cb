"""VGG in Keras, as Sequential models and as functional ones.

`padding="same"` stands only where the stride is 1 and the window odd, so that it is the same number on every side.
"""

import keras
from keras import layers

from keras_impl.layers import BatchNormalization, called

Size = tuple[int, int]


def _sequential(
    name, convolutions, num_classes, image_size, *, batch_norm=False, global_average=False
) -> keras.Sequential:
    """`_functional` as a Sequential model."""
    model = keras.Sequential([layers.Input((*image_size, 3), name="image")], name=name)
    # Block 1 to block 5: 112×112×64, 56×56×128, 28×28×256, 14×14×512, 7×7×512
    for block, (count, filters) in enumerate(zip(convolutions, (64, 128, 256, 512, 512), strict=True), start=1):
        for number in range(1, count + 1):
            model.add(layers.Conv2D(filters, 3, padding="same", name=f"conv{block}_{number}"))
            if batch_norm:
                model.add(BatchNormalization(epsilon=1e-5, momentum=0.9, name=f"bn{block}_{number}"))
            model.add(layers.ReLU(name=f"relu{block}_{number}"))
        model.add(layers.MaxPooling2D(2, strides=2, name=f"pool{block}"))
    if global_average:
        model.add(layers.GlobalAveragePooling2D(keepdims=True, name="avg_pool"))  # 1×1×512
    # Classifier
    model.add(layers.Flatten(name="flatten"))  # 25088, in the order H, W, C; or 512
    model.add(layers.Dense(4096, name="fc6"))
    model.add(layers.ReLU(name="relu6"))
    if not global_average:
        model.add(layers.Dropout(rate=0.5, name="drop6"))
    model.add(layers.Dense(4096, name="fc7"))
    model.add(layers.ReLU(name="relu7"))
    if not global_average:
        model.add(layers.Dropout(rate=0.5, name="drop7"))
    model.add(layers.Dense(num_classes, name="fc8"))
    return called(model)


def _functional(name, convolutions, num_classes, image_size, *, batch_norm=False, global_average=False) -> keras.Model:
    """Five blocks of 3×3 convolutions, `convolutions` of them in each, then three dense layers.

    Takes (N, 224, 224, 3) float32, BGR minus the mean, or with batch normalisations RGB, normalised; gives
    (N, num_classes) logits.

    Source: Table 1 of Simonyan, Zisserman 2014.
    """
    image = x = layers.Input((*image_size, 3), name="image")
    # Block 1 to block 5: 112×112×64, 56×56×128, 28×28×256, 14×14×512, 7×7×512
    for block, (count, filters) in enumerate(zip(convolutions, (64, 128, 256, 512, 512), strict=True), start=1):
        for number in range(1, count + 1):
            x = layers.Conv2D(filters, 3, padding="same", name=f"conv{block}_{number}")(x)
            if batch_norm:
                x = BatchNormalization(epsilon=1e-5, momentum=0.9, name=f"bn{block}_{number}")(x)
            x = layers.ReLU(name=f"relu{block}_{number}")(x)
        x = layers.MaxPooling2D(2, strides=2, name=f"pool{block}")(x)
    if global_average:
        x = layers.GlobalAveragePooling2D(keepdims=True, name="avg_pool")(x)  # 1×1×512
    # Classifier
    x = layers.Flatten(name="flatten")(x)  # 25088, in the order H, W, C; or 512
    x = layers.Dense(4096, name="fc6")(x)
    x = layers.ReLU(name="relu6")(x)
    if not global_average:
        x = layers.Dropout(rate=0.5, name="drop6")(x)
    x = layers.Dense(4096, name="fc7")(x)
    x = layers.ReLU(name="relu7")(x)
    if not global_average:
        x = layers.Dropout(rate=0.5, name="drop7")(x)
    logits = layers.Dense(num_classes, name="fc8")(x)
    return keras.Model(image, logits, name=name)


def vgg11_sequential(num_classes: int = 1000, image_size: Size = (224, 224)) -> keras.Sequential:
    """`vgg11` as a Sequential model."""
    return _sequential("vgg11", (1, 1, 2, 2, 2), num_classes, image_size)


def vgg11(num_classes: int = 1000, image_size: Size = (224, 224)) -> keras.Model:
    """Configuration A: 8 convolutions and 3 dense layers."""
    return _functional("vgg11", (1, 1, 2, 2, 2), num_classes, image_size)


def vgg13_sequential(num_classes: int = 1000, image_size: Size = (224, 224)) -> keras.Sequential:
    """`vgg13` as a Sequential model."""
    return _sequential("vgg13", (2, 2, 2, 2, 2), num_classes, image_size)


def vgg13(num_classes: int = 1000, image_size: Size = (224, 224)) -> keras.Model:
    """Configuration B: 10 convolutions and 3 dense layers."""
    return _functional("vgg13", (2, 2, 2, 2, 2), num_classes, image_size)


def vgg16_sequential(num_classes: int = 1000, image_size: Size = (224, 224)) -> keras.Sequential:
    """`vgg16` as a Sequential model."""
    return _sequential("vgg16", (2, 2, 3, 3, 3), num_classes, image_size)


def vgg16(num_classes: int = 1000, image_size: Size = (224, 224)) -> keras.Model:
    """Configuration D: 13 convolutions and 3 dense layers."""
    return _functional("vgg16", (2, 2, 3, 3, 3), num_classes, image_size)


def vgg19_sequential(num_classes: int = 1000, image_size: Size = (224, 224)) -> keras.Sequential:
    """`vgg19` as a Sequential model."""
    return _sequential("vgg19", (2, 2, 4, 4, 4), num_classes, image_size)


def vgg19(num_classes: int = 1000, image_size: Size = (224, 224)) -> keras.Model:
    """Configuration E: 16 convolutions and 3 dense layers."""
    return _functional("vgg19", (2, 2, 4, 4, 4), num_classes, image_size)


def vgg11_bn_sequential(num_classes: int = 1000, image_size: Size = (224, 224)) -> keras.Sequential:
    """`vgg11_bn` as a Sequential model."""
    return _sequential("vgg11_bn", (1, 1, 2, 2, 2), num_classes, image_size, batch_norm=True)


def vgg11_bn(num_classes: int = 1000, image_size: Size = (224, 224)) -> keras.Model:
    """`vgg11` with a batch normalisation between each convolution and its ReLU.

    torchvision's, not the paper's, which is older than batch normalisation. The convolutions keep their biases, and
    photographs are prepared as for torchvision's other networks. `vgg11`'s weights do not fit.

    Source: torchvision/models/vgg.py.
    """
    return _functional("vgg11_bn", (1, 1, 2, 2, 2), num_classes, image_size, batch_norm=True)


def vgg13_bn_sequential(num_classes: int = 1000, image_size: Size = (224, 224)) -> keras.Sequential:
    """`vgg13_bn` as a Sequential model."""
    return _sequential("vgg13_bn", (2, 2, 2, 2, 2), num_classes, image_size, batch_norm=True)


def vgg13_bn(num_classes: int = 1000, image_size: Size = (224, 224)) -> keras.Model:
    """`vgg13` with a batch normalisation between each convolution and its ReLU; see `vgg11_bn`."""
    return _functional("vgg13_bn", (2, 2, 2, 2, 2), num_classes, image_size, batch_norm=True)


def vgg16_bn_sequential(num_classes: int = 1000, image_size: Size = (224, 224)) -> keras.Sequential:
    """`vgg16_bn` as a Sequential model."""
    return _sequential("vgg16_bn", (2, 2, 3, 3, 3), num_classes, image_size, batch_norm=True)


def vgg16_bn(num_classes: int = 1000, image_size: Size = (224, 224)) -> keras.Model:
    """`vgg16` with a batch normalisation between each convolution and its ReLU; see `vgg11_bn`."""
    return _functional("vgg16_bn", (2, 2, 3, 3, 3), num_classes, image_size, batch_norm=True)


def vgg19_bn_sequential(num_classes: int = 1000, image_size: Size = (224, 224)) -> keras.Sequential:
    """`vgg19_bn` as a Sequential model."""
    return _sequential("vgg19_bn", (2, 2, 4, 4, 4), num_classes, image_size, batch_norm=True)


def vgg19_bn(num_classes: int = 1000, image_size: Size = (224, 224)) -> keras.Model:
    """`vgg19` with a batch normalisation between each convolution and its ReLU; see `vgg11_bn`."""
    return _functional("vgg19_bn", (2, 2, 4, 4, 4), num_classes, image_size, batch_norm=True)


def vgg16_gap_sequential(num_classes: int = 1000, image_size: Size = (224, 224)) -> keras.Sequential:
    """`vgg16_gap` as a Sequential model."""
    return _sequential("vgg16_gap", (2, 2, 3, 3, 3), num_classes, image_size, global_average=True)


def vgg16_gap(num_classes: int = 1000, image_size: Size = (224, 224)) -> keras.Model:
    """`vgg16` with a global average before its dense layers: fc6 reads 512 numbers where it read 25,088.

    A variant of tutorials, not of the paper. It has 100,663,296 weights fewer and takes any image of at least 32×32,
    but no longer knows where in the image it saw something, and the published weights of fc6 do not fit. Nor does it
    drop anything.
    """
    return _functional("vgg16_gap", (2, 2, 3, 3, 3), num_classes, image_size, global_average=True)


def vgg19_gap_sequential(num_classes: int = 1000, image_size: Size = (224, 224)) -> keras.Sequential:
    """`vgg19_gap` as a Sequential model."""
    return _sequential("vgg19_gap", (2, 2, 4, 4, 4), num_classes, image_size, global_average=True)


def vgg19_gap(num_classes: int = 1000, image_size: Size = (224, 224)) -> keras.Model:
    """`vgg19` with a global average before its dense layers; see `vgg16_gap`."""
    return _functional("vgg19_gap", (2, 2, 4, 4, 4), num_classes, image_size, global_average=True)
