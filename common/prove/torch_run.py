"""Exports a PyTorch model as specification, and runs it value by value. A process of its own, which keeps the model.

- `{"export": MODEL, "shape": …, "examples": …, "folder": …, "seed": …, "official": …}` writes the specification into
  the folder, and the official export if that is asked for; `"refused"` is the reason if there can be none. `"by_name"`
  has the names of the examples, if the model gets them by name. With `"own": FILE` the specification is that of the
  model with marks for weights, and its own weights go into that file.
- `{"feeds": …, "inputs": […], "values": …, "compile": …}` runs the model and records every value that has a name in the
  specification. With `"only": […]` it records these and the `"outputs"` of the specification alone; with an empty list,
  the model itself is called, as its users call it. With `"among": […]` it answers which of these values are the output
  of a Keras layer, and writes the model's weights to `"weights"`.
- `{"variables": FILE}` writes all its variables. `{"set": FILE, "folder": …}` sets them and writes the specification
  again.
- `{"save": FILE}` writes its own checkpoint. With `"checkpoint": FILE` beside `"export"`, its weights come from one.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file

from common.errors import TriptychError
from common.graphs.onnx_reader import check_shape
from common.prove.array_files import named_outputs, write_arrays
from common.prove.keras_layers import called_in_graph, recording
from common.prove.marks import Marks
from common.prove.models import ModelName, load, parse
from common.prove.runtimes import answer_of, serve
from common.prove.tensors import load_weights, put, save, turn_for, turned_shape, variables_of
from common.prove.torch_export import Exported, Given, arguments

if TYPE_CHECKING:
    import torch


def _seeded(model: Any, example: torch.Tensor, seed: int) -> None:
    """Give a model without trained weights random scales, shifts and statistics, instead of 1 and 0."""
    import torch

    if hasattr(model, "get_layer"):  # of Keras
        numbers = np.random.default_rng(seed)
        for layer in model._flatten_layers():
            if "Normalization" in type(layer).__name__ and len(layer.get_weights()) == 4:
                pairs = zip(_RANGES, layer.get_weights(), strict=True)
                drawn = [numbers.uniform(*limits, weights.shape) for limits, weights in pairs]
                layer.set_weights(drawn)
        return
    generator = torch.Generator().manual_seed(seed + 1)
    for part in model.modules():
        name = type(part).__name__
        if "Norm" in name and getattr(part, "weight", None) is not None:
            part.weight.data.uniform_(0.5, 1.5, generator=generator)
            if getattr(part, "bias", None) is not None:
                part.bias.data.uniform_(-0.3, 0.3, generator=generator)
    model.eval()  # auxiliary heads, which a small image may be too small for, are there in training alone
    for part in model.modules():
        if "BatchNorm" in type(part).__name__:
            part.momentum = None  # the statistics are those of what follows
            part.train()
    with torch.no_grad():
        model(torch.randn(4, *example.shape[1:], generator=generator))


_RANGES = ((0.5, 1.5), (-0.3, 0.3), (-0.3, 0.3), (0.5, 1.5))
"""The ranges of gamma, beta, mean and variance."""


def _input_shape(model: ModelName, loaded: Any, given: list[int] | None) -> list[int]:
    if given:
        return given
    stated = getattr(loaded, "input_shape", None)  # of a Keras model
    if isinstance(stated, tuple) and None not in stated[1:]:
        return [1, *stated[1:]]
    if model.home == "torch_impl":
        from common.specs import get_spec

        return [1, *get_spec(model.name).input_shape]
    if model.is_library:
        return [1, 3, 224, 224]
    raise TriptychError(
        f"the input shape of {model.text} is not known; give it, such as --input-shape 1x3x224x224, or that of each of "
        f"several inputs, such as --input-shape NAME=1x3x224x224, or the inputs, such as --input NAME=FILE.npy"
    )


def _called_with(
    name: ModelName, model: Any, given: Mapping[str, torch.Tensor], by_name: Sequence[str] | None
) -> Given:
    """The inputs that a model is called with: in order if they are numbered, else by name.

    Raises:
        TriptychError: the model has no such input, or needs another.
    """
    if not by_name:
        ordered = [given[place] for place in sorted(given)]
        if not hasattr(model, "get_layer"):
            _require_call(name, model, "1 input" if len(ordered) == 1 else f"{len(ordered)} inputs", *ordered)
        return ordered
    if hasattr(model, "get_layer"):
        names = [value.name for value in model.inputs]
        if set(names) != set(by_name):
            told = f"takes {', '.join(names)}, but is given {', '.join(by_name)}"
            raise TriptychError(f"{name.text} {told}")
        for value in model.inputs:
            array = given[value.name]
            check_shape(name.text, value.name, value.shape, array.shape)
            if "float" in str(array.dtype) and "float" not in value.dtype:
                told = f"takes {value.name}, which is {value.dtype}, not float32"
                raise TriptychError(f"{name.text} {told}; give it with --input {value.name}=FILE.npy")
        return [given[place] for place in names]
    _require_call(name, model, ", ".join(by_name), **given)
    return {place: given[place] for place in by_name}


def _require_call(name: ModelName, model: Any, called: str, *ordered: Any, **named: Any) -> None:
    """Check that a PyTorch model can be called with some inputs.

    Raises:
        TriptychError: it takes others.
    """
    signature = inspect.signature(model.forward)
    try:
        signature.bind(*ordered, **named)
    except TypeError as error:
        told = f"{called}: {error}; it takes {', '.join(signature.parameters)}"
        raise TriptychError(f"{name.text} cannot be called with {told}; give each with --input NAME=FILE.npy") from None


def _given(job: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The inputs of a run by name, in the order of the specification."""
    import torch

    feeds = load_file(job["feeds"])
    return {name: torch.from_numpy(feeds[name]) for name in job["inputs"]}


