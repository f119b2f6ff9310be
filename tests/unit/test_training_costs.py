"""tools/training_costs.py trains in each of the three ways that it compares."""

import sys
from pathlib import Path

import pytest
import tiny_run

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))
import training_costs

from helpers import adapting, models, panel, runs, watching


@pytest.mark.usefixtures("use_tiny_llama", "workspace")
def test_each_way_trains_and_only_the_last_looks(monkeypatch):
    monkeypatch.setattr(panel, "in_notebook", panel.in_notebook)  # put back afterwards
    rows, look = tiny_run.conversations(8), watching.Looking.look
    model, tokenizer = models.load(max_seq_length=512)
    noted = {}
    for way in training_costs.WAYS:
        model = adapting.add_adapter(model, tiny_run.CHOICE)
        assert training_costs.seconds(way, model, tokenizer, rows, tiny_run.CHOICE) > 0
        run = runs.latest()
        noted[way] = run and run.record["best"] is not None
    assert noted[training_costs.WAYS[0]] is None
    assert [noted[way] for way in training_costs.WAYS[1:]] == [False, True]
    assert watching.Looking.look is look
