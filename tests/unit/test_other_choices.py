"""Every notebook that a student's choice reaches, with other legal choices than its own: no cell fails."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from helpers import data, homework, selection, small_model
from helpers.choice import Choice, save_choice

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
CHOICES = {
    "little rank, much alpha, two modules, the shortest rows": (
        Choice(r=4, lora_alpha=128, target_modules=("q_proj", "v_proj"), num_train_epochs=1),
        lambda pool: selection.select(pool, homework.simple_key),
    ),
    "much rank, little alpha, an own key, the preamble": (
        Choice(r=64, lora_alpha=1, num_train_epochs=1),
        lambda pool: homework.with_preamble(
            selection.select(pool, selection.answer_words, limit=30)
        ),
    ),
}


# What a notebook leaves behind in a process, another test shall not meet.
RUN = """
import json, runpy, sys
for script in sys.argv[1:]:
    names = runpy.run_path(script)
run = names.get("run")
print("RESULT", json.dumps([run.folder.name, run.record["choice"]] if run else None))
"""


def script(number: str, tmp_path: Path, **changes: str) -> Path:
    """A notebook's cells from the third on as one program; ``changes`` says what stands for which name's value."""
    (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
    cells = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"][2:]
    whole = "from helpers import workspace\n\n" + "\n\n".join(cells)
    for name, value in changes.items():
        whole, count = re.subn(rf"(?m)^{name} = [^#\n]*", f"{name} = {value}  ", whole)
        assert count == 1, name
    file = tmp_path / f"{path.stem}.py"
    file.write_text(whole, encoding="utf-8")
    return file


def run(*scripts: Path) -> list | None:
    """Run notebooks one after the other in a process of their own: the last one's run and its choice."""
    command = [sys.executable, "-c", RUN, *scripts]
    done = subprocess.run(
        command, cwd=NOTEBOOKS.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return json.loads(done.stdout.rpartition("RESULT ")[2])


@pytest.fixture
def respelt(tmp_path, monkeypatch):
    """A test set in the homework's other spelling, `from` and `value`."""
    rows = [
        {"id": row["id"], "conversations": [{"from": "human", "value": data.question(row)}]}
        for row in data.load_conversations(data.OUR_TEST_SET)
    ]
    file = tmp_path / "test_set.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    monkeypatch.setenv("COURSE_TEST_SET", str(file))


@pytest.mark.slow
@pytest.mark.parametrize(("choice", "choose"), CHOICES.values(), ids=CHOICES.keys())
def test_training_evaluation_and_the_look_inside_run_with_it(
    use_tiny_llama, workspace, tmp_path, respelt, choice, choose
):
    save_choice(choice)
    chosen = choose(data.load_conversations(data.OUR_POOL))
    selection.save_selection(chosen, data.OUR_POOL)
    name, trained_with = run(*(script(number, tmp_path) for number in ("05", "06", "07")))
    assert trained_with == choice.to_dict()
    assert [name] == [file.parent.name for file in workspace.glob("runs/*/training_config.json")]


@pytest.mark.slow
@pytest.mark.parametrize(("r", "alpha"), [(1, 128), (64, 1)])
def test_the_quickstart_runs_with_other_sliders(
    use_tiny_llama, workspace, tmp_path, respelt, r, alpha
):
    _, choice = run(script("00", tmp_path, r=str(r), alpha=str(alpha)))
    assert (choice["r"], choice["lora_alpha"]) == (r, alpha)


@pytest.mark.slow
def test_the_lab_runs_with_another_rank(workspace, tmp_path, monkeypatch):
    """It loads the small model by its name, so that one is there: made once for all tests."""
    monkeypatch.undo()
    small = small_model.folder()
    monkeypatch.setenv("COURSE_WORKSPACE", str(workspace))
    shutil.copytree(small, workspace / "models" / small.name, copy_function=os.link)
    run(script("03", tmp_path, **{"r, alpha": "4, 128"}))
