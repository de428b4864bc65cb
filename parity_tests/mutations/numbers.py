"""Mistakes in the numbers that a layer computes with: weights moved, turned, scaled or rounded; statistics; masks."""

from functools import partial

from parity_tests.injection import Mutant

_torch = partial(Mutant, "torch_impl", "torch_impl/backend.py")
_keras = partial(Mutant, "keras_impl", "keras_impl/backend.py")
_tf1 = partial(Mutant, "tf1_style_impl", "tf1_style_impl/backend.py")
_torch_layers = partial(Mutant, "torch_impl", "torch_impl/resnet.py", "resnet18")
_tf1_norm = partial(Mutant, "tf1_style_impl", "tf1_style_impl/layers.py", "resnet18")
_tf1_groups = partial(Mutant, "tf1_style_impl", "tf1_style_impl/layers.py", "alexnet_bvlc")
_keras_blocks = partial(Mutant, "keras_impl", "keras_impl/resnet.py", "resnet18")
_tf1_blocks = partial(Mutant, "tf1_style_impl", "tf1_style_impl/resnet.py", "resnet18")
_torch_mnist = partial(Mutant, "torch_impl", "torch_impl/alexnet_variants.py", "alexnet_mnist")
_keras_mnist = partial(Mutant, "keras_impl", "keras_impl/alexnet_variants.py", "alexnet_mnist")
_tf1_mnist = partial(Mutant, "tf1_style_impl", "tf1_style_impl/layers.py", "alexnet_mnist")

FLOATS = ("certified",)
"""The probe that shows how factors are rounded: integers of few bits are not."""


def _torch_loads(mistake: str, name: str, taken: str, cause: str | None, **options) -> Mutant:
    """LeNet in PyTorch, with `taken` loaded in place of the weights `w` of that name."""
    loaded = f'(lambda w: {taken})(weights[name]) if name == "{name}" else weights[name]'
    layer = name.rpartition("/")[0]
    return _torch("lenet_caffe", mistake, "np.require(weights[name],", f"np.require({loaded},", layer, cause, **options)


def _keras_loads(mistake: str, name: str, taken: str, cause: str | None, **options) -> Mutant:
    loaded = f'parameter.to_keras((lambda w: {taken})(weights[name]) if name == "{name}" else weights[name])'
    layer = name.rpartition("/")[0]
    return _keras("lenet_caffe", mistake, "parameter.to_keras(weights[name])", loaded, layer, cause, **options)


def _tf1_loads(mistake: str, name: str, taken: str, cause: str | None, **options) -> Mutant:
    loaded = f'parameter.to_tf((lambda w: {taken})(weights[name]) if name == "{name}" else weights[name])'
    layer = name.rpartition("/")[0]
    return _tf1("lenet_caffe", mistake, "parameter.to_tf(weights[name])", loaded, layer, cause, **options)


def _statistics(mistake: str, lines: str, cause: str) -> Mutant:
    """What TensorFlow normalises with: `lines` change `mean` and `variance` before it does."""
    normalise = "        y = tf.nn.batch_normalization(x, mean, variance, beta, gamma, eps)"
    return _tf1_norm(mistake, normalise, f"        {lines}\n{normalise}", "bn1", cause)


