"""DenseNet in PyTorch."""

from collections import OrderedDict

import torch
from torch import nn

from torch_impl.layers import Concat


class DenseBlock(nn.Module):
    """BN, ReLU, 1×1 to four times the growth, BN, ReLU, 3×3 to the growth; appended to what came in."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels, 4 * growth, kernel_size=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth, eps=1e-5, momentum=0.1)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(4 * growth, growth, kernel_size=3, padding=1, bias=False)
        self.concat = Concat()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(self.relu1(self.bn1(x)))
        y = self.conv2(self.relu2(self.bn2(y)))
        return self.concat(x, y)


class Transition(nn.Sequential):
    """BN, ReLU, 1×1 to half the channels, and the mean of each 2×2."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            OrderedDict(
                bn=nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1),
                relu=nn.ReLU(),
                conv=nn.Conv2d(channels, channels // 2, kernel_size=1, bias=False),
                pool=nn.AvgPool2d(kernel_size=2, stride=2),
            )
        )


class DenseNet(nn.Sequential):
    """Stem, four stages of dense blocks with a transition between them, classifier.

    Takes (N, 3, H, W) float32, RGB, standardised; gives (N, num_classes) logits. `blocks` says how many dense blocks
    each stage has; each adds `growth` channels.

    Source: Table 1 of the paper; DenseNet-BC, with compression 0.5.
    """

    image_shape = (3, 224, 224)

    def __init__(self, blocks: tuple[int, int, int, int], *, growth: int, num_classes: int) -> None:
        channels = 2 * growth
        layers = OrderedDict(
            # Block 1
            conv1=nn.Conv2d(3, channels, kernel_size=7, stride=2, padding=3, bias=False),  # 112×112
            bn1=nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(kernel_size=3, stride=2, padding=1),  # 56×56
        )
        # Blocks 2 to 5: 56×56, 28×28, 14×14, 7×7
        for stage, count in enumerate(blocks, start=2):
            for number in range(1, count + 1):
                layers[f"conv{stage}_block{number}"] = DenseBlock(channels, growth)
                channels += growth
            if stage < 5:
                layers[f"transition{stage}"] = Transition(channels)
                channels //= 2
        # Classifier
        layers["bn"] = nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1)
        layers["relu"] = nn.ReLU()
        layers["avg_pool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["fc"] = nn.Linear(channels, num_classes)
        super().__init__(layers)


def densenet121(num_classes: int = 1000) -> DenseNet:
    """DenseNet-121: 7,978,856 parameters."""
    return DenseNet((6, 12, 24, 16), growth=32, num_classes=num_classes)


def densenet161(num_classes: int = 1000) -> DenseNet:
    """DenseNet-161, the wide one: 28,681,000 parameters."""
    return DenseNet((6, 12, 36, 24), growth=48, num_classes=num_classes)


def densenet169(num_classes: int = 1000) -> DenseNet:
    """DenseNet-169: 14,149,480 parameters."""
    return DenseNet((6, 12, 32, 32), growth=32, num_classes=num_classes)


def densenet201(num_classes: int = 1000) -> DenseNet:
    """DenseNet-201: 20,013,928 parameters."""
    return DenseNet((6, 12, 48, 32), growth=32, num_classes=num_classes)
