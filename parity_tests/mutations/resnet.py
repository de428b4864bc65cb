"""Mistakes in ResNet: normalisation, strides, shortcuts, what stands around the addition, padding of the stem."""

from functools import partial

from parity_tests.injection import Mutant

_torch18 = partial(Mutant, "torch_impl", "torch_impl/resnet.py", "resnet18")
_torch50 = partial(Mutant, "torch_impl", "torch_impl/resnet.py", "resnet50")
_torch_tutorial = partial(Mutant, "torch_impl", "torch_impl/resnet_tutorial.py", "resnet18_tutorial")
_torch_backend = partial(Mutant, "torch_impl", "torch_impl/backend.py", "resnet18")
_keras18 = partial(Mutant, "keras_impl", "keras_impl/resnet.py", "resnet18")
_keras_v1_5 = partial(Mutant, "keras_impl", "keras_impl/resnet.py", "resnet50_v1_5")
_keras_tutorial = partial(Mutant, "keras_impl", "keras_impl/resnet_tutorial.py", "resnet18_tutorial")
_tf18 = partial(Mutant, "tf1_style_impl", "tf1_style_impl/resnet.py", "resnet18")
_tf50 = partial(Mutant, "tf1_style_impl", "tf1_style_impl/resnet.py", "resnet50")
_tf1_layers = partial(Mutant, "tf1_style_impl", "tf1_style_impl/layers.py", "resnet18")

