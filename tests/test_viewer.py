"""Pictures that open on a page: all their grey values arrive, and a browser shows what is asked."""

import json
import re
import zlib
from base64 import b64decode

import numpy as np
import pytest
from dicom_factory import ROOT, write
from PIL import Image
from predict_factory import BrightSpots, content, spot
from test_report_browser import ARGUMENTS, CHROMIUM

from pipeline.data.intensity import Intensity
from pipeline.dicom.read.pixels import Depth, read_depth, read_frame
from pipeline.predict.formats import pixels
from pipeline.predict.formats.pixels import PixelWriter, Wanted, script
from pipeline.predict.options import Options
from pipeline.predict.run import predict_folder

NOISE = np.random.default_rng(0)


def in_a_browser(test):
    """Mark a test that needs Chromium."""
    reason = "needs Chromium: apt-get install chromium"
    return pytest.mark.slow(pytest.mark.skipif(CHROMIUM is None, reason=reason)(test))


def unpacked(text: str):
    """What a script hands over: description, values (C, H, W) and table, as viewer.js reads."""
    about, values, table = re.fullmatch(
        r'descryPixels\(({.*?}), "(.*?)", "(.*?)"\);\n', text
    ).groups()
    about = json.loads(about)
    shape = about["channels"], about["height"], about["width"]
    planes = np.frombuffer(zlib.decompress(b64decode(values)), np.uint8)
    planes = planes.reshape(-1, *shape).astype(np.int64)
    steps = planes[0] * 256 + planes[1] if about["bits"] == 16 else planes[0]
    values = np.cumsum(steps, axis=-1) % 2 ** about["bits"]
    tones = np.cumsum(np.frombuffer(zlib.decompress(b64decode(table)), np.uint8), dtype=np.uint8)
    return about, values, tones


@pytest.mark.parametrize(
    ("values", "elements", "first", "slope"),
    [
        (NOISE.integers(0, 4096, (9, 7), np.uint16), {"BitsStored": 12}, 0, 1),
        (NOISE.integers(-999, 999, (9, 7), np.int16), {"RescaleIntercept": -24}, -24, 1),
        (
            NOISE.integers(5, 4000, (9, 7), np.uint16),
            {"WindowCenter": 900, "WindowWidth": 300, "RescaleSlope": 2, "RescaleIntercept": -1},
            -1,
            2,
        ),
        (
            NOISE.integers(0, 65536, (9, 7), np.uint16),
            {"PhotometricInterpretation": "MONOCHROME1"},
            0,
            1,
        ),
        (NOISE.integers(0, 256, (9, 7), np.uint8), {}, 0, 1),
        (NOISE.integers(0, 256, (9, 7, 3), np.uint8), {}, 0, 1),
    ],
    ids=["12 bits", "signed", "window", "inverted", "8 bits", "colour"],
)
def test_every_value_arrives_and_looks_as_the_model_saw_it(
    tmp_path, values, elements, first, slope
):
    path = write(tmp_path / "a.dcm", values, **elements)
    depth = read_depth(path, Intensity())
    about, arrived, tones = unpacked(script(depth))
    seen = read_frame(path, Intensity()).pixels
    if values.ndim == 3:
        assert len(tones) == 0 and (np.moveaxis(arrived, 0, 2) == seen).all()
        return
    assert (tones[arrived[0]] == seen).all()
    modality = about["first"] + about["slope"] * arrived[0]
    assert (modality == values.astype(int) * slope + first).all()
    assert about["inverted"] == ("PhotometricInterpretation" in elements)


def test_a_larger_picture_gives_every_second_pixel(monkeypatch):
    monkeypatch.setattr(pixels, "MOST", 100)
    values = np.arange(16 * 12, dtype=np.uint16).reshape(12, 16)
    about, arrived, _ = unpacked(script(Depth(values, values.astype(np.uint8))))
    assert about["every"] == 2 and (arrived[0] + values.min() == values[::2, ::2]).all()


