"""ResNet: He, Zhang, Ren, Sun, *Deep Residual Learning for Image Recognition*, 2015, and two families of its name.

All have the depths of the paper's Table 1. They differ in the place of a block's stride and in the layers around its
addition.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from common.operations import SAME, Add, BatchNorm, Conv, Dense, Flatten, GlobalAveragePool, MaxPool, ReLU
from common.specs.architecture import IMAGE, Architecture, Layer, Preprocessing, chain

PAPER = "He et al. 2015, Deep Residual Learning for Image Recognition"

CAFFE = Preprocessing("BGR", mean=(103.939, 116.779, 123.68))
TORCHVISION = Preprocessing("RGB", mean=(123.675, 116.28, 103.53), scale=(58.395, 57.12, 57.375))
UNIT_INTERVAL = Preprocessing("RGB", scale=(255.0, 255.0, 255.0))

Block = Callable[[str, str, int, int, bool], tuple[Layer, ...]]
"""(name, the layer it reads, filters, stride, whether the shortcut is a projection) → the block's layers."""


def basic_block(name: str, after: str, filters: int, stride: int, project: bool) -> tuple[Layer, ...]:
    """Two 3×3 convolutions. The paper's Figure 5, left."""
    shortcut = _projection(name, after, filters, stride) if project else ()
    return (
        *chain(
            (f"{name}/conv1", Conv(3, stride=stride, padding=1, filters=filters, bias=False)),
            (f"{name}/bn1", BatchNorm(eps=1e-5)),
            (f"{name}/relu1", ReLU()),
            (f"{name}/conv2", Conv(3, padding=1, filters=filters, bias=False)),
            (f"{name}/bn2", BatchNorm(eps=1e-5)),
            after=after,
        ),
        *shortcut,
        Layer(f"{name}/add", Add(), (f"{name}/bn2", shortcut[-1].name if shortcut else after)),
        Layer(f"{name}/relu", ReLU(), (f"{name}/add",)),
    )


def bottleneck_block(
    name: str, after: str, filters: int, stride: int, project: bool, *, stride_on_3x3: bool = False
) -> tuple[Layer, ...]:
    """1×1, 3×3 and 1×1 convolutions, the last with four times the filters. The paper's Figure 5, right."""
    first, second = (1, stride) if stride_on_3x3 else (stride, 1)
    shortcut = _projection(name, after, 4 * filters, stride) if project else ()
    return (
        *chain(
            (f"{name}/conv1", Conv(1, stride=first, filters=filters, bias=False)),
            (f"{name}/bn1", BatchNorm(eps=1e-5)),
            (f"{name}/relu1", ReLU()),
            (f"{name}/conv2", Conv(3, stride=second, padding=1, filters=filters, bias=False)),
            (f"{name}/bn2", BatchNorm(eps=1e-5)),
            (f"{name}/relu2", ReLU()),
            (f"{name}/conv3", Conv(1, filters=4 * filters, bias=False)),
            (f"{name}/bn3", BatchNorm(eps=1e-5)),
            after=after,
        ),
        *shortcut,
        Layer(f"{name}/add", Add(), (f"{name}/bn3", shortcut[-1].name if shortcut else after)),
        Layer(f"{name}/relu", ReLU(), (f"{name}/add",)),
    )


def _projection(name: str, after: str, filters: int, stride: int) -> tuple[Layer, ...]:
    """The shortcut where the shape changes: a 1×1 convolution, the paper's option B."""
    return chain(
        (f"{name}/shortcut_conv", Conv(1, stride=stride, filters=filters, bias=False)),
        (f"{name}/shortcut_bn", BatchNorm(eps=1e-5)),
        after=after,
    )


def tutorial_basic_block(name: str, after: str, filters: int, stride: int, project: bool) -> tuple[Layer, ...]:
    """Two 3×3 convolutions, each with BN and ReLU, the projection too; a ReLU after the addition."""
    shortcut = _tutorial_projection(name, after, filters, stride) if project else ()
    return (
        *chain(
            (f"{name}/conv1", Conv(3, stride=stride, padding=SAME, filters=filters)),
            (f"{name}/bn1", BatchNorm(eps=1e-3)),
            (f"{name}/relu1", ReLU()),
            (f"{name}/conv2", Conv(3, padding=SAME, filters=filters)),
            (f"{name}/bn2", BatchNorm(eps=1e-3)),
            (f"{name}/relu2", ReLU()),
            after=after,
        ),
        *shortcut,
        Layer(f"{name}/add", Add(), (f"{name}/relu2", shortcut[-1].name if shortcut else after)),
        Layer(f"{name}/relu", ReLU(), (f"{name}/add",)),
    )


def tutorial_bottleneck_block(name: str, after: str, filters: int, stride: int, project: bool) -> tuple[Layer, ...]:
    """1×1, 3×3 and 1×1 convolutions, each with BN and ReLU, the projection too; the addition is the end."""
    shortcut = _tutorial_projection(name, after, 4 * filters, stride) if project else ()
    return (
        *chain(
            (f"{name}/conv1", Conv(1, stride=stride, filters=filters)),
            (f"{name}/bn1", BatchNorm(eps=1e-3)),
            (f"{name}/relu1", ReLU()),
            (f"{name}/conv2", Conv(3, padding=SAME, filters=filters)),
            (f"{name}/bn2", BatchNorm(eps=1e-3)),
            (f"{name}/relu2", ReLU()),
            (f"{name}/conv3", Conv(1, filters=4 * filters)),
            (f"{name}/bn3", BatchNorm(eps=1e-3)),
            (f"{name}/relu3", ReLU()),
            after=after,
        ),
        *shortcut,
        Layer(f"{name}/add", Add(), (f"{name}/relu3", shortcut[-1].name if shortcut else after)),
    )


