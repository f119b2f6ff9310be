"""Run the course's notebooks with the random Llama-2-7B on a GPU with a T4's memory, no cell changed.

`python gpu/notebooks.py [NAME …] [--jobs N] [--cell-timeout SECONDS] [--workspaces FOLDER]`. Each
notebook runs in a kernel and a workspace of its own, as on a machine of its own in Colab. A thread beside the cells watches PyTorch's
reserved memory; at the end the kernel is asked for the peak of its host memory. Executed copies go to
`build/course/`, each cell's seconds to `cells.log`, verdicts to `notebooks.json`, beside those of notebooks that do
not run this time. Minutes are of this machine, and of `at_once` notebooks at once.
"""

import argparse
import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import common
import nbformat
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

sys.path.insert(0, str(common.KIT / "tools"))
from course import client_for

NOTEBOOKS = common.KIT / "notebooks"
OUT = common.KIT / "build" / "course"
# The longest first: several at once then end at about the same time.
LONGEST = ("07", "06", "00", "05")
# Before the first cell: a notebook may import Unsloth before any helper.
WATCH = f"""
import os as _os, threading as _threading, time as _time, sys as _sys
_sys.path.insert(0, {str(common.KIT)!r})
{common.BEFORE_CELLS}
if _os.environ.get("COURSE_T4") == "1":
    _t4_mode.before_unsloth()
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
import json as _json, resource as _resource, torch as _torch
_host = _resource.getrusage(_resource.RUSAGE_SELF).ru_maxrss
print(_json.dumps({"peak_gpu_gib": round(_peak[0] / 2**30, 2), "peak_host_gib": round(_host / 2**20, 2),
    "code_path": "T4" if getattr(_torch.cuda.get_device_capability, "as_a_t4", False) else "own"}))
"""


def run(path: Path, timeout: int) -> dict:
    """Execute one notebook, between two cells of this script; its verdict, minutes and peaks."""
    notebook = nbformat.read(path, as_version=4)
    cells = notebook.cells
    watch, ask = nbformat.v4.new_code_cell(WATCH), nbformat.v4.new_code_cell(ASK)
    notebook.cells = [watch, *cells, ask]
    client, log = client_for(notebook, timeout), common.RESULTS / "cells.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    found, answers = {"passed": False, "error": None}, True
    started = time.perf_counter()
    with client.setup_kernel():
        try:
            for number, cell in enumerate(notebook.cells[:-1]):
                began = time.perf_counter()
                client.execute_cell(cell, number)
                spent = time.perf_counter() - began
                with log.open("a", encoding="utf-8") as file:
                    file.write(f"{path.stem} {cell.id} {spent:.1f} s\n")
            found["passed"] = True
        except CellExecutionError as error:
            reason = f"{error.ename}: {error.evalue}"
            found |= {"cell": number - 1, "error": f"{reason}\n{str(error)[-1500:]}"}
        except (CellTimeoutError, DeadKernelError) as error:
            # Such a kernel is still busy, or gone: it could not be asked.
            answers = False
            found |= {"cell": number - 1, "error": f"{type(error).__name__}: {error}"[:1500]}
        found["minutes"] = round((time.perf_counter() - started) / 60, 2)
        if answers:
            client.execute_cell(ask, len(notebook.cells) - 1)
            said = "".join(out.text for out in ask.outputs if out.get("name") == "stdout")
            found |= json.loads(said.splitlines()[-1])
    notebook.cells = cells
    OUT.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, OUT / path.name)
    return found


def run_apart(
    path: Path, timeout: int, jobs: int, free: queue.SimpleQueue, kept: Path | None = None
) -> dict:
    """`run` in a process and a workspace of its own, or one that is kept; a verdict also where that process ends early."""
    found = {"notebook": path.stem, "code": common.code_hash(path)}
    found |= common.provenance(path.stem) | {"at_once": jobs}
    # A kernel that is just being ended may still write.
    new = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    place = contextlib.nullcontext(str(kept / path.stem)) if kept else new
    with place as workspace, common.own_gpu(free) as environment:
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(path), "--cell-timeout", str(timeout)],
            env=environment | {"COURSE_WORKSPACE": workspace},
            capture_output=True,
            text=True,
            check=False,
        )
    said = [line for line in done.stdout.splitlines() if line.startswith('{"passed"')]
    if said:
        return found | json.loads(said[-1])
    tail = done.stderr[-1500:].strip()
    reason = f"its process ended with {done.returncode}: {tail.split(chr(10))[-1]}"
    return found | {"passed": False, "error": f"{reason}\n{tail}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="such as 05 (default: all)")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--cell-timeout", type=int, default=3600, help="seconds (3600)")
    parser.add_argument(
        "--workspaces",
        type=Path,
        help="keep each notebook's workspace in this folder, for a run that goes on",
    )
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    timeout, jobs = arguments.cell_timeout, arguments.jobs
    if arguments.one:
        print(json.dumps(run(arguments.one, timeout)))
        return
    common.need_t4_mode()
    paths = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if arguments.names:
        paths = [path for path in paths if path.name.startswith(tuple(arguments.names))]
    if jobs > 1:
        paths.sort(key=lambda path: [*LONGEST, path.name[:2]].index(path.name[:2]))
    file, found = common.RESULTS / "notebooks.json", []
    before = json.loads(file.read_text(encoding="utf-8"))["notebooks"] if file.exists() else []
    free = common.turns(jobs)
    with ThreadPoolExecutor(jobs) as pool:
        for done in as_completed(
            pool.submit(run_apart, path, timeout, jobs, free, arguments.workspaces)
            for path in paths
        ):
            found = common.merge(found, [done.result()])
            print(json.dumps(done.result()), flush=True)
            common.save("notebooks", {"notebooks": common.merge(before, found)}, jobs=jobs)
    rows = [["notebook", "passed", "minutes", "GPU GiB", "host GiB"]]
    for one in found:
        rows.append(
            [one["notebook"], one["passed"], one.get("minutes", "-")]
            + [one.get("peak_gpu_gib", "-"), one.get("peak_host_gib", "-")]
        )
    common.table(rows)
    sys.exit(0 if found and all(one["passed"] for one in found) else 1)


if __name__ == "__main__":
    main()
