"""Mistakes at an implementation's doors: weights as they are loaded, and the image as it arrives."""

from functools import partial

from parity_tests.injection import Mutant

_torch = partial(Mutant, "torch_impl", "torch_impl/backend.py")
_keras = partial(Mutant, "keras_impl", "keras_impl/backend.py")
_tf1 = partial(Mutant, "tf1_style_impl", "tf1_style_impl/backend.py")
_keras_layouts = partial(Mutant, "keras_impl", "common/layouts.py")
_tf1_layouts = partial(Mutant, "tf1_style_impl", "common/layouts.py")


def _torch_loads(architecture: str, mistake: str, taken: str, layer: str, cause: str) -> Mutant:
    """What PyTorch loads in place of `weights[name]`."""
    return _torch(architecture, mistake, "np.require(weights[name],", f"np.require({taken},", layer, cause)


def _keras_loads(architecture: str, mistake: str, taken: str, layer: str, cause: str) -> Mutant:
    return _keras(architecture, mistake, "parameter.to_keras(weights[name])", taken, layer, cause)


def _torch_sees(architecture: str, mistake: str, lines: str, cause: str, layer: str = "conv1") -> Mutant:
    """What is done to the image before PyTorch gets it."""
    return _torch(
        architecture,
        mistake,
        "    pixels = torch.from_numpy(image)",
        f"    {lines}\n    pixels = torch.from_numpy(np.ascontiguousarray(image, np.float32))",
        layer,
        cause,
    )


def _tf1_sees(architecture: str, mistake: str, lines: str, cause: str, layer: str = "conv1") -> Mutant:
    return _tf1(architecture, mistake, '    fed["images:0"] =', f'    {lines}\n    fed["images:0"] =', layer, cause)


def _keras_sees(architecture: str, mistake: str, lines: str, cause: str, layer: str = "conv1") -> Mutant:
    return Mutant(
        "keras_impl",
        "keras_impl/recording.py",
        architecture,
        mistake,
        "    found = walk(",
        f"    {lines}\n    found = walk(",
        layer,
        cause,
    )


