"""The README's pictures and its example are what the notebooks' saved outputs show."""

import re
import sys
from pathlib import Path

import pytest

KIT = Path(__file__).parents[2]
sys.path.insert(0, str(KIT / "tools"))
import lengths
import pictures


def saved(cell_id: str, kind: str) -> bool:
    try:
        return bool(pictures.output(cell_id, kind))
    except SystemExit:
        return False


@pytest.mark.skipif(
    not (saved("before-and-after", "text/html") and saved("loss-falls", "image/png")),
    reason="notebook 00 has changed, and `make notebooks` was not run since",
)
def test_readme_and_pictures_show_what_the_quickstart_shows():
    assert pictures.stale() == [], "run `make pictures`"


def test_every_picture_of_the_readme_is_there():
    text = pictures.README.read_text(encoding="utf-8")
    found = re.findall(r"\]\((docs/[^)]+)\)", text)
    assert {"docs/sliders.png", "docs/loss.png", "docs/measured.md", "docs/help.md"} <= set(found)
    assert [name for name in found if not (KIT / name).exists()] == []


def test_the_readme_is_short():
    assert lengths.words(pictures.README.read_text(encoding="utf-8")) <= 900


def test_the_example_is_the_first_question_with_both_answers(monkeypatch):
    shown = "<table>" + "".join(f'<tr><td style="x">{n}</td></tr>' for n in "abcde") + "</table>"
    monkeypatch.setattr(pictures, "output", lambda cell_id, kind: shown)
    text = pictures.readme("before\n<!-- example -->\nold\n<!-- /example -->\nafter")
    assert "<td>a</td>" in text and "<td>c</td>" in text and "<td>d</td>" not in text
    assert "old" not in text and text.endswith("<!-- /example -->\nafter")
