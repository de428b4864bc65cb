"""What the documentation says is executed: examples by doctest, commands in a copy of the project."""

import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.webgpu import find_adapters

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + sorted((ROOT / "docs").glob("*.md"))

TRAIN = "triptych train lenet_caffe --with"
TORCHRUN = "torchrun --standalone --nproc-per-node 2 -m common.cli train lenet_caffe --with torch"

SMALLER = {
    # What other tests run in full, with fewer backends or probes; a shell is told, not detected.
    "triptych parity alexnet_bvlc": "triptych parity alexnet_bvlc --backend torch --probe exact",
    "triptych parity alexnet_bvlc --backend torch --backend tf1": (
        "triptych parity alexnet_bvlc --backend tf1 --probe exact --probe photo"
    ),
    "triptych parity lenet5": "triptych parity lenet5 --backend keras-tensorflow --probe exact",
    "triptych parity lenet5 --report results": "triptych parity lenet5 --backend torch --report results",
    "triptych parity lenet5 --report results --resume": (
        "triptych parity lenet5 --backend torch --report results --resume"
    ),
    "triptych parity lenet_caffe --probe deployed": "triptych parity lenet_caffe --probe deployed --backend tf1",
    "triptych parity 'lenet*' --backend torch --backend tf1": "triptych parity 'lenet_*' --backend tf1 --probe exact",
    "triptych parity lenet5 --probe cat.jpg --weights FILE --json": (
        "triptych parity lenet5 --probe cat.jpg --weights FILE --json --backend torch"
    ),
    "triptych parity lenet_caffe --backend torch --backend keras-tensorflow --backend tf1": (
        "triptych parity lenet_caffe --backend torch --backend tf1 --probe exact"
    ),
    "triptych parity lenet_caffe --device webgpu": (
        "triptych parity lenet_caffe --device webgpu --backend onnx-torch --probe exact"
    ),
    "triptych parity lenet5 --device cuda": "triptych parity lenet5 --device cuda --backend torch --probe exact",
    "triptych parity lenet5 --device cuda --precision tf32": (
        "triptych parity lenet5 --device cuda --precision tf32 --backend torch --probe random"
    ),
    "triptych parity lenet5 --steps 100 --plot divergence": (
        "triptych parity lenet5 --steps 2 --plot divergence --backend torch --backend tf1"
    ),
    "triptych parity lenet5 --every-path": "triptych parity lenet5 --every-path --backend onnx-torch --probe exact",
    "triptych parity lenet_caffe --every-path": (
        "triptych parity lenet_caffe --every-path --backend onnx-torch --probe exact"
    ),
    "triptych parity lenet_caffe --gradients": "triptych parity lenet_caffe --gradients --backend torch",
    "triptych parity lenet5 --gradients": "triptych parity lenet5 --gradients --backend tf1",
    f"{TRAIN} tf1": f"{TRAIN} tf1 --epochs 1",
    f"{TRAIN} torch": f"{TRAIN} torch --epochs 1",
    TORCHRUN: f"{TORCHRUN} --epochs 1 --out runs/two",
    "pytest parity_tests --device cuda --backend torch --backend onnx-keras -k resnet": (
        "pytest parity_tests/test_backends.py --device cuda --backend torch --backend onnx-keras -k lenet_caffe"
    ),
    "triptych --install-completion": "triptych --install-completion bash",
    "python -m common.probes.published": "python -m common.probes.published lenet5",
    "python -m common.probes.published --write": "python -m common.probes.published --write lenet5",
    "python -m parity_tests.sensitivity": "python -m parity_tests.sensitivity lenet5",
}
"""What is run in place of a command."""

HAS_GPU = shutil.which("nvidia-smi") is not None

ELSEWHERE = (
    "make test",  # this is it
    "make test-all",  # and this
    "make times",  # the same once more
    "triptych prove mine.py:build --input-shape 1x3x224x224",  # test_prove.py proves such a model
    ".venv/bin/pre-commit install",  # would change the user's own checkout
    "python -m common.explorer.traps",  # test_explorer.py
    "make mutants",  # test_mutants.py
    "make no-false-alarms",  # test_no_false_alarms.py runs some, the others take minutes
)
"""What is not run here, and where it is."""