@pytest.mark.parametrize("count", [0, 2, 100])
def test_the_best_pictures_are_kept(tmp_path, count):
    (tmp_path / "in").mkdir()
    for i, value in enumerate((210, 250, 230)):
        write(tmp_path / f"in/{i}.dcm", spot(value), SOPInstanceUID=f"{ROOT}1{i}")
    Image.fromarray(spot(220)).save(tmp_path / "in/3.png")
    names = [f"000002-{ROOT}11.js", f"000003-{ROOT}12.js", "000004-3.png.js", f"000001-{ROOT}10.js"]
    for workers, out in ((0, tmp_path / "one"), (2, tmp_path / "two")):
        options = Options(workers=workers, pixels=count)
        predict_folder(tmp_path / "in", out, BrightSpots(), options=options)
        kept = sorted(path.name for path in (out / "report").rglob("*.js"))
        assert kept == sorted(names[:count])
    assert content(tmp_path / "one") == content(tmp_path / "two")
    page = (tmp_path / "one/report.html").read_text()
    assert page.count("report/pixels/") == len(kept) and page.count("data-view=") == 4


def test_a_file_that_cannot_be_read_again_keeps_its_overlay_alone(tmp_path):
    (tmp_path / "torn.dcm").write_bytes(write(tmp_path / "a.dcm", spot()).read_bytes()[:-900])
    writer = PixelWriter(tmp_path, Intensity(), tmp_path / "out")
    for name in ("gone.dcm", "torn.dcm"):
        assert list(writer(Wanted(name, ((0, "report/pixels/x.js"),)))) == []
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Results for a CT slice of 12 bits, whose window hides a step of 5 HU, and for an image."""
    folder = tmp_path_factory.mktemp("viewed")
    (folder / "in").mkdir()
    values = np.full((40, 50), 1024, np.uint16)
    values[:, 25:] += 5
    values[10:18, 20:25] = 4000
    window = {"WindowCenter": 0, "WindowWidth": 4000, "RescaleIntercept": -1024, "RescaleSlope": 1}
    write(folder / "in/ct.dcm", values, Modality="CT", BitsStored=12, **window)
    colour = np.dstack([spot(), spot(100), spot(30)])
    Image.fromarray(colour).save(folder / "in/p.png")
    predict_folder(folder / "in", folder / "out", BrightSpots(), options=Options(workers=0))
    return folder / "out"


@pytest.fixture
def opened(found):
    """Opens the page and its first picture; afterwards nothing may have gone wrong."""
    from playwright.sync_api import sync_playwright

    wrong = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)

        def start(width=1280, scheme="light"):
            size = {"width": width, "height": 800}
            page = browser.new_page(viewport=size, color_scheme=scheme, offline=True)
            page.on("console", lambda message: wrong.append(message.text))
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.said = wrong
            page.goto((found / "report.html").as_uri())
            page.locator("[data-view]").first.press("Enter")
            page.wait_for_selector("#viewer canvas:not([hidden])")
            page.wait_for_function("document.querySelector('#viewer canvas').width === 50")
            return page

        yield start
        browser.close()
    assert [said for said in wrong if "readback" not in said] == []  # by `tone`, below


def tone(page, x, y):
    """Red of a pixel of the picture, once what was asked for is drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    return page.evaluate(
        "([x, y]) => document.querySelector('#viewer canvas').getContext('2d')"
        ".getImageData(x, y, 1, 1).data[0]",
        [x, y],
    )


