"""Recurrent layers: as ONNX Runtime and PyTorch compute them, with one number changed, and with known mistakes."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import helper, numpy_helper  # noqa: E402
from test_prove import recorded  # noqa: E402

from common import TriptychError  # noqa: E402
from common.graphs import read_graph  # noqa: E402
from common.graphs.onnx_reader import read_model  # noqa: E402
from common.operations.recurrent import GRU, LSTM  # noqa: E402
from common.parity.verdicts import CERTIFIED, DIVERGED, IDENTICAL  # noqa: E402
from common.prove.api import assert_same, prove  # noqa: E402
from common.prove.exact import exact_probe  # noqa: E402
from common.prove.judging import UNPROVED, judge_graph  # noqa: E402

STEPS, IMAGES, FEATURES, HIDDEN = 6, 3, 5, 4
RNG = np.random.default_rng(0)


def uniform(*shape):
    return RNG.uniform(-0.5, 0.5, shape).astype(np.float32)


def layer(kind, *, direction="forward", states=False, bias=True, peepholes=False, **attributes):
    """A model of one layer, its weights in initializers, with all results as outputs."""
    gates, many = {"LSTM": 4, "GRU": 3}[kind], 1 + (direction == "bidirectional")
    constants = {
        "W": uniform(many, gates * HIDDEN, FEATURES),
        "R": uniform(many, gates * HIDDEN, HIDDEN),
        "B": uniform(many, 2 * gates * HIDDEN),
        "h0": uniform(many, IMAGES, HIDDEN),
        "c0": uniform(many, IMAGES, HIDDEN),
        "P": uniform(many, 3 * HIDDEN),
    }
    given = ["h0", "c0"][: gates - 2] if states else ["", ""][: gates - 2]
    inputs = ["x", "W", "R", "B" if bias else "", "", *given, *(["P"] if peepholes else [])]
    outputs = ["Y", "Y_h", "Y_c"][: gates - 1]
    node = helper.make_node(kind, inputs, outputs, "it", hidden_size=HIDDEN, direction=direction, **attributes)
    return model_of([node], {name: array for name, array in constants.items() if name in inputs}, outputs)


def model_of(nodes, constants, outputs):
    graph = helper.make_graph(
        nodes,
        "recurrent",
        [helper.make_tensor_value_info("x", 1, (STEPS, IMAGES, FEATURES))],
        [helper.make_empty_tensor_value_info(output) for output in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def with_other(model, **arrays):
    """A model with other numbers."""
    other = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in other.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(arrays[tensor.name]), tensor.name))
    return other


def weights_of(model):
    return {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer}


X = {"x": uniform(STEPS, IMAGES, FEATURES) * 2}


def judged(model, other=None, only=()):
    """What ONNX Runtime computes with another model, by this one's graph; of some values alone, if `only` is given."""
    values = recorded(other or model, X)
    values = {name: value for name, value in values.items() if not only or name in (*only, "x")}
    return {verdict.name: verdict for verdict in judge_graph(read_graph("mine.onnx", model), values)}


CASES = {
    "LSTM": layer("LSTM"),
    "LSTM, reverse, states": layer("LSTM", direction="reverse", states=True),
    "LSTM, both, states, peepholes": layer("LSTM", direction="bidirectional", states=True, peepholes=True),
    "LSTM, no bias": layer("LSTM", bias=False),
    "GRU": layer("GRU"),
    "GRU, reset after": layer("GRU", linear_before_reset=1),
    "GRU, reverse, states": layer("GRU", direction="reverse", states=True, bias=False),
    "GRU, both, reset after": layer("GRU", direction="bidirectional", states=True, linear_before_reset=1),
}


def outputs():
    """What is recorded: every day all outputs of some layers, and each alone of one."""
    daily = ("LSTM, reverse, states", "LSTM, both, states, peepholes", "GRU, both, reset after", "GRU, reverse, states")
    for name in CASES:
        for only in ((), ("Y",), ("Y_h",), ("Y_c",)):
            marks = [] if name in daily[: 1 if only else 4] else pytest.mark.slow
            yield pytest.param(name, only, id=f"{name}-{only[0] if only else 'all'}", marks=marks)


