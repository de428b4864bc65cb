"""`prove`, `show` and `port` read ONNX files in one way: what a constant holds, and what a broken file is told."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx.reference import ReferenceEvaluator  # noqa: E402

from common import TriptychError  # noqa: E402
from common.graphs import read_graph  # noqa: E402
from common.onnx.summary import read_summary  # noqa: E402
from common.porting.formats import read_source  # noqa: E402

KERNEL = onnx.numpy_helper.from_array(np.ones((2, 1, 3, 3), np.float32), "w")

HELD = {
    "value": KERNEL,
    "value_int": 3,
    "value_ints": [1, 2, 3],
    "value_float": 0.1,
    "value_floats": [0.1, 0.2],
    "value_string": "a",
    "value_strings": ["a", "ü"],
}


def written(path, *nodes, constants=()):
    """A convolution by `w` after some nodes, in a file."""
    x, y = (onnx.helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", (1, 1, 5, 7)), ("y", None)))
    conv = onnx.helper.make_node("Conv", ["x", "w"], ["y"], name="conv")
    graph = onnx.helper.make_graph([*nodes, conv], "g", [x], [y], constants)
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    return path


@pytest.mark.parametrize("attribute", HELD)
def test_a_constant_is_what_onnx_itself_makes_of_it(attribute, tmp_path):
    node = onnx.helper.make_node("Constant", [], ["w"], **{attribute: HELD[attribute]})
    (expected,) = ReferenceEvaluator(node).run(None, {})
    found = read_graph(written(tmp_path / "a.onnx", node)).constants["w"]
    wanted = np.asarray(expected, object if attribute.startswith("value_string") else None)
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    assert np.array_equal(found, wanted)


def test_a_constant_that_is_none_is_refused_where_it_is_needed(tmp_path):
    """`show` lists the layers all the same."""
    path = written(tmp_path / "a.onnx", onnx.helper.make_node("Constant", [], ["w"]))
    assert [layer.operator for layer in read_summary(path).layers] == ["Constant", "Conv"]
    with pytest.raises(TriptychError, match="Constant 'w' that is sparse or empty"):
        read_graph(path)
    with pytest.raises(TriptychError, match="no network in the catalogue"):
        read_source(path)


@pytest.mark.parametrize(("field", "value"), [("data_type", 99), ("dims", 1 << 40)])
def test_a_tensor_without_the_data_that_it_states_is_refused(field, value, tmp_path):
    tensor = onnx.TensorProto.FromString(KERNEL.SerializeToString())
    if field == "dims":
        tensor.dims[0] = value
    else:
        tensor.data_type = value
    path = written(tmp_path / "a.onnx", constants=[tensor])
    with pytest.raises(TriptychError, match="constant w, which does not have the data"):
        read_graph(path)
    with pytest.raises(TriptychError, match=r"w is of type 99|w is said to be"):
        read_source(path)


def test_text_that_is_not_utf_8_is_read_as_such(tmp_path):
    """An attribute is text of whatever program wrote the file."""
    path = written(tmp_path / "a.onnx", constants=[KERNEL])
    model = onnx.load(path)
    model.graph.node[0].attribute.add(name="auto_pad", type=onnx.AttributeProto.STRING, s=b"\xff")
    path.write_bytes(model.SerializeToString())
    assert read_graph(path).nodes[0].name == "conv"
