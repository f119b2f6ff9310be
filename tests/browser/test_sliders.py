"""The sliders in a real browser: keyboard, mouse, numbers, and what reaches the workspace."""

import os
import time

import pytest
from jupyter import CHROMIUM, FLAGS, KIT, NOTEBOOK65, FrontEnd, saved, shown

from helpers import lora

SCREENSHOTS = KIT / "build" / "browser"
REQUIRED = os.environ.get("COURSE_BROWSER") == "required"


@pytest.fixture(scope="module", params=["lab", "notebook65"])
def front_end(request):
    if not REQUIRED and not CHROMIUM:
        pytest.skip("there is no Chromium")
    if not REQUIRED and request.param == "notebook65" and not NOTEBOOK65.exists():
        pytest.skip("`make browser` makes the environment with Notebook 6.5")
    return FrontEnd(request.param)


@pytest.fixture(scope="module")
def place(front_end, tmp_path_factory):
    """The server's folder, which holds the workspace too."""
    return tmp_path_factory.mktemp(front_end.name)


@pytest.fixture(scope="module")
def page(front_end, place):
    """The open notebook, its cells run."""
    from playwright.sync_api import sync_playwright

    with front_end.server(place) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1200, "height": 1100})
        page.goto(address, wait_until="domcontentloaded")
        try:
            front_end.run_all(page)
            yield page
        finally:
            SCREENSHOTS.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=SCREENSHOTS / f"{front_end.name}-last.png")
            browser.close()


def until(page, wanted, seconds: float = 15) -> dict:
    """The numbers on the page, as soon as ``wanted`` holds for them."""
    end = time.monotonic() + seconds
    while not wanted(numbers := shown(page)):
        assert time.monotonic() < end, f"still {numbers}"
        page.wait_for_timeout(50)
    return numbers


def test_the_keyboard_alone_sets_r(page):
    start = shown(page)
    assert start == {"r": 16, "alpha": 16, "trainable": lora.adapter_parameters("llama-2-7b", 16)}
    field = page.get_by_label("r", exact=True)
    field.focus()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("24")
    page.keyboard.press("Tab")
    moved = until(page, lambda n: n["r"] == 24)
    assert moved["trainable"] == lora.adapter_parameters("llama-2-7b", 24)


def test_a_number_out_of_range_is_answered_and_the_next_one_is_taken(page):
    field = page.get_by_label("r", exact=True)
    field.fill("999")
    page.keyboard.press("Tab")
    page.get_by_text("r = 999 is not between 1 and 256").wait_for(timeout=15_000)
    assert shown(page)["r"] == 24
    field.fill("32")
    page.keyboard.press("Tab")
    until(page, lambda n: n["r"] == 32)
    assert not page.get_by_text("r = 999").is_visible()


def test_the_arrow_keys_move_the_slider(front_end, page):
    front_end.slider(page, "r").focus()
    page.keyboard.press("ArrowRight")
    moved = until(page, lambda n: n["r"] == 64)
    assert moved["trainable"] == lora.adapter_parameters("llama-2-7b", 64)
    assert page.get_by_label("r", exact=True).input_value() == "64"


def test_dragging_moves_r_and_alpha(front_end, page):
    for name, key in (("r", "r"), ("lora_alpha", "alpha")):
        before = shown(page)
        handle = front_end.slider(page, name)
        handle.scroll_into_view_if_needed()
        box = handle.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x - 80, y, steps=8)
        page.mouse.up()
        after = until(page, lambda n, key=key, old=before: n[key] < old[key])
        assert after["trainable"] == lora.adapter_parameters("llama-2-7b", after["r"])


def test_the_button_saves_what_is_shown(page, place):
    page.get_by_role("button", name="alpha = 2r").click()
    numbers = until(page, lambda n: n["alpha"] == 2 * n["r"])
    page.get_by_role("button", name="Use this").click()
    page.get_by_text(f"Saved r = {numbers['r']}").wait_for(timeout=15_000)
    choice = saved(place)
    assert (choice["r"], choice["lora_alpha"]) == (numbers["r"], numbers["alpha"])


def test_a_pinned_setting_stands_beside_the_current_one(page):
    page.get_by_role("button", name="Pin as A").click()
    page.get_by_text("A: pinned").first.wait_for(timeout=15_000)


def test_the_dial_shows_the_answer_of_each_factor(front_end, page):
    handle = front_end.slider(page, "alpha × …")
    handle.focus()
    page.keyboard.press("ArrowRight")
    page.get_by_text("too much").first.wait_for(timeout=15_000)
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    page.get_by_text("the base model's answer").first.wait_for(timeout=15_000)


@pytest.mark.parametrize("width", [1300, 360])
def test_everything_fits_on_a_wide_and_on_a_narrow_page(front_end, page, width):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.set_viewport_size({"width": width, "height": 1100})
    if front_end.lab and width < 500:
        page.keyboard.press("ControlOrMeta+b")  # without the list of files
    page.wait_for_timeout(500)
    front_end.slider(page, "r").scroll_into_view_if_needed()
    page.screenshot(path=SCREENSHOTS / f"{front_end.name}-{width}.png")
    if front_end.lab and width > 500:  # the README's picture
        page.locator(".jp-OutputArea-output .widget-vbox").first.screenshot(
            path=SCREENSHOTS / "sliders.png"
        )
    front_end.slider(page, "alpha × …").scroll_into_view_if_needed()
    page.screenshot(path=SCREENSHOTS / f"{front_end.name}-{width}-dial.png")
    for picture in page.locator(".widget-html svg").all():
        box, column = picture.bounding_box(), picture.locator("xpath=../..").bounding_box()
        assert box["x"] + box["width"] <= column["x"] + column["width"] + 1
