"""`triptych.prove` and `triptych.assert_same`: the proof as Python functions, for programs and for tests."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import TriptychError
from common.prove.input_files import is_given_as
from common.prove.models import ModelName, parse
from common.prove.proof import PROBES, Given, Request
from common.prove.proof import prove as prove_models
from common.prove.results import Report
from common.prove.runtimes import ONNX_RUNTIMES
from common.prove.subject import FIRST, InMemory


def prove(
    a: Any,
    b: Any = None,
    *,
    example: Any = None,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    probes: Sequence[str] | None = None,
    backends: Sequence[str] | None = None,
    weights: str | None = None,
    deployed: bool = False,
    device: str = "cpu",
    seed: int = 0,
) -> Report:
    """Prove that a model computes what its graph says, in every runtime, and that a second model is the same.

    Args:
        a: a PyTorch module, a Keras model, the path of a `.onnx` or `.keras` file, or any MODEL that `triptych prove`
            takes. Its graph is the specification.
        b: an export of it, or another model, in any of these forms.
        example: an input of the model: an array, a tensor, or a sequence or a mapping by name for several inputs;
            float32, integers or bool. Its shape is the models' input shape, and its numbers are used on the random
            probe. Integers and truth values are used on both probes.
        input_shape: the shape of the only input, or a mapping from inputs to shapes, instead of an example. These
            inputs are filled with random numbers.
        probes: `exact`, `random`, or both. By default both, and only `random` with an export `b`.
        backends: the runtimes of `a`: `torch`, `onnxruntime`, …. By default all; but only `torch` for a PyTorch module
            with a `b`, since compiling takes long.
        weights: `first`: `b` is another network, whose names and layouts may differ, and gets the weights of `a`.
            `own`: it has these weights already. None: as the command decides, for example for an export.
        deployed: whether each runtime also runs as it is deployed: nothing but the outputs is asked for.
        device: `cpu`, `webgpu` or `cuda`. On a GPU, ONNX Runtime runs the file, or the model's specification and its
            official export.
        seed: of all random numbers.

    Raises:
        TriptychError: a model cannot be loaded or run, or the two are not the same graph.
    """
    usual = PROBES if b is None else ("random",)
    if backends is None and b is not None and weights is None:
        backends = FIRST if device == "cpu" else (ONNX_RUNTIMES[0].on(device).name,)
    named = {name: _array(item) for name, item in example.items()} if isinstance(example, Mapping) else {}
    arrays = None if example is None or named else _arrays(example)
    told = {"shapes": input_shape} if isinstance(input_shape, Mapping) else {"shape": input_shape}
    request = Request(
        probes or usual,
        seed=seed,
        inputs=named,
        example=arrays,
        backends=backends,
        weights=weights,
        deployed=deployed,
        device=device,
        **told,
    )
    with tempfile.TemporaryDirectory(prefix="triptych-", ignore_cleanup_errors=True) as folder:
        models = [a] if b is None else [a, b]
        given = [_given(model, Path(folder) / f"{place}.keras") for place, model in enumerate(models)]
        return Report(prove_models(given, request))


def assert_same(a: Any, b: Any = None, **options: Any) -> Report:
    """As `prove`, but a difference raises an `AssertionError` with the node, the size of the error, and the cause.

    Raises:
        AssertionError: a node differs, a runtime crashed, or an operation has no bound.
        TriptychError: as for `prove`.
    """
    __tracebackhide__ = True  # pytest shows the line of the test
    report = prove(a, b, **options)
    if not report.agrees:
        raise AssertionError(str(report))
    return report


def _given(model: Any, place: Path) -> Given:
    """The name of the model, or the model itself if it is a PyTorch module.

    Args:
        model: as `prove` takes it.
        place: where to save a Keras model, so that each of its backends can load it.
    """
    if isinstance(model, str | Path):
        return parse(str(model))
    kinds = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if "keras" in kinds:
        try:
            model.save(place)
        except Exception as error:  # whatever its layers raise
            told = f"{_called(model)} cannot be saved as .keras: {error}; give FILE.py:NAME"
            raise TriptychError(told) from None
        return ModelName(_called(model), str(place), "")
    if "torch" in kinds and hasattr(model, "state_dict"):
        return InMemory(model)
    raise TriptychError(f"{_called(model)} is no model; give a PyTorch module, a Keras model, or a name")


def _called(model: Any) -> str:
    return type(model).__name__


def _arrays(example: Any) -> list[np.ndarray]:
    """An array, a tensor or several of them, as arrays.

    Raises:
        TriptychError: as for `_array`.
    """
    several = isinstance(example, list | tuple) and all(hasattr(item, "shape") for item in example)
    return [_array(item) for item in (example if several else [example])]


def _array(item: Any) -> np.ndarray:
    """An array or a tensor as an array.

    Raises:
        TriptychError: it is neither float32, nor integers, nor truth values.
    """
    array = np.asarray(item.detach().cpu() if hasattr(item, "detach") else item)
    if not is_given_as(array.dtype):
        raise TriptychError(f"the example holds {array.dtype}, expected float32, integers or truth values")
    return array
