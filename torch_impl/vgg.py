"""VGG in PyTorch."""

from collections import OrderedDict

from torch import nn


class VGG(nn.Sequential):
    """Five blocks of 3×3 convolutions, `convolutions` of them in each, then three dense layers.

    Takes (N, 3, 224, 224) float32, BGR minus the mean, or with batch normalisations RGB, normalised; gives
    (N, num_classes) logits.

    Source: Table 1 of Simonyan, Zisserman 2014.
    """

    image_shape = (3, 224, 224)

    def __init__(
        self,
        convolutions: tuple[int, ...],
        num_classes: int,
        *,
        batch_norm: bool = False,
        global_average: bool = False,
    ) -> None:
        layers = OrderedDict()
        # Block 1 to block 5: 64×112×112, 128×56×56, 256×28×28, 512×14×14, 512×7×7
        channels = 3
        for block, (count, filters) in enumerate(zip(convolutions, (64, 128, 256, 512, 512), strict=True), start=1):
            for number in range(1, count + 1):
                layers[f"conv{block}_{number}"] = nn.Conv2d(channels, filters, kernel_size=3, padding=1)
                if batch_norm:
                    layers[f"bn{block}_{number}"] = nn.BatchNorm2d(filters, eps=1e-5, momentum=0.1)
                layers[f"relu{block}_{number}"] = nn.ReLU()
                channels = filters
            layers[f"pool{block}"] = nn.MaxPool2d(kernel_size=2, stride=2)
        if global_average:
            layers["avg_pool"] = nn.AdaptiveAvgPool2d(1)  # 512×1×1
        # Classifier
        layers["flatten"] = nn.Flatten()  # 25088, in the order C, H, W; or 512
        layers["fc6"] = nn.Linear(512 if global_average else 512 * 7 * 7, 4096)
        layers["relu6"] = nn.ReLU()
        if not global_average:
            layers["drop6"] = nn.Dropout(p=0.5)
        layers["fc7"] = nn.Linear(4096, 4096)
        layers["relu7"] = nn.ReLU()
        if not global_average:
            layers["drop7"] = nn.Dropout(p=0.5)
        layers["fc8"] = nn.Linear(4096, num_classes)
        super().__init__(layers)


def vgg11(num_classes: int = 1000) -> VGG:
    """Configuration A: 8 convolutions and 3 dense layers."""
    return VGG((1, 1, 2, 2, 2), num_classes)


def vgg13(num_classes: int = 1000) -> VGG:
    """Configuration B: 10 convolutions and 3 dense layers."""
    return VGG((2, 2, 2, 2, 2), num_classes)


def vgg16(num_classes: int = 1000) -> VGG:
    """Configuration D: 13 convolutions and 3 dense layers."""
    return VGG((2, 2, 3, 3, 3), num_classes)


def vgg19(num_classes: int = 1000) -> VGG:
    """Configuration E: 16 convolutions and 3 dense layers."""
    return VGG((2, 2, 4, 4, 4), num_classes)


def vgg11_bn(num_classes: int = 1000) -> VGG:
    """`vgg11` with a batch normalisation between each convolution and its ReLU.

    torchvision's, not the paper's, which is older than batch normalisation. The convolutions keep their biases, and
    photographs are prepared as for torchvision's other networks. `vgg11`'s weights do not fit.

    Source: torchvision/models/vgg.py.
    """
    return VGG((1, 1, 2, 2, 2), num_classes, batch_norm=True)


def vgg13_bn(num_classes: int = 1000) -> VGG:
    """`vgg13` with a batch normalisation between each convolution and its ReLU; see `vgg11_bn`."""
    return VGG((2, 2, 2, 2, 2), num_classes, batch_norm=True)


def vgg16_bn(num_classes: int = 1000) -> VGG:
    """`vgg16` with a batch normalisation between each convolution and its ReLU; see `vgg11_bn`."""
    return VGG((2, 2, 3, 3, 3), num_classes, batch_norm=True)


def vgg19_bn(num_classes: int = 1000) -> VGG:
    """`vgg19` with a batch normalisation between each convolution and its ReLU; see `vgg11_bn`."""
    return VGG((2, 2, 4, 4, 4), num_classes, batch_norm=True)


def vgg16_gap(num_classes: int = 1000) -> VGG:
    """`vgg16` with a global average before its dense layers: fc6 reads 512 numbers where it read 25,088.

    A variant of tutorials, not of the paper. It has 100,663,296 weights fewer and takes any image of at least 32×32,
    but no longer knows where in the image it saw something, and the published weights of fc6 do not fit. Nor does it
    drop anything.
    """
    return VGG((2, 2, 3, 3, 3), num_classes, global_average=True)


def vgg19_gap(num_classes: int = 1000) -> VGG:
    """`vgg19` with a global average before its dense layers; see `vgg16_gap`."""
    return VGG((2, 2, 4, 4, 4), num_classes, global_average=True)
