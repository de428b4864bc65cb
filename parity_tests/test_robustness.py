"""The prover does not fall over what it judges: every operation, hypothesis and judge, thrown at every shape."""

import gc
import tempfile
import threading
import weakref
from contextlib import nullcontext, suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import TriptychError, get_spec
from common import operations as ops
from common.operations import SAME, Shape, backward, evaluate
from common.operations.names import parameters_of
from common.parity import examining, networks
from common.parity.backends import BACKENDS
from common.parity.comparison import compare_all
from common.parity.gradients import gradient_probes, judge_gradients
from common.parity.judge import judge, judge_structure
from common.parity.preparing import Preparation
from common.parity.results import Plan
from common.parity.runner import run_parity
from common.parity.verdicts import DIVERGED, IDENTICAL
from common.probes import exact_probe, random_probe
from common.process import ProcessFailure
from common.specs.architecture import IMAGE, Architecture, Layer
from common.weights import read_weights_file

OPERATIONS = [
    ops.Conv(3, 1, 1, filters=4),
    ops.Conv((3, 2), (2, 1), SAME, filters=4, groups=2, bias=False),
    ops.MaxPool(3, 2),
    ops.MaxPool(2, 2, SAME),
    ops.AveragePool(2, 1, 1),
    ops.GlobalAveragePool(),
    ops.AdaptiveAveragePool(2),
    ops.SubSampling(),
    ops.ReLU(),
    ops.Sigmoid(),
    ops.Softmax(),
    ops.ScaledTanh(1.7159, 2 / 3),
    ops.BatchNorm(1e-3),
    ops.Add(),
    ops.Concat(),
    ops.SelectChannels((2, 0)),
    ops.LRN(5, 1e-4, 0.75, 1.0),
    ops.Flatten(),
    ops.Flatten((4, 3, 5)),
    ops.Dense(7),
    ops.Dropout(0.5),
]

sizes = st.sampled_from([0, 1, 2, 3, 4, 6, 9])
shapes = st.one_of(st.lists(sizes, max_size=5).map(tuple), st.sampled_from([(4, 3, 5), (6, 8, 8), (4, 9, 2), (12,)]))
quick = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


def test_every_operation_is_thrown():
    known = {kind for kind in vars(ops).values() if isinstance(kind, type) and issubclass(kind, ops.Operation)}
    assert {type(operation) for operation in OPERATIONS} == known - {ops.Operation, ops.Windowed, ops.Average}


def numbers(shape: Shape, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-8, 9, shape).astype(np.float32)


def parameters_for(operation: ops.Operation, given_shapes: list[Shape]) -> dict[str, np.ndarray]:
    """Those that it needs, if it takes such inputs at all; else some of no use."""
    try:
        wanted = operation.parameter_shapes(*given_shapes)
    except TriptychError:
        wanted = dict.fromkeys(("weight", "bias", "gamma", "beta", "mean", "variance"), (4, 4, 3, 3))
    return {name: np.abs(numbers(shape, len(name))) + 1 for name, shape in wanted.items()}


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
@quick
@given(given_shapes=st.lists(shapes, max_size=3), batches=st.lists(st.integers(0, 3), min_size=3, max_size=3))
def test_an_operation_takes_a_shape_or_refuses_it_in_a_sentence(operation, given_shapes, batches):
    inputs = [numbers((n, *shape), n) for n, shape in zip(batches, given_shapes, strict=False)]
    parameters = parameters_for(operation, given_shapes)
    try:
        output, _ = operation.output_shape(*given_shapes), operation.parameter_shapes(*given_shapes)
    except TriptychError:
        for refuses in (operation.output_shape, operation.parameter_shapes, operation.multiply_adds):
            with suppress(TriptychError):
                refuses(*given_shapes)
        with pytest.raises(TriptychError):
            evaluate(operation, inputs, parameters)
        with pytest.raises(TriptychError):
            backward(operation, inputs, parameters, numbers((1, 1), 0))
        return
    assert min(output) >= 1
    assert operation.multiply_adds(*given_shapes) >= 0
    if len({len(x) for x in inputs}) > 1:
        with pytest.raises(TriptychError, match="the same number of images"):
            evaluate(operation, inputs, parameters)
        return
    reference = evaluate(operation, inputs, parameters)
    assert reference.value.shape == (len(inputs[0]), *output)
    with pytest.raises(TriptychError):
        evaluate(operation, [*inputs, *inputs, numbers((), 0)], parameters)
    if parameters:
        with pytest.raises(TriptychError, match="missing"):
            evaluate(operation, inputs, {})
    if not isinstance(operation, ops.Softmax):  # no network of the catalogue trains through it
        gradients = backward(operation, inputs, parameters, numbers(reference.value.shape, 1))
        assert [gradient.value.shape for gradient in gradients.inputs] == [x.shape for x in inputs]
    errors = operation.carried(inputs, [np.abs(x).astype(np.float64) for x in inputs], parameters)
    assert np.broadcast_shapes(np.shape(errors), reference.value.shape) == reference.value.shape


