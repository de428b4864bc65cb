"""Kernel paths: which a CPU can take, how one knows that a switch took effect, and what counts for nothing."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from common import TriptychError, get_spec
from common.explorer.results import views
from common.parity import environment, evidence, paths
from common.parity.backends import BACKENDS, Hardware, on_every_path, process_environment, select
from common.parity.journal import Journal
from common.parity.outcome import as_json
from common.parity.paths import PATHS, THREADS, KernelPath, with_variables
from common.parity.processes import Workers
from common.parity.results import Plan
from common.parity.runner import run_parity
from parity_tests.commands import run_here

SMALLEST = {
    "lenet_caffe": None,
    "alexnet_mnist": None,
    "vgg16_gap": (32, 32),
    "googlenet_bn": (32, 32),
    "resnet18": (32, 32),
    "densenet121": (32, 32),
}
"""Of each family what is computed soonest, and the size of image to run it on."""

FULL_SIZE = {
    "vgg11": "tf1",
    "googlenet_tutorial": "keras-tensorflow",
    "resnet18": "keras-tensorflow",
    "densenet121": "tf1",
}
"""On the images of the papers, each in one of the two: small images are run in both."""


def families():
    """Network, size and backend. Every day the smallest of each family in TensorFlow 1."""
    for name, size in SMALLEST.items():
        for backend in ("tf1", "keras-tensorflow"):
            marks = [] if backend == "tf1" else pytest.mark.slow
            yield pytest.param(name, size, backend, id=f"{name}-{backend}", marks=marks)
    for name, backend in FULL_SIZE.items():
        yield pytest.param(name, None, backend, id=f"{name} whole-{backend}", marks=pytest.mark.slow)


ZEN3 = "flags\t\t: fpu sse sse2 ssse3 fma cx16 sse4_1 sse4_2 avx f16c avx2 sha_ni"
CASCADE_LAKE = f"{ZEN3} avx512f avx512dq avx512cd avx512bw avx512vl avx512_vnni"
GRAVITON = "Features\t: fp asimd evtstrm aes sve"


@pytest.fixture
def cpu(monkeypatch, tmp_path):
    """Make this process take the CPU for another one, by the line that Linux has of it."""

    def become(line):
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\n")
        monkeypatch.setattr(environment, "_CPUINFO", tmp_path / "cpuinfo")
        monkeypatch.setattr(environment.sys, "platform", "linux")
        environment.instruction_sets.cache_clear()

    yield become
    environment.instruction_sets.cache_clear()


def lacking():
    return {path.name for path in PATHS if path.lacking}


def test_a_cpu_can_take_the_paths_that_its_instructions_allow(cpu):
    cpu(CASCADE_LAKE)
    assert lacking() == set()
    cpu(ZEN3)
    assert lacking() == {path.name for path in PATHS if "512" in path.name}
    cpu(GRAVITON)
    assert lacking() == {path.name for path in PATHS if path.needs}
    cpu("model name: something")
    assert lacking() == {path.name for path in PATHS if path.needs}
    assert {path.lacking for path in PATHS if path.name == "isa=avx2"} == {
        "whether this CPU has AVX2 cannot be told here"
    }


@pytest.mark.parametrize(
    ("line", "variable", "words"),
    [
        (ZEN3, None, "off: the CPU has neither AVX-512 VNNI nor what came after it"),
        (ZEN3 + " avx_vnni", None, "on: the CPU has AVX VNNI"),
        (CASCADE_LAKE, None, "on: the CPU has AVX-512 VNNI"),
        (CASCADE_LAKE, "0", "off: TF_ENABLE_ONEDNN_OPTS is 0"),
        (CASCADE_LAKE, "no", "on: the CPU has AVX-512 VNNI"),  # which TensorFlow does not understand
        (ZEN3, "True", "on: TF_ENABLE_ONEDNN_OPTS is True"),
        (GRAVITON, None, "unknown: it depends on the CPU, which the system does not describe well enough"),
    ],
)
def test_whether_tensorflow_uses_onednn(cpu, monkeypatch, line, variable, words):
    cpu(line)
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if variable is not None:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", variable)
    assert environment.onednn_in_tensorflow() == words


ONEDNN = """\
onednn_verbose,v1,info,oneDNN v3.12.0 (commit 80afa71049cd69a3df32adcccb623b12cd7baa22)
onednn_verbose,v1,info,cpu,runtime:OpenMP,nthr:2
onednn_verbose,v1,info,cpu,isa:Intel AVX-512 with Intel DL Boost
onednn_verbose,v1,primitive,info,template:operation,engine,primitive,implementation,prop_kind,exec_time
onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:f32::blocked:abcd::f0 dst:f32,,,32x16x3x3,11.564
onednn_verbose,v1,primitive,exec,cpu,convolution,jit:avx512_core,forward_training,src:f32:a:blocked,,,mb2,0.3
onednn_verbose,v1,primitive,exec,cpu,convolution,brg_conv_fwd:avx512_core,forward_training,src:f32,,,mb2,0.3
onednn_verbose,v1,primitive,exec,cpu,gemm_api,,undef,src_f32::blocked:ab:f0 wei_f32,,,336x32:32x32,37.4241
""".splitlines()

OLDER = """\
onednn_verbose,info,oneDNN v2.7.3 (commit N/A)
onednn_verbose,info,cpu,isa:Intel AVX2
onednn_verbose,exec,cpu,convolution,jit:avx2,forward_training,src_f32::blocked:acdb:f0,,,mb2,0.3
""".splitlines()

MKL = [
    "MKL_VERBOSE oneMKL 2024.0 Update 2 Product build 20240605 for Intel(R) 64 architecture Intel(R) Advanced Vector "
    "Extensions 512 (Intel(R) AVX-512) with support of Intel(R) Deep Learning Boost (Intel(R) DL Boost), Lnx 2.30GHz",
    "MKL_VERBOSE SGEMM(T,N,333,2,777,0x7ffc8d710ee0,0x7f88e062d040,777) 24.00ms CNR:OFF Dyn:1 FastMM:1 TID:0  NThr:2",
]


def test_onednn_and_mkl_are_understood():
    words = "3.12.0 AVX-512: convolution brg_conv_fwd:avx512_core jit:avx512_core; gemm"
    assert evidence.onednn(ONEDNN, ONEDNN) == {"oneDNN": words}
    assert evidence.onednn(OLDER, OLDER) == {"oneDNN": "2.7.3 AVX2: convolution jit:avx2"}
    assert evidence.mkl(MKL, MKL) == {"MKL": "2024.0 Update 2 AVX-512: SGEMM"}


def test_a_library_that_ran_nothing_is_no_evidence():
    assert evidence.onednn(ONEDNN, ONEDNN[:5]) == {}  # reordering alone is no kernel that computes
    assert evidence.onednn(ONEDNN, []) == evidence.mkl(MKL, []) == evidence.onednn([], []) == {}


def test_which_library_it_is_is_said_in_an_earlier_run(monkeypatch, tmp_path):
    monkeypatch.setenv(evidence.FOLDER, str(tmp_path))
    (tmp_path / "printed").write_text("\n".join(ONEDNN) + "\n")
    witness = evidence.Witness()
    witness.begin()
    assert witness.tell() == {}
    with (tmp_path / "printed").open("a") as file:
        file.write(f"{ONEDNN[5]}\nPyTorch prints something\n")
    assert witness.tell() == {"oneDNN": "3.12.0 AVX-512: convolution jit:avx512_core"}


def test_what_xla_compiled_is_known_by_its_machine_code(monkeypatch, tmp_path):
    monkeypatch.delenv(evidence.FOLDER, raising=False)
    assert evidence.compiled_by_xla() == {}
    monkeypatch.setenv(evidence.FOLDER, str(tmp_path))
    assert evidence.compiled_by_xla() == {}  # before there is a folder
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled" / "module_0000.conv.obj-file.o").write_bytes(b"one")
    (tmp_path / "compiled" / "module_0000.conv.before_optimizations.txt").write_text("text")
    first = evidence.compiled_by_xla()
    assert first.keys() == {"XLA"}
    assert evidence.compiled_by_xla("_canary") == {}
    (tmp_path / "compiled" / "module_0001.jit__canary.o").write_bytes(b"two")
    assert evidence.compiled_by_xla() != first
    assert evidence.compiled_by_xla("_canary") not in ({}, first, evidence.compiled_by_xla())


def test_variables_win_over_the_users_and_flags_are_added(monkeypatch):
    before = {"A": "1", "XLA_FLAGS": "--one", "TF_XLA_FLAGS": ""}
    more = {"A": "2", "XLA_FLAGS": "--two", "TF_XLA_FLAGS": "--three"}
    assert with_variables(before, more) == {"A": "2", "XLA_FLAGS": "--one --two", "TF_XLA_FLAGS": "--three"}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    (one,) = [each for each in on_every_path(select(["torch"]), "cpu") if each.path_name == "threads=1"]
    assert {process_environment(one, Hardware(threads=2))[name] for name in THREADS} == {"1"}
    assert process_environment(BACKENDS["torch"], Hardware(threads=2))["OMP_NUM_THREADS"] == "3"


def test_every_backend_has_paths_each_of_its_own_name():
    for name in BACKENDS:
        names = [path.name for path in paths.paths_of(name)]
        assert names[0] == paths.DEFAULT
        assert len(names) == len(set(names)) > 2
    assert {name for path in PATHS for name in path.backends} == set(BACKENDS)


@pytest.mark.parametrize("device", ["cuda", "webgpu"])
def test_paths_of_a_device_without_any_are_refused(device):
    with pytest.raises(TriptychError, match=f"has none for {device}"):
        on_every_path(select(None), device)


def held_to(backend, *names):
    """A backend on some of its paths."""
    return [each for each in on_every_path(select([backend]), "cpu") if each.path_name in names]


def test_a_switch_that_changes_nothing_and_one_that_the_cpu_lacks_are_not_counted(cpu, tmp_path):
    pytest.importorskip("torch")
    cpu(ZEN3)
    default, lacks = held_to("torch", "default", "isa=avx512")
    nothing = replace(default, path=KernelPath("nothing=1", ("torch",), {"TRIPTYCH_NOTHING": "1"}))
    scalar = held_to("torch", "aten=default")[0]
    plan = Plan([default, nothing, lacks, scalar], ("exact", "random"), required=True, jobs=1)
    journal = Journal(tmp_path, plan, resume=False)
    runs = run_parity(get_spec("lenet_caffe"), plan, journal=journal)
    told = as_json(runs)
    assert told["verdict"] == "certified"
    for run, verdict in zip(told["runs"], ("identical", "certified"), strict=True):
        rows = {row["path"]: row for row in run["backends"]}
        assert {name: (row["status"], row["verdict"]) for name, row in rows.items()} == {
            "default": ("ok", verdict),
            "nothing=1": ("skipped", "skipped"),
            "isa=avx512": ("skipped", "skipped"),
            "aten=default": ("ok", verdict),
        }
        assert rows["isa=avx512"]["reason"] == "this CPU has no AVX-512"
        assert rows["nothing=1"]["reason"] == f"the same as default: {rows['default']['evidence']}"
        assert "ATen DEFAULT" in rows["aten=default"]["evidence"]
        assert "ATen DEFAULT" not in rows["default"]["evidence"]
        assert {c[side] for c in run["comparisons"] for side in ("left", "right")} == {
            "torch default",
            "torch aten=default",
        }
    assert told["environment"]["kernels"] == {"torch": told["runs"][0]["backends"][0]["evidence"]}
    assert [view.backend for view in views(told, "lenet_caffe")] == [each.label for each in plan.backends]

    again = Journal(tmp_path, plan, resume=True)  # what was the same is known, and not run again
    ran = []
    resumed = run_parity(get_spec("lenet_caffe"), plan, lambda *what: ran.append(what), _NoWorkers(), again)
    assert len(ran) == 6
    assert [run["backends"] for run in as_json(resumed)["runs"]] == [run["backends"] for run in told["runs"]]


class _NoWorkers:
    """Processes that must not be taken."""


@pytest.mark.slow
def test_the_command_tells_of_paths_in_every_form(tmp_path):
    pytest.importorskip("onnxruntime")
    options = ("--backend=onnx-torch", "--probe=exact", "--every-path", "--report", tmp_path)
    code, out, err = run_here("parity", "lenet_caffe", *options)
    assert code == 0, err
    (run,) = json.loads((tmp_path / "report.json").read_text())["runs"]
    rows = {row["path"]: row for row in run["backends"]}
    several = f"threads={max(2, os.cpu_count())}"
    assert list(rows) == ["default", "threads=1", several]
    assert {row["backend"] for row in rows.values()} == {"onnx-torch"}
    assert rows["default"]["status"] == rows[several]["status"] == "ok" or rows["threads=1"]["status"] == "ok"
    page, cases = (tmp_path / "index.html").read_text(), (tmp_path / "junit.xml").read_text()
    for name, row in rows.items():
        assert f"onnx-torch {name}" in page
        assert f'name="onnx-torch {name}"' in cases
        assert f"onnx-torch {name}: {row['reason'] or row['evidence']}" in out


@pytest.mark.slow
def test_the_backward_pass_has_paths_too():
    pytest.importorskip("torch")
    plan = Plan(held_to("torch", "default", "isa=sse4.1"), ("exact",), gradients=True, batch=1)
    (run,) = run_parity(get_spec("lenet_caffe"), plan)
    assert [(row.path, row.status, row.verdict) for row in run.backends] == [
        ("default", "ok", "identical"),
        ("isa=sse4.1", "ok", "identical") if has("sse4.1") else ("isa=sse4.1", "skipped", "skipped"),
    ]


def has(instructions):
    return instructions in (environment.instruction_sets() or ())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--every-path", "--device", "cuda"], "switches kernels of the CPU and has none for cuda"),
        (["--every-path", "--device", "webgpu"], "switches kernels of the CPU and has none for webgpu"),
        (["--every-path", "--steps", "3"], "--steps cannot be combined with --gradients, --probe"),
    ],
)
def test_paths_that_cannot_be_are_refused_in_a_sentence(arguments, words):
    code, out, err = run_here("parity", "lenet5", *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert words in err


@pytest.fixture(scope="module")
def workers():
    """TensorFlow is imported four times for all the networks: in two backends, with oneDNN and without."""
    with Workers(Hardware.shared(2)) as processes:
        yield processes


@pytest.mark.parametrize(("architecture", "size", "backend"), list(families()))
def test_the_families_run_with_onednn_and_without_wherever_they_are_run(architecture, size, backend, workers):
    pytest.importorskip("tensorflow")
    pytest.importorskip("keras")
    plan = Plan(held_to(backend, "onednn=1", "onednn=0"), ("exact", "random"), batch=1)
    exact, random = run_parity(get_spec(architecture, image_size=size), plan, workers=workers)
    for run in (exact, random):
        assert [(row.label, row.status, row.reason) for row in run.backends] == [
            (f"{backend} {path}", "ok", None) for path in ("onednn=1", "onednn=0")
        ]
        for row in run.backends:
            assert f"TensorFlow's oneDNN {'on' if row.path == 'onednn=1' else 'off'}" in row.evidence
    assert (exact.verdict, random.verdict) == ("identical", "certified")


def test_tensorflow_says_of_this_cpu_what_the_report_says():
    pytest.importorskip("tensorflow")
    (run,) = run_parity(get_spec("lenet_caffe"), Plan([BACKENDS["tf1"]], ("exact",)))
    told = as_json([run])["environment"]
    assert told["kernels"]["tf1"].startswith("TensorFlow's oneDNN ")
    ours = told["oneDNN in TensorFlow"].partition(":")[0]
    assert ours in (told["kernels"]["tf1"].split(";")[0].rpartition(" ")[2], "unknown")