MUTANTS = [
    # Layouts
    _keras_layouts(
        "alexnet_mnist",
        "kernels loaded W, H, I, O",
        "return kernel.transpose(2, 3, 1, 0)",
        "return kernel.transpose(3, 2, 1, 0)",
        "conv1",
        "the kernel's height and width are exchanged",
    ),
    _tf1_layouts(
        "alexnet_mnist",
        "kernels reshaped to H, W, I, O",
        "return kernel.transpose(2, 3, 1, 0)",
        "return kernel.reshape(*kernel.shape[2:], *kernel.shape[1::-1])",
        "conv1",
        "the kernel is reshaped where it should be transposed",
    ),
    _tf1_layouts(
        "vgg16_gap",
        "kernels loaded H, W, O, I where that fits",
        "return kernel.transpose(2, 3, 1, 0)",
        "return kernel.transpose(2, 3, *((0, 1) if kernel.shape[0] == kernel.shape[1] else (1, 0)))",
        "conv1_2",
        "the kernel's inputs and outputs are exchanged",
    ),
    _keras_layouts(
        "alexnet_mnist",
        "fc6 flattened in the other order",
        "if flattened is None:",
        "if True:",
        "fc6",
        "the weights are for a flatten in the order C, H, W, not H, W, C",
    ),
    _keras_layouts(
        "alexnet_mnist",
        "dense kernels not transposed where that fits",
        "return kernel.T",
        "return kernel if kernel.shape[0] == kernel.shape[1] else kernel.T",
        "fc7",
        "the kernel's inputs and outputs are exchanged",
    ),
    _tf1_layouts(
        "lenet_caffe",
        "dense kernels reshaped",
        "return kernel.T",
        "return kernel.reshape(kernel.shape[::-1])",
        "fc2",
        "the kernel is reshaped where it should be transposed",
    ),
    # Weights
    _torch_loads(
        "alexnet_mnist",
        "kernels flipped",
        "weights[name][:, :, ::-1, ::-1] if weights[name].ndim == 4 else weights[name]",
        "conv1",
        "the kernel is flipped (convolution for cross-correlation)",
    ),
    _torch_loads(
        "vgg16_gap",
        "conv1_1 for another order of colours",
        'weights[name][:, ::-1] if name == "conv1_1/weight" else weights[name]',
        "conv1_1",
        "the image's channels are in reverse order (RGB for BGR)",
    ),
    _torch_loads(
        "vgg16_gap",
        "the next layer's weights",
        'weights[name.replace("conv3_2", "conv3_3")]',
        "conv3_2",
        "the weights of conv3_3 are used",
    ),
    _torch_loads(
        "resnet18",
        "a neighbour's statistics",
        'weights[name if name.endswith(("gamma", "beta")) else name.replace("conv3_block1/bn1", "conv3_block1/bn2")]',
        "conv3_block1/bn1",
        "mean and variance are those of conv3_block1/bn2",
    ),
    _keras_loads(
        "resnet18",
        "biases and normalisation not loaded",
        'parameter.to_keras(weights[name]) if name.endswith("/weight") else parameter.variable',
        "bn1",
        "the parameters are the initial ones",
    ),
    _torch(
        "resnet18",
        "gamma and beta exchanged",
        "for ours, theirs in TORCH_BATCH_NORM.items()}",
        'for ours, theirs in TORCH_BATCH_NORM.items()} | {"weight": "beta", "bias": "gamma"}',
        "bn1",
        "gamma and beta are exchanged",
    ),
    _torch(
        "resnet18",
        "statistics not loaded",
        "if layer_of(name) not in skip:",
        'if layer_of(name) not in skip and not name.endswith(("mean", "variance")):',
        "bn1",
        "the stored statistics are missing",
    ),
    _torch_loads(
        "resnet18",
        "statistics not divided by Caffe's factor",
        'weights[name] * np.float32(1000 if name.endswith(("mean", "variance")) else 1)',
        "bn1",
        "mean and variance are not divided by their scale factor 1000",
    ),
    _torch_loads(
        "resnet18",
        "one channel's mean damaged",
        "weights[name] + (np.arange(weights[name].size) == 7).reshape(weights[name].shape).astype(np.float32)"
        ' if name == "bn1/mean" else weights[name]',
        "bn1",
        "no known mistake; only 1 of 64 channels differ (7)",
    ),
    _torch_loads(
        "lenet_caffe",
        "biases not loaded",
        'weights[name] * np.float32(not name.endswith("bias"))',
        "conv1",
        "the bias is missing",
    ),
    # Images
    _keras_sees(
        "alexnet_bvlc",
        "RGB for BGR",
        "image = image[:, ::-1]",
        "the image's channels are in reverse order (RGB for BGR)",
    ),
    _torch_sees(
        "alexnet_bvlc",
        "colours swapped through aliased views",
        "image = image[:, ::-1].copy()\n    image[:, 0], image[:, 2] = image[:, 2], image[:, 0]",
        "channel 2 of the image is lost, channel 0 stands in both places",
    ),
    _tf1_sees(
        "alexnet_bvlc",
        "the image's own mean subtracted",
        "image = image - image.mean(axis=(2, 3), keepdims=True)",
        "the image's own mean is subtracted",
    ),
    _tf1_sees(
        "vgg16_gap",
        "one mean for all channels",
        "image = image - image.mean(axis=(1, 2, 3), keepdims=True)",
        "the mean over all channels is subtracted",
        "conv1_1",
    ),
    _torch_sees(
        "vgg16_gap",
        "no mean subtracted",
        "image = image + np.array([103.939, 116.779, 123.68], np.float32).reshape(3, 1, 1)",
        "the mean is not subtracted from the image",
        "conv1_1",
    ),
    _keras_sees(
        "vgg16_gap",
        "the mean in RGB order",
        "mean = np.array([103.939, 116.779, 123.68], np.float32).reshape(3, 1, 1)\n"
        "    image = image + mean - mean[::-1]",
        "the mean's channels are in reverse order",
        "conv1_1",
    ),
    _torch_sees(
        "densenet121",
        "scaled to 0…1, not standardised",
        "mean, scale = np.array([[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]]).reshape(2, 3, 1, 1)\n"
        "    image = (image * scale + mean) / 255",
        "the image's pixels are from 0 to 1",
    ),
    _torch_sees(
        "lenet_caffe",
        "pixels not divided by 255",
        "image = image * 255",
        "the image is not divided by its scale",
    ),
    _keras_layouts(
        "lenet_caffe",
        "the image's height and width exchanged",
        "return activation.transpose(0, 2, 3, 1) if",
        "return activation.transpose(0, 3, 2, 1) if",
        "conv1",
        "the image's height and width are exchanged",
    ),
    _tf1_layouts(
        "resnet18",
        "the image reshaped to N, H, W, C",
        "return activation.transpose(0, 2, 3, 1) if",
        "return activation.reshape(len(activation), *activation.shape[2:], -1) if",
        "conv1",
        "the image is reshaped where it should be transposed",
    ),
]
