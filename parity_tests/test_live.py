"""`triptych explore --serve`: what is answered and what is not, and what a browser is given to compute with."""

import json
import os
import re
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import DEEPER

from common import TriptychError, get_spec, list_architectures, random_weights
from common.explorer.live import making as making_module
from common.explorer.live import networks, routes, runtime, server
from common.explorer.live.making import Making
from common.explorer.live.routes import Routes, parts
from common.explorer.live.server import Found, Server
from common.explorer.site import asset, network_page
from common.probes import published
from parity_tests.commands import finish, run_here, triptych


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A small site: one network's page, and things around it that are nobody's business."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.html").write_text("secret")
    folder = outside / "pages"
    (folder / "source").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><title>index</title>")
    (folder / "source" / "a.html").write_text("a")
    (folder / "lenet5.html").write_text(network_page(get_spec("lenet5"), live=True)[0])
    (folder / ".hidden.html").write_text("secret")
    (folder / "key.pem").write_text("secret")
    (folder / "link.html").symlink_to(outside / "secret.html")
    (folder / "out").symlink_to(outside)
    (folder / "circle.html").symlink_to(folder / "circle.html")
    (folder / "folder.html").mkdir()
    return folder


@pytest.fixture(scope="module")
def serving(pages, tmp_path_factory):
    with Making(tmp_path_factory.mktemp("made"), {}) as making, Server(0, Routes(pages, making).find) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def ask(running, request, timeout=20):
    """A connection's whole answer: the status, the headers, the content."""
    with socket.create_connection(running.server_address, timeout=timeout) as connection:
        connection.sendall(request if isinstance(request, bytes) else request.encode())
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    head, _, content = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), content


def get(running, path, *headers, method="GET", host=None, version="HTTP/1.1"):
    lines = [f"{method} {path} {version}", f"Host: {host or running.address[7:-1]}", *headers, "", ""]
    return ask(running, "\r\n".join(lines))


def test_pages_are_given_with_headers_that_keep_them_apart(serving):
    status, headers, content = get(serving, "/lenet5.html")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert int(headers["Content-Length"]) == len(content)
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy
    assert "'unsafe-eval'" not in policy
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert get(serving, "/")[2] == get(serving, "/index.html")[2] == b"<!doctype html><title>index</title>"
    assert get(serving, "/source/a.html?x=1")[2] == b"a"
    assert get(serving, "/index.html", host=f"LOCALHOST:{serving.server_port}")[0] == 200
    assert get(serving, "/lenet5.html", method="HEAD")[1]["Content-Length"] == str(len(content))
    assert get(serving, "/lenet5.html", method="HEAD")[2] == b""


