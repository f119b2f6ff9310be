"""The exception that students read."""

import pytest
from IPython.core.interactiveshell import InteractiveShell

from helpers.errors import CourseError


def test_the_message_says_what_happened_why_and_what_to_do():
    error = CourseError(
        "rows.json, row 7: no answer.", "Training needs answers.", "Delete the row."
    )
    assert str(error) == (
        "rows.json, row 7: no answer.\nWhy: Training needs answers.\nWhat to do: Delete the row."
    )
    assert (error.what, error.why, error.todo) == (
        "rows.json, row 7: no answer.",
        "Training needs answers.",
        "Delete the row.",
    )


def test_a_message_without_a_next_step_cannot_be_made():
    with pytest.raises(TypeError):
        CourseError("It broke.", "It is old.")


def test_jupyter_shows_the_message_and_no_traceback(capsys):
    shell = InteractiveShell()
    cell = (
        "from helpers.errors import CourseError\n"
        "try:\n    1 / 0\n"
        "except ZeroDivisionError as error:\n"
        "    raise CourseError('r = 0.', 'Nothing is trained.', 'Move the slider.') from error"
    )
    result = shell.run_cell(cell)
    assert isinstance(result.error_in_exec, CourseError)
    shown = capsys.readouterr().out.strip()
    assert shown == "CourseError: r = 0.\nWhy: Nothing is trained.\nWhat to do: Move the slider."


def test_jupyter_still_shows_the_traceback_of_other_errors(capsys):
    InteractiveShell().run_cell("1 / 0")
    assert "Traceback" in capsys.readouterr().out
