"""The environment check, in bare interpreters and on real small packages; and the lock files."""

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers import environment

KIT = Path(__file__).parents[2]
PYTEST = importlib.metadata.version("pytest")


def run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess:
    """Run a command in the repository; ``variables`` go into its environment."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COURSE", "COLAB"))}
    return subprocess.run(
        command, cwd=KIT, env=kept | variables, capture_output=True, text=True, check=False
    )


@pytest.fixture
def lock(tmp_path, monkeypatch):
    """Write the lock file that the check compares with."""

    def write(text: str) -> None:
        monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
        monkeypatch.setattr(environment, "KIT", tmp_path)
        (tmp_path / "requirements-local.txt").write_text(text, encoding="utf-8")

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
    assert re.search(r"^Python +\d+\.\d+", text)


def test_an_environment_that_matches_is_ok(lock):
    lock(f"pytest=={PYTEST}\n")
    assert environment.check().ok


def test_pins_are_read_past_comments_hashes_and_markers(tmp_path):
    (tmp_path / "lock.txt").write_text(
        "# a note with ==\n"
        "one-package==1.2.post3 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\n"
        'Two.Package==4.0 ; python_version < "4" \\\n    --hash=sha256:22\n'
    )
    assert environment.pins(tmp_path / "lock.txt") == {
        "one-package": "1.2.post3",
        "Two.Package": "4.0",
    }


def test_colab_has_a_lock_file_of_its_own(monkeypatch):
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    assert environment.lock_file() == KIT / "requirements-local.txt"
    assert environment.machine()["place"] == "not Colab"
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    assert environment.lock_file() == KIT / "requirements-colab.txt"
    assert environment.machine()["place"] == "Google Colab"


# -------------------------------------------------------------------------------------------- the machine
def test_a_gpu_is_described_as_its_driver_does(command_path, monkeypatch):
    monkeypatch.delenv("COURSE_MODEL", raising=False)
    script(command_path / "nvidia-smi", "echo 'Tesla T4, 15360 MiB, 580.82, 7.5'")
    assert environment.gpu() == {
        "GPU": "Tesla T4",
        "GPU memory": "15360 MiB",
        "driver": "580.82",
        "compute capability": "7.5",
    }
    assert environment.machine()["GPU"] == "Tesla T4"
    assert environment.which_model() == "Tesla T4 found: the course uses Llama-2-7B."


@pytest.mark.parametrize("answer", [None, "echo 'No devices were found'; exit 6", "exit 0"])
def test_without_a_gpu_the_small_model_is_named_with_the_way_to_a_gpu(
    command_path, monkeypatch, answer
):
    monkeypatch.delenv("COURSE_MODEL", raising=False)
    if answer:
        script(command_path / "nvidia-smi", answer)
    assert environment.gpu() == {}
    assert environment.machine()["GPU"] == "none"
    assert "SmolLM2-135M" in environment.which_model()
    assert "Change runtime type > T4 GPU" in environment.which_model()


def test_a_model_of_ones_own_is_named(monkeypatch):
    monkeypatch.setenv("COURSE_MODEL", "my/model")
    assert environment.which_model() == "Model: my/model, from COURSE_MODEL."


# ------------------------------------------------------------------------------------ a bare interpreter
def test_a_bare_interpreter_gets_a_json_report_and_exit_code_1():
    # Without site-packages and without any PYTHON variable.
    done = run(sys.executable, "-S", "-E", "-m", "helpers.environment", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    report = json.loads(done.stdout)
    assert report["ok"] is False
    assert report["machine"]["torch"] == "absent"
    local = environment.pins(KIT / "requirements-local.txt")
    assert {row["package"]: row["pinned"] for row in report["packages"]} == local
    assert all(row["found"] is None and not row["ok"] and row["fix"] for row in report["packages"])


def test_a_bare_interpreter_gets_a_report_to_read():
    done = run(sys.executable, "-S", "-E", "-m", "helpers.environment")
    assert (done.returncode, done.stderr) == (1, "")
    marked = [line for line in done.stdout.splitlines() if line.startswith("[FIX]")]
    assert len(marked) == len(environment.pins(KIT / "requirements-local.txt"))


def test_the_exit_code_says_whether_this_environment_is_right():
    done = run(sys.executable, "-m", "helpers.environment", "--json")
    report = json.loads(done.stdout)
    assert report["ok"] == all(row["ok"] for row in report["packages"])
    assert done.returncode == (0 if report["ok"] else 1)


# ---------------------------------------------------------------------------------------------- install
def test_a_satisfied_install_says_so_and_changes_nothing(lock, capsys, monkeypatch):
    def installed() -> set[tuple[str, str]]:
        return {(d.name, d.version) for d in importlib.metadata.distributions()}

    monkeypatch.delenv("COURSE_INSTALL", raising=False)
    lock(f"pytest=={PYTEST}\n")
    before = installed()
    environment.install()
    assert capsys.readouterr().out == f"Packages match the pins.\n{environment.which_model()}\n"
    assert installed() == before


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A fresh virtual environment with pip and nothing else."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    return folder


class Shelf:
    """A virtual environment, small real packages that it may install, and a lock file."""

    def __init__(self, venv: Path, folder: Path):
        self.python, self.folder = venv / "bin" / "python", folder
        self.variables = {
            "PATH": str(folder / "no-commands"),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(folder),
            "UV_NO_CONFIG": "1",
            "UV_NO_INDEX": "1",
            "UV_FIND_LINKS": str(folder),
            "UV_CACHE_DIR": str(folder / "uv"),
        }

    def wheel(self, name: str, version: str) -> str:
        """Put a package on the shelf that asks for another; return its line for the lock file."""
        stem = f"{name.replace('-', '_')}-{version}"
        file = self.folder / f"{stem}-py3-none-any.whl"
        info = f"{stem}.dist-info"
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(f"{name.replace('-', '_')}.py", f"version = '{version}'\n")
            archive.writestr(
                f"{info}/METADATA",
                f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
                "Requires-Dist: nowhere-to-be-had\n",
            )
            archive.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{info}/RECORD", "")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        return f"{name}=={version} \\\n    --hash=sha256:{digest}\n"

    def install(self, *lines: str, before: str = "", **variables: str):
        """Run ``environment.install()`` there, against a lock file of these lines."""
        lock = self.folder / "requirements-local.txt"
        lock.write_text("# Made by a test.\n" + "".join(lines))
        code = (
            f"{before}\nfrom pathlib import Path\n"
            "from helpers import environment\nfrom helpers.errors import CourseError\n"
            f"environment.KIT = Path({str(self.folder)!r})\n"
            "try:\n    environment.install()\n"
            "except CourseError as error:\n    print('CourseError:', error)\n"
        )
        done = run(self.python, "-c", code, **self.variables | variables)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def version(self, name: str) -> str | None:
        """The version that a fresh interpreter there imports."""
        done = run(self.python, "-c", f"import {name}; print({name}.version)")
        return done.stdout.strip() or None


@pytest.fixture
def shelf(bare, tmp_path) -> Shelf:
    return Shelf(bare, tmp_path)


def works(command: str) -> bool:
    found = shutil.which(command)
    return bool(found) and run(found, "--version").returncode == 0


@pytest.mark.parametrize(
    "tool", ["pip", pytest.param("uv", marks=pytest.mark.skipif(not works("uv"), reason="no uv"))]
)
def test_what_differs_is_installed_and_nothing_else(shelf, tool):
    path = {} if tool == "pip" else {"PATH": os.environ["PATH"]}
    one, two = f"one-{tool}", f"two-{tool}"
    first, second = shelf.wheel(one, "1.0"), shelf.wheel(two, "1.0")
    assert f"Installing 1 packages: {one} …" in shelf.install(first, **path)
    out = shelf.install(first, second, **path)
    assert f"Installing 1 packages: {two} …\nPackages match the pins.\n" in out
    assert shelf.version(f"one_{tool}") == shelf.version(f"two_{tool}") == "1.0"
    assert shelf.install(first, second, **path).startswith("Packages match the pins.\n")


def test_an_installation_can_be_declined(shelf):
    out = shelf.install(shelf.wheel("declined", "1.0"), COURSE_INSTALL="0")
    assert out.startswith("1 packages differ from the pins; COURSE_INSTALL=0")
    assert "Packages do not match the pins." in out
    assert shelf.version("declined") is None


@pytest.mark.parametrize("damage", ["absent", "other hash", "no hash"])
def test_a_package_that_cannot_be_had_or_trusted_leaves_the_earlier_one(shelf, damage):
    name = f"kept_{damage.split()[0]}"
    shelf.install(shelf.wheel(name, "1.0"))
    wanted = shelf.wheel(name, "2.0")
    if damage == "absent":
        (shelf.folder / f"{name}-2.0-py3-none-any.whl").unlink()
    elif damage == "other hash":
        wanted = re.sub("sha256:.{8}", "sha256:00000000", wanted)
    else:
        wanted = f"{name}==2.0\n"
    out = shelf.install(wanted)
    assert "CourseError: The packages could not be installed: " in out
    assert "What to do: Run this cell again" in out
    assert shelf.version(name) == "1.0"


def test_replacing_a_package_in_use_asks_for_a_restart(shelf):
    shelf.install(shelf.wheel("in-use", "1.0"))
    out = shelf.install(shelf.wheel("in-use", "2.0"), before="import in_use")
    assert "CourseError: in-use had been loaded before it was replaced." in out
    assert "Restart session" in out
    assert shelf.version("in_use") == "2.0"


def test_an_installation_that_moves_a_package_others_are_built_for_is_told(shelf):
    shelf.install(shelf.wheel("triton", "1.0"))
    out = shelf.install(shelf.wheel("triton", "2.0"))
    assert "CourseError: The installation changed triton." in out


def test_a_pinned_numpy_where_there_was_none_is_no_move(shelf):
    out = shelf.install(shelf.wheel("numpy", "2.0"))
    assert "CourseError" not in out
    assert "Packages match the pins." in out


# ------------------------------------------------------------------------------------------- lock files
LOCKS = ("requirements-colab.txt", "requirements-local.txt")
COLAB, LOCAL = (environment.pins(KIT / name) for name in LOCKS)


def test_both_locks_agree_except_on_the_widgets():
    # JupyterLab 4 cannot show the ipywidgets that Colab has.
    assert [name for name in COLAB if LOCAL.get(name) != COLAB[name]] == ["ipywidgets"]
    assert COLAB["ipywidgets"].startswith("7.") and LOCAL["ipywidgets"].startswith("8.")


@pytest.mark.parametrize("pinned", [COLAB, LOCAL], ids=LOCKS)
def test_no_lock_touches_torch_or_what_it_is_built_with(pinned):
    compiled = r"(torch|torchvision|torchaudio|triton|nvidia-.*|cuda-.*|xformers)$"
    assert [name for name in pinned if re.match(compiled, name)] == []


def test_the_colab_lock_leaves_numpy_alone():
    assert "numpy" not in COLAB
    assert "numpy" in LOCAL


@pytest.mark.parametrize("name", LOCKS)
def test_every_requirement_is_pinned_once_and_has_hashes(name):
    text = (KIT / name).read_text(encoding="utf-8")
    blocks = re.split(r"^(?=[^\s#])", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(environment.pins(KIT / name)) > 10
    for block in blocks:
        first, *rest = block.replace("\\\n", "\n").split("\n")
        assert re.fullmatch(r"[a-z0-9-]+==[^\s=]+ *(;.*)?", first.strip()), first
        hashes = [line.strip() for line in rest if line.strip() and not line.startswith("#")]
        assert hashes, first
        assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", h) for h in hashes), first


@pytest.mark.parametrize(
    ("source", "pinned"), [("colab", COLAB), ("colab", LOCAL), ("local", LOCAL)]
)
def test_the_locks_hold_what_their_sources_ask_for(source, pinned):
    asked = environment.pins(KIT / f"requirements-{source}.in")
    # torch is installed apart, and the local source overrides Colab's ipywidgets.
    asked.pop("torch", None)
    if source == "colab" and pinned is LOCAL:
        asked.pop("ipywidgets")
    assert {name: pinned.get(name.replace("_", "-")) for name in asked} == asked


def test_unsloth_and_its_companion_are_a_pair():
    assert COLAB["unsloth"] == COLAB["unsloth-zoo"]


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
