"""The panel of `triptych explore --serve` in a real headless Chromium: WebAssembly, and WebGPU on SwiftShader."""

import json
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import daily
from PIL import Image
from test_explorer_in_browser import CHROMIUM, DRIVER, By, WebDriverWait, webdriver

from common import get_spec, random_weights
from common.explorer.live.making import Making
from common.explorer.live.routes import Routes
from common.explorer.live.server import Server
from common.explorer.site import asset, network_page
from common.specs.photographs import fitted, photograph, preprocess, read_photograph

pytestmark = pytest.mark.skipif(
    not CHROMIUM or not DRIVER, reason="no Chromium and chromedriver here; on Debian, apt-get install chromium-driver"
)

NETWORKS = ("lenet5", "lenet_caffe", "alexnet_bvlc")
SOFTWARE = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")
SECONDS = 120


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    """The server, the folder of its pages aside, which are these networks' only."""
    pytest.importorskip("onnx")
    pages = tmp_path_factory.mktemp("pages")
    for name in ("style.css", "explorer.js"):
        (pages / name).write_text(asset(name))
    for name in NETWORKS:
        (pages / f"{name}.html").write_text(network_page(get_spec(name), live=True)[0])
    with Making(tmp_path_factory.mktemp("made"), {}) as making, Server(0, Routes(pages, making).find) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@contextmanager
def chromium(*arguments):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", *arguments):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        driver.set_script_timeout(SECONDS)
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def browser():
    with chromium(*SOFTWARE) as driver:
        yield driver


@pytest.fixture
def panel(browser, serving):
    """Open a network's page; its console must stay empty, which a breach of the policy would fill."""
    browser.get_log("browser")

    def open_page(network):
        return Panel(browser, f"{serving.address}{network}.html")

    yield open_page
    assert browser.get_log("browser") == []


class Panel:
    """What a visitor does with the panel, and sees of it."""

    def __init__(self, browser, address):
        self.browser = browser
        browser.get(address)
        self.wait("Nothing has been computed yet", "It did not work", "This browser has no WebAssembly")

    def text(self, name):
        return self.browser.find_element(By.ID, f"live-{name}").text

    def wait(self, *beginnings):
        WebDriverWait(self.browser, SECONDS).until(lambda _: self.text("status").startswith(beginnings))
        return self.text("status")

    def click(self, name):
        """Without scrolling there, which takes a while; what was said before is forgotten."""
        self.browser.execute_script("document.getElementById('live-status').textContent = ''")
        self.browser.execute_script("document.getElementById(arguments[0]).click()", f"live-{name}")

    def give(self, path):
        """Choose a file, and wait for what is said of it; what is computed from it, if anything is."""
        self.browser.find_element(By.ID, "live-file").send_keys(str(path))
        said = self.wait(path.name, "It did not work", "this browser")
        answer = self.browser.execute_script("return document.querySelector('.live').dataset.answer ?? null")
        return said, answer and json.loads(answer)

    def prove(self):
        self.click("exact")
        said = self.wait("The exact probe", "It did not work")
        return said, self.text("verdict")


def logits_of(spec, path):
    """What PyTorch gives for the photograph in a file, prepared by Pillow."""
    import torch_impl

    model = torch_impl.build(spec.name)
    torch_impl.load_weights(model, random_weights(spec.name, 0))
    return torch_impl.backend.predict(model, preprocess(read_photograph(path), spec)[None])["logits"][0]


