"""The part of the pages that looks inside a network, in a real headless Chromium, from disk."""

import pytest
from test_explorer_in_browser import PHONE, WIDE, By, Path, browser, pytestmark, visit  # noqa: F401, fixtures
from test_inside import cat, looked  # noqa: F401, fixtures

keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
ActionChains = pytest.importorskip("selenium.webdriver").ActionChains

PAGE = "lenet_caffe.html"


@pytest.fixture(scope="module")
def site(looked):  # noqa: F811
    return looked


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_pictures_load_from_disk_in_their_places(visit, size):  # noqa: F811
    window = visit(PAGE, size)
    shift, broken, width = window.execute_async_script("""
        const done = arguments[0];
        let shift = 0;
        new PerformanceObserver((list) => { for (const entry of list.getEntries()) shift += entry.value; })
            .observe({ type: "layout-shift", buffered: true });
        const images = [...document.querySelectorAll(".inside img")];
        for (const details of document.querySelectorAll(".inside details")) details.open = true;
        for (const image of images) image.loading = "eager";
        Promise.all(images.map((image) => image.decode().then(() => null, () => image.alt))).then((broken) =>
            setTimeout(() => done([shift, broken.filter(Boolean), document.documentElement.scrollWidth]), 150));
    """)
    assert shift == 0
    assert broken == []
    assert width <= size[0]


def enlarged(window):
    """Whether the dialog is open, its title, and the texts of its pictures."""
    return window.execute_script("""
        const dialog = document.getElementById("enlarged");
        const texts = [...dialog.querySelectorAll("img, svg")].map((one) => one.alt ?? one.getAttribute("aria-label"));
        return [dialog.open, document.getElementById("enlarged-title").textContent, texts];
    """)


def test_a_filter_is_enlarged_by_the_keyboard(visit):  # noqa: F811
    window = visit(PAGE)
    button = window.find_elements(By.CSS_SELECTOR, ".filter")[17]
    window.execute_script("arguments[0].focus()", button)
    button.send_keys(keys.ENTER)
    is_open, title, texts = enlarged(window)
    assert is_open
    assert title.startswith("conv1 filter 17, from -")
    assert texts == ["conv1 filter 17, channels L"]
    window.switch_to.active_element.send_keys(keys.ARROW_RIGHT)
    assert enlarged(window)[2] == ["conv1 filter 18, channels L"]
    window.switch_to.active_element.send_keys(keys.ESCAPE)
    assert not enlarged(window)[0]


def test_a_channel_is_shown_in_every_framework_beside_the_map_of_their_difference(visit):  # noqa: F811
    window = visit(PAGE)
    article = window.find_element(By.CSS_SELECTOR, ".map[data-layer=conv2]")
    order = article.get_attribute("data-channels").split()
    assert sorted(map(int, order)) == list(range(50))
    article.find_element(By.CSS_SELECTOR, ".enlarge").send_keys(keys.ENTER)
    is_open, title, texts = enlarged(window)
    assert is_open
    assert title == f"conv2 channel {order[0]}, cat.jpg, seed1.safetensors"
    assert texts == [f"conv2 channel {order[0]}, {panel}" for panel in ("Keras", "PyTorch", "TF1 style", "ULP apart")]
    window.switch_to.active_element.send_keys(keys.ARROW_RIGHT, keys.ARROW_RIGHT)
    assert enlarged(window)[1].startswith(f"conv2 channel {order[2]},")
    window.switch_to.active_element.send_keys(keys.ESCAPE)
    image = article.find_element(By.CSS_SELECTOR, "img")
    window.execute_script("arguments[0].scrollIntoView({ block: 'center' })", image)
    ActionChains(window).move_to_element_with_offset(image, 4, 0).click().perform()  # 50 channels in 7 rows of 8
    assert enlarged(window)[1].startswith(f"conv2 channel {order[3 * 8 + 4]},")


def test_the_channels_that_are_not_the_first_are_shown_on_demand(visit):  # noqa: F811
    window = visit(PAGE)
    details = window.find_element(By.CSS_SELECTOR, ".map[data-layer=fc1] details")
    assert not details.find_element(By.CSS_SELECTOR, "img").is_displayed()
    details.find_element(By.CSS_SELECTOR, "summary").send_keys(keys.ENTER)
    assert details.find_element(By.CSS_SELECTOR, "img").is_displayed()
    details.find_element(By.CSS_SELECTOR, ".enlarge").send_keys(keys.ENTER)
    order = window.find_element(By.CSS_SELECTOR, ".map[data-layer=fc1]").get_attribute("data-channels").split()
    assert enlarged(window)[1].startswith(f"fc1 channel {order[64]},")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_axe_finds_no_serious_violation(visit, scheme, size):  # noqa: F811
    package = pytest.importorskip("axe_core_python")
    window = visit(PAGE, size, scheme)
    window.execute_script((Path(package.__file__).parent / "axe.min.js").read_text())
    window.execute_script("document.querySelector('.filter').click()")
    found = window.execute_async_script("""
        const done = arguments[0];
        document.getElementById("enlarged").close();
        axe.run(".inside", { preload: false }).then(done);
    """)
    assert len(found["passes"]) > 10
    assert [
        (v["id"], v["nodes"][0]["html"]) for v in found["violations"] if v["impact"] in ("serious", "critical")
    ] == []


def test_a_model_of_ones_own_is_looked_into_on_the_page_of_its_proof(visit, site):  # noqa: F811
    pytest.importorskip("onnx")
    from foreign_models import foreign
    from test_prove_report import as_json, feeds_of, page, proof_of, recorded, replace

    model = foreign("inception")
    _, (run,) = proof_of(model, model)
    values = {name: array[0] for name, array in recorded(model, feeds_of(model)).items() if array.ndim == 4}
    runs = [replace(run, recorded={"one": values, "other": values})]
    (site / "proof.html").write_text(page(runs, as_json(runs), "triptych prove"), encoding="utf-8")
    window = visit("proof.html#m0-0")
    window.find_element(By.CSS_SELECTOR, "#m0-0 .enlarge").send_keys(keys.ENTER)
    is_open, _, texts = enlarged(window)
    assert is_open
    assert [text.rpartition(", ")[2] for text in texts] == ["one", "other", "ULP apart"]
    window.switch_to.active_element.send_keys(keys.ESCAPE)
    window.find_element(By.CSS_SELECTOR, ".filter").send_keys(keys.ENTER)
    assert " filter 0, from " in enlarged(window)[1]
