"""Operations that PyTorch has as functions only, or not at all, as modules.

Without a module a layer has no name to be compared by.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from common.operations import same_padding


class Add(nn.Module):
    """The sum of its inputs."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


class Concat(nn.Module):
    """The channels of its inputs, (N, C, H, W), one after the other."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat(inputs, dim=1)


class SelectChannels(nn.Module):
    """Some channels of (N, C, H, W), by number."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = list(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, self.channels]


class SubSampling(nn.Module):
    """LeNet-5's: the sum of each 2×2 window, times a trainable coefficient, plus a trainable bias, for each channel.

    A new layer is the mean of each window.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels, 1, 1), 0.25))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.avg_pool2d(x, 2, divisor_override=1) * self.weight + self.bias


class ScaledTanh(nn.Module):
    """amplitude · tanh(slope · x)."""

    def __init__(self, amplitude: float, slope: float) -> None:
        super().__init__()
        self.amplitude = amplitude
        self.slope = slope

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.amplitude * torch.tanh(self.slope * x)


class SameConv2d(nn.Conv2d):
    """Convolution padded as TensorFlow's SAME, by the size of its input; PyTorch's own is for stride 1 only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        vertical, horizontal = same_padding(x.shape[2:], self.kernel_size, self.stride)
        return super().forward(functional.pad(x, (*horizontal, *vertical)))


class SameMaxPool2d(nn.MaxPool2d):
    """Max pooling padded as TensorFlow's SAME, by the size of its input; padding never wins."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel, stride = (self.kernel_size, self.kernel_size), (self.stride, self.stride)
        vertical, horizontal = same_padding(x.shape[2:], kernel, stride)
        return super().forward(functional.pad(x, (*horizontal, *vertical), value=-torch.inf))