def network(operation: ops.Operation) -> Architecture:
    """The operation between two others, on maps or on features, whichever it takes."""
    for front in ([], [("flatten", ops.Flatten())]):
        layers = [Layer("in", ops.ReLU(), (IMAGE,))]
        for name, kind in front:
            layers.append(Layer(name, kind, (layers[-1].name,)))
        many = isinstance(operation, ops.Add | ops.Concat)
        layers.append(Layer("made", operation, (layers[-1].name,) * (2 if many else 1)))
        layers.append(Layer("out", ops.Dropout(0.5), ("made",)))
        try:
            return Architecture("tiny", "tiny", "", 2025, "", (4, 3, 5), tuple(layers), {"logits": "out"})
        except TriptychError:
            continue
    raise AssertionError(operation)


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
@quick
@given(data=st.data())
def test_whatever_is_recorded_is_judged(operation, data):
    spec = network(operation)
    probe = random_probe(spec)
    dtypes = st.sampled_from([np.float32] * 6 + [np.float64, np.float16, np.int64, bool])
    recorded, given_to = {}, {IMAGE: probe.image}
    for layer in spec.layers:
        right = (2, *spec.shapes[layer.name])
        kind = data.draw(st.sampled_from(["right", "wrong numbers", "wrong numbers", "wrong shape", "missing"]))
        if kind == "missing":
            continue
        shape = (
            data.draw(st.tuples(st.just(2), shapes).map(lambda p: (p[0], *p[1])) | shapes) if "shape" in kind else right
        )
        recorded[layer.name] = numbers(shape, data.draw(st.integers(0, 9))).astype(data.draw(dtypes))
        given_to[layer.name] = recorded[layer.name]
    verdicts = judge(spec, probe, recorded)
    assert [v.untried for v in verdicts if v.untried] == []
    told = {verdict.name: verdict for verdict in verdicts}
    for layer in spec.layers:
        if layer.name not in recorded:
            assert layer.name not in told or told[layer.name].verdict == DIVERGED
        elif recorded[layer.name].dtype != np.float32 or recorded[layer.name].shape != (2, *spec.shapes[layer.name]):
            assert told[layer.name].verdict == DIVERGED


def test_a_layer_that_passes_a_wrong_shape_on_has_it_too():
    spec = network(ops.ReLU())
    wide = numbers((2, 4, 3, 6), 0)
    verdicts = judge(spec, random_probe(spec), {"in": wide, "made": np.maximum(wide, 0), "out": np.maximum(wide, 0)})
    assert [verdict.verdict for verdict in verdicts] == [DIVERGED] * 3
    assert verdicts[2].cause == "out has shape 4×3×6, expected 4×3×5"


@quick
@given(found=st.dictionaries(st.sampled_from(["c1", "s2", "c3", "output"]), st.lists(st.none() | sizes, max_size=4)))
def test_whatever_shapes_are_reported_are_judged(found):
    spec = get_spec("lenet5")
    shapes_found = {name: list(shape) for name, shape in spec.shapes.items()} | found
    names = {verdict.name for verdict in judge_structure(spec, shapes_found, spec.parameter_shapes)}
    assert names == {name for name, shape in found.items() if tuple(shape) != spec.shapes[name]}


@quick
@given(data=st.data())
def test_whatever_gradients_are_recorded_are_judged(data):
    spec = network(ops.Conv(3, 1, 1, filters=4))
    (probe,) = gradient_probes(spec, ["exact"])
    drawn = lambda: numbers(data.draw(st.sampled_from([(2, 4, 3, 5)] * 3) | shapes), data.draw(st.integers(0, 9)))  # noqa: E731
    recorded = {
        "outputs": {layer.name: drawn() for layer in spec.layers},
        "gradients": {name: drawn() for name in spec.shapes},
        "parameters": {},
        "weights": probe.weights,
    }
    assert judge_gradients(spec, probe, recorded)


