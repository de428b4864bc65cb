"""Models that take several inputs, or others than float32: numbers of tokens, masks."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from test_prove import Builder, normal, recorded, run  # noqa: E402

from common import TriptychError  # noqa: E402
from common.cli import main  # noqa: E402
from common.graphs import read_graph  # noqa: E402
from common.parity.verdicts import CERTIFIED, DIVERGED, IDENTICAL  # noqa: E402
from common.prove.api import assert_same, prove  # noqa: E402
from common.prove.exact import exact_probe  # noqa: E402
from common.prove.judging import judge_graph  # noqa: E402
from common.prove.models import ModelName  # noqa: E402
from common.prove.torch_run import _called_with  # noqa: E402

TABLE = normal(11, 4)
FEEDS = {
    "ids": np.array([[3, 0, 10, 7, 7], [1, 2, 0, 0, 0]]),
    "mask": np.array([[True] * 5, [True, True, False, False, False]]),
}


def attention(sizes=("batch", "sequence"), *, hidden=-np.inf):
    """Tokens that look at those that the mask lets them see; positions are computed with integers."""
    constants = {
        "table": TABLE,
        "places": normal(9, 4),
        "nothing": np.array(hidden, np.float32),
        "zero": np.array(0, np.float32),
        "two": np.array(2),
        "three": np.array(3),
        "axis": np.array(1),
        "axes": np.array([1]),
    }
    steps = [
        ("Gather", ["table", "ids"], {}),
        ("CumSum", ["ids", "axis"], {}),
        ("Sub", ["CumSum", "three"], {}),
        ("Div", ["Sub", "two"], {}),
        ("Abs", ["Div"], {}),
        ("Mod", ["Abs", "three"], {}),
        ("Gather", ["places", "Mod"], {"name": "position"}),
        ("Add", ["Gather", "position"], {}),
        ("Transpose", ["Add"], {"perm": [0, 2, 1]}),
        ("MatMul", ["Add", "Transpose"], {}),
        ("Where", ["mask", "zero", "nothing"], {}),
        ("Unsqueeze", ["Where", "axes"], {}),
        ("Add", ["MatMul", "Unsqueeze"], {"name": "masked"}),
        ("Softmax", ["masked"], {"axis": 2}),
        ("IsNaN", ["Softmax"], {}),
        ("Where", ["IsNaN", "zero", "Softmax"], {"name": "safe"}),
        ("MatMul", ["safe", "Add"], {"name": "mixed"}),
    ]
    nodes = [helper.make_node(kind, inputs, [options.pop("name", kind)], **options) for kind, inputs, options in steps]
    for node in nodes:
        node.name = node.output[0]
    kinds = {"ids": TensorProto.INT64, "mask": TensorProto.BOOL}
    graph = helper.make_graph(
        nodes,
        "tokens",
        [helper.make_tensor_value_info(name, kind, sizes) for name, kind in kinds.items()],
        [helper.make_empty_tensor_value_info("mixed")],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.fixture
def files(tmp_path):
    onnx.save(attention(), tmp_path / "tokens.onnx")
    for name, array in FEEDS.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.save(tmp_path / "half.npy", np.zeros((2, 5), np.float16))
    return tmp_path


def test_a_model_of_tokens_is_proved_on_both_probes(files):
    given = [f"{name}={files / name}.npy" for name in FEEDS]
    process = run(files / "tokens.onnx", "--input", given[0], "--input", given[1])
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stderr == ""
    assert "17 of 17" in process.stdout
    assert process.stdout.splitlines()[-1] == "Verdict: certified"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            [],
            "takes ids of shape batch×sequence; say which with --input-shape ids=1x224, or give it: --input ids=FILE.",
        ),
        (["ids"], "takes mask, which is bool, not float32; give it with --input mask=FILE.npy"),
        (["ids=mask", "mask"], "--input ids is bool, but"),
        (["ids", "mask=half"], "half.npy holds float16, expected float32, integers or truth values"),
    ],
)
def test_what_is_missing_is_told_in_a_sentence(arguments, told, files):
    options = []
    for name, _, file in (argument.partition("=") for argument in arguments):
        options += ["--input", f"{name}={files / (file or name)}.npy"]
    process = run(files / "tokens.onnx", *options)
    assert process.returncode == 2
    assert told in process.stderr
    assert len(process.stderr.strip().splitlines()) == 1


def test_integers_and_masks_stay_as_they_are_on_the_exact_probe():
    model = attention((2, 5))
    graph = read_graph("tokens.onnx", model)
    assert graph.other_types == {"ids": np.dtype(np.int64), "mask": np.dtype(bool)}
    probe = exact_probe(model, graph, recorded(model, FEEDS))
    for name, array in FEEDS.items():
        assert probe.feeds[name] is array
    values = recorded(probe.model, probe.feeds)
    verdicts = list(judge_graph(probe.graph, values, probe.expected))
    assert {verdict.verdict for verdict in verdicts} == {IDENTICAL, CERTIFIED}
    assert {"Gather", "position", "Add", "MatMul", "mixed"} <= probe.expected.values.keys()
    assert probe.bounded == ["Softmax"]


@pytest.mark.parametrize("name", ["ids", "mask"])
def test_another_token_or_another_mask_is_found(name):
    """As a runtime would record it that reads something else there."""
    model = attention((2, 5))
    other = FEEDS[name].copy()
    other[1, 1] = 9 if name == "ids" else False
    values = recorded(model, {**FEEDS, name: other}) | FEEDS
    found = [verdict.name for verdict in judge_graph(read_graph("tokens.onnx", model), values)]
    wrong = [v.name for v in judge_graph(read_graph("tokens.onnx", model), values) if v.verdict == DIVERGED]
    assert len(found) == 17
    assert wrong == (["Gather", "CumSum"] if name == "ids" else ["Where"])


@pytest.mark.parametrize("hidden", [-np.inf, np.finfo(np.float32).min])
def test_what_a_mask_hides_has_the_probability_zero(hidden):
    """Beside −∞ everything is judged: a probability that is not 0 there, and one that is wrong elsewhere."""
    model = attention((2, 5), hidden=hidden)
    graph, right = read_graph("tokens.onnx", model), recorded(model, FEEDS)
    for place in ((1, 0, 4), (1, 0, 0)):
        values = dict(right)
        values["Softmax"] = right["Softmax"].copy()
        values["Softmax"][place] += np.float32(1e-4)
        verdicts = {verdict.name: verdict.verdict for verdict in judge_graph(graph, values)}
        assert verdicts["Softmax"] == DIVERGED
    seen = {name: array for name, array in right.items() if name in (*FEEDS, "mixed")}
    (verdict,) = judge_graph(graph, seen)  # as where a runtime computes the attention at once
    assert verdict.verdict == CERTIFIED, verdict.cause
    seen["mixed"] = right["mixed"] * np.float32(1 + 1e-4)
    (verdict,) = judge_graph(graph, seen)
    assert verdict.verdict == DIVERGED


def test_a_single_number_is_a_value_like_others(tmp_path):
    """Arrays without axes, as exporters compute shapes with."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], name="shape"),
        helper.make_node("Gather", ["shape", "first"], ["size"], name="size"),
        helper.make_node("Cast", ["size"], ["number"], name="number", to=1),
        helper.make_node("Div", ["x", "number"], ["y"], name="y"),
    ]
    given, made = helper.make_tensor_value_info("x", 1, (3, 2)), helper.make_empty_tensor_value_info("y")
    graph = helper.make_graph(nodes, "one", [given], [made], [numpy_helper.from_array(np.array(0), "first")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), tmp_path / "a.onnx")
    report = prove(tmp_path / "a.onnx")
    assert report.agrees, str(report)
    assert [len(row.layers) for row in report.runs[1].backends][:1] == [4]


