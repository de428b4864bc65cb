"""Mistakes in VGG."""

from functools import partial

from parity_tests.injection import Mutant

_torch = partial(Mutant, "torch_impl", "torch_impl/vgg.py", "vgg16_gap")
_keras = partial(Mutant, "keras_impl", "keras_impl/vgg.py", "vgg16_gap", occurrence=None)
_tf1 = partial(Mutant, "tf1_style_impl", "tf1_style_impl/vgg.py", "vgg16_gap")
_tf1_layers = partial(Mutant, "tf1_style_impl", "tf1_style_impl/layers.py", "vgg16_gap")

MUTANTS = [
    _keras(
        "no padding in the first block",
        'padding="same"',
        'padding="same" if block > 1 else "valid"',
        "conv1_1",
        "the padding is missing",
    ),
    _torch(
        "pools of 3×3",
        "nn.MaxPool2d(kernel_size=2, stride=2)",
        "nn.MaxPool2d(kernel_size=3, stride=2)",
        "pool1",
        "the window is 3×3",
    ),
    _tf1(
        "average pools",
        "max_pool(x, 2, stride=2",
        'max_pool.__globals__["avg_pool"](x, 2, stride=2',
        "pool1",
        "the average is taken",
    ),
    _torch(
        "one ReLU forgotten",
        'layers[f"relu{block}_{number}"] = nn.ReLU()',
        'layers[f"relu{block}_{number}"] = nn.Identity() if (block, number) == (3, 2) else nn.ReLU()',
        "relu3_2",
        "the ReLU is missing",
    ),
    _torch(
        "global maximum",
        "nn.AdaptiveAvgPool2d(1)",
        "nn.AdaptiveMaxPool2d(1)",
        "avg_pool",
        "the maximum is taken, not the average",
    ),
    _tf1_layers(
        "TF32 in conv5_1",
        "grouped_conv2d(x, weight, groups=groups,",
        "grouped_conv2d(*(tf.bitcast(tf.bitwise.bitwise_and(tf.bitcast(v, tf.int32) + 0x1000, -0x2000), tf.float32)"
        ' if name == "conv5_1" else v for v in (x, weight)), groups=groups,',
        "conv5_1",
        "factors are rounded to TF32",
    ),
    _tf1_layers("global sum", "tf.reduce_mean(", "tf.reduce_sum(", "avg_pool", "the sum is taken, not the average"),
    _tf1_layers(
        "divided by 49 whatever the size",
        "tf.reduce_mean(x, axis=[1, 2], keepdims=True, name=name)",
        "tf.multiply(tf.reduce_sum(x, axis=[1, 2], keepdims=True), 1 / 49, name=name)",
        "avg_pool",
        "the sum is divided by 49, not 2",
    ),
    _keras(
        "dense layers without ReLU",
        'ReLU(name="relu7")',
        'Activation("linear", name="relu7")',
        "relu7",
        "the ReLU is missing",
    ),
    _keras(
        "tanh for ReLU",
        'layers.ReLU(name="relu6")',
        'layers.Activation("tanh", name="relu6")',
        "relu6",
        "a hyperbolic tangent is taken, not a ReLU",
    ),
    _torch(
        "fc7 without bias", "nn.Linear(4096, 4096)", "nn.Linear(4096, 4096, bias=False)", "fc7", "fc7/bias is missing"
    ),
    _torch(
        "a stride in conv2_1",
        "nn.Conv2d(channels, filters, kernel_size=3, padding=1)",
        "nn.Conv2d(channels, filters, kernel_size=3, padding=1, stride=2 if (block, number) == (2, 1) else 1)",
        "conv2_1",
        "the stride is 2",
    ),
]
