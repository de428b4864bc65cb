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