@in_a_browser
def test_a_window_shows_what_eight_bits_hide(opened):
    page = opened()
    assert tone(page, 10, 30) == tone(page, 30, 30) == 128  # 5 HU of 4000
    page.locator("[name=width]").fill("10")
    page.locator("[name=width]").press("Enter")
    assert page.input_value("[name=preset]") == "own"
    assert tone(page, 30, 30) - tone(page, 10, 30) > 100
    page.select_option("[name=preset]", "soft tissue")
    assert (page.input_value("[name=centre]"), page.input_value("[name=width]")) == ("40", "400")
    assert tone(page, 10, 30) == 102 and tone(page, 22, 12) == 255  # (0 - 40) / 400 + 0.5
    page.keyboard.press("i")
    assert tone(page, 10, 30) == 153
    page.keyboard.press("r")
    assert tone(page, 10, 30) == 128
    page.keyboard.press("w")
    page.mouse.move(600, 400)
    page.mouse.down()
    page.mouse.move(500, 400)
    page.mouse.up()
    assert page.input_value("[name=width]") == "2426.1"  # 4000 e^-0.5
    assert re.fullmatch(r"\d+, \d+: -?\d+ HU", page.text_content("#viewer .value"))


@in_a_browser
def test_keys_hide_zoom_and_go_on(opened):
    page = opened()
    label = page.locator("#viewer svg text")
    assert label.text_content() == "1 spot 1.00"
    page.keyboard.press("c")
    page.keyboard.press("s")
    assert label.text_content() == "1"
    page.keyboard.press("b")
    assert page.locator("#viewer svg rect").count() == 0
    page.keyboard.press("b")
    zoom = page.locator("#viewer .zoom")
    whole = zoom.text_content()
    page.keyboard.press("+")
    assert float(zoom.text_content()[:-1]) == pytest.approx(1.4 * float(whole[:-1]), abs=2)
    page.keyboard.press("1")
    assert zoom.text_content() == "100 %"
    box = page.locator("#viewer svg .line").bounding_box()
    layer = page.locator("#viewer canvas").bounding_box()
    assert (layer["width"], layer["height"]) == (50, 40)
    corner = box["x"] - layer["x"], box["y"] - layer["y"]
    assert corner == pytest.approx((20, 10), abs=1.5)  # the line has a width
    page.keyboard.press("0")
    assert zoom.text_content() == whole
    assert page.locator("[data-do=truth]").is_hidden()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#viewer .name:has-text('p.png')")
    page.wait_for_function("document.querySelector('#viewer [name=width]').value === '255'")
    assert page.text_content("#viewer .place") == "2 of 2" and tone(page, 11, 21) == 255
    page.keyboard.press("Escape")
    assert page.locator("#viewer").is_hidden()
    assert page.evaluate("document.activeElement.dataset.view.includes('p.png')")


@in_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_screen_and_follows_the_scheme(opened, width, scheme):
    page = opened(width, scheme)
    sides = page.evaluate(
        "[...document.querySelectorAll('#viewer *:not(svg *)')]"
        ".filter((one) => one.offsetParent && !one.closest('.stage'))"
        ".map((one) => one.getBoundingClientRect().right)"
    )
    assert max(sides) <= width
    picture, stage = (page.locator(f"#viewer {k}").bounding_box() for k in ("canvas", ".stage"))
    for place, size in (("x", "width"), ("y", "height")):
        assert picture[place] >= stage[place] - 1
        assert picture[place] + picture[size] <= stage[place] + stage[size] + 1
    ground = page.eval_on_selector("#viewer", "e => getComputedStyle(e).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 384) is (scheme == "dark")
    page.emulate_media(media="print")
    assert page.locator("#viewer").is_hidden() and page.locator(".gallery img").first.is_visible()


@in_a_browser
def test_no_other_script_runs(opened):
    page = opened()
    page.evaluate(
        "() => { document.body.setAttribute('onclick', 'window.ran = 1');"
        " const added = Object.assign(document.createElement('script'), {text: 'window.ran = 2'});"
        " document.head.append(added); document.body.click(); }"
    )
    assert page.evaluate("window.ran ?? 0") == 0
    assert len(page.said) == 2 and all("Content Security Policy" in one for one in page.said)
    page.said.clear()