@pytest.mark.parametrize(("name", "only"), list(outputs()))
def test_it_is_certified_and_one_number_that_is_changed_is_found(name, only):
    """Judged step by step if every hidden state is known, and as a whole if only the last state is."""
    model = CASES[name]
    found = judged(model, only=only)
    assert len(found) == ((1 if only != ("Y_c",) or "LSTM" in name else 0) if only else len(model.graph.output))
    assert all(verdict.verdict in (IDENTICAL, CERTIFIED) for verdict in found.values()), found
    weights = weights_of(model)
    for kind in set(weights) - {"h0", "c0"} if found else ():
        # Every gate of every direction is changed, since some hardly matter to the last state.
        for step in (1e-3, 1e-4):
            changed = weights[kind] * np.float32(1 + step)
            wrong = judged(model, with_other(model, **{kind: changed}), only)
            assert any(verdict.verdict == DIVERGED for verdict in wrong.values()), (kind, step)


@pytest.mark.parametrize("step", [1e-3, 1e-4])
@pytest.mark.parametrize("name", ["LSTM", "GRU, reset after", "LSTM, both, states, peepholes"])
def test_a_single_weight_that_is_changed_is_located(name, step):
    """A weight of the recurrence is multiplied by a hidden state, which is a tenth of the input here."""
    model = CASES[name]
    weights = weights_of(model)
    for kind in ("W", "R", "B") if step > 1e-4 else ("W", "B"):
        changed = weights[kind].copy()
        changed.reshape(-1)[np.abs(changed).argmax()] *= np.float32(1 + step)
        found = judged(model, with_other(model, **{kind: changed}))
        assert found["it"].verdict == DIVERGED, kind


def turned_gates(array, order, count):
    """Gates that are written in another order."""
    halves = array.reshape(len(array), -1, count, HIDDEN, *array.shape[2:])
    return halves[:, :, order].reshape(array.shape)


def reordered(model, order):
    weights = weights_of(model)
    return with_other(model, **{kind: turned_gates(weights[kind], order, len(order)) for kind in "WRB"})


def without(half):
    def change(model):
        bias = weights_of(model)["B"].copy()
        middle = bias.shape[1] // 2
        bias[:, slice(middle) if half == 0 else slice(middle, None)] = 0
        return with_other(model, B=bias)

    return change


def attribute(**attributes):
    def change(model):
        other = onnx.ModelProto.FromString(model.SerializeToString())
        (node,) = other.graph.node
        kept = [item for item in node.attribute if item.name not in attributes]
        del node.attribute[:]
        node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in attributes.items())])
        return other

    return change


def exchanged_states(model):
    weights = weights_of(model)
    return with_other(model, h0=weights["c0"], c0=weights["h0"])


def zeros(model):
    return with_other(model, **{kind: 0 * array for kind, array in weights_of(model).items() if kind in ("h0", "c0")})


def exchanged_directions(model):
    return with_other(model, **{kind: weights_of(model)[kind][::-1] for kind in "WRB"})


def transposed(model):
    weights = weights_of(model)["R"]
    blocks = weights.reshape(len(weights), -1, HIDDEN, HIDDEN)
    return with_other(model, R=blocks.swapaxes(-1, -2).reshape(weights.shape))