def two_inputs(*axes):
    """Tokens that are already embedded, and an image, of sizes that are partly open; `axes` are those of the tokens."""
    add = Builder(*axes or ("batch", "length", 6))
    mixed = add("MatMul", "mixed", "x", normal(6, 4))
    filtered = add("Conv", "filtered", "image", normal(4, 3, 3, 3))
    pooled = add("GlobalAveragePool", "pooled", filtered)
    flat = add("Reshape", "flat", pooled, np.array([0, 1, 4]))
    model = add.model(add("Add", "sum", mixed, flat))
    model.graph.input.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, ("batch", 3, "h", "w")))
    return model


@pytest.fixture
def two(tmp_path):
    onnx.save(two_inputs(), tmp_path / "two.onnx")
    np.save(tmp_path / "x.npy", normal(2, 7, 6))
    return tmp_path / "two.onnx"


def test_the_shape_of_each_of_several_inputs_is_given_by_name(two):
    process = run(two, "--input-shape", "x=2x7x6", "--input-shape", "image=2×3×9×11")
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stdout.splitlines()[-1] == "Verdict: certified"
    report = prove(two, input_shape={"x": (2, 7, 6), "image": [2, 3, 9, 11]}, probes=["random"])
    assert report.runs[0].shapes["sum_out"] == (2, 7, 4)
    report = prove(two, example={"x": normal(2, 7, 6)}, input_shape={"image": [2, 3, 9, 11]}, probes=["random"])
    assert report.runs[0].shapes["image"] == (2, 3, 9, 11)


