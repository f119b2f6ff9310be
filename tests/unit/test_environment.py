"""The environment check, also in bare interpreters; and what Unsloth says at its start."""

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from helpers import machine, presets
from helpers.errors import CourseError
from helpers.setup import environment, locks

KIT = Path(__file__).parents[2]
sys.path.insert(0, str(KIT / "tools"))
from replica import find_python

OVERRIDES = (KIT / "requirements" / "requirements-overrides.txt").read_bytes()
PYTEST = importlib.metadata.version("pytest")
T4 = "Tesla T4, 15360 MiB, 580.82, 7.5"
# Without what it was built for: 2.13.0+cpu is 2.13.0.
TORCH = importlib.metadata.version("torch").partition("+")[0]


def run(*command: str | Path, cwd: Path = KIT, **variables: str) -> subprocess.CompletedProcess:
    """Run a command, by default in the repository; ``variables`` go into its environment."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COURSE", "COLAB"))}
    return subprocess.run(
        command, cwd=cwd, env=kept | variables, capture_output=True, text=True, check=False
    )


@pytest.fixture
def lock(tmp_path, monkeypatch):
    """Write the lock file that the check compares with."""

    def write(text: str) -> None:
        monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
        monkeypatch.setattr(locks, "KIT", tmp_path)
        folder = tmp_path / "requirements"
        folder.mkdir(exist_ok=True)
        (folder / "requirements-overrides.txt").write_bytes(OVERRIDES)
        (folder / "requirements-local.txt").write_text(text, encoding="utf-8")
        (folder / "requirements-local.in").write_text(f"jupyterlab\ntorch=={TORCH}\n")

    return write


@pytest.fixture
def command_path(tmp_path, monkeypatch) -> Path:
    """A folder that is the only one where commands are looked for."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def script(path: Path, text: str) -> None:
    path.write_text(f"#!{shutil.which('sh', path='/bin:/usr/bin')}\n{text}\n")
    path.chmod(0o755)


# ------------------------------------------------------------------------------------------------ check
def test_each_package_is_compared_with_its_pin_and_the_difference_gets_a_fix(lock):
    lock(f"pytest=={PYTEST}\nhypothesis==0.1\nno-such-package==1.0\n")
    report = environment.check()
    same, other, absent = report.rows
    assert (same.package, same.pinned, same.found, same.ok, same.fix) == (
        "pytest", PYTEST, PYTEST, True, "",
    )  # fmt: skip
    assert (other.ok, other.pinned) == (False, "0.1")
    assert other.found == importlib.metadata.version("hypothesis")
    assert "environment.install()" in other.fix and "hypothesis 0.1" in other.fix
    assert (absent.ok, absent.found) == (False, None)
    assert not report.ok


def test_the_report_marks_what_is_right_and_what_is_not(lock):
    lock(f"pytest=={PYTEST}\nno-such-package==1.0\n")
    text = str(environment.check())
    assert re.search(rf"^\[OK\]  pytest +{re.escape(PYTEST)}$", text, re.MULTILINE)
    assert re.search(r"^\[FIX\] no-such-package +absent  ->  .+", text, re.MULTILINE)
    assert re.search(r"^\[OK\]  Python +\d+\.\d+", text, re.MULTILINE)


def test_an_environment_that_matches_is_ok(lock):
    lock(f"pytest=={PYTEST}\n")
    assert environment.check().ok


def test_another_python_is_wrong_and_installs_nothing(lock, monkeypatch):
    lock(f"pytest=={PYTEST}\nno-such-package==1.0\n")
    monkeypatch.setattr(locks, "PYTHONS", ("3.98", "3.99"))
    report = environment.check()
    assert not report.ok and not report.base[0].ok
    assert re.search(r"^\[FIX\] Python +\S+  ->  On Colab choose", str(report), re.MULTILINE)
    monkeypatch.delenv("COURSE_INSTALL", raising=False)
    with pytest.raises(CourseError, match="proven with Python 3.98, 3.99"):
        environment.install()
    monkeypatch.setenv("COURSE_INSTALL", "0")
    environment.install()


def test_a_misspelt_size_is_told_of_at_the_set_up(lock, monkeypatch):
    lock(f"pytest=={PYTEST}\n")
    monkeypatch.setenv("COURSE_SIZE", "fulll")
    with pytest.raises(CourseError, match="COURSE_SIZE = 'fulll' is not a size"):
        environment.install()