MISTAKES = [
    # The case, how it is changed, and what is told.
    ("LSTM", lambda model: reordered(model, [0, 2, 3, 1]), "the gates are in the order i, f, g, o, not i, o, f, g"),
    ("LSTM", lambda model: reordered(model, [0, 3, 1, 2]), "the gates i, o, f, g are read as i, f, g, o"),
    ("GRU", lambda model: reordered(model, [1, 0, 2]), "the gates are in the order r, z, n, not z, r, n"),
    ("GRU", attribute(linear_before_reset=1), "the reset gate is applied after the recurrence's product"),
    ("GRU, reset after", attribute(linear_before_reset=0), "the reset gate is applied before the recurrence's product"),
    ("LSTM", without(0), "the input's bias is missing"),
    ("GRU, reset after", without(1), "the recurrence's bias is missing"),
    ("LSTM", attribute(direction="reverse"), "it runs in the other direction of time"),
    ("GRU, reverse, states", attribute(direction="forward"), "it runs in the other direction of time"),
    ("GRU, both, reset after", exchanged_directions, "the weights of the two directions are exchanged"),
    ("LSTM, reverse, states", exchanged_states, "the first hidden state and the first cell are exchanged"),
    ("LSTM, reverse, states", zeros, "it begins with zeros, not with the state that is given"),
    ("LSTM", transposed, "the recurrence's weights are transposed"),
]


@pytest.mark.parametrize(("name", "change", "told"), MISTAKES, ids=[told for *_, told in MISTAKES])
def test_a_known_mistake_is_named(name, change, told):
    found = judged(CASES[name], change(CASES[name]))["it"]
    assert found.verdict == DIVERGED
    assert told in (found.cause or ""), (found.cause, found.untried)


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e6, -0.9])
@pytest.mark.parametrize("name", ["LSTM", "GRU, both, reset after"])
def test_a_state_that_is_no_state_is_found(name, number):
    values = recorded(CASES[name], X)
    values["Y"] = values["Y"].copy()
    values["Y"][2, 0, 1, 3] = number
    found = {verdict.name: verdict for verdict in judge_graph(read_graph("mine.onnx", CASES[name]), values)}
    assert found["it"].verdict == DIVERGED
    assert found["it:1"].verdict in (IDENTICAL, CERTIFIED)


def test_the_cell_in_place_of_the_hidden_state_is_named():
    values = recorded(CASES["LSTM"], X)
    values["Y_h"], values["Y_c"] = values["Y_c"], values["Y_h"]
    found = {verdict.name: verdict for verdict in judge_graph(read_graph("mine.onnx", CASES["LSTM"]), values)}
    assert [verdict.verdict for verdict in found.values()] == [CERTIFIED, DIVERGED, DIVERGED]
    assert "the last cell is returned, not the hidden state" in found["it:1"].cause


@pytest.mark.parametrize("name", CASES)
def test_the_exact_probe_accuses_nobody(name, tmp_path):
    onnx.save(CASES[name], tmp_path / "mine.onnx")
    model = read_model(tmp_path / "mine.onnx")
    probe = exact_probe(model, read_graph("mine.onnx", model), recorded(CASES[name], X))
    verdicts = {v.verdict for v in judge_graph(probe.graph, recorded(probe.model, probe.feeds), probe.expected)}
    assert verdicts <= {IDENTICAL, CERTIFIED}
    assert not probe.missed


def test_a_layer_without_its_hidden_states_is_judged_by_them(tmp_path):
    """The last state alone is an output of the file. Every one is recorded, since without them nothing is proved."""
    steps, hidden = 40, 48
    numbers = np.random.default_rng(1)
    constants = {
        "W": numbers.uniform(-0.3, 0.3, (1, 3 * hidden, 2)).astype(np.float32),
        "R": numbers.uniform(-0.3, 0.3, (1, 3 * hidden, hidden)).astype(np.float32),
    }
    node = helper.make_node("GRU", ["x", "W", "R"], ["", "last"], "it", hidden_size=hidden)
    graph = helper.make_graph(
        [node],
        "recurrent",
        [helper.make_tensor_value_info("x", 1, (steps, 1, 2))],
        [helper.make_empty_tensor_value_info("last")],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, tmp_path / "mine.onnx")
    report = prove(tmp_path / "mine.onnx")
    assert report.agrees, str(report)
    found = read_graph(tmp_path / "mine.onnx")
    feeds = {"x": numbers.standard_normal((steps, 1, 2), np.float32)}
    (verdict,) = judge_graph(found, recorded(model, feeds))  # by a runtime that keeps it for itself
    assert verdict.verdict == UNPROVED
    assert "which proves nothing" in verdict.cause


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (attribute(clip=3.0), "it clips what its activations read"),
        (attribute(activations=["Sigmoid", "Relu", "Tanh"]), "its activations are not the usual ones"),
        (attribute(input_forget=1), "its input and forget gates are one"),
    ],
)
def test_what_has_no_bound_is_unproved_by_name(change, told):
    found = judged(change(CASES["LSTM"]))
    assert found["it"].verdict == UNPROVED
    assert found["it"].cause == told