@pytest.mark.parametrize("device", daily("wasm", of=("wasm", "webgpu")))
def test_a_photograph_is_classified_and_every_layer_shown(panel, device, tmp_path):
    spec = get_spec("lenet_caffe")
    photograph(1).save(tmp_path / "coffee.png")
    shown = panel(spec.name)
    shown.click(device)
    said, answer = shown.give(tmp_path / "coffee.png")
    assert said.startswith("coffee.png, computed by " + {"wasm": "WebAssembly", "webgpu": "WebGPU on"}[device])
    wanted = logits_of(spec, tmp_path / "coffee.png")
    # That it is the same function, the exact probe proves; here the picture and the weights have to arrive.
    np.testing.assert_allclose(answer["logits"], wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    order = np.argsort(-wanted, kind="stable")[:5]
    assert [guess["number"] for guess in answer["top"]] == order.tolist()
    exponentials = np.exp(wanted - wanted.max(), dtype=np.float64)
    np.testing.assert_allclose(
        [guess["probability"] for guess in answer["top"]], (exponentials / exponentials.sum())[order], 1e-3
    )
    assert " ms (" in shown.text("times")
    assert "starting weights, seed 0" in shown.text("times")
    layers = shown.browser.find_elements(By.CSS_SELECTOR, "#live-layer option")
    assert [layer.text for layer in layers] == [layer.name for layer in spec.layers]
    assert shown.text("mosaic-text").startswith("conv1 (Conv, 20×32×32): channels ")
    drawn = shown.browser.execute_script("""
        const canvas = document.getElementById("live-mosaic");
        const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        return [canvas.width, canvas.height, new Set(pixels).size, canvas.getAttribute("aria-label")];
    """)
    assert drawn[:2] == [5 * 33 - 1, 4 * 33 - 1]
    assert drawn[2] > 50
    assert drawn[3] == shown.text("mosaic-text")


@pytest.mark.parametrize(
    ("network", "device"),
    [("lenet5", "webgpu"), ("lenet_caffe", "wasm"), pytest.param("lenet5", "wasm", marks=pytest.mark.slow)],
)
def test_the_exact_probe_is_proved_in_this_browser(panel, network, device):
    shown = panel(network)
    shown.click(device)
    said, verdict = shown.prove()
    assert said.startswith("The exact probe was computed by"), said
    assert verdict.startswith("identical " + {"wasm": "WebAssembly", "webgpu": "WebGPU on"}[device])
    counted = {
        "lenet5": "8 layers give the published bits and 4 that round",
        "lenet_caffe": "10 layers give the published",
    }
    assert counted[network] in verdict
    assert "on the CPU" not in verdict
    assert ("in software" in verdict) == (device == "webgpu")


def changed(serving, name, change):
    """A served file in another form, until the block ends."""
    find = serving.find

    @contextmanager
    def block():
        def other(path):
            found = find(path)
            return type(found)(found.type, change(found.content.read_bytes())) if path.endswith(name) else found

        serving.find = other
        try:
            yield
        finally:
            serving.find = find

    return block()


def another_weight(content):
    """The graph with a weight of its own in place of the one that the probe gives, a 2^10th part larger."""
    import onnx
    from onnx import numpy_helper

    from common.probes import exact_probe

    model = onnx.load_model_from_string(content)
    weight = exact_probe(get_spec("lenet_caffe")).weights["conv2/weight"].copy()
    weight.flat[7] *= np.float32(1 + 2**-10)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == "conv2/weight")
    tensor.CopyFrom(numpy_helper.from_array(weight, "conv2/weight"))
    return model.SerializeToString()


def last_bit(content):
    return content[:-4] + bytes([content[-4] ^ 1]) + content[-3:]


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("exact/layers.onnx", another_weight, "conv2 is the first layer that differs."),
        pytest.param("exact/weights.safetensors", last_bit, "what is given to ", marks=pytest.mark.slow),
        pytest.param("exact/given.safetensors", last_bit, " not as published.", marks=pytest.mark.slow),
    ],
)
def test_one_wrong_number_is_seen(panel, serving, name, change, words):
    with changed(serving, name, change):
        _, verdict = panel("lenet_caffe").prove()
    assert verdict.startswith("diverged WebAssembly")
    assert words in verdict


