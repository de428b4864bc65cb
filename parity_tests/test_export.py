"""ONNX exports: one graph from three frameworks, accepted by tools that this project did not write."""

import errno
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
from conftest import IMPLEMENTATIONS, built, daily, in_daily, load_implementation
from onnx.reference import ReferenceEvaluator
from reference_graphs import assert_same_graph, our_graph, reference_graph

from common import TriptychError, get_spec, random_weights, write_weights_file
from common.onnx import files as onnx_files
from common.onnx.builder import GraphBuilder
from common.onnx.lrn import find_lrns
from common.onnx.options import ExportOptions
from common.onnx.session import record, run_as_deployed
from common.onnx.summary import read_summary
from common.operations import LRN, BatchNorm, Conv, Softmax, evaluate
from common.operations.rounding import BF16, FP16
from common.parity.backends import BACKENDS, Hardware
from common.parity.judge import judge
from common.parity.verdicts import CERTIFIED, DIVERGED, overall
from common.parity.worker import Worker
from common.porting.formats import read_source
from common.probes import Probe
from common.specs.architecture import Layer, Preprocessing
from common.weights import weights_sha256


@pytest.fixture(scope="module", params=daily("googlenet", of=["alexnet_bvlc", "googlenet"]))
def architecture(request):
    """A chain, and a network of branches with three outputs; test_catalogue.py has the others."""
    return request.param


@pytest.fixture(scope="module")
def weights(architecture):
    return random_weights(architecture, seed=11)


