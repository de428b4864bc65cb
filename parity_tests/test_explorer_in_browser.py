"""The explorer's pages in a real headless Chromium, from disk."""

import shutil
from pathlib import Path

import pytest

from common import get_spec
from common.explorer.site import write_site

webdriver = pytest.importorskip("selenium.webdriver")
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait
By = pytest.importorskip("selenium.webdriver.common.by").By

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    not CHROMIUM or not DRIVER, reason="no Chromium and chromedriver here; on Debian, apt-get install chromium-driver"
)

WIDE, PHONE = (1440, 900), (390, 844)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return write_site(tmp_path_factory.mktemp("explorer"), report=None).parent


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def visit(browser, site):
    """Open a page and return the browser; nothing may be left in its console."""

    def open_page(path, size=WIDE, scheme="light"):
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get("about:blank")
        browser.get((site / path.partition("#")[0]).as_uri() + "".join(path.partition("#")[1:]))
        return browser

    yield open_page
    assert browser.get_log("browser") == []


SAMPLES = ["index.html", "alexnet_bvlc.html", "googlenet.html", "densenet201.html", "source/torch_impl/resnet.html"]


@pytest.mark.parametrize("page", SAMPLES)
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_pages_load_from_disk_without_moving_and_fit(visit, page, size):
    browser = visit(page, size)
    shift, resources, width = browser.execute_async_script("""
        const done = arguments[0];
        let shift = 0;
        new PerformanceObserver((list) => { for (const entry of list.getEntries()) shift += entry.value; })
            .observe({ type: "layout-shift", buffered: true });
        setTimeout(() => done([shift, performance.getEntriesByType("resource").map((entry) => entry.name),
                               document.documentElement.scrollWidth]), 150);
    """)
    assert shift == 0
    assert all(name.startswith("file:") for name in resources)
    assert width <= size[0]


LINES = """
    const rows = [...document.querySelectorAll("table.layers tbody tr")];
    const found = {};
    for (const row of rows) {
        row.click();
        const lit = [...document.querySelectorAll(".code .lit")].filter((cell) => cell.offsetParent);
        found[row.id] = lit.map((cell) => [cell.cellIndex, Math.round(cell.getBoundingClientRect().top + scrollY)]);
    }
    return found;
"""


@pytest.mark.parametrize("network", ["lenet5_sparse", "alexnet_bvlc", "vgg11", "googlenet_bn", "resnet50_v1_5"])
@pytest.mark.parametrize("form", ["functional", "sequential"])
def test_a_layer_is_lit_at_one_height_in_all_columns(visit, network, form):
    browser = visit(f"{network}.html")
    forms = browser.find_elements(By.CSS_SELECTOR, f"label[for=form-{form}]")
    if forms:
        forms[0].click()
    elif form == "sequential":
        pytest.skip(f"{network} branches: it has no Sequential form")
    found = browser.execute_script(LINES)
    assert found.keys() == {layer.name for layer in get_spec(network).layers}
    for layer, cells in found.items():
        columns = {}
        for column, top in cells:
            columns.setdefault(column, set()).add(top)
        assert len(columns) == 3, layer
        assert set.intersection(*columns.values()), layer


def lit(browser):
    """The names of the lit layers in the table, the number of lit lines in each column, of lit boxes."""
    return browser.execute_script("""
        const visible = [...document.querySelectorAll(".code .lit")].filter((cell) => cell.offsetParent);
        const columns = {};
        for (const cell of visible) columns[cell.cellIndex] = (columns[cell.cellIndex] ?? 0) + 1;
        return [[...document.querySelectorAll(".layers .lit")].map((row) => row.id), Object.values(columns),
                [...document.querySelectorAll(".drawing .l")].flatMap((box, n) => box.matches(".lit") ? [n] : [])];
    """)


