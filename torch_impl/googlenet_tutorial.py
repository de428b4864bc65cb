"""GoogLeNet as a popular Keras tutorial has it, under the name of Inception, in PyTorch."""

import torch
from torch import nn

from torch_impl.googlenet import AuxiliaryHead, through, unit
from torch_impl.layers import Concat, SameConv2d


class TutorialInception(nn.Module):
    """Four branches side by side, the last of which projects before it pools."""

    def __init__(self, channels, n1x1, n3x3_reduce, n3x3, n5x5_reduce, n5x5, n_pool_proj):
        super().__init__()
        self.conv1x1, _, self.relu1x1 = unit(channels, n1x1, 1, bn=False)
        self.conv3x3_reduce, _, self.relu3x3_reduce = unit(channels, n3x3_reduce, 1, bn=False)
        self.conv3x3, _, self.relu3x3 = unit(n3x3_reduce, n3x3, 3, padding=1, bn=False)
        self.conv5x5_reduce, _, self.relu5x5_reduce = unit(channels, n5x5_reduce, 1, bn=False)
        self.conv5x5, _, self.relu5x5 = unit(n5x5_reduce, n5x5, 5, padding=2, bn=False)
        self.pool_proj, _, self.relu_pool_proj = unit(channels, n_pool_proj, 1, bn=False)
        self.pool = nn.MaxPool2d(kernel_size=3, stride=1, padding=1)
        self.output = Concat()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = through(x, self.conv1x1, self.relu1x1)
        b = through(x, self.conv3x3_reduce, self.relu3x3_reduce, self.conv3x3, self.relu3x3)
        c = through(x, self.conv5x5_reduce, self.relu5x5_reduce, self.conv5x5, self.relu5x5)
        d = through(x, self.pool_proj, self.relu_pool_proj, self.pool)
        return self.output(a, b, c, d)


class GoogLeNetTutorial(nn.Module):
    """GoogLeNet as a popular Keras tutorial has it, to the number.

    Takes (N, 3, 224, 224) float32, BGR minus the mean. Gives (N, num_classes) logits, or the dict of `GoogLeNet`.

    Where it leaves the paper (`GoogLeNet`):

    - conv1 is padded SAME, by 2 above and left and 3 below and right, not by 3: every window lies a pixel further down
      and right.
    - No local response normalisation.
    - The pools with stride 2 are padded by one on every side, where Caffe rounds up: every window lies a pixel further
      up and left.
    - A module's pool branch projects before it pools: fewer channels to pool, and another function.
    - inception_4d has 48 filters of 5×5, not 64: 24,080 parameters and 4.3 million multiply-adds fewer. aux2 and
      inception_4e, which read it, have other shapes, so that the paper's weights do not fit.
    - A last pool, pool5, takes 7×7 to 4×4 before the average, which becomes the mean of 16 maxima.
    """

    image_shape = (3, 224, 224)
    auxiliary = False

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        # Block 1
        self.conv1, self.relu1 = SameConv2d(3, 64, kernel_size=7, stride=2), nn.ReLU()  # 64×112×112
        self.pool1 = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)  # 64×56×56
        # Block 2
        self.conv2_reduce, _, self.relu2_reduce = unit(64, 64, 1, bn=False)  # 64×56×56
        self.conv2, _, self.relu2 = unit(64, 192, 3, padding=1, bn=False)  # 192×56×56
        self.pool2 = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)  # 192×28×28
        # Block 3
        self.inception_3a = TutorialInception(192, 64, 96, 128, 16, 32, 32)  # 256×28×28
        self.inception_3b = TutorialInception(256, 128, 128, 192, 32, 96, 64)  # 480×28×28
        self.pool3 = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)  # 480×14×14
        # Block 4
        self.inception_4a = TutorialInception(480, 192, 96, 208, 16, 48, 64)  # 512×14×14
        self.aux1 = AuxiliaryHead(512, num_classes)
        self.inception_4b = TutorialInception(512, 160, 112, 224, 24, 64, 64)  # 512×14×14
        self.inception_4c = TutorialInception(512, 128, 128, 256, 24, 64, 64)  # 512×14×14
        self.inception_4d = TutorialInception(512, 112, 144, 288, 32, 48, 64)  # 512×14×14
        self.aux2 = AuxiliaryHead(512, num_classes)
        self.inception_4e = TutorialInception(512, 256, 160, 320, 32, 128, 128)  # 832×14×14
        self.pool4 = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)  # 832×7×7
        # Block 5
        self.inception_5a = TutorialInception(832, 256, 160, 320, 32, 128, 128)  # 832×7×7
        self.inception_5b = TutorialInception(832, 384, 192, 384, 48, 128, 128)  # 1024×7×7
        self.pool5 = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)  # 1024×4×4
        # Classifier
        self.avg_pool = nn.AdaptiveAvgPool2d(1)  # 1024×1×1
        self.flatten = nn.Flatten()
        self.drop = nn.Dropout(p=0.4)
        self.fc = nn.Linear(1024, num_classes)
        self.softmax = None  # only where it is asked for

    def forward(self, x: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        x = through(x, self.conv1, self.relu1, self.pool1)
        x = through(x, self.conv2_reduce, self.relu2_reduce, self.conv2, self.relu2, self.pool2)
        x = through(x, self.inception_3a, self.inception_3b, self.pool3)
        x = after_4a = self.inception_4a(x)
        x = after_4d = through(x, self.inception_4b, self.inception_4c, self.inception_4d)
        x = through(x, self.inception_4e, self.pool4, self.inception_5a, self.inception_5b, self.pool5)
        x = through(x, self.avg_pool, self.flatten, self.drop, self.fc, self.softmax)
        if self.training or self.auxiliary:
            name = "probabilities" if self.softmax else "logits"
            return {name: x, "aux1": self.aux1(after_4a), "aux2": self.aux2(after_4d)}
        return x