@pytest.fixture(scope="module")
def exports(architecture, weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    paths = {}
    for name in IMPLEMENTATIONS:
        implementation = load_implementation(name)
        model = built(name, architecture)
        implementation.load_weights(model, weights)
        paths[name] = folder / f"{name}.onnx"
        implementation.export_onnx(model, paths[name], ExportOptions(tuple(get_spec(architecture).outputs)))
    return paths


def without_source(path):
    """The file's content but for the line that says which framework it is from."""
    model = onnx.load(path)
    assert [entry.key for entry in model.metadata_props if entry.key == "source"] == ["source"]
    kept = [entry for entry in model.metadata_props if entry.key != "source"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return model.SerializeToString(deterministic=True)


def test_the_three_exports_are_the_same_graph(exports):
    contents = [without_source(path) for path in exports.values()]
    assert contents[0] == contents[1]
    assert contents[0] == contents[2]


def test_an_export_is_the_same_file_only_if_every_byte_is(tmp_path):
    """But for the line that says where it is from: what `parity` runs once for several rows."""

    def exported(package, weights):
        implementation, model = load_implementation(package), built(package, "lenet_caffe")
        implementation.load_weights(model, weights)
        path = tmp_path / f"{package}{len([*tmp_path.iterdir()])}" / "network.onnx"
        path.parent.mkdir()
        implementation.export_onnx(model, path, ExportOptions(("logits",), external_data=True))
        return path

    weights = random_weights("lenet_caffe", 0)
    first = exported("torch_impl", weights)
    assert onnx_files.same_export(first, exported("keras_impl", weights))
    kernel = weights["conv2/weight"].copy()
    kernel.view(np.uint32)[-1, -1, -1, -1] ^= 1
    assert not onnx_files.same_export(first, exported("torch_impl", weights | {"conv2/weight": kernel}))
    other = exported("torch_impl", weights)
    model = onnx.load(other, load_external_data=False)
    next(node for node in model.graph.node if node.op_type == "Conv").attribute[0].ints[0] += 1
    other.write_bytes(model.SerializeToString())
    assert not onnx_files.same_export(first, other)


@pytest.mark.parametrize(
    ("package", "what", "same"),
    [
        ("torch_impl", "nothing", True),
        ("keras_impl", "nothing", True),
        ("tf1_style_impl", "nothing", True),
        ("torch_impl", "a bit of a weight", False),
        ("torch_impl", "the graph", False),
        ("torch_impl", "the other's length", False),
        ("torch_impl", "the other's end", False),
        ("torch_impl", "there is no other", False),
    ],
)
def test_an_export_is_written_unless_another_is_the_same(package, what, same, tmp_path):
    weights, options = random_weights("lenet_caffe", 0), ExportOptions(external_data=True)

    def exported(package, path, options):
        implementation, model = load_implementation(package), built(package, "lenet_caffe")
        implementation.load_weights(model, weights)
        path.parent.mkdir()
        implementation.export_onnx(model, path, options)
        return path

    first = exported("torch_impl", tmp_path / "first" / "m.onnx", options)
    with (tmp_path / "first" / "m.onnx.data").open("r+b") as data:
        size = data.seek(0, 2)
        data.truncate(size - (what == "the other's length"))
        data.seek(0, 2)
        data.write(b"x" * (what == "the other's end"))
    if what == "a bit of a weight":
        weights["conv2/weight"].view(np.uint32)[-1, -1, -1, -1] ^= 1
    if what == "the graph":
        options = replace(options, batch=3)
    if what == "there is no other":
        first = first.with_name("nowhere.onnx")
    found = exported(package, tmp_path / "second" / "m.onnx", replace(options, unless=first))
    assert sorted(found.parent.iterdir()) == ([] if same else [found, found.with_name("m.onnx.data")])
    if not same:
        again = exported(package, tmp_path / "third" / "m.onnx", options)
        assert onnx_files.same_export(found, again)
        assert not first.exists() or not onnx_files.same_export(found, first)


def test_an_export_that_another_has_written_is_not_written_and_can_be_run(tmp_path):
    """In the process of a backend, for another probe."""
    backend, weights, answers = BACKENDS["onnx-torch"], random_weights("lenet_caffe"), []
    shape = get_spec("lenet_caffe").input_shape
    np.save(tmp_path / "image.npy", np.zeros((3, *shape), np.float32))
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        write_weights_file(folder / "w.safetensors", weights)
        worker = Worker(backend, Hardware())
        worker.answer({"build": "lenet_caffe", "num_classes": 10, "image_size": shape[1:]})
        asked = {"weights": str(folder / "w.safetensors"), "same_as": [answer["export"] for answer in answers]}
        answers.append(worker.answer(asked))
    first, second = answers
    assert (first["same_as"], second["same_as"]) == (None, first["export"])
    assert [path.name for path in (tmp_path / "second").rglob("*.onnx*")] == []
    (tmp_path / "out").mkdir()
    run = {"image": str(tmp_path / "image.npy"), "injected": {}, "deployed": False, "output": str(tmp_path / "out")}
    assert worker.answer(asked | {"same_as": []})["export"] == first["export"]
    assert worker.answer({"weights": asked["weights"], **run})["recorded"]["outputs"]


def test_the_graph_is_canonical(exports, architecture, weights):
    model = onnx.load(exports["keras_impl"])
    spec = get_spec(architecture)
    assert model.opset_import[0].version >= 18
    assert [value.name for value in model.graph.input] == ["image"]
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    assert dimensions[0].dim_param
    assert tuple(d.dim_value for d in dimensions[1:]) == spec.input_shape
    assert [value.name for value in model.graph.output] == list(spec.outputs)
    computing = [layer for layer in spec.layers if layer.operation.kind != "Dropout"]
    outputs = {layer: output for output, layer in spec.outputs.items()}
    names = {layer.name: outputs.get(layer.name, layer.name) for layer in computing}
    assert {node.name: node.output[0] for node in model.graph.node if node.name in names} == names
    normalisations = [layer.name for layer in computing if layer.operation.kind == "LRN"]
    inner = Counter(name.rpartition("/")[0] for node in model.graph.node if (name := node.name) not in names)
    assert inner == dict.fromkeys(normalisations, 5)
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    constants = {f"{name}/{constant}" for name in normalisations for constant in ("window", "k", "exponent", "axis")}
    assert found.keys() == weights.keys() | constants
    assert all(found[name].tobytes() == weights[name].tobytes() for name in weights)
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("batch", [1, 3])
def test_onnx_runtime_computes_the_specified_layers(exports, architecture, weights, batch):
    spec = get_spec(architecture)
    image = np.random.default_rng(batch).standard_normal((batch, *spec.input_shape), dtype=np.float32) * 30
    probe = Probe("random", weights, image)
    assert overall(judge(spec, probe, record(exports["torch_impl"], image)), probe) == CERTIFIED


@in_daily("tf1_style_impl")
def test_auxiliary_heads_are_exported_on_request(implementation, tmp_path):
    """And otherwise left out, with every layer and parameter that only they need."""
    model, path = implementation.build("googlenet", num_classes=7), tmp_path / "googlenet.onnx"
    implementation.export_onnx(model, path)
    whole = onnx.load(path).graph
    assert [value.name for value in whole.output] == ["logits"]
    names = {node.name for node in whole.node} | {tensor.name for tensor in whole.initializer}
    assert not [name for name in names if name.startswith("aux")]
    implementation.export_onnx(model, path, ExportOptions(("aux1",)))
    head = onnx.load(path).graph
    assert [value.name for value in head.output] == ["aux1"]
    names = {node.name for node in head.node}
    assert {"aux1/classifier", "inception_4a/output"} <= names
    assert not [name for name in names if name.startswith(("aux2", "inception_4b", "inception_5", "fc"))]
    path.unlink()
    with pytest.raises(TriptychError, match="cannot export the output 'aux3'; did you mean"):
        implementation.export_onnx(model, path, ExportOptions(("logits", "aux3")))
    with pytest.raises(TriptychError, match="without outputs"):
        ExportOptions(())
    assert list(tmp_path.iterdir()) == []


LIGHT = {"alexnet_bvlc": "light_bvlc_alexnet", "vgg19": "light_vgg19", "googlenet": "light_inception_v1"}
"""The networks of which the onnx package holds a reference graph."""

EXPECTED_DIFFERENCES = {
    # The reference takes 224×224 and therefore pads its last pooling at the bottom and right by one, where 227×227
    # needs none: 54→26→12→6 instead of 55→27→13→6.
    "alexnet_bvlc": {"r14": {"pads": ([0, 0, 1, 1], [0, 0, 0, 0])}},
    "vgg19": {},
    # The four pools of the reference lost Caffe's rounding up on their way through Caffe2: 112→55→27→13→6 instead of
    # 112→56→28→14→7. It then averages 7×7 over a map of 6×6 with a border, in place of which stands a global average.
    "googlenet": {value: {"pads": ([0, 0, 0, 0], [0, 0, 1, 1])} for value in ("r2", "r9", "r38", "r109")},
}
"""By the reference's value, the numbers that differ: theirs, ours."""


@pytest.mark.parametrize("name", daily("alexnet_bvlc", "googlenet", of=LIGHT))
def test_the_graph_is_the_reference_in_the_onnx_package(name, tmp_path):
    """Node for node, number for number and wire for wire, up to `EXPECTED_DIFFERENCES`.

    The reference keeps its dropouts, flattens with a Reshape and ends in a softmax; a logit depends on none of them.
    """
    reference = reference_graph(LIGHT[name])
    nodes = dict(reference.nodes)
    for value, changes in EXPECTED_DIFFERENCES[name].items():
        assert {number: nodes[value].numbers[number] for number in changes} == {n: c[0] for n, c in changes.items()}
        numbers = nodes[value].numbers | {number: mine for number, (_, mine) in changes.items()}
        nodes[value] = replace(nodes[value], numbers=numbers)
    implementation = load_implementation("torch_impl")
    path = tmp_path / "ours.onnx"
    implementation.export_onnx(implementation.build(name), path, ExportOptions(lrn="node"))
    assert_same_graph(our_graph(path), replace(reference, nodes=nodes))


def test_the_numbers_of_the_model_are_in_its_export(tmp_path):
    """A changed stride in a model shows in what is exported: the graph comes from the model, not from the spec."""
    load_implementation("torch_impl")
    from torch import nn

    from torch_impl import export_onnx
    from torch_impl.alexnet import AlexNetBVLC

    model = AlexNetBVLC().eval()
    model.conv1.stride = (5, 5)
    model.fc6 = nn.Linear(256 * 4 * 4, 4096)
    export_onnx(model, tmp_path / "a.onnx")
    node = onnx.load(tmp_path / "a.onnx").graph.node[0]
    assert [list(a.ints) for a in node.attribute if a.name == "strides"] == [[5, 5]]


def test_the_reference_evaluator_agrees_on_a_convolution_and_a_pool(tmp_path):
    """A third runtime, on the part of the graph before the first LRN (which that evaluator computes wrongly)."""
    implementation = load_implementation("torch_impl")
    model = implementation.build("alexnet_bvlc")
    implementation.export_onnx(model, tmp_path / "a.onnx")
    image = np.random.default_rng(0).integers(-4, 5, (1, 3, 227, 227)).astype(np.float32)
    graph = onnx.utils.Extractor(onnx.load(tmp_path / "a.onnx")).extract_model(["image"], ["relu1"])
    (expected,) = ReferenceEvaluator(graph).run(None, {"image": image})
    np.testing.assert_allclose(record(tmp_path / "a.onnx", image)["relu1"], expected, rtol=1e-4, atol=1e-5)


def test_what_has_no_operator_is_refused_and_leaves_nothing(tmp_path):
    load_implementation("torch_impl")
    from torch import nn

    from torch_impl import export_onnx
    from torch_impl.alexnet import AlexNetBVLC

    model = AlexNetBVLC()
    model.relu3 = nn.GELU()
    with pytest.raises(TriptychError, match="cannot export relu3: a GELU"):
        export_onnx(model, tmp_path / "a.onnx")
    with pytest.raises(TriptychError, match="cannot write"):
        export_onnx(AlexNetBVLC(), tmp_path / "missing" / "a.onnx")
    assert list(tmp_path.iterdir()) == []


SMALL = {
    "lenet5": None,
    "lenet5_sparse": None,
    "alexnet_mnist": None,
    "resnet18": (32, 64),
    "densenet121": (32, 64),
    "googlenet": None,
}
"""Every operator of the catalogue, and the size of image to run it on; GoogLeNet has none of its own."""


def exported(architecture, path, *options, package="torch_impl", **more):
    """The spec, the weights and the file of a network whose batch normalisations are not the identity."""
    size = SMALL[architecture]
    implementation = load_implementation(package)
    model = implementation.build(architecture, image_size=size)
    weights = random_weights(architecture, seed=5)
    implementation.load_weights(model, weights)
    implementation.export_onnx(model, path, ExportOptions(*options, **more))
    return get_spec(architecture, image_size=size), weights


def in_shorter_types():
    """Every day each network in one of them, in turn."""
    for number, architecture in enumerate(SMALL):
        for place, precision in enumerate((FP16, BF16)):
            marks = [] if place == number % 2 and architecture not in ("googlenet", "densenet121") else pytest.mark.slow
            yield pytest.param(architecture, precision, id=f"{architecture}-{precision.name}", marks=marks)


@pytest.mark.parametrize(("architecture", "precision"), list(in_shorter_types()))
def test_shorter_types_are_certified_at_their_precision(architecture, precision, tmp_path):
    """And not at float32's: the judge does not take the one for the other."""
    dtype = {"fp16": "float16", "bf16": "bfloat16"}[precision.name]
    spec, _ = exported(architecture, tmp_path / "a.onnx", tuple(get_spec(architecture).outputs), dtype=dtype)
    model = onnx.load(tmp_path / "a.onnx")
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert {array.dtype.name for name, array in arrays.items() if name in spec.parameter_shapes} == {dtype}
    batch = 1 if architecture == "googlenet" else 3
    image = np.random.default_rng(3).standard_normal((batch, *spec.input_shape), dtype=np.float32)
    element = onnx.helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    assert element.name == dtype
    weights = {name: arrays[name].astype(np.float32) for name in spec.parameter_shapes}
    probe = Probe("random", weights, image.astype(element).astype(np.float32))
    recorded = record(tmp_path / "a.onnx", image)
    assert overall(judge(spec, probe, recorded, precision=precision), probe) == CERTIFIED
    assert overall(judge(spec, probe, recorded), probe) == DIVERGED


def test_both_forms_of_lrn_are_read_as_the_same_network(tmp_path):
    """By `show`, layer for layer, and by `port`, which finds nothing in which the graph differs."""
    summaries = []
    for form in ("node", "nodes"):
        exported("googlenet", tmp_path / f"{form}.onnx", lrn=form)
        summaries.append(read_summary(tmp_path / f"{form}.onnx"))
        source = read_source(tmp_path / f"{form}.onnx")
        assert source.metadata["architecture"] == "googlenet"
        assert not [note for note in source.notes if "differs" in note]
    assert summaries[0].layers == summaries[1].layers
    operators = [
        [node.op_type for node in onnx.load(tmp_path / f"{form}.onnx").graph.node] for form in ("node", "nodes")
    ]
    assert operators[0].count("LRN") == 2
    assert "LRN" not in operators[1]
    assert len(operators[1]) == len(operators[0]) + 2 * 5


def of_torch(alpha=1e-4, size=5, k=2.0):
    """The nodes in which `torch.onnx.export` writes a normalisation over the channels."""
    numbers = {"alpha": alpha, "k": k, "beta": 0.75}
    integers = {"volume": [2, 1, 7, 4, 3], "pads": [0, 0, size // 2, 0, 0, 0, 0, (size - 1) // 2, 0, 0], "axis": [1]}
    constants = [onnx.numpy_helper.from_array(np.float32(number), name) for name, number in numbers.items()]
    constants += [onnx.numpy_helper.from_array(np.array(array, np.int64), name) for name, array in integers.items()]
    make = onnx.helper.make_node
    nodes = [
        make("Relu", ["image"], ["x"]),
        make("Mul", ["x", "x"], ["squares"]),
        make("Reshape", ["squares", "volume"], ["view"]),
        make("Pad", ["view", "pads"], ["padded"]),
        make("AveragePool", ["padded"], ["mean"], kernel_shape=[size, 1, 1], strides=[1, 1, 1]),
        make("Squeeze", ["mean", "axis"], ["map"]),
        make("Mul", ["map", "alpha"], ["scaled"]),
        make("Add", ["scaled", "k"], ["shifted"]),
        make("Pow", ["shifted", "beta"], ["powers"]),
        make("Div", ["x", "powers"], ["y"], name="norm"),
    ]
    image, y = (onnx.helper.make_tensor_value_info(name, 1, [2, 7, 4, 3]) for name in ("image", "y"))
    return onnx.helper.make_graph(nodes, "lrn", [image], [y], constants)


def test_the_lrn_of_another_exporter_is_recognised(tmp_path):
    graph = of_torch()
    (found,) = find_lrns(graph).values()
    assert (found.x, found.size, found.alpha, found.beta, found.k) == ("x", 5, pytest.approx(1e-4), 0.75, 2.0)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "a.onnx")
    assert [(layer.name, layer.operator) for layer in read_summary(tmp_path / "a.onnx").layers] == [
        ("x", "Relu"),
        ("norm", "LRN"),
    ]


@pytest.mark.parametrize("change", ["another value is squared", "the power varies", "a part is read elsewhere"])
def test_what_is_no_lrn_is_none(change):
    graph = of_torch()
    nodes = {node.output[0]: node for node in graph.node}
    if change == "another value is squared":
        nodes["squares"].input[:] = ["image", "image"]
    elif change == "the power varies":
        nodes["powers"].input[1] = "x"
    else:
        graph.node.append(onnx.helper.make_node("Relu", ["squares"], ["z"]))
    assert find_lrns(graph) == {}


def test_lrn_in_shorter_types(tmp_path):
    """Each of the six nodes rounds to bfloat16, which stays within its bound; in float16 squares overflow."""
    operation = LRN(5, 1e-2, 0.75, 2.0)
    with pytest.raises(TriptychError, match="cannot write LRN as nodes in float16"):
        ExportOptions(dtype="float16", lrn="nodes")
    builder = GraphBuilder((7, 4, 3))
    operation.to_onnx(builder, "norm1", "image")
    builder.save(tmp_path / "a.onnx", {"logits": "norm1"}, ExportOptions(dtype="bfloat16", lrn="nodes"), source="")
    assert "LRN" not in {node.op_type for node in onnx.load(tmp_path / "a.onnx").graph.node}
    image = np.random.default_rng(1).integers(-128, 128, (2, 7, 4, 3)).astype(np.float32)
    reference = operation.at_precision(evaluate(operation, [image], {}), BF16, [image], {})
    error = np.abs(record(tmp_path / "a.onnx", image)["norm1"] - reference.value)
    assert (error <= reference.bound).all()
    assert (error > evaluate(operation, [image], {}).bound).any()


def test_weights_beyond_the_range_of_a_shorter_type_are_refused(tmp_path):
    implementation = load_implementation("torch_impl")
    model = implementation.build("lenet5")
    weights = random_weights("lenet5")
    weights["f6/weight"][3, 5] = 1e5
    implementation.load_weights(model, weights)
    with pytest.raises(TriptychError, match="cannot export as float16: f6/weight holds 100000, beyond its range"):
        implementation.export_onnx(model, tmp_path / "a.onnx", ExportOptions(dtype="float16"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("architecture", ["resnet18", "densenet121"])
def test_folding_makes_one_convolution_of_each_pair(architecture, tmp_path):
    """Which computes what the pair did: certified with the folded kernel, and the kernel is the right one, rounded."""
    spec, weights = exported(architecture, tmp_path / "a.onnx", fold=True)
    model = onnx.load(tmp_path / "a.onnx")
    kinds = [node.op_type for node in model.graph.node]
    normalisations = [layer for layer in spec.layers if isinstance(layer.operation, BatchNorm)]
    convolutions = {layer.name for layer in spec.layers if isinstance(layer.operation, Conv)}
    behind = {layer.inputs[0]: layer for layer in normalisations if layer.inputs[0] in convolutions}
    assert len(behind) > 20 or architecture == "resnet18"
    assert kinds.count("BatchNormalization") == len(normalisations) - len(behind)
    assert kinds.count("Conv") == len(convolutions)
    image = np.random.default_rng(3).standard_normal((3, *spec.input_shape), dtype=np.float32)
    recorded = record(tmp_path / "a.onnx", image)
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    layers, outputs = [], {node.name: node.output[0] for node in model.graph.node}
    for layer in spec.layers:
        if layer.name in behind:
            layers.append(replace(layer, operation=replace(layer.operation, bias=True)))
            batch_norm = behind[layer.name]
            assert outputs[layer.name] == batch_norm.name
            gamma, beta, mean, variance = (
                weights[f"{batch_norm.name}/{kind}"].astype(np.float64)
                for kind in ("gamma", "beta", "mean", "variance")
            )
            scale = gamma / np.sqrt(variance + np.float32(batch_norm.operation.eps))
            bias = weights.get(f"{layer.name}/bias", np.zeros_like(mean))
            kernel = (weights[f"{layer.name}/weight"] * scale[:, None, None, None]).astype(np.float32)
            assert arrays[f"{layer.name}/weight"].tobytes() == kernel.tobytes()
            np.testing.assert_array_max_ulp(
                arrays[f"{layer.name}/bias"], ((bias - mean) * scale + beta).astype(np.float32), maxulp=1
            )
        elif layer not in behind.values():
            inputs = tuple({made.name: name for name, made in behind.items()}.get(name, name) for name in layer.inputs)
            layers.append(replace(layer, inputs=inputs))
    folded = replace(spec, layers=tuple(layers))
    probe = Probe("random", arrays, image)
    assert overall(judge(folded, probe, recorded), probe) == CERTIFIED


def test_softmax_only_where_asked_and_a_fixed_batch(implementation, tmp_path):
    model = implementation.build("lenet5", num_classes=7)
    weights = random_weights("lenet5", num_classes=7)
    implementation.load_weights(model, weights)
    implementation.export_onnx(model, tmp_path / "a.onnx", ExportOptions(softmax=True, batch=3))
    graph = onnx.load(tmp_path / "a.onnx").graph
    assert [value.name for value in graph.output] == ["probabilities"]
    assert graph.node[-1].name == "softmax"
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3
    assert graph.output[0].type.tensor_type.shape.dim[0].dim_value == 3
    spec = get_spec("lenet5", num_classes=7)
    spec = replace(spec, layers=(*spec.layers, Layer("softmax", Softmax(), ("output",))))
    image = np.random.default_rng(3).standard_normal((3, *spec.input_shape), dtype=np.float32) * 40
    probe = Probe("random", weights, image)
    recorded = record(tmp_path / "a.onnx", image)
    assert overall(judge(spec, probe, recorded), probe) == CERTIFIED
    deployed = run_as_deployed(tmp_path / "a.onnx", image)["probabilities"]
    assert (deployed.argmax(1) == recorded["softmax"].argmax(1)).all()
    with pytest.raises(TriptychError, match="ONNX Runtime cannot run"):
        record(tmp_path / "a.onnx", image[:2])


def test_weights_beside_the_model(implementation, tmp_path, monkeypatch):
    """On request, and where one file could not hold them: the limit is lowered here."""
    model = implementation.build("lenet5")
    implementation.export_onnx(model, tmp_path / "one.onnx")
    implementation.export_onnx(model, tmp_path / "two.onnx", ExportOptions(external_data=True))
    monkeypatch.setattr(onnx_files, "LARGEST_MESSAGE", 200_000)
    implementation.export_onnx(model, tmp_path / "large.onnx")
    names = ["large.onnx", "large.onnx.data", "one.onnx", "two.onnx", "two.onnx.data"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert (tmp_path / "two.onnx").stat().st_size < 20_000
    image = np.random.default_rng(3).standard_normal((2, 1, 32, 32), dtype=np.float32)
    one, *others = (run_as_deployed(tmp_path / f"{name}.onnx", image)["logits"] for name in ("one", "two", "large"))
    assert all(other.tobytes() == one.tobytes() for other in others)
    recorded = [record(tmp_path / f"{name}.onnx", image)["output"].tobytes() for name in ("one", "two")]
    assert recorded[0] == recorded[1]
    whole, beside = (onnx.load(tmp_path / f"{name}.onnx").graph.initializer for name in ("one", "two"))
    arrays = [{t.name: onnx.numpy_helper.to_array(t).tobytes() for t in tensors} for tensors in (whole, beside)]
    assert arrays[0] == arrays[1]


def test_the_file_says_where_it_is_from(implementation, tmp_path):
    model = implementation.build("lenet_caffe")
    weights = implementation.read_weights(model)
    recipe = Preprocessing("L", (0.5,), (2.0,))
    implementation.export_onnx(model, tmp_path / "a.onnx", ExportOptions(preprocessing=recipe))
    metadata = read_summary(tmp_path / "a.onnx").metadata
    assert metadata["architecture"] == "lenet_caffe"
    assert metadata["source"].split()[0] in ("torch", "keras", "tensorflow")
    assert metadata["weights_sha256"] == weights_sha256(weights)
    assert Preprocessing.from_json(metadata["preprocessing"]) == recipe


@pytest.mark.parametrize("full", [1, 70_000])
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, full):
    """The disk is full after a byte, and after some of the weights."""
    load_implementation("torch_impl")
    from torch_impl import build, export_onnx

    written = []

    def failing(array):
        written.append(array.nbytes)
        if sum(written) > full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return memoryview(array.tobytes())

    monkeypatch.setattr(onnx_files, "_raw", failing)
    for options in (ExportOptions(), ExportOptions(external_data=True)):
        with pytest.raises(TriptychError, match=r"cannot write .*\.onnx.*: No space left on device"):
            export_onnx(build("lenet5"), tmp_path / "a.onnx", options)
    assert list(tmp_path.iterdir()) == []
