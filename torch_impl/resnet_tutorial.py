"""ResNet as a popular Keras tutorial has it, in PyTorch."""

from collections import OrderedDict

import torch
from torch import nn

from torch_impl.layers import Add, SameConv2d, SameMaxPool2d
from torch_impl.resnet import ResNet


class TutorialBasicBlock(nn.Module):
    """Two 3×3 convolutions, each with BN and ReLU, the projection too; a ReLU after the addition."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.out_channels = filters
        self.projects = stride > 1 or channels != filters
        self.conv1 = SameConv2d(channels, filters, kernel_size=3, stride=stride)
        self.bn1 = nn.BatchNorm2d(filters, eps=1e-3, momentum=0.01)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(filters, filters, kernel_size=3, padding=1)
        self.bn2 = nn.BatchNorm2d(filters, eps=1e-3, momentum=0.01)
        self.relu2 = nn.ReLU()
        if self.projects:
            self.shortcut_conv = nn.Conv2d(channels, filters, kernel_size=1, stride=stride)
            self.shortcut_bn = nn.BatchNorm2d(filters, eps=1e-3, momentum=0.01)
            self.shortcut_relu = nn.ReLU()
        self.add = Add()
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        if self.projects:
            x = self.shortcut_relu(self.shortcut_bn(self.shortcut_conv(x)))
        return self.relu(self.add(y, x))


class TutorialBottleneckBlock(nn.Module):
    """1×1, 3×3 and 1×1 convolutions, each with BN and ReLU, the projection too; the addition is the end."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.out_channels = 4 * filters
        self.projects = stride > 1 or channels != 4 * filters
        self.conv1 = nn.Conv2d(channels, filters, kernel_size=1, stride=stride)
        self.bn1 = nn.BatchNorm2d(filters, eps=1e-3, momentum=0.01)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(filters, filters, kernel_size=3, padding=1)
        self.bn2 = nn.BatchNorm2d(filters, eps=1e-3, momentum=0.01)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(filters, 4 * filters, kernel_size=1)
        self.bn3 = nn.BatchNorm2d(4 * filters, eps=1e-3, momentum=0.01)
        self.relu3 = nn.ReLU()
        if self.projects:
            self.shortcut_conv = nn.Conv2d(channels, 4 * filters, kernel_size=1, stride=stride)
            self.shortcut_bn = nn.BatchNorm2d(4 * filters, eps=1e-3, momentum=0.01)
            self.shortcut_relu = nn.ReLU()
        self.add = Add()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.relu3(self.bn3(self.conv3(y)))
        if self.projects:
            x = self.shortcut_relu(self.shortcut_bn(self.shortcut_conv(x)))
        return self.add(y, x)


def tutorial_stem() -> OrderedDict[str, nn.Module]:
    """The tutorial's beginning, padded SAME: (2, 3) around the convolution, (0, 1) around the pooling."""
    return OrderedDict(
        # Block 1
        conv1=SameConv2d(3, 64, kernel_size=7, stride=2),  # 64×112×112
        bn1=nn.BatchNorm2d(64, eps=1e-3, momentum=0.01),
        relu1=nn.ReLU(),
        pool1=SameMaxPool2d(kernel_size=3, stride=2),  # 64×56×56
    )


def resnet18_tutorial(num_classes: int = 1000) -> ResNet:
    """ResNet-18 as a popular Keras tutorial has it: 11,694,312 parameters.

    Every convolution has a bias, and BN and ReLU after it, those before the addition and on the shortcut too, so that
    a residual can add but never subtract. Everything is padded SAME, which at stride 2 shifts the windows by a pixel;
    eps is Keras' default. Where the tutorial is silent this is the paper's v1: projections where the shape changes, the
    stride on the first convolution.
    """
    return ResNet(tutorial_stem, TutorialBasicBlock, (2, 2, 2, 2), num_classes)


def resnet34_tutorial(num_classes: int = 1000) -> ResNet:
    """ResNet-34 as the tutorial has it: basic blocks, 21,806,184 parameters."""
    return ResNet(tutorial_stem, TutorialBasicBlock, (3, 4, 6, 3), num_classes)


def resnet50_tutorial(num_classes: int = 1000) -> ResNet:
    """ResNet-50 as the tutorial has it: bottleneck blocks, 25,583,592 parameters."""
    return ResNet(tutorial_stem, TutorialBottleneckBlock, (3, 4, 6, 3), num_classes)


def resnet101_tutorial(num_classes: int = 1000) -> ResNet:
    """ResNet-101 as the tutorial has it: bottleneck blocks, 44,601,832 parameters."""
    return ResNet(tutorial_stem, TutorialBottleneckBlock, (3, 4, 23, 3), num_classes)


def resnet152_tutorial(num_classes: int = 1000) -> ResNet:
    """ResNet-152 as the tutorial has it: bottleneck blocks, 60,268,520 parameters."""
    return ResNet(tutorial_stem, TutorialBottleneckBlock, (3, 8, 36, 3), num_classes)
