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

from common.onnx.adapters import find_adapters

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + sorted((ROOT / "docs").glob("*.md"))

TRAIN = "triptych train lenet_caffe --framework"
TORCHRUN = "torchrun --standalone --nproc-per-node 2 -m common.cli train lenet_caffe --framework torch"

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
        "triptych parity lenet5 --steps 2 --plot divergence --backend torch"
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
    # test_prove_inputs.py proves such models
    "triptych prove two.onnx --input-shape tokens=2x7x16 --input-shape image=2x3x32x32",
    "triptych prove mine.py:build --input input_ids=ids.npy --input attention_mask=mask.npy",
    # test_prove_pairs.py proves these two, in its slow tests
    "triptych prove timm:legacy_xception keras.applications:Xception --input-shape 1x3x75x75",
    # test_port_into.py ports between such models
    "triptych port mine.py:build --into keras_mine.py:build --out mine.weights.h5 --input-shape 1x3x224x224",
    "triptych prove mine.py:build model.onnx --input-shape 1x3x224x224",  # test_prove_api.py, and its export
    # test_cluster.py, on clusters of its own
    "triptych parity lenet5 --backend torch --backend keras-tensorflow --backend tf1 --dask 10.0.0.1:8786",
    "triptych parity '*' --dask 10.0.0.1:8786",
    "triptych prove 'timm:resnet*' 'torchvision:*' --input-shape 1x3x224x224 --dask 10.0.0.1:8786 --report proofs",
    "triptych prove 'timm:resnet*' --input-shape 1x3x224x224",  # test_prove_many.py, with smaller ones
    "triptych explore --serve",  # ends when it is told to: test_live.py, test_live_in_browser.py
    "triptych explore --serve --port 8080 --weights lenet5.keras",  # and this
    ".venv/bin/pre-commit install",  # would change the user's own checkout
    "python -m common.explorer.traps",  # test_explorer.py, in its slow tests
    "python -m benchmarks.gallery",  # takes three quarters of an hour
    "python -m benchmarks",  # takes half of one
    "make mutants",  # test_mutants.py
    "make no-false-alarms",  # test_no_false_alarms.py runs some, the others take minutes
)
"""What is not run here, and where it is."""

