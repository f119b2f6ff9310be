"""Run the course's notebooks with the random Llama-2-7B on a GPU with a T4's memory, no cell changed.

`python tests/gpu/notebooks.py [NAME …] [--jobs N]`. Each notebook runs in a kernel and a workspace of its
own, as on a machine of its own in Colab. A thread beside the cells watches PyTorch's reserved memory; at the
end the kernel is asked for the peak of its host memory. Executed copies go to `build/course/`, each with its
verdict to `notebooks.json`. Minutes are of this machine, and of several notebooks at once with `--jobs`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import common
import nbformat
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

sys.path.insert(0, str(common.KIT / "tools"))
from course import client_for

NOTEBOOKS = common.KIT / "notebooks"
OUT = common.KIT / "build" / "course"
WATCH = """
import threading as _threading, time as _time, sys as _sys
_peak = [0]
def _watch():
    while True:
        torch = _sys.modules.get("torch")
        if torch is not None and hasattr(torch, "cuda") and torch.cuda.is_initialized():
            _peak[0] = max(_peak[0], torch.cuda.memory_reserved())
        _time.sleep(0.02)
_threading.Thread(target=_watch, daemon=True).start()
"""
ASK = """
import json as _json, resource as _resource
_host = _resource.getrusage(_resource.RUSAGE_SELF).ru_maxrss
print(_json.dumps({"peak_gpu_gib": round(_peak[0] / 2**30, 2), "peak_host_gib": round(_host / 2**20, 2)}))
"""


def run(path: Path) -> dict:
    """Execute one notebook, between two cells of this script; its verdict, minutes and peaks."""
    notebook = nbformat.read(path, as_version=4)
    cells = notebook.cells
    watch, ask = nbformat.v4.new_code_cell(WATCH), nbformat.v4.new_code_cell(ASK)
    notebook.cells = [watch, *cells, ask]
    client = client_for(notebook, 540)
    found = {"notebook": path.stem, "code": common.code_hash(path), "passed": False}
    started = time.perf_counter()
    with client.setup_kernel():
        try:
            for number, cell in enumerate(notebook.cells[:-1]):
                client.execute_cell(cell, number)
            found["passed"] = True
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            found |= {
                "cell": number - 1,
                "error": f"{type(error).__name__}: {str(error)[-1500:]}",
            }
        found["minutes"] = round((time.perf_counter() - started) / 60, 2)
        if "DeadKernel" not in found.get("error", ""):
            client.execute_cell(ask, len(notebook.cells) - 1)
            found |= json.loads(ask.outputs[0].text)
    notebook.cells = cells
    OUT.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, OUT / path.name)
    return found


def run_apart(path: Path) -> dict:
    """`run` in a process and a workspace of its own."""
    with tempfile.TemporaryDirectory() as workspace:
        done = subprocess.run(
            [sys.executable, __file__, "--one", path.name],
            env=os.environ | {"COURSE_WORKSPACE": workspace},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        return {"notebook": path.stem, "passed": False, "error": done.stderr[-1500:]}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="such as 05 (default: all)")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run(NOTEBOOKS / arguments.one)))
        return
    paths = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if arguments.names:
        paths = [path for path in paths if path.name.startswith(tuple(arguments.names))]
    found = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for result in pool.map(run_apart, paths):
            found.append(result)
            print(result, flush=True)
            common.save("notebooks", {"at_once": arguments.jobs, "notebooks": found})
    rows = [["notebook", "passed", "minutes", "GPU GiB", "host GiB"]]
    for one in found:
        rows.append(
            [one["notebook"], one["passed"], one.get("minutes", "-")]
            + [one.get("peak_gpu_gib", "-"), one.get("peak_host_gib", "-")]
        )
    common.table(rows)
    sys.exit(0 if all(one["passed"] for one in found) else 1)


if __name__ == "__main__":
    main()
