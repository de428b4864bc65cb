"""Frozen graphs of TensorFlow: matched by structure, whatever the names are, and without TensorFlow."""

import importlib
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import daily, load_implementation
from hostile_files import AXIS, IMAGE, VALID, field, tf_const, tf_list, tf_node

from common import TriptychError, random_weights
from common.porting import frozen_graphs, skeletons
from common.porting.formats import read_source
from common.porting.graph_defs import GraphDef
from common.porting.matching import understand
from common.porting.onnx_graphs import Graph
from common.porting.reading import Reading


@pytest.fixture(scope="module")
def tf():
    load_implementation("tf1_style_impl")
    return importlib.import_module("tensorflow.compat.v1")


def frozen(tf, architecture, weights=None):
    """The graph of our own network with its weights in it, as TensorFlow 1 freezes it."""
    implementation = load_implementation("tf1_style_impl")
    session = implementation.build(architecture)
    implementation.load_weights(session, weights or random_weights(architecture, 3))
    with session.graph.as_default():
        graph = session.graph.as_graph_def()
        return tf.graph_util.convert_variables_to_constants(session, graph, ["logits"])


def written(graph, path):
    path.write_bytes(graph.SerializeToString())
    return path


NETWORKS = ("lenet5_sparse", "lenet_bvlc", "alexnet_mnist", "resnet18_tutorial")


@pytest.fixture(scope="module")
def lenet(tf):
    return frozen(tf, "lenet_caffe")


@pytest.mark.parametrize("architecture", daily("lenet5_sparse", "alexnet_mnist", of=NETWORKS))
def test_our_own(tf, architecture, tmp_path):
    """Selected channels, coefficients, dropout whose probability is fed, batch normalisations node by node, SAME."""
    network = understand(read_source(written(frozen(tf, architecture), tmp_path / "a.pb")))
    assert network.spec.name == architecture
    for name, array in random_weights(architecture, 3).items():
        assert network.weights[name].tobytes() == array.tobytes(), name
    assert [parameter.source for parameter in network.parameters] == list(network.weights)


