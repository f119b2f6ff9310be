"""Notebook 04 with another pool and other keys than it has: what a student may change, it runs to its end with."""

import runpy
from pathlib import Path

import nbformat
import pytest

from helpers import homework, selection

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "04_choose_data.ipynb"
READ = "pool = data.load_conversations(data.OUR_POOL)\n"
KEY = 'return -row["score"], abs(selection.answer_words(row) - 60)'
CHOICES = {
    "questions that begin with How, nothing longer": [
        (KEY, 'return not data.question(row).startswith("How")'),
        (
            "selection.select(pool, my_key)",
            'selection.select(pool.filter(lambda row: data.question(row)[:3] == "How"), my_key)',
        ),
        ("chosen = advanced", "chosen = mine"),
    ],
    "no second exchanges": [
        (READ, READ + 'pool = pool.filter(lambda row: len(row["conversations"]) == 2)\n'),
        ("chosen = advanced", "chosen = homework.with_preamble(simple)"),
    ],
    "a pool of three rows": [
        (READ, READ + "pool = pool.select(range(3))\n"),
        ("homework.simple_key, largest_first=False", "lambda row: True, limit=1"),
        (KEY, "return 1 / homework.words(row), 0"),
        ("chosen = advanced", "chosen = mine"),
    ],
}


@pytest.mark.parametrize("changes", CHOICES.values(), ids=CHOICES.keys())
def test_the_notebook_runs_to_its_end(
    use_tiny_llama, workspace, tmp_path, monkeypatch, capsys, changes
):
    # Nobody listens on the discard port: the homework's data is asked for in vain, and at once.
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "url.git://127.0.0.1:9/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", homework.REPO)
    cells = [c.source for c in nbformat.read(NOTEBOOK, 4).cells if c.cell_type == "code"][2:]
    whole = "\n\n".join(cells)
    for old, new in changes:
        assert whole.count(old) == 1, old
        whole = whole.replace(old, new)
    script = tmp_path / "notebook.py"
    script.write_text(whole, encoding="utf-8")
    names = runpy.run_path(str(script))
    assert "the first row now counts" in capsys.readouterr().out
    monkeypatch.setenv("COURSE_SIZE", "full")
    assert selection.load_selection().to_list() == names["chosen"].to_list()