def test_torch_is_judged_beside_the_lock_but_not_on_colab(lock, monkeypatch, tmp_path):
    lock("asking==1.0\n")
    asking = tmp_path / "site" / "asking-1.0.dist-info"
    asking.mkdir(parents=True)
    (asking / "RECORD").touch()
    (asking / "METADATA").write_text("Name: asking\nVersion: 1.0\nRequires-Dist: torch==0.1\n")
    monkeypatch.syspath_prepend(asking.parent)
    report = environment.check()
    assert report.base[-1][:2] == ("torch", True) and "asks for torch==0.1" in report.unmet[0]
    # Where torch has a line of its own, who asks for it need not be said.
    (tmp_path / "requirements" / "requirements-local.in").write_text("torch==0.1\n")
    report = environment.check()
    assert report.rows[0].ok and not report.ok and report.unmet == ()
    line = r"^\[FIX\] torch .*; the course is proven with 0\.1  ->  run `make lab`"
    assert re.search(line, str(report), re.MULTILINE)
    assert [row.package for row in environment.package_rows()] == ["asking"]
    monkeypatch.setattr(locks, "KIT", KIT)
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    assert [one.name for one in environment.check().base] == ["Python"]


def test_what_belongs_to_torch_and_is_absent_gets_a_fix_that_suits_the_place(
    command_path, monkeypatch
):
    script(command_path / "nvidia-smi", f"echo '{T4}'")
    monkeypatch.setattr(machine, "torch_sees_gpu", lambda: True)
    asked = "unsloth asks for torchvision; it is absent  ->  "
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    fix = f"{asked}python -m pip install torch=={locks.torch_pin()} torchvision"
    assert fix in environment.check().unmet
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    assert f"{asked}{machine.FRESH_MACHINE}" in environment.check().unmet


# -------------------------------------------------------------------------------------------- the machine
def test_a_gpu_is_described_as_its_driver_does(command_path):
    script(command_path / "nvidia-smi", f"echo '{T4}'")
    assert machine.gpu() == {
        "GPU": "Tesla T4",
        "GPU memory": "15360 MiB",
        "driver": "580.82",
        "compute capability": "7.5",
        "bfloat16": "no",
    }
    assert machine.facts()["GPU"] == "Tesla T4"


def test_a_gpu_that_torch_sees_gets_llama_and_its_name_is_told(monkeypatch):
    monkeypatch.delenv("COURSE_MODEL", raising=False)
    monkeypatch.setattr(machine, "torch_sees_gpu", lambda: True)
    assert machine.default_name() == "llama-2-7b"
    assert machine.which_model({"GPU": "Tesla T4"}) == (
        "Tesla T4 found: the course uses Llama-2-7B."
    )
    # A driver whose tool is not on the path, or is slow, while PyTorch sees the GPU.
    for facts in ({}, {"GPU": machine.NO_ANSWER}):
        assert machine.which_model(facts) == "A GPU found: the course uses Llama-2-7B."


CPU_BUILD = pytest.mark.skipif(torch.version.cuda is not None, reason="PyTorch is built for CUDA")


@CPU_BUILD
def test_a_card_beside_a_cpu_build_gets_the_small_model_the_reason_and_the_way_out(
    command_path, monkeypatch
):
    monkeypatch.delenv("COURSE_MODEL", raising=False)
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    script(command_path / "nvidia-smi", f"echo '{T4}'")
    report = environment.check()
    assert machine.default_name() == presets.EMBEDDED
    assert report.model.startswith("Tesla T4 is here, but PyTorch does not see it: this PyTorch, ")
    assert f"{torch.__version__}, is a build without CUDA" in report.model
    assert "SmolLM2-135M" in report.model and "TORCH_INDEX= lab" in report.model
    # `make` installed that build, so nothing is wrong on a machine of one's own. On Colab it is.
    assert all(one.ok for one in report.base)
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    (line,) = (one for one in environment.check().base if one.name == "GPU")
    assert not line.ok and "Disconnect and delete runtime" in line.fix


@CPU_BUILD
def test_the_message_of_the_set_up_and_the_model_that_is_loaded_are_one(command_path, monkeypatch):
    """The driver's tool names a card that PyTorch cannot use: both say the small model."""
    monkeypatch.delenv("COURSE_MODEL", raising=False)
    script(command_path / "nvidia-smi", f"echo '{T4}'")
    name = presets.MODELS[machine.default_name()].name
    assert name in machine.which_model(machine.gpu())
    assert "Llama-2-7B" not in machine.which_model(machine.gpu())


FAKE_TORCH = """\
import types, warnings
__version__ = "2.11.0+cu128"
version = types.SimpleNamespace(cuda="12.8")
def _looks():
    warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old (found 11040).")
    return False
cuda = types.SimpleNamespace(is_available=_looks)
"""


