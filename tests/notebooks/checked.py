"""Plugin for `pytest --nbval`: after a cell, its check runs in the same kernel.

A lesson teaches, a test tests: what a cell must have produced stands in ``checks/NAME.py``, in a function named like the
cell (cell ``loss-falls``, function ``loss_falls``). The function sees the notebook's names as its globals and leaves
none behind; nor does it leave an output, an entry of ``In`` and ``Out``, or another state of the random numbers.
"""

import ast
from pathlib import Path

from nbval.plugin import IPyNbCell, NbCellError

CHECKS = Path(__file__).resolve().parent / "checks"
SHARED = Path(__file__).resolve().parent / "shared.py"
# Runs in the kernel, in one expression: no name of its own stays there.
IN_KERNEL = """
(lambda source, name, names, random, torch: (
    exec(compile(source, name, "exec"), names),
    (lambda state, own: (names[name](), random.setstate(own), state is not None and torch.set_rng_state(state)))(
        torch and torch.get_rng_state(), random.getstate()),
))({source!r}, {name!r}, dict(globals()), __import__("random"), __import__("sys").modules.get("torch"))
"""


def checks(notebook: Path) -> dict[str, str]:
    """The checks of a notebook: ``{function: source of their file, behind what all share}``."""
    file = CHECKS / f"{notebook.stem}.py"
    if not file.exists():
        return {}
    source = file.read_text(encoding="utf-8")
    functions = [one.name for one in ast.parse(source).body if isinstance(one, ast.FunctionDef)]
    whole = f"{SHARED.read_text(encoding='utf-8')}\n{source}"
    return dict.fromkeys((name for name in functions if not name.startswith("_")), whole)


def name_of(cell) -> str:
    """The function that checks a cell."""
    return cell.get("id", "").replace("-", "_")


def _check(item: IPyNbCell) -> None:
    name = name_of(item.cell)
    source = checks(item.path).get(name)
    if source is None:
        return
    kernel = item.parent.kernel
    code = IN_KERNEL.format(source=source, name=name)
    asked = kernel.kc.execute(code, silent=True, store_history=False, allow_stdin=False)
    message = {"parent_header": {}}
    while message["parent_header"].get("msg_id") != asked:
        message = kernel.get_message("shell", timeout=item.config.option.nbval_cell_timeout)
    reply = message["content"]
    if reply["status"] != "ok":
        said = f"{reply['ename']}: {reply['evalue']}"
        tail = "\n".join(reply.get("traceback", [])[-3:])
        raise NbCellError(item.cell_num, f"the check {name} failed: {said}", item.cell.source, tail)


_run_cell = IPyNbCell.runtest


def runtest(item: IPyNbCell) -> None:
    """Run a cell, then its check."""
    _run_cell(item)
    # With --outputs, outputs are collected from cells in settings that the checks are not for.
    if not item.config.getoption("outputs", None):
        _check(item)


IPyNbCell.runtest = runtest
