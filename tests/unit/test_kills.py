"""``kill -9`` at any moment: the same cell goes on, to the same end, bit for bit."""

import random
import sys
from pathlib import Path

import forked
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))
import kill_training

# One of each part of a training, in its order; `tools/kill_training.py` takes them all, and many times.
KINDS = (
    "in the first steps",
    "a checkpoint's first file",
    "between two steps",
    "before it has its name",
    "the adapter at the end",
)


def start(workspace: Path, model: Path) -> forked.Process:
    """The tool's own, but that Unsloth is imported already."""
    places = {"COURSE_WORKSPACE": str(workspace), "COURSE_MODEL": str(model)}
    return forked.Process(forked.execute, kill_training.CHILD.format(paths=[]), **places)


@pytest.mark.slow
def test_a_training_that_is_killed_five_times_ends_like_one_that_never_was(
    trained, tiny_llama, tmp_path, monkeypatch
):
    whole_workspace = trained.run.folder.parent.parent
    monkeypatch.setenv("COURSE_WORKSPACE", str(whole_workspace))
    monkeypatch.setattr(kill_training, "start", start)
    whole = kill_training.outcome(whole_workspace)
    came, found = kill_training.killed_run(
        tmp_path / "killed", tiny_llama, list(KINDS), random.Random(5)
    )
    assert came == list(KINDS)
    assert not isinstance(found, str), found
    assert kill_training.differences(found, whole) == []


def test_another_end_would_be_noticed(trained, monkeypatch):
    monkeypatch.setenv("COURSE_WORKSPACE", str(trained.run.folder.parent.parent))
    whole = kill_training.outcome(trained.run.folder.parent.parent)
    name = next(iter(whole.adapter))
    moved = whole.adapter | {name: whole.adapter[name] + 1e-6}
    wrong = kill_training.differences(whole._replace(adapter=moved, best={"step": 1}), whole)
    assert wrong == ["another adapter", "other best"]