def test_a_click_anywhere_lights_a_layer_everywhere(visit):
    browser = visit("alexnet_bvlc.html")
    number = [layer.name for layer in get_spec("alexnet_bvlc").layers].index("conv3")
    everywhere = [["conv3"], [1, 1, 1], [number]]
    code = next(cell for cell in browser.find_elements(By.CSS_SELECTOR, ".code td code") if "conv3=" in cell.text)
    row = browser.find_element(By.CSS_SELECTOR, "tr[id=conv3] td")
    box = browser.find_elements(By.CSS_SELECTOR, ".drawing .l")[number]
    for element in (code, row, box):
        browser.execute_script("arguments[0].scrollIntoView({ block: 'center' })", element)
        element.click()
        assert lit(browser) == everywhere
        assert "conv3" in browser.find_element(By.ID, "inspector").text
        WebDriverWait(browser, 10).until(lambda browser: browser.current_url.endswith("#conv3"))
        element.click()
        assert lit(browser) == [[], [], []]


def test_a_line_that_stands_for_many_layers_lights_them_all(visit):
    browser = visit("resnet18.html")
    cells = browser.find_elements(By.CSS_SELECTOR, ".code td code")
    next(cell for cell in cells if "self.conv2 = nn.Conv2d" in cell.text).click()
    names, lines, boxes = lit(browser)
    assert names == [layer.name for layer in get_spec("resnet18").layers if layer.name.endswith("/conv2")]
    assert len(names) == len(boxes) == 8
    assert lines == [1, 1, 1]


def test_a_link_to_a_layer_lights_it(visit):
    browser = visit("resnet50.html#conv4_block6/conv2")
    assert lit(browser)[0] == ["conv4_block6/conv2"]


def test_blocks_fold_and_unfold(visit):
    browser = visit("alexnet_bvlc.html")
    handle = next(b for b in browser.find_elements(By.CSS_SELECTOR, ".block button") if b.text == "Block 2")
    body = browser.find_element(By.ID, handle.get_attribute("aria-controls"))
    assert "conv2" in body.text
    handle.click()
    assert not body.is_displayed()
    assert handle.get_attribute("aria-expanded") == "false"
    handle.click()
    assert body.is_displayed()
    fold = browser.find_element(By.ID, "fold")
    bodies = browser.find_elements(By.CSS_SELECTOR, ".code tbody[id]")
    fold.click()
    assert not any(body.is_displayed() for body in bodies)
    fold.click()
    assert all(body.is_displayed() for body in bodies)


def shown(browser):
    """The headings of the columns that are visible."""
    headings = browser.find_elements(By.CSS_SELECTOR, ".code thead th")
    return [heading.find_element(By.TAG_NAME, "span").text for heading in headings if heading.is_displayed()]


def test_columns_hide_and_leave_their_room(visit):
    browser = visit("alexnet_bvlc.html")
    assert shown(browser) == ["Keras", "PyTorch", "TF1 style"]
    heading = browser.find_elements(By.CSS_SELECTOR, ".code thead th")[-1]
    before = heading.size["width"]
    browser.find_element(By.CSS_SELECTOR, "label[for=show-torch]").click()
    assert shown(browser) == ["Keras", "TF1 style"]
    assert heading.size["width"] > 1.4 * before
    browser.find_element(By.CSS_SELECTOR, "label[for=show-keras]").click()
    assert shown(browser) == ["TF1 style"]
    browser.find_element(By.CSS_SELECTOR, "label[for=show-torch]").click()
    browser.find_element(By.CSS_SELECTOR, "label[for=show-keras]").click()
    assert shown(browser) == ["Keras", "PyTorch", "TF1 style"]


def test_keras_is_shown_as_sequential_or_functional(visit):
    browser = visit("alexnet_bvlc.html")
    table = browser.find_element(By.CSS_SELECTOR, "table.code")
    assert 'name="conv1")(x)' in table.text
    browser.find_element(By.CSS_SELECTOR, "label[for=form-sequential]").click()
    assert "keras.Sequential(" in table.text
    assert 'name="conv1")(x)' not in table.text
    assert shown(browser) == ["Keras", "PyTorch", "TF1 style"]


def test_on_a_phone_columns_are_tabs(visit):
    browser = visit("alexnet_bvlc.html", PHONE)
    assert shown(browser) == ["Keras"]
    for tab, title in (("torch", "PyTorch"), ("tf1", "TF1 style"), ("keras", "Keras")):
        browser.find_element(By.CSS_SELECTOR, f"label[for=tab-{tab}]").click()
        assert shown(browser) == [title]


