"""Layers that these networks need and Keras does not have."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="triptych")
class LocalResponseNormalization(keras.layers.Layer):
    """Local response normalisation across the channels of (N, H, W, C), in Caffe's convention.

    y_c = x_c · (k + alpha / size · Σ x²)^-beta, the sum running over the `size` channels around c (zeros outside).
    `tf.nn.local_response_normalization` does not divide alpha and takes a radius: size 5 and alpha 1e-4 here are
    depth_radius 2 and alpha 2e-5 there.

    Source: section 3.3 of Krizhevsky et al. 2012; Caffe's LRN layer, norm_region ACROSS_CHANNELS.
    """

    def __init__(self, size=5, alpha=1e-4, beta=0.75, k=1.0, **kwargs):
        super().__init__(**kwargs)
        if size % 2 == 0:
            raise ValueError(f"LRN takes an odd number of channels around each one, not size={size}")
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def call(self, inputs):
        channels = inputs.shape[-1]
        radius = self.size // 2
        squares = ops.pad(ops.square(inputs), [(0, 0), (0, 0), (0, 0), (radius, radius)])
        sums = sum(squares[..., offset : offset + channels] for offset in range(self.size))
        return inputs / ops.power(self.k + self.alpha / self.size * sums, self.beta)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "size": self.size, "alpha": self.alpha, "beta": self.beta, "k": self.k}


@keras.saving.register_keras_serializable(package="triptych")
class SelectChannels(keras.layers.Layer):
    """Some channels of (N, H, W, C), by number."""

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.channels = list(channels)

    def call(self, inputs):
        return ops.take(inputs, self.channels, axis=-1)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], len(self.channels))

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}


@keras.saving.register_keras_serializable(package="triptych")
class SubSampling(keras.layers.Layer):
    """LeNet-5's: the sum of each 2×2 window, times a trainable coefficient, plus a trainable bias, for each channel.

    A new layer is the mean of each window.
    """

    def build(self, input_shape):
        shape = (1, 1, input_shape[-1])
        self.weight = self.add_weight(name="weight", shape=shape, initializer=keras.initializers.Constant(0.25))
        self.bias = self.add_weight(name="bias", shape=shape, initializer="zeros")

    def call(self, inputs):
        means = ops.average_pool(inputs, pool_size=2, strides=2, data_format="channels_last")
        return 4 * means * self.weight + self.bias

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return (batch, height // 2, width // 2, channels)


@keras.saving.register_keras_serializable(package="triptych")
class ScaledTanh(keras.layers.Layer):
    """amplitude · tanh(slope · x)."""

    def __init__(self, amplitude, slope, **kwargs):
        super().__init__(**kwargs)
        self.amplitude = amplitude
        self.slope = slope

    def call(self, inputs):
        return self.amplitude * ops.tanh(self.slope * inputs)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "amplitude": self.amplitude, "slope": self.slope}


@keras.saving.register_keras_serializable(package="triptych")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' own, but that the stored variance follows the unbiased variance of each batch, n / (n − 1) times Keras'.

    So it does in the paper, in PyTorch and in Caffe; n is the number of values of a channel in the batch. The batch
    itself is normalised by the biased one, everywhere.

    Source: algorithm 2 of Ioffe and Szegedy 2015.
    """

    def call(self, inputs, training=None, mask=None):
        kept = self.moving_variance * self.momentum  # a number of now: the variable itself is about to change
        outputs = super().call(inputs, training=training, mask=mask)
        if training and self.trainable:
            shape = ops.shape(inputs)
            n = ops.cast(shape[0] * shape[1] * shape[2], kept.dtype)
            self.moving_variance.assign(kept + (self.moving_variance - kept) * (n / (n - 1)))
        return outputs


def called(model: keras.Sequential) -> keras.Sequential:
    """A Sequential model called on its own input: Keras gives it an `input` and an `output` no sooner.

    With them, `keras.Model(model.input, layers.Softmax()(model.output))` goes on from it as from a functional model.
    """
    model(model.inputs[0])
    return model
