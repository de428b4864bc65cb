"""The LeNet of Caffe in PyTorch."""

from collections import OrderedDict

from torch import nn


class LeNetBVLC(nn.Sequential):
    """The LeNet of Caffe's MNIST example, the network of `lenet_iter_10000.caffemodel`.

    Takes (N, 1, 28, 28) float32, the pixels over 256; gives (N, num_classes) logits. Nothing stands between a
    convolution and its pooling: the only ReLU is after ip1.

    Source: examples/mnist/lenet.prototxt in Caffe.
    """

    image_shape = (1, 28, 28)

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(
            OrderedDict(
                # Block 1
                conv1=nn.Conv2d(1, 20, kernel_size=5),  # 20×24×24
                pool1=nn.MaxPool2d(kernel_size=2, stride=2),  # 20×12×12
                # Block 2
                conv2=nn.Conv2d(20, 50, kernel_size=5),  # 50×8×8
                pool2=nn.MaxPool2d(kernel_size=2, stride=2),  # 50×4×4
                # Classifier
                flatten=nn.Flatten(),  # 800, in the order C, H, W
                ip1=nn.Linear(800, 500),
                relu1=nn.ReLU(),
                ip2=nn.Linear(500, num_classes),
            )
        )