def test_a_line_number_leads_to_the_line_in_its_file(visit):
    browser = visit("googlenet.html")
    cells = browser.find_elements(By.CSS_SELECTOR, ".code td[data-g]")
    cell = next(cell for cell in cells if "self.inception_4c" in cell.text)
    code = cell.find_element(By.TAG_NAME, "code").text
    cell.find_element(By.TAG_NAME, "a").click()
    assert "source/torch_impl/googlenet.html" in browser.current_url
    target = browser.find_element(By.CSS_SELECTOR, ":target code")
    assert target.text.strip() == code.strip()


def test_the_keyboard_goes_everywhere(visit):
    browser = visit("alexnet_bvlc.html")
    keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
    body = browser.find_element(By.TAG_NAME, "body")
    body.send_keys(keys.ARROW_DOWN, keys.ARROW_DOWN, keys.ARROW_DOWN, keys.ARROW_UP)
    assert lit(browser)[0] == ["relu1"]
    body.send_keys(keys.ESCAPE)
    assert lit(browser) == [[], [], []]
    body.send_keys("2")
    assert shown(browser) == ["Keras", "TF1 style"]
    body.send_keys("2", "s")
    assert "keras.Sequential(" in browser.find_element(By.CSS_SELECTOR, "table.code").text
    browser = visit("alexnet_bvlc.html")
    reached = set()
    for _ in range(30):
        browser.switch_to.active_element.send_keys(keys.TAB)
        element = browser.switch_to.active_element
        reached.add(element.get_attribute("id") or element.get_attribute("class") or element.text)
    assert {"skip", "show-keras", "form-functional", "fold", "copy", "scroll canvas", "Block 2"} <= reached


def test_the_tabulator_stops_at_the_lines_of_the_lit_layer_only(visit):
    browser = visit("alexnet_bvlc.html#conv2")
    stops = browser.execute_script("""
        return [...document.querySelectorAll(".code td > a, .layers tbody a")].filter((link) => link.tabIndex === 0)
            .map((link) => link.closest(".lit") !== null);
    """)
    assert stops == [True] * 5  # a line in each form of each framework, and the row of the table


def test_the_copy_button_copies_code_that_compiles(visit):
    browser = visit("alexnet_bvlc.html")
    browser.execute_script(
        "window.copied = []; navigator.clipboard.writeText = async (text) => { copied.push(text); };"
    )
    for button in browser.find_elements(By.CSS_SELECTOR, ".copy"):
        if button.is_displayed():
            button.click()
    copied = browser.execute_script("return window.copied")
    assert len(copied) == 3
    for code, builder in zip(copied, ("alexnet_bvlc()", "AlexNetBVLC()", "alexnet_bvlc(images"), strict=True):
        compile(code, builder, "exec")
        assert builder in code
        assert "<\\/" not in code


def test_light_and_dark_differ(visit):
    colours = set()
    for scheme in ("light", "dark"):
        browser = visit("alexnet_bvlc.html", scheme=scheme)
        colours.add(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2


def test_print_shows_all_code_and_no_controls(visit):
    browser = visit("alexnet_bvlc.html")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not browser.find_element(By.CSS_SELECTOR, ".toolbar").is_displayed()
    assert "fc8=nn.Linear" in browser.find_element(By.CSS_SELECTOR, "table.code").text
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.parametrize("page", ["index.html", "alexnet_bvlc.html#conv2", "source/torch_impl/resnet.html"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_axe_finds_no_serious_violation(visit, page, scheme, size):
    package = pytest.importorskip("axe_core_python")
    browser = visit(page, size, scheme)
    browser.execute_script((Path(package.__file__).parent / "axe.min.js").read_text())
    found = browser.execute_async_script("const done = arguments[0]; axe.run({ preload: false }).then(done);")
    assert len(found["passes"]) > 10
    assert [
        (v["id"], v["nodes"][0]["html"]) for v in found["violations"] if v["impact"] in ("serious", "critical")
    ] == []