MUTANTS = [
    # Batch normalisation
    _torch50(
        "keras.applications' eps",
        "self.bn2 = nn.BatchNorm2d(filters, eps=1e-5",
        "self.bn2 = nn.BatchNorm2d(filters, eps=1.001e-5",
        "conv2_block1/bn2",
        "eps is 1.001e-05",
        1,
    ),
    _torch50("Keras' eps in the stem", "(64, eps=1e-5", "(64, eps=1e-3", "bn1", "eps is 0.001"),
    _keras18(
        "eps left to Keras",
        'BatchNormalization(epsilon=1e-5, momentum=0.9, name="bn1")',
        'BatchNormalization(name="bn1")',
        "bn1",
        "eps is 0.001",
    ),
    _tf1_layers(
        "the least eps of an older fused operation",
        "tf.nn.batch_normalization(x, mean, variance, beta, gamma, eps)",
        "tf.nn.fused_batch_norm(x, gamma, beta, mean, variance, epsilon=max(eps, 1.001e-5), is_training=False)[0]",
        "bn1",
        "eps is 1.001e-05",
    ),
    _torch_tutorial("PyTorch's eps for Keras'", "eps=1e-3", "eps=1e-5", "conv2_block1/bn1", "eps is 1e-05"),
    _tf1_layers(
        "gamma and beta exchanged",
        "mean, variance, beta, gamma, eps",
        "mean, variance, gamma, beta, eps",
        "bn1",
        "gamma and beta are exchanged",
    ),
    _tf1_layers(
        "the mean forgotten",
        "(x, mean, variance, beta, gamma, eps)",
        "(x, 0.0, variance, beta, gamma, eps)",
        "bn1",
        "the stored mean is missing",
    ),
    _tf1_layers(
        "beta forgotten",
        "(x, mean, variance, beta, gamma, eps)",
        "(x, mean, variance, None, gamma, eps)",
        "bn1",
        "beta is missing",
    ),
    _tf1_layers(
        "a standard deviation taken for the variance",
        "(x, mean, variance, beta, gamma, eps)",
        "(x, mean, variance * variance, beta, gamma, eps)",
        "bn1",
        "the variance is taken for a standard deviation",
    ),
    _torch_backend(
        "left in training mode",
        "(**options).eval()",
        "(**options)",
        "bn1",
        "the statistics are the batch's, as in training",
    ),
    # Strides and shortcuts
    _torch50(
        "v1.5's stride in v1",
        "first, second = (1, stride) if stride_on_3x3 else (stride, 1)",
        "first, second = (1, stride)",
        "conv3_block1/conv1",
        "its stride and that of conv3_block1/conv2 are exchanged",
    ),
    _keras_v1_5(
        "v1's stride in v1.5",
        "first, second = (1, stride) if stride_on_3x3 else (stride, 1)",
        "first, second = (stride, 1)",
        "conv3_block1/conv1",
        "its stride and that of conv3_block1/conv2 are exchanged",
    ),
    _tf18(
        "a stride in the second stage too",
        "stride = 2 if stage > 2 and number == 1 else 1",
        "stride = 2 if number == 1 else 1",
        "conv2_block1/conv1",
        "the stride is 2",
    ),
    _torch18(
        "no projection: the shortcut is cut and padded",
        "x = self.shortcut_bn(self.shortcut_conv(x))",
        "x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))",
        "conv3_block1/shortcut_conv",
        "conv3_block1/shortcut_conv was not computed",
    ),
    _torch18(
        "a projection where the shape stays",
        "self.projects = stride > 1 or channels != filters",
        "self.projects = True",
        "conv2_block1/shortcut_conv",
        "conv2_block1/shortcut_conv/weight is not in the specification",
    ),
    _tf18(
        "the shortcut taken from within the branch",
        'tf.add(y, x, name="add")',
        'tf.add(y, y, name="add")',
        "conv2_block1/add",
        "it reads conv2_block1/bn2, not pool1",
    ),
    # Around the addition
    _tf18(
        "no addition",
        'tf.add(y, x, name="add")',
        'tf.identity(y, name="add")',
        "conv2_block1/add",
        "only operand 1 of 2 is there",
    ),
    _torch18(
        "ReLU before the addition",
        "return self.relu(self.add(y, x))",
        "return self.add(self.relu(y), x)",
        "conv2_block1/add",
        "it reads conv2_block1/relu, not conv2_block1/bn2",
    ),
    _keras18(
        "an unnamed ReLU before the addition",
        'layers.Add(name=f"{name}_add")([y, x])',
        'layers.Add(name=f"{name}_add")([layers.ReLU()(y), x])',
        "conv2_block1/add",
        "a ReLU is applied to operand 1 before the addition",
    ),
    _torch18(
        "no ReLU after the addition",
        "self.relu = nn.ReLU()",
        "self.relu = nn.Identity()",
        "conv2_block1/relu",
        "the ReLU is missing",
    ),
    _torch50(
        "no ReLU in a block",
        "self.relu2 = nn.ReLU()",
        "self.relu2 = nn.Identity()",
        "conv2_block1/relu2",
        "the ReLU is missing",
    ),
    _tf50(
        "ReLU before the normalisation",
        'y = batch_norm(y, eps=1e-5, name="bn1")\n        y = tf.nn.relu(y, name="relu1")',
        'y = tf.nn.relu(y, name="relu1")\n        y = batch_norm(y, eps=1e-5, name="bn1")',
        "conv2_block1/bn1",
        "it reads conv2_block1/relu1, not conv2_block1/conv1",
        1,
    ),
    # The stem
    _keras18(
        "conv1 padded SAME",
        'x = layers.ZeroPadding2D(3, name="conv1_pad")(image)\n    x = layers.Conv2D(64, 7, strides=2,',
        'x = image\n    x = layers.Conv2D(64, 7, padding="same", strides=2,',
        "conv1",
        "the padding is TensorFlow's SAME",
    ),
    _tf18(
        "pool1 padded SAME",
        'stride=2, padding=1, name="pool1"',
        'stride=2, padding="SAME", name="pool1"',
        "pool1",
        "the padding is TensorFlow's SAME",
    ),
    _torch_tutorial(
        "padded on every side, not SAME",
        "conv1=SameConv2d(3, 64, kernel_size=7, stride=2)",
        "conv1=nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3)",
        "conv1",
        "the padding is shifted by a pixel to the top and left",
    ),
    _keras_tutorial(
        "pool1 padded on every side, not SAME",
        'return layers.MaxPooling2D(3, strides=2, padding="same", name="pool1")(x)',
        'return layers.MaxPooling2D(3, strides=2, name="pool1")(layers.ZeroPadding2D(1)(x))',
        "pool1",
        "the padding is shifted by a pixel to the top and left",
    ),
    _torch18(
        "ReLU after the pool",
        "        relu1=nn.ReLU(),\n        pool1=nn.MaxPool2d(kernel_size=3, stride=2, padding=1),  # 64×56×56\n",
        "        pool1=nn.MaxPool2d(kernel_size=3, stride=2, padding=1),  # 64×56×56\n        relu1=nn.ReLU(),\n",
        "relu1",
        "it reads pool1, not bn1",
    ),
    _keras18(
        "a bias in conv1",
        'layers.Conv2D(64, 7, strides=2, use_bias=False, name="conv1")',
        'layers.Conv2D(64, 7, strides=2, name="conv1")',
        "conv1",
        "conv1/bias is not in the specification",
    ),
    _torch_tutorial(
        "conv1 without bias",
        "conv1=SameConv2d(3, 64, kernel_size=7, stride=2)",
        "conv1=SameConv2d(3, 64, kernel_size=7, stride=2, bias=False)",
        "conv1",
        "conv1/bias is missing",
    ),
    _keras18(
        "the average of the wrong pixels",
        'layers.GlobalAveragePooling2D(keepdims=True, name="avg_pool")',
        'layers.GlobalMaxPooling2D(keepdims=True, name="avg_pool")',
        "avg_pool",
        "the maximum is taken, not the average",
    ),
]
