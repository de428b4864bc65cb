"""AlexNet in one tower, in PyTorch: the variants of tutorials and of torchvision."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def _single_tower(
    conv1: nn.Conv2d, filters: Sequence[int], flattened: int, num_classes: int, *, dropout: bool = True
) -> OrderedDict:
    """What the tutorials share: the paper's layers without groups and normalisation, but for conv1.

    `filters` are those of the 3×3 convolutions, from conv3 on.
    """
    layers = OrderedDict(
        # Block 1
        conv1=conv1,
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(kernel_size=3, stride=2),
        # Block 2
        conv2=nn.Conv2d(96, 256, kernel_size=5, padding=2),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(kernel_size=3, stride=2),
    )
    # Block 3
    for number, (channels, width) in enumerate(pairwise([256, *filters]), start=3):
        layers[f"conv{number}"] = nn.Conv2d(channels, width, kernel_size=3, padding=1)
        layers[f"relu{number}"] = nn.ReLU()
    layers[f"pool{number}"] = nn.MaxPool2d(kernel_size=3, stride=2)
    # Classifier
    layers["flatten"] = nn.Flatten()
    layers["fc6"] = nn.Linear(flattened, 4096)
    layers["relu6"] = nn.ReLU()
    if dropout:
        layers["drop6"] = nn.Dropout(p=0.5)
    layers["fc7"] = nn.Linear(4096, 4096)
    layers["relu7"] = nn.ReLU()
    if dropout:
        layers["drop7"] = nn.Dropout(p=0.5)
    layers["fc8"] = nn.Linear(4096, num_classes)
    return layers


class AlexNetSingleTower(nn.Sequential):
    """The paper's filters in one tower: no groups, no normalisation, as most tutorials have it.

    Takes (N, 3, 227, 227) float32; gives (N, num_classes) logits. Without groups every filter reads all channels, which
    costs 1,413,120 parameters and 57 % more arithmetic than `AlexNetBVLC`, whose weights do not fit. There is
    no dropout.

    Source: PyTorch tutorials; figure 2 and section 3.5 of Krizhevsky et al. 2012, with the two towers drawn together.
    """

    image_shape = (3, 227, 227)

    def __init__(self, num_classes: int = 1000) -> None:
        conv1 = nn.Conv2d(3, 96, kernel_size=11, stride=4)  # 96×55×55; the pools give 27×27, 13×13, 6×6
        super().__init__(_single_tower(conv1, [384, 384, 256], 256 * 6 * 6, num_classes, dropout=False))


class AlexNetFourConv(nn.Sequential):
    """`AlexNetSingleTower` less one 3×3 convolution, with dropout, as a popular Keras tutorial has it.

    Takes (N, 3, 227, 227) float32; gives (N, num_classes) logits. AlexNet has five convolutions: here 1,327,488
    parameters and a fifth of the arithmetic are missing. The dense layers are called fc6 to fc8 all the same.

    Source: Krizhevsky et al. 2012, less the fourth layer.
    """

    image_shape = (3, 227, 227)

    def __init__(self, num_classes: int = 1000) -> None:
        conv1 = nn.Conv2d(3, 96, kernel_size=11, stride=4)  # 96×55×55; the pools give 27×27, 13×13, 6×6
        super().__init__(_single_tower(conv1, [384, 256], 256 * 6 * 6, num_classes))


class AlexNetMNIST(nn.Sequential):
    """AlexNet's filters on 28×28 digits: every convolution has stride 1 and keeps the size, and the pools halve it.

    Takes (N, 1, 28, 28) float32; gives (N, num_classes) logits. It has 24.7 million parameters, 400 times as many as
    `LeNet5`.

    Source: tutorials; the filters of Krizhevsky et al. 2012 without groups and normalisation.
    """

    image_shape = (1, 28, 28)

    def __init__(self, num_classes: int = 10) -> None:
        conv1 = nn.Conv2d(1, 96, kernel_size=11, padding=5)  # 96×28×28; the pools give 13×13, 6×6, 2×2
        super().__init__(_single_tower(conv1, [384, 384, 256], 256 * 2 * 2, num_classes))


class AlexNetD2L(nn.Sequential):
    """The AlexNet of *Dive into Deep Learning*: Fashion-MNIST, enlarged to 224×224, in one grey channel.

    Takes (N, 1, 224, 224) float32; gives (N, num_classes) logits. conv1 is padded by 1 and gives 54×54, not 55×55, so
    that fc6 reads 6400 numbers, not 9216: neither conv1 nor fc6 of another AlexNet fits.

    Source: Zhang et al., Dive into Deep Learning, section 8.1.
    """

    image_shape = (1, 224, 224)

    def __init__(self, num_classes: int = 10) -> None:
        conv1 = nn.Conv2d(1, 96, kernel_size=11, stride=4, padding=1)  # 96×54×54; the pools give 26×26, 12×12, 5×5
        super().__init__(_single_tower(conv1, [384, 384, 256], 256 * 5 * 5, num_classes))


class AlexNetOWT(nn.Sequential):
    """torchvision's AlexNet, that of Krizhevsky's "one weird trick": one tower, other widths, no normalisation.

    Takes (N, 3, 224, 224) float32, RGB, normalised; gives (N, num_classes) logits. conv1 is padded by 2, and dropout
    stands *before* fc6 and fc7. torchvision averages the last map to 6×6, which at 224×224 changes nothing and is left
    out. Its weights fit no other AlexNet.

    Source: torchvision/models/alexnet.py.
    """

    image_shape = (3, 224, 224)

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__(
            OrderedDict(
                # Block 1
                conv1=nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),  # 64×55×55
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(kernel_size=3, stride=2),  # 64×27×27
                # Block 2
                conv2=nn.Conv2d(64, 192, kernel_size=5, padding=2),  # 192×27×27
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(kernel_size=3, stride=2),  # 192×13×13
                # Block 3
                conv3=nn.Conv2d(192, 384, kernel_size=3, padding=1),  # 384×13×13
                relu3=nn.ReLU(),
                # Block 4
                conv4=nn.Conv2d(384, 256, kernel_size=3, padding=1),  # 256×13×13
                relu4=nn.ReLU(),
                # Block 5
                conv5=nn.Conv2d(256, 256, kernel_size=3, padding=1),  # 256×13×13
                relu5=nn.ReLU(),
                pool5=nn.MaxPool2d(kernel_size=3, stride=2),  # 256×6×6
                # Classifier
                flatten=nn.Flatten(),  # 9216, in the order C, H, W
                drop5=nn.Dropout(p=0.5),
                fc6=nn.Linear(9216, 4096),
                relu6=nn.ReLU(),
                drop6=nn.Dropout(p=0.5),
                fc7=nn.Linear(4096, 4096),
                relu7=nn.ReLU(),
                fc8=nn.Linear(4096, num_classes),
            )
        )
