"""The tools that measure what settings and rows do: with which rows, and that they run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

KIT = Path(__file__).parents[2]
LOSSES = re.compile(r"held-out loss:? (\d+\.\d+) -> (\d+\.\d+)")


def printed(tool: str, *arguments: str, model: Path, workspace: Path) -> str:
    """What a tool prints with the tiny Llama, in a process of its own."""
    variables = os.environ | {
        "COURSE_MODEL": str(model),
        "COURSE_WORKSPACE": str(workspace),
        "COURSE_SIZE": "test",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, str(KIT / "tools" / f"{tool}.py"), *arguments],
        env=variables | {"COURSE_HELDOUT": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def untrained_loss(part: str) -> float:
    """The loss of this machine's model on one part of the held-out rows."""
    from helpers import data, evaluation, models

    model, tokenizer = models.load(max_seq_length=2048)
    each, counts = evaluation.answer_losses(model, tokenizer, data.heldout(part))
    return evaluation.measure(each, counts).mean


@pytest.mark.slow
def test_the_loss_after_a_setting_is_that_of_the_rows_for_looking(
    tiny_llama, use_tiny_llama, workspace, monkeypatch
):
    monkeypatch.delenv("COURSE_HELDOUT", raising=False)
    said = printed("extremes", "learning_rate=0.01", "r=2", model=tiny_llama, workspace=workspace)
    before, after = map(float, LOSSES.search(said).groups())
    looking, measuring = untrained_loss("looking"), untrained_loss("measuring")
    assert before == pytest.approx(looking, abs=6e-4)
    assert abs(looking - measuring) > 2e-3  # else this could not fail
    assert after < before and "'learning_rate': 0.01, 'r': 2" in said


@pytest.mark.slow
def test_the_shortest_rows_are_trained_on_and_40_questions_answered(tiny_llama, workspace):
    said = printed("short_rows", model=tiny_llama, workspace=workspace)
    assert LOSSES.search(said) and re.search(r"(?m)^40 answers: \d+ of at most four words", said)


def test_only_notebook_06_reads_the_held_out_rows_that_are_for_measuring():
    files = [
        path for folder in ("helpers", "tools", "gpu") for path in (KIT / folder).rglob("*.py")
    ]
    code = {path.name: path.read_text(encoding="utf-8") for path in files}
    for path in (KIT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code[path.name] = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    pattern = re.compile(r"""\bOUR_HELDOUT\b|heldout\(\s*["']measuring""")
    readers = {name for name, text in code.items() if pattern.search(text)}
    assert readers == {"data.py", "06_evaluate.ipynb"}  # data.py names the file
