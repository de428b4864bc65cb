"""A Keras model on the backend that `KERAS_BACKEND` names, every layer's output recorded; a process of its own.

`{"load": MODEL, "shape": …, "weights": …, "feeds": …, "inputs": […], "values": …}` runs it as `model.predict` does,
compiled, with the weights that the model has elsewhere (`.npz`, in the model's own order). With
`"export": FILE.tflite` it is written for LiteRT in place of being run.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from common.implementations.keras_initialisation import uninitialised
from common.prove.array_files import write_arrays
from common.prove.keras_layers import recording
from common.prove.models import load, parse
from common.prove.runtimes import serve


def recorder_of(model: Any) -> tuple[Any, list[str]]:
    """A model that returns the output of every layer, and the names of these outputs, which are known after a call."""
    import keras

    names: list[str] = []

    class Recorder(keras.Model):
        def call(self, inputs: Any) -> Any:
            with recording() as calls:
                model(inputs, training=False)
            names[:] = calls
            return list(calls.values())

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
    recorder, names = recorder_of(model)
    recorder.predict_on_batch(given)
    started = time.perf_counter()
    made = recorder.predict_on_batch(given)
    seconds = time.perf_counter() - started
    write_arrays(dict(zip(names, made, strict=True)), job["values"])
    return {"seconds": seconds, "version": keras.__version__}


if __name__ == "__main__":
    serve(run)
