"""Start a Jupyter server on one notebook, and drive its page in Chromium."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat

KIT = Path(__file__).resolve().parents[2]
NOTEBOOK65 = KIT / "build" / "notebook65" / "bin" / "python"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
OPTIONS = ["--no-browser", "--allow-root", "--port-retries=0", "--ip=127.0.0.1"]
CELL = f"""
import sys
sys.path.insert(0, {str(KIT)!r})
from helpers import widgets
sliders = widgets.LoraSliders()
sliders.show()
"""
DIAL = """
answers = ["the base model's answer", "half of it", "as trained", "too much"]
dial = widgets.AlphaDial(16, [(0, 3.3), (0.5, 2.4), (1, 2.2), (4, 2.9)], "Why?", answers, {4: 2.25})
dial.show()
"""


class FrontEnd:
    """One of the two front ends: which server, where a notebook's page is, how a cell is run."""

    def __init__(self, name: str):
        self.name = name
        self.lab = name == "lab"
        self.python = Path(sys.executable) if self.lab else NOTEBOOK65
        self.handle = ".noUi-handle" if self.lab else ".ui-slider-handle"

    @contextlib.contextmanager
    def server(self, folder: Path) -> Iterator[str]:
        """A running server for ``folder`` with a notebook of two widgets; gives its page's address."""
        cells = [nbformat.v4.new_code_cell(text.strip()) for text in (CELL, DIAL)]
        spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec})
        nbformat.write(notebook, folder / "sliders.ipynb")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        kind = "ServerApp" if self.lab else "NotebookApp"
        command = [str(self.python), "-m", "jupyterlab" if self.lab else "notebook", *OPTIONS]
        command += [f"--port={port}", f"--{kind}.token=", f"--{kind}.password="]
        command += [f"--notebook-dir={folder}"]
        own = {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")}
        # No question about news in front of the notebook.
        page_config = folder / "JUPYTER_CONFIG_DIR" / "labconfig" / "page_config.json"
        page_config.parent.mkdir(parents=True)
        news = "@jupyterlab/apputils-extension:announcements"
        page_config.write_text(json.dumps({"disabledExtensions": {news: True}}))
        environment = os.environ | own | {"COURSE_WORKSPACE": str(folder / "workspace")}
        address = f"http://127.0.0.1:{port}"
        with (folder / "server.log").open("w") as log:
            process = subprocess.Popen(
                command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
            )
        try:
            wait_for(lambda: answers(f"{address}/api"), 60, folder / "server.log")
            yield (
                f"{address}/lab/tree/sliders.ipynb"
                if self.lab
                else f"{address}/notebooks/sliders.ipynb"
            )
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()

    def run_all(self, page) -> None:
        """Run every cell of the open page, and wait for the sliders."""
        if self.lab:
            page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
            page.get_by_text("| Idle").wait_for(timeout=60_000)
            page.get_by_text("Run", exact=True).first.click()
            page.get_by_text("Run All Cells", exact=True).click()
        else:
            page.wait_for_function(
                "window.Jupyter && Jupyter.notebook && Jupyter.notebook._fully_loaded"
                " && Jupyter.notebook.kernel && Jupyter.notebook.kernel.is_connected()"
                " && !!Jupyter.notebook.kernel.comm_manager.targets['jupyter.widget']",
                timeout=60_000,
            )
            # The extension first asks the kernel for widgets that are there already, and says nowhere when it
            # is done; a cell that runs before shows nothing.
            page.wait_for_timeout(4000)
            page.evaluate("Jupyter.notebook.execute_all_cells()")
        page.wait_for_selector(self.handle, timeout=60_000)
        page.get_by_text("as trained", exact=False).first.wait_for(timeout=60_000)

    def slider(self, page, name: str):
        """The handle of the slider beside the field with this label."""
        row = page.locator(".widget-hbox").filter(has=page.get_by_text(name, exact=True))
        return row.last.locator(self.handle)


def answers(address: str) -> bool:
    """Whether an HTTP server answers there."""
    try:
        with urllib.request.urlopen(address, timeout=2) as reply:
            return reply.status == 200
    except OSError:
        return False


def wait_for(condition, seconds: float, log: Path) -> None:
    """Wait until ``condition()``; show the end of ``log`` where that does not happen."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(log.read_text(encoding="utf-8")[-2000:])
        time.sleep(0.2)


def shown(page) -> dict:
    """What the first widget's text says: r, alpha, and trainable parameters."""
    text = page.locator("table", has_text="lora_alpha = ").last.inner_text()
    r, alpha = re.search(r"r = (\d+), lora_alpha = ([\d.]+)", text).groups()
    trainable = re.search(r"trainable\s+([\d,]+) of", text)[1]
    return {"r": int(r), "alpha": float(alpha), "trainable": int(trainable.replace(",", ""))}


def saved(folder: Path) -> dict | None:
    """The choice in the workspace, if any."""
    file = folder / "workspace" / "choice.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
