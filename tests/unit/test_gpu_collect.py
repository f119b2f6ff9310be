"""The GPU harness as far as a processor can run it: what it writes, puts together, unpacks and packs."""

import ast
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

KIT = Path(__file__).parents[2]
GPU = KIT / "gpu"
sys.path.insert(0, str(GPU))
import collect
import common

from helpers.setup import locks

H100 = {"date": "2026-01-02", "gpu": "NVIDIA H100"}
POINT = {
    "model": "llama-2-7b-bnb-4bit",
    "bits": 4,
    "r": 16,
    "targets": ["q_proj", "v_proj"],
    "fitted": True,
    "rows": 2,
    "tokens": 2048,
    "loaded_gib": 3.632,
    "measured_gib": 4.652,
}


def way(at_once: int, rate: int, gib: float, rounds: tuple = ()) -> dict:
    return {
        "rows_at_once": at_once,
        "tokens_per_second": rate,
        "peak_gib": gib,
        "rounds": list(rounds) or [rate, rate],
    }


def shape(tokens: int, kind: str, course: dict, unsloth: dict, plain: dict) -> dict:
    ways = {"course": course, "unsloth": unsloth, "plain": plain}
    return {"tokens": tokens, "kind": kind, "ways": ways}


SPEED = {
    "training": [
        shape(192, "own", way(8, 5300, 4.51), way(2, 1000, 4.3), way(2, 700, 5.29)),
        shape(2048, "own", way(2, 9180, 5.0), way(2, 9000, 5.0), way(2, 4800, 9.1)),
        shape(
            *(2048, "same 4 rows", way(4, 9000, 5.4, (9300, 8700))),
            *(way(4, 9000, 5.4, (9000, 9000)), {"rows_at_once": 4, "fits": False}),
        ),
    ],
    "generation": {
        "course": {"prompts": 16, "tokens_per_second": 242.0, "peak_gib": 10.98},
        "loop": {"prompts": 4, "tokens_per_second": 21.2, "peak_gib": 4.65},
        "at_once": [
            {"rows": 16, "tokens_per_second": 167.2, "peak_gib": 7.3},
            {"rows": 17, "tokens_per_second": 286.4, "peak_gib": 8.0},
        ],
    },
    "failures": [],
}
# What tools/record.py keeps beside.
RECORD = {"notebooks": {"01_a": {"minutes": 3}}, "full": {"date": "2026-01-01"}}
MACHINE = {"gpu": "NVIDIA H100", "versions": {"torch": "2", "triton": "3", "unsloth": "4"}}


def measured_now(name: str, **changes) -> dict:
    """The origin of a part or a notebook that was measured with the present helpers."""
    return H100 | {"helpers": common.helpers_hash(name)} | changes


def verdict(name: str, **changes) -> dict:
    found = {"notebook": name, "code": collect.here(name), "passed": True, "error": None}
    return found | (measured_now(name) if found["code"] else H100) | changes


@pytest.fixture
def kit(tmp_path, monkeypatch):
    """A README and a folder for results of its own; `write` puts a part there."""
    from helpers import models  # noqa: F401  (Unsloth, before the planner's transformers)

    results, readme = tmp_path / "results", tmp_path / "README.md"
    monkeypatch.setattr(common, "RESULTS", results)
    monkeypatch.setattr(collect, "FILE", tmp_path / "results.json")
    monkeypatch.setattr(collect, "PAGE", readme)
    monkeypatch.setattr(collect, "SHOWN", tmp_path / "measured.json")
    collect.SHOWN.write_text(json.dumps(RECORD))
    monkeypatch.setattr(sys, "argv", ["collect.py"])
    readme.write_text("above\n<!-- gpu -->\n<!-- /gpu -->\nbelow\n", encoding="utf-8")
    results.mkdir()

    def write(**parts) -> None:
        for name, content in parts.items():
            text = json.dumps({"run": measured_now(name)} | content)
            (results / f"{name}.json").write_text(text, encoding="utf-8")

    def run() -> tuple[dict, str]:
        collect.main()
        return json.loads(collect.FILE.read_text(encoding="utf-8")), readme.read_text("utf-8")

    write(machine=MACHINE, probes={"probes": [], "differing": [], "failures": []})
    return SimpleNamespace(write=write, run=run, results=results, readme=readme)


# ------------------------------------------------------------------------------- what scripts write
def nvidia_smi(tmp_path, monkeypatch, says: str) -> Path:
    """An nvidia-smi that notes its arguments in the file that is returned."""
    script, asked = tmp_path / "bin" / "nvidia-smi", tmp_path / "asked"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" > {asked}\necho "{says}"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    return asked


