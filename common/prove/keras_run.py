"""A Keras model on the backend that `KERAS_BACKEND` names, every layer's output recorded; a process of its own.

`{"load": MODEL, "shape": …, "weights": …, "feeds": …, "inputs": […], "values": …}` runs it as `model.predict` does,
compiled, with the weights that the model has elsewhere (`.npz`, in the model's own order). With `"only": […]` only
these calls of layers and what the model returns, by the names in `"outputs"`, are recorded; with an empty list it is
the model itself that runs. With `"export": FILE.tflite` it is written for LiteRT in place of being run.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from common.implementations.keras_initialisation import uninitialised
from common.prove.array_files import named_outputs, write_arrays
from common.prove.keras_layers import recording
from common.prove.models import load, parse
from common.prove.runtimes import serve


def recorder_of(model: Any, only: Collection[str] | None = None) -> tuple[Any, list[str]]:
    """A model that returns the output of every layer, and the names of these outputs, which are known after a call.

    Where `only` some calls of layers are wanted, it returns those, and then what the model returns.
    """
    import keras

    names: list[str] = []

    class Recorder(keras.Model):
        def call(self, inputs: Any) -> Any:
            with recording() as calls:
                returned = keras.tree.flatten(model(inputs, training=False))
            wanted = {name: made for name, made in calls.items() if only is None or name in only}
            names[:] = wanted
            return [*wanted.values(), *([] if only is None else returned)]

    recorder = Recorder()
    recorder.model = model
    return recorder, names


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job, see the module's docstring."""
    import keras

    feeds = load_file(job["feeds"])
    given: Any = [feeds[name] for name in job["inputs"]]
    given = given[0] if len(given) == 1 else given
    with uninitialised():
        model = load(parse(job["load"]), job["shape"])
        if not model.built:
            model(given, training=False)  # which makes its weights
    with np.load(job["weights"]) as file:
        model.set_weights([file[name] for name in file.files])
    if "export" in job:
        model.export(job["export"], format="litert", verbose=False)
        return {"version": keras.__version__}
    only = job.get("only")
    runner, names = (model, []) if only == [] else recorder_of(model, only)
    runner.predict_on_batch(given)
    started = time.perf_counter()
    made = keras.tree.flatten(runner.predict_on_batch(given))
    seconds = time.perf_counter() - started
    values = dict(zip(names, made, strict=only is None))
    if only is not None:
        values |= named_outputs(job["outputs"], made[len(names) :])
    write_arrays(values, job["values"])
    return {"seconds": seconds, "version": keras.__version__}


if __name__ == "__main__":
    serve(run)