SHOWN_BY = {
    "triptych parity alexnet_bvlc --backend torch --backend tf1": (
        "test_mutants.py::test_the_mistake_is_caught_where_it_was_made"
    ),
    "sed -i 0,/alpha=2e-5/s//alpha=1e-4/ tf1_style_impl/alexnet.py": (
        "test_mutants.py::test_the_mistake_is_caught_where_it_was_made"
    ),
    "triptych show lenet5 --framework keras": "test_explorer.py::test_show_prints_the_frameworks_own_summary",
    "triptych explore": "test_explorer.py::test_every_network_has_a_page_below_the_limit",
    "triptych explore --out pages --weights lenet5.keras": (
        "test_inside.py::test_without_a_photograph_filters_and_values_are_shown_and_nan_with_its_place"
    ),
    "triptych explore --out pages --weights lenet5.keras --image cat.jpg": (
        "test_inside.py::test_every_layer_and_the_likeliest_classes_are_there"
    ),
    "triptych explore --out pages": "test_explorer.py::test_every_network_has_a_page_below_the_limit",
    "triptych explore --out pages --report results": "test_explorer.py::test_results_are_shown_beside_their_network",
    "triptych parity lenet5": "test_parity.py::test_six_backends_are_one_function",
    "triptych parity lenet5 --backend torch --probe exact": "test_parity.py::test_six_backends_are_one_function",
    "triptych parity alexnet_bvlc": "test_parity.py::test_six_backends_are_one_function",
    "triptych parity lenet_caffe --backend torch --backend keras-tensorflow --backend tf1": (
        "test_parity.py::test_six_backends_are_one_function"
    ),
    "triptych parity 'lenet*' --backend torch --backend tf1": (
        "test_interrupted.py::test_an_interrupted_run_is_resumed_and_nothing_is_run_twice"
    ),
    "triptych parity lenet5 --report results": "test_explorer.py::test_a_run_leaves_a_page_json_and_junit",
    "triptych parity lenet5 --report results --resume": (
        "test_paths.py::test_a_switch_that_changes_nothing_and_one_that_the_cpu_lacks_are_not_counted"
    ),
    "triptych parity lenet_caffe --every-path": (
        "test_paths.py::test_a_switch_that_changes_nothing_and_one_that_the_cpu_lacks_are_not_counted"
    ),
    "triptych parity lenet5 --every-path": (
        "test_paths.py::test_a_switch_that_changes_nothing_and_one_that_the_cpu_lacks_are_not_counted"
    ),
    "triptych parity lenet_caffe --gradients": "test_gradients.py::test_every_gradient_is_identical_or_certified",
    "triptych parity lenet5 --gradients": "test_gradients.py::test_every_gradient_is_identical_or_certified",
    "triptych parity lenet_caffe --probe deployed": "test_end_to_end.py::test_what_can_be_exact_is_exact_as_deployed",
    "triptych parity lenet_caffe --device webgpu": "test_webgpu.py::test_the_command_says_where_each_layer_ran",
    "pytest parity_tests --device cuda --backend torch --backend onnx-keras -k resnet": (
        "test_backends.py::test_the_command_line_chooses"
    ),
    "make explore": "test_explorer.py::test_every_network_has_a_page_below_the_limit",
    "triptych export lenet5 --framework keras --out lenet5.onnx": (
        "test_parity.py::test_export_writes_what_onnx_runtime_runs"
    ),
    "triptych export lenet5 --framework torch --out lenet5.onnx": "test_terminal.py::test_files",
    "triptych prove lenet5.onnx": "test_prove.py::test_the_command",
    "triptych prove lenet5.onnx --deployed": "test_prove_deployed.py::test_the_command_and_its_report",
    "triptych prove lenet5.onnx --device webgpu": (
        "test_prove_devices.py::test_a_file_is_proved_on_webgpu_and_says_where_each_node_ran"
    ),
    "triptych prove lenet5.onnx --probe cat.jpg": (
        "test_prove_input_files.py::test_what_a_file_holds_is_what_the_model_is_run_on"
    ),
    "triptych show lenet5.onnx": "test_terminal.py::test_files",
    "triptych port lenet5.onnx --to keras --out lenet5.keras": "test_porting.py::test_the_proof",
    "triptych port lenet5.pth --to keras --out lenet5.keras": "test_porting.py::test_the_proof",
    "triptych classify cat.jpg --weights lenet5.keras": "test_porting.py::test_classify",
    "triptych show lenet5.keras --filters": (
        "test_filters.py::test_without_colour_a_filter_is_shaded_and_what_is_nan_is_marked"
    ),
    "triptych classify cat.jpg --weights lenet5.keras --backend onnx-torch": "test_porting.py::test_classify",
    "triptych doctor": "test_terminal.py::test_the_doctor_has_libraries_tell_what_they_run",
    "triptych probe lenet5 --out probe": "test_published.py::test_the_page_of_a_probe_says_how_to_compare",
    "triptych train lenet_caffe --framework tf1": "test_training.py::test_three_idioms_one_trajectory",
    "triptych train lenet_caffe --framework torch": "test_training.py::test_a_resumed_training_is_the_same_to_the_bit",
    TORCHRUN: "test_distributed.py::test_all_processes_end_with_the_same_bits_and_only_the_first_is_told",
    "python -m parity_tests.sensitivity": "test_sensitivity.py::test_the_exact_probe_sees_every_single_number",
}
"""What is run here by `make test-all` alone, and the test that shows it: every day, but for patterns of names and
`torchrun`."""


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
    from common.specs.photographs import photograph
    from common.specs.seeded import random_weights
    from common.weights import write_weights_file

    folder = tmp_path_factory.mktemp("checkout")
    for name in ("triptych", "common", "torch_impl", "keras_impl", "tf1_style_impl", "parity_tests"):
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


def pages():
    """Each with all its commands; the README every day with those that no other test shows."""
    for page, found in ALL.items():
        here = [command for command in found if command not in ELSEWHERE]
        if page == "README.md":
            yield pytest.param([command for command in here if command not in SHOWN_BY], id=page)
        if here:
            yield pytest.param(here, id=f"{page} whole", marks=pytest.mark.slow)


@pytest.mark.parametrize("chosen", list(pages()))
def test_commands_do_what_they_should(chosen, checkout):
    """One after the other, as a reader would. A mutated network is one that diverges."""
    broken = False
    for command in chosen:
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
    assert SMALLER.keys() | SHOWN_BY.keys() <= {command for found in ALL.values() for command in found}


@pytest.mark.parametrize("test", sorted(set(SHOWN_BY.values())))
def test_what_shows_a_command_is_there(test):
    file, _, name = test.partition("::")
    assert f"\ndef {name}(" in (ROOT / "parity_tests" / file).read_text(encoding="utf-8")


def test_the_readmes_python_runs(checkout, monkeypatch):
    """With a small network in place of the large one."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    (code,) = [block for block in blocks if "import" in block]
    monkeypatch.chdir(checkout)
    exec(compile(code.replace("alexnet_bvlc", "lenet5"), "README.md", "exec"), {"__name__": "__main__"})
    assert (checkout / "alexnet.onnx").stat().st_size > 100_000


def test_links_between_documents_lead_somewhere():
    for path in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
