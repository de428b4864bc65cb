"""AlexNet as a popular tutorial for TensorFlow 1 has it, in PyTorch."""

from collections import OrderedDict

from torch import nn


class AlexNetTFTutorial(nn.Sequential):
    """The AlexNet of a popular TensorFlow 1 tutorial, "finetune_alexnet_with_tensorflow", as it was in 2018.

    Takes (N, 3, 227, 227) float32, BGR minus the mean; gives (N, num_classes) logits. It is `AlexNetBVLC` but for
    the normalisation: the tutorial gives Caffe's alpha of 1e-4 to TensorFlow, which does not divide it by the window of
    5. In Caffe's convention that is 5e-4, with a k of 1. BVLC's weights fit in, silently, and give other numbers.

    Source: alexnet.py in kratzert/finetune_alexnet_with_tensorflow, from May to August 2018 and in its many copies.
    """

    image_shape = (3, 227, 227)

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__(
            OrderedDict(
                # Block 1
                conv1=nn.Conv2d(3, 96, kernel_size=11, stride=4),  # 96×55×55
                relu1=nn.ReLU(),
                # PyTorch divides alpha by size, the tutorial does not: 5e-4 = 5 · 1e-4.
                norm1=nn.LocalResponseNorm(size=5, alpha=5e-4, beta=0.75, k=1.0),
                pool1=nn.MaxPool2d(kernel_size=3, stride=2),  # 96×27×27
                # Block 2
                conv2=nn.Conv2d(96, 256, kernel_size=5, padding=2, groups=2),  # 256×27×27
                relu2=nn.ReLU(),
                norm2=nn.LocalResponseNorm(size=5, alpha=5e-4, beta=0.75, k=1.0),
                pool2=nn.MaxPool2d(kernel_size=3, stride=2),  # 256×13×13
                # Block 3
                conv3=nn.Conv2d(256, 384, kernel_size=3, padding=1),  # 384×13×13
                relu3=nn.ReLU(),
                # Block 4
                conv4=nn.Conv2d(384, 384, kernel_size=3, padding=1, groups=2),  # 384×13×13
                relu4=nn.ReLU(),
                # Block 5
                conv5=nn.Conv2d(384, 256, kernel_size=3, padding=1, groups=2),  # 256×13×13
                relu5=nn.ReLU(),
                pool5=nn.MaxPool2d(kernel_size=3, stride=2),  # 256×6×6
                # Classifier
                flatten=nn.Flatten(),  # 9216, in the order C, H, W
                fc6=nn.Linear(9216, 4096),
                relu6=nn.ReLU(),
                drop6=nn.Dropout(p=0.5),
                fc7=nn.Linear(4096, 4096),
                relu7=nn.ReLU(),
                drop7=nn.Dropout(p=0.5),
                fc8=nn.Linear(4096, num_classes),
            )
        )
