"""`environment.install()` on real small packages, in a virtual environment of its own."""

import base64
import functools
import hashlib
import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError

from helpers.setup import installers

KIT = Path(__file__).parents[2]


def run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess:
    """Run a command in the repository; ``variables`` go into its environment."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COURSE", "COLAB"))}
    return subprocess.run(
        command, cwd=KIT, env=kept | variables, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A fresh virtual environment with pip and nothing else."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    return folder


def _digest(text: str) -> str:
    """A hash as RECORD has it."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
    return f"sha256={digest.decode().rstrip('=')}"


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

    def wheel(
        self, name: str, version: str, files: int = 0, module: str = "", brings: str = ""
    ) -> str:
        """Put a package on the shelf that asks for another; return its line for the lock file.

        ``brings``: another package, of which it holds a version 9.
        """
        module = module or name.replace("-", "_")
        stem = f"{name.replace('-', '_')}-{version}"
        file = self.folder / f"{stem}-py3-none-any.whl"
        info = f"{stem}.dist-info"
        content = {
            f"{module}.py": f"version = '{version}'\n",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            "Requires-Dist: nowhere-to-be-had\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        for number in range(files):
            content[f"{name.replace('-', '_')}_parts/part{number}.py"] = "x = 1\n"
        if brings:
            content[f"{stem}.data/purelib/{brings}-1.0.dist-info/METADATA"] = (
                f"Metadata-Version: 2.1\nName: {brings}\nVersion: 9\n"
            )
        record = [f"{path},{_digest(text)},{len(text)}\n" for path, text in content.items()]
        content[f"{info}/RECORD"] = "".join([*record, f"{info}/RECORD,,\n"])
        with zipfile.ZipFile(file, "w") as archive:
            for path, text in content.items():
                archive.writestr(path, text)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        return f"{name}=={version} \\\n    --hash=sha256:{digest}\n"

    def code(self, lines: tuple[str, ...], before: str = "", times: int = 1) -> str:
        """A script that runs ``environment.install()`` against a lock file of these lines."""
        sources = self.folder / "requirements"
        sources.mkdir(exist_ok=True)
        for file in (sources / "requirements-local.txt", self.folder / "requirements-colab.txt"):
            file.write_text("# Made by a test.\n" + "".join(lines))
        for name in ("requirements-overrides.txt", "requirements-local.in"):
            (sources / name).touch()
        return (
            f"{before}\nfrom pathlib import Path\n"
            "from helpers.errors import CourseError\n"
            "from helpers.setup import environment, installers, locks\n"
            f"locks.KIT = Path({str(self.folder)!r})\n"
            "installers.PAUSE_SECONDS = 0\n"
            f"for _ in range({times}):\n"
            "    try:\n        environment.install()\n"
            "    except CourseError as error:\n        print('CourseError:', error)\n"
        )

    def install(self, *lines: str, before: str = "", times: int = 1, **variables: str) -> str:
        """What ``environment.install()`` says there."""
        code = self.code(lines, before, times)
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


TOOLS = ["pip", pytest.param("uv", marks=pytest.mark.skipif(not works("uv"), reason="no uv"))]


def command_path(tool: str) -> dict[str, str]:
    """Variables with which uv is found, or is not."""
    return {} if tool == "pip" else {"PATH": os.environ["PATH"]}


@pytest.mark.parametrize("tool", TOOLS)
def test_what_differs_is_installed_and_nothing_else(shelf, tool):
    path = command_path(tool)
    one, two = f"one-{tool}", f"two-{tool}"
    first, second = shelf.wheel(one, "1.0"), shelf.wheel(two, "1.0")
    assert f"Installing 1 packages: {one} …" in shelf.install(first, **path)
    out = shelf.install(first, second, **path)
    assert f"Installing 1 packages: {two} …\n" in out and "\nPackages match the pins.\n" in out
    assert re.search(r"^  (Installed|Successfully installed) ", out, re.MULTILINE)
    assert shelf.version(f"one_{tool}") == shelf.version(f"two_{tool}") == "1.0"
    assert shelf.install(first, second, **path).startswith("Packages match the pins.\n")


@pytest.mark.skipif(not works("uv"), reason="no uv")
def test_uv_works_with_the_variables_that_colab_leaves_behind(shelf):
    leftovers = {
        "UV_CONSTRAINT": "/backend-container/containers/requirements.constraints",
        "UV_BUILD_CONSTRAINT": "/backend-container/containers/build.constraints",
        "UV_OVERRIDE": "/backend-container/containers/requirements.overrides",
        "UV_PRERELEASE": "no-such-way",
    }
    out = shelf.install(shelf.wheel("leftovers", "1.0"), **leftovers, **command_path("uv"))
    assert "Packages match the pins." in out and shelf.version("leftovers") == "1.0"


def test_pip_works_with_the_constraints_that_an_image_was_made_with(shelf):
    out = shelf.install(shelf.wheel("unconstrained", "1.0"), PIP_CONSTRAINT="/not/there.txt")
    assert "Packages match the pins." in out and shelf.version("unconstrained") == "1.0"


BROKEN = {
    "crashes": b"#!/bin/sh\necho Segmentation fault; exit 139\n",
    "no program": b"\0\1 not for this machine",
    "no interpreter": b"#!/not/there\n",
    "no cache": b"#!/bin/sh\necho 'error: Failed to initialize cache at `/x`: Permission denied'; exit 2\n",
}


@pytest.mark.parametrize("how", BROKEN)
def test_where_uv_is_broken_pip_installs(shelf, how):
    commands = shelf.folder / "broken"
    commands.mkdir()
    uv = commands / "uv"
    uv.write_bytes(BROKEN[how])
    uv.chmod(0o755)
    name = f"by-pip-{how.replace(' ', '-')}"
    out = shelf.install(shelf.wheel(name, "1.0"), PATH=str(commands))
    assert f"Successfully installed {name}-1.0" in out and "Packages match the pins." in out


@pytest.mark.parametrize("tool", TOOLS)
def test_a_kernel_that_asks_for_colours_hides_neither_progress_nor_errors(shelf, tool):
    variables = {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"} | command_path(tool)
    name = f"colourful-{tool}"
    out = shelf.install(shelf.wheel(name, "1.0"), **variables)
    assert re.search(r"^  (Installed|Successfully installed) ", out, re.MULTILINE)
    wrong = re.sub("sha256:.{8}", "sha256:00000000", shelf.wheel(name, "2.0"))
    out = shelf.install(wrong, **variables)
    assert "is not the one that was pinned" in out and "\x1b" not in out
    assert name in out.split("CourseError: ")[1].replace("_", "-")


def test_an_installation_can_be_declined(shelf):
    out = shelf.install(shelf.wheel("declined", "1.0"), COURSE_INSTALL="0")
    assert out.startswith("1 packages differ from the pins; COURSE_INSTALL=0")
    assert "Packages do not match the pins." in out
    assert shelf.version("declined") is None


TROUBLE = {
    "absent": "The package index offers no such file for Python",
    "other hash": "is not the one that was pinned",
    "no hash": "The list of pinned packages was edited",
}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("damage", TROUBLE)
def test_a_package_that_cannot_be_had_or_trusted_leaves_the_earlier_one(shelf, damage, tool):
    path = command_path(tool)
    name = f"kept_{damage.split()[0]}_{tool}"
    line = shelf.wheel(name, "1.0")
    shelf.install(line, **path)
    wanted = shelf.wheel(name, "2.0")
    if damage == "absent":
        (shelf.folder / f"{name}-2.0-py3-none-any.whl").unlink()
    elif damage == "other hash":
        wanted = re.sub("sha256:.{8}", "sha256:00000000", wanted)
    else:
        wanted = f"{name}==2.0\n"
    out = shelf.install(wanted, **path)
    assert "CourseError: The packages could not be installed: " in out
    assert TROUBLE[damage] in out and "What to do: " in out
    # Only pip, where a hash is lacking, does not say of what.
    said = out.split("CourseError: ")[1].replace("_", "-")
    assert name.replace("_", "-") in said or (tool, damage) == ("pip", "no hash")
    assert shelf.version(name) == "1.0"
    # The next run with a whole list goes on as if nothing had been.
    assert shelf.install(line, **path).startswith("Packages match the pins.\n")


def as_a_weaker_user(*command: str | Path, **variables: str) -> subprocess.CompletedProcess:
    """Run a command without the superuser's right to write everywhere."""
    rights = "-dac_override,-dac_read_search"
    weaker = [shutil.which("setpriv"), f"--bounding-set={rights}", f"--inh-caps={rights}"]
    return run(*(weaker if os.getuid() == 0 else []), *command, **variables)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_folder_that_may_not_be_written_to_is_named(shelf, tool):
    line = shelf.wheel(f"unwritable-{tool}", "1.0")
    site = next(shelf.python.parents[1].glob("lib/python*/site-packages"))
    site.chmod(0o555)
    try:
        variables = shelf.variables | command_path(tool)
        done = as_a_weaker_user(shelf.python, "-c", shelf.code((line,)), **variables)
    finally:
        site.chmod(0o755)
    assert "Python's folder for packages may not be written to" in done.stdout, done.stderr


class Flaky(http.server.SimpleHTTPRequestHandler):
    """Serves the shelf as a package index; drops the connection in the first ``drops`` downloads."""

    drops = 0
    asked = 0

    def do_GET(self):
        if self.path.endswith(".whl"):
            Flaky.asked += 1
            if Flaky.asked <= Flaky.drops:
                self.send_response(200)
                self.send_header("Content-Length", "100000")
                self.end_headers()
                self.wfile.write(b"PK")
                self.wfile.flush()
                self.connection.close()
                return
        super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def index(shelf):
    """The address of a package index over HTTP that serves the shelf."""
    handler = functools.partial(Flaky, directory=str(shelf.folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def over_http(shelf, address: str, name: str) -> dict[str, str]:
    """Variables that make pip and uv use the index, with hardly any retries of their own."""
    page = shelf.folder / "simple" / name
    page.mkdir(parents=True)
    links = [f'<a href="/{w.name}">{w.name}</a>' for w in shelf.folder.glob("*.whl")]
    (page / "index.html").write_text("".join(links))
    return {
        "PIP_NO_INDEX": "0",
        "PIP_FIND_LINKS": "",
        "PIP_INDEX_URL": f"{address}/simple",
        "PIP_RETRIES": "1",
        "PIP_NO_CACHE_DIR": "1",
        "UV_NO_INDEX": "0",
        "UV_FIND_LINKS": "",
        "UV_DEFAULT_INDEX": f"{address}/simple",
        "UV_HTTP_RETRIES": "0",
    }


@pytest.mark.parametrize("tool", TOOLS)
def test_a_dropped_connection_is_tried_again(shelf, index, tool):
    name = f"dropped-{tool}"
    line = shelf.wheel(name, "1.0")
    Flaky.asked, Flaky.drops = 0, 2
    out = shelf.install(line, **over_http(shelf, index, name), **command_path(tool))
    assert "trying again (2 of 3)" in out
    assert "Packages match the pins." in out and "CourseError" not in out
    assert shelf.version(name.replace("-", "_")) == "1.0"


@pytest.mark.parametrize("tool", TOOLS)
def test_without_a_network_the_student_is_told_after_three_tries(shelf, tool):
    name = f"offline-{tool}"
    line = shelf.wheel(name, "1.0")
    out = shelf.install(line, **over_http(shelf, "http://127.0.0.1:9", name), **command_path(tool))
    assert out.count("trying again") == 2
    assert "There is no network, or it failed 3 times." in out
    assert shelf.version(name.replace("-", "_")) is None


@pytest.mark.parametrize("tool", TOOLS)
def test_an_installation_that_was_killed_is_mended_by_the_next(shelf, tool):
    name = f"killed-{tool}"
    line = shelf.wheel(name, "1.0", files=4000)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COURSE", "COLAB"))}
    process = subprocess.Popen(
        [shelf.python, "-c", shelf.code((line,))],
        cwd=KIT,
        env=kept | shelf.variables | command_path(tool),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    site = next(shelf.python.parents[1].glob("lib/python*/site-packages"))
    parts = site / f"{name.replace('-', '_')}_parts"
    until = time.monotonic() + 60
    while not parts.exists() and time.monotonic() < until:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    out = shelf.install(line, **command_path(tool))
    assert "CourseError" not in out and "Packages match the pins." in out
    assert len(list(parts.glob("part*.py"))) == 4000


@pytest.mark.parametrize("tool", TOOLS)
def test_a_package_without_its_last_file_is_not_taken_for_whole(shelf, tool):
    name = f"half-{tool}"
    line = shelf.wheel(name, "1.0")
    shelf.install(line, **command_path(tool))
    site = next(shelf.python.parents[1].glob("lib/python*/site-packages"))
    record = site / f"{name.replace('-', '_')}-1.0.dist-info" / "RECORD"
    record.unlink()
    out = shelf.install(line, **command_path(tool))
    assert f"Installing 1 packages: {name} …" in out and "Packages match the pins." in out
    assert record.exists()


DAMAGE = {
    "a file is gone": ("{name}_parts/part1.py", lambda content: None),
    "a file is cut off": ("{name}_parts/part2.py", lambda content: content[:2]),
    "its list is cut off": ("{name}-1.0.dist-info/RECORD", lambda content: content[:70]),
}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_package_whose_list_of_files_does_not_hold_is_installed_again(shelf, damage, tool):
    """uv writes the list before many of the files; and a disk may be full in the middle of one."""
    name = f"damaged_{damage.replace(' ', '_')}_{tool}"
    line = shelf.wheel(name, "1.0", files=3)
    shelf.install(line, **command_path(tool))
    site = next(shelf.python.parents[1].glob("lib/python*/site-packages"))
    path, change = DAMAGE[damage]
    file = site / path.format(name=name)
    whole = file.read_bytes()
    # A new file: uv may have linked this one to its cache.
    file.unlink()
    if (left := change(whole)) is not None:
        file.write_bytes(left)
    out = shelf.install(line, **command_path(tool))
    assert "Installing 1 packages: " in out and "Packages match the pins." in out
    assert file.read_bytes() == whole or file.name == "RECORD"
    assert shelf.install(line, **command_path(tool)).startswith("Packages match the pins.\n")


def test_on_colab_its_own_packages_are_taken_as_they_are(shelf):
    # Colab has this version; what Google left out of it is Google's business.
    line = shelf.wheel("ipywidgets", "7.7.1", files=3)
    shelf.install(line)
    site = next(shelf.python.parents[1].glob("lib/python*/site-packages"))
    (site / "ipywidgets_parts" / "part1.py").unlink()
    images = f"locks.KIT = Path({str(shelf.folder)!r})"
    (shelf.folder / "helpers" / "setup").mkdir(parents=True)
    file = Path("helpers", "setup", "colab_images.json")
    shutil.copy(KIT / file, shelf.folder / file)
    assert images in shelf.code((line,))
    out = shelf.install(line, COLAB_RELEASE_TAG="a test")
    assert out.startswith("Packages match the pins.\n")


def test_what_an_interruption_left_and_may_not_be_removed_is_named(shelf):
    line = shelf.wheel("stuck", "1.0")
    shelf.install(line)
    site = next(shelf.python.parents[1].glob("lib/python*/site-packages"))
    left = site / "stuck-1.0.dist-info"
    (left / "RECORD").unlink()
    left.chmod(0o555)
    try:
        done = as_a_weaker_user(shelf.python, "-c", shelf.code((line,)), **shelf.variables)
    finally:
        left.chmod(0o755)
    assert "What an interrupted installation left could not be removed" in done.stdout, done.stderr
    assert "Python's folder for packages may not be written to" in done.stdout


@pytest.mark.parametrize("tool", TOOLS)
def test_an_empty_folder_of_a_package_is_not_taken_for_it(shelf, tool):
    name = f"emptied-{tool}"
    site = next(shelf.python.parents[1].glob("lib/python*/site-packages"))
    (site / f"{name.replace('-', '_')}-1.0.dist-info").mkdir()
    out = shelf.install(shelf.wheel(name, "1.0"), **command_path(tool))
    assert "CourseError" not in out and "Packages match the pins." in out
    assert shelf.version(name.replace("-", "_")) == "1.0"


def test_a_package_that_still_differs_after_the_installation_is_named(shelf):
    # Another copy of it comes first on Python's path.
    copy = shelf.folder / "copy" / "shadowed-0.9.dist-info"
    copy.mkdir(parents=True)
    (copy / "METADATA").write_text("Metadata-Version: 2.1\nName: shadowed\nVersion: 0.9\n")
    (copy / "RECORD").touch()
    before = f"import sys; sys.path.insert(0, {str(copy.parent)!r})"
    out = shelf.install(shelf.wheel("shadowed", "1.0"), before=before)
    assert f"shadowed 0.9 in {copy.parent}" in out.split("CourseError: ")[1]
    assert "Packages" not in out


@pytest.mark.parametrize("tool", TOOLS)
def test_a_name_that_sounds_like_a_network_is_not_taken_for_one(shelf, tool):
    line = shelf.wheel("networkx-nowhere", "1.0")
    (shelf.folder / "networkx_nowhere-1.0-py3-none-any.whl").unlink()
    out = shelf.install(line, **command_path(tool))
    assert "The package index offers no such file for Python" in out and "no network" not in out
    assert "networkx-nowhere" in out.split("CourseError: ")[1]


def test_a_size_is_not_taken_for_an_error_of_the_server():
    said = "  Downloading one-1.0-py3-none-any.whl (500 kB)\nERROR: No matching distribution found"
    assert installers.reason_for(said) is installers.INDEX
    for error in ("too many 503 error responses", "server error (503 Service Unavailable)"):
        assert installers.reason_for(error) is installers.NETWORK


def test_a_python_without_uv_and_pip_is_told_so(tmp_path):
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    shelf = Shelf(venv, tmp_path)
    out = shelf.install(shelf.wheel("alone", "1.0"))
    assert "Installing 1 packages: alone …" in out
    assert "This Python has neither uv nor pip" in out


def test_a_package_that_is_pinned_twice_is_named(shelf):
    out = shelf.install(shelf.wheel("twice", "1.0"), shelf.wheel("twice", "2.0"))
    assert "CourseError: " in out and "pins a package again: twice==2.0" in out
    assert shelf.version("twice") is None


@pytest.mark.parametrize("module", ["in_use", "used_here"])
def test_replacing_a_package_in_use_asks_for_a_restart_until_there_was_one(shelf, module):
    name = f"package-of-{module}".replace("_", "-") if module == "used_here" else "in-use"
    shelf.install(shelf.wheel(name, "1.0", module=module))
    line = shelf.wheel(name, "2.0", module=module)
    out = shelf.install(line, before=f"import {module}", times=2)
    assert out.count(f"CourseError: {name} had been loaded before it was replaced.") == 2
    assert out.count("Restart session") == 2 and "Packages match" not in out
    assert shelf.version(module) == "2.0"
    # After the restart the cells go on from there.
    assert shelf.install(line).startswith("Packages match the pins.\n")


def test_a_package_in_use_that_could_not_be_replaced_needs_no_restart(shelf):
    shelf.install(shelf.wheel("still-used", "1.0"))
    line = shelf.wheel("still-used", "2.0")
    (shelf.folder / "still_used-2.0-py3-none-any.whl").unlink()
    out = shelf.install(line, before="import still_used", times=2)
    assert out.count("CourseError: The packages could not be installed") == 2
    assert "had been loaded" not in out


def uv_that_fails_after(shelf, installs: str) -> dict[str, str]:
    """A PATH with a uv that installs something and then finds the disk full."""
    folder = shelf.folder / "failing"
    folder.mkdir()
    pip = f"{shelf.python} -m pip install --quiet --no-deps {installs}"
    (folder / "uv").write_text(
        f"#!/bin/sh\n{pip} && echo 'error: No space left on device' && exit 1\n"
    )
    (folder / "uv").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def test_a_package_in_use_that_was_replaced_by_an_installation_that_then_failed_is_remembered(
    shelf,
):
    """An installer that brings the first package and fails at the second."""
    shelf.install(shelf.wheel("replaced-first", "1.0"))
    lines = shelf.wheel("replaced-first", "2.0"), shelf.wheel("then-failed", "1.0")
    path = uv_that_fails_after(shelf, "replaced-first==2.0")
    out = shelf.install(*lines, before="import replaced_first", times=2, **path)
    first, second = out.split("CourseError: ")[1:]
    assert "The disk is full." in first
    assert second.startswith("replaced-first had been loaded before it was replaced.")


def test_an_installation_that_fails_and_changes_what_others_are_built_for_is_noticed(shelf):
    shelf.install(shelf.wheel("torchaudio", "1.0"))
    line = shelf.wheel("never-there", "1.0")
    shelf.wheel("torchaudio", "3.0")
    out = shelf.install(line, **uv_that_fails_after(shelf, "torchaudio==3.0"))
    assert "CourseError: The installation changed torchaudio." in out


def test_replacing_a_package_that_is_not_in_use_asks_for_nothing(shelf):
    shelf.install(shelf.wheel("not-in-use", "1.0"))
    out = shelf.install(shelf.wheel("not-in-use", "2.0"), times=2)
    assert "CourseError" not in out and out.count("Packages match the pins.") == 2


def test_what_others_are_built_for_is_never_replaced(shelf):
    shelf.install(shelf.wheel("triton", "1.0"))
    out = shelf.install(shelf.wheel("triton", "2.0"), shelf.wheel("beside-it", "1.0"), times=2)
    assert out.count("CourseError: The list asks for another triton") == 2
    assert shelf.version("triton") == "1.0" and shelf.version("beside_it") is None


def test_a_package_that_changes_what_others_are_built_for_is_noticed(shelf):
    triton = shelf.wheel("triton", "1.0")
    shelf.install(triton)
    out = shelf.install(shelf.wheel("a-guest", "1.0", brings="triton"))
    assert "CourseError: The installation changed triton." in out


def test_a_pinned_numpy_where_there_was_none_is_no_move(shelf):
    out = shelf.install(shelf.wheel("numpy", "2.0"))
    assert "CourseError" not in out
    assert "Packages match the pins." in out


def test_a_satisfied_install_changes_nothing_and_starts_no_installer(shelf):
    line = shelf.wheel("satisfied", "1.0")
    shelf.install(line)
    out = shelf.install(line, before="import subprocess; subprocess.Popen = None")
    assert out.startswith("Packages match the pins.\nNo GPU here")


def test_on_colab_a_button_restarts_the_session():
    cells = [
        "import os, sys\nos.environ['COLAB_RELEASE_TAG'] = 'a test'",
        f"sys.path.insert(0, {str(KIT)!r})\nfrom helpers.setup import installation",
        "button = installation._offer_restart()",
        "button.click()\nimport time\ntime.sleep(30)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    client = NotebookClient(notebook, timeout=20)
    with pytest.raises(DeadKernelError):
        client.execute()
    assert "application/vnd.jupyter.widget-view+json" in notebook.cells[2].outputs[0].data
