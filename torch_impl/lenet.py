"""LeNet in PyTorch."""

from collections import OrderedDict

import torch
from torch import nn

from torch_impl.layers import Concat, ScaledTanh, SelectChannels, SubSampling

# The maps of S2 that each filter of C3 reads: the columns of the paper's Table I.
MAPS_OF_C3 = [
    [0, 1, 2],
    [1, 2, 3],
    [2, 3, 4],
    [3, 4, 5],
    [0, 4, 5],
    [0, 1, 5],
    [0, 1, 2, 3],
    [1, 2, 3, 4],
    [2, 3, 4, 5],
    [0, 3, 4, 5],
    [0, 1, 4, 5],
    [0, 1, 2, 5],
    [0, 1, 3, 4],
    [1, 2, 4, 5],
    [0, 2, 3, 5],
    [0, 1, 2, 3, 4, 5],
]


class LeNet5(nn.Sequential):
    """LeNet-5 as it is usually taught: C3 reads every map of S2, and the output is a dense layer.

    Takes (N, 1, 32, 32) float32; gives (N, num_classes) logits. The paper connects C3 sparsely (see `LeNet5Sparse`) and
    ends in radial basis functions. Nothing squashes what a sub-sampling reads.

    Source: section II.B and appendix A of LeCun et al. 1998.
    """

    image_shape = (1, 32, 32)

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(
            OrderedDict(
                # Block 1
                c1=nn.Conv2d(1, 6, kernel_size=5),  # 6×28×28
                s2=SubSampling(6),  # 6×14×14
                sigmoid2=nn.Sigmoid(),
                # Block 2
                c3=nn.Conv2d(6, 16, kernel_size=5),  # 16×10×10
                s4=SubSampling(16),  # 16×5×5
                sigmoid4=nn.Sigmoid(),
                # Block 3
                c5=nn.Conv2d(16, 120, kernel_size=5),  # 120×1×1
                tanh5=ScaledTanh(amplitude=1.7159, slope=2 / 3),
                # Classifier
                flatten=nn.Flatten(),  # 120
                f6=nn.Linear(120, 84),
                tanh6=ScaledTanh(amplitude=1.7159, slope=2 / 3),
                output=nn.Linear(84, num_classes),
            )
        )


class _SparseC3(nn.Module):
    """Sixteen convolutions of one filter, each on its own choice of maps."""

    def __init__(self) -> None:
        super().__init__()
        for number, maps in enumerate(MAPS_OF_C3, start=1):
            self.add_module(f"maps{number}", SelectChannels(maps))
            self.add_module(f"map{number}", nn.Conv2d(len(maps), 1, kernel_size=5))
        self.output = Concat()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        filtered = []
        for number in range(1, 17):
            maps = getattr(self, f"maps{number}")(x)
            filtered.append(getattr(self, f"map{number}")(maps))
        return self.output(*filtered)


class LeNet5Sparse(nn.Sequential):
    """LeNet-5 with the paper's connection table: each filter of C3 reads three, four or all six maps of S2.

    Sixteen small convolutions instead of one: 1,516 parameters in C3 instead of 2,416, and more time, since no
    framework has an operation for it. Otherwise `LeNet5`.

    Source: section II.B and Table I of LeCun et al. 1998.
    """

    image_shape = (1, 32, 32)

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(
            OrderedDict(
                # Block 1
                c1=nn.Conv2d(1, 6, kernel_size=5),  # 6×28×28
                s2=SubSampling(6),  # 6×14×14
                sigmoid2=nn.Sigmoid(),
                # Block 2
                c3=_SparseC3(),  # 16×10×10
                s4=SubSampling(16),  # 16×5×5
                sigmoid4=nn.Sigmoid(),
                # Block 3
                c5=nn.Conv2d(16, 120, kernel_size=5),  # 120×1×1
                tanh5=ScaledTanh(amplitude=1.7159, slope=2 / 3),
                # Classifier
                flatten=nn.Flatten(),  # 120
                f6=nn.Linear(120, 84),
                tanh6=ScaledTanh(amplitude=1.7159, slope=2 / 3),
                output=nn.Linear(84, num_classes),
            )
        )


class LeNetCaffe(nn.Sequential):
    """LeNet with the widths of Caffe's example (20, 50, 500), max-pooling and ReLU, on a padded 32×32 image.

    Takes (N, 1, 32, 32) float32; gives (N, num_classes) logits. Caffe's own (`LeNetBVLC`) takes 28×28, does not pad,
    and has a ReLU after its first dense layer only; the padding makes fc1 four times as large.

    Source: examples/mnist/lenet.prototxt in Caffe, with the changes above.
    """

    image_shape = (1, 32, 32)

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(
            OrderedDict(
                # Block 1
                conv1=nn.Conv2d(1, 20, kernel_size=5, padding=2),  # 20×32×32
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(kernel_size=2, stride=2),  # 20×16×16
                # Block 2
                conv2=nn.Conv2d(20, 50, kernel_size=5, padding=2),  # 50×16×16
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(kernel_size=2, stride=2),  # 50×8×8
                # Classifier
                flatten=nn.Flatten(),  # 3200, in the order C, H, W
                fc1=nn.Linear(3200, 500),
                relu3=nn.ReLU(),
                fc2=nn.Linear(500, num_classes),
            )
        )
