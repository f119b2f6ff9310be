"""The notebooks' checks: each belongs to a cell, runs in its kernel, and leaves nothing behind."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tests.notebooks import checked

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_check_belongs_to_a_code_cell_and_names_differ(notebook):
    cells = nbformat.read(notebook, 4).cells
    names = [checked.name_of(cell) for cell in cells if cell.cell_type == "code"]
    assert len(set(names)) == len(names)
    assert set(checked.checks(notebook)) <= set(names)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_not_compared_is_checked(notebook):
    """The two opening cells have tests of their own; a cell of 02 or 07 may still check itself."""
    code = [cell for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code"][2:]
    ignored = [cell for cell in code if "nbval-ignore-output" in cell.metadata.get("tags", [])]
    unchecked = [
        cell.id
        for cell in ignored
        if checked.name_of(cell) not in checked.checks(notebook) and "assert " not in cell.source
    ]
    assert unchecked == []


def test_no_file_of_checks_lacks_its_notebook():
    assert {file.stem for file in checked.CHECKS.glob("*.py")} <= {path.stem for path in NOTEBOOKS}


def run(tmp_path: Path, check: str, *sources: str) -> subprocess.CompletedProcess:
    """nbval over a notebook of these cells, with a check of the first one."""
    (tmp_path / "checks").mkdir()
    (tmp_path / "checks" / "small.py").write_text(check, encoding="utf-8")
    cells = [new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(sources)]
    nbformat.write(new_notebook(cells=cells), tmp_path / "small.ipynb")
    plugin = f"from pathlib import Path\nfrom tests.notebooks import checked\nchecked.CHECKS = Path({str(tmp_path / 'checks')!r})\n"
    (tmp_path / "conftest.py").write_text(plugin, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--nbval-lax",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
    ]
    command += ["-p", "tests.notebooks.checked", "--rootdir", str(tmp_path), "small.ipynb"]
    path = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    return subprocess.run(
        command, cwd=tmp_path, env=path, capture_output=True, text=True, check=False
    )


def test_a_check_that_holds_leaves_no_name_no_output_and_the_same_random_numbers(tmp_path):
    check = "import random\nextra = 1\n\ndef cell_0():\n    random.random()\n    assert found == 3\n    return 5\n"
    after = "assert 'extra' not in globals() and 'cell_0' not in globals() and 'names' not in globals()\n"
    after += "assert random.getstate() == state and kept == (len(In), len(Out), _)"
    done = run(
        tmp_path,
        check,
        "import random; found = 3; state = random.getstate(); kept = len(In), len(Out), _",
        after,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_a_check_that_fails_fails_its_cell_and_names_itself(tmp_path):
    done = run(tmp_path, "def cell_0():\n    assert found == 4\n", "found = 3")
    assert done.returncode == 1
    assert "the check cell_0 failed: AssertionError" in done.stdout
