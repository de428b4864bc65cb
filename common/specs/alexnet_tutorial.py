"""AlexNet as in a popular tutorial for TensorFlow 1."""

from common.operations import LRN, Conv, Dense, Dropout, Flatten, MaxPool, ReLU
from common.specs.alexnet import PAPER
from common.specs.architecture import Architecture, Preprocessing, chain


def alexnet_tf_tutorial(num_classes: int = 1000, image_size: tuple[int, int] = (227, 227)) -> Architecture:
    """The AlexNet of a popular TensorFlow 1 tutorial, "finetune_alexnet_with_tensorflow", as it was in 2018.

    Apart from its normalisation it is `alexnet_bvlc`, whose weights the tutorial loads. It gives Caffe's alpha of 1e-4
    to TensorFlow, which does not divide it by the window of 5: in Caffe's convention, that of `LRN` here, 5e-4. k is 1,
    where the paper, whose alpha that would be, has 2. What it costs stands in docs/errata.md; the tutorial itself has
    had 2e-5 since. Weights that were fine-tuned with it belong to this network.

    Source: alexnet.py in kratzert/finetune_alexnet_with_tensorflow, from May to August 2018 and in its many copies.
    """
    return Architecture(
        name="alexnet_tf_tutorial",
        family="alexnet",
        title="AlexNet as in a TensorFlow 1 tutorial",
        year=2012,
        paper=PAPER,
        input_shape=(3, *image_size),
        layers=chain(
            ("conv1", Conv(11, stride=4, filters=96)),
            ("relu1", ReLU()),
            ("norm1", LRN(size=5, alpha=5e-4, beta=0.75, k=1.0)),
            ("pool1", MaxPool(3, stride=2)),
            ("conv2", Conv(5, padding=2, filters=256, groups=2)),
            ("relu2", ReLU()),
            ("norm2", LRN(size=5, alpha=5e-4, beta=0.75, k=1.0)),
            ("pool2", MaxPool(3, stride=2)),
            ("conv3", Conv(3, padding=1, filters=384)),
            ("relu3", ReLU()),
            ("conv4", Conv(3, padding=1, filters=384, groups=2)),
            ("relu4", ReLU()),
            ("conv5", Conv(3, padding=1, filters=256, groups=2)),
            ("relu5", ReLU()),
            ("pool5", MaxPool(3, stride=2)),
            ("flatten", Flatten((256, 6, 6))),
            ("fc6", Dense(4096)),
            ("relu6", ReLU()),
            ("drop6", Dropout(0.5)),
            ("fc7", Dense(4096)),
            ("relu7", ReLU()),
            ("drop7", Dropout(0.5)),
            ("fc8", Dense(num_classes)),
        ),
        outputs={"logits": "fc8"},
        preprocessing=Preprocessing("BGR", mean=(104.0, 117.0, 124.0)),
    )
