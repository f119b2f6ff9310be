"""What every notebook must keep to, and what the tool makes of it. The opening cell: test_opening_cell.py."""

import ast
import re
import statistics
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

KIT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(KIT / "tools"))
import lengths
import record

import notebooks as tool

PATHS = record.notebooks()
READ = {path.name: nbformat.read(path, as_version=4) for path in PATHS}


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def notebook(request):
    return READ[request.param.name]


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture
def run(monkeypatch):
    """Call the tool as from the command line, but in this process: to start another takes two seconds."""

    def call(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["notebooks.py", *arguments])
        tool.main()

    return call


def test_the_course_has_its_eight_notebooks():
    assert [path.name[:2] for path in PATHS][:8] == [f"0{number}" for number in range(8)]


def test_every_cell_has_an_id_in_words_of_its_own(notebook):
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", one) for one in ids)
    assert not [one for one in ids if tool.RANDOM.fullmatch(one)]
    assert set(ids) >= set(tool.OPENING) - {"set-up"}


def test_a_new_cell_is_named_by_its_words_and_a_name_stays():
    cells = [
        new_markdown_cell("## What is **lost**?", id="1f2e3d4c"),
        new_code_cell("print(1)", id="0aXb-9_cDdEf"),
        new_code_cell("print(1)", id="cell-07"),
        new_code_cell("print(1)", id="label-one-row"),
        new_code_cell("", id="9d3c2a1b-0000-4000-8000-123456789abc"),
    ]
    notebook = new_notebook(cells=cells)
    tool.name_cells(notebook)
    named = ["what-is-lost", "print-1", "print-1-1", "label-one-row", "empty"]
    assert [cell.id for cell in notebook.cells] == named
    tool.name_cells(notebook)
    assert [cell.id for cell in notebook.cells] == named


def test_badges_opening_cells_and_metadata_agree_with_one_release(run):
    # Raises SystemExit, with the names of the files, where they do not.
    run("check")


def test_another_release_changes_every_badge_and_every_opening_cell():
    for path in PATHS:
        text = tool.rewritten(path, "somebody/some-course", "v9")
        assert "somebody/some-course/blob/v9/notebooks/" + path.name in text
        assert 'REPO, REF = \\"https://github.com/somebody/some-course\\", \\"v9\\"' in text
        assert "_owner_" not in text and tool.release()[0] not in text
    readme = tool.readme("somebody/some-course", "v9")
    for path in PATHS:
        assert f"somebody/some-course/blob/v9/notebooks/{path.name}" in readme


def test_what_the_opening_cell_printed_on_some_machine_is_not_saved(tmp_path):
    made = nbformat.read(PATHS[0], as_version=4)
    first, second = code_cells(made)[:2]
    first.outputs = [nbformat.v4.new_output("stream", text="Course: /home/me/course\n")]
    nbformat.write(made, tmp_path / PATHS[0].name)
    text = tool.rewritten(tmp_path / PATHS[0].name, *tool.release())
    assert "/home/me" not in text
    cells = code_cells(nbformat.reads(text, as_version=4))
    assert cells[0].outputs == [] and cells[1].outputs == second.outputs != []


def test_no_widget_state_no_counts_no_timings(notebook):
    assert "widgets" not in notebook.metadata
    for cell in code_cells(notebook):
        assert cell.execution_count is None
        assert set(cell.metadata) <= {"tags"}


