"""AlexNet in one tower, in Keras: the variants of tutorials and of torchvision.

Each is written as a Sequential model. The functional one is made of its tensors, as any Sequential model allows.
"""

import keras
from keras import layers

from keras_impl.layers import called


def _single_tower(image_and_conv1, filters, num_classes, *, dropout=True, name):
    """What the tutorials share: the paper's layers without groups and normalisation, after conv1.

    `filters` are those of the 3×3 convolutions, from conv3 on.
    """
    chain = [
        *image_and_conv1,
        # Block 1
        layers.ReLU(name="relu1"),
        layers.MaxPooling2D(3, strides=2, name="pool1"),
        # Block 2
        layers.Conv2D(256, 5, padding="same", name="conv2"),
        layers.ReLU(name="relu2"),
        layers.MaxPooling2D(3, strides=2, name="pool2"),
    ]
    # Block 3
    for number, width in enumerate(filters, start=3):
        chain.append(layers.Conv2D(width, 3, padding="same", name=f"conv{number}"))
        chain.append(layers.ReLU(name=f"relu{number}"))
    chain.append(layers.MaxPooling2D(3, strides=2, name=f"pool{number}"))
    chain += [
        # Classifier
        layers.Flatten(name="flatten"),
        layers.Dense(4096, name="fc6"),
        layers.ReLU(name="relu6"),
        *([layers.Dropout(rate=0.5, name="drop6")] if dropout else []),
        layers.Dense(4096, name="fc7"),
        layers.ReLU(name="relu7"),
        *([layers.Dropout(rate=0.5, name="drop7")] if dropout else []),
        layers.Dense(num_classes, name="fc8"),
    ]
    return called(keras.Sequential(chain, name=name))


def _functional(model: keras.Sequential) -> keras.Model:
    """The same layers as a functional model."""
    return keras.Model(model.inputs[0], model.outputs[0], name=model.name)


def alexnet_single_tower_sequential(num_classes=1000, image_size=(227, 227)) -> keras.Sequential:
    """`alexnet_single_tower` as a Sequential model."""
    image = layers.Input((*image_size, 3), name="image")
    conv1 = layers.Conv2D(96, 11, strides=4, name="conv1")  # 55×55×96; the pools give 27×27, 13×13, 6×6
    return _single_tower([image, conv1], [384, 384, 256], num_classes, dropout=False, name="alexnet_single_tower")


def alexnet_single_tower(num_classes: int = 1000, image_size: tuple[int, int] = (227, 227)) -> keras.Model:
    """The paper's filters in one tower: no groups, no normalisation, as most tutorials have it.

    Takes (N, 227, 227, 3) float32; gives (N, num_classes) logits. Without groups every filter reads all channels, which
    costs 1,413,120 parameters and 57 % more arithmetic than `alexnet_bvlc`, whose weights do not fit. There is
    no dropout.

    Source: PyTorch tutorials; figure 2 and section 3.5 of Krizhevsky et al. 2012, with the two towers drawn together.
    """
    return _functional(alexnet_single_tower_sequential(num_classes, image_size))


def alexnet_four_conv_sequential(num_classes=1000, image_size=(227, 227)) -> keras.Sequential:
    """`alexnet_four_conv` as a Sequential model."""
    image = layers.Input((*image_size, 3), name="image")
    conv1 = layers.Conv2D(96, 11, strides=4, name="conv1")  # 55×55×96; the pools give 27×27, 13×13, 6×6
    return _single_tower([image, conv1], [384, 256], num_classes, name="alexnet_four_conv")


def alexnet_four_conv(num_classes: int = 1000, image_size: tuple[int, int] = (227, 227)) -> keras.Model:
    """`alexnet_single_tower` less one 3×3 convolution, with dropout, as a popular Keras tutorial has it.

    Takes (N, 227, 227, 3) float32; gives (N, num_classes) logits. AlexNet has five convolutions: here 1,327,488
    parameters and a fifth of the arithmetic are missing. The dense layers are called fc6 to fc8 all the same.

    Source: Krizhevsky et al. 2012, less the fourth layer.
    """
    return _functional(alexnet_four_conv_sequential(num_classes, image_size))


def alexnet_mnist_sequential(num_classes=10, image_size=(28, 28)) -> keras.Sequential:
    """`alexnet_mnist` as a Sequential model."""
    image = layers.Input((*image_size, 1), name="image")
    conv1 = layers.Conv2D(96, 11, padding="same", name="conv1")  # 28×28×96; the pools give 13×13, 6×6, 2×2
    return _single_tower([image, conv1], [384, 384, 256], num_classes, name="alexnet_mnist")


