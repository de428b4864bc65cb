"""Work on the machines of a Dask cluster: a scheduler and workers in processes of their own, as a shell starts them."""

import json
import re
import signal
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from onnx import TensorProto, helper

from common import TriptychError, random_weights, write_weights_file
from common.cli.app import progress
from common.cli.proofs import prove_command
from common.cli.terminal import standard_error
from common.parity.networks import plan_for, prove_networks
from common.prove.proof import Request
from common.specs.photographs import photograph
from parity_tests.clusters import cluster_of
from parity_tests.commands import finish, run_here, triptych
from parity_tests.work_for_a_cluster import Odd

pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two workers: one whose TensorFlow convolves with Eigen and one with oneDNN, of one and of three threads."""
    paths = ({"TF_ENABLE_ONEDNN_OPTS": "0"}, {"TF_ENABLE_ONEDNN_OPTS": "1", "threads": 3})
    with cluster_of(tmp_path_factory.mktemp("pair"), *paths) as cluster:
        yield cluster


def done(address, *tasks, lacks=(), jobs=1):
    """What comes of some tasks, by name."""
    from common.cluster.client import Cluster
    from common.cluster.work import Task

    with Cluster(address, Odd(lacks), jobs) as cluster:
        return {each.task.name: each for each in cluster.done([Task(name, "this", what) for name, what in tasks])}


def test_tasks_are_done_by_all_one_at_a_time_and_failures_come_back(pair):
    tasks = [(str(number), "sleep 0.5") for number in range(6)]
    found = done(pair.address, *tasks, ("wrong", "fail of itself"), ("dead", "die"))
    assert found["wrong"].failure == "ValueError: of itself"
    assert "raise ValueError(more)" in found["wrong"].traceback
    words = "the process was killed by SIGKILL (out of memory?)"
    assert found["dead"].failure.startswith("the worker died twice (")
    first, second = found["dead"].failure.removeprefix("the worker died twice (").removesuffix(")").split("; ")
    assert first != second  # it was tried elsewhere
    assert first.endswith(words)
    assert second.endswith(words)
    machines = {found[name].machine.name: found[name].machine.environment for name, _ in tasks}
    assert sorted(each["threads"] for each in machines.values()) == ["1", "3"]  # one task has all of a worker's
    for machine, environment in machines.items():
        ran_in = {each.made for each in found.values() if each.machine and each.machine.name == machine}
        assert len(ran_in) <= 2  # a process for all, and one in place of the one that died
        assert not Path(environment["folder"]).exists()
    assert pair.processes() == []


def test_several_at_a_time_share_the_threads(pair):
    found = done(pair.address, *[(str(number), "sleep 1") for number in range(6)], jobs=3)
    ran_in = {each.made: each.machine.name for each in found.values()}
    assert sorted(Counter(ran_in.values()).values()) == [1, 3]  # a worker of one thread does no more than one
    assert {each.machine.environment["threads"] for each in found.values()} == {"1"}


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_by_another_once(tmp_path):
    with cluster_of(tmp_path, {}, {}, {}) as cluster:
        assert done(cluster.address, ("once", f"kill {tmp_path / 'killed'}"))["once"].failure is None
        found = done(cluster.address, ("twice", "kill"))
        assert found["twice"].failure.startswith("the worker died twice (")
        assert found["twice"].failure.count("127.0.0.1") == 2
        assert all(worker.wait(1) == -signal.SIGKILL for worker in cluster.workers)


def test_a_cluster_that_nobody_is_left_in_is_given_up(tmp_path, monkeypatch):
    from common.cluster import ClusterLost, client

    monkeypatch.setattr(client, "PATIENCE", 1.0)
    monkeypatch.setattr(client, "LOOKING", 0.2)
    with cluster_of(tmp_path, {}) as cluster:
        with pytest.raises(
            ClusterLost, match=r"has no worker left that can do lonely; start some, and the command again$"
        ):
            done(cluster.address, ("lonely", "kill"))
        with pytest.raises(TriptychError, match=r"has no workers; start some: dask worker 127\.0\.0\.1:\d+$"):
            done(cluster.address, ("nobody", ""))
        cluster.add(PATH="", CXX="")
        cluster.wait(1)
        plan = plan_for(["lenet_caffe"], backends=["torch-compile"], probes=["exact"], dask=cluster.address)
        (run,) = prove_networks(["lenet_caffe"], plan)
        (row,) = run.backends
        assert (row.status, row.verdict, row.machine) == ("skipped", "incomplete", None)
        assert row.reason.startswith("a C++ compiler not installed")
        with pytest.raises(
            ClusterLost, match=r"^the connection to the scheduler at 127\.0\.0\.1:\d+ is lost; start it "
        ):
            done_while(cluster.address, cluster.scheduler.kill)


def done_while(address, do):
    """A long task, and something that happens in between."""
    from common.cluster.client import Cluster
    from common.cluster.work import Task

    with Cluster(address, Odd()) as cluster:
        for each in cluster.done([Task("short", "this", ""), Task("long", "this", "sleep 60")]):
            assert each.task.name == "short"
            do()


def test_what_a_worker_cannot_do_goes_to_others_or_nobody(pair, tmp_path, monkeypatch):
    from common.cluster import version
    from common.cluster.client import Cluster

    with Cluster(pair.address, Odd(lacks=("that",))) as cluster:
        assert cluster.obstacles == {"this": None, "that": "not here"}
    with monkeypatch.context() as patch:
        patch.setattr(version, "sources_sha256", lambda: "0123456789abcdef")
        with pytest.raises(
            TriptychError, match=r"has another Triptych, \w{12}, not 0123456789ab as here; install the same"
        ):
            done(pair.address, ("never", ""))
    with monkeypatch.context() as patch:
        patch.setattr("platform.python_version_tuple", lambda: ("2", "7", "18"))
        with pytest.raises(
            TriptychError, match=r"has another Python, 3\.\d+, not 2\.7 as here; install the same there"
        ):
            done(pair.address, ("never", ""))
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").touch()
    (tmp_path / "common" / "cluster.py").write_text("raise ImportError('this is older')")
    other = pair.add(PYTHONPATH=str(tmp_path))
    pair.wait(3)
    try:
        with pytest.raises(TriptychError, match=r"cannot load this version of Triptych: .*this is older"):
            done(pair.address, ("never", ""))
    finally:
        other.kill()
        pair.wait(2)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "no Dask scheduler answers at no address: missing port number in address ''; give its address"),
        ("nonsense", "missing port number in address 'nonsense'; give its address, such as 10.0.0.1:8786"),
        ("http://here:8786", "unknown address scheme 'http'"),
        ("127.0.0.1:1", "no Dask scheduler answers at 127.0.0.1:1: Timed out trying to connect to tcp://127.0.0.1:1"),
    ],
)
def test_an_address_that_is_none(address, words, monkeypatch):
    from common.cluster import client

    monkeypatch.setattr(client, "CONNECTING", 1.0)
    with pytest.raises(TriptychError, match=re.escape(words)):
        done(address, ("never", ""))


def test_without_dask_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TriptychError, match=r"`dask` needs Dask, which is not installed; pip install .*\[dask\]"):
        plan_for(["lenet5"], dask="127.0.0.1:8786")


@pytest.mark.slow
def test_machines_that_take_different_paths_are_both_as_published(pair, tmp_path):
    wanted = ("parity", "lenet_caffe", "lenet5", "--backend=tf1", "--probe=exact", "--dask", pair.address)
    code, out, err = run_here(*wanted, "--report", tmp_path)
    assert code == 0, err
    assert out.count("The exact probe is as published.") == 2
    report = json.loads((tmp_path / "report.json").read_text())
    rows = [row for run in report["runs"] for row in run["backends"]]
    assert [(row["status"], row["published"]) for row in rows] == [("ok", True)] * 2
    assert {row["machine"] for row in rows} == set(report["machines"])
    told = sorted(environment["oneDNN in TensorFlow"] for environment in report["machines"].values())
    assert told == ["off: TF_ENABLE_ONEDNN_OPTS is 0", "on: TF_ENABLE_ONEDNN_OPTS is 1"]
    page = (tmp_path / "index.html").read_text()
    for machine in report["machines"]:
        assert machine in out
        assert f"<td>{machine}" in page
        assert f"<h3>{machine}</h3>" in page

    code, out, err = run_here(*wanted, "--report", tmp_path, "--resume", "--json")
    assert code == 0, err
    again = json.loads(out)
    assert [row for run in again["runs"] for row in run["backends"]] == rows  # seconds and machines too: nothing is run
    assert again["machines"] == report["machines"]
    assert pair.processes() == []


@pytest.mark.slow
def test_an_interrupted_command_leaves_nothing_at_the_cluster(pair, tmp_path):
    process = triptych("parity", "lenet*", "--backend=torch", "--dask", pair.address, "--report", tmp_path)
    deadline = time.monotonic() + 60
    while len(pair.processes()) < 3 and time.monotonic() < deadline:  # a framework's process too
        time.sleep(0.05)
    running = pair.processes()
    assert running
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process, timeout=60)
    assert (code, "continue with --resume" in err) == (130, True)
    _, alive = psutil.wait_procs(running, timeout=10)
    assert alive == []
    assert pair.inside(lambda dask_scheduler: list(dask_scheduler.tasks)) == []
    assert (
        pair.inside(lambda dask_scheduler: [name for name in dask_scheduler.worker_plugins if "triptych" in name]) == []
    )


@pytest.mark.slow
def test_a_network_whose_worker_is_killed_is_proved_elsewhere(pair, tmp_path):
    """Whole, with weights and a picture of the user's, backwards, and with one worker more."""
    write_weights_file(tmp_path / "w.safetensors", random_weights("lenet_caffe", seed=9))
    photograph(1).save(tmp_path / "cat.jpg")
    pair.add()
    pair.wait(3)
    options = (
        "--weights",
        tmp_path / "w.safetensors",
        "--probe",
        "exact",
        "--probe",
        tmp_path / "cat.jpg",
        "--gradients",
    )
    wanted = ("parity", "lenet_caffe", "--backend=torch", "--backend=tf1", *options, "--dask", pair.address)
    process = triptych(*wanted, "--json")
    killed = None
    while killed is None:
        busy = [worker for worker in pair.workers if worker.poll() is None and psutil.Process(worker.pid).children()]
        killed = busy[0] if busy else None
        time.sleep(0.05)
    killed.kill()
    code, out, err = finish(process)
    assert code == 0, err
    report = json.loads(out)
    found = [(run["probe"], run["verdict"]) for run in report["runs"]]
    assert found == [("exact", "identical"), (str(tmp_path / "cat.jpg"), "certified")]
    assert {row["status"] for run in report["runs"] for row in run["backends"]} == {"ok"}


