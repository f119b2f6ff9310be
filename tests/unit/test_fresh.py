"""`make notebooks` and `make full`: from an empty workspace, in order, and nothing doubtful is saved."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

KIT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(KIT / "tools"))
import compare
import fresh
import notebook_kernels
import record

from helpers import presets

# The third cell of each: what 01 leaves is what 02 begins with; 00 leaves nothing to anybody.
CELLS = {
    "00_a": "import os, pathlib\n"
    "here = pathlib.Path(os.environ['COURSE_WORKSPACE'])\n"
    "(here / 'of_00').touch()\n"
    "print(sorted(p.name for p in here.iterdir()), here)",
    "01_b": "import json, os, pathlib\n"
    "here = pathlib.Path(os.environ['COURSE_WORKSPACE'])\n"
    "print(sorted(p.name for p in here.iterdir()))\n"
    "(here / 'runs' / 'r4').mkdir(parents=True)\n"
    "(here / 'runs' / 'r4' / 'run.json').write_text(json.dumps({'minutes': 0.0001}));",
    "02_c": "import os, pathlib\n"
    "here = pathlib.Path(os.environ['COURSE_WORKSPACE'])\n"
    "print(sorted(p.name for p in here.iterdir()))",
}
EXPECTED = {
    "00_a": "['models', 'of_00'] workspace\n",
    "01_b": "['models']\n",
    "02_c": "['models', 'runs']\n",
}


def outputs(path: Path) -> str:
    cell = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"][2]
    return "".join(output.text for output in cell.outputs)


@pytest.fixture
def small_course(tmp_path, monkeypatch):
    """Three notebooks in a folder of their own, compared already; their model is a file."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name, source in CELLS.items():
        cells = [new_markdown_cell("# Title\n\n"), *map(new_code_cell, ("1;", "2;", source))]
        nbformat.write(new_notebook(cells=cells), folder / f"{name}.ipynb")
    (tmp_path / "data").mkdir()
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "requirements-local.txt").touch()
    (tmp_path / "README.md").touch()
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setattr(record, "README", tmp_path / "README.md")
    monkeypatch.setattr(record, "FILE", tmp_path / "data" / "measured.json")
    monkeypatch.setattr(record, "CORES", record.machine()["cores"])
    record.write(
        {"notebooks": {name: {"minutes": 1, "colab_minutes_estimate": 5} for name in CELLS}}
    )
    place = tmp_path / "build" / "fresh"
    monkeypatch.setattr(fresh, "PLACE", place)
    monkeypatch.setattr(fresh, "WORKSPACE", place / "workspace")
    monkeypatch.setattr(fresh, "IN_OUTPUTS", fresh.workspace_pattern(tmp_path))
    monkeypatch.setattr(compare, "OUT", tmp_path / "build" / "compare")
    # Both have tests of their own; here they would bring the course's own opening cells, and its model.
    monkeypatch.setattr(notebook_kernels, "prepare_model", lambda *_: None)
    monkeypatch.setattr(fresh, "clean", lambda _: None)
    for name in fresh.FOREIGN:
        monkeypatch.delenv(name, raising=False)
    model = tmp_path / "shared" / "models" / "small"
    model.mkdir(parents=True)
    (model / "weights").write_text("weights")
    monkeypatch.setenv("COURSE_WORKSPACE", str(tmp_path / "shared"))
    return folder


def keep_as_compared(folder: Path) -> None:
    """What each notebook put out at test size: the same in every setting."""
    for name, text in EXPECTED.items():
        path = folder / f"{name}.ipynb"
        cells = compare.cells(nbformat.read(path, as_version=4))
        cells[2]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": text}]
        for setting in compare.SETTINGS:
            file = compare.OUT / setting / f"{name}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(cells))
            file.with_suffix(".code").write_text(record.code_hash(path))


def test_each_notebook_begins_with_what_the_one_before_left_and_its_outputs_are_saved(
    small_course, capsys
):
    keep_as_compared(small_course)
    paths = record.notebooks()
    fresh.renew()
    assert {path.stem: outputs(path) for path in paths} == EXPECTED
    entries = record.read()["notebooks"]
    assert entries["01_b"]["training_minutes"] == {"r4": 0.0001}
    # It is left, and not trained, by the notebook that follows.
    assert entries["02_c"]["training_minutes"] == {}
    assert all(map(record.is_current, paths))
    assert record.read()["full"]["code"] == record.course_hash()
    assert not (fresh.left_by(paths[1]) / "models").exists()

    # What is current is not run again; one that is named is, from the same start.
    capsys.readouterr()
    assert fresh.renew() == {}
    assert fresh.renew(["02"]).keys() == {"02_c"}
    assert outputs(paths[2]) == EXPECTED["02_c"]


