"""`triptych explore --weights FILE --image PHOTO`: what the weights see, and what is said of files that are wrong."""

import json
import re
from base64 import b64decode
from functools import cache
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from test_filters import written

from common import get_spec, random_weights, write_weights_file
from common.errors import TriptychError
from common.explorer.inside import pictures, recording
from common.explorer.inside.layers import draw_layers
from common.explorer.inside.page import inside, read_subject
from common.explorer.inside.pictures import ACROSS, COLOURS, LIMIT, Album
from common.explorer.results import SCALE
from common.explorer.site import network_page
from common.porting.reading import Reading
from common.specs.photographs import photograph, read_photograph
from parity_tests.commands import run

READING = Reading(round=True, finite=False)


def prepared(architecture):
    return {"preprocessing": get_spec(architecture).preprocessing.as_json()}


@pytest.fixture(scope="module")
def cat(tmp_path_factory):
    path = tmp_path_factory.mktemp("photograph") / "cat.jpg"
    photograph(0).save(path)
    return path


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    """The site that shows LeNet's weights from two seeds, for seven classes, on a photograph."""
    return site_of_lenet(tmp_path_factory.getbasetemp())


@cache
def site_of_lenet(base):
    """Made once, for this file and for the browser's."""
    pytest.importorskip("torch")
    folder = base / "inside"
    folder.mkdir()
    photograph(0).save(cat := folder / "cat.jpg")
    paths = []
    for seed in (1, 2):
        paths.append(folder / f"seed{seed}.safetensors")
        metadata = prepared("lenet_caffe") | {"classes": json.dumps([f"digit {n}" for n in range(7)])}
        write_weights_file(paths[-1], random_weights("lenet_caffe", seed=seed, num_classes=7), metadata=metadata)
    options = ["--image", cat, "--out", folder / "site", "--arch", "lenet_caffe"]
    with pytest.MonkeyPatch.context() as patch:
        assert run(patch, "explore", "--weights", paths[0], "--weights", paths[1], *options) == 0
    return folder / "site"


def images(text):
    """The part of a page that looks inside, and the attributes of every picture in it."""
    part = text[text.index('<section class="inside"') : text.index('<section class="sources')]
    found = [dict(re.findall(r'(\w+)="([^"]*)"', tag)) for tag in re.findall(r"<img ([^>]*)>", part)]
    return part, found


def test_every_picture_has_its_size_its_text_and_its_file(looked):
    _, found = images((looked / "lenet_caffe.html").read_text(encoding="utf-8"))
    assert all(int(each["width"]) > 0 and int(each["height"]) > 0 and each["alt"] for each in found)
    files = {each["src"] for each in found if not each["src"].startswith("data:")}
    assert {f"inside/{path.name}" for path in (looked / "inside").iterdir()} == files
    texts = [each["alt"] for each in found]
    assert "conv1 filter 17, channels L" in texts
    assert "conv2, 50 of 50 channels, TF1 style, cat.jpg, seed2.safetensors" in texts


def test_every_layer_and_the_likeliest_classes_are_there(looked):
    part, _ = images((looked / "lenet_caffe.html").read_text(encoding="utf-8"))
    for layer in get_spec("lenet_caffe").layers:
        assert f'data-layer="{layer.name}"' in part
    assert part.count("digit ") >= 10
    assert part.count('<span class="v certified">certified</span> every gradient of every layer') == 6
    assert part.count("every output of every layer") == 6
    assert "diverged" not in part


def test_pictures_of_a_former_look_are_removed_and_those_of_others_are_not(tmp_path):
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "mine.webp").write_bytes(b"my own")
    (folder / "0123456789abcdef.webp").write_bytes(b"of a former album")
    album = Album()
    album.files["fedcba9876543210.webp"] = b"new"

    def interrupted():
        with album.written(folder):
            assert (folder / "fedcba9876543210.webp").read_bytes() == b"new"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sorted(path.name for path in folder.iterdir()) == ["0123456789abcdef.webp", "mine.webp"]
    with album.written(folder):
        pass
    assert sorted(path.name for path in folder.iterdir()) == ["fedcba9876543210.webp", "mine.webp"]


