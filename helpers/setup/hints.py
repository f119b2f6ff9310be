"""Say in words what a missing name in a notebook means: a cell above has not been run. Standard library only."""

import fnmatch
import linecache
import sys


def explain_missing_names() -> None:
    """From now on a ``NameError`` in a cell is shown as a short explanation instead of a traceback, Stop as one line.

    One inside a helper or a library is shown as before. Nothing happens outside a notebook.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is None or KeyboardInterrupt in shell.custom_exceptions:
        return
    # Colab explains other errors in this way; that stays.
    others, their_way = tuple(shell.custom_exceptions), shell.CustomTB

    def show(shell, kind, error, trace, tb_offset=None):
        if issubclass(kind, KeyboardInterrupt):
            error._render_traceback_ = lambda: ["KeyboardInterrupt: you stopped this cell."]
        elif not issubclass(kind, NameError):
            return their_way(kind, error, trace, tb_offset=tb_offset)
        # UnboundLocalError is one too, and says best itself what is wrong.
        if kind is NameError and (line := _line_of_a_cell(trace, shell.user_ns)) is not None:
            error._render_traceback_ = lambda: explanation(error, line).splitlines()
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset)

    shell.set_custom_exc((*others, NameError, KeyboardInterrupt), show)


def explanation(error: NameError, line: str = "") -> str:
    """What a student reads: what happened, why, what to do; ``line`` is the code that asked for the name."""
    return (
        f"NameError: there is no {error.name or error} in this session{line and f', asked for in: {line}'}.\n"
        "Why: the cell that makes it has not been run since the session began, or it stopped with an error; or the "
        "name is misspelt.\n"
        "What to do: run the cells above in their order, the two of the set-up first (Colab: Runtime > Run before; "
        "JupyterLab: Run > Run All Above Selected Cell)."
    )


def _line_of_a_cell(trace, names: dict) -> str | None:
    """The line of a cell's own code where an error arose; ``None`` if it arose elsewhere.

    In a cell, and in a function that a cell defines, the global names are the notebook's.
    """
    while trace.tb_next is not None:
        trace = trace.tb_next
    if trace.tb_frame.f_globals is not names:
        return None
    return linecache.getline(trace.tb_frame.f_code.co_filename, trace.tb_lineno).strip()


def forget(*patterns: str) -> None:
    """Take names out of this notebook's session, so that no cell takes what they hold for what is there now.

    A cell that needs one then says that it is missing. Nothing happens outside a notebook.

    Args:
        patterns: names; ``*`` stands for any letters.
    """
    ipython = sys.modules.get("IPython")
    names = getattr(ipython and ipython.get_ipython(), "user_ns", {})
    for pattern in patterns:
        for name in fnmatch.filter(names, pattern):
            del names[name]
