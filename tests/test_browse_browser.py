"""The local page in headless Chromium: filters, keys, marks, width and colours."""

import subprocess
import sys

import pytest
from browse_factory import make_browsed
from project_factory import ROOT, environment
from test_report_browser import ARGUMENTS, CHROMIUM

from pipeline.browse.review import Review

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]
STROKE = "e => getComputedStyle(e).stroke"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The command itself, as a person starts it: its folder and the address that it prints."""
    folder = make_browsed(tmp_path_factory.mktemp("browsed"))
    arguments = ["coco", "--predictions", "found.json", "--threshold", "0.5", "--no-open"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "browse", *arguments],
        cwd=folder,
        env=environment(ROOT),
        stdout=subprocess.PIPE,
        text=True,
    )
    yield folder, process.stdout.readline().strip()
    process.terminate()
    process.wait()
    process.stdout.close()


@pytest.fixture
def open_page(browser, served):
    """Opens the page; afterwards nothing may have gone wrong."""
    contexts, wrong = [], []

    def failed(request):
        if request.failure != "net::ERR_ABORTED":  # a picture that was no longer wanted
            wrong.append(request.url)

    def opened(width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", failed)
        page.goto(served[1])
        page.wait_for_selector(".card")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def names(page):
    return page.eval_on_selector_all(".card .text", "e => e.map(t => t.firstChild.data)")


def test_filters_choose_and_survive_a_reload(open_page):
    page = open_page()
    assert names(page) == ["4.png", "1.png", "2.png", "3.png"] and "token" not in page.url
    with page.expect_response("**/images?*"):
        page.select_option("[name=order]", "loss")
    page.wait_for_selector(".card:first-child:has-text('2.png')")
    with page.expect_response("**/images?*"):
        page.select_option("[name=kind]", "background")
    page.wait_for_selector(".card:only-child")
    page.reload()
    page.wait_for_selector(".card")
    assert names(page) == ["3.png"] and page.input_value("[name=order]") == "loss"
    with page.expect_response("**/images?*"):
        page.click("button[type=reset]")
    page.wait_for_selector(".card:nth-child(4)")


def test_a_picture_is_looked_at_with_the_keyboard_and_marked(open_page, served):
    page = open_page()
    page.locator(".card").nth(1).press("Enter")
    page.wait_for_selector("#stage .number")
    assert page.text_content("#name") == "1.png"
    assert page.locator("#stage .line").count() == 4
    colours = {page.locator(f"#stage .{kind} .line").first.evaluate(STROKE) for kind in
               ("found", "missed", "right", "wrong")}  # fmt: skip
    assert len(colours) == 4
    page.keyboard.press("d")
    assert page.locator("#stage .line").count() == 2
    page.keyboard.press("l")
    assert page.locator("#stage .number").first.text_content() == "1 cell"
    before = page.get_attribute("#stage", "viewBox")
    page.keyboard.press("+")
    assert page.get_attribute("#stage", "viewBox") != before
    page.keyboard.press("0")
    assert page.get_attribute("#stage", "viewBox") == before == "0 0 100 80"
    page.locator("#boxes tbody tr").nth(1).press("Enter")
    assert page.locator("#stage .chosen").count() == 1
    page.keyboard.press("m")
    page.select_option("[name=verdict]", "wrong class")
    page.fill("[name=note]", "a single one")
    with page.expect_response("**/mark?*"):
        page.keyboard.press("Enter")
    page.wait_for_selector("text=Marked: wrong class")
    [(target, mark)] = Review(served[0] / "review.csv").marks.items()
    assert (target.file_name, target.name, target.annotation_id) == ("1.png", "clump", "12")
    assert mark == ("wrong class", "a single one")
    page.locator("#boxes tbody tr").first.press("ArrowRight")
    page.wait_for_selector("#name:has-text('2.png')")
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    assert page.locator(".card.marked").count() == 1


def test_augmentation_is_drawn_on_the_page(open_page):
    page = open_page()
    page.locator(".card").first.click()
    with page.expect_response("**/augmented?*"):
        page.click("[data-do=augment]")
    page.wait_for_selector("#stage image[href^='data:']")
    assert page.locator("#augmentation").is_visible()
    page.click("[data-do=augment]")
    page.wait_for_selector("#stage image[href^='/picture']")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_screen_and_follows_the_scheme(open_page, width, scheme):
    page = open_page(width, scheme)
    overflow = "document.documentElement.scrollWidth"
    assert page.evaluate(overflow) == width
    page.locator(".card").first.click()
    page.wait_for_selector("#stage .line")
    assert page.eval_on_selector("#viewer", "e => e.scrollWidth") <= width
    ground = page.eval_on_selector("#viewer", "e => getComputedStyle(e).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 384) is (scheme == "dark")