def test_without_a_photograph_filters_and_values_are_shown_and_nan_with_its_place(tmp_path):
    def change(kernel):
        kernel[3, 0, 1, 2] = np.nan

    path = written(tmp_path / "a.safetensors", "lenet_caffe", change)
    shown = inside(read_subject([path], [], None, READING))
    assert "1 of its tensors or filters hold NaN" in shown.told
    assert shown.album.files == {}
    page, _ = network_page(get_spec("lenet_caffe"), inside=shown)
    part, found = images(page)
    assert "conv1 filter 3 is NaN in channel 0 at row 1, column 2" in part
    (drawn,) = (each for each in found if each["alt"] == "conv1 filter 3, channels L")
    with Image.open(BytesIO(b64decode(drawn["src"].partition(",")[2]))) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert (pixels == (255, 0, 255)).all(axis=2).nonzero() == ([1], [2])


def test_what_cannot_be_looked_at_is_one_sentence_and_leaves_nothing(cat, tmp_path, monkeypatch, capsys):
    nan = written(tmp_path / "nan.safetensors", "lenet5", lambda k: k.__setitem__(0, np.nan), **prepared("lenet5"))
    fine = written(tmp_path / "fine.safetensors", "lenet_caffe", **prepared("lenet_caffe"))
    unprepared = written(tmp_path / "unprepared.safetensors", "lenet_caffe")
    (tmp_path / "text.jpg").write_text("no photograph")
    before = sorted(tmp_path.iterdir())
    for arguments, said in [
        (["--weights", nan, "--image", cat], "c1/weight holds 25 values that are NaN or infinite, the first at [0, 0"),
        (["--weights", nan, "--weights", fine], "two files can be compared only if they are of the same network"),
        (["--weights", fine, "--arch", "vgg16"], "vgg16"),
        (["--weights", fine, "--image", tmp_path / "text.jpg"], "is not an image"),
        (["--weights", fine, "--image", tmp_path / "none.jpg"], "cannot read the image"),
        (["--weights", unprepared, "--image", cat], "nothing says how to prepare photographs"),
        (["--weights", fine, *["--image", cat] * 5], "at most 4 can be compared"),
        (["--weights", fine, "--labels", tmp_path / "text.jpg"], "1 labels"),
        (["--image", cat], "--image needs --weights FILE"),
        (["--weights", tmp_path / "text.jpg"], "format"),
    ]:
        assert run(monkeypatch, "explore", *arguments, "--out", tmp_path / "site") == 2, arguments
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1), err
        assert said in err
        assert sorted(tmp_path.iterdir()) == before


def test_frameworks_that_cannot_run_are_named(tmp_path, cat, monkeypatch):
    path = written(tmp_path / "a.safetensors", "lenet_caffe", **prepared("lenet_caffe"))
    subject = read_subject([path], [cat], "lenet_caffe", READING)
    monkeypatch.setattr(recording, "FRAMEWORKS", {"Keras": ()})
    with pytest.raises(TriptychError, match="none of them is installed"):
        inside(subject)


# Pictures


def test_a_wrong_layer_lights_up_in_the_map_of_differences():
    generator = np.random.default_rng(0)
    right = generator.normal(size=(20, 12, 9)).astype(np.float32)
    wrong = right.copy()
    channel = int(right.mean(axis=(1, 2)).argmax())
    wrong[channel] *= np.float32(1.01)
    album = Album()
    (panel,) = draw_layers(album, ["conv"], 1, lambda name, view: {"Keras": right, "TF1 style": wrong})["conv"]
    assert panel.ulp > 1e4
    assert panel.first.channels[0] == channel
    assert (panel.first.side, panel.first.across, panel.rest, panel.left_out) == ((12, 9), ACROSS, None, 0)
    with Image.open(BytesIO(album.files[panel.first.distance.source.rpartition("/")[2]])) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert (pixels[:12, :9] == COLOURS[7]).all(), "one per cent is 2^16 to 2^17 numbers"
    assert (pixels[:12, 9:] == COLOURS[0]).all()


