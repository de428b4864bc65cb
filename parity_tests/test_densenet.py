"""DenseNet against figures and implementations that come from outside this code."""

import pytest
from conftest import load_implementation
from reference_graphs import assert_same_graph, our_graph, reference_graph

from common import get_spec

TABLE_1 = {  # the paper's: dense blocks in each stage; torchvision's GFLOPS
    "densenet121": ((6, 12, 24, 16), 32, 2.83),
    "densenet161": ((6, 12, 36, 24), 48, 7.73),
    "densenet169": ((6, 12, 32, 32), 32, 3.36),
    "densenet201": ((6, 12, 48, 32), 32, 4.29),
}


@pytest.mark.parametrize("name", TABLE_1)
def test_stages_are_those_of_table_1(name):
    blocks, growth, multiply_adds = TABLE_1[name]
    spec, channels = get_spec(name), 2 * growth
    assert spec.shapes["conv1"] == (channels, 112, 112)
    assert spec.shapes["pool1"] == (channels, 56, 56)
    for stage, (count, size) in enumerate(zip(blocks, (56, 28, 14, 7), strict=True), start=2):
        for number in range(1, count + 1):
            channels += growth
            assert spec.shapes[f"conv{stage}_block{number}/conv1"] == (4 * growth, size, size)
            assert spec.shapes[f"conv{stage}_block{number}/concat"] == (channels, size, size)
        assert f"conv{stage}_block{count + 1}/concat" not in spec.shapes
        if stage < 5:
            channels //= 2
            assert spec.shapes[f"transition{stage}/pool"] == (channels, size // 2, size // 2)
    assert spec.shapes["relu"] == (channels, 7, 7)
    assert round(spec.multiply_adds / 1e9, 2) == multiply_adds


def test_the_graph_is_the_reference_in_the_onnx_package(tmp_path):
    """`light_densenet121`, a Caffe model. Node for node, up to this list.

    - Caffe's batch normalisation has no gamma and beta; a Scale after it has. In the reference that is a
      BatchNormalization, a Mul and an Add, the latter two with an Unsqueeze for their operand.
    - The reference classifies with a 1×1 convolution on the 1×1 map, ours flattens and has a Gemm.
    """
    torch_impl = load_implementation("torch_impl")
    torch_impl.export_onnx(torch_impl.build("densenet121"), tmp_path / "ours.onnx")
    assert_same_graph(our_graph(tmp_path / "ours.onnx"), reference_graph("light_densenet121"))