class TorchJobs:
    """Does the jobs of this module, on a model that is loaded by its name or given."""

    def __init__(self, model: torch.nn.Module | None = None) -> None:
        self.given = model
        self.exported: Exported | None = None
        self.examples: Given = ()

    def do(self, job: dict[str, Any]) -> dict[str, Any]:
        with _evaluating(self.given):
            jobs = {
                "export": self._export,
                "among": self._layers,
                "variables": self._variables,
                "set": self._set,
                "save": self._save,
                "values": self._record,
            }
            return next(do for what, do in jobs.items() if what in job)(job)

    def _export(self, job: dict[str, Any]) -> dict[str, Any]:
        import torch

        if self.given is None:
            torch.manual_seed(job["seed"])
            name = parse(job["export"])
            model = load(name, turned_shape(name, job["shape"]) if job.get("turn") else job["shape"])
            if not isinstance(model, torch.nn.Module):
                raise TriptychError(f"{name.text} is {type(model).__name__}, not a torch.nn.Module")
        else:
            model = self.given
            name = ModelName(job["export"], "", "")
        if "examples" in job:
            given = {place: torch.from_numpy(array) for place, array in load_file(job["examples"]).items()}
            if job.get("turn"):
                given = {place: x.permute(turn_for(model, x.shape)).contiguous() for place, x in given.items()}
            examples: Given = _called_with(name, model, given, job.get("by_name"))
        else:
            examples = [torch.randn(*_input_shape(name, model, job["shape"]))]
        if name.is_library:
            _seeded(model, next(iter(examples.values() if isinstance(examples, Mapping) else examples)), job["seed"])
        if self.given is None:
            model.eval()
        keras = hasattr(model, "get_layer")
        if keras:
            ordered, named = arguments(model, examples)
            with torch.no_grad():
                model(*ordered, **named)  # which makes the weights of what was not built before
        self.examples = examples
        if "checkpoint" in job:
            load_weights(model, job["checkpoint"])
        if "own" in job:
            own = variables_of(model)
            write_arrays(own, job["own"])
            model = model if self.given is None else copy.deepcopy(model)
            put(model, Marks(own).arrays)
        self.exported = Exported(model, examples, Path(job["folder"]))
        answer: dict[str, Any] = {"version": torch.__version__, "keras": keras}
        if keras and job.get("by_name"):
            inputs: Any = model.inputs
            answer["inputs"] = [value.name for value in inputs]
        if job["official"]:
            answer["refused"] = answer_of(self._official, job).get("error")
        return answer

    def _official(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self.exported
        self.exported.write_official(Path(job["folder"]))
        return {}

    def _variables(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self.exported
        write_arrays(variables_of(self.exported.model), job["variables"])
        return {}

    def _set(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self.exported
        model = self.exported.model if self.given is None else copy.deepcopy(self.given)
        put(model, load_file(job["set"]))
        self.exported = Exported(model, self.examples, Path(job["folder"]))
        return {}

    def _save(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self.exported
        save(self.exported.model, job["save"])
        return {}

    def _layers(self, job: dict[str, Any]) -> dict[str, Any]:
        """For a Keras model: its weights, and the value of its graph that each call of a layer makes."""
        import torch

        assert self.exported
        given = _given(job)
        values, _, _ = self.exported.record(given, compiled=False)
        with torch.no_grad(), recording() as calls:
            ordered, named = arguments(self.exported.model, list(given.values()))
            self.exported.model(*ordered, **named)
        layers = {name: made.detach().numpy() for name, made in calls.items()}
        np.savez(job["weights"], *self.exported.model.get_weights())
        among = {name: values[name] for name in job["among"] if name in values}
        return {"called": called_in_graph(layers, among)}

    def _record(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self.exported
        only = job.get("only")
        if only == []:
            made, seconds = self.exported.call(_given(job), job["compile"])
            write_arrays(named_outputs(job["outputs"], made), job["values"])
            return {"seconds": seconds}
        wanted = None if only is None else {*only, *job["outputs"]}
        values, seconds, same = self.exported.record(_given(job), job["compile"], wanted)
        write_arrays(values, job["values"])
        return {"seconds": seconds, "same": same}


@contextmanager
def _evaluating(model: torch.nn.Module | None) -> Iterator[None]:
    """A context in which a user's module is in evaluation mode. Afterwards each part of it is as before."""
    were = [(part, part.training) for part in model.modules()] if model is not None else []
    if model is not None:
        model.eval()
    try:
        yield
    finally:
        for part, training in were:
            part.training = training


if __name__ == "__main__":
    serve(TorchJobs().do)