def why_unseen(folder: Path, torch_source: str | None, **variables: str) -> list[str]:
    """What a fresh interpreter with this torch says of a Tesla T4: why PyTorch does not see it, and which model."""
    if torch_source is not None:
        (folder / "torch.py").write_text(torch_source)
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r})\n"
        "from helpers import machine\n"
        "print(machine.which_model({'GPU': 'Tesla T4'}))\n"
    )
    done = run(sys.executable, "-S", "-c", code, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_driver_that_is_too_old_is_told_in_its_own_words(tmp_path):
    first, todo = why_unseen(tmp_path, FAKE_TORCH)
    assert "built for CUDA 12.8, cannot use its driver (CUDA initialization: The NVIDIA" in first
    assert "is too old (found 11040)" in first and "nvidia-smi" in todo and "SmolLM2" in first


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_card_that_a_variable_hides_is_told_so(tmp_path, hidden):
    first, todo = why_unseen(tmp_path, FAKE_TORCH, CUDA_VISIBLE_DEVICES=hidden)
    assert f"CUDA_VISIBLE_DEVICES = {hidden!r} hides it" in first and "variable away" in todo


@pytest.mark.parametrize("source", [None, "raise OSError('libcudart.so.12: cannot open')"])
def test_without_a_torch_that_loads_there_is_no_gpu_for_it(tmp_path, source):
    first, todo = why_unseen(tmp_path, source)
    assert "PyTorch cannot be loaded (" in first and "SmolLM2" in first and "make lab" in todo


@pytest.mark.parametrize("answer", [None, "echo 'No devices were found'; exit 6", "exit 0"])
def test_without_a_gpu_the_small_model_is_named_with_the_way_to_a_gpu(
    command_path, monkeypatch, answer
):
    monkeypatch.delenv("COURSE_MODEL", raising=False)
    if answer:
        script(command_path / "nvidia-smi", answer)
    assert machine.gpu() == {}
    assert machine.facts()["GPU"] == "none"
    assert "SmolLM2-135M" in machine.which_model(machine.gpu())
    assert "Change runtime type > T4 GPU" in machine.which_model(machine.gpu())


@pytest.mark.parametrize("broken", ["exec /bin/sleep 600", None])
def test_a_driver_that_does_not_answer_is_told_and_counts_as_no_gpu(
    lock, command_path, monkeypatch, broken
):
    monkeypatch.delenv("COURSE_MODEL", raising=False)
    monkeypatch.setattr(machine, "DRIVER_SECONDS", 0.1)
    lock(f"pytest=={PYTEST}\n")
    script(command_path / "nvidia-smi", broken or "")
    if broken is None:
        (command_path / "nvidia-smi").write_bytes(b"\0 no program for this machine")
    report = environment.check(probe=True)
    assert not report.ok and report.probes == ()
    assert re.search(r"^\[FIX\] GPU .*does not answer  ->  .*nvidia-smi", str(report), re.MULTILINE)
    assert "SmolLM2-135M" in report.model and "Restart session" in report.model
    assert "found" not in report.model


@pytest.mark.parametrize("written", ["my/model", '"my/model"', " 'my/model' "])
def test_a_model_of_ones_own_is_named(monkeypatch, written):
    monkeypatch.setenv("COURSE_MODEL", written)
    assert machine.default_name() == "my/model"
    assert machine.which_model(machine.gpu()) == "Model: my/model, from COURSE_MODEL."


# ------------------------------------------------------------------------------------ a bare interpreter
def test_a_bare_interpreter_gets_a_json_report_and_exit_code_1():
    # Without site-packages and without any PYTHON variable.
    done = run(sys.executable, "-S", "-E", "-m", "helpers.setup.environment", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    report = json.loads(done.stdout)
    assert report["ok"] is False
    assert report["machine"]["torch"] == "absent"
    local = locks.pins(KIT / "requirements" / "requirements-local.txt")
    assert {row["package"]: row["pinned"] for row in report["packages"]} == local
    assert all(row["found"] is None and not row["ok"] and row["fix"] for row in report["packages"])


def test_a_bare_interpreter_gets_a_report_to_read():
    done = run(sys.executable, "-S", "-E", "-m", "helpers.setup.environment")
    assert (done.returncode, done.stderr) == (1, "")
    marked = [line for line in done.stdout.splitlines() if line.startswith("[FIX]")]
    torch_line = marked.pop(0)
    assert torch_line.startswith("[FIX] torch                absent; the course is proven with ")
    assert "`make lab`" in torch_line
    assert len(marked) == len(locks.pins(KIT / "requirements" / "requirements-local.txt"))


def test_a_gpu_without_torch_is_one_failed_probe(command_path):
    script(command_path / "nvidia-smi", f"echo '{T4}'")
    done = run(sys.executable, "-S", "-E", "-m", "helpers.setup.environment", "--probe")
    assert (done.returncode, done.stderr) == (1, "")
    (line,) = re.findall(r"^\[FIX\] PyTorch .*", done.stdout, re.MULTILINE)
    assert "PyTorch is absent" in line


@CPU_BUILD
def test_a_gpu_that_torch_does_not_see_is_one_failed_probe(command_path):
    script(command_path / "nvidia-smi", f"echo '{T4}'")
    (probe,) = environment.check(probe=True).probes
    assert not probe.ok and "without CUDA" in probe.detail and "TORCH_INDEX=" in probe.fix


@pytest.mark.parametrize(
    ("name", "content", "variables"),
    [
        ("requirements/requirements-local.txt", "", {}),
        ("requirements/requirements-local.in", None, {}),
        ("requirements/requirements-overrides.txt", None, {}),
        ("helpers/setup/colab_images.json", "{", {"COLAB_RELEASE_TAG": "release-colab"}),
    ],
)
def test_a_damaged_file_of_the_course_is_named_without_a_traceback(
    tmp_path, name, content, variables
):
    for folder in ("helpers", "requirements"):
        shutil.copytree(KIT / folder, tmp_path / folder)
    shutil.copy(KIT / "requirements-colab.txt", tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    command = ("-m", "helpers.setup.environment")
    done = run(sys.executable, *command, cwd=tmp_path, **variables)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(str(tmp_path / name)) and "What to do: Get" in done.stderr
    done = run(sys.executable, *command, "--json", cwd=tmp_path, **variables)
    assert (done.returncode, done.stderr) == (1, "")
    answer = json.loads(done.stdout)
    assert answer["ok"] is False and answer["error"].startswith(str(tmp_path / name))


def test_the_exit_code_says_whether_this_environment_is_right():
    done = run(sys.executable, "-m", "helpers.setup.environment", "--json")
    report = json.loads(done.stdout)
    assert report["ok"] == all(row["ok"] for row in report["packages"])
    assert done.returncode == (0 if report["ok"] else 1)


# ------------------------------------------------------------------------------------- Unsloth's banner
def gpu_banner(**values: object) -> str:
    """What the installed Unsloth prints when it loads a Llama onto a GPU: its own lines, these values."""
    package = Path(importlib.util.find_spec("unsloth").origin).parent
    tree = ast.parse((package / "models" / "llama.py").read_text(encoding="utf-8"))
    lines = next(
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and getattr(node.targets[0], "id", "") == "statistics"
        and "Num GPUs = " in ast.unparse(node.value)
    )
    return eval(compile(ast.Expression(lines), "banner", "eval"), values)


def test_every_fact_of_the_banner_on_a_t4_is_read():
    banner = gpu_banner(
        __version__="2026.10.9",
        model_patcher=type("FastLlamaModel", (), {}),
        transformers_version="5.17.0",
        vllm_version="",
        gpu_stats_name="Tesla T4. ",
        DEVICE_COUNT=1,
        max_memory=14.741,
        platform_system="Linux",
        torch=SimpleNamespace(__version__="2.11.0+cu128"),
        gpu_stats_snippet="CUDA: 7.5. CUDA Toolkit: 12.8.",
        triton_version="3.6.0",
        SUPPORTS_BFLOAT16=False,
        xformers_version=None,
        HAS_FLASH_ATTENTION=False,
    )
    assert environment.read_banner(banner) == {
        "Unsloth": "2026.10.9",
        "Transformers": "5.17.0",
        "GPU": "Tesla T4",
        "GPU memory": "14.741 GB",
        "Platform": "Linux",
        "Torch": "2.11.0+cu128",
        "CUDA capability": "7.5",
        "CUDA Toolkit": "12.8",
        "Triton": "3.6.0",
        "bfloat16": "FALSE",
        "Xformers": "None",
        "FlashAttention 2": "False",
    }


def test_a_text_that_is_no_banner_gives_no_facts():
    assert environment.read_banner("Loading weights: 100 %") == {}


@pytest.mark.parametrize("minor", ["3.6", "3.7", "3.8", "3.9"])
def test_a_python_that_cannot_read_the_helpers_is_told_so(minor):
    python = find_python(minor)
    if python == minor:
        pytest.skip(f"no Python {minor} here")
    command = [python, "-m", "helpers.setup.environment"]
    done = subprocess.run(command, cwd=KIT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"This is Python {minor}." in done.stderr and "Python 3.11, 3.12 or 3.13" in done.stderr


def test_another_copy_of_the_course_in_the_same_session_asks_for_a_restart(tmp_path, monkeypatch):
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "presets.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(CourseError, match="Restart the session"):
        environment.install()
