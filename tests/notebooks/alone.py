"""Plugin for `pytest --nbval`: every notebook runs alone, in an empty workspace of its own.

With ``--outputs FOLDER`` nothing is compared: what each cell put out is kept there, for tools/compare.py.
"""

import contextlib
import json
import sys
from pathlib import Path

import nbval.kernel
import pytest
from jupyter_client.manager import KernelManager

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import notebook_kernels
import record


class LocalKernel(KernelManager):
    """A kernel behind local sockets: two that start at once cannot take each other's ports."""

    python = sys.executable

    def __init__(self, **settings):
        super().__init__(**settings, **notebook_kernels.sockets())
        self.kernel_spec.argv[0] = self.python


nbval.kernel.KernelManager = LocalKernel


class Alone:
    """The workspace of the notebook that runs, and what its cells put out."""

    def __init__(self, outputs: str | None):
        self.folder = outputs and Path(outputs)
        self.notebook: Path | None = None
        self.workspace = contextlib.ExitStack()
        self.outputs: list[dict] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item):
        # Before the notebook's kernel starts, which takes its workspace from the environment.
        if item.path != self.notebook:
            self.notebook, self.outputs = item.path, []
            self.workspace.enter_context(notebook_kernels.empty_workspace(item.path.stem))

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, item, nextitem):
        cell = {"source": item.cell.source, "tags": item.cell.metadata.get("tags", [])}
        self.outputs.append({**cell, "outputs": item.test_outputs or []})
        # The kernel has ended by now where this was its last cell.
        if nextitem is None or nextitem.path != self.notebook:
            self.workspace.close()
            self.keep()

    def keep(self) -> None:
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self.outputs, indent=1, ensure_ascii=False)
            (self.folder / f"{self.notebook.stem}.json").write_text(text, encoding="utf-8")


def pytest_addoption(parser):
    parser.addoption("--outputs", help="keep each notebook's outputs here, and compare nothing")
    parser.addoption("--kernel-python", default=sys.executable, help="the kernels' interpreter")


def pytest_configure(config):
    LocalKernel.python = config.option.kernel_python
    config.pluginmanager.register(Alone(config.option.outputs))


def pytest_sessionstart(session):
    # Once, and not in each of the processes that run at the same time.
    if not hasattr(session.config, "workerinput"):
        notebook_kernels.prepare_model(LocalKernel.python)


def pytest_collection_modifyitems(config, items):
    for item in items:
        # nbval takes a cell without a count for one that was never run, and refuses it if it has outputs.
        if item.cell.get("outputs") and item.cell.execution_count is None:
            item.cell.execution_count = 1
        if config.option.outputs:
            item.options["check"] = False
    # The longest first: two run at once, and the last should be short.
    minutes = record.notebook_minutes()
    items.sort(key=lambda item: -minutes.get(item.path.stem, float("inf")))
