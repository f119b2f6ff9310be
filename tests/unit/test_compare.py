"""tools/compare.py compares what nbval compares, and refuses outputs that depend on the machine."""

import json
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from nbval.plugin import IPyNbFile, coalesce_streams

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import compare
import record


def printed(text: str, name: str = "stdout"):
    return new_output("stream", name=name, text=text)


def shown(**data):
    return new_output("display_data", {key.replace("_", "/"): value for key, value in data.items()})


WIDGET = "application/vnd.jupyter.widget-view+json"
VIEWS = [new_output("display_data", {WIDGET: {"model_id": i}, "text/plain": "S"}) for i in "ab"]
PAIRS = {
    "the same": (True, [printed("1\n")], [printed("1\n")]),
    "another number": (False, [printed("1.01\n")], [printed("1.02\n")]),
    "printed in two pieces": (True, [printed("1\n2\n")], [printed("1\n"), printed("2\n")]),
    "another stream": (False, [printed("1\n")], [printed("1\n", "stderr")]),
    "one more stream": (False, [printed("1\n")], [printed("1\n"), printed("w", "stderr")]),
    "nothing any more": (False, [printed("1\n")], []),
    "another picture": (True, [shown(image_png="AAAA")], [shown(image_png="BBBB")]),
    "another drawing": (False, [shown(text_html="<svg/>")], [shown(text_html="<svg></svg>")]),
    "another widget view": (True, VIEWS[:1], VIEWS[1:]),
    "another order of kinds": (
        True,
        [printed("1\n"), shown(text_plain="x")],
        [shown(text_plain="x"), printed("1\n")],
    ),
    "another order of one kind": (
        False,
        [shown(text_plain="x"), shown(text_plain="y")],
        [shown(text_plain="y"), shown(text_plain="x")],
    ),
    "another progress bar": (
        True,
        [printed("Map:  10%|#   | 1/10\ndone\n")],
        [printed("Map: 100%|####| 10/10\ndone\n")],
    ),
    "another speed": (True, [printed("at 3.1it/s")], [printed("at 12it/s")]),
    "the second output only": (
        False,
        [shown(text_plain="x"), shown(text_plain="y")],
        [shown(text_plain="x"), shown(text_plain="z")],
    ),
}


@pytest.fixture(scope="module")
def nbval_cell(request, tmp_path_factory):
    """A cell as nbval itself sees it, with the course's rules for what it must not compare."""
    path = tmp_path_factory.mktemp("nbval") / "09_example.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), path)
    before = request.config.option.nbval_sanitize_with
    request.config.option.nbval_sanitize_with = str(compare.SANITIZE)
    file = IPyNbFile.from_parent(request.session, path=path)
    file.setup_sanitize_files()
    request.config.option.nbval_sanitize_with = before
    (cell,) = file.collect()
    return cell


@pytest.mark.parametrize(("same", "one", "other"), PAIRS.values(), ids=PAIRS)
def test_two_outputs_are_the_same_here_where_they_are_for_nbval(nbval_cell, same, one, other):
    as_nbval_gets_them = [coalesce_streams(nbformat.from_dict(outputs)) for outputs in (other, one)]
    assert nbval_cell.compare_outputs(*as_nbval_gets_them) == same
    assert (compare.compared(one) == compare.compared(other)) == same
    (cell,) = compare.cells(new_notebook(cells=[new_code_cell("1", outputs=one)]))
    found = compare.differences([cell], [cell | {"outputs": other}])
    assert (found == []) == same


def test_a_difference_names_notebook_cell_and_both_outputs_unless_the_cell_is_tagged():
    cell = {"source": "print(x)\n# more", "tags": [], "outputs": [printed("a\n1.01\n")]}
    other = cell | {"outputs": [printed("a\n1.02\n")]}
    (found,) = compare.differences([cell, cell], [cell, other])
    said = found.describe(Path("09_example.ipynb"), "bfloat16", "32 bits")
    assert "09_example.ipynb, code cell 1: print(x)" in said
    assert "-1.01" in said and "+1.02" in said and "bfloat16" in said and "32 bits" in said
    tagged = [one | {"tags": [compare.IGNORE]} for one in (cell, other)]
    assert compare.differences(tagged[:1], tagged[1:]) == []


@pytest.fixture
def example(tmp_path, monkeypatch):
    """A notebook, and a function that keeps what it printed in each setting."""
    path = tmp_path / "09_example.ipynb"
    cell = new_code_cell("print(x)", outputs=[printed("1\n")])
    nbformat.write(new_notebook(cells=[new_code_cell(), new_code_cell(), cell]), path)
    monkeypatch.setattr(compare, "OUT", tmp_path / "compare")

    def keep(*texts: str) -> Path:
        for setting, text in zip(compare.SETTINGS, texts, strict=True):
            cells = compare.cells(nbformat.read(path, as_version=4))
            cells[2]["outputs"] = [printed(text)]
            file = compare.OUT / setting / f"{path.stem}.json"
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps(cells))
            file.with_suffix(".code").write_text(record.code_hash(path))
        return path

    return keep


def test_an_output_that_one_setting_changes_is_refused(example):
    path = example("1\n", "1\n", "2\n")
    with pytest.raises(SystemExit) as caught:
        compare.check([path])
    assert "09_example.ipynb, code cell 2: print(x)" in str(caught.value)


def test_other_saved_outputs_are_said_and_refuse_nothing(example, capsys):
    compare.check([example("3\n", "3\n", "3\n")])
    said = capsys.readouterr().out
    assert "Not as saved: 09_example.ipynb" in said and "the same in 3 settings" in said
    assert "0 of 1 notebooks to run" in said


def test_a_notebook_whose_code_changed_is_run_again(example):
    path = example("1\n", "1\n", "1\n")
    assert compare.kept(path) is not None
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[2].source = "print(y)"
    nbformat.write(notebook, path)
    assert compare.kept(path) is None


def test_code_that_changes_while_it_runs_is_said(example, monkeypatch):
    path = example("1\n", "1\n", "1\n")
    path.write_text(path.read_text().replace("print(x)", "print(y)"))
    # A run itself needs kernels; this one leaves what was kept for the earlier code.
    monkeypatch.setattr(compare, "run", lambda *_: None)
    with pytest.raises(SystemExit) as caught:
        compare.check([path])
    assert "09_example.ipynb: code or helpers changed meanwhile" in str(caught.value)


def test_the_settings_vary_number_format_instructions_and_threads():
    for name, least in (("UNSLOTH_CPU_BF16", 2), ("OMP_NUM_THREADS", 2), ("ONEDNN_MAX_CPU_ISA", 2)):
        values = {setting.get(name) for setting in compare.SETTINGS.values()}
        assert len(values) >= least, name