@pytest.mark.parametrize(("lengths", "is_read"), [([STEPS] * IMAGES, True), ([STEPS, 2, STEPS], False)])
def test_lengths_that_are_full_change_nothing(lengths, is_read):
    model = onnx.ModelProto.FromString(CASES["LSTM"].SerializeToString())
    model.graph.initializer.append(numpy_helper.from_array(np.array(lengths, np.int32), "lengths"))
    model.graph.node[0].input[4] = "lengths"
    found = judged(model)["it"]
    assert found.verdict == (CERTIFIED if is_read else UNPROVED)


@pytest.mark.parametrize("fed_back", [True, False])
@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_a_layer_moves_no_further_than_it_carries(kind, fed_back):
    numbers = np.random.default_rng(0)
    gates = len(kind.gates)
    operation = kind(HIDDEN, (False, True), states=(0,))
    parameters = {
        "weight": uniform(2, gates * HIDDEN, FEATURES),
        "recurrence": uniform(2, gates * HIDDEN, HIDDEN),
        "bias": uniform(2, 2 * gates * HIDDEN),
    }
    inputs = [X["x"], uniform(2, IMAGES, HIDDEN)]
    if fed_back:
        inputs.append(operation.reference(inputs, parameters).value.astype(np.float32))
        operation = operation.given_itself()
    errors = [numbers.uniform(0, 1e-5, x.shape) for x in inputs]
    bound = operation.carried(inputs, errors, parameters)
    right = operation.reference(inputs, parameters).value
    reached = 0.0
    for signs in ([1] * 3, [-1] * 3, *(numbers.choice([-1, 1], 3) for _ in range(10))):
        moved_inputs = [x + sign * error for x, error, sign in zip(inputs, errors, signs, strict=False)]
        moved = np.abs(operation.reference(moved_inputs, parameters).value - right)
        assert (moved <= bound).all()
        reached = max(reached, float((moved / bound).max()))
    assert reached > 0.1


def test_arrays_may_have_the_batch_first():
    """ONNX's `layout`, which ONNX Runtime does not have on a CPU."""
    model = CASES["LSTM, both, states, peepholes"]
    (node, *_) = read_graph("mine.onnx", model).nodes
    weights = weights_of(model)
    parameters = {"weight": weights["W"], "recurrence": weights["R"], "bias": weights["B"], "peepholes": weights["P"]}
    inputs = [X["x"], weights["h0"], weights["c0"]]
    right = node.operation.reference(inputs, parameters)
    turned = [array.swapaxes(0, 1) for array in inputs]
    found = read_graph("mine.onnx", attribute(layout=1)(model)).nodes[0].operation.reference(turned, parameters)
    assert np.array_equal(found.value, right.value.transpose(2, 0, 1, 3))
    assert np.array_equal(found.bound, right.bound.transpose(2, 0, 1, 3))


