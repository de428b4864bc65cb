"""The proof as a function: models that a program holds, and exports that somebody made of them."""

from collections import Counter

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")  # of exporters

from conftest import daily  # noqa: E402
from torch import nn  # noqa: E402

from common import TriptychError  # noqa: E402
from common.prove.api import assert_same, prove  # noqa: E402


class Net(nn.Module):
    """A residual block with batch normalisation, attention, a dense layer: whatever exporters fold."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.left = nn.Conv2d(8, 8, (3, 5), padding=(1, 2), groups=2)
        self.right = nn.Conv2d(8, 8, 1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.scale = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        y = nn.functional.silu(self.norm(self.conv(x)))
        y = nn.functional.relu(self.left(y) + self.right(y))
        tokens = self.scale(y.flatten(2).transpose(1, 2))
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.head((tokens + mixed).mean(1))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = Net()
    for norm in (net.norm, net.scale):
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.uniform_(-0.5, 0.5)
    net.norm.running_mean.uniform_(-0.3, 0.3)
    net.norm.running_var.uniform_(0.5, 1.5)
    return net.eval()


@pytest.fixture(scope="module")
def x():
    return torch.randn(2, 3, 9, 11, generator=torch.Generator().manual_seed(1))


def renamed(path, place):
    """The same file with other names for every node and every value, and its nodes in another order."""
    model = onnx.load(path)
    names = {}
    kept = {value.name for value in model.graph.output}

    def other(name):
        return name if not name or name in kept else names.setdefault(name, f"v{len(names)}")

    for node in model.graph.node:
        node.name = ""
        for names_of in (node.input, node.output):
            names_of[:] = [other(name) for name in names_of]
        del node.metadata_props[:]
    for value in (*model.graph.initializer, *model.graph.input):
        value.name = other(value.name)
    del model.graph.value_info[:]
    onnx.save(model, place)
    return place


EXPORTERS = {
    "as usual": {"dynamo": True},
    "by TorchScript": {"dynamo": False},
    "unoptimised": {"dynamo": True, "optimize": False},
    "by TorchScript, unfolded": {"dynamo": False, "do_constant_folding": False, "opset_version": 14},
}


def exported(net, x, path, **options):
    training = net.training
    torch.onnx.export(net.eval(), (x,), path, verbose=False, **options)
    net.train(training)
    return path


@pytest.mark.parametrize("exporter", daily("as usual", of=EXPORTERS))
def test_an_export_of_a_model_is_judged_by_the_model(net, x, exporter, tmp_path):
    path = exported(net, x, str(tmp_path / "a.onnx"), **EXPORTERS[exporter])
    report = assert_same(net, renamed(path, str(tmp_path / "b.onnx")), example=x)
    own, others = report.runs
    assert [row.backend for row in others.backends] == ["onnxruntime", "onnxruntime-optimised"]
    assert others.specification == "Net"
    for row in others.backends:
        kinds = Counter(layer.kind for layer in row.layers)
        assert kinds["Conv"] >= 2
        assert kinds["BatchNormalization"] == kinds["Softmax"] == 1
        assert sum(kinds[kind] for kind in ("MatMul", "Gemm")) >= 4
        assert sum(kinds.values()) >= 15
    assert own.nodes > 40


def test_another_weight_is_found_in_an_export_and_the_sentence_says_where(net, x, tmp_path):
    path = exported(net, x, str(tmp_path / "a.onnx"), dynamo=False)
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if list(t.dims) == [8, 4, 3, 5])
    array = onnx.numpy_helper.to_array(tensor)[:, :, ::-1, ::-1]
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
    onnx.save(model, path)
    with pytest.raises(AssertionError) as failure:
        assert_same(net, path, example=x)
    told = str(failure.value)
    assert told.startswith("Net: diverged")
    assert "onnxruntime on the random probe" in told
    assert "(Conv) in left (Conv2d) is the first node that differs" in told
    assert "times its bound" in told
    assert "flipped" in told
    assert "torch on" not in told  # which is right


def test_a_model_stays_as_it_was(net, x):
    state = torch.random.get_rng_state()
    net.train()
    net.head.eval()
    try:
        report = prove(net, example=x, probes=["random"], backends=["torch"])
    finally:
        assert net.training
        assert not net.head.training
        net.eval()
    assert report.verdict == "certified"
    assert torch.equal(state, torch.random.get_rng_state())


class Scaled(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.line, self.scale = nn.Linear(5, 3), nn.Parameter(torch.tensor(scale))

    def forward(self, x):
        return self.line(x) * self.scale


@pytest.mark.slow
def test_a_weight_that_is_one_number_gets_no_axis_and_is_moved(capfd):
    report = prove(Scaled(1.5), Scaled(2.5), example=torch.randn(2, 5), weights="first", backends=["torch"])
    assert report.verdict == "certified", str(report)
    assert capfd.readouterr().err == ""


def test_what_has_no_counterpart_is_another_graph(net, x, tmp_path):
    other = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU())
    path = exported(other, x, str(tmp_path / "other.onnx"), dynamo=False)
    with pytest.raises(TriptychError, match=r"other\.onnx has no counterpart of .* \(Conv, weights 8×3×3×3\)"):
        prove(net, path, example=x)
    smaller = exported(net, x[:, :, :7], str(tmp_path / "smaller.onnx"), dynamo=False)
    with pytest.raises(TriptychError, match=r"takes .* of shape 2×3×7×11, not 2×3×9×11"):
        prove(net, smaller, example=x)
    with pytest.raises(TriptychError, match="list is no model"):
        prove([], example=x)
    with pytest.raises(TriptychError, match="the example holds float64, expected float32"):
        prove(net, example=x.double())


TEST = """
import torch
from torch import nn

def test_same(assert_same):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3), nn.GELU())
    assert_same(model, example=torch.randn(2, 5), backends=["torch"], probes=["random"])

def test_other(assert_same, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3), nn.GELU())
    x = torch.randn(2, 5)
    torch.onnx.export(model, (x,), tmp_path / "m.onnx", dynamo=True, verbose=False)
    model[1].approximate = "tanh"
    assert_same(model, tmp_path / "m.onnx", example=x, probes=["random"])
"""


def test_the_fixture(tmp_path, capsys):
    """In this process, whose workers are copied."""
    (tmp_path / "test_mine.py").write_text(TEST)
    others = ("triptych", "cacheprovider", "faulthandler", "xdist", "hypothesispytest")
    plugins = ["-p", "common.prove.pytest_plugin", *(word for name in others for word in ("-p", f"no:{name}"))]
    pytest.main(["-q", "-c", "/dev/null", "--rootdir", str(tmp_path), *plugins, str(tmp_path)])
    out = capsys.readouterr().out
    assert "1 failed, 1 passed" in out
    assert "AssertionError: Sequential: diverged" in out
    assert "(Gelu)" in out
    assert "the GELU is taken exact, not approximated" in out
    assert "api.py" not in out  # the failure is shown in the test's own line
