"""The report in headless Chromium: links, console, width, keyboard, print."""

import shutil
from pathlib import Path

import pytest
from run_factory import make_dataset, make_run

from pipeline.report.write import compare_folders, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]
# What sticks out of the page, except inside what scrolls by itself
TOO_WIDE = """() => [...document.querySelectorAll("body *")].filter(element =>
    element.getBoundingClientRect().right > document.documentElement.clientWidth + 1
    && !element.closest(".scroll, .prose table, pre, svg")).map(element => element.outerHTML)"""
FOCUSED = """() => { const e = document.activeElement;
    return [e.tagName, e.getAttribute("href"), getComputedStyle(e).outlineStyle]; }"""


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """Two datasets' pages, the index and a comparison, in one folder."""
    folder = tmp_path_factory.mktemp("report")
    for name in ("rsna", "nih"):
        make_run(folder / "runs", name)
        make_run(folder / "other", name, seed=1)
        make_dataset(folder / "datasets", name, notes=["Stand-in: " + "a long word " * 30])
    names, out = ["rsna", "nih"], folder / "out"
    write_report(folder / "runs", folder / "datasets", names, out, sample=True)
    compare_folders([folder / "runs", folder / "other"], folder / "datasets", names, out)
    return out


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser):
    """Opens a file at a width and in a colour scheme; afterwards nothing may have gone wrong."""
    contexts, wrong = [], []

    def opened(path, width=1280, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(request.url[:100]))
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def test_every_link_leads_somewhere(report, open_page):
    page = open_page(report / "index.html")
    seen, waiting = set(), {page.url}
    while waiting:
        address = waiting.pop()
        seen.add(address)
        page.goto(address)
        assert page.locator("h1").count() == 1
        anchors = page.eval_on_selector_all(
            "a[href^='#']", "e => e.map(a => a.getAttribute('href'))"
        )
        assert all(page.locator(anchor).count() == 1 for anchor in anchors)
        links = page.eval_on_selector_all("a:not([href^='#'])", "e => e.map(a => a.href)")
        waiting |= {link for link in links if link.startswith("file:")} - seen
    assert {Path(address).name for address in seen} == {"index.html", "rsna.html", "nih.html"}


@pytest.mark.parametrize("name", ["index.html", "datasets/rsna.html", "compare.html"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_it_fits_the_screen_and_follows_the_scheme(report, open_page, name, scheme, width):
    page = open_page(report / name, width, scheme)
    page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(TOO_WIDE) == []
    assert page.eval_on_selector_all(
        "main img", "e => e.every(i => i.complete && i.naturalWidth > 0)"
    )
    ground, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    dark = [sum(map(int, colour[4:-1].split(","))) < 384 for colour in (ground, ink)]
    assert dark == ([True, False] if scheme == "dark" else [False, True])


def test_the_keyboard_reaches_links_and_folds(report, open_page):
    page = open_page(report / "datasets/rsna.html")
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED) == ["A", "#content", "solid"]
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    kinds = []
    for _ in range(60):
        page.keyboard.press("Tab")
        kinds.append(page.evaluate(FOCUSED)[0])
        if kinds[-1] == "SUMMARY":
            break
    assert kinds[-1] == "SUMMARY" and "DIV" in kinds  # tables that scroll are reached too
    fold = "document.activeElement.parentElement.open"
    before = page.evaluate(fold)
    page.keyboard.press("Enter")
    assert page.evaluate(fold) is not before


def test_a_picture_opens_with_its_ground_truth(report, open_page):
    page = open_page(report / "datasets/rsna.html")
    page.locator("[data-view]").first.press("Enter")
    page.wait_for_function("document.querySelector('#viewer canvas').width === 40")
    texts = page.locator("#viewer svg text")
    assert texts.all_text_contents() == ["1 thing <b>", "2 thing <b> 0.75"]
    page.keyboard.press("g")
    assert texts.all_text_contents() == ["2 thing <b> 0.75"]
    page.keyboard.press("1")  # the picture is reduced to a quarter, the boxes are not
    layer = page.locator("#viewer canvas").bounding_box()
    assert (layer["width"], layer["height"]) == (160, 80)
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.tagName") == "IMG"


def test_it_prints_with_its_folds_open(report, open_page, tmp_path):
    page = open_page(report / "datasets/rsna.html")
    page.emulate_media(media="print")
    card = page.locator("details .prose")
    assert card.bounding_box()["height"] > 20 and not page.locator("nav.contents").is_visible()
    page.pdf(path=tmp_path / "page.pdf", format="A4")
    content = (tmp_path / "page.pdf").read_bytes()
    assert content.startswith(b"%PDF") and content.count(b"/Type /Page\n") > 1
