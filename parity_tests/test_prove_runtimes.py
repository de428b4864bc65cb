"""The runtimes of `triptych prove` beside ONNX Runtime, each where it is installed: honest graphs are certified, faults
are found."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from foreign_models import FAMILIES, foreign  # noqa: E402
from test_prove import feeds_of, normal, recorded  # noqa: E402
from test_prove_mutants import FAULTS, with_fault  # noqa: E402

from common import TriptychError  # noqa: E402
from common.graphs import read_graph  # noqa: E402
from common.prove.array_files import mapped, write_arrays  # noqa: E402
from common.prove.exact import exact_probe  # noqa: E402
from common.prove.judging import Expected  # noqa: E402
from common.prove.litert import LITERT  # noqa: E402
from common.prove.models import parse  # noqa: E402
from common.prove.proof import Request, prove  # noqa: E402
from common.prove.results import judged  # noqa: E402
from common.prove.runtimes import OTHERS, record  # noqa: E402

HERE = [
    pytest.param(runtime, id=runtime.name, marks=pytest.mark.skipif(not runtime.is_there, reason="it is not installed"))
    for runtime in OTHERS
]


def row(runtime, model, graph, feeds, folder, expected):
    """What a runtime makes of a file, judged."""
    file = folder / "model.onnx"
    onnx.save(model, file)
    return judged(runtime, graph, feeds, record(runtime, file, feeds, folder), expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("runtime", HERE)
def test_an_honest_graph_is_not_accused(tmp_path, runtime, family):
    model = foreign(family)
    graph, feeds = read_graph("mine.onnx", model), feeds_of(model)
    probe = exact_probe(model, graph, recorded(model, feeds))
    found = row(runtime, model, graph, feeds, tmp_path, Expected())
    assert (found.reason, found.verdict) == (None, "certified"), found.likely_cause
    assert len(found.layers) == len(graph.nodes)
    found = row(runtime, probe.model, probe.graph, probe.feeds, tmp_path, probe.expected)
    assert (found.reason, found.verdict) == (None, "identical"), found.likely_cause


@pytest.mark.parametrize("family", ["mobilenet", "vit"])
@pytest.mark.parametrize("runtime", HERE)
def test_a_fault_is_found_where_it_is(tmp_path, runtime, family):
    model = foreign(family)
    where, change, _ = next(iter(FAULTS[family].values()))
    found = row(
        runtime, with_fault(model, where, change), read_graph("mine.onnx", model), feeds_of(model), tmp_path, Expected()
    )
    assert found.first_divergence == where


@pytest.mark.parametrize("runtime", HERE)
def test_what_it_cannot_run_is_a_row(tmp_path, runtime):
    node = onnx.helper.make_node("Nonsense", ["x"], ["y"], domain="mine")
    graph = onnx.helper.make_graph(
        [node],
        "mine",
        [onnx.helper.make_tensor_value_info("x", 1, [1, 2])],
        [onnx.helper.make_tensor_value_info("y", 1, [1, 2])],
    )
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in (("", 20), ("mine", 1))]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets), tmp_path / "mine.onnx")
    found = record(runtime, tmp_path / "mine.onnx", {"x": np.zeros((1, 2), np.float32)}, tmp_path)
    assert found.error
    assert not found.values


MAKE = """
import numpy as np, tensorflow as tf, keras
from keras import layers

keras.utils.set_random_seed(1)
x = given = keras.Input((9, 8, 3))
x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(24, (3, 5), use_bias=False)(x)))
x = layers.Add()([x, layers.DepthwiseConv2D(3, padding="same")(x)])
x = layers.Dense(5)(layers.Flatten()(layers.Activation("hard_swish")(x)))
model = keras.Model(given, layers.Softmax()(x))
model.layers[2].set_weights(np.random.default_rng(0).uniform(0.5, 1.5, (4, 24)))
model.save("model.keras")
model.export("good.tflite", format="litert", verbose=False)
quantising = tf.lite.TFLiteConverter.from_keras_model(model)
quantising.optimizations = [tf.lite.Optimize.DEFAULT]
with open("quantised.tflite", "wb") as file:
    file.write(quantising.convert())
weights = model.get_weights()
weights[-1][3] += 0.01
model.set_weights(weights)
model.export("wrong.tflite", format="litert", verbose=False)
"""


@pytest.fixture(scope="module")
def litert_files(tmp_path_factory):
    """What Keras makes of a model for LiteRT: as it is, quantised, and with another bias."""
    if not LITERT.is_there or any(importlib.util.find_spec(name) is None for name in ("keras", "tensorflow", "torch")):
        pytest.skip("LiteRT, or what writes its files, is not installed")
    folder = tmp_path_factory.mktemp("litert")
    command = [sys.executable, "-c", MAKE]
    subprocess.run(
        command, cwd=folder, check=True, capture_output=True, env=os.environ | {"KERAS_BACKEND": "tensorflow"}
    )
    return folder


def test_a_file_for_litert_is_judged_by_the_model_that_it_was_made_of(litert_files):
    names = [parse(str(litert_files / name)) for name in ("model.keras", "good.tflite", "wrong.tflite")]
    own, good, wrong = prove(names, Request(("random",), backends=("keras-torch", "litert")))
    assert {row.backend: row.verdict for row in own.backends} == {"keras-torch": "certified", "litert": "certified"}
    assert good.verdict == "certified"
    assert wrong.verdict == "diverged"
    assert "the last value that the file has in common with it is that of" in wrong.backends[0].note


def test_what_litert_cannot_prove_is_told_in_a_sentence(litert_files, tmp_path):
    (tmp_path / "nonsense.tflite").write_text("nonsense")
    model, quantised = (parse(str(litert_files / name)) for name in ("model.keras", "quantised.tflite"))
    request = Request(("random",), backends=("keras-torch",))
    with pytest.raises(TriptychError, match=r"is quantised: its tensor .* is int8; prove the float32 model"):
        prove([model, quantised], request)
    with pytest.raises(TriptychError, match="no model that LiteRT reads"):
        prove([model, parse(str(tmp_path / "nonsense.tflite"))], request)
    with pytest.raises(TriptychError, match="judged by the model that it was made from; name that model before it"):
        prove([quantised, model], request)
    with pytest.raises(TriptychError, match="keeps its own weights"):
        prove([model, quantised], Request(("random",), backends=("keras-torch",), weights="first"))


def test_values_stay_in_their_file_until_they_are_read(tmp_path):
    """Of every type and shape, those without axes or without elements too."""
    arrays = {
        "map": normal(2, 3, 4),
        "turned": normal(2, 3, 4).transpose(2, 0, 1),
        "number": np.array(2.5, np.float32),
        "size": np.array([3, -1]),
        "mask": np.array([True, False, True]),
        "bytes": np.arange(5, dtype=np.uint8),
        "nothing": np.zeros((0, 4), np.float32),
    }
    write_arrays(arrays, tmp_path / "values.safetensors")
    found = mapped(tmp_path / "values.safetensors")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert np.array_equal(found[name], array)
        assert not found[name].flags.writeable
    write_arrays({}, tmp_path / "none.safetensors")
    assert mapped(tmp_path / "none.safetensors") == {}
