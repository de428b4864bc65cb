"""ResNet in PyTorch."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from torch_impl.layers import Add


class BasicBlock(nn.Module):
    """Two 3×3 convolutions; where the shape changes, a 1×1 on the shortcut."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.out_channels = filters
        self.projects = stride > 1 or channels != filters
        self.conv1 = nn.Conv2d(channels, filters, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters, eps=1e-5, momentum=0.1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(filters, filters, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters, eps=1e-5, momentum=0.1)
        if self.projects:
            self.shortcut_conv = nn.Conv2d(channels, filters, kernel_size=1, stride=stride, bias=False)
            self.shortcut_bn = nn.BatchNorm2d(filters, eps=1e-5, momentum=0.1)
        self.add = Add()
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.projects:
            x = self.shortcut_bn(self.shortcut_conv(x))
        return self.relu(self.add(y, x))


class BottleneckBlock(nn.Module):
    """1×1, 3×3 and 1×1 convolutions, the last with four times the filters; the stride on the first, as in the paper."""

    def __init__(self, channels: int, filters: int, stride: int, *, stride_on_3x3: bool = False) -> None:
        super().__init__()
        self.out_channels = 4 * filters
        self.projects = stride > 1 or channels != 4 * filters
        first, second = (1, stride) if stride_on_3x3 else (stride, 1)
        self.conv1 = nn.Conv2d(channels, filters, kernel_size=1, stride=first, bias=False)
        self.bn1 = nn.BatchNorm2d(filters, eps=1e-5, momentum=0.1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(filters, filters, kernel_size=3, stride=second, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters, eps=1e-5, momentum=0.1)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(filters, 4 * filters, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * filters, eps=1e-5, momentum=0.1)
        if self.projects:
            self.shortcut_conv = nn.Conv2d(channels, 4 * filters, kernel_size=1, stride=stride, bias=False)
            self.shortcut_bn = nn.BatchNorm2d(4 * filters, eps=1e-5, momentum=0.1)
        self.add = Add()
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.projects:
            x = self.shortcut_bn(self.shortcut_conv(x))
        return self.relu(self.add(y, x))


def stem() -> OrderedDict[str, nn.Module]:
    """The paper's beginning, padded alike on every side."""
    return OrderedDict(
        # Block 1
        conv1=nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False),  # 64×112×112
        bn1=nn.BatchNorm2d(64, eps=1e-5, momentum=0.1),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(kernel_size=3, stride=2, padding=1),  # 64×56×56
    )


class ResNet(nn.Sequential):
    """A stem, four stages of blocks, and the classifier.

    Takes (N, 3, H, W) float32, any height and width; gives (N, num_classes) logits. `blocks` says how many blocks each
    stage has.

    Source: Table 1 of the paper.
    """

    image_shape = (3, 224, 224)

    def __init__(self, stem: Callable, block: Callable, blocks: tuple[int, int, int, int], num_classes: int) -> None:
        layers, channels = stem(), 64
        # Blocks 2 to 5: 56×56, 28×28, 14×14, 7×7
        for stage, filters, count in zip((2, 3, 4, 5), (64, 128, 256, 512), blocks, strict=True):
            for number in range(1, count + 1):
                stride = 2 if stage > 2 and number == 1 else 1
                layers[f"conv{stage}_block{number}"] = block(channels, filters, stride)
                channels = layers[f"conv{stage}_block{number}"].out_channels
        # Classifier
        layers["avg_pool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["fc"] = nn.Linear(channels, num_classes)
        super().__init__(layers)


def resnet18(num_classes: int = 1000) -> ResNet:
    """ResNet-18 of the paper: basic blocks, 11,689,512 parameters."""
    return ResNet(stem, BasicBlock, (2, 2, 2, 2), num_classes)


def resnet34(num_classes: int = 1000) -> ResNet:
    """ResNet-34 of the paper: basic blocks, 21,797,672 parameters."""
    return ResNet(stem, BasicBlock, (3, 4, 6, 3), num_classes)


def resnet50(num_classes: int = 1000) -> ResNet:
    """ResNet-50 of the paper: bottleneck blocks, 25,557,032 parameters."""
    return ResNet(stem, BottleneckBlock, (3, 4, 6, 3), num_classes)


def resnet101(num_classes: int = 1000) -> ResNet:
    """ResNet-101 of the paper: bottleneck blocks, 44,549,160 parameters."""
    return ResNet(stem, BottleneckBlock, (3, 4, 23, 3), num_classes)


def resnet152(num_classes: int = 1000) -> ResNet:
    """ResNet-152 of the paper: bottleneck blocks, 60,192,808 parameters."""
    return ResNet(stem, BottleneckBlock, (3, 8, 36, 3), num_classes)


def resnet50_v1_5(num_classes: int = 1000) -> ResNet:
    """ResNet-50 v1.5: the stride is on the 3×3, 25,557,032 parameters.

    In v1 a strided 1×1 never sees three quarters of its input; here the 3×3 sees all of it, for about 6 % more
    multiply-adds. Weights of one load into the other and give another function.

    Source: torchvision.models.resnet.
    """
    block = partial(BottleneckBlock, stride_on_3x3=True)
    return ResNet(stem, block, (3, 4, 6, 3), num_classes)


def resnet101_v1_5(num_classes: int = 1000) -> ResNet:
    """ResNet-101 v1.5: the stride is on the 3×3, 44,549,160 parameters."""
    block = partial(BottleneckBlock, stride_on_3x3=True)
    return ResNet(stem, block, (3, 4, 23, 3), num_classes)


def resnet152_v1_5(num_classes: int = 1000) -> ResNet:
    """ResNet-152 v1.5: the stride is on the 3×3, 60,192,808 parameters."""
    block = partial(BottleneckBlock, stride_on_3x3=True)
    return ResNet(stem, block, (3, 8, 36, 3), num_classes)
