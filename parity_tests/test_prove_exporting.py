"""PyTorch models on which its exporter stumbles: they are proved all the same, and the report says what it cannot."""

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")  # of exporters

from conftest import daily  # noqa: E402
from torch import nn  # noqa: E402

from common.errors import TriptychError  # noqa: E402
from common.prove.api import assert_same, prove  # noqa: E402

attention = nn.functional.scaled_dot_product_attention


class Attention(nn.Module):
    def __init__(self, axes):
        super().__init__()
        self.axes = axes
        self.rows, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.bias = nn.Parameter(torch.randn(36, 2))

    def forward(self, x):
        rows = self.rows(x)
        if self.axes == 3:
            return self.out(attention(*rows.chunk(3, -1)))
        if self.axes == 5:  # windows, as in Hiera
            q, k, v = rows.reshape(-1, 2, 3, 3, 2, 4).permute(3, 0, 4, 1, 2, 5).unbind(0)
            return self.out(attention(q, k, v).permute(0, 2, 3, 1, 4).reshape(x.shape))
        q, k, v = rows.reshape(-1, 6, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.bias[torch.arange(36)].view(6, 6, -1).permute(2, 0, 1).contiguous()
        mixed = attention(q, k, v, attn_mask=bias[None])  # as in BEiT
        return self.out(mixed.transpose(1, 2).reshape(x.shape))


@pytest.mark.parametrize("axes", daily(of=(3, 4, 5)))
def test_an_attention_that_the_exporter_does_not_know_is_proved(axes):
    torch.manual_seed(0)
    report = prove(Attention(axes), example=torch.randn(1, 6, 8), backends=["torch", "onnxruntime", "export"])
    assert report.verdict == "certified", str(report)
    exact, random = report.runs
    assert exact.missed == []
    rows = {row.backend: row for row in random.backends}
    assert len(rows["torch"].layers) > 5
    assert rows["export"].status == ("ok" if axes == 4 else "skipped")
    if axes != 4:
        assert (
            rows["export"].reason
            == "PyTorch cannot export it: AssertionError: only 4D query, key, and value are supported"
        )


def test_a_convolution_over_three_axes_needs_no_bias():
    """The exporter gives it one of zeros, which is none."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(3, 4, 3, bias=False), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 2, 2))
    report = prove(net, example=torch.randn(1, 3, 4, 8, 7), backends=["torch", "onnxruntime"])
    assert report.verdict == "certified", str(report)
    assert [layer.kind for layer in report.runs[1].backends[0].layers].count("Conv") == 2


class Causal(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = self.rows(x).reshape(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        return x + self.out(attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape))


@pytest.mark.parametrize(
    "axes", [pytest.param(None, marks=pytest.mark.slow), {"x": {0: "images", 1: "tokens"}}], ids=["as they are", "open"]
)
def test_a_mask_that_an_exporter_makes_of_shapes_is_a_constant(tmp_path, axes):
    """TorchScript's takes 1/√d and a causal mask from the shape of the queries, with sizes left open or not."""
    torch.manual_seed(0)
    net, x, file = nn.Sequential(Causal(), Causal()), torch.randn(2, 5, 8), tmp_path / "net.onnx"
    torch.onnx.export(net, (x,), file, dynamo=False, input_names=["x"], dynamic_axes=axes, opset_version=17)
    assert_same(net, file, example=x)
    with torch.no_grad():
        net[1].out.bias[3] += 1e-3
    with pytest.raises(AssertionError, match=r"linear_3 \(Add\) in 1\.out \(Linear\) is the first node that differs"):
        assert_same(net, file, example=x)


@pytest.mark.slow
def test_a_divisor_that_the_exporter_leaves_out_is_in_the_specification():
    """PyTorch is right, and its own export is another network."""

    class Pooled(nn.Module):
        def forward(self, x):
            pooled = nn.functional.avg_pool2d(x, (2, 3), stride=(3, 2), padding=1, divisor_override=5)
            return nn.functional.avg_pool2d(pooled, 2) - 1

    options = {"input_shape": (2, 3, 11, 13), "probes": ["random"], "backends": ["torch", "onnxruntime", "export"]}
    (run,) = prove(Pooled().eval(), **options).runs
    assert [row.verdict for row in run.backends] == ["certified", "certified", "diverged"]
    assert run.backends[2].layers


@pytest.mark.slow
def test_one_number_may_stand_for_both_sides_of_a_window():
    """PyTorch's exporter writes a pool with one axis then, which no runtime takes."""

    class Pooled(nn.Module):
        def __init__(self, **options):
            super().__init__()
            self.options = options

        def forward(self, x):
            return nn.functional.avg_pool2d(x, [2], **self.options)

    options = {"input_shape": (2, 3, 7, 5), "probes": ["random"], "backends": ["torch"]}
    assert prove(Pooled(divisor_override=3), **options).verdict == "certified"
    with pytest.raises(TriptychError, match=r"ONNX Runtime cannot run Pooled: .* strides has incorrect size"):
        prove(Pooled(), **options)


PARTICULAR = """
import torch

class Particular(torch.nn.Module):
    def forward(self, x):
        torch._assert(x.shape[-1] % 8 == 0, "")
        return x + 1
"""


def test_an_assertion_without_words_is_told_with_its_place(tmp_path):
    (tmp_path / "mine.py").write_text(PARTICULAR)
    told = r"AssertionError: torch\._assert\(x\.shape\[-1\] % 8 == 0, \"\"\) \(mine\.py, line 6\)$"
    with pytest.raises(TriptychError, match=told):
        prove(f"{tmp_path}/mine.py:Particular", input_shape=(2, 3, 5))