def test_saved_outputs_hold_no_error_and_no_path_of_a_machine(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert output.output_type != "error"
            assert not re.search(r"/(home|root|tmp|work)/", str(output.get("text", "")))


def test_the_notebook_was_run_before_it_was_saved(notebook):
    assert sum(bool(cell.outputs) for cell in code_cells(notebook)) > len(code_cells(notebook)) / 2


def test_one_title_and_a_badge_right_under_it(notebook):
    first = notebook.cells[0].source.splitlines()
    assert first[0].startswith("# ")
    assert tool.BADGE_PATTERN.fullmatch(first[2])
    headings = [c.source for c in notebook.cells[1:] if c.cell_type == "markdown"]
    assert not any(re.search(r"^# ", text, flags=re.MULTILINE) for text in headings)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_is_neither_long_nor_wordy(path):
    # The opening cells stand apart: the first has no helpers yet, and test_opening_cell.py holds its length.
    length = lengths.of(path)
    assert 24 <= length.cells <= 45
    assert 3 <= statistics.median(length.lines) <= 8 and max(length.lines) <= 25
    assert 3 <= length.words_a_line < 6


def test_words_are_counted_without_badges_formulas_and_addresses():
    text = "[![Open](a b)](c d) Two words, [a link](https://x.y) and $a + b$ | --- |"
    assert lengths.words(text) == len(["Two", "words", "a", "link", "and"])


def test_each_first_cell_says_how_long_reading_takes(notebook):
    assert len(record.READING.findall(notebook.cells[0].source)) == 1
    assert "**Core path**" in notebook.cells[0].source


def test_no_cell_asks_for_a_machine(notebook):
    for cell in code_cells(notebook)[2:]:
        assert not re.search(r"\bif\b.*(is_available|on_colab|environ|\bCI\b)", cell.source)


def test_unsloth_comes_before_what_it_changes(notebook):
    seen = False
    for cell in code_cells(notebook)[2:]:
        for line in cell.source.splitlines():
            if re.match(
                r"(from|import) unsloth|from helpers import .*\b(models|training)\b", line.strip()
            ):
                seen = True
            if re.match(r"(from|import) (trl|peft|transformers)\b", line.strip()):
                assert seen, line


def test_it_ends_with_two_questions_to_predict(notebook):
    headings = [c.source for c in notebook.cells if c.cell_type == "markdown"]
    assert any("## Predict, then run" in text for text in headings)


# ----------------------------------------------------------------------------------------------- the tool
def test_until_a_release_names_an_owner_the_address_is_one_that_nobody_can_have():
    owner = tool.PLACEHOLDER.partition("/")[0]
    # GitHub: letters, digits and single hyphens.
    assert not re.fullmatch(r"[A-Za-z0-9-]+", owner)
    repo, _ = tool.release()
    assert repo == tool.PLACEHOLDER or tool.valid(repo, "v1") == ""
    texts = [path.read_text(encoding="utf-8") for path in PATHS]
    texts.append((KIT / "README.md").read_text(encoding="utf-8"))
    for text in texts:
        assert set(re.findall(r"github\.com/([\w-]+/[\w.-]*lora-course)", text)) <= {repo}


@pytest.mark.parametrize(
    ("repo", "ref"),
    [
        ("owner", "v1"),
        ("own_er/name", "v1"),
        ("-owner/name", "v1"),
        ("own--er/name", "v1"),
        ("owner/na me", "v1"),
        ('owner/name"', "v1"),
        ("owner/name/more", "v1"),
        ("owner/name", ""),
        ("owner/name", "v1 "),
        ("owner/name", "-v1"),
        ("owner/name", "v..1"),
        ("owner/name", "v1.lock"),
        ("owner/name", 'v1"; print("'),
    ],
)
def test_a_name_that_cannot_be_a_release_changes_nothing(run, capsys, repo, ref):
    before = {path: path.read_bytes() for path in [*PATHS, KIT / "README.md"]}
    with pytest.raises(SystemExit) as caught:
        run("badges", repo, ref)
    assert caught.value.code != 0
    assert "error: " in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


def book(*cells: tuple[str, str | None]):
    """A notebook of code cells, each with what it printed."""
    made = nbformat.v4.new_notebook()
    for source, printed in cells:
        cell = nbformat.v4.new_code_cell(source)
        if printed is not None:
            cell.outputs = [nbformat.v4.new_output("stream", text=printed)]
        made.cells.append(cell)
    return made


@pytest.mark.parametrize(
    "place",
    [
        "workspace0",
        "build/test-workspace",
        "/tmp/ws-1/my work",
        "/content/drive/MyDrive/lora-course",
    ],
)
def test_wherever_the_workspace_was_the_outputs_call_it_workspace(place, monkeypatch):
    monkeypatch.delenv("COURSE_WORKSPACE", raising=False)
    inside = not place.startswith("/")
    said = f"Workspace: {place}{'/ in the course' if inside else ''}\n"
    whole = f"{KIT}/{place}" if inside else place
    made = book(
        ("a", f"Packages match the pins.\n{said}"), ("b", f"saved {whole}/runs/r16\n{whole}")
    )
    cells = tool.clean(made, "00_x.ipynb").cells
    assert cells[0].outputs[0].text == (
        "Packages match the pins.\nWorkspace: workspace/ in the course\n"
    )
    assert cells[1].outputs[0].text == "saved workspace/runs/r16\nworkspace"


def test_a_workspace_that_a_variable_names_is_called_workspace_too(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_WORKSPACE", f'"{tmp_path}/here"')
    made = book(("a", f"in {tmp_path}/here/runs, not in {tmp_path}/hereafter\n"))
    text = tool.clean(made, "00_x.ipynb").cells[0].outputs[0].text
    assert text == f"in workspace/runs, not in {tmp_path}/hereafter\n"


@pytest.mark.parametrize(
    ("source", "shows"),
    [
        ("print(1)", True),
        ("for i in range(3):\n    print(i)", True),
        ("%matplotlib inline\nplots.bars(x)", True),
        ("x = 1\nx", True),
        ("sliders = LoraSliders()\nsliders.show()", True),
        ("with out:\n    display(picture)", True),
        ("x = 1", False),
        ("def show(x):\n    print(x)", False),
        ("!pip list\nx = 1", False),
        ("import sys", False),
    ],
)
def test_a_cell_that_shows_something_has_to_have_an_output(source, shows):
    first = ("sys.path.insert(0, str(kit))", None)
    made = book(first, (source, None))
    assert tool.unsaved(made) == ([1] if shows else [])
    assert tool.unsaved(book(first, (source, "something"))) == []


def test_no_cell_gives_a_helper_s_name_to_something_else(notebook):
    """`asked = …` would hide the helper asked from every cell below."""
    imported, given = set(), set()
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom) and node.module in ("helpers", "helpers.setup"):
                imported |= {alias.asname or alias.name for alias in node.names}
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                given.add(node.id)
    assert not imported & given
