"""GoogLeNet: Szegedy et al., *Going Deeper with Convolutions*, 2014."""

from common.operations import (
    LRN,
    AdaptiveAveragePool,
    AveragePool,
    BatchNorm,
    Concat,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool,
    MaxPool,
    Operation,
    ReLU,
)
from common.specs.architecture import Architecture, Layer, Preprocessing, chain

PAPER = "Szegedy et al. 2014, Going Deeper with Convolutions"

BGR_MINUS_MEAN = Preprocessing("BGR", mean=(104.0, 117.0, 123.0))

FROM_MINUS_1_TO_1 = Preprocessing("RGB", mean=(127.5, 127.5, 127.5), scale=(127.5, 127.5, 127.5))


def googlenet(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> Architecture:
    """The paper's network as BVLC released it, with both auxiliary heads.

    Source: models/bvlc_googlenet/train_val.prototxt in Caffe; Table 1 of the paper.
    """
    return _googlenet("googlenet", "GoogLeNet as released by BVLC with Caffe", num_classes, image_size)


def googlenet_bn(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> Architecture:
    """GoogLeNet as torchvision has it, with batch normalisation after every convolution; RGB from −1 to 1.

    No local response normalisation, a 3×3 convolution where the paper has its 5×5, a last pool of 2×2, a dropout of
    0.2. The auxiliary heads average over 4×4 at 0, 3, 7 and 10 of 14 pixels, where the
    paper takes 5×5 with stride 3.

    Source: torchvision/models/googlenet.py.
    """
    return _googlenet(
        "googlenet_bn",
        "GoogLeNet with batch normalisation",
        num_classes,
        image_size,
        lrn=False,
        bn=True,
        wide=3,
        last_pool=2,
        rate=0.2,
        preprocessing=FROM_MINUS_1_TO_1,
    )


def _googlenet(
    name: str,
    title: str,
    num_classes: int,
    image_size: tuple[int, int],
    *,
    lrn: bool = True,
    bn: bool = False,
    wide: int = 5,
    last_pool: int = 3,
    rate: float = 0.4,
    preprocessing: Preprocessing = BGR_MINUS_MEAN,
) -> Architecture:
    """The network of the paper's Table 1, and where variants leave it.

    Args:
        name: of the architecture.
        title: of the architecture.
        num_classes: the number of logits of each head.
        image_size: (height, width); the auxiliary heads fit maps of 14 to 16 pixels, 1/16 of the image.
        lrn: whether the stem normalises twice.
        bn: whether every convolution is followed by batch normalisation, and has no bias.
        wide: the larger window of an inception.
        last_pool: the window of pool4.
        rate: of the dropout before the classifier.
        preprocessing: of the image.
    """

    def max_pool(name: str, kernel: int = 3) -> tuple[str, Operation]:
        # Rounded up, the last window may hang over the edge: one pixel more at the bottom and right.
        return name, MaxPool(kernel, stride=2, padding=((0, 1), (0, 1)))

    def norm(name: str) -> list[tuple[str, Operation]]:
        return [(name, LRN(size=5, alpha=1e-4, beta=0.75, k=1.0))] if lrn else []

    def inception(name: str, *filters: int, after: str) -> tuple[Layer, ...]:
        return _inception(name, filters, after, bn=bn, wide=wide)

    return Architecture(
        name=name,
        family="googlenet",
        title=title,
        year=2014,
        paper=PAPER,
        input_shape=(3, *image_size),
        layers=(
            *chain(
                *_unit("conv1", "relu1", Conv(7, stride=2, padding=3, filters=64, bias=not bn)),
                max_pool("pool1"),
                *norm("norm1"),
                *_unit("conv2_reduce", "relu2_reduce", Conv(1, filters=64, bias=not bn)),
                *_unit("conv2", "relu2", Conv(3, padding=1, filters=192, bias=not bn)),
                *norm("norm2"),
                max_pool("pool2"),
            ),
            *inception("inception_3a", 64, 96, 128, 16, 32, 32, after="pool2"),
            *inception("inception_3b", 128, 128, 192, 32, 96, 64, after="inception_3a/output"),
            *chain(max_pool("pool3"), after="inception_3b/output"),
            *inception("inception_4a", 192, 96, 208, 16, 48, 64, after="pool3"),
            *auxiliary_head("aux1", num_classes, after="inception_4a/output", bn=bn),
            *inception("inception_4b", 160, 112, 224, 24, 64, 64, after="inception_4a/output"),
            *inception("inception_4c", 128, 128, 256, 24, 64, 64, after="inception_4b/output"),
            *inception("inception_4d", 112, 144, 288, 32, 64, 64, after="inception_4c/output"),
            *auxiliary_head("aux2", num_classes, after="inception_4d/output", bn=bn),
            *inception("inception_4e", 256, 160, 320, 32, 128, 128, after="inception_4d/output"),
            *chain(max_pool("pool4", last_pool), after="inception_4e/output"),
            *inception("inception_5a", 256, 160, 320, 32, 128, 128, after="pool4"),
            *inception("inception_5b", 384, 192, 384, 48, 128, 128, after="inception_5a/output"),
            *chain(
                ("pool5", GlobalAveragePool()),
                ("flatten", Flatten((1024, 1, 1))),
                ("drop", Dropout(rate)),
                ("fc", Dense(num_classes)),
                after="inception_5b/output",
            ),
        ),
        outputs={"logits": "fc", "aux1": "aux1/classifier", "aux2": "aux2/classifier"},
        preprocessing=preprocessing,
    )


def _unit(name: str, relu: str, conv: Conv) -> tuple[tuple[str, Operation], ...]:
    """A convolution and its ReLU, with batch normalisation between them where the convolution has no bias."""
    norm = () if conv.bias else ((relu.replace("relu", "bn"), BatchNorm(eps=1e-3)),)
    return (name, conv), *norm, (relu, ReLU())


def _inception(name: str, filters: tuple[int, ...], after: str, *, bn: bool, wide: int) -> tuple[Layer, ...]:
    """Four branches side by side; `filters` as in the paper's Table 1: #1×1 … pool proj."""
    n1x1, n3x3_reduce, n3x3, n5x5_reduce, n5x5, n_pool_proj = filters
    branches = [
        _unit(f"{name}/conv1x1", f"{name}/relu1x1", Conv(1, filters=n1x1, bias=not bn)),
        (
            *_unit(f"{name}/conv3x3_reduce", f"{name}/relu3x3_reduce", Conv(1, filters=n3x3_reduce, bias=not bn)),
            *_unit(f"{name}/conv3x3", f"{name}/relu3x3", Conv(3, padding=1, filters=n3x3, bias=not bn)),
        ),
        (
            *_unit(f"{name}/conv5x5_reduce", f"{name}/relu5x5_reduce", Conv(1, filters=n5x5_reduce, bias=not bn)),
            *_unit(f"{name}/conv5x5", f"{name}/relu5x5", Conv(wide, padding=wide // 2, filters=n5x5, bias=not bn)),
        ),
        (
            (f"{name}/pool", MaxPool(3, padding=1)),
            *_unit(f"{name}/pool_proj", f"{name}/relu_pool_proj", Conv(1, filters=n_pool_proj, bias=not bn)),
        ),
    ]
    layers = [chain(*branch, after=after) for branch in branches]
    concat = Layer(f"{name}/output", Concat(), tuple(branch[-1].name for branch in layers))
    return (*(layer for branch in layers for layer in branch), concat)


def auxiliary_head(name: str, num_classes: int, *, after: str, bn: bool = False) -> tuple[Layer, ...]:
    """A classifier on the way, for training: its loss counts 0.3 (section 5 of the paper)."""
    return chain(
        (f"{name}/pool", AdaptiveAveragePool(4) if bn else AveragePool(5, stride=3)),
        *_unit(f"{name}/conv", f"{name}/relu_conv", Conv(1, filters=128, bias=not bn)),
        (f"{name}/flatten", Flatten((128, 4, 4))),
        (f"{name}/fc", Dense(1024)),
        (f"{name}/relu_fc", ReLU()),
        (f"{name}/drop", Dropout(0.7)),
        (f"{name}/classifier", Dense(num_classes)),
        after=after,
    )
