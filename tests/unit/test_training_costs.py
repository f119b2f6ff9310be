"""tools/training_costs.py times each part inside a training."""

import sys
from pathlib import Path

import pytest
import tiny_run

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))
import training_costs

from helpers import adapting, models, panel, runs, watching


@pytest.mark.usefixtures("use_tiny_llama", "workspace")
def test_each_part_is_counted_and_afterwards_all_is_as_before():
    before = panel.in_notebook, watching.Looking.on_step_end, panel.Panel.on_log
    model, tokenizer = models.load(max_seq_length=512)
    model = adapting.add_adapter(model, tiny_run.CHOICE)
    found = training_costs.costs(model, tokenizer, tiny_run.conversations(8), tiny_run.CHOICE)
    assert found.keys() == {*training_costs.parts(), "training"}
    assert all(seconds > 0 for seconds in found.values()), found
    assert runs.latest().record["best"]
    assert before == (panel.in_notebook, watching.Looking.on_step_end, panel.Panel.on_log)