def test_outputs_that_are_no_vectors_are_compared_with_nothing():
    maps = {"logits": np.ones((2, 10, 1, 1), np.float32)}
    assert compare_all({"torch": maps, "tf1": maps}) == []


class RightWorker:
    """Stands for a backend's process: it answers what the oracle does."""

    alive = True

    def ask(self, request, timeout):
        if "build" in request:
            spec = self.spec = get_spec(request["build"])
            wiring = {layer.name: layer.inputs for layer in spec.layers}
            return {
                "shapes": spec.shapes,
                "parameter_shapes": spec.parameter_shapes,
                "order": "C, H, W",
                "reads": wiring,
                "unnamed": {},
            }
        values, paths, last = {IMAGE: np.load(request["image"])}, {}, self.spec.layers[-1].name
        weights = read_weights_file(request["weights"])
        for number, layer in enumerate(self.spec.layers):
            inputs = [values[name] for name in layer.inputs]
            output = evaluate(layer.operation, inputs, parameters_of(layer.name, weights)).value.astype(np.float32)
            paths[layer.name] = f"{request['output']}/{number}.npy"
            np.save(paths[layer.name], output)
            injected = request["injected"].get(layer.name)
            values[layer.name] = np.load(injected) if injected else output
        return {
            "recorded": {"outputs": paths, "returned": {"logits": paths[last]}, "alone": {}, "given": {}},
            "places": {},
            "evidence": {},
            "note": None,
            "timing": {},
            "memory": 0,
            "repeatable": None,
        }


class RightWorkers:
    def take(self, backend):
        return RightWorker()

    def give_back(self, worker):
        pass

    kill = None