def with_a_node_that_no_gpu_has(content):
    """The graph with an LRN as one node, for which ONNX Runtime has no kernel on WebGPU."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load_model_from_string(content)
    model.graph.node.append(helper.make_node("LRN", ["image"], ["more"], name="more", size=3))
    model.graph.output.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, None))
    return model.SerializeToString()


@pytest.mark.slow
def test_what_ran_on_the_cpu_is_not_claimed_for_the_gpu(panel, serving, browser):
    with changed(serving, "exact/layers.onnx", with_a_node_that_no_gpu_has):
        shown = panel("lenet_caffe")
        shown.click("webgpu")
        _, verdict = shown.prove()
    assert "ran that on the CPU" in verdict
    browser.get_log("browser")  # ONNX Runtime's own complaint


@pytest.mark.slow
def test_a_layer_that_rounds_too_much_is_seen(panel, serving):
    def no_room(content):
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        first, end = (8 + size + offset for offset in header["tanh6/wasm"]["data_offsets"])
        return content[:first] + bytes(end - first) + content[end:]

    with changed(serving, "exact/rounding.safetensors", no_room):
        _, verdict = panel("lenet5").prove()
    assert "tanh6 is the first layer that differs" in verdict


# Pictures


def run_pillow_js(browser, picture, size, grey):
    """What pillow.js makes of a picture: (H, W, 4)."""
    pixels = np.asarray(picture.convert("RGBA")).ravel().tolist()
    found = browser.execute_async_script(
        """
        const [pixels, width, height, toWidth, toHeight, grey, done] = arguments;
        import("./live/pillow.js").then((module) => {
            const found = module.fitted(new Uint8ClampedArray(pixels), width, height, toWidth, toHeight);
            if (grey) module.grey(found);
            done([...found]);
        });
        """,
        *(pixels, *picture.size, *size, grey),
    )
    return np.array(found, np.uint8).reshape(size[1], size[0], 4)


SIZES = {
    (61, 47): (32, 32),
    (40, 90): (27, 31),
    (13, 9): (32, 28),
    (32, 32): (32, 32),
    (64, 32): (32, 32),
    (1, 1): (5, 7),
    (3, 200): (8, 8),
    (101, 33): (33, 33),
}
"""Of pictures, and of what they are made."""


@pytest.mark.parametrize("grey", [False, True])
def test_resizing_is_pillows_to_the_bit(panel, grey):
    """Of columns first, then of rows: Pillow 13 has the order the other way round for some tall pictures."""
    browser = panel("lenet_caffe").browser
    for size, to in SIZES.items():
        generator = np.random.default_rng(sum(size))
        picture = Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        found = run_pillow_js(browser, picture, to, grey)
        assert (found[..., 3] == 255).all()
        ratio = to[0] / to[1]
        width, height = min(size[0], size[1] * ratio), min(size[1], size[0] / ratio)
        left, top = (size[0] - width) / 2, (size[1] - height) / 2
        narrow = picture.resize((to[0], size[1]), Image.Resampling.BICUBIC, (left, 0, left + width, size[1]))
        wanted = narrow.resize(to, Image.Resampling.BICUBIC, (0, top, to[0], top + height))
        assert (found[..., :3] == np.asarray(wanted.convert("L").convert("RGB") if grey else wanted)).all(), size
        if size[0] > size[1]:
            spec = get_spec("lenet_caffe" if grey else "alexnet_owt")
            assert (found[..., :3] == fitted(picture, (to[1], to[0]), spec)).all(), size


def test_the_network_gets_the_pixels_that_pillow_reads(panel, tmp_path):
    """But for what is transparent, which the browser lays on white by other roundings: one of 255 at most."""
    shown = panel("lenet_caffe")
    plain = photograph(3).crop((200, 0, 429, 190))
    turned = Image.Exif()
    turned[0x0112] = 6
    clear = plain.copy()
    clear.putalpha(Image.linear_gradient("L").resize(plain.size))
    plain.save(tmp_path / "a.png")
    plain.save(tmp_path / "a.jpg")
    plain.save(tmp_path / "a.webp", lossless=True)
    plain.resize((190, 229)).save(tmp_path / "turned.jpg", exif=turned)
    clear.save(tmp_path / "clear.png")
    for name, most in {"a.png": 0, "a.jpg": 0, "a.webp": 0, "turned.jpg": 0, "clear.png": 1}.items():
        shown.give(tmp_path / name)
        found = shown.browser.execute_script("""
            const canvas = document.getElementById("live-seen");
            return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
        """)
        wanted = fitted(read_photograph(tmp_path / name), (32, 32), get_spec("lenet_caffe"))
        difference = np.abs(np.array(found).reshape(32, 32, 4)[..., :1] - wanted.astype(int))
        assert difference.max() <= most, name


def test_what_is_no_photograph_is_one_sentence(panel, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "drawing.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0h9v9z"/></svg>')
    Image.new("L", (20000, 3)).save(tmp_path / "wide.png")
    Image.new("1", (9000, 9000)).save(tmp_path / "huge.png")
    Image.new("L", (1, 1), 200).save(tmp_path / "dot.png")
    shown = panel("lenet_caffe")
    for name, words in {
        "notes.txt": "notes.txt is not an image that this browser reads",
        "broken.png": "broken.png is not an image that this browser reads",
        "empty.jpg": "empty.jpg is not an image that this browser reads",
        "drawing.svg": "drawing.svg is not an image of pixels that this browser reads",
        "wide.png": "wide.png has 20000×3 pixels, more than is read here; scale it down",
        "huge.png": "huge.png has 9000×9000 pixels, more than is read here; scale it down",
    }.items():
        assert shown.give(tmp_path / name) == (words, None)
        assert not shown.browser.find_element(By.ID, "live-answer").is_displayed()
    said, answer = shown.give(tmp_path / "dot.png")
    assert said == "dot.png, computed by WebAssembly."
    assert len(answer["logits"]) == 10


def test_a_photograph_is_dropped(panel, tmp_path):
    shown = panel("lenet_caffe")
    shown.browser.execute_async_script("""
        const done = arguments[0];
        const canvas = document.createElement("canvas");
        canvas.toBlob((blob) => {
            const given = new DataTransfer();
            given.items.add(new File([blob], "dropped.png", { type: "image/png" }));
            const event = new DragEvent("drop", { dataTransfer: given, bubbles: true, cancelable: true });
            done(document.querySelector("#live-drop p").dispatchEvent(event));
        });
    """)
    assert shown.wait("dropped.png, computed", "It did") == "dropped.png, computed by WebAssembly."


# Browsers that lack something, servers that do, several at once


@pytest.mark.slow
def test_what_cannot_be_made_is_said_and_the_next_try_works(panel, serving):
    from common import TriptychError

    find = serving.find

    def fails(path):
        if path.startswith("/live/lenet5/exact"):
            raise TriptychError("torch not installed")
        return find(path)

    shown = panel("lenet5")
    serving.find = fails
    try:
        said, verdict = shown.prove()
    finally:
        serving.find = find
    assert (said, verdict) == ("It did not work: torch not installed", "")
    assert shown.prove()[1].startswith("identical")


@pytest.mark.parametrize(
    ("without", "words"),
    [
        ("delete globalThis.WebAssembly", "This browser has no WebAssembly, which computes here."),
        ("delete globalThis.Worker", "It did not work: Worker is not defined"),
    ],
)
def test_a_browser_that_lacks_what_it_takes_says_so(panel, browser, without, words):
    script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": without})
    try:
        assert panel("lenet_caffe").text("status") == words
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


@pytest.mark.slow
def test_without_webgpu_webassembly_remains(serving):
    with chromium("--disable-gpu", "--disable-features=WebGPU,WebGPUService") as driver:
        shown = Panel(driver, f"{serving.address}lenet_caffe.html")
        assert shown.text("gpu") == "this browser offers no WebGPU"
        assert not driver.find_element(By.ID, "live-webgpu").is_enabled()
        assert shown.prove()[1].startswith("identical WebAssembly")
        assert not driver.find_element(By.ID, "live-webgpu").is_enabled()


@pytest.mark.slow
def test_two_panels_compute_at_the_same_time(panel, browser, tmp_path):
    photograph(0).save(tmp_path / "chelsea.png")
    first = panel("lenet_caffe")
    handles = [browser.current_window_handle]
    browser.switch_to.new_window("tab")
    handles.append(browser.current_window_handle)
    try:
        second = panel("lenet5")
        second.click("exact")
        browser.switch_to.window(handles[0])
        first.click("exact")
        assert first.wait("The exact", "It did").startswith("The exact")
        browser.switch_to.window(handles[1])
        assert second.wait("The exact", "It did").startswith("The exact")
        assert second.text("verdict").startswith("identical")
    finally:
        browser.switch_to.window(handles[1])
        browser.close()
        browser.switch_to.window(handles[0])


def test_webassembly_has_threads(panel):
    assert panel("lenet5").browser.execute_script("return crossOriginIsolated")


@pytest.mark.parametrize("scheme", daily("dark", of=("light", "dark")))
def test_axe_finds_no_serious_violation(panel, scheme, tmp_path):
    package = pytest.importorskip("axe_core_python")
    photograph(0).save(tmp_path / "chelsea.png")
    shown = panel("lenet_caffe")
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    shown.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    shown.give(tmp_path / "chelsea.png")
    shown.prove()
    shown.browser.execute_script((Path(package.__file__).parent / "axe.min.js").read_text())
    found = shown.browser.execute_async_script(
        "const done = arguments[0]; axe.run('.live', { preload: false }).then(done);"
    )
    assert [
        (v["id"], v["nodes"][0]["html"]) for v in found["violations"] if v["impact"] in ("serious", "critical")
    ] == []


@pytest.mark.slow
@pytest.mark.parametrize("device", ["wasm", "webgpu"])
def test_a_whole_alexnet_is_proved_and_sees(panel, device, tmp_path):
    photograph(3).save(tmp_path / "astronaut.png")
    shown = panel("alexnet_bvlc")
    shown.click(device)
    _, answer = shown.give(tmp_path / "astronaut.png")
    wanted = logits_of(get_spec("alexnet_bvlc"), tmp_path / "astronaut.png")
    np.testing.assert_allclose(answer["logits"], wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())
    _, verdict = shown.prove()
    assert verdict.startswith("identical")