def test_names_do_not_matter_and_tensorflow_is_not_needed(lenet, tmp_path):
    graph = type(lenet).FromString(lenet.SerializeToString())
    names = {node.name: f"n{place}" for place, node in enumerate(reversed(graph.node))}
    for node in graph.node:
        node.name = names[node.name]
        for place, name in enumerate(node.input):
            node.input[place] = names[name.lstrip("^").partition(":")[0]]
    code = (
        "import sys; from pathlib import Path; from common.porting.formats import read_source\n"
        "from common.porting.matching import understand\n"
        f"network = understand(read_source({str(written(graph, tmp_path / 'a'))!r}))\n"
        "assert network.spec.name == 'lenet_caffe' and 'tensorflow' not in sys.modules\n"
        "print(network.weights['fc1/weight'].sum(dtype='f8'))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(run.stdout) == random_weights("lenet_caffe", 3)["fc1/weight"].sum(dtype="f8")


@pytest.mark.parametrize(
    ("node", "attribute", "numbers", "words"),
    [
        ("pool1", "ksize", [1, 3, 3, 1], r"before conv2 it has Relu, MaxPool\(\(3, 3\)"),
        ("conv1/Conv2D", "explicit_paddings", [0, 0, 1, 3, 2, 2, 0, 0], "conv1 has stride and padding .*1, 2, 3, 2"),
        ("conv2/Conv2D", "dilations", [1, 2, 2, 1], "dilated"),
    ],
)
def test_another_function_is_another_network(lenet, node, attribute, numbers, words, tmp_path):
    graph = type(lenet).FromString(lenet.SerializeToString())
    (changed,) = (each for each in graph.node if each.name == node)
    changed.attr[attribute].list.i[:] = numbers
    found = read_source(written(graph, tmp_path / "a.pb"))
    with pytest.raises(
        TriptychError, match=f"another network .`architecture=.lenet_caffe.` `force=True` .*: .*{words}"
    ):
        understand(found)
    assert understand(found, "lenet_caffe", reading=Reading(force=True)).departures


def skeleton_of(*nodes):
    """The last node of the only output, and the constants, of a graph that is written out."""
    translated, raw, _ = frozen_graphs.translated(GraphDef(memoryview(b"".join(nodes))))
    graph = Graph(Path("a"), translated, raw)
    (last,) = graph.skeletons()
    return last, graph


BGR = {
    "ReverseV2": [tf_node("z", "ReverseV2", "x", "axis")],
    "slices": [
        *(tf_const(name, struct.pack("<2i", 0, 0), 2, kind=3) for name in ("b", "e")),
        tf_const("s", struct.pack("<2i", 1, -1), 2, kind=3),
        tf_node("z", "StridedSlice", "x", "b", "e", "s", **{
            f"{name}_mask": field(3, bits) for name, bits in (("begin", 2), ("end", 2), ("ellipsis", 1))}),
    ],
    "channel by channel": [
        tf_node("p", "Split", "axis", "x", num_split=field(3, 3)),
        tf_node("z", "ConcatV2", "p:2", "p:1", "p", "axis"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("way", BGR)
def test_channels_that_are_turned_round(way):
    """They are part of the preparation before the first layer, and another network after it."""
    layer = tf_const("w", bytes(12), 1, 1, 3, 1)
    _, graph = skeleton_of(IMAGE, AXIS, *BGR[way], layer, tf_node("y", "Conv2D", "z", "w", **VALID))
    assert graph.images["z"].channels == (2, 1, 0)
    later = b"".join(BGR[way]).replace(b"\x1a\x01x", b"\x1a\x01c")
    wide = tf_const("v", bytes(36), 1, 1, 3, 3)
    first = tf_node("c", "Conv2D", "x", "v", **VALID)
    last, graph = skeleton_of(IMAGE, AXIS, wide, first, later, layer, tf_node("y", "Conv2D", "z", "w", **VALID))
    assert "z" not in graph.images
    assert way == "channel by channel" or last.between[0][0][0].startswith("tf.")


def test_rows_that_are_turned_round():
    """`x[:, ::-1]`: the same node without its ellipsis, of which only the name is changed, letter by letter."""
    rows = b"".join(BGR["slices"]).replace(b"ellipsis_mask", b"otherwis_mask")
    layer = tf_const("w", bytes(12), 1, 1, 3, 1)
    last, _ = skeleton_of(IMAGE, AXIS, rows, layer, tf_node("y", "Conv2D", "z", "w", **VALID))
    assert last.between == ([("tf.StridedSlice",)],)


def test_a_map_that_is_turned_over_is_told():
    """Only from one layout into the other is the map the same; and no border is lost that is not understood."""
    layer = [tf_const("w", bytes(12), 1, 1, 3, 1), tf_node("y", "Conv2D", "z", "w", **VALID)]
    turned = [tf_const("o", struct.pack("<4i", 0, 2, 1, 3), 4, kind=3), tf_node("z", "Transpose", "x", "o")]
    last, _ = skeleton_of(IMAGE, *turned, *layer)
    assert last.between == ([("Transpose", (0, 2, 1, 3))],)
    assert skeletons._sum((0, 0, 0, 0), "by an unknown amount") == "(0, 0, 0, 0) and by an unknown amount"
    assert skeletons._sum("SAME_UPPER", (1, 1, 1, 1)) == "SAME_UPPER and (1, 1, 1, 1)"


@pytest.mark.parametrize("split", [True, False])
def test_groups(split):
    """A split of the image and of the kernel, or kernels that were folded into two constants."""
    kernel = np.arange(12, dtype="<f4").reshape(1, 1, 2, 6)
    halves = [part.tobytes() for part in np.split(kernel, 2, axis=3)]
    nodes = [
        tf_node("s", "Split", "axis", "x", num_split=field(3, 2)),
        tf_const("w", kernel.tobytes(), 1, 1, 2, 6),
        tf_node("t", "Split", "axis", "w", num_split=field(3, 2)),
        *(tf_const(f"w{n}", half, 1, 1, 2, 3) for n, half in enumerate(halves)),
        tf_node("a", "Conv2D", "s", "t" if split else "w0", **VALID),
        tf_node("b", "Conv2D", "s:1", "t:1" if split else "w1", **VALID),
    ]
    last, _ = skeleton_of(IMAGE, AXIS, *nodes, tf_node("y", "ConcatV2", "a", "b", "axis"))
    assert (last.kind, last.shape) == ("Conv", (6, 2, 1, 1))
    assert (last.parameters["weight"][1] == kernel.transpose(3, 2, 0, 1)).all()
    last, _ = skeleton_of(IMAGE, AXIS, *nodes, tf_node("y", "ConcatV2", "b", "a", "axis"))  # the groups swapped
    assert last.kind != "Conv"


def test_dense_layers_that_are_convolutions():
    """Slim's VGG: 7×7 on a map of 7×7, then 1×1."""
    wide = np.random.default_rng(0).random((7, 7, 2, 3), np.float32)
    last, _ = skeleton_of(
        IMAGE,
        tf_const("w", wide.tobytes(), 7, 7, 2, 3),
        tf_const("v", bytes(36), 1, 1, 3, 3),
        tf_node("a", "Conv2D", "x", "w", **VALID),
        tf_node("y", "Conv2D", "a", "v", strides=tf_list(1, 1, 1, 1), padding=field(2, b"SAME")),
    )
    (before,) = last.inputs
    assert (last.kind, before.kind, before.shape) == ("Dense", "Dense", (3, 98))
    assert (before.parameters["weight"][1] == wide.transpose(3, 2, 0, 1).reshape(3, 98)).all()


@pytest.mark.parametrize("gamma", [True, False])
def test_a_normalisation_in_pieces(gamma):
    """As `tf.nn.batch_normalization` writes it, with numbers that stand for a whole constant."""
    scale = [tf_const("gamma", struct.pack("<f", 3), 2, where=5), tf_node("i", "Mul", "root", "gamma")]
    factor = "i" if gamma else "root"
    last, graph = skeleton_of(
        IMAGE,
        tf_const("w", bytes(16), 1, 1, 2, 2),
        tf_node("c", "Conv2D", "x", "w", **VALID),
        *(tf_const(name, struct.pack("<2f", n, n + 1), 2) for n, name in enumerate(("beta", "mean", "variance"))),
        tf_const("eps", struct.pack("<f", 1e-3)),
        tf_node("total", "AddV2", "variance", "eps"),
        tf_node("root", "Rsqrt", "total"),
        *(scale if gamma else []),
        tf_node("scaled", "Mul", "c", factor),
        tf_node("moved", "Mul", "mean", factor),
        tf_node("shift", "Sub", "beta", "moved"),
        tf_node("y", "AddV2", "scaled", "shift"),
    )
    assert (last.kind, last.inputs[0].kind) == ("BatchNorm", "Conv")
    assert graph.eps == np.float32(1e-3)
    found = {kind: array.tolist() for kind, (_, array) in last.parameters.items()}
    assert found == {"gamma": [3.0, 3.0] if gamma else [1.0, 1.0], "beta": [0, 1], "mean": [1, 2], "variance": [2, 3]}