def _tutorial_projection(name: str, after: str, filters: int, stride: int) -> tuple[Layer, ...]:
    return chain(
        (f"{name}/shortcut_conv", Conv(1, stride=stride, filters=filters)),
        (f"{name}/shortcut_bn", BatchNorm(eps=1e-3)),
        (f"{name}/shortcut_relu", ReLU()),
        after=after,
    )


def _resnet(
    depth: int,
    suffix: str,
    title: str,
    blocks: tuple[int, int, int, int],
    block: Block,
    stem: tuple[Layer, ...],
    preprocessing: Preprocessing,
    num_classes: int,
    image_size: tuple[int, int],
) -> Architecture:
    """The stem, four stages of blocks, each with twice the filters of the one before, and the classifier.

    The first block of a stage projects its shortcut where the shape changes: everywhere but at the beginning of
    ResNet-18 and ResNet-34, whose first stage keeps the stem's 64 channels.
    """
    layers = list(stem)
    for stage, count in enumerate(blocks, start=2):
        for number in range(1, count + 1):
            stride = 2 if stage > 2 and number == 1 else 1
            project = number == 1 and (stage > 2 or depth >= 50)
            name, filters = f"conv{stage}_block{number}", 64 * 2 ** (stage - 2)
            layers += block(name, layers[-1].name, filters, stride, project)
    layers += chain(
        ("avg_pool", GlobalAveragePool()),
        ("flatten", Flatten()),
        ("fc", Dense(num_classes)),
        after=layers[-1].name,
    )
    return Architecture(
        name=f"resnet{depth}{suffix}",
        family="resnet",
        title=f"ResNet-{depth}{title}",
        year=2015,
        paper=PAPER,
        input_shape=(3, *image_size),
        layers=tuple(layers),
        outputs={"logits": "fc"},
        preprocessing=preprocessing,
    )


STEM = chain(
    ("conv1", Conv(7, stride=2, padding=3, filters=64, bias=False)),
    ("bn1", BatchNorm(eps=1e-5)),
    ("relu1", ReLU()),
    ("pool1", MaxPool(3, stride=2, padding=1)),
    after=IMAGE,
)

TUTORIAL_STEM = chain(
    ("conv1", Conv(7, stride=2, padding=SAME, filters=64)),
    ("bn1", BatchNorm(eps=1e-3)),
    ("relu1", ReLU()),
    ("pool1", MaxPool(3, stride=2, padding=SAME)),
    after=IMAGE,
)

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""How many blocks each stage has. Source: the paper's Table 1."""


def _v1(depth: int, num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> Architecture:
    """The paper's: a block strides in its first convolution; no convolution has a bias.

    Sources: the paper, section 3.3 and Table 1. `keras.applications` has the same networks with biases and with eps
    1.001e-5. The authors' release for Caffe does not pad its pooling and rounds up, which puts every window one pixel
    further down and right.
    """
    block = bottleneck_block if depth >= 50 else basic_block
    return _resnet(depth, "", "", BLOCKS[depth], block, STEM, CAFFE, num_classes, image_size)


def _v1_5(depth: int, num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> Architecture:
    """A bottleneck block strides in its 3×3 convolution, as in torchvision: same weights, another function.

    In v1 the 1×1 convolution with stride 2 never sees three quarters of its input; here the 3×3 sees all of it, for
    about 6 % more multiply-adds in ResNet-50. Source: torchvision.models.resnet.
    """
    block = partial(bottleneck_block, stride_on_3x3=True)
    title = " v1.5, striding in the 3×3"
    return _resnet(depth, "_v1_5", title, BLOCKS[depth], block, STEM, TORCHVISION, num_classes, image_size)


def _tutorial(depth: int, num_classes: int = 1000, image_size: tuple[int, int] = (224, 224)) -> Architecture:
    """As a popular Keras tutorial has them: one helper for convolution, BN and ReLU, used everywhere.

    Every convolution has a bias, and BN *and* ReLU after it, those before the addition and on the shortcut included:
    a residual can then only ever add, and the projection cannot hand on a negative value. Basic blocks have a ReLU
    after the addition (which does nothing, since both sides are non-negative); bottleneck blocks have none. Stem and
    pooling are padded SAME, which at stride 2 puts the odd pixel at the bottom and right; BN has Keras' default eps of
    1e-3. Where the tutorial is silent, this is the paper's v1: projections where the shape changes, the stride on a
    block's first convolution.
    """
    block = tutorial_bottleneck_block if depth >= 50 else tutorial_basic_block
    title = " as in a Keras tutorial"
    return _resnet(
        depth, "_tutorial", title, BLOCKS[depth], block, TUTORIAL_STEM, UNIT_INTERVAL, num_classes, image_size
    )


resnet18, resnet34, resnet50, resnet101, resnet152 = (partial(_v1, depth) for depth in BLOCKS)
resnet50_v1_5, resnet101_v1_5, resnet152_v1_5 = (partial(_v1_5, depth) for depth in (50, 101, 152))
resnet18_tutorial, resnet34_tutorial, resnet50_tutorial, resnet101_tutorial, resnet152_tutorial = (
    partial(_tutorial, depth) for depth in BLOCKS
)
