"""Notebooks 00 and 05 in random orders, with changed settings: the right adapter, or an explanation."""

import random
import subprocess
import sys

import pytest

from helpers import workspace

TOOL = workspace.KIT / "tools" / "shuffle_cells.py"
sys.path.insert(0, str(TOOL.parent))
import shuffle_cells


@pytest.mark.slow
def test_five_random_orders_of_cells_end_in_the_right_adapter_or_an_explanation():
    done = subprocess.run(
        [sys.executable, TOOL, "--orders", "5"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "5 orders, 0 wrong" in done.stdout and "'trained'" in done.stdout


@pytest.mark.parametrize("number", shuffle_cells.NOTEBOOKS)
def test_the_orders_train_repeat_and_change(number):
    """Else the test above would find nothing wrong in orders in which nothing happens."""
    orders = [shuffle_cells.an_order(number, random.Random(seed)) for seed in range(40)]
    cells = set(shuffle_cells.sources(number))
    trained = [sum("training.train(" in cell for cell in order) for order in orders]
    changed = [sum(cell not in cells for cell in order) for order in orders]
    repeated = [len(order) - len(set(order)) for order in orders]
    assert sum(map(bool, trained)) > 20 and max(trained) > 2
    assert sum(map(bool, changed)) > 20 and sum(map(bool, repeated)) > 20


def test_only_an_explanation_counts_as_one():
    def error(name, text=""):
        return {"ename": name, "traceback": [text]}

    missing = error("NameError", "there is no model in this session")
    assert shuffle_cells.is_explained(error("CourseError"), set_up=True)
    assert shuffle_cells.is_explained(missing, set_up=True)
    assert shuffle_cells.is_explained(error("ModuleNotFoundError"), set_up=False)
    for name in ("NameError", "ModuleNotFoundError", "AssertionError", "TypeError", "KeyError"):
        assert not shuffle_cells.is_explained(error(name), set_up=True)
