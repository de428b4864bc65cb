"""`triptych prove` of all models of a library whose names match, each by itself."""

from importlib.util import find_spec

import pytest

from common import TriptychError, list_architectures
from common.cli.app import progress
from common.cli.proofs import prove_command
from common.cli.terminal import standard_error
from common.prove.listing import expanded, is_pattern
from common.prove.proof import Request


def told(*texts):
    return [name.text for name in expanded(texts)]


def test_only_names_of_a_library_are_patterns():
    patterns = ["timm:*", "torchvision:resnet?", "keras.applications:[XM]*", "torch_impl:lenet*"]
    names = ["timm:resnet18", "file[1].onnx", "mine*.py:build", "package.module:*", "*"]
    assert [text for text in (*patterns, *names) if is_pattern(text)] == patterns


def test_a_pattern_stands_for_what_the_library_lists_once():
    of_family = [name for name in list_architectures() if name.startswith("lenet")]
    assert told("torch_impl:lenet*") == [f"torch_impl:{name}" for name in of_family]
    assert told("torch_impl:lenet5", "torch_impl:lenet5*") == ["torch_impl:lenet5", "torch_impl:lenet5_sparse"]
    found = told("keras.applications:MobileNet*", "keras.applications:X*")
    assert found[0] == "keras.applications:MobileNet"
    assert found[-1] == "keras.applications:Xception"
    assert all(name.rpartition(":")[2].isidentifier() for name in found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("torch_impl:lenet6*", r"^no model of torch_impl matches 'lenet6\*'; did you mean lenet"),
        ("nothing", "'nothing' names no model"),
    ],
)
def test_a_pattern_that_matches_nothing(text, words):
    with pytest.raises(TriptychError, match=words):
        expanded([text])


@pytest.mark.skipif(find_spec("timm") is not None, reason="timm is installed")
def test_a_library_that_is_not_installed():
    with pytest.raises(
        TriptychError, match=r"^the models of timm cannot be listed: there is no module \w+; install it"
    ):
        expanded(["timm:*"])


def prove(console, *texts, **options):
    request = Request(probes=("random",), backends=("torch",), **options)
    return prove_command(console, texts, request, progress=progress)


@pytest.mark.slow
def test_each_is_proved_by_itself_and_what_cannot_be_is_a_row(capsys):
    """LeNet as Caffe has it takes 28 × 28, as the tutorials have it 32 × 32."""
    report = prove(standard_error(), "torch_impl:lenet_*", shape=(1, 1, 28, 28))
    found = [(run["architecture"], run["specification"], run["verdict"]) for run in report["runs"]]
    assert found == [("torch_impl:lenet_caffe", None, "incomplete"), ("torch_impl:lenet_bvlc", None, "certified")]
    assert report["verdict"] == "incomplete"
    assert "machines" not in report
    assert all("machine" not in row for run in report["runs"] for row in run["backends"])
    out = capsys.readouterr().err
    assert "torch_impl:lenet_caffe: incomplete, torch_impl:lenet_caffe cannot be exported: RuntimeError: mat1" in out
    assert "1 incomplete, 1 certified.\nVerdict: incomplete" in out


def test_weights_are_of_two_networks():
    with pytest.raises(TriptychError, match="--weights is about two networks, but a pattern proves each by itself"):
        prove(standard_error(quiet=True), "torch_impl:lenet*", weights="first")
    with pytest.raises(TriptychError, match=r"--jobs is the number of models that each worker proves .*; add --dask"):
        prove_command(standard_error(quiet=True), ["torch_impl:lenet5"], Request(), progress=progress, jobs=2)
