"""Every notebook that a student's choice reaches, with other legal choices than its own: no cell fails."""

import json
import re
import runpy
import shutil
from pathlib import Path

import forked
import nbformat
import pytest

from helpers import carry, data, homework, presets, selection, small_model
from helpers.choice import Choice, save_choice

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
LITTLE = "little rank, much alpha, two modules, the shortest rows"
MUCH = "much rank, little alpha, an own key, the preamble"
CHOICES = {
    LITTLE: (
        Choice(r=4, lora_alpha=128, target_modules=("q_proj", "v_proj"), num_train_epochs=1),
        lambda pool: selection.select(pool, homework.simple_key),
    ),
    MUCH: (
        Choice(r=64, lora_alpha=1, num_train_epochs=1),
        lambda pool: homework.with_preamble(
            selection.select(pool, selection.answer_words, limit=30)
        ),
    ),
}


def run_all(*scripts: Path) -> None:
    """Run programs one after the other; print the last one's run and its choice."""
    for script in scripts:
        names = runpy.run_path(str(script))
    run = names.get("run")
    print("RESULT", json.dumps([run.folder.name, run.record["choice"]] if run else None))


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
    """Run notebooks in a process of their own, as what they leave behind there is nothing for other tests."""
    process = forked.Process(run_all, *scripts)
    said, _ = process.communicate()
    assert process.returncode == 0, said[-4000:]
    (result,) = re.findall(r"(?m)^RESULT (.*)$", said)
    return json.loads(result)


@pytest.fixture
def respelt(tmp_path, monkeypatch):
    """A test set in the spelling of the homework's training rows, which the course's test set does not have."""
    rows = [
        {"id": row["id"], "conversations": [{"role": "user", "content": data.question(row)}]}
        for row in data.load_conversations(data.OUR_TEST_SET)
    ]
    file = tmp_path / "test_set.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    monkeypatch.setenv("COURSE_TEST_SET", str(file))


def keep(choice: Choice, choose) -> str:
    """Save both in the workspace; their code."""
    save_choice(choice)
    selection.save_selection(choose(data.load_conversations(data.OUR_POOL)), data.OUR_POOL)
    return carry.code()


def code_from_elsewhere(monkeypatch, tmp_path, name: str) -> str:
    """The code of a choice and its selection, made on a machine with another workspace."""
    with monkeypatch.context() as there:
        there.setenv("COURSE_WORKSPACE", str(tmp_path / "elsewhere"))
        return keep(*CHOICES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOICES)
def test_training_evaluation_and_the_look_inside_run_with_it(
    use_tiny_llama, workspace, tmp_path, respelt, monkeypatch, name
):
    choice, choose = CHOICES[name]
    if name == LITTLE:
        keep(choice, choose)
        train = script("05", tmp_path)
    else:
        code = code_from_elsewhere(monkeypatch, tmp_path, name)
        train = script("05", tmp_path, my_code=repr(code))
    name, trained_with = run(train, script("06", tmp_path), script("07", tmp_path))
    assert trained_with == choice.to_dict()
    assert [name] == [file.parent.name for file in workspace.glob("runs/*/training_config.json")]


@pytest.mark.slow
@pytest.mark.parametrize("with_code", [False, True], ids=["sliders", "code"])
def test_the_quickstart_runs_with_other_sliders_and_with_a_code(
    use_tiny_llama, workspace, tmp_path, respelt, monkeypatch, with_code
):
    code = code_from_elsewhere(monkeypatch, tmp_path, MUCH) if with_code else ""
    name, choice = run(script("00", tmp_path, r="1", alpha="128", my_code=repr(code)))
    assert (choice["r"], choice["lora_alpha"]) == ((64, 1) if with_code else (1, 128))
    trained_on = json.loads((workspace / "runs" / name / "conversations.json").read_text())
    assert ("Below is an instruction" in json.dumps(trained_on)) == with_code


@pytest.mark.slow
def test_the_lab_runs_with_another_rank(tiny_llama, workspace, tmp_path):
    """It loads the small model by its name: the tiny one stands there instead, and takes a tenth of the time."""
    folder = shutil.copytree(tiny_llama, workspace / "models" / presets.EMBEDDED)
    digests = {file.name: small_model._sha256(file) for file in folder.iterdir()}
    (folder / "sha256.json").write_text(json.dumps(digests), encoding="utf-8")
    run(script("03", tmp_path, **{"r, alpha": "4, 128"}))
