"""Mistakes in DenseNet: the order of what is concatenated, transitions, pre-activation."""

from functools import partial

from parity_tests.injection import Mutant

_torch = partial(Mutant, "torch_impl", "torch_impl/densenet.py", "densenet121")
_keras = partial(Mutant, "keras_impl", "keras_impl/densenet.py", "densenet121")
_tf1 = partial(Mutant, "tf1_style_impl", "tf1_style_impl/densenet.py", "densenet121")

MUTANTS = [
    _torch(
        "what grows put first",
        "self.concat(x, y)",
        "self.concat(y, x)",
        "conv2_block1/concat",
        "the inputs are in reverse order",
    ),
    _tf1(
        "what grows put first",
        "tf.concat([x, y]",
        "tf.concat([y, x]",
        "conv2_block1/concat",
        "the inputs are in reverse order",
    ),
    _torch(
        "maximum in a transition",
        "pool=nn.AvgPool2d",
        "pool=nn.MaxPool2d",
        "transition2/pool",
        "the maximum is taken, not the average",
    ),
    _torch(
        "a transition that counts its padding",
        "nn.AvgPool2d(kernel_size=2, stride=2)",
        "nn.AvgPool2d(kernel_size=3, stride=2, padding=1)",
        "transition2/pool",
        "the average is over 3×3, padded by 1, the padding counted",
    ),
    _keras(
        "a transition of 3×3, padded SAME",
        "layers.AveragePooling2D(2, strides=2,",
        'layers.AveragePooling2D(3, strides=2, padding="same",',
        "transition2/pool",
        "the average is over 3×3, padded SAME, the padding not counted",
    ),
    _torch(
        "no compression",
        "conv=nn.Conv2d(channels, channels // 2,",
        "conv=nn.Conv2d(channels, channels,",
        "transition2/conv",
        "transition2/conv has shape 256×8×16, expected 128×8×16",
    ),
    _torch(
        "eps 1.001e-5 at the end",
        'layers["bn"] = nn.BatchNorm2d(channels, eps=1e-5',
        'layers["bn"] = nn.BatchNorm2d(channels, eps=1.001e-5',
        "bn",
        "eps is 1.001e-05",
    ),
    _torch(
        "no last ReLU", 'layers["relu"] = nn.ReLU()', 'layers["relu"] = nn.Identity()', "relu", "the ReLU is missing"
    ),
    _torch(
        "ReLU before the normalisation",
        "self.conv2(self.relu2(self.bn2(y)))",
        "self.conv2(self.bn2(self.relu2(y)))",
        "conv2_block1/bn2",
        "it reads conv2_block1/relu2, not conv2_block1/conv1",
    ),
    _keras(
        "average for the stem's maximum",
        "layers.MaxPooling2D(3, strides=2",
        "layers.AveragePooling2D(3, strides=2",
        "pool1",
        "the average is taken, not the maximum",
    ),
    _torch(
        "a bottleneck of the growth itself",
        "nn.Conv2d(channels, 4 * growth, kernel_size=1",
        "nn.Conv2d(channels, growth, kernel_size=1",
        "conv2_block1/conv1",
        "conv2_block1/conv1 has shape 32×8×16, expected 128×8×16",
    ),
]
