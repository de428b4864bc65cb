"""AlexNet: Krizhevsky, Sutskever, Hinton, *ImageNet Classification with Deep Convolutional Neural Networks*, 2012."""

from common.operations import LRN, Conv, Dense, Dropout, Flatten, MaxPool, ReLU
from common.specs.architecture import Architecture, Preprocessing, chain

PAPER = "Krizhevsky et al. 2012, ImageNet Classification with Deep Convolutional Neural Networks"


def alexnet_bvlc(num_classes: int = 1000, image_size: tuple[int, int] = (227, 227)) -> Architecture:
    """BVLC's AlexNet, the network of `bvlc_alexnet.caffemodel` and `bvlc_alexnet.npy`.

    The paper's two towers become two groups in conv2, conv4 and conv5. Each normalisation follows its ReLU and precedes
    its pooling (CaffeNet has it the other way round). k is 1 and alpha is divided by the window of 5, where the paper
    has k 2 and does not divide.

    Source: models/bvlc_alexnet/deploy.prototxt in Caffe.
    """
    return Architecture(
        name="alexnet_bvlc",
        family="alexnet",
        title="AlexNet as released by BVLC with Caffe",
        year=2012,
        paper=PAPER,
        input_shape=(3, *image_size),
        layers=chain(
            ("conv1", Conv(11, stride=4, filters=96)),
            ("relu1", ReLU()),
            ("norm1", LRN(size=5, alpha=1e-4, beta=0.75, k=1.0)),
            ("pool1", MaxPool(3, stride=2)),
            ("conv2", Conv(5, padding=2, filters=256, groups=2)),
            ("relu2", ReLU()),
            ("norm2", LRN(size=5, alpha=1e-4, beta=0.75, k=1.0)),
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


def caffenet(num_classes: int = 1000, image_size: tuple[int, int] = (227, 227)) -> Architecture:
    """CaffeNet, the network of `bvlc_reference_caffenet.caffemodel`: `alexnet_bvlc`, pooled before it is normalised.

    The weights of the two fit into each other, silently, and give other numbers. Its own mean is that of
    imagenet_mean.binaryproto.

    Source: models/bvlc_reference_caffenet/deploy.prototxt in Caffe.
    """
    return Architecture(
        name="caffenet",
        family="alexnet",
        title="CaffeNet as released by BVLC with Caffe",
        year=2012,
        paper=PAPER,
        input_shape=(3, *image_size),
        layers=chain(
            ("conv1", Conv(11, stride=4, filters=96)),
            ("relu1", ReLU()),
            ("pool1", MaxPool(3, stride=2)),
            ("norm1", LRN(size=5, alpha=1e-4, beta=0.75, k=1.0)),
            ("conv2", Conv(5, padding=2, filters=256, groups=2)),
            ("relu2", ReLU()),
            ("pool2", MaxPool(3, stride=2)),
            ("norm2", LRN(size=5, alpha=1e-4, beta=0.75, k=1.0)),
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
        preprocessing=Preprocessing("BGR", mean=(104.007, 116.669, 122.679)),
    )


def alexnet_paper(num_classes: int = 1000, image_size: tuple[int, int] = (227, 227)) -> Architecture:
    """AlexNet as the paper describes it: two towers, and the normalisation with k 2 and an alpha that is not divided.

    Apart from those constants it is `alexnet_bvlc`, whose weights fit in, silently, and give other numbers. alpha is
    1e-4 in the paper's formula; `LRN` here divides by its window of 5, hence 5e-4. The paper says 224×224, but its
    55×55 maps follow from 227 (or from 224 padded by 2 and 1).

    Source: sections 3.3 to 3.5 and 4.2 of the paper.
    """
    return Architecture(
        name="alexnet_paper",
        family="alexnet",
        title="AlexNet as the paper describes it",
        year=2012,
        paper=PAPER,
        input_shape=(3, *image_size),
        layers=chain(
            ("conv1", Conv(11, stride=4, filters=96)),
            ("relu1", ReLU()),
            ("norm1", LRN(size=5, alpha=5e-4, beta=0.75, k=2.0)),
            ("pool1", MaxPool(3, stride=2)),
            ("conv2", Conv(5, padding=2, filters=256, groups=2)),
            ("relu2", ReLU()),
            ("norm2", LRN(size=5, alpha=5e-4, beta=0.75, k=2.0)),
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
        preprocessing=Preprocessing("RGB", mean=(124.0, 117.0, 104.0)),
    )