@pytest.mark.filterwarnings("ignore")
class TestInPyTorch:
    @pytest.fixture(scope="class")
    def nets(self):
        torch = pytest.importorskip("torch")
        pytest.importorskip("onnxscript")
        nn = torch.nn

        class Net(nn.Module):
            def __init__(self, layer):
                super().__init__()
                self.layer, self.head = layer, nn.Linear(7 * (1 + layer.bidirectional), 3)

            def forward(self, x):
                x, state = self.layer(x)
                hidden = state[0] if isinstance(state, tuple) else state
                return self.head(x), hidden

        torch.manual_seed(0)
        return {
            "LSTM": (Net(nn.LSTM(5, 7)), (6, 3, 5)),
            "LSTM, two layers": (Net(nn.LSTM(5, 7, 2, bidirectional=True, batch_first=True)), (1, 6, 5)),
            "GRU": (Net(nn.GRU(5, 7, batch_first=True)), (3, 60, 5)),
            "GRU, two layers": (Net(nn.GRU(5, 7, 2, bidirectional=True)), (6, 1, 5)),
        }

    @pytest.mark.parametrize(
        "name",
        [
            "LSTM, two layers",
            pytest.param("GRU", marks=pytest.mark.slow),
            pytest.param("LSTM", marks=pytest.mark.slow),
            pytest.param("GRU, two layers", marks=pytest.mark.slow),
        ],
    )
    def test_a_layer_is_certified_eager_and_in_onnx_runtime(self, name, nets):
        net, shape = nets[name]
        report = prove(net, input_shape=shape, backends=["torch", "onnxruntime"])
        assert report.verdict == "certified", str(report)
        random = report.runs[1]
        judged = {row.backend: [layer.kind for layer in row.layers] for row in random.backends}
        assert {"LSTM", "GRU"} & {*judged["onnxruntime"]}

    @pytest.mark.slow
    def test_a_model_that_reads_the_last_state_alone_is_proved_by_all(self, nets):
        torch = pytest.importorskip("torch")

        class Last(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layer, self.head = (
                    torch.nn.GRU(5, 32, batch_first=True, bidirectional=True),
                    torch.nn.Linear(32, 3),
                )

            def forward(self, x):
                return self.head(self.layer(x)[1][1])

        torch.manual_seed(0)
        report = prove(Last(), input_shape=(2, 20, 5), probes=["random"])
        assert report.verdict == "certified", str(report)
        assert {[layer.kind for layer in row.layers].count("GRU") for row in report.runs[0].backends} == {2}

    @pytest.mark.slow
    def test_its_export_is_certified_and_a_changed_one_located(self, nets, tmp_path):
        torch = pytest.importorskip("torch")
        net, shape = nets["LSTM, two layers"]
        example = torch.randn(*shape)
        path = tmp_path / "mine.onnx"
        torch.onnx.export(net.eval(), (example,), path, dynamo=True, external_data=False, verbose=False)
        assert_same(net, path, example=example)
        model = onnx.load(path)
        for tensor in model.graph.initializer:
            array = numpy_helper.to_array(tensor).copy()
            if array.shape == (2, 28, 7):  # the recurrence's
                array[1, 3, 2] += np.float32(1e-3)
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
                break
        onnx.save(model, path)
        with pytest.raises(AssertionError, match=r"\(LSTM\) in layer \(LSTM\) is the first node that differs"):
            assert_same(net, path, example=example)

    @pytest.mark.slow
    def test_of_two_networks_the_second_must_have_its_weights(self, nets):
        torch = pytest.importorskip("torch")

        class Other(torch.nn.Module):
            def __init__(self, net):
                super().__init__()
                self.rnn, self.out = torch.nn.LSTM(5, 7, batch_first=True), net.head
                self.rnn.load_state_dict(net.layer.state_dict())

            def forward(self, x):
                x, (hidden, _) = self.rnn(x.transpose(0, 1))
                return self.out(x.transpose(0, 1)), hidden

        net, shape = nets["LSTM"]
        with pytest.raises(TriptychError, match=r"Other has recurrent layers \(LSTM\), whose weights cannot be moved"):
            prove(net, Other(net), input_shape=shape, weights="first")
        assert_same(net, Other(net), input_shape=shape, weights="own")
