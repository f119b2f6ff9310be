"""The opening cell, each of its ways to the course tried in an empty folder: with its real source, without a network."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest

KIT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(KIT / "tools"))
import kit as packer
import record

import notebooks as tool

BOOK = nbformat.read(record.notebooks()[0], as_version=4)
CELL = next(cell.source for cell in BOOK.cells if cell.cell_type == "code")
NOWHERE = "file:///nowhere/course.git"
REF = tool.release()[1]
MINE = f"lora-course-{REF}"


class Folder:
    """An empty folder in which a notebook stands, and a Drive."""

    def __init__(self, path: Path):
        self.path, self.drive = path / "My Drive" / "here", path / "Drive"
        self.path.mkdir(parents=True)

    def run(self, source: str = CELL, **variables: str) -> subprocess.CompletedProcess:
        """Run a cell there, then print where the helpers come from."""
        source = source.replace("/content/drive/MyDrive", str(self.drive))
        code = f"{source}\nfrom helpers import presets\nprint(Path(presets.__file__).parents[1])"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COURSE"))}
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=self.path,
            env=kept | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    def kit(self, source: str = CELL, **variables: str) -> Path:
        """Where the course was found or put; it is whole, and the one line that the cell prints names it."""
        done = self.run(source, **variables)
        assert done.returncode == 0, done.stderr
        self.said, found = done.stdout.splitlines()
        assert self.said.startswith(f"Course: {found}")
        return Path(found)


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path)


def make_zip(path: Path, top: str = "", mark: str = "") -> Path:
    """A small kit with what the cell looks for; ``mark`` tells one from another."""
    top = top or path.stem
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(f"{top}/helpers/__init__.py", "")
        made.writestr(f"{top}/helpers/presets.py", f"MARK = {mark!r}\n")
        made.writestr(f"{top}/README.md", mark)
    return path


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    """This checkout with the release's tag, as a server would have it."""
    clone = tmp_path_factory.mktemp("released") / "course.git"
    for command in (
        ["git", "clone", "--quiet", "--bare", str(KIT), str(clone)],
        ["git", "-C", str(clone), "tag", "--force", REF, "HEAD"],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return clone


def test_every_notebook_has_the_same_cell_and_it_is_short():
    repo, ref = tool.release()
    assert CELL == tool.GET_THE_KIT.format(repo=repo, ref=ref)
    assert len(CELL.splitlines()) <= 34 and max(map(len, CELL.splitlines())) <= 100
    for path in record.notebooks():
        code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        assert (code[0].source, code[1].source) == (CELL, tool.CHECK_THE_MACHINE)


def test_it_needs_the_standard_library_only():
    names = re.findall(r"^(?:import|from) (\w+)", CELL, flags=re.MULTILINE)
    assert set(names) <= set(sys.stdlib_module_names)


# ------------------------------------------------------------------------------------------ the checkout
def test_the_checkout_it_stands_in_comes_first(folder):
    make_zip(folder.path / "lora-course-v9.zip")
    folder.path = KIT / "notebooks"
    assert folder.kit(COURSE_REPO=NOWHERE) == KIT


@pytest.mark.parametrize(("name", "other"), [(MINE, False), ("lora-course-v0", True), ("x", False)])
def test_the_kit_that_the_notebook_stands_in_is_named_with_its_version(folder, name, other):
    make_zip(folder.path / "made.zip", top=name)
    with zipfile.ZipFile(folder.path / "made.zip") as made:
        made.extractall(folder.path)
    folder.path = folder.path / name / "notebooks"
    folder.path.mkdir()
    assert folder.kit(COURSE_REPO=NOWHERE) == folder.path.parent
    said = f", another version: this notebook is for {REF}." if other else ""
    assert folder.said == f"Course: {folder.path.parent}{said}"


# ------------------------------------------------------------------------------------------- a kit's zip
PLACES = ["here", "in Drive", "in Drive's folder of the course"]


def place(folder: Folder, name: str) -> Path:
    """One of the three folders where the cell looks for a zip."""
    return dict(
        zip(PLACES, (folder.path, folder.drive, folder.drive / "lora-course"), strict=True)
    )[name]


@pytest.mark.parametrize("where", PLACES)
def test_the_zip_of_this_release_comes_before_the_repository_and_newer_zips(
    folder, released, where
):
    for elsewhere in PLACES:
        make_zip(place(folder, elsewhere) / "lora-course-v99.zip", mark="newer")
    make_zip(place(folder, where) / f"{MINE}.zip", mark="x")
    # Neither the repository nor, after a restart, the zip is needed.
    for repo in (f"file://{released}", NOWHERE):
        assert folder.kit(COURSE_REPO=repo) == folder.path / MINE
        assert (folder.path / MINE / "README.md").read_text() == "x"
        assert folder.said == f"Course: {folder.path / MINE}"
    left = {file.name for file in folder.path.iterdir()}
    assert left <= {MINE, f"{MINE}.zip", "lora-course-v99.zip"}


def test_of_two_zips_of_this_release_the_one_beside_the_notebook_is_taken(folder):
    make_zip(folder.drive / f"{MINE} (1).zip", top=MINE, mark="in Drive")
    make_zip(folder.path / f"{MINE}.zip", mark="here")
    assert (folder.kit(COURSE_REPO=NOWHERE) / "README.md").read_text() == "here"


@pytest.mark.parametrize("where", PLACES)
def test_a_newer_zip_does_not_take_the_place_of_the_release(folder, released, where):
    make_zip(place(folder, where) / "lora-course-v99.zip")
    # Unpacked by the notebook of another release, here too.
    shutil.unpack_archive(place(folder, where) / "lora-course-v99.zip", folder.path)
    assert folder.kit(COURSE_REPO=f"file://{released}") == folder.path / MINE
    assert folder.said == f"Course: {folder.path / MINE}"


@pytest.mark.parametrize("where", PLACES)
def test_where_the_release_cannot_be_reached_another_zip_is_taken_and_it_is_said(folder, where):
    make_zip(place(folder, where) / "lora-course-v99.zip")
    # The second time, as after a restart, it is there already.
    for _ in range(2):
        assert folder.kit(COURSE_REPO=NOWHERE) == folder.path / "lora-course-v99"
        assert f", another version: this notebook is for {REF}. fatal: " in folder.said


def test_the_real_kit_holds_what_the_next_cells_need(folder, monkeypatch):
    made = packer.write(KIT, "v0-test")
    made.rename(folder.path / made.name)
    kit = folder.kit(COURSE_REPO=NOWHERE)
    code = (
        "from helpers import workspace\nfrom helpers.setup import environment\n"
        "print(workspace.KIT, environment.version('pip'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=kit, capture_output=True, text=True, check=True
    )
    assert str(kit) in done.stdout
    for name in ("requirements-colab.txt", "README.md", "LICENSE", "NOTICE", "data", "notebooks"):
        assert (kit / name).exists()


def test_of_other_zips_the_newest_version_wins_wherever_it_is(folder):
    for where, name in (
        (folder.drive, "v9"),
        (folder.path, "v10"),
        (folder.path, "v2"),
        (folder.drive / "lora-course", "v10-3-gabc"),
        (folder.path, "0-20991231-abc"),
    ):
        make_zip(where / f"lora-course-{name}.zip")
    assert folder.kit(COURSE_REPO=NOWHERE).name == "lora-course-v10-3-gabc"


@pytest.mark.parametrize("renamed", ["{} (1)", "{}(1)", "{} 2", "{} copy"])
def test_a_zip_that_a_browser_renamed_is_still_of_its_release(folder, renamed):
    make_zip(folder.path / f"{renamed.format(MINE)}.zip", top=MINE)
    assert folder.kit(COURSE_REPO=NOWHERE) == folder.path / MINE
    assert folder.said == f"Course: {folder.path / MINE}"


def test_a_zip_writes_nothing_outside_its_folder(folder):
    zipped = make_zip(folder.path / "lora-course-v2.zip")
    with zipfile.ZipFile(zipped, "a") as made:
        made.writestr("../../evil.py", "x")
        made.writestr("/tmp/lora-course-test-evil.py", "x")
        made.writestr("lora-course-v2/../../../evil.py", "x")
    above = folder.path.parent
    kit = folder.kit(COURSE_REPO=NOWHERE)
    inside = {p for p in above.rglob("*evil*")}
    assert all(kit in p.parents for p in inside)
    assert not Path("/tmp/lora-course-test-evil.py").exists()
    assert {p.name for p in folder.path.iterdir()} == {"lora-course-v2", zipped.name}


def damaged(path: Path, damage: str) -> Path:
    """A kit's zip that cannot be used."""
    zipped = make_zip(path)
    if damage == "cut off":
        zipped.write_bytes(zipped.read_bytes()[:-30])
    elif damage == "no zip":
        zipped.write_text("<html>Sign in</html>")
    elif damage == "a file in it":
        # Stored as it is: one letter of the last file changes, and what comes before unpacks.
        with zipfile.ZipFile(zipped, "a") as made:
            made.writestr("lora-course/last.txt", "the last file")
        zipped.write_bytes(zipped.read_bytes().replace(b"the last file", b"the lost file"))
    else:
        with zipfile.ZipFile(zipped, "w") as made:
            made.writestr("something/else.py", "")
    return zipped


DAMAGES = {
    "cut off": "BadZipFile: ",
    "no zip": "BadZipFile: ",
    "a file in it": "BadZipFile: Bad CRC-32",
    "no course": "",
}


@pytest.mark.parametrize("name", [MINE, "lora-course-v99"])
@pytest.mark.parametrize(("damage", "reason"), DAMAGES.items(), ids=DAMAGES)
def test_a_zip_that_cannot_be_used_is_told_without_a_traceback(folder, name, damage, reason):
    zipped = damaged(folder.path / f"{name}.zip", damage)
    said = fails(folder, COURSE_REPO=NOWHERE)
    assert said.startswith(f"No {MINE}: ") and reason in said and "/nowhere/course.git" in said
    assert [p.name for p in folder.path.iterdir()] == [zipped.name]


@pytest.mark.parametrize("damage", DAMAGES)
def test_after_a_zip_that_cannot_be_used_the_repository_is_asked(folder, released, damage):
    damaged(folder.path / f"{MINE}.zip", damage)
    kit = folder.kit(COURSE_REPO=f"file://{released}")
    assert kit == folder.path / MINE and (kit / "notebooks").is_dir()


def test_half_a_kit_unpacked_by_hand_is_neither_taken_nor_touched(folder, released):
    (folder.path / MINE / "helpers").mkdir(parents=True)
    (folder.path / MINE / "helpers" / "errors.py").touch()
    said = fails(folder, COURSE_REPO=f"file://{released}")
    assert said.startswith(f"No {MINE}: no whole course in it. ")
    assert [p.name for p in (folder.path / MINE).rglob("*")] == ["helpers", "errors.py"]


def fails(folder: Folder, **variables: str) -> str:
    """What the cell says where no way leads to the course: a few lines, no traceback."""
    done = folder.run(**variables)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "Put its zip here or in Drive; delete a broken one." in done.stderr
    return done.stderr


# ------------------------------------------------------------------------------------------- the release
@pytest.mark.parametrize("quotes", ["{}", '"{}"', " '{}' "])
def test_a_mirror_serves_the_release(folder, released, quotes):
    kit = folder.kit(COURSE_REPO=quotes.format(f"file://{released}"))
    assert kit == folder.path / MINE
    assert (kit / "notebooks").is_dir() and (kit / "tools").is_dir()
    # A second run, for instance after a restart, needs no network.
    assert folder.kit(COURSE_REPO=NOWHERE) == kit


def test_the_address_that_make_badges_wrote_serves_the_release(folder, released):
    cell = tool.GET_THE_KIT.format(repo="some-body/some-course", ref=REF)
    served = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{released}.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/some-body/some-course",
    }
    assert (folder.kit(cell, **served) / "helpers" / "lora.py").is_file()