def test_distances_are_counted_in_float32_numbers():
    one = np.float32(1)
    left = np.array([one, one, 0, -0.0, np.nan, np.nan, 1e-45], np.float32)
    right = np.array([one, np.nextafter(one, 2), -0.0, 1e-45, np.nan, 1, -1e-45], np.float32)
    assert pictures.ulps(left, right).tolist() == [0, 1, 0, 1, 0, 1 << 32, 2]
    assert pictures.ulp_steps([left, right]).tolist() == [0, 1, 0, 1, 0, 8, 2]
    assert len(SCALE) == len(pictures.ULP_LABELS) == len(pictures.ULP_STEPS) + 1


def test_what_is_not_finite_is_never_black():
    maps = np.zeros((2, 8, 8), np.float32)
    maps[0, 2:4] = np.inf
    maps[1] = 5
    album = Album()
    (panel,) = draw_layers(album, ["a"], 1, lambda name, view: {"PyTorch": maps})["a"]
    assert panel.first.channels == (0, 1)
    assert (panel.first.distance, panel.ulp) == (None, None)
    with Image.open(BytesIO(album.files[panel.first.pictures["PyTorch"].source.rpartition("/")[2]])) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert (pixels[2:4, :8] == (255, 0, 255)).all()
    assert (pixels[4:, :8] == 0).all()


def test_pictures_stay_below_the_limit_however_many_layers_there_are():
    """Noise, which encoding does not make smaller, in three frameworks; 14 layers have what is theirs of 700."""
    generator = np.random.default_rng(0)
    shapes = [(64, 28, 28), (1920, 7, 7), (1000,)]
    album = Album(inline=LIMIT - LIMIT // 50)

    def maps_of(name, view):
        maps = generator.normal(size=shapes[int(name) % 3]).astype(np.float32)
        return {framework: maps + np.float32(number * 2**-20) for number, framework in enumerate("KPT")}

    drawn = draw_layers(album, [*map(str, range(14))], 1, maps_of)
    assert LIMIT * 0.98 < album.size <= LIMIT
    assert all(panels[0].first for panels in drawn.values())
    counted = [len(p.first.channels) + (len(p.rest.channels) if p.rest else 0) + p.left_out for (p,) in drawn.values()]
    assert counted == [shapes[number % 3][0] for number in range(14)]


@pytest.mark.parametrize("kind", ["one pixel", "16 bits", "CMYK", "turned", "transparent", "grey"])
def test_pictures_of_every_kind_are_shown_as_a_person_sees_them(kind, tmp_path):
    path = tmp_path / ("a.jpg" if kind in ("CMYK", "turned") else "a.png")
    if kind == "one pixel":
        Image.new("RGB", (1, 1), "red").save(path)
    elif kind == "16 bits":
        Image.fromarray(np.full((20, 30), 65535, np.uint16)).save(path)
    elif kind == "CMYK":
        Image.new("CMYK", (30, 20), (0, 255, 255, 0)).save(path)
    elif kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (30, 20), "red").save(path, exif=exif)
    elif kind == "transparent":
        Image.new("RGBA", (30, 20), (0, 0, 0, 0)).save(path)
    else:
        Image.new("L", (30, 20), 255).save(path)
    shown = pictures.original(read_photograph(path))
    assert shown.shape == {"one pixel": (1, 1, 3), "turned": (30, 20, 3)}.get(kind, (20, 30, 3))
    expected = (255, 0, 0) if kind in ("one pixel", "CMYK", "turned") else (255, 255, 255)
    assert (abs(shown.astype(int) - expected) < 6).all()
