"""Mistakes in where values are taken from: shifted images and windows, borders, maps turned over, exports."""

from functools import partial

from parity_tests.injection import Mutant

_torch = partial(Mutant, "torch_impl", "torch_impl/lenet.py", "lenet_caffe")
_keras = partial(Mutant, "keras_impl", "keras_impl/lenet.py", "lenet_caffe", occurrence=None)
_tf1 = partial(Mutant, "tf1_style_impl", "tf1_style_impl/lenet.py", "lenet_caffe")
_tf1_layers = partial(Mutant, "tf1_style_impl", "tf1_style_impl/layers.py", "lenet_caffe")
_tf1_blocks = partial(Mutant, "tf1_style_impl", "tf1_style_impl/resnet.py", "resnet18")
_torch_dense = partial(Mutant, "torch_impl", "torch_impl/densenet.py", "densenet121")
_lrn = partial(Mutant, "tf1_style_impl", "tf1_style_impl/layers.py", "alexnet_bvlc")

_TORCH_CONV1 = "nn.Conv2d(1, 20, kernel_size=5, padding=2"


def _torch_sees(mistake: str, lines: str, cause: str | None, **options) -> Mutant:
    """What is done to the image before PyTorch gets it."""
    pixels = "    pixels = torch.from_numpy(image)"
    changed = f"    {lines}\n    pixels = torch.from_numpy(np.ascontiguousarray(image, np.float32))"
    return Mutant(
        "torch_impl", "torch_impl/backend.py", "lenet_caffe", mistake, pixels, changed, "conv1", cause, **options
    )


def _tf1_sees(mistake: str, lines: str, cause: str | None) -> Mutant:
    fed = '    fed["images:0"] ='
    return Mutant(
        "tf1_style_impl",
        "tf1_style_impl/backend.py",
        "lenet_caffe",
        mistake,
        fed,
        f"    {lines}\n{fed}",
        "conv1",
        cause,
    )


def _torch_pool(mistake: str, pool: str, cause: str | None) -> Mutant:
    return _torch(mistake, "pool1=nn.MaxPool2d(kernel_size=2, stride=2)", f"pool1={pool}", "pool1", cause)


def _tf1_pool(mistake: str, pooled: str, cause: str | None) -> Mutant:
    return _tf1(mistake, 'x = max_pool(x, 2, stride=2, name="pool1")', f'x = {pooled}name="pool1")', "pool1", cause)


def _export(package: str, mistake: str, old: str, new: str, layer: str, cause: str | None) -> Mutant:
    return Mutant(package, f"{package}/export.py", "lenet_caffe", mistake, old, new, layer, cause, through_onnx=True)


