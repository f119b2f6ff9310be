"""How long the sliders take: `python tools/slider_speed.py [--browser]`.

Prints the median and the 95th percentile, over 200 moves, of the time in the kernel from a slider's change to
new readouts. With ``--browser`` also, in Chromium with each front end that is installed, from a key press to
changed pixels (two frames after the readout's text has changed).
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "browser")]
from helpers import widgets

MOVES = 200
WATCH = """() => {
  window.took = [];
  let pressed = null;
  document.addEventListener("keydown", () => { pressed = performance.now(); }, true);
  const text = [...document.querySelectorAll(".widget-html-content")].find(
    (element) => element.textContent.includes("lora_alpha = "));
  new MutationObserver(() => {
    if (pressed === null) return;
    const start = pressed;
    pressed = null;
    requestAnimationFrame(() => requestAnimationFrame(
      () => window.took.push(performance.now() - start)));
  }).observe(text, {childList: true, subtree: true, characterData: true});
}"""


def report(name: str, milliseconds: list[float]) -> None:
    """One line: median, 95th percentile, and how many were measured."""
    p95 = statistics.quantiles(milliseconds, n=20)[-1]
    middle = statistics.median(milliseconds)
    print(f"{name:<34} median {middle:6.1f} ms, 95 % under {p95:6.1f} ms, n = {len(milliseconds)}")


def in_kernel() -> list[float]:
    """Milliseconds of random moves, each from the change to the redrawn readout."""
    sliders = widgets.LoraSliders()
    knobs = [sliders.r, sliders.alpha, sliders.length, sliders.batch, sliders.epochs]
    rng = random.Random(0)
    took = []
    while len(took) < MOVES:
        knob = rng.choice(knobs)
        value = rng.choice([mark for mark in knob.marks if mark != knob.slider.value])
        before, start = sliders.readout.value, time.perf_counter()
        knob.slider.value = value
        took.append(1000 * (time.perf_counter() - start))
        assert sliders.readout.value != before
    return took


def in_browser(name: str) -> list[float]:
    """Milliseconds of key presses on the slider for r in one front end."""
    from jupyter import CHROMIUM, FLAGS, FrontEnd
    from playwright.sync_api import sync_playwright

    front_end = FrontEnd(name)
    with (
        tempfile.TemporaryDirectory() as folder,
        front_end.server(Path(folder)) as address,
        sync_playwright() as driver,
    ):
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1200, "height": 1100})
        page.goto(address, wait_until="domcontentloaded")
        front_end.run_all(page)
        page.evaluate(WATCH)
        front_end.slider(page, "r").focus()
        for move in range(MOVES // 4):
            page.keyboard.press("ArrowRight" if move % 2 else "ArrowLeft")
            page.wait_for_function(f"window.took.length > {move}", timeout=15_000)
        took = page.evaluate("window.took")
        browser.close()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--browser", action="store_true")
    report("kernel: change to new readouts", in_kernel())
    if parser.parse_args().browser:
        from jupyter import NOTEBOOK65

        for name in ("lab", "notebook65") if NOTEBOOK65.exists() else ("lab",):
            report(f"{name}: key press to pixels", in_browser(name))


if __name__ == "__main__":
    main()