@pytest.mark.parametrize(
    "path",
    [
        *("/../secret.html", "/%2e%2e/secret.html", "/..%2fsecret.html", "/%2e%2e%2fsecret.html", "/..%5csecret.html"),
        *("/%252e%252e/secret.html", "/source/../lenet5.html", "/source%2fa.html%2f..", "/./lenet5.html"),
        *("/etc/passwd", "//etc/passwd", "/%2fetc%2fpasswd", "/C:/secret.html", "/lenet5.html%00.css", "/a%00.html"),
        *("/link.html", "/out/secret.html", "/circle.html", "/.hidden.html", "/key.pem", "/source", "/folder.html"),
        *("/nowhere.html", "/lenet5.html/", "/lenet5.html%20", f"/{'a' * 5000}.html", "/%e4%f6.html", "/%", "/%zz.css"),
        *("/live/server.py", "/live/onnxruntime_web/LICENSE", "/live/lenet6/photo/photo.json", "/live/x.js"),
        *("/live/lenet5/photo/weights.bin.json", "/live/lenet5/../photo/photo.json", "/live/lenet5/other/photo.json"),
    ],
)  # fmt: skip
def test_paths_that_lead_elsewhere_lead_nowhere(serving, path):
    status, headers, content = get(serving, path)
    assert status == 404
    assert b"secret" not in content
    assert headers["Content-Type"].startswith("text/plain")
    assert "Content-Security-Policy" in headers


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        ("GET / HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n", 421),
        ("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 421),
        ("GET / HTTP/1.1\r\nHost: {host}.evil.example\r\n\r\n", 421),
        ("GET / HTTP/1.1\r\nHost: 0.0.0.0:{port}\r\n\r\n", 421),
        ("GET / HTTP/1.1\r\nHost: evil@{host}\r\n\r\n", 421),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.0\r\n\r\n", 400),
        ("GET /\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: {host}\r\nHost: evil.example\r\n\r\n", 400),
        ("GET http://evil.example/ HTTP/1.1\r\nHost: {host}\r\n\r\n", 404),
        ("GET / HTTP/2.0\r\nHost: {host}\r\n\r\n", 505),
        ("GET / HTTP/x\r\nHost: {host}\r\n\r\n", 400),
        ("nonsense\r\n\r\n", 400),
        ("OPTIONS / HTTP/1.1\r\nHost: {host}\r\n\r\n", 405),
        ("PUT / HTTP/1.1\r\nHost: {host}\r\n\r\n", 405),
        ("DELETE / HTTP/1.1\r\nHost: {host}\r\n\r\n", 405),
        ("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n", 405),
        ("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 3\r\n\r\nabc", 405),
        ("GET / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 3\r\n\r\nabc", 413),
        ("GET / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 413),
        ("GET / HTTP/1.1\r\nHost: {host}\r\nOrigin: http://evil.example\r\n\r\n", 403),
        ("GET / HTTP/1.1\r\nHost: {host}\r\nOrigin: null\r\n\r\n", 403),
        ("GET / HTTP/1.1\r\nHost: {host}\r\nOrigin: https://{host}\r\n\r\n", 403),
        ("GET / HTTP/1.1\r\nHost: {host}\r\nSec-Fetch-Site: cross-site\r\n\r\n", 403),
        ("GET / HTTP/1.1\r\nHost: {host}\r\nSec-Fetch-Site: same-site\r\n\r\n", 403),
        ("GET / HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nSec-Fetch-Site: same-origin\r\n\r\n", 200),
        ("GET / HTTP/1.1\r\nHost: {host}\r\n" + "".join(f"X-{n}: y\r\n" for n in range(200)) + "\r\n", 431),
        (f"GET /{'a' * (1 << 20)} HTTP/1.1\r\nHost: {{host}}\r\n\r\n", 431),
        (f"GET / HTTP/1.1\r\nHost: {{host}}\r\nX: {'a' * (1 << 20)}\r\n\r\n", 431),
    ],
)  # fmt: skip
def test_what_is_refused(serving, request_, status):
    host = f"127.0.0.1:{serving.server_port}"
    closing = request_.replace("{host}", host).replace("{port}", str(serving.server_port))
    found, headers, content = ask(serving, closing)
    assert found == status
    if status != 200:
        assert headers["Connection"] == "close"
        assert content.count(b"\n") == 1
    if status == 405:
        assert headers["Allow"] == "GET, HEAD"


def test_it_listens_on_the_loopback_address_only(serving):
    listening = [one for one in psutil.Process().net_connections("tcp") if one.laddr.port == serving.server_port]
    assert {one.laddr.ip for one in listening if one.status == psutil.CONN_LISTEN} == {"127.0.0.1"}


def test_one_connection_carries_many_requests(serving):
    request = f"GET /source/a.html HTTP/1.1\r\nHost: {serving.address[7:-1]}\r\n\r\n"
    with socket.create_connection(serving.server_address, timeout=20) as connection:
        connection.sendall(3 * request.encode())
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert answer.count(b"HTTP/1.1 200 OK") == 3


def test_whoever_drips_is_cut_off_and_holds_nobody_up(serving, monkeypatch):
    monkeypatch.setattr(server, "SECONDS", 1.0)
    with socket.create_connection(serving.server_address, timeout=20) as slow:
        start, closed = time.monotonic(), False
        slow.sendall(b"GET / HTTP/1.1\r\nX: ")
        while not closed and time.monotonic() < start + 10:
            assert get(serving, "/source/a.html")[0] == 200
            try:
                slow.sendall(b"a")
                slow.settimeout(0.1)
                closed = not slow.recv(100)
            except TimeoutError:
                pass
            except OSError:
                closed = True
        assert 0.5 < time.monotonic() - start < 5


