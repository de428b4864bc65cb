"""AlexNet in two towers on two devices, in PyTorch: model parallel, as Krizhevsky trained it on two GPUs of 3 GB."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from common.errors import TriptychError, Unavailable
from common.specs import get_spec
from common.specs.architecture import Architecture
from common.weights import Weights, check_weights
from torch_impl import backend

Halves = list[torch.Tensor]
"""What the first and the second tower hold of a layer's output, along the axis of the channels, each on its device."""


class Both(nn.ModuleList):
    """A layer in both towers, each half of it reading what its own tower holds."""

    def __init__(self, layer: type[nn.Module], *numbers: int, **options: float) -> None:
        super().__init__(layer(*numbers, **options) for _ in range(2))

    def forward(self, halves: Halves) -> Halves:
        return [layer(half) for layer, half in zip(self, halves, strict=True)]


class Exchanging(Both):
    """A layer in both towers, each half of it reading what both of them hold."""

    def forward(self, halves: Halves) -> Halves:
        return super().forward([torch.cat([other.to(half.device) for other in halves], dim=1) for half in halves])


class Joining(nn.Linear):
    """A dense layer on one device, reading what both towers hold; gives a tensor."""

    def forward(self, halves: Halves) -> torch.Tensor:
        return super().forward(torch.cat([half.to(self.weight.device) for half in halves], dim=1))


class NormOfPart(nn.LocalResponseNorm):
    """Local response normalisation of some maps, (N, C, H, W), that lie between others: (N, ≥ 0, H, W) on each side."""

    def forward(self, before: torch.Tensor, maps: torch.Tensor, behind: torch.Tensor) -> torch.Tensor:
        normalised = super().forward(torch.cat([before, maps, behind], dim=1))
        return normalised[:, before.shape[1] :][:, : maps.shape[1]]


class NormAcrossBorder(Both):
    """Local response normalisation that sees, of the other tower, as many maps as its window reaches over the border.

    A window of 5 reaches 2 maps far. Without them, each of the towers would normalise its maps as if there were no
    others, and the 2 maps on either side of the border would differ from the grouped network's.
    """

    def __init__(self, size: int, alpha: float, beta: float, k: float) -> None:
        super().__init__(NormOfPart, size=size, alpha=alpha, beta=beta, k=k)
        self.reach = size // 2

    def forward(self, halves: Halves) -> Halves:
        (first, second), (norm1, norm2) = halves, self
        before, behind = first[:, -self.reach :].to(second.device), second[:, : self.reach].to(first.device)
        return [norm1(first[:, :0], first, behind), norm2(before, second, second[:, :0])]


