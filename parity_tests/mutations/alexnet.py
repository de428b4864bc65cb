"""Mistakes in AlexNet and its variants: padding, groups, normalisation, flattening, dropout, precision."""

from functools import partial

from parity_tests.injection import Mutant

_torch = partial(Mutant, "torch_impl", "torch_impl/alexnet.py", "alexnet_bvlc")
_keras = partial(Mutant, "keras_impl", "keras_impl/alexnet.py", "alexnet_bvlc", occurrence=None)
_keras_layers = partial(Mutant, "keras_impl", "keras_impl/layers.py", "alexnet_bvlc")
_tf1 = partial(Mutant, "tf1_style_impl", "tf1_style_impl/alexnet.py", "alexnet_bvlc")
_tf1_layers = partial(Mutant, "tf1_style_impl", "tf1_style_impl/layers.py", "alexnet_bvlc")
_torch_mnist = partial(Mutant, "torch_impl", "torch_impl/alexnet_variants.py", "alexnet_mnist")
_keras_mnist = partial(Mutant, "keras_impl", "keras_impl/alexnet_variants.py", "alexnet_mnist")
_tf1_mnist_layers = partial(Mutant, "tf1_style_impl", "tf1_style_impl/layers.py", "alexnet_mnist")

MUTANTS = [
    # Padding and stride
    _torch("conv1 stride 3", "stride=4", "stride=3", "conv1", "the stride is 3"),
    _keras(
        "conv1 padded SAME",
        "strides=4, name",
        'strides=4, padding="same", name',
        "conv1",
        "the padding is TensorFlow's SAME",
    ),
    _torch_mnist(
        "conv2 without padding", "kernel_size=5, padding=2", "kernel_size=5", "conv2", "the padding is missing"
    ),
    _tf1("conv2 padding 1", "5, 256, padding=2", "5, 256, padding=1", "conv2", "the padding is 1"),
    _torch_mnist(
        "the border reflected",
        "kernel_size=3, padding=1",
        'kernel_size=3, padding=1, padding_mode="reflect"',
        "conv3",
        "the border is reflected",
    ),
    _tf1_mnist_layers(
        "pools padded SAME",
        "strides=stride, padding=pads, name",
        'strides=stride, padding="SAME", name',
        "pool1",
        "the padding is TensorFlow's SAME",
    ),
    _torch_mnist(
        "pools round up",
        "pool2=nn.MaxPool2d(kernel_size=3, stride=2)",
        "pool2=nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True, padding=1)",
        "pool2",
        "the padding is TensorFlow's SAME",  # which that is, on 13×13
    ),
    _keras_mnist(
        "pool1 2×2",
        'MaxPooling2D(3, strides=2, name="pool1")',
        'MaxPooling2D(2, strides=2, name="pool1")',
        "pool1",
        "the window is 2×2",
    ),
    _torch_mnist(
        "average for maximum",
        "pool2=nn.MaxPool2d",
        "pool2=nn.AvgPool2d",
        "pool2",
        "the average is taken, not the maximum",
    ),
    # Groups and biases
    _keras(
        "conv2 without groups",
        'groups=2, name="conv2"',
        'name="conv2"',
        "conv2",
        "conv2/weight has shape 256×96×5×5, expected 256×48×5×5",
    ),
    _tf1_layers(
        "the groups' inputs swapped",
        "inputs = tf.split(x, groups, axis=3)",
        "inputs = tf.split(x, groups, axis=3)[::-1]",
        "conv2",
        "the groups' inputs are swapped",
    ),
    _tf1_layers(
        "the groups' outputs swapped",
        "        return tf.nn.bias_add(y, biases, name=scope.original_name_scope)",
        "        y = tf.nn.bias_add(y, biases)\n"
        "        return tf.roll(y, filters // 2 if groups > 1 else 0, 3, name=scope.original_name_scope)",
        "conv2",
        "the groups' outputs are swapped",
    ),
    _torch(
        "conv4 without bias",
        "384, 384, kernel_size=3,",
        "384, 384, kernel_size=3, bias=False,",
        "conv4",
        "conv4/bias is missing",
    ),
    _tf1_mnist_layers(
        "the bias forgotten", "bias_add(y, biases", "bias_add(y, 0 * biases", "conv1", "the bias is missing"
    ),
    # Local response normalisation
    _torch("LRN's alpha divided by 5 twice", "alpha=1e-4", "alpha=2e-5", "norm1", "alpha is divided by the size twice"),
    _tf1("LRN's alpha not divided by 5", "alpha=2e-5", "alpha=1e-4", "norm1", "alpha is not divided by the size"),
    _tf1(
        "LRN's alpha 1e-5",
        "alpha=2e-5",
        "alpha=1e-5",
        "norm1",
        "alpha is ten times too small and not divided by the size",
    ),
    _keras("LRN's alpha 1e-5", "alpha=1e-4", "alpha=1e-5", "norm1", "alpha is ten times too small"),
    _torch("the second LRN's alpha", "alpha=1e-4", "alpha=5e-4", "norm2", "alpha is not divided by the size", 1),
    _tf1("LRN's size taken for a radius", "radius=2", "radius=5", "norm1", "the size is taken for a radius"),
    _keras("LRN's radius taken for the size", "size=5", "size=3", "norm1", "a radius is taken for the size"),
    _torch("LRN's k 2", "k=1.0", "k=2.0", "norm1", "k is 2"),
    _keras("LRN's beta 0.5", "beta=0.75", "beta=0.5", "norm1", "beta is 0.5"),
    _keras_layers(
        "LRN's window one channel off",
        "(radius, radius)",
        "(radius - 1, radius + 1)",
        "norm1",
        "the window is +1 channel off",
    ),
    _tf1_layers(
        "LRN along another axis",
        "return tf.nn.local_response_normalization(x, depth_radius=radius, bias=bias, alpha=alpha, beta=beta",
        "x = tf.transpose(x, [0, 1, 3, 2])\n"
        "    x = tf.nn.local_response_normalization(x, depth_radius=radius, bias=bias, alpha=alpha, beta=beta)\n"
        "    return tf.transpose(x, [0, 1, 3, 2]",
        "norm1",
        "the window runs along the width, not the channels",
    ),
    _torch(
        "LRN after the pool (CaffeNet's order)",
        "                # PyTorch divides alpha by size, as Caffe does.\n"
        "                norm1=nn.LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=1.0),\n"
        "                pool1=nn.MaxPool2d(kernel_size=3, stride=2),  # 96×27×27\n",
        "                pool1=nn.MaxPool2d(kernel_size=3, stride=2),  # 96×27×27\n"
        "                norm1=nn.LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=1.0),\n",
        "norm1",
        "it reads pool1, not relu1",
    ),
    # Activation, flattening, dropout, dense layers
    _torch_mnist(
        "ReLU forgotten",
        'layers["relu6"] = nn.ReLU()',
        'layers["relu6"] = nn.Identity()',
        "relu6",
        "the ReLU is missing",
    ),
    _keras_mnist(
        "leaky ReLU",
        'layers.ReLU(name="relu2")',
        'layers.LeakyReLU(0.01, name="relu2")',
        "relu2",
        "the ReLU is leaky, slope 0.01",
    ),
    _tf1(
        "ReLU6",
        'tf.nn.relu(x, name="relu1")',
        'tf.nn.relu6(x, name="relu1")',
        "relu1",
        "the ReLU is capped at 6",
    ),
    _tf1_mnist_layers(
        "flattened C, H, W",
        "reshape(x, [",
        "reshape(tf.transpose(x, [0, 3, 1, 2]), [",
        "flatten",
        "the order is C, H, W, not H, W, C",
    ),
    _tf1_mnist_layers(
        "flattened W, H, C",
        "reshape(x, [",
        "reshape(tf.transpose(x, [0, 2, 1, 3]), [",
        "flatten",
        "the order is W, H, C, not H, W, C",
    ),
    _keras_mnist(
        "fc7 with a unit too many",
        'Dense(4096, name="fc7")',
        'Dense(4097, name="fc7")',
        "fc7",
        "fc7 has shape 4097, expected 24",
    ),
    _tf1_mnist_layers(
        "dropout active",
        "rate = 1.0 - keep_prob",
        "rate = 0.5 * keep_prob",
        "drop6",
        "dropout is active, and divides what it keeps by 0.5",
    ),
    _tf1_mnist_layers(
        "the dropout's rate taken for what it keeps",
        "rate = 1.0 - keep_prob",
        "rate = 0.25",
        "drop6",
        "dropout is active, and divides what it keeps by 0.75",
    ),
    _keras_mnist(
        "dropout scales while it does not drop",
        'layers.Dropout(rate=0.5, name="drop7")',
        'layers.Rescaling(0.5, name="drop7")',
        "drop7",
        "every value is multiplied by 0.5",
    ),
    _torch_mnist(
        "softmax in the logits",
        'layers["fc8"] = nn.Linear(4096, num_classes)\n',
        'layers["fc8"] = nn.Linear(4096, num_classes)\n'
        '    layers["fc8"].register_forward_hook(lambda layer, inputs, logits: logits.softmax(1))\n',
        "fc8",
        "a softmax is applied",
    ),
    # Precision
    _tf1_layers(
        "bfloat16 in conv5",
        "grouped_conv2d(x, weight, groups=groups,",
        "grouped_conv2d(*(tf.cast(tf.cast(v, tf.bfloat16), tf.float32) if name == 'conv5' else v for v in (x, weight)),"
        " groups=groups,",
        "conv5",
        "factors are rounded to bfloat16",
    ),
]
