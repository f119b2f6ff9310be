"""What was measured on a GPU: complete, within the course's promises, and the README says the same."""

import json
import subprocess
import sys
from pathlib import Path

KIT = Path(__file__).parents[2]
RESULTS = json.loads((KIT / "tests" / "gpu" / "results.json").read_text(encoding="utf-8"))


def test_the_readmes_table_is_made_from_the_results():
    command = [sys.executable, KIT / "tests" / "gpu" / "collect.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_notebook_ran_to_its_end_with_a_colab_machines_memory():
    books = RESULTS["notebooks"]["notebooks"]
    here = {path.stem for path in (KIT / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    assert {book["notebook"] for book in books} == here
    for book in books:
        assert book["passed"], book
        assert book["peak_host_gib"] < 10
        assert book["peak_gpu_gib"] < 14.741


def test_every_kernel_compiles_for_a_t4_and_fits_its_shared_memory():
    kernels = RESULTS["t4_kernels"]["kernels"]
    assert any(kernel["module"].startswith("unsloth") for kernel in kernels)
    for kernel in kernels:
        assert "error" not in kernel, kernel
        assert kernel["shared_bytes"] <= 64 * 1024
    assert RESULTS["t4_kernels"]["failures"] == []


def test_the_numbers_agreed():
    assert RESULTS["agree"]["failures"] == []
