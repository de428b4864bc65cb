"""GoogLeNet in PyTorch."""

from functools import partial

import torch
from torch import nn

from torch_impl.layers import Concat


def unit(channels, filters, kernel, *, stride=1, padding=0, bn):
    """A convolution, the batch normalisation that may take the place of its bias, a ReLU."""
    conv = nn.Conv2d(channels, filters, kernel, stride=stride, padding=padding, bias=not bn)
    norm = nn.BatchNorm2d(filters, eps=1e-3, momentum=0.1) if bn else None
    return conv, norm, nn.ReLU()


def through(x, *modules):
    """Call one module after the other; None is a layer that this variant does not have."""
    for module in modules:
        x = x if module is None else module(x)
    return x


class Inception(nn.Module):
    """Four branches side by side; the numbers of filters are named as in the paper's Table 1."""

    def __init__(self, channels, n1x1, n3x3_reduce, n3x3, n5x5_reduce, n5x5, n_pool_proj, *, bn, wide):
        super().__init__()
        self.conv1x1, self.bn1x1, self.relu1x1 = unit(channels, n1x1, 1, bn=bn)
        self.conv3x3_reduce, self.bn3x3_reduce, self.relu3x3_reduce = unit(channels, n3x3_reduce, 1, bn=bn)
        self.conv3x3, self.bn3x3, self.relu3x3 = unit(n3x3_reduce, n3x3, 3, padding=1, bn=bn)
        self.conv5x5_reduce, self.bn5x5_reduce, self.relu5x5_reduce = unit(channels, n5x5_reduce, 1, bn=bn)
        self.conv5x5, self.bn5x5, self.relu5x5 = unit(n5x5_reduce, n5x5, wide, padding=wide // 2, bn=bn)
        self.pool = nn.MaxPool2d(kernel_size=3, stride=1, padding=1)
        self.pool_proj, self.bn_pool_proj, self.relu_pool_proj = unit(channels, n_pool_proj, 1, bn=bn)
        self.output = Concat()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = through(x, self.conv1x1, self.bn1x1, self.relu1x1)
        b = through(x, self.conv3x3_reduce, self.bn3x3_reduce, self.relu3x3_reduce)
        b = through(b, self.conv3x3, self.bn3x3, self.relu3x3)
        c = through(x, self.conv5x5_reduce, self.bn5x5_reduce, self.relu5x5_reduce)
        c = through(c, self.conv5x5, self.bn5x5, self.relu5x5)
        d = through(x, self.pool, self.pool_proj, self.bn_pool_proj, self.relu_pool_proj)
        return self.output(a, b, c, d)


class AuxiliaryHead(nn.Module):
    """A classifier on the way, for training; its loss counts 0.3."""

    def __init__(self, channels, num_classes, *, bn=False):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(4) if bn else nn.AvgPool2d(kernel_size=5, stride=3)  # 4×4
        self.conv, self.bn_conv, self.relu_conv = unit(channels, 128, 1, bn=bn)  # 128×4×4
        self.flatten = nn.Flatten()  # 2048, in the order C, H, W
        self.fc = nn.Linear(2048, 1024)
        self.relu_fc = nn.ReLU()
        self.drop = nn.Dropout(p=0.7)
        self.classifier = nn.Linear(1024, num_classes)
        self.softmax = None  # only where it is asked for

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = through(x, self.pool, self.conv, self.bn_conv, self.relu_conv)
        return through(x, self.flatten, self.fc, self.relu_fc, self.drop, self.classifier, self.softmax)


class GoogLeNet(nn.Module):
    """The paper's network as BVLC released it.

    Takes (N, 3, 224, 224) float32, BGR minus the mean. Gives (N, num_classes) logits in evaluation mode; while
    training, or with `auxiliary` set, a dict of `logits`, `aux1` and `aux2`, the heads after inception_4a and 4d.

    Source: models/bvlc_googlenet/train_val.prototxt in Caffe; Table 1 of the paper.
    """

    image_shape = (3, 224, 224)
    auxiliary = False

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        lrn: bool = True,
        bn: bool = False,
        wide: int = 5,
        last_pool: int = 3,
        rate: float = 0.4,
    ) -> None:
        super().__init__()
        max_pool = partial(nn.MaxPool2d, stride=2, ceil_mode=True)
        inception = partial(Inception, bn=bn, wide=wide)
        # Block 1
        self.conv1, self.bn1, self.relu1 = unit(3, 64, 7, stride=2, padding=3, bn=bn)  # 64×112×112
        self.pool1 = max_pool(3)  # 64×56×56
        # PyTorch divides alpha by size, as Caffe does.
        self.norm1 = nn.LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=1.0) if lrn else None
        # Block 2
        self.conv2_reduce, self.bn2_reduce, self.relu2_reduce = unit(64, 64, 1, bn=bn)  # 64×56×56
        self.conv2, self.bn2, self.relu2 = unit(64, 192, 3, padding=1, bn=bn)  # 192×56×56
        self.norm2 = nn.LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=1.0) if lrn else None
        self.pool2 = max_pool(3)  # 192×28×28
        # Block 3
        self.inception_3a = inception(192, 64, 96, 128, 16, 32, 32)  # 256×28×28
        self.inception_3b = inception(256, 128, 128, 192, 32, 96, 64)  # 480×28×28
        self.pool3 = max_pool(3)  # 480×14×14
        # Block 4
        self.inception_4a = inception(480, 192, 96, 208, 16, 48, 64)  # 512×14×14
        self.aux1 = AuxiliaryHead(512, num_classes, bn=bn)
        self.inception_4b = inception(512, 160, 112, 224, 24, 64, 64)  # 512×14×14
        self.inception_4c = inception(512, 128, 128, 256, 24, 64, 64)  # 512×14×14
        self.inception_4d = inception(512, 112, 144, 288, 32, 64, 64)  # 528×14×14
        self.aux2 = AuxiliaryHead(528, num_classes, bn=bn)
        self.inception_4e = inception(528, 256, 160, 320, 32, 128, 128)  # 832×14×14
        self.pool4 = max_pool(last_pool)  # 832×7×7
        # Block 5
        self.inception_5a = inception(832, 256, 160, 320, 32, 128, 128)  # 832×7×7
        self.inception_5b = inception(832, 384, 192, 384, 48, 128, 128)  # 1024×7×7
        # Classifier
        self.pool5 = nn.AdaptiveAvgPool2d(1)  # 1024×1×1
        self.flatten = nn.Flatten()
        self.drop = nn.Dropout(p=rate)
        self.fc = nn.Linear(1024, num_classes)
        self.softmax = None  # only where it is asked for

    def forward(self, x: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        x = through(x, self.conv1, self.bn1, self.relu1, self.pool1, self.norm1)
        x = through(x, self.conv2_reduce, self.bn2_reduce, self.relu2_reduce)
        x = through(x, self.conv2, self.bn2, self.relu2, self.norm2, self.pool2)
        x = through(x, self.inception_3a, self.inception_3b, self.pool3)
        x = after_4a = self.inception_4a(x)
        x = after_4d = through(x, self.inception_4b, self.inception_4c, self.inception_4d)
        x = through(x, self.inception_4e, self.pool4, self.inception_5a, self.inception_5b)
        x = through(x, self.pool5, self.flatten, self.drop, self.fc, self.softmax)
        if self.training or self.auxiliary:
            name = "probabilities" if self.softmax else "logits"
            return {name: x, "aux1": self.aux1(after_4a), "aux2": self.aux2(after_4d)}
        return x


def googlenet_bn(num_classes: int = 1000) -> GoogLeNet:
    """GoogLeNet as torchvision has it, with batch normalisation after every convolution; RGB from −1 to 1.

    No local response normalisation, a 3×3 convolution where the paper has its 5×5, a last pool of 2×2, a dropout of
    0.2. The auxiliary heads average over 4×4 at 0, 3, 7 and 10 of 14 pixels, where the
    paper takes 5×5 with stride 3.

    Source: torchvision/models/googlenet.py.
    """
    return GoogLeNet(num_classes, lrn=False, bn=True, wide=3, last_pool=2, rate=0.2)
