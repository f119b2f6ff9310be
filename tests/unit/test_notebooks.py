"""What every notebook must keep to, and the opening cell in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

KIT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(KIT / "tools"))
import notebooks as tool

PATHS = tool.paths()
READ = {path.name: nbformat.read(path, as_version=4) for path in PATHS}


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def notebook(request):
    return READ[request.param.name]


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_course_has_its_eight_notebooks():
    assert [path.name[:2] for path in PATHS][:8] == [f"0{number}" for number in range(8)]


def test_badges_opening_cells_and_metadata_agree_with_one_release():
    done = subprocess.run(
        [sys.executable, KIT / "tools" / "notebooks.py", "check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_another_release_changes_every_badge_and_every_opening_cell():
    for path in PATHS:
        text = tool.rewritten(path, "somebody/some-course", "v9")
        assert "somebody/some-course/blob/v9/notebooks/" + path.name in text
        assert 'REPO, REF = \\"https://github.com/somebody/some-course\\", \\"v9\\"' in text
        assert tool.release()[0] not in text
    readme = tool.readme("somebody/some-course", "v9")
    assert readme.count("somebody/some-course/blob/v9/notebooks/") == len(PATHS)


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


def test_code_cells_are_short_and_explained(notebook):
    lines = [len(cell.source.splitlines()) for cell in code_cells(notebook)]
    words = sum(len(c.source.split()) for c in notebook.cells if c.cell_type == "markdown")
    assert max(lines) <= 25
    assert words / sum(lines) >= 3


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


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A clone of this checkout with the release's tag, as GitHub would serve it."""
    clone = tmp_path_factory.mktemp("released") / "course.git"
    _, ref = tool.release()
    for command in (
        ["git", "clone", "--quiet", "--bare", str(KIT), str(clone)],
        ["git", "-C", str(clone), "tag", "--force", ref, "HEAD"],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return clone


def run_opening_cell(folder, source, **environment):
    """Run a cell's text in a folder, and print where the helpers come from."""
    code = (
        source
        + "\nfrom helpers import presets\nprint(pathlib.Path(presets.__file__).parent.parent)"
    )
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def serve(clone):
    """Environment in which git fetches the release's address from a local clone."""
    repo, _ = tool.release()
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{clone}.insteadOf",
        "GIT_CONFIG_VALUE_0": f"https://github.com/{repo}",
    }


def test_the_opening_cell_downloads_the_release_into_an_empty_folder(tmp_path, released):
    cell = code_cells(READ[PATHS[0].name])[0].source
    first = run_opening_cell(tmp_path, cell, **serve(released))
    assert first.returncode == 0, first.stderr
    kit = Path(first.stdout.strip().splitlines()[-1])
    assert kit.parent == tmp_path and (kit / "notebooks").is_dir()
    # A second run, for instance after a restart, needs no network.
    again = run_opening_cell(tmp_path, cell, **serve(tmp_path / "gone"))
    assert again.stdout.strip().splitlines()[-1] == str(kit)


def test_the_opening_cell_uses_the_checkout_it_stands_in():
    cell = code_cells(READ[PATHS[0].name])[0].source
    done = run_opening_cell(KIT / "notebooks", cell, **serve(Path("/nowhere")))
    assert done.stdout.strip().splitlines()[-1] == str(KIT)


def test_without_a_network_the_opening_cell_says_so(tmp_path):
    cell = code_cells(READ[PATHS[0].name])[0].source
    done = run_opening_cell(tmp_path, cell, **serve(tmp_path / "gone"))
    assert done.returncode != 0
    assert "could not be downloaded" in done.stderr
    assert list(tmp_path.iterdir()) == []
