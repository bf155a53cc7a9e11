"""What a run writes for people and for archives, as a whole: report.html and DICOM objects."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_factory import ROOT, write
from object_factory import errors_of
from PIL import Image
from predict_factory import BrightSpots, Found, Stops, content, rows_of, spot
from pydicom import uid

from pipeline.predict.options import Objects, Options
from pipeline.predict.pages import write as pages
from pipeline.predict.run import predict_folder

EVERYTHING = Options(workers=0, batch_size=2, objects=Objects(kinds=("sr", "gsps", "sc")))


@pytest.fixture
def source(tmp_path):
    """Three studies, one without a finding, and what belongs to none."""
    folder = tmp_path / "in"
    folder.mkdir()
    for i, value in enumerate((210, 250, 230, 100)):
        study = ROOT + ("20" if i < 2 else f"2{i}")
        extra = {"SOPInstanceUID": f"{ROOT}10{i}", "StudyInstanceUID": study}
        write(folder / f"{i}.dcm", spot(value), PixelSpacing=[1, 1], **extra)
    stack = np.stack([spot(), spot(100), spot(at=(0, 0, 3, 4))])
    many = uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage
    extra = {"SOPInstanceUID": ROOT + "109", "SOPClassUID": many}
    write(folder / "stack", stack, 3, StudyInstanceUID=ROOT + "20", **extra)
    Image.fromarray(spot(220)).save(folder / "p&amp.png")
    (folder / "broken.dcm").write_bytes(b"no DICOM")
    return folder


SAMPLE = Path(__file__).parents[1] / "datasets/rsna/sample/stage_2_train_images"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class _Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.addresses, self.pictures, self.anchors = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors.add(values.get("id"))
        if tag == "a":
            self.addresses.append(values["href"])
        if tag == "img":
            assert values["alt"] and values["loading"] == "lazy"
            self.pictures.append(values["src"])


def page_of(path):
    return _Page(path.read_text(encoding="utf-8"))


def test_the_gallery_shows_the_best_first(source, tmp_path):
    predict_folder(source, tmp_path / "out", BrightSpots(), options=EVERYTHING)
    text = (tmp_path / "out" / "report.html").read_text()
    captions = re.findall(r"<strong>spot ([\d.]+)</strong><br>(.*?)<br>", text)
    assert captions == [
        ("1.00", "stack, frame 1"), ("1.00", "stack, frame 3"), ("0.98", "1.dcm"),
        ("0.90", "2.dcm"), ("0.86", "p&amp;amp.png"), ("0.82", "0.dcm"),
    ]  # fmt: skip
    for words in ("Research use only", "broken.dcm", "Checkpoint (SHA-256)", "0123"):
        assert words in text
    study = (tmp_path / "out" / "report" / "study-000001.html").read_text()
    assert f"Study Instance UID {ROOT}20." in study
    assert study.index("0.dcm") < study.index("1.dcm") < study.index("stack, frame 1")
    assert "5.0 × 8.0" in study


@pytest.mark.parametrize(
    ("validation", "words"),
    [
        ({"AP": 0.01, "objects": 2}, ["AP 0.010 on its validation", "chosen on 2 objects"]),
        ({"AP": 0.5, "objects": 200}, []),
    ],
)
def test_a_model_that_is_worth_little_says_so_everywhere(tmp_path, caplog, validation, words):
    (tmp_path / "in").mkdir()
    Image.fromarray(spot(100)).save(tmp_path / "in/p.png")  # nothing bright
    model = BrightSpots(meta={"validation": validation})
    predict_folder(tmp_path / "in", tmp_path / "out", model, options=Options(workers=0))
    page = (tmp_path / "out/report.html").read_text()
    head = page[: page.index("<main")]
    told = json.loads((tmp_path / "out/run.json").read_text())["doubts"]
    assert len(told) == len(words) == head.count('class="warning"')
    for text in (head, " ".join(told), caplog.text):
        assert all(word in text for word in words)
    known = f"({validation['objects']} objects) the model reaches AP {validation['AP']:.3f}"
    assert "no finding" in page and known in head


def test_every_link_leads_somewhere(source, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "PER_PAGE", 2)
    monkeypatch.setattr(pages, "ROWS", 2)
    out = tmp_path / "out"
    predict_folder(source, out, BrightSpots(), options=EVERYTHING)
    seen, waiting = set(), {out / "report.html"}
    while waiting:
        path = waiting.pop()
        seen.add(path)
        page = page_of(path)
        for address in page.addresses + page.pictures:
            name, _, anchor = address.partition("#")
            target = (path.parent / name).resolve() if name else path
            assert target.exists(), (path.name, address)
            assert not anchor or anchor in page_of(target).anchors
            waiting |= {target} - seen if target.suffix == ".html" else set()
    written = set(out.rglob("*.html"))
    assert written == seen  # all pages can be reached
    names = {path.name for path in written}
    assert {"found-3.html", "studies-2.html", "study-000001-2.html"} <= names
    assert "found-4.html" not in names


def test_nothing_found_and_nothing_read(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "notes.txt").write_text("nothing to see")
    predict_folder(folder, tmp_path / "out", BrightSpots(), options=EVERYTHING)
    text = (tmp_path / "out" / "report.html").read_text()
    assert "Nothing was found." in text and "No file could be read." in text
    assert not list((tmp_path / "out" / "report").iterdir())


def test_without_overlays_the_tables_have_everything(source, tmp_path):
    predict_folder(
        source, tmp_path / "out", BrightSpots(), options=Options(workers=0, overlays="none")
    )
    text = (tmp_path / "out" / "report.html").read_text()
    assert "6 pictures are not drawn" in text
    assert not page_of(tmp_path / "out" / "report.html").pictures
    assert "stack" in (tmp_path / "out" / "report" / "study-000001.html").read_text()


def test_objects_and_pages_are_the_same_after_a_stop(source, tmp_path):
    predict_folder(source, tmp_path / "whole", BrightSpots(), options=EVERYTHING)
    with pytest.raises(KeyboardInterrupt):
        predict_folder(source, tmp_path / "out", Stops(), options=EVERYTHING)
    assert list((tmp_path / "out.partial" / "sr").iterdir())
    second = BrightSpots()
    predict_folder(source, tmp_path / "out", second, options=EVERYTHING)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert len(second.calls) < 5


def test_objects_of_other_options_do_not_stay(source, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        predict_folder(source, tmp_path / "out", Stops(), options=EVERYTHING)
    options = Options(workers=0, batch_size=2)
    predict_folder(source, tmp_path / "out", BrightSpots(), options=options)
    assert not [p for p in (tmp_path / "out").iterdir() if p.name in ("sr", "gsps", "sc")]


def test_objects_of_every_image_and_reasons_for_the_rest(source, tmp_path):
    summary = predict_folder(source, tmp_path / "out", BrightSpots(), options=EVERYTHING)
    out = tmp_path / "out"
    assert summary.counts["dicom_objects"] == {"sr": 5, "gsps": 4, "sc": 5, "seg": 0}
    assert json.loads((out / "run.json").read_text())["counts"] == summary.counts
    names = {kind: sorted(p.name for p in (out / kind).iterdir()) for kind in ("gsps", "sc")}
    assert names["gsps"] == [
        f"00000{n}-{ROOT}10{i}.dcm" for n, i in ((1, 0), (2, 1), (3, 2), (7, 9))
    ]
    assert names["sc"][-1] == f"000007-{ROOT}109-frame0003.dcm"
    assert [(row["path"], row["kind"]) for row in rows_of(out / "warnings.csv")] == [
        ("p&amp.png", "no object written")
    ]
    studies = {pydicom.dcmread(path).StudyInstanceUID for path in (out / "sr").iterdir()}
    assert studies == {ROOT + "20", ROOT + "22", ROOT + "23"}
    series = {
        pydicom.dcmread(p).SeriesInstanceUID
        for k in ("sr", "gsps", "sc")
        for p in (out / k).iterdir()
    }
    assert len(series) == 3  # all sources are of one series; each kind has its own


def test_real_radiographs_give_valid_objects(tmp_path):
    class Half(BrightSpots):
        def look(self, image):
            height, width = image.shape
            box = np.array([[0, height / 3, width / 2, height]])
            return Found(box, np.array([0.7]), np.array([1]))

    (tmp_path / "in").mkdir()
    for path in sorted(SAMPLE.glob("*.dcm"))[:2]:
        shutil.copy(path, tmp_path / "in")
    predict_folder(tmp_path / "in", tmp_path / "out", Half(), options=EVERYTHING)
    made = sorted((tmp_path / "out").rglob("*.dcm"))
    assert [path.parent.name for path in made] == ["gsps"] * 2 + ["sc"] * 2 + ["sr"] * 2
    assert [errors_of(path) for path in made] == [[]] * 6


def test_a_file_that_fails_leaves_no_objects(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    stack = np.stack([spot()] * 3)
    many = uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage

    class Fails(BrightSpots):
        def look(self, image):
            if image[0, 0] == 77:
                raise RuntimeError
            return super().look(image)

    stack[2, 0, 0] = 77
    write(folder / "a", stack, 3, SOPClassUID=many)
    predict_folder(folder, tmp_path / "out", Fails(), options=EVERYTHING)
    left = [p.name for p in (tmp_path / "out").rglob("*") if p.suffix in (".dcm", ".png", ".jpg")]
    assert left == []


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(source, tmp_path, scheme):
    from playwright.sync_api import sync_playwright

    predict_folder(source, tmp_path / "out", BrightSpots(), options=EVERYTHING)
    wrong = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(
            viewport={"width": 375, "height": 800},
            color_scheme=scheme,
            offline=True,
            java_script_enabled=False,  # with it the viewer opens, see test_viewer.py
        )
        page.on("console", lambda message: wrong.append(message.text))
        page.on("requestfailed", lambda request: wrong.append(request.url))
        for path in (tmp_path / "out").rglob("*.html"):
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") == 375
            for picture in page.locator("main img").all():
                picture.scroll_into_view_if_needed()
                page.wait_for_function("i => i.complete", arg=picture.element_handle())
                assert picture.evaluate("i => i.naturalWidth") > 0
        page.goto((tmp_path / "out" / "report.html").as_uri())
        for _ in range(40):  # the keyboard reaches the first picture and opens it
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.querySelector('img') !== null"):
                break
        page.keyboard.press("Enter")
        page.wait_for_url("**/overlays/*.png")
        browser.close()
    assert wrong == []
