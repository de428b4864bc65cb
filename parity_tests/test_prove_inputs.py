"""Models that take several inputs, or others than float32: numbers of tokens, masks."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from test_prove import normal, recorded, run  # noqa: E402

from common import TriptychError  # noqa: E402
from common.graphs import read_graph  # noqa: E402
from common.parity.verdicts import CERTIFIED, DIVERGED, IDENTICAL  # noqa: E402
from common.prove.api import assert_same, prove  # noqa: E402
from common.prove.exact import exact_probe  # noqa: E402
from common.prove.judging import judge_graph  # noqa: E402

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
        ([], "takes ids of shape batch×sequence; say which with --input-shape 1x3x224x224, or give it: --input ids="),
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
        with pytest.raises(TriptychError, match="Net cannot be called with tokens: missing a required argument: 'ids'"):
            prove(net, example={"tokens": FEEDS["ids"]})

    def test_a_keras_model_takes_several(self, net):
        keras = pytest.importorskip("keras")
        ids, x = keras.Input((5,), dtype="int64"), keras.Input((5, 3))
        total = keras.layers.Add()([keras.layers.Embedding(11, 4)(ids), keras.layers.Dense(4)(x)])
        model = keras.Model([ids, x], keras.layers.GlobalAveragePooling1D()(total))
        assert_same(model, example=[FEEDS["ids"], normal(2, 5, 3)], backends=["keras-torch"], probes=["random"])