MUTANTS = [
    # Images
    _torch_sees(
        "the image a pixel to the right",
        "image = np.pad(image, ((0, 0), (0, 0), (0, 0), (1, 0)))[..., :-1]",
        "what it reads is shifted by a pixel right, zeros in its place",
    ),
    _torch_sees(
        "the image a pixel up",
        "image = np.pad(image, ((0, 0), (0, 0), (0, 1), (0, 0)), mode='edge')[:, :, 1:]",
        "what it reads is shifted by a pixel up, a copy of its border in its place",
    ),
    _tf1_sees(
        "the image rolled",
        "image = np.roll(image, 1, axis=2)",
        "what it reads is shifted by a pixel down, what leaves it comes back opposite",
    ),
    _tf1_sees(
        "the batch's mean subtracted",
        "image = image - image.mean(axis=(0, 2, 3), keepdims=True)",
        "the batch's mean is subtracted from the image",
    ),
    _torch_sees("a grey veil", "image = 0.9 * image + 0.05", None),
    _torch_sees("the images exchanged", "image = image[::-1]", None),
    _tf1_sees("the image shrunk and enlarged", "image = image[:, :, ::2, ::2].repeat(2, 2).repeat(2, 3)", None),
    # Windows
    _tf1_pool(
        "windows begin a pixel later",
        "max_pool(x[:, 1:, 1:], 2, stride=2, padding=((0, 1), (0, 1)), ",
        "the windows begin at pixel 1, not 0",
    ),
    _tf1_pool("the minimum", "tf.negative(max_pool(-x, 2, stride=2, name='least'), ", "the minimum is taken"),
    _tf1_pool(
        "height and width exchanged",
        "max_pool(tf.transpose(x, [0, 2, 1, 3]), 2, stride=2, ",
        "what it reads has height and width exchanged",
    ),
    _tf1_pool("mirrored", "max_pool(x[:, :, ::-1], 2, stride=2, ", "what it reads is mirrored from left to right"),
    _torch_pool("dilated", "nn.MaxPool2d(2, stride=2, padding=1, dilation=2)", "the window is dilated by 2"),
    _torch_pool("a power mean", "nn.LPPool2d(2, kernel_size=2, stride=2)", None),
    _torch_pool(
        "average, the border not counted",
        "nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)",
        None,
    ),
    _torch_dense(
        "a transition that does not count its padding",
        "nn.AvgPool2d(kernel_size=2, stride=2)",
        "nn.AvgPool2d(kernel_size=3, stride=2, padding=1, count_include_pad=False)",
        "transition2/pool",
        "the average is over 3×3, padded by 1, the padding not counted",
    ),
    _tf1_blocks(
        "the projection's windows begin a pixel later",
        "x = conv(x, 1, filters, stride=stride",
        "x = conv(x[:, 1:, 1:], 1, filters, stride=stride",
        "conv3_block1/shortcut_conv",
        "the windows begin at pixel 1, not 0",
    ),
    # Borders and holes
    _torch(
        "the border repeated",
        _TORCH_CONV1,
        f'{_TORCH_CONV1}, padding_mode="replicate"',
        "conv1",
        "the border is repeated",
    ),
    _torch(
        "the image goes on at the other side",
        _TORCH_CONV1,
        f'{_TORCH_CONV1}, padding_mode="circular"',
        "conv1",
        "the map goes on at its opposite side",
    ),
    _torch(
        "dilated, of the same size",
        _TORCH_CONV1,
        "nn.Conv2d(1, 20, kernel_size=5, padding=4, dilation=2",
        "conv1",
        "the kernel is dilated by 2",
    ),
    _keras(
        "dilated",
        'layers.Conv2D(20, 5, padding="same"',
        'layers.Conv2D(20, 5, padding="same", dilation_rate=2',
        "conv1",
        "the kernel is dilated by 2",
    ),
    _torch(
        "dilated, and smaller",
        _TORCH_CONV1,
        f"{_TORCH_CONV1}, dilation=2",
        "conv1",
        "conv1 has shape",
    ),
    # Flattening
    _torch(
        "flattened H, W, C",
        "flatten=nn.Flatten()",
        'flatten=type("Rows", (nn.Flatten,), {"forward": lambda self, x: x.permute(0, 2, 3, 1).flatten(1)})()',
        "flatten",
        "the order is H, W, C, not C, H, W",
        2,
    ),
    _keras(
        "flattened W, H, C",
        'layers.Flatten(name="flatten")(x)',
        'layers.Flatten(name="flatten")(layers.Permute((2, 1, 3))(x))',
        "flatten",
        "the order is W, H, C, not H, W, C",
    ),
    # Normalisation over space
    _lrn(
        "LRN over space",
        "    return tf.nn.local_response_normalization("
        "x, depth_radius=radius, bias=bias, alpha=alpha, beta=beta, name=name)",
        "    means = tf.nn.avg_pool2d(tf.pad(tf.square(x), [[0, 0], [radius, radius], [radius, radius], [0, 0]]),"
        " ksize=2 * radius + 1, strides=1, padding='VALID')\n"
        "    return tf.multiply(x, tf.pow(bias + alpha * (2 * radius + 1) * means, -beta), name=name)",
        "norm1",
        "the window runs over height and width, not the channels",
    ),
    # Exports
    _export(
        "torch_impl",
        "padded more on one side",
        "return _conv(module, builder, name, x, _symmetric(module.padding))",
        "return _conv(module, builder, name, x, ((1, 3), (1, 3)))",
        "conv1",
        "the padding is shifted by a pixel to the bottom and right",
    ),
    _export(
        "keras_impl",
        "the dense rows left as they are",
        "layouts.dense_from_io(_array(layer.kernel), flattened_from(layer.input))",
        "layouts.dense_from_io(_array(layer.kernel), None)",
        "fc1",
        "the weights are for a flatten in the order H, W, C, not C, H, W",
    ),
    _export(
        "torch_impl",
        "no bias",
        "dense.to_onnx(builder, name, x, weight=_array(module.weight), bias=_array(module.bias))",
        "dense.to_onnx(builder, name, x, weight=_array(module.weight), bias=0 * _array(module.bias))",
        "fc1",
        "the bias is missing",
    ),
]