MUTANTS = [
    # Filters and units in another order
    _torch_loads("biases rolled", "conv1/bias", "np.roll(w, 1)", "the bias of each filter is the previous filter's"),
    _keras_loads("biases rolled back", "conv1/bias", "np.roll(w, -1)", "the bias of each filter is the next filter's"),
    _tf1_loads("biases reversed", "conv1/bias", "w[::-1]", "the biases of the filters are in reverse order"),
    _tf1_loads("filters reversed", "conv1/weight", "w[::-1]", "the weights of the filters are in reverse order"),
    _torch_loads(
        "filters rolled",
        "conv2/weight",
        "np.roll(w, 1, axis=0)",
        "the weights of each filter are the previous filter's",
    ),
    _keras_loads(
        "units rolled", "fc2/weight", "np.roll(w, -1, axis=0)", "the weights of each unit are the next unit's"
    ),
    _keras_loads(
        "channels reversed",
        "conv2/weight",
        "w[:, ::-1]",
        "the channels of what it reads, or of its kernels, are in reverse order",
    ),
    _torch_loads("a dense layer's inputs reversed", "fc2/weight", "w[:, ::-1]", None),
    _tf1_loads("every second filter exchanged", "conv1/weight", "w.reshape(10, 2, -1)[:, ::-1].reshape(w.shape)", None),
    # Kernels turned over
    _tf1_loads("kernels mirrored", "conv1/weight", "w[..., ::-1]", "the kernel is mirrored from left to right"),
    _torch_loads("kernels upside down", "conv1/weight", "w[:, :, ::-1]", "the kernel is upside down"),
    _keras_loads("kernels turned", "conv2/weight", "np.rot90(w, 1, (2, 3))", "the kernel is turned by 90°"),
    _torch_loads("kernels rolled by a pixel", "conv1/weight", "np.roll(w, 1, axis=3)", None),
    # Factors
    _torch_loads("weights a thousandth too large", "conv1/weight", "w * np.float32(1.001)", "multiplied by 1.001"),
    _tf1_loads("weights a percent too small", "fc1/weight", "w * np.float32(0.99)", "multiplied by 0.99"),
    _keras_loads("biases tripled", "conv1/bias", "3 * w", "the bias is multiplied by 3", seen_by=FLOATS),
    _torch_loads("weights negated", "conv2/weight", "-w", "the weights are multiplied by -1"),
    _keras_loads(
        "the bias of one filter missing",
        "conv1/bias",
        "np.where(np.arange(len(w)) == 7, np.float32(0), w)",
        "no known mistake; only 1 of 20 channels differ (7)",
    ),
    _tf1_loads(
        "the kernel of one filter missing",
        "conv2/weight",
        "w * (np.arange(len(w)) != 3).astype(np.float32).reshape(-1, 1, 1, 1)",
        "no known mistake; only 1 of 50 channels differ (3)",
    ),
    _torch_loads("weights squared", "fc1/weight", "w * abs(w)", None, seen_by=FLOATS),
    # Rounding
    _tf1_loads(
        "float16 weights",
        "conv1/weight",
        "w.astype(np.float16).astype(np.float32)",
        "the weights are rounded to float16",
        seen_by=FLOATS,
    ),
    _keras_loads(
        "bfloat16 weights",
        "conv2/weight",
        "((w.view(np.uint32) + 0x7FFF + (w.view(np.uint32) >> 16 & 1)) & 0xFFFF0000).view(np.float32)",
        "the weights are rounded to bfloat16",
        seen_by=FLOATS,
    ),
    _torch_loads(
        "int8 weights",
        "conv1/weight",
        "(np.rint(w / (abs(w).max() / 127)) * (abs(w).max() / 127)).astype(np.float32)",
        "the weights are rounded to int8, one scale for all",
        seen_by=FLOATS,
    ),
    _tf1_loads(
        "int8 weights, a scale for each filter",
        "conv2/weight",
        "(lambda s: (np.rint(w / s) * s).astype(np.float32))(abs(w).max(axis=(1, 2, 3), keepdims=True) / 127)",
        "the weights are rounded to int8, one scale for each unit",
        seen_by=FLOATS,
    ),
    _torch_loads("weights rounded to two decimals", "conv2/weight", "w.round(2)", None, seen_by=FLOATS),
    # The order of a flatten
    _torch_loads(
        "fc1 for H, W, C",
        "fc1/weight",
        "w.reshape(-1, 50, 8, 8).transpose(0, 2, 3, 1).reshape(w.shape)",
        "the weights are for a flatten in the order H, W, C, not C, H, W",
    ),
    _torch_loads(
        "fc1 reordered without need",
        "fc1/weight",
        "w.reshape(-1, 8, 8, 50).transpose(0, 3, 1, 2).reshape(w.shape)",
        "the weights are reordered as if they were for a flatten in the order H, W, C",
    ),
    # Statistics of normalisation
    _statistics("variance 1", "variance = tf.ones_like(variance)", "the stored variance is missing"),
    _statistics("variance 0", "variance = tf.zeros_like(variance)", "the stored variance is taken for 0"),
    _statistics("no root", "variance = tf.square(variance + eps) - eps", "the root of the variance is missing"),
    _statistics(
        "instance normalisation",
        "mean, variance = tf.nn.moments(x, axes=[1, 2], keepdims=True)",
        "the statistics are each image's own (instance normalisation)",
    ),
    _statistics(
        "layer normalisation",
        "mean, variance = tf.nn.moments(x, axes=[1, 2, 3], keepdims=True)",
        "each image's own, over many channels (layer normalisation)",
    ),
    _statistics(
        "normalisation over channels",
        "mean, variance = tf.nn.moments(x, axes=[3], keepdims=True)",
        "the statistics are each pixel's own, over all channels (layer normalisation)",
    ),
    _statistics(
        "group normalisation",
        "groups = tf.reshape(x, [tf.shape(x)[0], -1, 1, 8, x.shape[3] // 8])\n"
        "        mean, variance = tf.nn.moments(groups, axes=[1, 2, 4], keepdims=True)\n"
        "        mean, variance = (\n"
        "            tf.reshape(tf.repeat(v, x.shape[3] // 8, 3), [-1, 1, 1, x.shape[3]]) for v in (mean, variance)\n"
        "        )",
        "over many channels (group normalisation, 8 groups)",
    ),
    _statistics(
        "the batch's mean alone",
        "mean, _ = tf.nn.moments(x, axes=[0, 1, 2])",
        "the mean is the batch's, the variance the stored one",
    ),
    _statistics(
        "the batch's variance alone",
        "_, variance = tf.nn.moments(x, axes=[0, 1, 2])",
        "the variance is the batch's, the mean the stored one",
    ),
    _torch_layers("a large eps", "(64, eps=1e-5", "(64, eps=0.05", "bn1", "eps is 0.05"),
    _torch_layers(
        "a momentum of Keras'", "(64, eps=1e-5, momentum=0.1", "(64, eps=0.3, momentum=0.99", "bn1", "eps is 0.3"
    ),
    _torch(
        "resnet18",
        "mean and variance exchanged",
        "for ours, theirs in TORCH_BATCH_NORM.items()}",
        'for ours, theirs in TORCH_BATCH_NORM.items()} | {"running_mean": "variance", "running_var": "mean"}',
        "bn1",
        "bn1 holds NaN or infinity",
    ),
    # Groups
    _tf1_groups(
        "one of two groups",
        "    return tf.concat(outputs, axis=3)",
        "    return tf.concat([outputs[0], 0 * outputs[1]], axis=3)",
        "conv2",
        "only group 1 of 2 is there, the other has its bias alone",
    ),
    _tf1_groups(
        "both groups read the first",
        "inputs = tf.split(x, groups, axis=3)",
        "inputs = [tf.split(x, groups, axis=3)[0]] * 2",
        "conv2",
        "every group reads the channels of group 1",
    ),
    _tf1_groups(
        "the second group's kernels twice",
        "weights = tf.split(weight, groups, axis=3)",
        "weights = [tf.split(weight, groups, axis=3)[1]] * 2",
        "conv2",
        "every group has the kernels of group 2",
    ),
    # Residual branches
    _tf1_blocks(
        "the branch scaled",
        'tf.add(y, x, name="add")',
        'tf.add(0.1 * y, x, name="add")',
        "conv2_block1/add",
        "operand 1 is multiplied by 0.1",
    ),
    _torch_layers(
        "the shortcut halved",
        "self.add(y, x)",
        "self.add(y, 0.5 * x)",
        "conv2_block1/add",
        "operand 2 is multiplied by 0.5",
    ),
    _keras_blocks(
        "branches averaged", "layers.Add(", "layers.Average(", "conv2_block1/add", "the operands are averaged"
    ),
    _keras_blocks(
        "the larger of two branches",
        "layers.Add(",
        "layers.Maximum(",
        "conv2_block1/add",
        "the larger operand is taken",
    ),
    _tf1_blocks(
        "branches multiplied", "tf.add(y, x,", "tf.multiply(y, x,", "conv2_block1/add", "the operands are multiplied"
    ),
    _tf1_blocks(
        "the shortcut subtracted", "tf.add(y, x,", "tf.subtract(y, x,", "conv2_block1/add", "operand 2 is subtracted"
    ),
    # Masks
    _keras_mnist(
        "a fixed mask",
        'layers.Dropout(rate=0.5, name="drop6")',
        'layers.Lambda(lambda x: x * keras.ops.sign(keras.ops.arange(4096, dtype="float32") % 3), name="drop6")',
        "drop6",
        "the same values of each image are set to 0 (a fixed mask)",
    ),
    _torch_mnist(
        "a threshold",
        'layers["drop7"] = nn.Dropout(p=0.5)',
        'layers["drop7"] = nn.Threshold(0.5, 0.0)',
        "drop7",
        "the smaller values are set to 0 (a threshold)",
        seen_by=FLOATS,
    ),
    _torch_mnist(
        "all is dropped",
        'layers["drop6"] = nn.Dropout(p=0.5)',
        'layers["drop6"] = nn.Threshold(1e30, 0.0)',
        "drop6",
        "every value is 0",
    ),
    _tf1_mnist(
        "all is kept at 0",
        "rate = 1.0 - keep_prob",
        "rate = 1e-3 + 0 * keep_prob; x = 0 * x",
        "drop6",
        "every value is 0",
    ),
]
