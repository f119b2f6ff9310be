"""`make course`: each notebook in a kernel of its own, which ends with it; a failing cell is shown."""

import os
import sys
import time
from pathlib import Path

import nbformat
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import course
import fresh


def write(folder: Path, *cells: str) -> Path:
    path = folder / "09_example.ipynb"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nbformat.write(notebook, path)
    return path


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_a_kernel_ends_with_its_notebook(tmp_path, capsys):
    source = write(tmp_path, "import os; print(os.getpid())")
    course.run(source, tmp_path / "out" / source.name, sys.executable)
    executed = nbformat.read(tmp_path / "out" / source.name, as_version=4)
    pid = int(executed.cells[0].outputs[0].text)
    assert pid != os.getpid()
    until = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not is_running(pid)
    assert "09_example" in capsys.readouterr().out


def test_a_failing_cell_is_shown_and_the_copy_is_kept(tmp_path):
    source = write(tmp_path, "x = 1", "raise ValueError('the reason')")
    with pytest.raises(SystemExit) as caught:
        course.run(source, tmp_path / source.name, sys.executable)
    said = str(caught.value)
    assert "Cell 1 of 09_example.ipynb" in said and "ValueError: the reason" in said
    assert nbformat.read(tmp_path / source.name, as_version=4).cells[1].outputs


def test_a_workspace_in_quotes_with_a_space_is_one_folder_for_every_kernel(
    tmp_path, monkeypatch, capsys
):
    write(tmp_path, "import os; print(os.environ['COURSE_WORKSPACE'])")
    monkeypatch.setattr(course.record, "notebooks", lambda names: [tmp_path / "09_example.ipynb"])
    monkeypatch.setattr(course.notebook_kernels, "prepare_model", lambda python: None)
    monkeypatch.setattr(course, "OUT", tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["course.py", "09"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COURSE_WORKSPACE", '"my work"')
    course.main()
    executed = nbformat.read(tmp_path / "out" / "09_example.ipynb", as_version=4)
    assert executed.cells[0].outputs[0].text.strip() == str(tmp_path / "my work")
    assert "09_example" in capsys.readouterr().out


def test_in_place_ends_with_the_cells_that_have_no_output_and_counts_as_done(
    tmp_path, monkeypatch, capsys
):
    path = write(tmp_path, "get the course", "print(1)", "x = 1", "sliders.show()")
    monkeypatch.setattr(course.record, "notebooks", lambda names=(): [path])
    monkeypatch.setattr(fresh, "renew", lambda names: {"09_example": 1.0})
    monkeypatch.setattr(sys, "argv", ["course.py", "--in-place"])
    course.main()
    assert "no saved output yet:\n  09_example.ipynb: cell 1, 3\n" in capsys.readouterr().out

    book = nbformat.read(path, as_version=4)
    for cell in book.cells[1:]:
        cell.outputs = [nbformat.v4.new_output("stream", text="1\n")]
    nbformat.write(book, path)
    course.main()
    assert capsys.readouterr().out == ""
