"""T4 mode's code path, as far as a processor can see it: who asks for the capability is found, and counted."""

import ast
import runpy
import subprocess
import sys
from pathlib import Path

KIT = Path(__file__).parents[2]
sys.path.insert(0, str(KIT / "gpu"))
import t4_path

SOURCE = """
import torch
major, _ = torch.cuda.get_device_capability()

class Kernel:
    def launch(self, device):
        get_device_capability = 1  # only a name
        return torch.cuda.get_device_capability(
            device
        )
"""


def test_calls_are_found_with_the_function_they_stand_in():
    found = []
    t4_path.walk(ast.parse(SOURCE), "a/b.py", "", found)
    assert found == [
        {"file": "a/b.py", "lines": [3, 3], "function": "import"},
        {"file": "a/b.py", "lines": [8, 10], "function": "Kernel.launch"},
    ]


def test_unsloths_kernels_are_among_the_places():
    found = {(place["file"], place["function"]) for place in t4_path.places()}
    assert ("unsloth/kernels/utils.py", "_gemv_rows_cap") in found
    assert any(file.startswith("bitsandbytes/") for file, _ in found)


def test_each_place_is_counted_by_its_file_and_lines(tmp_path):
    def answer(device=None):
        return (7, 5)

    answer.true = None
    asked = t4_path.Asked(answer)
    file = tmp_path / "a" / "b.py"
    file.parent.mkdir()
    file.write_text("first = ask()\nsecond = [\n    ask(),\n    ask(0),\n]\n")
    names = runpy.run_path(str(file), {"ask": asked})
    assert names["second"] == [(7, 5), (7, 5)]
    assert asked.at({"file": "a/b.py", "lines": [1, 1]}) == 1
    assert asked.at({"file": "a/b.py", "lines": [2, 5]}) == 2
    assert asked.at({"file": "other/b.py", "lines": [1, 9]}) == 0


def test_without_a_gpu_t4_mode_changes_no_answer():
    code = (
        "import os; os.environ |= {'COURSE_T4': '1', 'CUDA_VISIBLE_DEVICES': ''}\n"
        "import torch; before = torch.cuda.get_device_capability\n"
        "from helpers import t4_mode; t4_mode.before_unsloth()\n"
        "print(torch.cuda.get_device_capability is before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=KIT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"