def proved(address, folder, *texts, **options):
    """What `triptych prove` finds of some models, in one runtime."""
    request = Request(probes=("random",), backends=("torch",), **options)
    return prove_command(
        standard_error(quiet=True),
        texts,
        request,
        progress=progress,
        folder=folder,
        command="triptych prove",
        dask=address,
    )


@pytest.mark.slow
def test_a_pattern_is_many_models_and_one_that_cannot_be_proved_is_a_row(pair, tmp_path):
    report = proved(pair.address, tmp_path, "torch_impl:lenet_*", shape=(1, 1, 28, 28))
    rows = {run["architecture"]: run["backends"][0] for run in report["runs"]}
    assert {name: row["status"] for name, row in rows.items()} == {
        "torch_impl:lenet_caffe": "crashed",  # it takes 32 × 32
        "torch_impl:lenet_bvlc": "ok",
    }
    assert "shapes cannot be multiplied" in rows["torch_impl:lenet_caffe"]["reason"]
    assert report["verdict"] == "incomplete"
    assert {row["machine"] for row in rows.values()} == set(report["machines"])
    page = (tmp_path / "index.html").read_text()
    for name in ("lenet_caffe", "lenet_bvlc"):
        assert f'<a href="torch_impl-{name}.html">torch_impl:{name}</a>' in page
    drawn = (tmp_path / "torch_impl-lenet_bvlc.html").read_text()
    assert 'class="drawing"' in drawn
    assert pair.processes() == []


@pytest.mark.slow
def test_files_are_read_by_the_workers(pair, tmp_path, monkeypatch):
    from common.cluster.client import Cluster
    from common.prove.on_cluster import Proofs

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy")
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"], name="gate"),
        helper.make_node("Mul", ["x", "s"], ["y"], name="m"),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "silu", [x], [y]), opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    (tmp_path / "silu.onnx").write_bytes(model.SerializeToString())
    monkeypatch.chdir(tmp_path)
    report = proved(pair.address, None, "silu.onnx")
    (run,) = report["runs"]
    assert (run["architecture"], run["verdict"]) == (str(tmp_path / "silu.onnx"), "certified")
    assert all(row["machine"] in report["machines"] for row in run["backends"])
    words = (
        r"no worker of the cluster at .* can do this; tcp://\S+ says: there is no file /gone\.onnx; workers read files"
    )
    with pytest.raises(TriptychError, match=words), Cluster(pair.address, Proofs(Request(), None, ["/gone.onnx"], [])):
        pass
    with pytest.raises(TriptychError, match=r"^no worker can prove a_library:model: a_library is not installed$"):
        proved(pair.address, None, "a_library:model")
