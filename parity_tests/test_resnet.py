"""ResNet against figures and implementations that come from outside this code."""

import numpy as np
import pytest
from conftest import load_implementation
from reference_graphs import assert_same_graph, our_graph, reference_graph

from common import get_spec, list_architectures
from common.operations import ReLU

TABLE_1 = {  # the paper's: each stage's output size, filters and blocks; FLOPs are multiply-adds
    "resnet18": ((64, 128, 256, 512), (2, 2, 2, 2), 1.8e9),
    "resnet34": ((64, 128, 256, 512), (3, 4, 6, 3), 3.6e9),
    "resnet50": ((256, 512, 1024, 2048), (3, 4, 6, 3), 3.8e9),
    "resnet101": ((256, 512, 1024, 2048), (3, 4, 23, 3), 7.6e9),
    "resnet152": ((256, 512, 1024, 2048), (3, 8, 36, 3), 11.3e9),
}


@pytest.mark.parametrize("name", list_architectures("resnet*"))
def test_stages_are_those_of_table_1(name):
    filters, blocks, multiply_adds = TABLE_1[name.split("_")[0]]
    spec = get_spec(name)
    assert spec.shapes["conv1"] == (64, 112, 112)
    assert spec.shapes["pool1"] == (64, 56, 56)
    for stage, (channels, count, size) in enumerate(zip(filters, blocks, (56, 28, 14, 7), strict=True), start=2):
        assert f"conv{stage}_block{count + 1}/add" not in spec.shapes
        for number in range(1, count + 1):
            assert spec.shapes[f"conv{stage}_block{number}/add"] == (channels, size, size)
    # The paper rounds down; v1.5 does more in the 3×3 convolutions of three blocks.
    assert spec.multiply_adds == pytest.approx(multiply_adds, rel=0.09 if name.endswith("v1_5") else 0.02)


def test_torchvisions_figures():
    """GFLOPS of torchvision's documentation: 1.81, 3.66, 4.09, 7.80, 11.51, its bottlenecks being v1.5."""
    names = ["resnet18", "resnet34", "resnet50_v1_5", "resnet101_v1_5", "resnet152_v1_5"]
    assert [round(get_spec(name).multiply_adds / 1e9, 2) for name in names] == [1.81, 3.66, 4.09, 7.80, 11.51]


def test_v1_and_v1_5_take_the_same_weights():
    for name in list_architectures("resnet*_v1_5"):
        assert get_spec(name).parameter_shapes == get_spec(name.removesuffix("_v1_5")).parameter_shapes


def test_the_tutorials_additions():
    """ReLU on both sides of every addition; after it in basic blocks only."""
    for name in list_architectures("resnet*_tutorial"):
        operations = {layer.name: layer.operation for layer in get_spec(name).layers}
        additions = [layer for layer in get_spec(name).layers if layer.name.endswith("/add")]
        for layer in additions:
            assert isinstance(operations[layer.inputs[0]], ReLU)
        assert ("conv2_block1/relu" in operations) == (name in ("resnet18_tutorial", "resnet34_tutorial"))
        assert isinstance(operations["conv3_block1/shortcut_relu"], ReLU)


def test_the_graph_is_the_reference_in_the_onnx_package(tmp_path):
    """`light_resnet50`, trained with Caffe2, is v1.5: it strides in the 3×3. Node for node, up to this list.

    - The reference adds with Sum, ours with Add.
    - It averages 7×7 with an AveragePool, which on a map of 7×7 is a GlobalAveragePool.
    - It flattens with a Reshape, ours with a Flatten; it ends in a Softmax, which ours leaves out.
    - Its eps is 1.0000001e-5, one unit in the last place more than the float32 nearest to 1e-5.
    """
    reference = reference_graph("light_resnet50")
    torch_impl = load_implementation("torch_impl")
    torch_impl.export_onnx(torch_impl.build("resnet50_v1_5"), tmp_path / "v1_5.onnx")
    assert_same_graph(our_graph(tmp_path / "v1_5.onnx"), reference)
    torch_impl.export_onnx(torch_impl.build("resnet50"), tmp_path / "v1.onnx")
    with pytest.raises(
        AssertionError, match=r"^conv\d_block1/conv2 is .*'strides': \[1, 1\].* is .*'strides': \[2, 2\]"
    ):
        assert_same_graph(our_graph(tmp_path / "v1.onnx"), reference)


def test_same_padding_in_torch_is_tensorflows():
    """On maps of even and odd height and width."""
    torch_impl = load_implementation("torch_impl")
    import tensorflow as tf
    import torch

    from common.layouts import conv_to_hwio, to_channels_first, to_channels_last
    from torch_impl.layers import SameConv2d, SameMaxPool2d

    assert torch_impl
    generator = np.random.default_rng(0)
    conv, pool = SameConv2d(3, 4, kernel_size=3, stride=2, bias=False), SameMaxPool2d(kernel_size=3, stride=2)
    weight = generator.integers(-3, 4, conv.weight.shape).astype(np.float32)
    conv.weight.data = torch.from_numpy(weight)
    for height, width in ((6, 9), (7, 8), (1, 2)):
        image = generator.integers(-9, 0, (2, 3, height, width)).astype(np.float32)
        last = to_channels_last(image)
        convolved = tf.nn.conv2d(last, conv_to_hwio(weight), strides=2, padding="SAME").numpy()
        pooled = tf.nn.max_pool2d(last, 3, strides=2, padding="SAME").numpy()
        with torch.no_grad():
            assert (conv(torch.from_numpy(image)).numpy() == to_channels_first(convolved)).all()
            assert (pool(torch.from_numpy(image)).numpy() == to_channels_first(pooled)).all()
