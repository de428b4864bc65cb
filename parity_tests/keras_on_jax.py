"""What is particular to Keras on JAX: `python -m parity_tests.keras_on_jax`."""

import gc
import weakref

import numpy as np

from common import layouts, random_weights
from common.process.sparing import spare_imports

spare_imports()

import jax  # noqa: E402
import keras  # noqa: E402

from keras_impl import backend, recording  # noqa: E402


class Scale(keras.layers.Layer):
    """x · 0.1"""

    def call(self, x):
        return x * 0.1


class Shift(keras.layers.Layer):
    """x + 0.3: after `Scale`, XLA has one instruction for both, which rounds once."""

    def call(self, x):
        return x + 0.3


def shifted_by_itself(found):
    """Whether each sum is that of the product which was recorded."""
    return np.array_equal(found["shift"], found["scale"] + np.float32(0.3))


def main():
    image = keras.Input((5, 7, 2))
    scaled = Scale(name="scale")(image)
    shifted = Shift(name="shift")(scaled)
    model = keras.Model(image, shifted, name="two_steps")
    pixels = np.random.default_rng(0).standard_normal((3, 2, 5, 7), dtype=np.float32)
    injected = {"scale": pixels[..., ::-1]}

    together = jax.jit(lambda x: (Scale()(x), Shift()(Scale()(x))))(pixels.transpose(0, 2, 3, 1))
    print("XLA by itself:", shifted_by_itself(dict(zip(("scale", "shift"), map(np.asarray, together), strict=True))))

    found, other = backend.record(model, pixels), backend.record(model, pixels, injected)
    print("compiled:", [program is not None for program in recording._PROGRAMS[model].values()])
    print("recorded:", shifted_by_itself(found), np.array_equal(other["scale"], found["scale"]))
    print("injected:", np.array_equal(other["shift"], injected["scale"] + np.float32(0.3)))

    recording._PROGRAMS.clear()
    recording.BARRIERS_TAKEN_AWAY_BY = "a pass of another name"
    again = backend.record(model, pixels)
    print("compiled without barriers:", [program is not None for program in recording._PROGRAMS[model].values()])
    print("recorded:", all(np.array_equal(again[name], found[name]) for name in found))

    remembered = weakref.ref(model)
    del model, image, scaled, shifted
    backend.release()
    gc.collect()
    print("forgotten:", remembered() is None)

    with backend.uninitialised():
        lenet = backend.build("lenet5")
    weights = random_weights("lenet5")
    mine = {name: layouts.apart_from(array, array) for name, array in weights.items()}  # as JAX wants them
    backend.load_weights(lenet, mine)
    for array in mine.values():
        array += 1
    loaded = backend.read_weights(lenet)
    print("loaded:", all(np.array_equal(loaded[name], array) for name, array in weights.items()))


if __name__ == "__main__":
    main()
