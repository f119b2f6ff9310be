"""A cell that was run before the one it needs: an explanation instead of a traceback, in a real kernel."""

import queue
from types import SimpleNamespace

import pytest
from jupyter_client.manager import start_new_kernel

from helpers import workspace
from helpers.setup import hints


@pytest.fixture(scope="module")
def client():
    manager, client = start_new_kernel(kernel_name="python3")
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def error_of(client, source) -> dict | None:
    """What a notebook would show for a cell that fails."""
    asked, found = client.execute(source), None
    while True:
        try:
            message = client.get_iopub_msg(timeout=60)
        except queue.Empty:
            pytest.fail("the kernel does not answer")
        if message["parent_header"].get("msg_id") != asked:
            continue
        if message["msg_type"] == "error":
            found = message["content"]
        if message["content"].get("execution_state") == "idle":
            return found


SET_UP = f"""
import sys; sys.path.insert(0, {str(workspace.KIT)!r})
from helpers.setup import hints
hints.explain_missing_names(); hints.explain_missing_names()
"""


def test_a_name_that_no_cell_has_made_is_explained_in_three_lines(client):
    assert error_of(client, SET_UP) is None
    for source in ("print(presets.size())", "def f():\n    return presets.size()\nf()"):
        error = error_of(client, source)
        lines = "\n".join(error["traceback"]).splitlines()
        assert error["ename"] == "NameError" and len(lines) == 3
        assert "there is no presets in this session" in lines[0]
        assert lines[0].endswith("asked for in: " + source.splitlines()[-2:][0].strip() + ".")
        assert "run the cells above" in lines[2] and "set-up" in lines[2]


def test_other_errors_and_one_inside_a_library_keep_their_traceback(client):
    assert error_of(client, SET_UP) is None
    for source in ("1 / 0", "import helpers.nothing", "exec('missing', {})"):
        assert "Traceback" in "\n".join(error_of(client, source)["traceback"]), source


def test_stop_is_one_line(client):
    assert error_of(client, SET_UP) is None
    stop = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(20)"
    assert error_of(client, stop)["traceback"] == ["KeyboardInterrupt: you stopped this cell."]


def test_what_already_explains_errors_goes_on_doing_so(client):
    """Colab has its own words for a package that is not there."""
    theirs = """
def show(shell, kind, error, trace, tb_offset=None):
    print("theirs"); error._render_traceback_ = lambda: ["theirs"]
    shell.showtraceback((kind, error, trace))
get_ipython().set_custom_exc((ImportError,), show)
"""
    assert error_of(client, theirs) is None
    assert error_of(client, SET_UP) is None
    assert error_of(client, "import no_such_package")["traceback"] == ["theirs"]
    assert "in this session" in error_of(client, "missing_name")["traceback"][0]


def test_outside_a_notebook_nothing_happens():
    from helpers.setup import hints

    hints.explain_missing_names()


def test_names_are_forgotten_whole_or_by_their_beginnings(monkeypatch):
    names = {"losses_before": 1, "losses": 2, "models": 3, "model": 4}
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(user_ns=names))
    hints.forget("losses_*", "model")
    assert names == {"losses": 2, "models": 3}


def test_outside_a_notebook_nothing_is_forgotten():
    hints.forget("x")
