"""Every notebook that a student's choice reaches, with other legal choices than its own: no cell fails."""

import json
import runpy
from pathlib import Path

import nbformat
import pytest

from helpers import data, homework, presets, selection
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


def run(number: str, tmp_path: Path, changes: dict[str, str] | None = None) -> dict:
    """Run a notebook's cells from the third on, as one program; return its names."""
    (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
    cells = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"][2:]
    whole = "from helpers import workspace\n\n" + "\n\n".join(cells)
    for old, new in (changes or {}).items():
        assert whole.count(old) == 1, old
        whole = whole.replace(old, new)
    script = tmp_path / f"{path.stem}.py"
    script.write_text(whole, encoding="utf-8")
    return runpy.run_path(str(script))


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
    trained = run("05", tmp_path)["run"]
    assert trained.record["choice"] == choice.to_dict()
    evaluated = run("06", tmp_path)["run"]
    inside = run("07", tmp_path)["run"]
    assert trained.folder == evaluated.folder == inside.folder


@pytest.mark.slow
@pytest.mark.parametrize(("r", "alpha"), [(1, 128), (64, 1)])
def test_the_quickstart_runs_with_other_sliders(
    use_tiny_llama, workspace, tmp_path, respelt, r, alpha
):
    found = run(
        "00", tmp_path, {"\nr = 16  #": f"\nr = {r}  #", "\nalpha = 16  #": f"\nalpha = {alpha}  #"}
    )
    assert (found["run"].record["choice"]["r"], found["choice"].lora_alpha) == (r, alpha)


@pytest.mark.slow
def test_the_lab_runs_with_another_rank(tiny_llama, workspace, tmp_path, monkeypatch):
    """With the tiny Llama in the small model's place: what a cell shows hangs on the model, whether it runs on r."""
    monkeypatch.setitem(presets.MODELS, str(tiny_llama), presets.MODELS[presets.EMBEDDED])
    monkeypatch.setattr(presets, "EMBEDDED", str(tiny_llama))
    run("03", tmp_path, {"r, alpha = 16, 16": "r, alpha = 4, 128"})
