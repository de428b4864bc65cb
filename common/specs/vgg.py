"""VGG: Simonyan, Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition*, 2014."""

from common.operations import BatchNorm, Conv, Dense, Dropout, Flatten, GlobalAveragePool, MaxPool, Operation, ReLU
from common.specs.architecture import Architecture, Preprocessing, chain
from common.specs.resnet import TORCHVISION

PAPER = "Simonyan, Zisserman 2014, Very Deep Convolutional Networks for Large-Scale Image Recognition"


def _vgg(
    name: str,
    title: str,
    convolutions: tuple[int, ...],
    num_classes: int,
    image_size: tuple[int, int],
    *,
    batch_norm: bool = False,
    global_average: bool = False,
) -> Architecture:
    """Five blocks with `convolutions` 3×3 convolutions each, a 2×2 pooling after each block, three dense layers."""
    layers: list[tuple[str, Operation]] = []
    for block, (count, filters) in enumerate(zip(convolutions, (64, 128, 256, 512, 512), strict=True), start=1):
        for number in range(1, count + 1):
            layers.append((f"conv{block}_{number}", Conv(3, padding=1, filters=filters)))
            if batch_norm:
                layers.append((f"bn{block}_{number}", BatchNorm(eps=1e-5)))
            layers.append((f"relu{block}_{number}", ReLU()))
        layers.append((f"pool{block}", MaxPool(2, stride=2)))
    if global_average:
        layers.append(("avg_pool", GlobalAveragePool()))
    return Architecture(
        name=name,
        family="vgg",
        title=title,
        year=2014,
        paper=PAPER,
        input_shape=(3, *image_size),
        layers=chain(
            *layers,
            ("flatten", Flatten((512, 1, 1) if global_average else (512, 7, 7))),
            ("fc6", Dense(4096)),
            ("relu6", ReLU()),
            *([] if global_average else [("drop6", Dropout(0.5))]),
            ("fc7", Dense(4096)),
            ("relu7", ReLU()),
            *([] if global_average else [("drop7", Dropout(0.5))]),
            ("fc8", Dense(num_classes)),
        ),
        outputs={"logits": "fc8"},
        preprocessing=TORCHVISION if batch_norm else Preprocessing("BGR", mean=(103.939, 116.779, 123.68)),
    )


def vgg11(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> Architecture:
    """Configuration A: 8 convolutions. Source: the paper's Table 1."""
    return _vgg("vgg11", "VGG with 11 layers (A)", (1, 1, 2, 2, 2), num_classes, image_size)


def vgg13(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> Architecture:
    """Configuration B: 10 convolutions. Source: the paper's Table 1."""
    return _vgg("vgg13", "VGG with 13 layers (B)", (2, 2, 2, 2, 2), num_classes, image_size)


def vgg16(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> Architecture:
    """Configuration D: 13 convolutions. Source: the paper's Table 1; VGG_ILSVRC_16_layers_deploy.prototxt for Caffe."""
    return _vgg("vgg16", "VGG with 16 layers (D)", (2, 2, 3, 3, 3), num_classes, image_size)


def vgg19(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> Architecture:
    """Configuration E: 16 convolutions. Source: the paper's Table 1; VGG_ILSVRC_19_layers_deploy.prototxt for Caffe."""
    return _vgg("vgg19", "VGG with 19 layers (E)", (2, 2, 4, 4, 4), num_classes, image_size)


def vgg11_bn(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> Architecture:
    """`vgg11` with a batch normalisation between each convolution and its ReLU.

    torchvision's, not the paper's, which is older than batch normalisation. The convolutions keep their biases, and
    photographs are prepared as for torchvision's other networks. `vgg11`'s weights do not fit.

    Source: torchvision/models/vgg.py.
    """
    return _vgg("vgg11_bn", "VGG with 11 layers and BN", (1, 1, 2, 2, 2), num_classes, image_size, batch_norm=True)


def vgg13_bn(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> Architecture:
    """`vgg13` with a batch normalisation between each convolution and its ReLU; see `vgg11_bn`."""
    return _vgg("vgg13_bn", "VGG with 13 layers and BN", (2, 2, 2, 2, 2), num_classes, image_size, batch_norm=True)


def vgg16_bn(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> Architecture:
    """`vgg16` with a batch normalisation between each convolution and its ReLU; see `vgg11_bn`."""
    return _vgg("vgg16_bn", "VGG with 16 layers and BN", (2, 2, 3, 3, 3), num_classes, image_size, batch_norm=True)


def vgg19_bn(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> Architecture:
    """`vgg19` with a batch normalisation between each convolution and its ReLU; see `vgg11_bn`."""
    return _vgg("vgg19_bn", "VGG with 19 layers and BN", (2, 2, 4, 4, 4), num_classes, image_size, batch_norm=True)


def vgg16_gap(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> Architecture:
    """`vgg16` with a global average before its dense layers: fc6 reads 512 numbers where it read 25,088.

    A variant of tutorials, not of the paper. It has 100,663,296 weights fewer and takes any image of at least 32×32,
    but no longer knows where in the image it saw something, and the published weights of fc6 do not fit. Nor does it
    drop anything.
    """
    title = "VGG with 16 layers and a global average"
    return _vgg("vgg16_gap", title, (2, 2, 3, 3, 3), num_classes, image_size, global_average=True)


def vgg19_gap(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> Architecture:
    """`vgg19` with a global average before its dense layers; see `vgg16_gap`."""
    title = "VGG with 19 layers and a global average"
    return _vgg("vgg19_gap", title, (2, 2, 4, 4, 4), num_classes, image_size, global_average=True)