def test_a_hundred_at_once_are_all_answered(serving):
    for held in range(2):
        idle = [socket.create_connection(serving.server_address, timeout=20) for _ in range(50 * held)]
        with ThreadPoolExecutor(100) as pool:
            found = list(pool.map(lambda _: get(serving, "/lenet5.html")[0], range(100)))
        assert found == [200] * 100
        for connection in idle:
            connection.close()


def test_connections_beyond_the_most_wait_for_their_turn(monkeypatch):
    monkeypatch.setattr(server, "CONNECTIONS", 2)
    with Server(0, lambda path: Found("text/plain", b"here")) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        with ThreadPoolExecutor(12) as pool:
            assert list(pool.map(lambda _: get(running, "/")[0], range(12))) == [200] * 12
        running.shutdown()


def test_what_cannot_be_made_is_one_sentence(tmp_path):
    out = tmp_path / "missing" / "folder"
    with (
        Making(out, {}) as making,
        pytest.raises(TriptychError, match="cannot make lenet5 for the browser: cannot write"),
    ):
        making.file("lenet5", "photo", "photo.json")


# What a browser is given


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    pytest.importorskip("onnxruntime")
    with Making(tmp_path_factory.mktemp("made"), {}) as making:
        yield making


def test_the_graphs_compute_with_the_weights_beside_them(made):
    """In ONNX Runtime proper, with PyTorch's answer."""
    import onnxruntime

    import torch_impl
    from common.specs.photographs import photographs

    spec = get_spec("lenet_caffe")
    image = photographs(spec, 1)
    model = torch_impl.build(spec.name)
    torch_impl.load_weights(model, random_weights(spec.name, 0))
    wanted = torch_impl.backend.predict(model, image)["logits"]
    for name, output in (("network.onnx", "logits"), ("layers.onnx", spec.outputs["logits"])):
        session = onnxruntime.InferenceSession(str(made.file(spec.name, "photo", name)))
        (found,) = session.run([output], {"image": image})
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    told = json.loads(made.file(spec.name, "photo", "photo.json").read_text())
    assert [layer["name"] for layer in told["layers"]] == [layer.name for layer in spec.layers]
    assert (told["input"], told["channels"], told["labels"]) == ([1, 32, 32], "L", None)


def test_the_users_own_weights_are_given_with_all_that_is_known_of_them(tmp_path):
    spec = get_spec("lenet_caffe", num_classes=3)
    from common.weights import read_weights_file, write_weights_file

    weights = random_weights(spec.name, 7, num_classes=3)
    write_weights_file(tmp_path / "own", weights)
    recipe = '{"channels": "L", "mean": [3.0], "scale": [2.0]}'
    own = {
        "weights": str(tmp_path / "own"),
        "num_classes": 3,
        "preprocessing": recipe,
        "labels": ["a", "b", "c"],
        "origin": "mine.npy",
    }
    with Making(tmp_path, {spec.name: own}) as making:
        told = json.loads(making.file(spec.name, "photo", "photo.json").read_text())
        found = read_weights_file(making.file(spec.name, "photo", "weights.safetensors"))
    assert (told["labels"], told["mean"], told["scale"], told["origin"]) == (["a", "b", "c"], [3.0], [2.0], "mine.npy")
    assert told["layers"][-1]["shape"] == [3]
    assert all(np.array_equal(found[name], array) for name, array in weights.items())


def test_the_exact_probe_is_given_with_what_is_published(made):
    from common.weights import read_weights_file

    told = json.loads(made.file("lenet5", "exact", "exact.json").read_text())
    assert told["hashes"] == published.published()["networks"]["lenet5"]
    given = read_weights_file(made.file("lenet5", "exact", "given.safetensors"))
    assert published.digest({"image": given["image"]}) == told["hashes"]["image"]
    rounding = read_weights_file(made.file("lenet5", "exact", "rounding.safetensors"))
    unpublished = {name for name, entry in told["hashes"]["layers"].items() if "answer" not in entry}
    assert rounding.keys() == {f"{name}{end}" for name in unpublished for end in ("", "/wasm", "/webgpu")}
    assert (rounding["tanh5/wasm"] < rounding["tanh5/webgpu"]).all()


