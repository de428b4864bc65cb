"""GoogLeNet as in a popular Keras tutorial, which calls it Inception."""

from common.operations import SAME, Concat, Conv, Dense, Dropout, Flatten, GlobalAveragePool, MaxPool, Operation, ReLU
from common.specs.architecture import Architecture, Layer, chain
from common.specs.googlenet import BGR_MINUS_MEAN, PAPER, auxiliary_head


def googlenet_tutorial(num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> Architecture:
    """GoogLeNet as a popular Keras tutorial has it, to the number.

    Where it leaves the paper (`googlenet`):

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

    def max_pool(name: str) -> tuple[str, Operation]:
        return name, MaxPool(3, stride=2, padding=1)

    return Architecture(
        name="googlenet_tutorial",
        family="googlenet",
        title="GoogLeNet as in a Keras tutorial",
        year=2014,
        paper=PAPER,
        input_shape=(3, *image_size),
        layers=(
            *chain(
                ("conv1", Conv(7, stride=2, padding=SAME, filters=64)),
                ("relu1", ReLU()),
                max_pool("pool1"),
                ("conv2_reduce", Conv(1, filters=64)),
                ("relu2_reduce", ReLU()),
                ("conv2", Conv(3, padding=1, filters=192)),
                ("relu2", ReLU()),
                max_pool("pool2"),
            ),
            *_inception("inception_3a", 64, 96, 128, 16, 32, 32, after="pool2"),
            *_inception("inception_3b", 128, 128, 192, 32, 96, 64, after="inception_3a/output"),
            *chain(max_pool("pool3"), after="inception_3b/output"),
            *_inception("inception_4a", 192, 96, 208, 16, 48, 64, after="pool3"),
            *auxiliary_head("aux1", num_classes, after="inception_4a/output"),
            *_inception("inception_4b", 160, 112, 224, 24, 64, 64, after="inception_4a/output"),
            *_inception("inception_4c", 128, 128, 256, 24, 64, 64, after="inception_4b/output"),
            *_inception("inception_4d", 112, 144, 288, 32, 48, 64, after="inception_4c/output"),
            *auxiliary_head("aux2", num_classes, after="inception_4d/output"),
            *_inception("inception_4e", 256, 160, 320, 32, 128, 128, after="inception_4d/output"),
            *chain(max_pool("pool4"), after="inception_4e/output"),
            *_inception("inception_5a", 256, 160, 320, 32, 128, 128, after="pool4"),
            *_inception("inception_5b", 384, 192, 384, 48, 128, 128, after="inception_5a/output"),
            *chain(
                max_pool("pool5"),
                ("avg_pool", GlobalAveragePool()),
                ("flatten", Flatten((1024, 1, 1))),
                ("drop", Dropout(0.4)),
                ("fc", Dense(num_classes)),
                after="inception_5b/output",
            ),
        ),
        outputs={"logits": "fc", "aux1": "aux1/classifier", "aux2": "aux2/classifier"},
        preprocessing=BGR_MINUS_MEAN,
    )


def _inception(
    name: str, n1x1: int, n3x3_reduce: int, n3x3: int, n5x5_reduce: int, n5x5: int, n_pool_proj: int, *, after: str
) -> tuple[Layer, ...]:
    """Four branches side by side; the numbers of filters are named as in the paper's Table 1."""
    branches = [
        chain((f"{name}/conv1x1", Conv(1, filters=n1x1)), (f"{name}/relu1x1", ReLU()), after=after),
        chain(
            (f"{name}/conv3x3_reduce", Conv(1, filters=n3x3_reduce)),
            (f"{name}/relu3x3_reduce", ReLU()),
            (f"{name}/conv3x3", Conv(3, padding=1, filters=n3x3)),
            (f"{name}/relu3x3", ReLU()),
            after=after,
        ),
        chain(
            (f"{name}/conv5x5_reduce", Conv(1, filters=n5x5_reduce)),
            (f"{name}/relu5x5_reduce", ReLU()),
            (f"{name}/conv5x5", Conv(5, padding=2, filters=n5x5)),
            (f"{name}/relu5x5", ReLU()),
            after=after,
        ),
        chain(
            (f"{name}/pool_proj", Conv(1, filters=n_pool_proj)),
            (f"{name}/relu_pool_proj", ReLU()),
            (f"{name}/pool", MaxPool(3, padding=1)),
            after=after,
        ),
    ]
    concat = Layer(f"{name}/output", Concat(), tuple(branch[-1].name for branch in branches))
    return (*(layer for branch in branches for layer in branch), concat)