@pytest.mark.parametrize("path", [path for path in PAGES if "\n>>> " in path.read_text()], ids=lambda path: path.name)
def test_examples_give_what_they_say(path):
    results = doctest.testfile(str(path), module_relative=False, encoding="utf-8")
    assert results.attempted > 0
    assert results.failed == 0


def commands(text):
    """The command lines of fenced blocks, without their comments, and those of inline code that say what to run on."""
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for language, block in fence.findall(text):
        for line in block.splitlines() if language in ("", "sh", "bash") else ():
            if match := re.match(r"(?:\$ )?((?:triptych|make|sed|pytest|torchrun|python -m|\.venv/bin/\S+) .*)", line):
                yield shlex.join(shlex.split(match[1], comments=True))
    for line in re.findall(r"`((?:triptych|make|python -m) [^`]+)`", fence.sub("", text)):
        words = shlex.split(line)
        if words[0] != "triptych" or len(words) > 2 or words[1].startswith("-"):
            yield shlex.join(words)


ALL = {path.name: list(dict.fromkeys(commands(path.read_text()))) for path in PAGES}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the project to run commands in, with the files that they mention, and `triptych` on the path."""
    from common.images import photograph
    from common.weights import random_weights, write_weights_file

    folder = tmp_path_factory.mktemp("checkout")
    for name in ("common", "torch_impl", "keras_impl", "tf1_style_impl", "parity_tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    binaries = folder / "bin"
    binaries.mkdir()
    modules = {"triptych": "common.cli", "ruff": "ruff", "pytest": "pytest", "torchrun": "torch.distributed.run"}
    for name, command in {"python": "", **{name: f"-m {module}" for name, module in modules.items()}}.items():
        (binaries / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {command} "$@"\n')
        (binaries / name).chmod(0o755)
    photograph(0).save(folder / "cat.jpg")
    write_weights_file(folder / "FILE", random_weights("lenet5"))
    return folder


def run(command, folder):
    """Run a command as written, but for `make`, whose virtual environment is the one that runs this."""
    small = "NETWORKS='lenet_caffe --probe exact' BACKENDS=torch"
    command = command.replace("make ", f"make -o .venv/.ready BIN={folder / 'bin'} {small} ", 1)
    environment = os.environ | {
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "HOME": str(folder),
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    return subprocess.run(
        command, shell=True, cwd=folder, env=environment, text=True, capture_output=True, check=False, timeout=500
    )


@pytest.mark.parametrize("page", [name for name, found in ALL.items() if found])
def test_commands_do_what_they_should(page, checkout):
    """One after the other, as a reader would. A mutated network is one that diverges."""
    broken = False
    for command in ALL[page]:
        if command in ELSEWHERE:
            continue
        process = run(SMALLER.get(command, command), checkout)
        assert "Traceback" not in process.stderr, process.stderr
        expected = 1 if broken and command.startswith("triptych parity alexnet_bvlc") else 0
        if "parity lenet5 --device cuda" in command and not HAS_GPU:  # refused, in a sentence
            expected = 2
        if "--device webgpu" in command and find_adapters().chosen is None:
            expected = 2
        assert process.returncode == expected, (command, process.stdout, process.stderr)
        if command.startswith("sed -i"):
            broken = True
        elif broken:
            assert "norm1 is the first layer that differs; alpha is not divided by the size" in process.stdout
            shutil.copy(ROOT / "tf1_style_impl" / "alexnet.py", checkout / "tf1_style_impl")
            broken = False


def test_the_pages_have_commands():
    assert len(ALL["README.md"]) > 12
    assert set(SMALLER) <= {command for found in ALL.values() for command in found}


def test_the_readmes_python_runs(checkout):
    """With a small network in place of the large one."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    (code,) = [block for block in blocks if "import" in block]
    script = code.replace("alexnet_bvlc", "lenet5")
    process = subprocess.run([sys.executable, "-c", script], cwd=checkout, text=True, capture_output=True, check=False)
    assert process.returncode == 0, process.stderr
    assert (checkout / "alexnet.onnx").stat().st_size > 100_000


def test_links_between_documents_lead_somewhere():
    for path in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