@pytest.mark.parametrize("fails", ["judge", "judge_structure"])
def test_a_judge_that_fails_costs_its_own_row(fails, monkeypatch):
    real = getattr(examining, fails)
    calls = []

    def judge_that_fails(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise IndexError("tuple index\nout of range")
        return real(*arguments)

    monkeypatch.setattr(examining, fails, judge_that_fails)
    plan = Plan([BACKENDS["torch"], BACKENDS["tf1"]], ["exact"], jobs=1)
    (run,) = run_parity(get_spec("lenet5"), plan, workers=RightWorkers())
    failed, other = sorted(run.backends, key=lambda row: row.status)
    assert (failed.status, failed.verdict, failed.layers) == ("crashed", "incomplete", [])
    assert (
        failed.reason
        == "it ran, but judging it failed: IndexError: tuple index out of range (--json has the traceback)"
    )
    assert "judge_that_fails" in failed.traceback
    assert (other.status, other.verdict, other.traceback) == ("ok", "identical", None)
    assert run.verdict == "incomplete"


@pytest.mark.parametrize("ended", [False, True])
def test_an_export_that_fails_is_a_row_that_says_so(ended):
    """Whether its process has ended, or is asked once more to run what it could not export."""

    class Worker(RightWorker):
        alive = not ended

        def ask(self, request, timeout):
            if "build" not in request:
                raise ProcessFailure("no answer within 7 s" if "same_as" in request else "the disk is full")
            return super().ask(request, timeout)

    workers = RightWorkers()
    workers.take = lambda backend: Worker()
    plan = Plan([BACKENDS["onnx-torch"]], ["exact"], jobs=1)
    (run,) = run_parity(get_spec("lenet5"), plan, workers=workers)
    (row,) = run.backends
    reason = "no answer within 7 s" if ended else "the disk is full"
    assert (row.status, row.verdict, row.reason) == ("crashed", "incomplete", reason)


@pytest.mark.parametrize("same", [False, True])
def test_of_equal_exports_one_is_run_and_of_others_each(same):
    ran = []

    class Worker(RightWorker):
        def ask(self, request, timeout):
            if "same_as" in request:
                known = request["same_as"][0] if same and request["same_as"] else None
                return {"export": request["backend"], "same_as": known, "timing": {"load": 2.0}, "memory": 5}
            if "image" in request:
                ran.append(request["backend"])
            return super().ask(request, timeout)

    workers = RightWorkers()
    workers.take = lambda backend: Worker()
    exports = [backend for backend in BACKENDS.values() if backend.through_onnx]
    (run,) = run_parity(get_spec("lenet5"), Plan(exports, ["exact"], jobs=2), workers=workers)
    assert [(row.backend, row.verdict) for row in run.backends] == [(each.name, IDENTICAL) for each in exports]
    assert [row.note is None for row in run.backends] == [row.backend in ran for row in run.backends]
    assert len(ran) == (1 if same else 3)
    assert {row.timing["load"] for row in run.backends} == {2.0}


@pytest.mark.parametrize("failing", [False, True])
def test_the_probes_of_the_next_network_are_made_while_one_is_run(failing, monkeypatch, tmp_path):
    told = []
    make = Preparation._probes
    failures = {"lenet_caffe": OSError("no space just now")} if failing else {}

    def noted(self):
        told.append(f"{self.spec.name} prepared")
        if self.spec.name in failures:
            raise failures.pop(self.spec.name)
        return make(self)

    monkeypatch.setattr(Preparation, "_probes", noted)
    monkeypatch.setattr(networks, "Workers", lambda hardware, backends=(): nullcontext(RightWorkers()))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    plan = Plan([BACKENDS["torch"]], ["exact"], jobs=2)
    runs = networks.prove_networks(
        ["lenet5", "lenet_caffe"], plan, on_network=lambda found: told.append(f"{found[0].architecture} finished")
    )
    again = ["lenet_caffe prepared"] if failing else []
    assert told == ["lenet5 prepared", "lenet_caffe prepared", "lenet5 finished", *again, "lenet_caffe finished"]
    assert [run.verdict for run in runs] == ["identical"] * 2
    assert not [*tmp_path.iterdir()]


def test_probes_are_forgotten_when_their_network_is_finished(monkeypatch):
    """Those of all networks, with weights and what was evaluated, would fill the memory."""
    make, made = Preparation._probes, []

    def noted(self):
        probes = make(self)
        made.extend(weakref.ref(probe) for probe in probes.values())
        return probes

    monkeypatch.setattr(Preparation, "_probes", noted)
    monkeypatch.setattr(networks, "Workers", lambda hardware, backends=(): nullcontext(RightWorkers()))
    held = []

    def count(_):
        gc.collect()
        held.append(sum(probe() is not None for probe in made))

    plan = Plan([BACKENDS["torch"]], ["exact"], jobs=2)
    networks.prove_networks(["lenet5"] * 5, plan, on_network=count)
    assert len(made) == 5
    assert max(held) <= 2


def test_the_next_network_runs_beside_the_last_backend_of_one(monkeypatch):
    """Of two seats one would be empty else, until the next network begins."""
    begun = threading.Event()

    class Worker(RightWorker):
        def ask(self, request, timeout):
            if request.get("build") == "lenet_caffe":
                begun.set()
            elif "image" in request and self.spec.name == "lenet5":
                assert begun.wait(60), "lenet_caffe has not begun while lenet5 runs"
            return super().ask(request, timeout)

    workers = RightWorkers()
    workers.take = lambda backend: Worker()
    monkeypatch.setattr(networks, "Workers", lambda hardware, backends=(): nullcontext(workers))
    finished = []
    runs = networks.prove_networks(
        ["lenet5", "lenet_caffe"],
        Plan([BACKENDS["torch"]], ["exact"], jobs=2),
        on_network=lambda found: finished.append(found[0].architecture),
    )
    assert finished == ["lenet5", "lenet_caffe"]
    assert [run.verdict for run in runs] == ["identical"] * 2


def test_a_hypothesis_that_fails_costs_itself_alone(monkeypatch):
    def fail(*arguments):
        raise RuntimeError("not today")
        yield

    monkeypatch.setattr(ops.Conv, "mistakes", fail)
    spec = get_spec("lenet5")
    probe = exact_probe(spec)
    recorded = {name: numbers((2, *shape), 0) for name, shape in spec.shapes.items() if name != IMAGE}
    first = judge(spec, probe, recorded)[0]
    assert first.verdict == DIVERGED
    assert first.cause.endswith(
        "1 of the known mistakes could not be tried, since triptych failed: RuntimeError: not today"
    )
    assert "Traceback" in first.untried[0]
    assert first.excluded  # those that could be tried
