"""LeNet: LeCun, Bottou, Bengio, Haffner, *Gradient-Based Learning Applied to Document Recognition*, 1998."""

from common.operations import (
    Concat,
    Conv,
    Dense,
    Flatten,
    MaxPool,
    ReLU,
    ScaledTanh,
    SelectChannels,
    Sigmoid,
    SubSampling,
)
from common.specs.architecture import Architecture, Layer, Preprocessing, chain

PAPER = "LeCun et al. 1998, Gradient-Based Learning Applied to Document Recognition"

MAPS_OF_C3 = (
    (0, 1, 2),
    (1, 2, 3),
    (2, 3, 4),
    (3, 4, 5),
    (0, 4, 5),
    (0, 1, 5),
    (0, 1, 2, 3),
    (1, 2, 3, 4),
    (2, 3, 4, 5),
    (0, 3, 4, 5),
    (0, 1, 4, 5),
    (0, 1, 2, 5),
    (0, 1, 3, 4),
    (1, 2, 4, 5),
    (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)
"""The maps of S2 that each of C3's sixteen filters reads: the columns of the paper's Table I."""


def lenet5(num_classes: int = 10, image_size: tuple[int, int] = (32, 32)) -> Architecture:
    """LeNet-5 as it is usually taught: C3 reads every map of S2, and the output is a dense layer.

    The paper connects C3 sparsely (`lenet5_sparse`, 900 parameters fewer) and ends in radial basis functions with fixed
    centres. Sub-sampling is the paper's: a sum with a trainable coefficient and bias, then a sigmoid; nothing squashes
    what goes into it.

    Source: section II.B and appendix A of the paper.
    """
    return Architecture(
        name="lenet5",
        family="lenet",
        title="LeNet-5 as usually taught",
        year=1998,
        paper=PAPER,
        input_shape=(1, *image_size),
        layers=(
            *_up_to_s2(),
            *chain(("c3", Conv(5, filters=16)), after="sigmoid2"),
            *_from_s4(num_classes, after="c3"),
        ),
        outputs={"logits": "output"},
        preprocessing=Preprocessing("L", mean=(0.0,), scale=(255.0,)),
    )


def lenet5_sparse(num_classes: int = 10, image_size: tuple[int, int] = (32, 32)) -> Architecture:
    """LeNet-5 with the paper's connection table: each filter of C3 reads three, four or all six maps of S2.

    Sixteen small convolutions instead of one: 1,516 parameters in C3 instead of 2,416, and more time, since no
    framework has an operation for it. The output is dense, as in `lenet5`.

    Source: section II.B and Table I of the paper.
    """
    filters = [
        chain((f"c3/maps{number}", SelectChannels(maps)), (f"c3/map{number}", Conv(5, filters=1)), after="sigmoid2")
        for number, maps in enumerate(MAPS_OF_C3, start=1)
    ]
    return Architecture(
        name="lenet5_sparse",
        family="lenet",
        title="LeNet-5 with the connection table of the paper",
        year=1998,
        paper=PAPER,
        input_shape=(1, *image_size),
        layers=(
            *_up_to_s2(),
            *(layer for layers in filters for layer in layers),
            Layer("c3/output", Concat(), tuple(layers[-1].name for layers in filters)),
            *_from_s4(num_classes, after="c3/output"),
        ),
        outputs={"logits": "output"},
        preprocessing=Preprocessing("L", mean=(0.0,), scale=(255.0,)),
    )


def _up_to_s2() -> tuple[Layer, ...]:
    return chain(("c1", Conv(5, filters=6)), ("s2", SubSampling()), ("sigmoid2", Sigmoid()))


def _from_s4(num_classes: int, after: str) -> tuple[Layer, ...]:
    return chain(
        ("s4", SubSampling()),
        ("sigmoid4", Sigmoid()),
        ("c5", Conv(5, filters=120)),
        ("tanh5", ScaledTanh(amplitude=1.7159, slope=2 / 3)),
        ("flatten", Flatten((120, 1, 1))),
        ("f6", Dense(84)),
        ("tanh6", ScaledTanh(amplitude=1.7159, slope=2 / 3)),
        ("output", Dense(num_classes)),
        after=after,
    )


def lenet_caffe(num_classes: int = 10, image_size: tuple[int, int] = (32, 32)) -> Architecture:
    """LeNet with the widths of Caffe's example (20, 50, 500), max-pooling and ReLU, on a padded 32×32 image.

    Caffe's own (`lenet_bvlc`) takes 28×28, does not pad, and has a ReLU after its first dense layer only. Padding
    keeps the second map at 8×8 instead of 4×4, which makes the first dense layer four times as large: 1,600,500 of the
    1,631,080 parameters.

    Source: examples/mnist/lenet.prototxt in Caffe, with the changes above.
    """
    return Architecture(
        name="lenet_caffe",
        family="lenet",
        title="LeNet with the widths of Caffe's example",
        year=1998,
        paper=PAPER,
        input_shape=(1, *image_size),
        layers=chain(
            ("conv1", Conv(5, padding=2, filters=20)),
            ("relu1", ReLU()),
            ("pool1", MaxPool(2, stride=2)),
            ("conv2", Conv(5, padding=2, filters=50)),
            ("relu2", ReLU()),
            ("pool2", MaxPool(2, stride=2)),
            ("flatten", Flatten((50, 8, 8))),
            ("fc1", Dense(500)),
            ("relu3", ReLU()),
            ("fc2", Dense(num_classes)),
        ),
        outputs={"logits": "fc2"},
        preprocessing=Preprocessing("L", mean=(0.0,), scale=(255.0,)),
    )


def lenet_bvlc(num_classes: int = 10, image_size: tuple[int, int] = (28, 28)) -> Architecture:
    """The LeNet of Caffe's MNIST example, the network of `lenet_iter_10000.caffemodel`.

    Nothing stands between a convolution and its pooling: the only ReLU is after the first dense layer. `lenet_caffe`
    has the same widths, but pads, and has a ReLU after each convolution.

    Source: examples/mnist/lenet.prototxt in Caffe; the scale of 1/256 is in lenet_train_test.prototxt.
    """
    return Architecture(
        name="lenet_bvlc",
        family="lenet",
        title="LeNet of Caffe's MNIST example",
        year=1998,
        paper=PAPER,
        input_shape=(1, *image_size),
        layers=chain(
            ("conv1", Conv(5, filters=20)),
            ("pool1", MaxPool(2, stride=2)),
            ("conv2", Conv(5, filters=50)),
            ("pool2", MaxPool(2, stride=2)),
            ("flatten", Flatten((50, 4, 4))),
            ("ip1", Dense(500)),
            ("relu1", ReLU()),
            ("ip2", Dense(num_classes)),
        ),
        outputs={"logits": "ip2"},
        preprocessing=Preprocessing("L", mean=(0.0,), scale=(256.0,)),
    )
