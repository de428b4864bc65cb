"""Ten small models as other people write and export them, every number drawn; and graphs of their parts at random.

What is called by a name here is so called in the graph: `add.conv("stem", x, 8, 3)` is the node `stem`.
"""

import numpy as np
from test_prove import Builder


class Foreign(Builder):
    """A graph whose values are known by their channels, or features, so that a part says only how many it makes."""

    def __init__(self, *shape, seed=0):
        super().__init__(*shape)
        self.numbers = np.random.default_rng(seed)
        self.channels = {"x": shape[1]}

    def normal(self, *shape, scale=1.0):
        return (self.numbers.standard_normal(shape) * scale).astype(np.float32)

    def uniform(self, low, high, *shape):
        return self.numbers.uniform(low, high, shape).astype(np.float32)

    def keep(self, name, channels):
        self.channels[name] = channels
        return name

    def conv(self, name, x, made, kernel, *, stride=1, pads=None, group=1, bias=False, dilation=1):
        height, width = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        read = self.channels[x] // group
        weights = self.normal(made, read, height, width, scale=np.sqrt(2 / (read * height * width)))
        if pads is None:
            pads = [dilation * (height // 2), dilation * (width // 2)] * 2
        biases = [self.normal(made, scale=0.2)] if bias else []
        attributes = {"strides": [stride] * 2, "pads": pads, "group": group, "dilations": [dilation] * 2}
        return self.keep(self("Conv", name, x, weights, *biases, **attributes), made)

    def depthwise(self, name, x, kernel, **options):
        return self.conv(name, x, self.channels[x], kernel, group=self.channels[x], **options)

    def norm(self, name, x, epsilon=1e-5):
        channels = self.channels[x]
        scales, shifts = self.uniform(0.5, 1.5, channels), self.normal(channels, scale=0.2)
        means, variances = self.normal(channels, scale=0.2), self.uniform(0.5, 1.5, channels)
        made = self("BatchNormalization", name, x, scales, shifts, means, variances, epsilon=epsilon)
        return self.keep(made, channels)

    def layer_norm(self, name, x, epsilon=1e-6):
        size = self.channels[x]
        scales, shifts = self.uniform(0.5, 1.5, size), self.normal(size, scale=0.2)
        return self.keep(self("LayerNormalization", name, x, scales, shifts, epsilon=epsilon), size)

    def of(self, operator, name, x, *others, **attributes):
        """What keeps the number of channels."""
        return self.keep(self(operator, name, x, *others, **attributes), self.channels[x])

    def silu(self, name, x):
        return self.of("Mul", name, x, self.of("Sigmoid", f"{name}_gate", x))

    def concat(self, name, *read, axis=1):
        return self.keep(self("Concat", name, *read, axis=axis), sum(self.channels[x] for x in read))

    def linear(self, name, x, made):
        """A dense layer in two nodes, as exporters write it for what has more than two axes."""
        weights = self.normal(self.channels[x], made, scale=self.channels[x] ** -0.5)
        product = self("MatMul", name, x, weights)
        return self.keep(self("Add", f"{name}_bias", product, self.normal(made, scale=0.2)), made)

    def head(self, x, made=5):
        pooled = self.of("GlobalAveragePool", "pool", x)
        flat = self.of("Flatten", "flat", pooled)
        return self.gemm("head", flat, made)

    def gemm(self, name, x, made):
        weights = self.normal(made, self.channels[x], scale=self.channels[x] ** -0.5)
        return self.keep(self("Gemm", name, x, weights, self.normal(made, scale=0.2), transB=1), made)

    def squeezed(self, name, x, gate="Sigmoid", **gate_attributes):
        """Squeeze and excitation."""
        few = self.conv(f"{name}_reduce", self.of("GlobalAveragePool", f"{name}_pool", x), 4, 1, bias=True)
        many = self.conv(f"{name}_expand", self.of("Relu", f"{name}_relu", few), self.channels[x], 1, bias=True)
        return self.of("Mul", name, x, self.of(gate, f"{name}_gate", many, **gate_attributes))

    def attention(self, name, x, heads, bias=None):
        """Several heads, over (images, tokens, features)."""
        size = self.channels[x]
        each = size // heads

        def split(part):
            made = self.linear(f"{name}_{part}", x, size)
            apart = self("Reshape", f"{name}_{part}_heads", made, np.array([0, 0, heads, each]))
            turned = [0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]
            return self("Transpose", f"{name}_{part}_turned", apart, perm=turned)

        scores = self("MatMul", f"{name}_scores", split("q"), split("k"))
        scaled = self("Mul", f"{name}_scale", scores, np.array(each**-0.5, np.float32))
        if bias is not None:
            scaled = self("Add", f"{name}_position", scaled, bias)
        shares = self("Softmax", f"{name}_softmax", scaled, axis=-1)
        mixed = self("MatMul", f"{name}_mixed", shares, split("v"))
        mixed = self("Transpose", f"{name}_back", mixed, perm=[0, 2, 1, 3])
        joined = self.keep(self("Reshape", f"{name}_joined", mixed, np.array([0, 0, size])), size)
        return self.linear(f"{name}_out", joined, size)

    def mlp(self, name, x):
        inner = self.linear(f"{name}_1", x, 2 * self.channels[x])
        return self.linear(f"{name}_2", self.of("Gelu", f"{name}_gelu", inner), self.channels[x])


def mobilenet(add):
    x = add.conv("stem", "x", 8, 3, stride=2, pads=[0, 0, 1, 1])
    x = add.of("Clip", "stem_relu6", add.norm("stem_norm", x), *SIX)
    for block, stride in (("a", 2), ("b", 1)):
        y = add.of("Clip", f"{block}_relu6", add.norm(f"{block}_norm1", add.conv(f"{block}_expand", x, 16, 1)), *SIX)
        y = add.norm(f"{block}_norm2", add.depthwise(f"{block}_depthwise", y, 3, stride=stride))
        y = add.norm(f"{block}_norm3", add.conv(f"{block}_project", add.of("Clip", f"{block}_cap", y, *SIX), 8, 1))
        x = add.of("Add", f"{block}_add", y, x) if stride == 1 else y
    return add.head(x)


SIX = np.array(0, np.float32), np.array(6, np.float32)


def efficientnet(add):
    x = add.silu("stem_silu", add.norm("stem_norm", add.conv("stem", "x", 8, 3, stride=2), 1e-3))
    y = add.silu("expand_silu", add.norm("expand_norm", add.conv("expand", x, 16, 1), 1e-3))
    y = add.silu("wide_silu", add.norm("wide_norm", add.depthwise("wide", y, 5), 1e-3))
    y = add.norm("project_norm", add.conv("project", add.squeezed("se", y), 8, 1), 1e-3)
    return add.head(add.of("Add", "add", y, x))


def resnext(add):
    x = add.of("Relu", "stem_relu", add.norm("stem_norm", add.conv("stem", "x", 8, 7, stride=2)))
    x = add.of("MaxPool", "stem_pool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    y = add.of("Relu", "relu1", add.norm("norm1", add.conv("conv1", x, 8, 1)))
    y = add.of("Relu", "relu2", add.norm("norm2", add.conv("grouped", y, 8, 3, stride=2, group=4)))
    y = add.norm("norm3", add.conv("conv3", y, 12, 1))
    short = add.norm("short_norm", add.conv("short", x, 12, 1, stride=2))
    y = add.of("Relu", "relu3", add.of("Add", "add", y, short))
    y = add.conv("dilated", y, 12, 3, dilation=2)
    return add.head(y)


def convnext(add):
    x = add.conv("stem", "x", 8, 4, stride=4, pads=[0] * 4, bias=True)
    y = add.of("Transpose", "last", add.depthwise("wide", x, 7, bias=True), perm=[0, 2, 3, 1])
    y = add.mlp("mlp", add.layer_norm("norm", y))
    y = add.of("Mul", "layer_scale", y, add.normal(8, scale=0.5))
    x = add.of("Add", "add", x, add.of("Transpose", "first", y, perm=[0, 3, 1, 2]))
    x = add.of("ReduceMean", "pool", x, np.array([2, 3]), keepdims=0)
    return add.gemm("head", add.layer_norm("head_norm", x), 5)


def vit(add):
    images = add.shape[0]
    x = add.conv("patches", "x", 12, 4, stride=4, pads=[0] * 4, bias=True)
    x = add.of("Reshape", "tokens", x, np.array([0, 12, -1]))
    x = add.of("Transpose", "turned", x, perm=[0, 2, 1])
    tokens = (add.shape[2] // 4) * (add.shape[3] // 4) + 1
    x = add.keep(add("Concat", "with_class", add.normal(images, 1, 12), x, axis=1), 12)
    x = add.of("Add", "position", x, add.normal(1, tokens, 12, scale=0.3))
    x = add.of("Add", "add1", x, add.attention("attention", add.layer_norm("norm1", x), 3))
    x = add.of("Add", "add2", x, add.mlp("mlp", add.layer_norm("norm2", x)))
    first = add.of("Gather", "class", add.layer_norm("norm3", x), np.array(0), axis=1)
    return add.gemm("head", first, 5)


def swin(add):
    images, side = add.shape[0], 4
    x = add.conv("patches", "x", 8, 3, stride=2, bias=True)
    x = add.of("Resize", "even", x, np.array([], np.float32), np.array([], np.float32), np.array([images, 8, 8, 8]))
    x = add.of("Transpose", "last", x, perm=[0, 2, 3, 1])
    parts = [np.array([2]), np.array([8]), np.array([1])], [np.array([0]), np.array([2]), np.array([1])]
    rolled = [add.of("Slice", f"roll_{n}", x, *part) for n, part in enumerate(parts)]
    y = add.keep(add("Concat", "roll", *rolled, axis=1), 8)
    y = add("Reshape", "cut", y, np.array([images, 2, side, 2, side, 8]))
    y = add("Transpose", "windows", y, perm=[0, 1, 3, 2, 4, 5])
    y = add.keep(add("Reshape", "window_tokens", y, np.array([-1, side * side, 8])), 8)
    y = add.layer_norm("norm1", y, 1e-5)
    y = add.attention("attention", y, 2, bias=add.normal(1, 2, side * side, side * side))
    y = add("Reshape", "apart", y, np.array([images, 2, 2, side, side, 8]))
    y = add("Transpose", "unwindowed", y, perm=[0, 1, 3, 2, 4, 5])
    y = add.keep(add("Reshape", "whole", y, np.array([images, 8, 8, 8])), 8)
    x = add.of("Add", "add1", x, y)
    x = add.of("Add", "add2", x, add.mlp("mlp", add.layer_norm("norm2", x, 1e-5)))
    one, two = np.array([1, 2]), np.array([2, 2])
    corners = [
        add.of("Slice", f"corner_{row}{column}", x, np.array([row, column]), np.array([8, 8]), one, two)
        for column in (0, 1)
        for row in (0, 1)
    ]
    x = add.layer_norm("merge_norm", add.concat("merge", *corners, axis=3), 1e-5)
    x = add.keep(add("MatMul", "reduce", x, add.normal(32, 16, scale=0.2)), 16)
    x = add.of("ReduceMean", "pool", x, np.array([1, 2]), keepdims=0)
    return add.gemm("head", x, 5)


def inception(add):
    def unit(name, x, made, kernel, **options):
        x = add.conv(name, x, made, kernel, **options)
        return add.of("Relu", f"{name}_relu", add.norm(f"{name}_norm", x, 1e-3))

    x = unit("stem", "x", 8, 3, stride=2, pads=[0] * 4)
    one = unit("one", x, 4, 1)
    three = unit("three", unit("three_reduce", x, 4, 1), 6, 3)
    seven = unit("tall", unit("flat_wide", unit("seven_reduce", x, 4, 1), 4, (1, 7)), 6, (7, 1))
    pooled = add.of("AveragePool", "average", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=0)
    x = add.concat("mixed", one, three, seven, unit("after_pool", pooled, 4, 1))
    left = add.of("MaxPool", "maximum", x, kernel_shape=[3, 3], strides=[2, 2])
    right = unit("reduction", x, 8, 3, stride=2, pads=[0] * 4)
    return add.head(add.concat("reduced", left, right))


def shufflenet(add):
    x = add.of("Relu", "stem_relu", add.norm("stem_norm", add.conv("stem", "x", 8, 3, stride=2)))
    height, width = ((size + 1) // 2 for size in add.shape[2:])
    left = add.keep(add("Slice", "left", x, *map(np.array, ([0], [4], [1]))), 4)
    right = add.keep(add("Slice", "right", x, *map(np.array, ([4], [8], [1]))), 4)
    y = add.of("Relu", "relu1", add.norm("norm1", add.conv("pointwise", right, 4, 1, group=2)))
    y = add.norm("norm2", add.depthwise("depthwise", y, 3))
    y = add.norm("norm3", add.conv("expand", y, 4, 1))
    x = add.concat("joined", left, add.of("PRelu", "prelu", y, add.uniform(0.1, 0.4, 4, 1, 1)))
    x = add("Reshape", "groups", x, np.array([add.shape[0], 2, 4, height, width]))
    x = add("Transpose", "shuffle", x, perm=[0, 2, 1, 3, 4])
    return add.head(add.keep(add("Reshape", "shuffled", x, np.array([add.shape[0], 8, height, width])), 8))


def ghostnet(add):
    x = add.of("HardSwish", "stem_swish", add.norm("stem_norm", add.conv("stem", "x", 8, 3, stride=2)))
    few = add.of("Relu", "primary_relu", add.norm("primary_norm", add.conv("primary", x, 6, 1)))
    cheap = add.of("Relu", "cheap_relu", add.norm("cheap_norm", add.depthwise("cheap", few, 3)))
    x = add.squeezed("se", add.concat("ghost", few, cheap), "HardSigmoid", alpha=1 / 6, beta=0.5)
    x = add.of("Elu", "elu", add.conv("project", x, 8, 1, bias=True), alpha=0.7)
    return add.head(add.of("AveragePool", "average", x, kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 0, 0],
                           count_include_pad=1))  # fmt: skip


def unet(add):
    fine = add.of("LeakyRelu", "leaky1", add.norm("norm1", add.conv("down1", "x", 6, 3)), alpha=0.1)
    coarse = add.of("MaxPool", "halved", fine, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    coarse = add.conv("down2", coarse, 8, 3, bias=True)
    coarse = add.of("InstanceNormalization", "instance", coarse, add.uniform(0.5, 1.5, 8), add.normal(8), epsilon=1e-5)
    coarse = add.of("LeakyRelu", "leaky2", coarse, alpha=0.1)
    odd = [size % 2 for size in add.shape[2:]]
    weights = add.normal(8, 6, 3, 3, scale=0.2), add.normal(6, scale=0.2)
    attributes = {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1 - more for more in odd]}
    up = add.keep(add("ConvTranspose", "up", coarse, *weights, **attributes), 6)
    joined = add.concat("skip", fine, up)
    x = add.of("Relu", "relu", add.conv("merge", joined, 6, 3, bias=True))
    scales = np.array([1, 1, 2, 2], np.float32)
    x = add.of("Resize", "larger", x, np.array([], np.float32), scales, mode="linear")
    return add.of("Sigmoid", "mask", add.conv("last", x, 2, 1, bias=True))


FAMILIES = {
    family.__name__: family
    for family in (
        mobilenet, efficientnet, resnext, convnext, vit, swin, inception, shufflenet, ghostnet, unet,
    )
}  # fmt: skip


def foreign(name, *, images=1, height=17, width=19, seed=0):
    """A model of one of the families."""
    add = Foreign(images, 3, height, width, seed=seed)
    return add.model(FAMILIES[name](add))


def assembled(seed):
    """Three to six parts of such models, in any order; odd sizes, one image or three."""
    numbers = np.random.default_rng(seed)
    images, height, width = int(numbers.choice([1, 3])), *map(int, numbers.integers(7, 20, 2))
    add = Foreign(images, int(numbers.integers(1, 5)), height, width, seed=seed)
    x = add.conv("stem", "x", int(numbers.choice([4, 8, 12])), 3, bias=bool(numbers.integers(2)))
    for place, part in enumerate(numbers.choice(list(PARTS), int(numbers.integers(3, 7)))):
        x = PARTS[part](add, f"{part}{place}", x, numbers)
    return add.model(add.head(x))


def _convolution(add, name, x, numbers):
    kernel, dilation = int(numbers.choice([1, 3, 5])), int(numbers.integers(1, 3))
    made = int(numbers.choice([4, 8, 12]))
    group = int(numbers.choice([1, 2, 4]))
    return add.conv(name, x, made, kernel, dilation=dilation, group=group, stride=int(numbers.integers(1, 3)))


def _normalised(add, name, x, numbers):
    return add.norm(name, x, float(numbers.choice([1e-3, 1e-5])))


def _curved(add, name, x, numbers):
    operator = str(
        numbers.choice(["Relu", "HardSwish", "Gelu", "Elu", "Mish", "Softplus", "Tanh", "LeakyRelu", "Silu"])
    )
    return add.silu(name, x) if operator == "Silu" else add.of(operator, name, x)


def _pooled(add, name, x, numbers):
    operator = str(numbers.choice(["MaxPool", "AveragePool"]))
    pads = numbers.integers(0, 2, 4).tolist()
    return add.of(operator, name, x, kernel_shape=[2, 3], strides=[1, 1], pads=pads)


def _residual(add, name, x, numbers):
    y = add.norm(f"{name}_norm", add.depthwise(f"{name}_depthwise", x, 3))
    return add.of("Add", name, x, add.squeezed(f"{name}_se", y))


def _branches(add, name, x, numbers):
    return add.concat(name, add.conv(f"{name}_left", x, 4, 1), add.conv(f"{name}_right", x, 8, (3, 1), bias=True))


def _mixed(add, name, x, numbers):
    """A block of a transformer over the channels of each pixel."""
    y = add.layer_norm(f"{name}_norm", add.of("Transpose", f"{name}_last", x, perm=[0, 2, 3, 1]))
    return add.of("Add", name, x, add.of("Transpose", f"{name}_first", add.mlp(f"{name}_mlp", y), perm=[0, 3, 1, 2]))


PARTS = {
    "conv": _convolution,
    "norm": _normalised,
    "curve": _curved,
    "pool": _pooled,
    "residual": _residual,
    "branches": _branches,
    "mixed": _mixed,
}