def test_an_input_whose_number_of_axes_is_open_takes_any_shape(two):
    model = two_inputs()
    for value in model.graph.input:
        value.type.tensor_type.ClearField("shape")
    onnx.save(model, two)
    report = prove(two, input_shape={"x": (2, 7, 6), "image": (2, 3, 9, 11)}, probes=["random"])
    assert report.runs[0].shapes["sum_out"] == (2, 7, 4)


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        (["x=2x7x6", "picture=2x3x9x9"], "two.onnx has no input 'picture'; it takes x, image"),
        (["x=2x7"], "two.onnx takes x of shape any×any×6, not 2×7"),
        (["x=2x7x5"], "two.onnx takes x of shape any×any×6, not 2×7×5"),
        (["x=2x7x6", "x=2x7x6"], "--input-shape is given twice for x; give it once"),
        (["1x7x6", "1x7x6"], "--input-shape is given twice for the only input; give it once"),
        (["x=2x7x6", "2x3x9x9"], "--input-shape 2x3x9x9 does not say of which input; give NAME=SHAPE"),
        (["2x7x6"], "two.onnx takes x, image; say which has this shape, such as with --input-shape x=2x7x6"),
        (["x=2xsevenx6"], "--input-shape x=2xsevenx6 is no shape; give sizes such as 1x3x224x224"),
        (["x="], "--input-shape x= is no shape; give sizes such as 1x3x224x224"),
        (["x=2x7x6"], "takes image of shape 2×3×h×w; say which with --input-shape image=2x3x224x224, or give it"),
        (["x=2x7x6", "--input"], "the shape of x is that of the array that is given for it; leave the shape out"),
    ],
)
def test_a_shape_that_does_not_fit_is_told_in_a_sentence(shapes, told, two, monkeypatch, capsys):
    options = ["--input", f"x={two.with_name('x.npy')}"] if "--input" in shapes else []
    for shape in shapes:
        options += ["--input-shape", shape] if shape != "--input" else []
    monkeypatch.setattr("sys.argv", ["triptych", "prove", str(two), *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.strip().splitlines()) == 1


def test_a_list_of_all_inputs_leaves_no_shape_open(two):
    with pytest.raises(TriptychError, match="the shape of x is that of the array that is given for it"):
        prove(two, example=[normal(2, 7, 6), normal(2, 3, 9, 9)], input_shape={"x": (2, 7, 6)})


@pytest.mark.filterwarnings("ignore")
class TestInMemory:
    @pytest.fixture(scope="class")
    def net(self):
        torch = pytest.importorskip("torch")
        pytest.importorskip("onnxscript")
        nn = torch.nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.words, self.places = nn.Embedding(11, 8), nn.Embedding(5, 8)
                layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
                self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
                self.head = nn.Linear(8, 3)

            def forward(self, ids, hidden=None, scale=None):
                x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
                x = self.encoder(x, src_key_padding_mask=hidden)
                return self.head(x.mean(1) if scale is None else x.mean(1) * scale)

        torch.manual_seed(0)
        return Net().eval()

    @pytest.mark.parametrize("by_name", [True, False])
    def test_tokens_and_a_mask_are_given_by_name_or_in_order(self, net, by_name):
        hidden = ~FEEDS["mask"]
        example = {"hidden": hidden, "ids": FEEDS["ids"]} if by_name else [FEEDS["ids"], hidden]
        report = prove(net, example=example, backends=["torch", "onnxruntime"])
        assert report.verdict == "certified", str(report)
        assert [run.probe for run in report.runs] == ["exact", "random"]

    def test_an_input_in_the_middle_may_be_left_out(self, net):
        example = {"ids": FEEDS["ids"], "scale": np.array([[2], [0.5]], np.float32)}
        assert_same(net, example=example, backends=["torch"], probes=["random"])

    def test_an_input_that_the_model_does_not_have_is_told(self, net):
        told = "Net cannot be called with tokens: missing a required argument: 'ids'; it takes ids, hidden, scale"
        with pytest.raises(TriptychError, match=told):
            prove(net, example={"tokens": FEEDS["ids"]})
        with pytest.raises(TriptychError, match="got an unexpected keyword argument 'tokens'; it takes ids, hidden"):
            prove(net, example={"ids": FEEDS["ids"]}, input_shape={"tokens": (2, 5)})

    def test_shapes_of_some_inputs_stand_beside_arrays_of_others(self, net):
        shape = {"scale": (2, 1)}
        report = prove(net, example={"ids": FEEDS["ids"]}, input_shape=shape, backends=["torch"], probes=["random"])
        assert report.verdict == "certified", str(report)

    @pytest.mark.slow
    def test_a_keras_model_takes_several(self, net):
        keras, torch = pytest.importorskip("keras"), pytest.importorskip("torch")
        ids, x = keras.Input((5,), dtype="int64", name="ids"), keras.Input((5, 3), name="x")
        total = keras.layers.Add()([keras.layers.Embedding(11, 4)(ids), keras.layers.Dense(4)(x)])
        model = keras.Model([ids, x], keras.layers.GlobalAveragePooling1D()(total))
        told = {"backends": ["keras-torch"], "probes": ["random"]}
        assert_same(model, example=[FEEDS["ids"], normal(2, 5, 3)], **told)
        assert_same(model, example={"ids": FEEDS["ids"]}, input_shape={"x": (2, 5, 3)}, **told)
        for shapes, sentence in (
            ({"x": (2, 5, 3), "ids": (2, 5)}, "takes ids, which is int64, not float32; give it with --input ids=FILE"),
            ({"x": (2, 3), "ids": (2, 5)}, "takes x of shape any×5×3, not 2×3"),
            ({"tokens": (2, 5)}, "takes ids, x, but is given tokens"),
        ):
            given = {name: torch.zeros(shape) for name, shape in shapes.items()}
            given |= {"ids": torch.from_numpy(FEEDS["ids"])} if "takes x" in sentence else {}
            with pytest.raises(TriptychError, match=sentence):
                _called_with(ModelName("mine", "", ""), model, given, list(given))