def test_an_output_that_depends_on_the_size_is_not_saved(small_course):
    keep_as_compared(small_course)
    path = small_course / "00_a.ipynb"
    for file in compare.OUT.rglob("00_a.json"):
        file.write_text(file.read_text().replace("of_00", "of_24_rows"))
    before = path.read_text()
    with pytest.raises(SystemExit) as caught:
        fresh.renew(["00"])
    assert "depend on the size" in str(caught.value) and "00_a.ipynb, code cell 2" in str(
        caught.value
    )
    assert path.read_text() == before
    # The work of the run is not lost.
    assert "['models', 'of_00']" in outputs(fresh.PLACE / "00_a.ipynb")


def test_a_notebook_that_changes_while_it_runs_is_not_overwritten(small_course):
    path = small_course / "00_a.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[2].source = f"open({str(record.ROOT / 'data' / 'x.json')!r}, 'w').write('[]');"
    nbformat.write(notebook, path)
    keep_as_compared(small_course)
    before = path.read_text()
    with pytest.raises(SystemExit) as caught:
        fresh.renew(["00"])
    assert "changed while it ran" in str(caught.value) and path.read_text() == before


def test_a_full_run_is_held_against_the_saved_outputs(small_course):
    keep_as_compared(small_course)
    fresh.renew()
    record.write({"notebooks": record.read()["notebooks"]})
    path = small_course / "02_c.ipynb"
    text = path.read_text()
    path.write_text(text.replace("['models', 'runs']", "['models']"))
    with pytest.raises(SystemExit) as caught:
        fresh.run_all()
    assert "02_c.ipynb, code cell 2" in str(caught.value) and "00_a.ipynb" not in str(caught.value)
    assert "full" not in record.read()
    path.write_text(text)
    assert fresh.run_all().keys() == CELLS.keys()
    assert record.read()["full"]["minutes"].keys() == CELLS.keys()


def test_without_the_one_before_it_does_not_begin(small_course):
    keep_as_compared(small_course)
    with pytest.raises(SystemExit) as caught:
        fresh.renew(["02"])
    assert "run 01_b first" in str(caught.value)


def test_a_setting_that_makes_another_course_is_refused(small_course, monkeypatch):
    monkeypatch.setenv("COURSE_SIZE", "test")
    with pytest.raises(SystemExit) as caught:
        fresh.renew()
    assert "COURSE_SIZE" in str(caught.value)


# ------------------------------------------------------------------------- the plugin of `make nbval`
def test_the_nbval_run_gives_every_notebook_an_empty_workspace(tmp_path):
    source = (
        "import os, pathlib, threading\n"
        "here = pathlib.Path(os.environ['COURSE_WORKSPACE'])\n"
        "print(sorted(p.name for p in here.iterdir()))\n"
        "(here / 'left').touch()\n"
    )
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for name, text in (("01_a", "['models']\n"), ("02_b", "['other']\n")):
        cell = new_code_cell(source)
        cell.outputs = [nbformat.v4.new_output("stream", text=text)]
        where = new_code_cell("print(here)", metadata={"tags": ["nbval-ignore-output"]})
        notebook = new_notebook(cells=[cell, where], metadata=kernel)
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    (tmp_path / "shared" / "models" / presets.EMBEDDED).mkdir(parents=True)
    command = [sys.executable, "-m", "pytest", "-p", "tests.notebooks.alone", "--nbval"]
    command += ["-p", "no:cacheprovider", f"--rootdir={tmp_path}"]
    environment = {"COURSE_WORKSPACE": str(tmp_path / "shared")}

    def run(*options):
        return subprocess.run(
            [*command, *options, str(tmp_path)],
            cwd=KIT,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    done = run("-n2", "--dist=loadfile")
    assert "1 failed, 3 passed" in done.stdout and "02_b.ipynb::Cell 0" in done.stdout
    # The same without comparing: what each put out is kept, and the workspaces are gone.
    done = run(f"--outputs={tmp_path / 'kept'}")
    assert "4 passed" in done.stdout, done.stdout
    kept = [json.loads(path.read_text()) for path in sorted((tmp_path / "kept").iterdir())]
    assert [cells[0]["outputs"][0]["text"] for cells in kept] == ["['models']\n"] * 2
    places = [Path(cells[1]["outputs"][0]["text"].strip()) for cells in kept]
    assert len(set(places)) == 2 and not any(place.exists() for place in places)