class AlexNetTowers(nn.Sequential):
    """BVLC's AlexNet on two devices, each of which holds a tower: half of every layer. The same function, to the bit.

    Takes (N, 3, 227, 227) float32, BGR minus the mean; gives (N, num_classes) logits on the first device. A layer has a
    half in each tower, `conv1.0` and `conv1.1`. conv2, conv4 and conv5 read their own tower's maps, the groups of
    `AlexNetBVLC`; in front of conv3, fc6 and fc7 the towers exchange what they hold. fc8 is on the first device. Every
    filter and unit is computed in one place, so that no sum goes across the border.

    The paper lets the GPUs "communicate only in certain layers", and does not name the normalisations. Those of the
    grouped network see all maps, so here 2 maps on either side of the border are exchanged for norm1 and norm2.

    Source: section 3.2 and figure 2 of Krizhevsky et al. 2012; numbers as in `AlexNetBVLC`.
    """

    image_shape = (3, 227, 227)

    def __init__(self, devices: Sequence[str] = ("cuda:0", "cuda:1"), num_classes: int = 1000) -> None:
        """The towers on two devices, each as PyTorch spells it; `cpu` twice will do.

        Raises:
            TriptychError: these are not two devices, or one of them is not here.
        """
        if len(devices) != 2:
            raise TriptychError(f"the towers are two, but {len(devices)} devices are given for them")
        gpus = torch.cuda.device_count()
        for device in map(torch.device, devices):
            if device.type == "cuda" and (device.index or 0) >= gpus:
                raise Unavailable(f"a tower is to be on {device}, but PyTorch sees {gpus} GPUs; give ('cpu', 'cpu')")
        super().__init__(
            OrderedDict(
                # Block 1
                conv1=Both(nn.Conv2d, 3, 48, kernel_size=11, stride=4),  # 2 × 48×55×55
                relu1=Both(nn.ReLU),
                norm1=NormAcrossBorder(size=5, alpha=1e-4, beta=0.75, k=1.0),
                pool1=Both(nn.MaxPool2d, kernel_size=3, stride=2),  # 2 × 48×27×27
                # Block 2
                conv2=Both(nn.Conv2d, 48, 128, kernel_size=5, padding=2),  # 2 × 128×27×27
                relu2=Both(nn.ReLU),
                norm2=NormAcrossBorder(size=5, alpha=1e-4, beta=0.75, k=1.0),
                pool2=Both(nn.MaxPool2d, kernel_size=3, stride=2),  # 2 × 128×13×13
                # Block 3
                conv3=Exchanging(nn.Conv2d, 256, 192, kernel_size=3, padding=1),  # 2 × 192×13×13
                relu3=Both(nn.ReLU),
                # Block 4
                conv4=Both(nn.Conv2d, 192, 192, kernel_size=3, padding=1),  # 2 × 192×13×13
                relu4=Both(nn.ReLU),
                # Block 5
                conv5=Both(nn.Conv2d, 192, 128, kernel_size=3, padding=1),  # 2 × 128×13×13
                relu5=Both(nn.ReLU),
                pool5=Both(nn.MaxPool2d, kernel_size=3, stride=2),  # 2 × 128×6×6
                # Classifier
                flatten=Both(nn.Flatten),  # 2 × 4608; side by side, they are the grouped network's C, H, W
                fc6=Exchanging(nn.Linear, 9216, 2048),  # 2 × 2048
                relu6=Both(nn.ReLU),
                drop6=Both(nn.Dropout, p=0.5),
                fc7=Exchanging(nn.Linear, 4096, 2048),  # 2 × 2048
                relu7=Both(nn.ReLU),
                drop7=Both(nn.Dropout, p=0.5),
                fc8=Joining(4096, num_classes),
            )
        )
        self.devices = [torch.device(device) for device in devices]
        for layer in self:
            for half, device in zip(layer if isinstance(layer, Both) else [layer], self.devices, strict=False):
                half.to(device)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward([image.to(device) for device in self.devices])


def load_weights(model: AlexNetTowers, weights: Weights) -> None:
    """Copy canonical weights of `alexnet_bvlc` into the towers: half of each layer's filters and units into each.

    Raises:
        TriptychError: the weights do not fit; nothing has been changed then.
    """
    check_weights(_spec(model).parameter_shapes, weights)
    halves = {}
    for name, array in weights.items():
        places = _places(name)
        halves |= dict(zip(places, np.split(array, len(places)), strict=True))
    backend.load_weights(model, halves)


def read_weights(model: AlexNetTowers) -> dict[str, np.ndarray]:
    """A copy of the weights, float32, as those of `alexnet_bvlc`."""
    halves = backend.read_weights(model)
    names = _spec(model).parameter_shapes
    return {name: np.concatenate([halves[place] for place in _places(name)]) for name in names}


def _spec(model: AlexNetTowers) -> Architecture:
    return get_spec("alexnet_bvlc", num_classes=model.fc8.out_features)


def _places(parameter: str) -> list[str]:
    """Where a parameter of `alexnet_bvlc` is here: `conv1/weight` in `conv1/0/weight` and `conv1/1/weight`."""
    layer, kind = parameter.split("/")
    return [parameter] if layer == "fc8" else [f"{layer}/0/{kind}", f"{layer}/1/{kind}"]