def test_what_is_saved_says_when_and_with_what(tmp_path, monkeypatch):
    nvidia_smi(tmp_path, monkeypatch, "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    content = {"failures": []}
    common.save("grid-3", content, jobs=4)
    saved = json.loads((tmp_path / "grid-3.json").read_text(encoding="utf-8"))
    run = saved.pop("run")
    assert saved == content == {"failures": []}
    assert run["gpu"] == "NVIDIA H100 80GB HBM3" and run["jobs"] == 4
    assert run["helpers"] == common.helpers_hash("grid") and len(run["date"]) == 10
    assert not list(tmp_path.glob("*.tmp"))


def test_without_nvidia_smi_results_are_saved_too(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    common.save("machine", {})
    saved = json.loads((tmp_path / "machine.json").read_text(encoding="utf-8"))
    assert saved["run"]["gpu"] is None
    assert common.used_gib() is None and common.machine()["gpu"] is None


@pytest.mark.parametrize(("visible", "asked_for"), [(None, "0"), ("", "0"), ("3,1", "3")])
def test_nvidia_smi_is_asked_about_the_visible_gpu(tmp_path, monkeypatch, visible, asked_for):
    asked = nvidia_smi(tmp_path, monkeypatch, "2048")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert common.used_gib() == 2
    assert asked.read_text().startswith(f"-i {asked_for} --query-gpu=memory.used ")


@pytest.mark.parametrize("uuid", ["9c2f-01", "GPU-9c2f-01"])
def test_once_pytorch_uses_a_gpu_nvidia_smi_is_asked_about_that(tmp_path, monkeypatch, uuid):
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        current_device=lambda: 1,
        get_device_properties=lambda device: SimpleNamespace(uuid=uuid) if device == 1 else None,
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert common.gpu_ids() == ["GPU-9c2f-01", "3"]
    # An nvidia-smi that knows no such name is asked by the other.
    script = tmp_path / "nvidia-smi"
    script.write_text('#!/bin/sh\n[ "$2" = 3 ] && echo "name of $2"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert common.ask_gpu("name") == ["name of 3"]


def test_a_context_has_a_contexts_size_or_a_reason():
    assert common.context_gib(1.0, 6.5, 5.0) == {"context_gib": 0.5}
    for before, after in ((1.0, 6.0), (1.0, 9.5), (1.0, 2.0), (None, 6.5), (1.0, None)):
        found = common.context_gib(before, after, 5.0)
        assert found["context_gib"] is None and found["context_reason"]


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the code that hashes are made of, to change."""
    for name in ("gpu", "helpers", "notebooks"):
        shutil.copytree(KIT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(common, "KIT", tmp_path)
    return tmp_path


def needed(name: str) -> set[str]:
    """The modules behind a part or a notebook."""
    files = [path.relative_to(common.KIT) for path in common.needed_helpers(name)]
    return {".".join(file.with_suffix("").parts) for file in files}


def test_the_helpers_hash_sees_code_and_nothing_else(copied):
    file = copied / "helpers" / "memory.py"
    code, first = file.read_bytes(), common.helpers_hash("grid")
    file.write_bytes(code.replace(b"\n", b"\r\n"))
    (copied / "helpers" / "one.json").write_text("{}")
    assert common.helpers_hash("grid") == first
    file.write_bytes(code + b"a = 2\n")
    assert common.helpers_hash("grid") != first
    file.write_bytes(code)
    assert common.helpers_hash("grid") == first
    file.unlink()
    assert common.helpers_hash("grid") != first


def test_only_a_change_of_what_a_measurement_imports_makes_it_older(copied):
    grid = needed("grid")
    assert {"helpers.memory", "helpers.training", "helpers.setup.locks"} <= grid
    assert not grid & {"helpers.ledger", "helpers.labels", "helpers.__init__"}
    before = [common.helpers_hash(name) for name in ("grid", "05_train")]
    with (copied / "helpers" / "ledger.py").open("a", encoding="utf-8") as file:
        file.write("a = 2\n")
    after = [common.helpers_hash(name) for name in ("grid", "05_train")]
    assert after[0] == before[0] and after[1] != before[1]


def test_helpers_are_found_through_other_scripts_in_functions_and_beside_ipythons_lines(copied):
    # A function of t4_kernels imports it; agree imports that script, and again imports agree.
    assert "helpers.evaluation" in needed("t4_kernels") & needed("agree") & needed("again")
    cells = [
        "!ls helpers\nif True:\n    %pip list\nimport helpers.svg",
        "def f():\n    from helpers import letters",
    ]
    found = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(found, copied / "notebooks" / "99_trial.ipynb")
    # The kernel has t4_mode before the first cell.
    assert {"helpers.svg", "helpers.letters", "helpers.t4_mode"} <= needed("99_trial")
    assert not needed("99_trial") & {"helpers.models", "helpers.data"}


@pytest.mark.parametrize("name", ["watched", "01_environment"])
def test_all_helpers_that_are_loaded_count(name):
    code = common.code_of(name)
    lines = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "helpers"
    ]
    ask = "import sys\nprint(*[name for name in sys.modules if name.startswith('helpers.')])"
    command = [sys.executable, "-c", "\n".join([*lines, ask])]
    done = subprocess.run(command, cwd=KIT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split("\n")[-2].split()) - {"helpers.setup"}
    assert len(loaded) > 5 and loaded <= needed(name)


def test_no_import_of_a_helper_hides_where_the_hash_does_not_look():
    for path in (KIT / "helpers").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?m)^\s*from \.", text), f"{path}: the hash looks for full names"
        # Left out, as no result depends on it.
        assert path.name != "__init__.py" or common.imported(text) <= {"sys"}, path
    strings = [
        node.value
        for path in GPU.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    code = re.compile(r"(?m)(^|;)\s*(from|import) helpers\b")
    assert [text for text in strings if code.search(text)] == [common.BEFORE_CELLS]


def test_a_grid_goes_on_only_with_points_of_the_same_helpers_and_set_ups(tmp_path, monkeypatch):
    import grid

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-7")
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    case = {"case": repr(grid.CASES[1])}
    common.save("grid-1", case | {"points": ["measured"]})
    started = []

    def start(command, env, check):
        started.append((command[-1], env["CUDA_VISIBLE_DEVICES"]))
        return SimpleNamespace(returncode=-9)

    monkeypatch.setattr(grid.subprocess, "run", start)
    # nvidia-smi is asked by common, with the same function.
    monkeypatch.setattr(common, "ask_gpu", lambda *fields: None)
    free = common.turns(2)
    assert grid.run_case(1, free)["points"] == ["measured"] and not started
    now = {"run": {"helpers": common.helpers_hash("grid")}}
    other = {"case": repr(grid.CASES[2])}
    for old in (case | {"run": {"helpers": "older"}}, case, now, now | other):
        part = tmp_path / "grid-1.json"
        part.write_text(json.dumps({"points": ["old"]} | old), encoding="utf-8")
        found = grid.run_case(1, free)
        assert found["points"] == [] and not part.exists()
        assert found["failed"] == ["llama-2-7b-bnb-4bit", 4, "its process ended with -9"]
    assert started == [("1", "5"), ("1", "GPU-7")] * 2


def test_jobs_at_once_are_spread_over_the_gpus(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\nfor n in 0 1; do echo "H100, 81559 MiB, 570.1, 9.0, 0 MiB, $n"; done\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    free = common.turns(3)
    with common.own_gpu(free) as first, common.own_gpu(free) as second:
        taken = [one["CUDA_VISIBLE_DEVICES"] for one in (first, second)]
        assert taken == ["0", "1"] and free.get() == "0" and free.empty()
    assert {free.get(), free.get()} == {"0", "1"}
    program.write_text("#!/bin/sh\nexit 9\n")
    assert common.turns(1).get() == "0"


def test_a_half_saved_model_does_not_have_the_models_name(tmp_path):
    from helpers import models  # noqa: F401  isort: skip  (Unsloth before transformers)
    import make_llama

    def write(folder):
        Path(folder).mkdir(exist_ok=True)
        (Path(folder) / "weights").write_text("all")

    def stop(folder):
        raise KeyboardInterrupt

    model, folder = SimpleNamespace(save_pretrained=write), tmp_path / "model"
    with pytest.raises(KeyboardInterrupt):
        make_llama.save(model, SimpleNamespace(save_pretrained=stop), folder)
    assert not folder.exists()
    make_llama.save(model, model, folder)
    make_llama.save(model, model, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (folder / "weights").exists()


# --------------------------------------------------------------------------------- running notebooks
@pytest.fixture(scope="module")
def runner():
    """gpu/notebooks.py; tools/ has a module of the same name."""
    spec = importlib.util.spec_from_file_location("gpu_notebooks", GPU / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    path = sys.path.copy()
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


def notebook(folder: Path, *cells: str) -> Path:
    path = folder / "99_trial.ipynb"
    opening = ["pass", "pass"]
    made = [nbformat.v4.new_code_cell(cell) for cell in [*opening, *cells]]
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)
    return path


@pytest.mark.parametrize(
    ("cell", "timeout", "reason", "asked"),
    [
        ("import sys\nprint('said', file=sys.stderr)", 60, None, True),
        ("raise ValueError('too | few')", 60, "ValueError: too | few", True),
        ("import time; time.sleep(60)", 2, "CellTimeoutError: A cell timed out", False),
        ("import os; os._exit(1)", 60, "DeadKernelError: Kernel died", False),
    ],
)
def test_every_notebook_gets_a_verdict(runner, tmp_path, monkeypatch, cell, timeout, reason, asked):
    monkeypatch.setattr(runner, "OUT", tmp_path)
    monkeypatch.setattr(runner.common, "RESULTS", tmp_path / "results")
    found = runner.run(notebook(tmp_path, "pass", cell), timeout)
    assert found["passed"] == (reason is None)
    assert (found["error"] is None) if reason is None else found["error"].startswith(reason)
    assert ("peak_host_gib" in found) == asked
    assert found.get("cell") == (None if reason is None else 3)


def test_a_notebook_whose_process_ends_gets_a_verdict_too(runner, copied, tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS", str(tmp_path / "results"))
    cell = "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos._exit(1)"
    path = notebook(copied / "notebooks", cell)
    found = runner.run_apart(path, 60, 3, common.turns(1))
    assert not found["passed"] and found["error"].startswith("its process ended with -9")
    assert found["notebook"] == "99_trial" and found["at_once"] == 3
    assert found["code"] == common.code_hash(path) and found["helpers"] == common.helpers_hash(
        path.stem
    )


def test_a_workspace_that_is_kept_is_found_again(runner, copied, tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS", str(tmp_path / "results"))
    place = "import os, pathlib\nhere = pathlib.Path(os.environ['COURSE_WORKSPACE'])\n"
    folder = copied / "notebooks"
    first = notebook(folder, place + "here.mkdir(parents=True)\n(here / 'run').touch()")
    assert runner.run_apart(first, 60, 1, common.turns(1), tmp_path / "kept")["passed"]
    again = notebook(folder, place + "assert (here / 'run').exists()")
    assert runner.run_apart(again, 60, 1, common.turns(1), tmp_path / "kept")["passed"]


@pytest.mark.parametrize("jobs", [1, 4])
def test_the_longest_notebooks_start_first_and_others_verdicts_stay(
    runner, tmp_path, monkeypatch, jobs, capsys
):
    started = []

    def run_apart(path, timeout, at_once, free, kept):
        assert (timeout, at_once) == (3600, jobs)
        started.append(path.name[:2])
        return verdict(path.stem, passed=path.name[:2] != "06")

    monkeypatch.setattr(runner, "run_apart", run_apart)
    # One after the other, so that the order of starting can be seen.
    monkeypatch.setattr(runner, "ThreadPoolExecutor", lambda jobs: _executor(1))
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["notebooks.py", "--jobs", str(jobs)])
    monkeypatch.delenv("COURSE_T4", raising=False)
    with pytest.raises(SystemExit, match="COURSE_T4=1"):
        runner.main()
    monkeypatch.setenv("COURSE_T4", "1")
    common.save("notebooks", {"notebooks": [verdict("98_other")]})
    with pytest.raises(SystemExit) as ended:
        runner.main()
    names = sorted(path.stem for path in (KIT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    assert sorted(started) == [name[:2] for name in names]
    assert started == sorted(started) if jobs == 1 else started[:4] == ["07", "06", "00", "05"]
    saved = json.loads((tmp_path / "notebooks.json").read_text(encoding="utf-8"))
    assert [one["notebook"] for one in saved["notebooks"]] == [*names, "98_other"]
    assert ended.value.code == 1
    assert sum(line.startswith("{") for line in capsys.readouterr().out.split("\n")) == len(names)


def _executor(workers: int):
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(workers)


# ----------------------------------------------------------------------------------- putting together
def test_each_part_keeps_its_own_origin_and_the_head_names_both_days(kit):
    other = measured_now("speed", date="2026-01-09")
    kit.write(speed=SPEED | {"run": other}, grid={"points": [POINT], "context_gib": 0.8})
    results, readme = kit.run()
    assert results["grid"]["run"] == measured_now("grid") and results["speed"]["run"] == other
    assert "date" not in results
    assert "Measured between 2026-01-02 and 2026-01-09 on one NVIDIA H100, limited" in readme
    (kit.results / "grid.json").unlink()
    assert kit.run()[0]["grid"] == results["grid"]
    kit.write(speed=SPEED)
    assert "Measured on 2026-01-02 on one NVIDIA H100, limited" in kit.run()[1]


def test_results_from_before_parts_had_dates_keep_the_date_of_all(kit):
    old = {"date": "2025-12-31", "machine": MACHINE, "speed": SPEED}
    collect.FILE.write_text(json.dumps(old), encoding="utf-8")
    results, readme = kit.run()
    assert results["date"] == "2025-12-31" and "run" not in results["speed"]
    assert "between 2025-12-31 and 2026-01-02" in readme


def test_near_the_limit_the_planner_is_held_against_the_truth(kit):
    near = POINT | {"rows": 11, "tokens": 4000}
    truth = round(1.02 * common.predicted_gib(near), 3)
    filled = near | {"measured_gib": common.LIMIT_GIB}
    within = [near | {"within_gib": 13.2, "fits": fits} for fits in (True, False)]
    assert truth > common.LIMIT_GIB - 1
    full = POINT | {"fits": False}
    full.pop("measured_gib")
    points = [POINT, near | {"measured_gib": truth}, full, filled]
    kit.write(grid={"points": points, "within": within, "context_gib": 0.8, "failed": []})
    said = (
        "1 points, at most 2.0 % below the truth; 1 more filled all there is, and ran; "
        "1 of 2 ran with no more memory than was predicted; 1 more did not fit although it said so"
    )
    assert f"| memory planner within 1 GiB of the limit | {said} |" in kit.run()[1]


def test_the_planners_word_stands_beside_each_peak(kit):
    no_room = {"model": POINT["model"], "r": 1, "fits": False, "loading": True}
    kit.write(grid={"points": [POINT, no_room], "context_gib": 0.8, "failed": []})
    results, readme = kit.run()
    found = results["grid"]["points"][0]["predicted_gib"]
    assert found == round(common.predicted_gib(POINT), 3)
    off = 100 * abs(found / 4.652 - 1)
    assert (
        f"| memory planner against measured peaks | 1 points, off by at most {off:.1f} %" in readme
    )
    # Edited results, or another planner, do not pass.
    collect.check(results, readme, readme)
    results["grid"]["points"][0]["predicted_gib"] += 0.1
    with pytest.raises(SystemExit, match="planner"):
        collect.check(results, readme, readme)
    with pytest.raises(SystemExit, match="table"):
        collect.check({}, readme, readme + " ")


def test_notebooks_replace_those_of_the_same_name(kit):
    names = ["01_environment", "05_train", "06_evaluate"]
    kit.write(notebooks={"notebooks": [verdict(name) for name in names] + [verdict("90_gone")]})
    kit.run()
    new = verdict("05_train", passed=False, error="ValueError: no | rows\nin full", at_once=1)
    kit.write(notebooks={"at_once": 4, "notebooks": [new, verdict("02_load_in_4bit")]})
    results, readme = kit.run()
    books = results["notebooks"]["notebooks"]
    assert list(results["notebooks"]) == ["notebooks"]
    assert [one["notebook"][:2] for one in books] == ["01", "02", "05", "06"]
    assert books[2] == new
    assert "| 3 of 4; 05 did not: ValueError: no / rows |" in readme
    assert results["not_run"]["notebook 05_train"] == "ValueError: no / rows"


def test_the_readme_says_what_changed_since_the_notebooks_ran(kit):
    def said(*books) -> str:
        kit.write(notebooks={"notebooks": books})
        return next(line for line in kit.run()[1].split("\n") if "top to bottom" in line)

    current = verdict("05_train"), verdict("06_evaluate")
    assert said(*current).endswith("| 2 of 2 |")
    older = verdict("05_train", code="x", helpers="x")
    assert said(older, current[1]).endswith("| 2 of 2; cells changed since in 05 |")
    later = [one | {"helpers": "x"} for one in current]
    assert said(*later).endswith("| 2 of 2; helpers changed since in 05, 06 |")
    assert said(later[0], current[1]).endswith("| 2 of 2; helpers changed since in 05 |")
    # The process that was to give a verdict died, in an older form of the results.
    dead = {"notebook": "05_train", "passed": False, "error": ""}
    assert "1 of 2; 05 did not: no reason; cells changed since in 05 |" in said(dead, current[1])


@pytest.mark.parametrize(
    ("part", "content", "row"),
    [
        ("speed", {"failures": ["course: no | room"]}, "| did not run: course: no / room |"),
        ("speed", {"course": {"training": []}}, "| training speed | did not run: no result |"),
        (
            "t4_kernels",
            {"failures": ["workload: x"], "seconds": None},
            "| did not run: workload: x |",
        ),
        ("t4_kernels", {"kernels": [], "failures": []}, "(sm_75) | did not run: no result |"),
        ("t4_path", {"places": [{"asked": 2}, {"asked": 0}]}, "| 1 of 2 were reached, and"),
        ("t4_path", {}, "compute capability | did not run: no result |"),
        (
            "agree",
            {"failures": ["adapter: x"], "padding": None},
            "the CPU | did not run: adapter: x |",
        ),
        (
            "grid",
            {"points": [], "context_gib": None, "context_reason": "busy"},
            "| did not run: busy |",
        ),
        ("grid", {"points": [], "failed": [["x", 4, "killed"]]}, "were not measured | 1 |"),
        ("binaries", {"failures": ["no code for sm_75"]}, "| did not run: no code for sm_75 |"),
        (
            "probes",
            {"probes": [], "failures": ["Triton kernel: x"], "differing": []},
            "| measured |",
        ),
    ],
)
def test_a_part_that_failed_is_told_with_its_reason(kit, part, content, row):
    kit.write(**{part: content})
    results, readme = kit.run()
    assert row in readme
    for failure in content.get("failures", []):
        assert results["not_run"][part] == failure.replace("|", "/")
    if "failed" in content:
        assert results["not_run"]["grid: x, r = 4"] == "killed"
    if part == "grid":
        assert results["not_run"]["CUDA context"] == content.get("context_reason", "no result")


def test_nothing_is_written_where_no_table_can_be_made(kit):
    kit.write(machine={"gpu": "x"})
    before = kit.readme.read_text()
    with pytest.raises(KeyError):
        collect.main()
    assert kit.readme.read_text() == before and not collect.FILE.exists()
    assert json.loads(collect.SHOWN.read_text()) == RECORD


def test_what_notebooks_show_stands_in_the_record_beside_what_others_keep_there(kit):
    kit.run()
    assert json.loads(collect.SHOWN.read_text()) == RECORD
    seven = list(common.presets.PROJECTIONS)
    homework = [POINT | {"targets": seven}]
    homework += [POINT | {"targets": seven, "model": "llama-2-7b", "bits": 16, "measured_gib": 13}]
    others = [{"r": 4}, {"rows": 1}, {"tokens": 512}, {"model": "llama-3.2-3b"}]
    others += [{"measured_gib": None}]
    points = [POINT, *homework, *(homework[0] | other for other in others)]
    kit.write(grid={"points": points, "context_gib": 0.8})
    kit.run()
    record = json.loads(collect.SHOWN.read_text())
    made = record.pop("gpu")
    assert record == RECORD and (made["date"], made["gpu"]) == (H100["date"], H100["gpu"])
    assert [(p["bits"], p["measured_gib"]) for p in made["homework_peaks"]] == [
        (4, 4.652),
        (16, 13),
    ]
    # A number that was edited is seen.
    sys.argv.append("--check")
    collect.main()
    made["homework_peaks"][0]["measured_gib"] = 4
    collect.SHOWN.write_text(json.dumps(record | {"gpu": made}))
    with pytest.raises(SystemExit, match="measured.json"):
        collect.main()


def test_other_versions_than_the_pins_are_disclosed(kit):
    rows = [
        {"package": name, "pinned": "1", "found": found}
        for name, found in (("numpy", "2"), ("six", "2"), ("uv", None), ("tokenizers", "2"))
    ]
    kit.write(probes={"probes": [], "differing": rows, "failures": []})
    kit.write(speed=SPEED)
    results, readme = kit.run()
    sentence = (
        "3 packages came from the machine's image in other versions than the pins, among them "
        "numpy, tokenizers"
    )
    assert f"{sentence}." in " ".join(readme.split())
    assert results["not_run"]["every package in its pinned version"] == sentence


def test_speed_is_told_as_multiples_with_the_range_of_the_rounds(kit):
    kit.write(speed=SPEED, grid={"points": [POINT], "context_gib": 0.8})
    _, readme = kit.run()
    others = "Transformers, PEFT and TRL alone"
    own, eight = "each way's own rows at once", "training, 8 rows of"
    for what, found in {
        f"{eight} 192 tokens a step, {own} (8, 2, 2)": (
            "5,300 tokens/s at 4.5 GiB: 5.3 × the homework's cell (4.3 GiB), "
            f"7.6 × {others} (5.3 GiB)"
        ),
        f"{eight} 2048 tokens a step, {own} (2, 2, 2)": (
            "9,180 tokens/s at 5.0 GiB: same work as the homework's cell, ratio 1.02, "
            f"1.91 × {others} (9.1 GiB)"
        ),
        f"{eight} 2048 tokens a step, the same 4 rows at once": (
            "9,000 tokens/s at 5.4 GiB: 1.00 (0.97 to 1.03) × the homework's cell (5.4 GiB), "
            f"{others} do not fit"
        ),
        "answering, 100 tokens each: 16 prompts in batches, 4 in the homework's loop": (
            "242 tokens/s at 11.0 GiB in batches, 21 at 4.7 GiB in the loop"
        ),
        "rows answered at once: tokens/s": "16: 167, 17: 286",
    }.items():
        assert f"| {what} | {found} |" in readme
    said = " ".join(readme.split())
    assert "come from more rows at once, not from faster arithmetic" in said
    assert "With rows of 192 and 2048 tokens the course takes 0.85 and 0.55 of the memory" in said
    assert "3.6 GiB in either way, are 0.69 and 0.40 of it:" in said


def test_ways_without_a_number_are_told(kit):
    no_room = {"rows_at_once": 8, "fits": False}
    homework = way(2, 1000, 4.3)
    training = [
        shape(192, "own", no_room, homework, homework),
        {"tokens": 512, "kind": "own", "ways": {"unsloth": homework}},
        {"tokens": 1000, "kind": "own", "ways": {"course": way(8, 3000, 4.0)}},
    ]
    kit.write(speed={"training": training, "generation": {}, "failures": ["plain: ended"]})
    _, readme = kit.run()
    assert "(8, 2, 2) | the course's way does not fit |" in readme
    assert "(–, 2, –) | did not run: plain: ended |" in readme
    assert "3,000 tokens/s at 4.0 GiB: the homework's cell: no result, Transf" in readme
    assert "| answering speed | did not run: plain: ended |" in readme


def test_warm_up_steps_and_later_rounds_peaks_do_not_count():
    import speed

    tokens, none = speed.SHAPES[0]
    job = {"tokens": tokens, "rows_at_once": none}
    one = {"rows_at_once": 8, "fits": True, "loss": 9.0}
    rounds = [one | {"seconds": [s, s, s], "peak_gib": gib} for s, gib in ((1.0, 4.0), (2.0, 5.0))]
    done = [("course", job, found) for found in rounds] + [("plain", job, {"error": "ended"})]
    found = speed.results(done)
    assert found["failures"] == [f"plain, {job}: ended"]
    (course,) = found["training"][0]["ways"].values()
    assert course["rounds"] == [8 * tokens, 4 * tokens]
    assert course["tokens_per_second"] == round(8 * tokens / 1.5) and course["peak_gib"] == 4.0
    no_room = ("course", job, {"rows_at_once": 8, "fits": False})
    assert not speed.results([*done, no_room])["training"][0]["ways"]["course"]["fits"]


def test_some_lengths_can_be_measured_again_with_the_same_helpers(kit):
    import speed

    assert {job["tokens"] for _, job in speed.jobs([2048])} == {2048}
    kit.write(speed=SPEED)
    kit.run()
    again = shape(2048, "own", way(2, 9990, 5.0), way(2, 9900, 5.0), way(2, 4900, 9.1))
    kit.write(speed={"training": [again], "failures": [], "only": [2048], "generation": {}})
    results, readme = kit.run()
    assert "Training on rows of 2048 tokens was measured in a run of its own." in readme
    rates = [s["ways"]["course"]["tokens_per_second"] for s in results["speed"]["training"]]
    assert rates == [5300, 9990] and results["speed"]["generation"] == SPEED["generation"]
    assert results["speed"]["again"] == {"tokens": [2048], "date": H100["date"]}
    other = {"run": measured_now("speed", helpers="older")}
    kit.write(speed={"training": [again], "failures": [], "only": [2048]} | other)
    with pytest.raises(SystemExit, match="another helpers"):
        kit.run()


def test_a_kernel_fails_on_a_t4_unless_it_compiles_and_fits():
    import t4_kernels

    def kernel(module, **found):
        return {"module": module, "kernel": "k", **found}

    fits, large = {"shared_bytes": 64 * 1024}, {"shared_bytes": 64 * 1024 + 1}
    for module, ways, failed in (
        ("unsloth", [fits], 0),
        ("unsloth", [fits, large], 1),
        ("unsloth", [fits, {"error": "no"}], 1),
        # Written in several ways to choose from.
        ("torch.compile", [fits, large], 0),
        ("torch.compile", [large, {"error": "no"}], 1),
    ):
        failures = []
        t4_kernels.judge([kernel(module, **way) for way in ways], failures)
        assert len(failures) == failed


def test_parts_measured_with_earlier_helpers_or_other_versions_are_named(kit):
    older = H100 | {"helpers": "older"}
    newer = measured_now("agree", versions=MACHINE["versions"] | {"torch": "9.9"})
    kit.write(probes={"run": older}, speed=SPEED | {"run": older}, agree={"run": newer})
    said = " ".join(kit.run()[1].split())
    assert "Helpers have changed since probes and speed ran." in said
    assert "Other versions in agree." in said


# ------------------------------------------------------------------------------ the two shell scripts
@pytest.fixture
def checkout(tmp_path):
    """A folder with the two scripts, and a `python3` and a `uv` that only note what they were asked."""
    (tmp_path / "gpu").mkdir()
    for name in ("run.sh", "pack.sh"):
        shutil.copy(GPU / name, tmp_path / "gpu")
    lock = Path("requirements", "requirements-local.txt")
    (tmp_path / "requirements").mkdir()
    shutil.copy(KIT / lock, tmp_path / lock)
    programs = {
        "python3": 'echo "$@" >> calls',
        # Only bitsandbytes' libraries matter.
        "uv": "mkdir -p build/gpu/site/bitsandbytes build/gpu/site/empty/__pycache__\n"
        "for name in cuda128 cuda130 cuda13 cpu; do\n"
        "  echo $name > build/gpu/site/bitsandbytes/libbitsandbytes_$name.so\ndone",
    }
    (tmp_path / "bin").mkdir()
    for name, script in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if k not in ("MODELS", "CUDA", "PYTHON_VERSION")}

    def sh(script: str, *arguments: str, **environment):
        path = f"{tmp_path}/bin:{os.environ['PATH']}"
        environment = kept | {"PATH": path, "COURSE_SCRATCH": f"{tmp_path}/scratch"} | environment
        return subprocess.run(
            [tmp_path / "gpu" / script, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return SimpleNamespace(folder=tmp_path, sh=sh)


def make_archive(folder: Path, content: str) -> None:
    (folder / "build").mkdir(exist_ok=True)
    (folder / "content").write_text(content)
    with tarfile.open(folder / "build" / "gpu-site-packages.tar.xz", "w:xz") as archive:
        archive.add(folder / "content", "unsloth")


def test_the_archive_is_unpacked_once_and_anew_when_it_differs(checkout):
    site = checkout.folder / "scratch" / "site"
    done = checkout.sh("run.sh", "probes")
    assert done.returncode == 1 and "pack.sh" in done.stderr
    for content in ("first", "second"):
        make_archive(checkout.folder, content)
        done = checkout.sh("run.sh", "probes")
        assert done.returncode == 0, done.stderr
        assert (site / "unsloth").read_text() == content
    (site / "unsloth").write_text("kept")
    checkout.sh("run.sh", "probes")
    assert (site / "unsloth").read_text() == "kept"
    # What an older run.sh left when it was cut off: a folder without a stamp.
    (site / ".archive").unlink()
    checkout.sh("run.sh", "probes")
    assert (site / "unsloth").read_text() == "second"


def test_an_archive_that_is_cut_off_is_not_taken_for_a_whole_one(checkout):
    make_archive(checkout.folder, "first" * 10000)
    archive = checkout.folder / "build" / "gpu-site-packages.tar.xz"
    archive.write_bytes(archive.read_bytes()[:-20])
    for _ in range(2):
        assert checkout.sh("run.sh", "probes").returncode != 0
    assert not (checkout.folder / "scratch" / "site").exists()
    assert not (checkout.folder / "calls").exists()


def test_models_are_made_where_they_are_missing_and_then_everything_runs(checkout):
    make_archive(checkout.folder, "first")
    models = checkout.folder / "models"
    (models / "llama-wide-bnb-4bit").mkdir(parents=True)
    (models / "llama-2-7b-bnb-4bit.half").mkdir()
    done = checkout.sh("run.sh", MODELS=str(models))
    assert done.returncode == 0, done.stderr
    calls = (checkout.folder / "calls").read_text().splitlines()
    scripts = [call.split()[0].removeprefix("gpu/") for call in calls]
    assert calls[0].endswith(f"make_llama.py {models} llama-2-7b")
    assert calls[1].endswith(f"make_llama.py {models} llama-3.2-3b")
    assert scripts[2:] == [
        *("common.py", "probes.py", "speed.py", "grid.py", "t4_path.py", "t4_kernels.py"),
        "agree.py",
        *("again.py", "resume.py", "watched.py", "notebooks.py", "collect.py"),
    ]
    done = checkout.sh("run.sh", "notebooks", "05", "--jobs", "2", MODELS=str(models))
    last = (checkout.folder / "calls").read_text().splitlines()[-1]
    assert last == "gpu/notebooks.py 05 --jobs 2"


def test_packing_leaves_results_and_one_cuda_library(checkout):
    results = checkout.folder / "build" / "gpu" / "results" / "speed.json"
    results.parent.mkdir(parents=True)
    results.write_text("{}")
    done = checkout.sh("pack.sh", CUDA="13")
    assert done.returncode == 0, done.stderr
    assert results.exists()
    with tarfile.open(checkout.folder / "build" / "gpu-site-packages.tar.xz") as archive:
        names = {Path(name).name for name in archive.getnames()}
    assert {"libbitsandbytes_cuda13.so", "libbitsandbytes_cpu.so"} <= names
    assert not names & {"libbitsandbytes_cuda130.so", "libbitsandbytes_cuda128.so", "__pycache__"}


def test_packing_names_the_cuda_libraries_there_are(checkout):
    done = checkout.sh("pack.sh", CUDA="999")
    assert done.returncode == 1
    assert "no library for CUDA=999; it has: 13 128 130" in done.stderr


def test_all_pins_are_packed_but_those_of_the_gpu_image_and_the_test_tools(checkout):
    assert checkout.sh("pack.sh").returncode == 0
    packed = locks.versions((checkout.folder / "build" / "gpu" / "wanted.txt").read_text())
    pins = locks.pins(KIT / "requirements" / "requirements-local.txt")
    assert packed.items() < pins.items()
    assert {*locks.pins(KIT / "requirements-colab.txt"), "numpy"} - packed.keys() == {
        *("pyarrow", "transformers")
    }
    assert not packed.keys() & {"pytest", "jupyterlab", "ruff", "sympy"}


def test_packing_refuses_to_leave_out_what_the_lock_does_not_have(checkout):
    lock = checkout.folder / "requirements" / "requirements-local.txt"
    lock.write_text(lock.read_text().replace("\nplaywright==", "\nother=="))
    done = checkout.sh("pack.sh")
    assert done.returncode == 1
    assert "playwright is not in requirements/requirements-local.txt" in done.stderr


@pytest.mark.parametrize("script", sorted(GPU.glob("*.py")), ids=lambda path: path.stem)
def test_what_a_script_takes_from_the_helpers_is_there(script):
    tree, taken = ast.parse(script.read_text(encoding="utf-8")), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "helpers":
            for alias in node.names:
                module = importlib.import_module(node.module)
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
                taken[alias.asname or alias.name] = getattr(module, alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) in taken:
            assert hasattr(taken[node.value.id], node.attr), ast.unparse(node)