def test_files_are_made_once_and_few_are_kept(monkeypatch, tmp_path):
    asked = []

    class Counting:
        alive = True

        def ask(self, request):
            asked.append(request["architecture"])
            Path(request["out"]).mkdir()

        def kill(self):
            pass

    monkeypatch.setattr(making_module, "Process", lambda module: Counting())
    monkeypatch.setattr(making_module, "KEPT", 2)
    with Making(tmp_path, {}) as making:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: making.file("lenet5", "exact", "exact.json"), range(8)))
        assert asked == ["lenet5"]
        for name in ("vgg11", "lenet5", "vgg13", "lenet5"):
            making.file(name, "exact", "exact.json")
        assert asked == ["lenet5", "vgg11", "vgg13"]
        assert {path.name for path in tmp_path.iterdir()} == {"lenet5-exact", "vgg13-exact"}


@pytest.mark.slow
@pytest.mark.parametrize("network", [name for name in list_architectures() if name not in DEEPER])
def test_networks_can_be_given(network, tmp_path):
    """What is exported are the weights as they are: `networks` would not write anything else."""
    spec = get_spec(network)
    networks.write_photo(spec, random_weights(network, 0), tmp_path / "photo", origin="")


def test_onnx_runtime_is_the_one_that_is_pinned(monkeypatch, tmp_path):
    for name, hash_ in runtime.SHA256.items():
        assert sha256(runtime.content(name)).hexdigest() == hash_
    runtime.content.cache_clear()
    monkeypatch.setattr(runtime, "FOLDER", tmp_path)
    for content in (None, b"no archive"):
        if content:
            (tmp_path / "ort.webgpu.bundle.min.mjs.xz").write_bytes(content)
        with pytest.raises(TriptychError, match="is missing or damaged"):
            runtime.content("ort.webgpu.bundle.min.mjs")
    runtime.content.cache_clear()


def test_the_pages_need_no_inline_style():
    """They could not have it under the policy that they are served with."""
    page = network_page(get_spec("googlenet"), live=True)[0]
    assert " style=" not in page
    indented = set(re.findall(r"<code class=(i\d+)>", page)) - {"i0"}
    assert indented
    assert all(f"code.{name} {{" in asset("style.css") for name in indented)
    for name in routes.PANEL:
        assert (Path(routes.__file__).parent / name).is_file()


@pytest.mark.parametrize("path", ["/", "/a.html", "/source/torch_impl/lenet.html", "/live/a-b/photo/x.onnx?y"])
def test_paths_of_names_are_read(path):
    assert all(parts(path))


# The command


def served(*arguments, folder):
    process = triptych("explore", "--serve", *arguments, env={**os.environ, "TMPDIR": str(folder)})
    line = process.stdout.readline()
    return process, line


def test_ctrl_c_ends_it_and_nothing_is_left(tmp_path):
    process, line = served("--port=0", folder=tmp_path)
    address = re.match(r"http://127\.0\.0\.1:(\d+)/: \d+ networks; Ctrl-C ends it", line)
    assert address, line
    port = int(address[1])
    ready = type("Ready", (), {"server_address": ("127.0.0.1", port), "address": f"http://127.0.0.1:{port}/"})
    assert get(ready, "/lenet5.html")[0] == 200
    with socket.create_connection(ready.server_address) as waiting:
        waiting.sendall(f"GET /live/lenet5/photo/photo.json HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        workers = []
        while not workers:
            workers = psutil.Process(process.pid).children(recursive=True)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        code, _, err = finish(process)
        assert time.monotonic() - start < 5
        assert (code, err) == (130, "triptych: interrupted; nothing half-written is left\n")
        assert not any(worker.is_running() for worker in workers)
        assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_one_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = run_here("explore", "--serve", f"--port={port}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"cannot serve on port {port} of 127.0.0.1: Address already in use; name another port, or --port 0" in err


def test_a_port_without_serving_is_one_sentence():
    code, out, err = run_here("explore", "--port=8000")
    assert (code, out, err) == (2, "", "triptych: --port is for --serve; give both, or neither\n")


def test_two_of_them_do_not_share_a_port():
    with Server(0, lambda path: None) as first, pytest.raises(TriptychError, match="cannot serve on port"):
        Server(first.server_port, lambda path: None)