def alexnet_mnist(num_classes: int = 10, image_size: tuple[int, int] = (28, 28)) -> keras.Model:
    """AlexNet's filters on 28×28 digits: every convolution has stride 1 and keeps the size, and the pools halve it.

    Takes (N, 28, 28, 1) float32; gives (N, num_classes) logits. It has 24.7 million parameters, 400 times as many as
    `lenet5`.

    Source: tutorials; the filters of Krizhevsky et al. 2012 without groups and normalisation.
    """
    return _functional(alexnet_mnist_sequential(num_classes, image_size))


def alexnet_d2l_sequential(num_classes=10, image_size=(224, 224)) -> keras.Sequential:
    """`alexnet_d2l` as a Sequential model."""
    image = layers.Input((*image_size, 1), name="image")
    padding = layers.ZeroPadding2D(1, name="conv1_pad")
    conv1 = layers.Conv2D(96, 11, strides=4, name="conv1")  # 54×54×96; the pools give 26×26, 12×12, 5×5
    return _single_tower([image, padding, conv1], [384, 384, 256], num_classes, name="alexnet_d2l")


def alexnet_d2l(num_classes: int = 10, image_size: tuple[int, int] = (224, 224)) -> keras.Model:
    """The AlexNet of *Dive into Deep Learning*: Fashion-MNIST, enlarged to 224×224, in one grey channel.

    Takes (N, 224, 224, 1) float32; gives (N, num_classes) logits. conv1 is padded by 1 and gives 54×54, not 55×55, so
    that fc6 reads 6400 numbers, not 9216: neither conv1 nor fc6 of another AlexNet fits.

    Source: Zhang et al., Dive into Deep Learning, section 8.1.
    """
    return _functional(alexnet_d2l_sequential(num_classes, image_size))


def alexnet_owt_sequential(num_classes=1000, image_size=(224, 224)) -> keras.Sequential:
    """`alexnet_owt` as a Sequential model."""
    model = keras.Sequential(
        [
            layers.Input((*image_size, 3), name="image"),
            # Block 1
            layers.ZeroPadding2D(2, name="conv1_pad"),
            layers.Conv2D(64, 11, strides=4, name="conv1"),  # 55×55×64
            layers.ReLU(name="relu1"),
            layers.MaxPooling2D(3, strides=2, name="pool1"),  # 27×27×64
            # Block 2
            layers.Conv2D(192, 5, padding="same", name="conv2"),  # 27×27×192
            layers.ReLU(name="relu2"),
            layers.MaxPooling2D(3, strides=2, name="pool2"),  # 13×13×192
            # Block 3
            layers.Conv2D(384, 3, padding="same", name="conv3"),  # 13×13×384
            layers.ReLU(name="relu3"),
            # Block 4
            layers.Conv2D(256, 3, padding="same", name="conv4"),  # 13×13×256
            layers.ReLU(name="relu4"),
            # Block 5
            layers.Conv2D(256, 3, padding="same", name="conv5"),  # 13×13×256
            layers.ReLU(name="relu5"),
            layers.MaxPooling2D(3, strides=2, name="pool5"),  # 6×6×256
            # Classifier
            layers.Flatten(name="flatten"),  # 9216, in the order H, W, C
            layers.Dropout(rate=0.5, name="drop5"),
            layers.Dense(4096, name="fc6"),
            layers.ReLU(name="relu6"),
            layers.Dropout(rate=0.5, name="drop6"),
            layers.Dense(4096, name="fc7"),
            layers.ReLU(name="relu7"),
            layers.Dense(num_classes, name="fc8"),
        ],
        name="alexnet_owt",
    )
    return called(model)


def alexnet_owt(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> keras.Model:
    """torchvision's AlexNet, that of Krizhevsky's "one weird trick": one tower, other widths, no normalisation.

    Takes (N, 224, 224, 3) float32, RGB, normalised; gives (N, num_classes) logits. conv1 is padded by 2, and dropout
    stands *before* fc6 and fc7. torchvision averages the last map to 6×6, which at 224×224 changes nothing and is left
    out. Its weights fit no other AlexNet.

    Source: torchvision/models/alexnet.py.
    """
    return _functional(alexnet_owt_sequential(num_classes, image_size))
