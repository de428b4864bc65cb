"""AlexNet in one tower: the variants of tutorials and of torchvision."""

from collections.abc import Sequence

from common.operations import Conv, Dense, Dropout, Flatten, MaxPool, ReLU, Shape
from common.specs.alexnet import PAPER
from common.specs.architecture import Architecture, Layer, Preprocessing, chain


def _single_tower(
    conv1: Conv, filters: Sequence[int], flattened: Shape, num_classes: int, *, dropout: bool = True
) -> tuple[Layer, ...]:
    """What the tutorials share: the paper's layers without groups and normalisation, but for conv1.

    `filters` are those of the 3×3 convolutions, from conv3 on.
    """
    drop6, drop7 = ([(name, Dropout(0.5))] if dropout else [] for name in ("drop6", "drop7"))
    convolutions = [
        pair
        for number, width in enumerate(filters, start=3)
        for pair in ((f"conv{number}", Conv(3, padding=1, filters=width)), (f"relu{number}", ReLU()))
    ]
    return chain(
        ("conv1", conv1),
        ("relu1", ReLU()),
        ("pool1", MaxPool(3, stride=2)),
        ("conv2", Conv(5, padding=2, filters=256)),
        ("relu2", ReLU()),
        ("pool2", MaxPool(3, stride=2)),
        *convolutions,
        (f"pool{2 + len(filters)}", MaxPool(3, stride=2)),
        ("flatten", Flatten(flattened)),
        ("fc6", Dense(4096)),
        ("relu6", ReLU()),
        *drop6,
        ("fc7", Dense(4096)),
        ("relu7", ReLU()),
        *drop7,
        ("fc8", Dense(num_classes)),
    )


def alexnet_single_tower(num_classes: int = 1000, image_size: tuple[int, int] = (227, 227)) -> Architecture:
    """The paper's filters in one tower: no groups, no normalisation, as most tutorials have it.

    Without groups, every filter of conv2, conv4 and conv5 reads all channels: 1,413,120 parameters and 411 million
    multiply-adds more than `alexnet_bvlc`, which is 57 % more arithmetic. BVLC's weights do not fit. Nor is there a
    dropout, in 54.5 million dense weights.

    Source: PyTorch tutorials; figure 2 and section 3.5 of the paper, with the two towers drawn together.
    """
    return Architecture(
        name="alexnet_single_tower",
        family="alexnet",
        title="AlexNet in one tower, without groups and normalisation",
        year=2012,
        paper=PAPER,
        input_shape=(3, *image_size),
        layers=_single_tower(Conv(11, stride=4, filters=96), (384, 384, 256), (256, 6, 6), num_classes, dropout=False),
        outputs={"logits": "fc8"},
    )


def alexnet_four_conv(num_classes: int = 1000, image_size: tuple[int, int] = (227, 227)) -> Architecture:
    """`alexnet_single_tower` less one 3×3 convolution, with dropout, as a popular Keras tutorial has it.

    It is often presented as AlexNet, which has five convolutions. 1,327,488 parameters and a fifth of the arithmetic
    are missing, and no published weights fit. The dense layers are called fc6 to fc8 all the same.

    Source: the paper, less its fourth layer.
    """
    return Architecture(
        name="alexnet_four_conv",
        family="alexnet",
        title="AlexNet with four convolutions",
        year=2012,
        paper=PAPER,
        input_shape=(3, *image_size),
        layers=_single_tower(Conv(11, stride=4, filters=96), (384, 256), (256, 6, 6), num_classes),
        outputs={"logits": "fc8"},
    )


def alexnet_mnist(num_classes: int = 10, image_size: tuple[int, int] = (28, 28)) -> Architecture:
    """AlexNet's filters on 28×28 digits: every convolution has stride 1 and keeps the size, and the pools halve it.

    28×28 would not survive a stride of 4. At stride 1, conv1's 11×11 windows are nearly half as wide as the image. It
    takes 24.7 million parameters for ten digits, 400 times as many as `lenet5`.

    Source: tutorials; the paper's filters without groups and normalisation.
    """
    return Architecture(
        name="alexnet_mnist",
        family="alexnet",
        title="AlexNet for MNIST",
        year=2012,
        paper=PAPER,
        input_shape=(1, *image_size),
        layers=_single_tower(Conv(11, padding=5, filters=96), (384, 384, 256), (256, 2, 2), num_classes),
        outputs={"logits": "fc8"},
        preprocessing=Preprocessing("L", mean=(0.0,), scale=(255.0,)),
    )


def alexnet_d2l(num_classes: int = 10, image_size: tuple[int, int] = (224, 224)) -> Architecture:
    """The AlexNet of *Dive into Deep Learning*: Fashion-MNIST, enlarged to 224×224, in one grey channel.

    conv1 is padded by 1 and gives 54×54, where the paper has 55×55, so that the last map is 5×5 and fc6 reads 6400
    numbers instead of 9216: neither conv1 nor fc6 of another AlexNet fits.

    Source: Zhang et al., Dive into Deep Learning, section 8.1.
    """
    return Architecture(
        name="alexnet_d2l",
        family="alexnet",
        title="AlexNet of Dive into Deep Learning",
        year=2012,
        paper=PAPER,
        input_shape=(1, *image_size),
        layers=_single_tower(Conv(11, stride=4, padding=1, filters=96), (384, 384, 256), (256, 5, 5), num_classes),
        outputs={"logits": "fc8"},
        preprocessing=Preprocessing("L", mean=(0.0,), scale=(255.0,)),
    )


def alexnet_owt(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> Architecture:
    """torchvision's AlexNet, that of Krizhevsky's "one weird trick": one tower, other widths, no normalisation.

    64-192-384-256-256 filters where the paper has 96-256-384-384-256, 224×224 pixels with conv1 padded by 2, and
    dropout *before* fc6 and fc7. torchvision averages the last map to 6×6, which at 224×224 changes nothing and is left
    out here. It has as many parameters as the paper's, with nearly all of them in the dense layers, and its weights fit
    no other AlexNet.

    Source: torchvision/models/alexnet.py; Krizhevsky 2014, One weird trick for parallelizing convolutional neural
    networks.
    """
    return Architecture(
        name="alexnet_owt",
        family="alexnet",
        title="AlexNet of torchvision, from one weird trick",
        year=2014,
        paper="Krizhevsky 2014, One weird trick for parallelizing convolutional neural networks",
        input_shape=(3, *image_size),
        layers=chain(
            ("conv1", Conv(11, stride=4, padding=2, filters=64)),
            ("relu1", ReLU()),
            ("pool1", MaxPool(3, stride=2)),
            ("conv2", Conv(5, padding=2, filters=192)),
            ("relu2", ReLU()),
            ("pool2", MaxPool(3, stride=2)),
            ("conv3", Conv(3, padding=1, filters=384)),
            ("relu3", ReLU()),
            ("conv4", Conv(3, padding=1, filters=256)),
            ("relu4", ReLU()),
            ("conv5", Conv(3, padding=1, filters=256)),
            ("relu5", ReLU()),
            ("pool5", MaxPool(3, stride=2)),
            ("flatten", Flatten((256, 6, 6))),
            ("drop5", Dropout(0.5)),
            ("fc6", Dense(4096)),
            ("relu6", ReLU()),
            ("drop6", Dropout(0.5)),
            ("fc7", Dense(4096)),
            ("relu7", ReLU()),
            ("fc8", Dense(num_classes)),
        ),
        outputs={"logits": "fc8"},
        preprocessing=Preprocessing("RGB", mean=(123.675, 116.28, 103.53), scale=(58.395, 57.12, 57.375)),
    )
