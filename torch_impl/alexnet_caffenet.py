"""CaffeNet in PyTorch."""

from collections import OrderedDict

from torch import nn


class CaffeNet(nn.Sequential):
    """CaffeNet, the network of `bvlc_reference_caffenet.caffemodel`.

    Takes (N, 3, 227, 227) float32, BGR minus the mean; gives (N, num_classes) logits. It is `AlexNetBVLC`, but that
    each normalisation stands after its pooling: the weights of the two fit into each other, silently.

    Source: models/bvlc_reference_caffenet/deploy.prototxt in Caffe.
    """

    image_shape = (3, 227, 227)

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__(
            OrderedDict(
                # Block 1
                conv1=nn.Conv2d(3, 96, kernel_size=11, stride=4),  # 96×55×55
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(kernel_size=3, stride=2),  # 96×27×27
                # PyTorch divides alpha by size, as Caffe does.
                norm1=nn.LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=1.0),
                # Block 2
                conv2=nn.Conv2d(96, 256, kernel_size=5, padding=2, groups=2),  # 256×27×27
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(kernel_size=3, stride=2),  # 256×13×13
                norm2=nn.LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=1.0),
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
