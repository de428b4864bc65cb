"""DenseNet: Huang, Liu, van der Maaten, Weinberger, *Densely Connected Convolutional Networks*, 2016."""

from __future__ import annotations

from functools import partial

from common.operations import AveragePool, BatchNorm, Concat, Conv, Dense, Flatten, GlobalAveragePool, MaxPool, ReLU
from common.specs.architecture import Architecture, Layer, Preprocessing, chain

PAPER = "Huang et al. 2016, Densely Connected Convolutional Networks"


def dense_block(name: str, after: str, growth: int) -> tuple[Layer, ...]:
    """BN, ReLU, 1×1 to four times the growth, BN, ReLU, 3×3 to the growth; appended to what came in."""
    return (
        *chain(
            (f"{name}/bn1", BatchNorm(eps=1e-5)),
            (f"{name}/relu1", ReLU()),
            (f"{name}/conv1", Conv(1, filters=4 * growth, bias=False)),
            (f"{name}/bn2", BatchNorm(eps=1e-5)),
            (f"{name}/relu2", ReLU()),
            (f"{name}/conv2", Conv(3, padding=1, filters=growth, bias=False)),
            after=after,
        ),
        Layer(f"{name}/concat", Concat(), (after, f"{name}/conv2")),
    )


def transition(name: str, after: str, filters: int) -> tuple[Layer, ...]:
    """BN, ReLU, 1×1 to half the channels, and the mean of each 2×2."""
    return chain(
        (f"{name}/bn", BatchNorm(eps=1e-5)),
        (f"{name}/relu", ReLU()),
        (f"{name}/conv", Conv(1, filters=filters, bias=False)),
        (f"{name}/pool", AveragePool(2, stride=2)),
        after=after,
    )


def _densenet(
    depth: int,
    blocks: tuple[int, int, int, int],
    growth: int = 32,
    num_classes: int = 1000,
    image_size: tuple[int, int] = (224, 224),
) -> Architecture:
    """DenseNet-BC: growth `growth`, stem of twice that, bottlenecks of four times that, compression 0.5.

    Source: Table 1 of the paper, and section 3 on its BC variant.
    """
    channels = 2 * growth
    layers = list(
        chain(
            ("conv1", Conv(7, stride=2, padding=3, filters=channels, bias=False)),
            ("bn1", BatchNorm(eps=1e-5)),
            ("relu1", ReLU()),
            ("pool1", MaxPool(3, stride=2, padding=1)),
        )
    )
    for stage, count in enumerate(blocks, start=2):
        for number in range(1, count + 1):
            layers += dense_block(f"conv{stage}_block{number}", layers[-1].name, growth)
        channels += count * growth
        if stage < 5:
            channels //= 2
            layers += transition(f"transition{stage}", layers[-1].name, channels)
    layers += chain(
        ("bn", BatchNorm(eps=1e-5)),
        ("relu", ReLU()),
        ("avg_pool", GlobalAveragePool()),
        ("flatten", Flatten()),
        ("fc", Dense(num_classes)),
        after=layers[-1].name,
    )
    return Architecture(
        name=f"densenet{depth}",
        family="densenet",
        title=f"DenseNet-{depth}",
        year=2016,
        paper=PAPER,
        input_shape=(3, *image_size),
        layers=tuple(layers),
        outputs={"logits": "fc"},
        preprocessing=Preprocessing("RGB", mean=(123.675, 116.28, 103.53), scale=(58.395, 57.12, 57.375)),
    )


densenet121 = partial(_densenet, 121, (6, 12, 24, 16))
densenet161 = partial(_densenet, 161, (6, 12, 36, 24), 48)
densenet169 = partial(_densenet, 169, (6, 12, 32, 32))
densenet201 = partial(_densenet, 201, (6, 12, 48, 32))
