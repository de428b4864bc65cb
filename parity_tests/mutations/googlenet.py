"""Mistakes in GoogLeNet: rounding of windows, branches, auxiliary heads, its variants confused."""

from functools import partial

from parity_tests.injection import Mutant

_torch = partial(Mutant, "torch_impl", "torch_impl/googlenet.py", "googlenet")
_torch_bn = partial(Mutant, "torch_impl", "torch_impl/googlenet.py", "googlenet_bn")
_keras = partial(Mutant, "keras_impl", "keras_impl/googlenet.py", "googlenet")
_tf1 = partial(Mutant, "tf1_style_impl", "tf1_style_impl/googlenet.py", "googlenet")

_tutorial = partial(Mutant, "torch_impl", "torch_impl/googlenet_tutorial.py", "googlenet_tutorial")

MUTANTS = [
    _tutorial(
        "conv1 padded by 3 on every side (the paper's)",
        "SameConv2d(3, 64, kernel_size=7, stride=2)",
        "nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3)",
        "conv1",
        "the padding is shifted by a pixel to the top and left",
    ),
    _tutorial(
        "projected after the pool (the paper's order)",
        "through(x, self.pool_proj, self.relu_pool_proj, self.pool)",
        "through(x, self.pool, self.pool_proj, self.relu_pool_proj)",
        "inception_3a/pool_proj",
        "it reads inception_3a/pool, not pool2",
    ),
    _torch(
        "pools round down",
        "ceil_mode=True",
        "ceil_mode=False",
        "pool1",
        "the number of windows is rounded down, not up",
    ),
    _keras(
        "pools padded on every side",
        "((0, 1), (0, 1))",
        "1",
        "pool1",
        "the padding is shifted by a pixel to the top and left",
    ),
    _tf1(
        "the second LRN's alpha not divided by 5",
        'alpha=2e-5, beta=0.75, bias=1.0, name="norm2"',
        'alpha=1e-4, beta=0.75, bias=1.0, name="norm2"',
        "norm2",
        "alpha is not divided by the size",
    ),
    _torch(
        "branches in another order",
        "self.output(a, b, c, d)",
        "self.output(a, c, b, d)",
        "inception_3a/output",
        "the inputs are in the order 1, 3, 2, 4",
    ),
    _keras(
        "the pool's branch first",
        "([a, b, c, d])",
        "([d, a, b, c])",
        "inception_3a/output",
        "the inputs are in the order 4, 1, 2, 3",
    ),
    _torch(
        "projected before the pool (the tutorial's order)",
        "through(x, self.pool, self.pool_proj, self.bn_pool_proj, self.relu_pool_proj)",
        "through(x, self.pool_proj, self.bn_pool_proj, self.relu_pool_proj, self.pool)",
        "inception_3a/pool",
        "it reads inception_3a/relu_pool_proj, not pool2",
    ),
    _torch(
        "3×3 for 5×5 (torchvision's)",
        "wide: int = 5",
        "wide: int = 3",
        "inception_3a/conv5x5",
        "inception_3a/conv5x5/weight has shape 32×16×3×3, expected 32×16×5×5",
    ),
    _torch(
        "the last pool 2×2 (torchvision's)", "last_pool: int = 3", "last_pool: int = 2", "pool4", "the window is 2×2"
    ),
    _tf1(
        "auxiliary heads swapped",
        "with tf.variable_scope(name):",
        'with tf.variable_scope({"aux1": "aux2", "aux2": "aux1"}[name]):',
        "aux1/pool",
        "it reads inception_4d/output, not inception_4a/output",
        1,
    ),
    _torch(
        "a head averages adaptively (torchvision's)",
        "if bn else nn.AvgPool2d(kernel_size=5, stride=3)",
        "if bn else nn.AdaptiveAvgPool2d(4)",
        "aux1/pool",
        "the windows are spread evenly (adaptive average)",
    ),
    _keras(
        "a head takes the maximum",
        "layers.AveragePooling2D(5, strides=3",
        "layers.MaxPooling2D(5, strides=3",
        "aux1/pool",
        "the maximum is taken, not the average",
    ),
    _tf1(
        "dropout active in the heads",
        "1.0 - (1.0 - keep_prob) * (0.7 / rate)",
        "1.0 - 0.7 * keep_prob",
        "aux1/drop",
        "dropout is active, and divides what it keeps by 0.3",
    ),
    _torch_bn("eps 1e-5 in place of torchvision's 1e-3", "eps=1e-3", "eps=1e-5", "bn1", "eps is 1e-05"),
    _torch_bn(
        "no bn after a projection",
        "d = through(x, self.pool, self.pool_proj, self.bn_pool_proj, ",
        "d = through(x, self.pool, self.pool_proj, ",
        "inception_3a/bn_pool_proj",
        "inception_3a/bn_pool_proj was not computed",
    ),
]