def test_a_download_that_broke_off_is_not_taken_for_the_course(folder, released):
    """A git that leaves half a clone, as an interrupted one does."""
    tools = folder.path.parent / "bin"
    tools.mkdir()
    (tools / "git").write_text(
        '#!/bin/sh\nfor last; do :; done\nmkdir -p "$last/.git" "$last/helpers"\n'
        "echo x > \"$last/helpers/errors.py\"\necho 'fatal: early EOF' >&2\nexit 128\n"
    )
    (tools / "git").chmod(0o755)
    said = fails(folder, PATH=f"{tools}{os.pathsep}{os.environ['PATH']}")
    assert "fatal: early EOF" in said and list(folder.path.iterdir()) == []
    assert folder.kit(COURSE_REPO=f"file://{released}").is_dir()


def test_where_nothing_can_be_reached_it_says_what_was_tried_and_what_to_do(folder):
    said = fails(folder, COURSE_REPO=NOWHERE)
    assert "/nowhere/course.git" in said and list(folder.path.iterdir()) == []


def test_without_git_it_says_so(folder):
    only = folder.path.parent / "bin"
    only.mkdir()
    (only / "env").symlink_to("/usr/bin/env")
    assert "git" in fails(folder, PATH=str(only), COURSE_REPO=NOWHERE)


def test_a_password_in_the_mirrors_address_is_not_shown(folder):
    said = fails(folder, COURSE_REPO="http://student:s3cret@127.0.0.1:9/course.git")
    assert "s3cret" not in said and "127.0.0.1" in said
