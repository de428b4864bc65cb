"""Operations of other people's graphs: each as ONNX Runtime computes it, and with one attribute or weight changed."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx.reference import ReferenceEvaluator  # noqa: E402
from test_prove import Builder, feeds_of, judged, normal, recorded  # noqa: E402

from common.graphs import read_graph  # noqa: E402
from common.graphs.onnx_reader import read_model  # noqa: E402
from common.operations import Softmax  # noqa: E402
from common.operations.arithmetic import Reciprocal, SquareRoot  # noqa: E402
from common.operations.moments import GroupNorm, LayerNorm  # noqa: E402
from common.operations.resize import Resize  # noqa: E402
from common.parity.verdicts import CERTIFIED, DIVERGED, IDENTICAL  # noqa: E402
from common.prove.exact import exact_probe  # noqa: E402
from common.prove.judging import judge_graph  # noqa: E402

NONE = np.array([], np.float32)


def upwards(*scales):
    return np.array([1, 1, *scales], np.float32)


MAP, LINE, BLOCK, TOKENS = (2, 4, 5, 7), (2, 4, 9), (1, 4, 3, 5, 4), (2, 3, 6)

CASES = {
    # name: shape, operator, further inputs, attributes, and those that are changed to make it wrong
    "MatMul, two vectors": ((7,), "MatMul", [normal(7)], {}, None),
    "Einsum, attention": (
        TOKENS,
        "Einsum",
        [normal(2, 3, 6)],
        {"equation": "bid,bjd->bij"},
        {"equation": "bid,bjd->bji"},
    ),
    "Einsum, three": (
        TOKENS,
        "Einsum",
        [normal(6, 5), normal(5)],
        {"equation": "bid,dk,k->bik"},
        {"equation": "bid,dk,k->bki"},
    ),
    "Einsum, no arrow": (TOKENS, "Einsum", [normal(6, 4)], {"equation": "bid, dk"}, {"equation": "bid,dk->bki"}),
    "Resize linear": (
        MAP,
        "Resize",
        [NONE, upwards(2, 3)],
        {"mode": "linear"},
        {"coordinate_transformation_mode": "asymmetric"},
    ),
    "Resize linear, corners": (
        MAP,
        "Resize",
        [NONE, upwards(2, 2)],
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        {"coordinate_transformation_mode": "half_pixel"},
    ),
    "Resize linear, to a size": (
        MAP,
        "Resize",
        [NONE, NONE, np.array([2, 4, 7, 4])],
        {"mode": "linear"},
        {"mode": "cubic"},
    ),
    "Resize linear, smaller": (
        MAP,
        "Resize",
        [NONE, upwards(0.6, 0.3)],
        {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
        {"coordinate_transformation_mode": "asymmetric"},
    ),
    "Resize cubic": (MAP, "Resize", [NONE, upwards(1.7, 2)], {"mode": "cubic"}, {"cubic_coeff_a": -0.5}),
    "Resize cubic, asymmetric": (
        MAP,
        "Resize",
        [NONE, upwards(3, 2)],
        {"mode": "cubic", "coordinate_transformation_mode": "asymmetric", "cubic_coeff_a": -0.5},
        {"coordinate_transformation_mode": "half_pixel"},
    ),
    "Resize linear, filtered": (
        MAP,
        "Resize",
        [NONE, NONE, np.array([2, 4, 3, 2])],
        {"mode": "linear", "antialias": 1},
        {"antialias": 0},
    ),
    "Resize linear, filtered, exact": (
        MAP,
        "Resize",
        [NONE, upwards(0.5, 0.25)],
        {"mode": "linear", "antialias": 1},
        None,
    ),
    "Resize cubic, filtered as PyTorch does": (
        MAP,
        "Resize",
        [NONE, NONE, np.array([2, 4, 3, 11])],
        {"mode": "cubic", "antialias": 1, "exclude_outside": 1, "cubic_coeff_a": -0.5},
        {"exclude_outside": 0},
    ),
    "Resize cubic, inside": (
        MAP,
        "Resize",
        [NONE, upwards(1.7, 2)],
        {"mode": "cubic", "exclude_outside": 1},
        {"exclude_outside": 0},
    ),
    "Resize nearest": (
        MAP,
        "Resize",
        [NONE, upwards(2, 2)],
        {"mode": "nearest", "nearest_mode": "floor"},
        {"nearest_mode": "ceil"},
    ),
    "ReduceMax": (TOKENS, "ReduceMax", [np.array([1])], {"keepdims": 0}, {"keepdims": 1}),
    "ReduceL1": (TOKENS, "ReduceL1", [np.array([2])], {}, None),
    "GatherElements": (TOKENS, "GatherElements", [np.array([[[1, 0, 2, 1]]])], {"axis": 1}, {"axis": 2}),
    "CumSum": (TOKENS, "CumSum", [np.array(1)], {}, {"reverse": 1}),
    "CumSum, exclusive": (TOKENS, "CumSum", [np.array(-1)], {"exclusive": 1, "reverse": 1}, {"exclusive": 0}),
    "ReduceSumSquare": (TOKENS, "ReduceSumSquare", [np.array([1, 2])], {}, None),
    "DepthToSpace": (MAP, "DepthToSpace", [], {"blocksize": 2, "mode": "DCR"}, None),
    "DepthToSpace, 8 channels": ((1, 8, 3, 5), "DepthToSpace", [], {"blocksize": 2, "mode": "DCR"}, {"mode": "CRD"}),
    "GroupNormalization": (
        MAP,
        "GroupNormalization",
        [normal(4), normal(4)],
        {"num_groups": 2, "epsilon": 1e-5},
        {"num_groups": 4},
    ),
    "InstanceNormalization": (
        LINE,
        "InstanceNormalization",
        [normal(4), normal(4)],
        {"epsilon": 1e-5},
        {"epsilon": 1e-3},
    ),
    "PRelu": (MAP, "PRelu", [normal(4, 1, 1)], {}, None),
    "Elu": (MAP, "Elu", [], {"alpha": 0.7}, {"alpha": 1.0}),
    "Selu": (MAP, "Selu", [], {}, {"gamma": 1.0}),
    "Mish": (MAP, "Mish", [], {}, None),
    "LogSoftmax": (TOKENS, "LogSoftmax", [], {"axis": -1}, {"axis": 1}),
    "Softmax": (TOKENS, "Softmax", [], {"axis": 1}, {"axis": -1}),
    "Sin": (TOKENS, "Sin", [], {}, None),
    "Cos": (TOKENS, "Cos", [], {}, None),
    "GlobalMaxPool": (MAP, "GlobalMaxPool", [], {}, None),
    "Conv, one axis, dilated": (
        LINE,
        "Conv",
        [normal(6, 2, 3), normal(6)],
        {"group": 2, "dilations": [2], "pads": [2, 1]},
        {"pads": [1, 2]},
    ),
    "Conv, three axes": (
        BLOCK,
        "Conv",
        [normal(3, 4, 2, 3, 2)],
        {"strides": [1, 2, 1], "pads": [1, 1, 0, 0, 1, 1]},
        {"pads": [0, 1, 0, 1, 1, 1]},
    ),
    "ConvTranspose, one axis": (
        LINE,
        "ConvTranspose",
        [normal(4, 3, 4), normal(3)],
        {"strides": [3], "output_padding": [1]},
        {"output_padding": [0]},
    ),
    "ConvTranspose, groups, dilated": (
        MAP,
        "ConvTranspose",
        [normal(4, 3, 3, 2)],
        {"group": 2, "strides": [2, 1], "dilations": [1, 2], "pads": [1, 0, 0, 1]},
        {"pads": [0, 0, 1, 1]},
    ),
    "ConvTranspose, three axes": (BLOCK, "ConvTranspose", [normal(4, 2, 2, 3, 2)], {"strides": [2, 1, 2]}, None),
    "AveragePool, three axes": (
        BLOCK,
        "AveragePool",
        [],
        {"kernel_shape": [2, 3, 2], "pads": [1, 1, 0, 0, 1, 1]},
        {"count_include_pad": 1},
    ),
}


def graph_of(name, changed=None):
    shape, operator, inputs, attributes, _ = CASES[name]
    add = Builder(*shape, opset=21)
    places = [given if given is not NONE else "" for given in inputs]
    return add.model(add(operator, "it", "x", *places, **attributes | (changed or {})))


@pytest.mark.parametrize("name", CASES)
def test_it_is_certified_and_another_attribute_is_found(name):
    model = graph_of(name)
    feeds = feeds_of(model)
    (right,) = judged(model, model, feeds)
    assert right.verdict in (IDENTICAL, CERTIFIED), (right.bound_ratio, right.cause)
    changed = CASES[name][-1]
    if changed:
        (wrong,) = judged(model, graph_of(name, changed), feeds)
        assert wrong.verdict == DIVERGED
        assert wrong.bound_ratio is None or wrong.bound_ratio > 100


@pytest.mark.parametrize("size", [1e-6, 1e-3, 0.3])
@pytest.mark.parametrize(
    "norm", [LayerNorm(1e-3), LayerNorm(0.0, 1), LayerNorm(1e-5, 1, only=True), GroupNorm(1e-5, 2), GroupNorm(1e-3)]
)
def test_a_normalisation_moves_no_further_than_it_carries(norm, size):
    """Errors in the direction that moves it most: along it, against it, of some elements; and any."""
    numbers = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return numbers.standard_normal(shape, np.float32)

    x = normal(2, 4, 3, 5)
    shape = x.shape[1:] if norm == LayerNorm(0.0, 1) else (4,) if norm != LayerNorm(1e-3) else (5,)
    parameters = {"gamma": normal(*shape), "beta": normal(*shape)}
    errors = size * np.abs(normal(*x.shape))
    bound = norm.carried([x], [errors], parameters)
    right = norm.reference([x], parameters).value
    reached = 0.0
    for sign in (
        np.sign(x),
        -np.sign(x),
        np.ones(x.shape),
        np.arange(x.size).reshape(x.shape) % 7 == 0,
        normal(*x.shape),
    ):
        moved = np.abs(norm.reference([x + np.clip(sign, -1, 1) * errors], parameters).value - right)
        assert (moved <= bound).all()
        reached = max(reached, float((moved / bound).max()))
    assert reached > 0.05


@pytest.mark.parametrize("operation", [SquareRoot(), Reciprocal(), Softmax(-1)])
def test_a_curve_moves_no_further_than_it_carries(operation):
    numbers = np.random.default_rng(0)
    x = numbers.uniform(0.01, 2, (4, 6)).astype(np.float32)
    errors = numbers.uniform(0, 1e-3, x.shape)
    bound = operation.carried([x], [errors], {})
    right = operation.reference([x], {}).value
    reached = 0.0
    for sign in (np.ones(x.shape), -np.ones(x.shape), numbers.uniform(-1, 1, x.shape)):
        moved = np.abs(operation.reference([x + sign * errors], {}).value - right)
        assert (moved <= bound).all()
        reached = max(reached, float((moved / bound).max()))
    assert reached > 0.1  # it is no larger than it must be, either


@pytest.mark.parametrize("hidden", [-np.inf, -3.4e38, -1e4])
def test_what_a_mask_hides_does_not_make_probabilities_uncertain(hidden):
    """A float32 sum with the mask has an error as large as its own rounding."""
    x = np.random.default_rng(0).standard_normal((2, 6), np.float32)
    x[:, 4:] = hidden
    errors = np.full(x.shape, 1e-6)
    errors[:, 4:] = 0 if np.isinf(hidden) else 1e-6 * abs(hidden)
    assert Softmax(-1).carried([x], [errors], {}).max() < 3e-6
    errors[0, 5] = 2 * abs(hidden)  # which might be the largest then
    assert Softmax(-1).carried([x], [errors], {})[0].max() > 0.1


@pytest.mark.parametrize("name", CASES)
def test_integers_give_the_only_right_bits_or_it_says_that_it_rounds(name, tmp_path):
    path = tmp_path / "mine.onnx"
    onnx.save(graph_of(name), path)
    graph = read_graph(path)
    probe = exact_probe(read_model(path), graph, recorded(graph_of(name), feeds_of(graph_of(name))))
    values = recorded(probe.model, probe.feeds)
    (node,) = graph.nodes
    assert (node.output in probe.expected.values) != (node.name in probe.bounded)
    for output, value in probe.expected.values.items():
        assert np.array_equal(values[output], value)
    exact = ("Einsum", "Conv", "Reduce", "DepthToSpace", "Global", "Resize nearest", "Resize linear, filtered, exact")
    if name.startswith(exact):
        assert node.output in probe.expected.values


SIZES = [(3, 2), (11, 4), (1, 13), (5, 29), (2, 7)]


@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("exclude_outside", [0, 1])
def test_a_filtered_resize_is_what_onnx_says(exclude_outside, mode, coordinates):
    """By ONNX's own reference, with scales that float32 has. It computes cubic weights in float32, all else in
    float64."""
    x = np.random.default_rng(0).standard_normal((1, 2, 8, 12))
    for height, width in ((3, 9), (11, 3), (1, 15), (5, 33)):
        add = Builder(*x.shape, opset=19)
        options = {"coordinate_transformation_mode": coordinates, "mode": mode, "exclude_outside": exclude_outside}
        model = add.model(add("Resize", "it", "x", "", "", np.array([1, 2, height, width]), antialias=1, **options))
        (node,) = read_graph("mine.onnx", model).nodes
        (right,) = ReferenceEvaluator(model).run(None, {"x": x})
        found = node.operation.reference([x], {})
        assert right.dtype == np.float64
        assert (np.abs(found.value - right) <= (1e-12 if mode == "linear" else found.bound)).all()
        assert found.bound.max() < 1e-3


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_pytorch_filters_as_its_export_says_and_the_mistake_is_named(mode):
    """PyTorch exports it with a = −0.5 and with nothing beyond the ends."""
    torch = pytest.importorskip("torch")
    x = normal(2, 3, 13, 9)
    for size in SIZES:
        add = Builder(*x.shape, opset=19)
        options = {"mode": {"bilinear": "linear"}.get(mode, "cubic"), "exclude_outside": 1, "cubic_coeff_a": -0.5}
        model = add.model(add("Resize", "it", "x", "", "", np.array([2, 3, *size]), antialias=1, **options))
        graph = read_graph("mine.onnx", model)
        for filtered in (True, False):
            made = torch.nn.functional.interpolate(torch.from_numpy(x), size, mode=mode, antialias=filtered)
            (verdict,) = judge_graph(graph, {"x": x, "it_out": made.numpy()})
            if filtered:
                assert verdict.verdict == CERTIFIED, (verdict.bound_ratio, size)
            elif size in ((3, 2), (5, 29)) and mode == "bilinear":
                assert verdict.verdict == DIVERGED
                assert "antialias is forgotten" in verdict.cause


@pytest.mark.parametrize("cubic", [True, False])
def test_a_filtered_resize_moves_no_further_than_it_carries(cubic):
    operation = Resize((2, 3, 3, 4), (1, 1, 0.3, 0.7), cubic, antialias=True)
    numbers = np.random.default_rng(0)
    x, errors = normal(2, 3, 10, 6), numbers.uniform(0, 1e-3, (2, 3, 10, 6))
    bound = operation.carried([x], [errors], {})
    right = operation.reference([x], {}).value
    reached = 0.0
    for _ in range(20):
        moved = np.abs(operation.reference([x + numbers.choice([-1, 1], x.shape) * errors], {}).value - right)
        assert (moved <= bound).all()
        reached = max(reached, float((moved / bound).max()))
    assert reached > 0.3


def test_what_chooses_is_exact_and_carries_errors_on():
    """Where, Cast, TopK, ArgMax, Max, Min, Neg; over the values that a fused runtime never made."""
    add = Builder(2, 5, 6)
    product = add("MatMul", "product", "x", normal(6, 4))
    top = add("Neg", "neg", add("Max", "max", product, np.array(-0.1, np.float32)))
    chosen = add("Where", "where", np.array([True, False, True, True]), top, add("Min", "min", product, top))
    truth = add("Cast", "truth", add("Greater", "greater", product, top), to=1)
    moved = add("ReduceMin", "least", chosen, np.array([1]), keepdims=0)
    place = add("Cast", "cast", add("ArgMax", "place", moved, axis=1, keepdims=0), to=1)
    add.nodes.append(onnx.helper.make_node("TopK", [moved, "two"], ["top_out", "at_out"], name="top", axis=1))
    add.constants["two"] = np.array([2])
    model = add.model(moved, place, truth, "top_out", "at_out")
    values = recorded(model, feeds_of(model))
    graph = read_graph("mine.onnx", model)
    verdicts = {verdict.name: verdict.verdict for verdict in judge_graph(graph, values)}
    assert verdicts.pop("product") == CERTIFIED
    assert set(verdicts.values()) == {IDENTICAL}
    assert len(verdicts) == 11
    never_made = ("product_out", "neg_out", "where_out", "max_out", "min_out", "greater_out", "truth_out")
    unmade = {name: value for name, value in values.items() if name not in never_made}
    found = {verdict.name: verdict for verdict in judge_graph(graph, unmade)}
    assert found["least"].verdict == CERTIFIED
    unmade["least_out"] = unmade["least_out"] + np.float32(1e-3)
    assert {v.name: v.verdict for v in judge_graph(graph, unmade)}["least"] == DIVERGED
