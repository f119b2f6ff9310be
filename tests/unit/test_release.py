"""`make kit` and `make release`, each in a copy of the course that is a git repository of its own."""

import os
import re
import shutil
import signal
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

SOMEBODY = {
    f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
}
# What the release runs: `full` leaves a record, `test` looks whether it and the badges are there.
FULL = """\
full:
\techo '{"full": 2026}' > data/measured.json
\techo 2026 >> README.md
\techo 2026 > record
"""
TEST = """\
test:
\tgrep -q 'somebody/some-course/blob/v2' README.md
\tgrep -q 2026 data/measured.json record
"""


class Copy:
    """A copy of the course, committed; every notebook in it has its outputs."""

    def __init__(self, root: Path):
        self.root = root

    def fill(self) -> None:
        """Take what a kit holds, and commit it."""
        for path in packer.files(KIT):
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(KIT / path, self.root / path)
        for path in sorted((self.root / "notebooks").glob("0*.ipynb")):
            book = nbformat.read(path, as_version=4)
            for number in tool.unsaved(book):
                book.cells[number].outputs = [nbformat.v4.new_output("stream", text="shown\n")]
            nbformat.write(book, path)
        (self.root / ".gitignore").write_text("build/\n__pycache__/\n")
        self.makefile()
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit()

    def makefile(self, text: str = FULL + TEST) -> None:
        (self.root / "Makefile").write_text(text)

    def git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.root), *arguments]
        done = subprocess.run(
            command, env=os.environ | SOMEBODY, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "A step.")

    def start(self, script: str, *arguments: str, **variables: str) -> subprocess.Popen:
        """Begin to run a tool, in a group of its own, as in a terminal."""
        # Without what an outer `make` hands on.
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "COURSE"))
        }
        return subprocess.Popen(
            [sys.executable, self.root / "tools" / script, *arguments],
            cwd=self.root,
            env=kept | SOMEBODY | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, script: str, *arguments: str, **variables: str) -> tuple[int, str]:
        """Run a tool; what it ended with, and all that it said."""
        with self.start(script, *arguments, **variables) as started:
            said, _ = started.communicate()
        return started.returncode, said

    def state(self) -> tuple[str, str, str]:
        """Commit, tags and what is not committed."""
        return self.git("rev-parse", "HEAD"), self.git("tag"), self.git("status", "--porcelain")


@pytest.fixture(scope="module")
def committed(tmp_path_factory) -> Path:
    """A copy that no test changes."""
    course = Copy(tmp_path_factory.mktemp("release") / "course")
    course.fill()
    return course.root


@pytest.fixture
def course(committed, tmp_path) -> Copy:
    return Copy(shutil.copytree(committed, tmp_path / "My Drive" / "course"))


# ------------------------------------------------------------------------------------------------- the kit
def test_the_kit_holds_what_a_student_needs_in_one_folder(course):
    code, said = course.run("kit.py")
    assert code == 0, said
    (made,) = (course.root / "build").glob("*.zip")
    assert re.fullmatch(r"lora-course-0-\d{8}-[0-9a-f]+\.zip", made.name)
    with zipfile.ZipFile(made) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {made.stem}
    inside = {name.partition("/")[2] for name in names}
    needed = {"README.md", "LICENSE", "NOTICE", "Makefile", "requirements-colab.txt"}
    sources = ("requirements-local.txt", "requirements-local.in", "requirements-overrides.txt")
    needed |= {f"requirements/{name}" for name in sources}
    needed |= {f"notebooks/{path.name}" for path in record.notebooks()}
    needed |= {"helpers/setup/colab_images.json", "data/conversations.json", "tools/course.py"}
    assert needed <= inside
    assert not any(
        name.startswith(("tests/", "gpu/", ".", "build/", "workspace/")) for name in inside
    )


def test_the_same_files_make_the_same_kit_in_any_time_zone(course):
    bytes_made = []
    for zone in ("UTC", "Asia/Taipei"):
        for file in course.root.rglob("*.json"):
            file.touch()
        assert course.run("kit.py", TZ=zone)[0] == 0
        (made,) = (course.root / "build").glob("*.zip")
        bytes_made.append(made.read_bytes())
        made.unlink()
    assert bytes_made[0] == bytes_made[1]


def test_a_kit_is_named_after_its_tag_and_what_came_since(course):
    assert re.fullmatch(r"0-\d{8}-[0-9a-f]+", packer.version(course.root))
    course.git("tag", "v2")
    assert packer.version(course.root) == "v2"
    course.commit()
    assert re.fullmatch(r"v2-1-g[0-9a-f]+", packer.version(course.root))
    (course.root / "README.md").write_text("changed")
    assert packer.version(course.root).endswith("-changed")


# --------------------------------------------------------------------------------------------- the release
def refused(course: Copy, repo: str = "somebody/some-course", ref: str = "v2") -> str:
    """What the release says when it refuses; nothing is changed then."""
    before = course.state()
    code, said = course.run("release.py", repo, ref)
    assert code != 0 and "Traceback" not in said
    assert course.state() == before and not list((course.root / "build").glob("*.zip"))
    return said


@pytest.mark.parametrize("repo", ["_owner_/lora-course", "some_body/course", "somebody"])
def test_a_placeholder_or_an_owner_that_cannot_be_is_refused(course, repo):
    said = refused(course, repo)
    assert repo in said and ("placeholder" in said or "no repository on GitHub" in said)


def test_a_tag_that_students_may_have_is_not_moved(course):
    course.git("tag", "v2")
    assert "the tag v2 exists" in refused(course)


@pytest.mark.parametrize("name", ["README.md", "new.txt"])
def test_what_is_not_committed_is_refused(course, name):
    (course.root / name).write_text("x")
    said = refused(course)
    assert "not everything is committed" in said and name in said


@pytest.mark.parametrize("source", ["print('a result')", "sliders.show()"])
def test_a_cell_whose_output_was_not_saved_is_refused(course, source):
    path = course.root / "notebooks" / record.notebooks()[3].name
    book = nbformat.read(path, as_version=4)
    book.cells.append(nbformat.v4.new_code_cell(source))
    nbformat.write(book, path)
    course.commit()
    said = refused(course)
    assert path.name in said and f"cell {len(book.cells) - 1}" in said


@pytest.mark.parametrize(
    ("makefile", "missing"), [(TEST, "full"), (FULL, "test"), ("x := 1\n", "")]
)
def test_without_a_target_that_a_release_has_to_pass_it_is_refused_by_name(
    course, makefile, missing
):
    course.makefile(makefile + "full := no target\n")
    course.commit()
    said = refused(course)
    for target in ("full", "test"):
        assert (f"no target `{target}`" in said) == (missing in (target, ""))


def test_a_release_points_at_its_tag_is_tested_tagged_and_packed(course):
    before = course.state()[0]
    code, said = course.run("release.py", "somebody/some-course", "v2")
    assert code == 0, said
    commit, tags, left = course.state()
    assert (tags, left) == ("v2", "") and commit != before
    assert course.git("rev-parse", "v2^{commit}") == commit
    assert course.git("log", "-1", "--format=%s") == "Release v2"
    assert "record" in course.git("ls-files").splitlines()
    with zipfile.ZipFile(course.root / "build" / "lora-course-v2.zip") as archive:
        for path in [f"notebooks/{p.name}" for p in record.notebooks()] + ["README.md"]:
            text = archive.read(f"lora-course-v2/{path}").decode()
            assert "somebody/some-course/blob/v2/" in text and "_owner_" not in text
        assert b"2026" in archive.read("lora-course-v2/data/measured.json")
    assert "git push origin HEAD v2" in said


def as_before(course: Copy, before: tuple[str, str, str], said: str) -> None:
    """What git knows is as it was; what `full` left beside it stays, and is named."""
    assert course.state() == (*before[:2], "?? record")
    assert "as before" in said and "New, and left where it is: record" in said
    assert "Traceback" not in said and not list((course.root / "build").glob("*.zip"))


def test_where_the_tests_fail_nothing_is_released_and_every_file_is_as_before(course):
    course.makefile(FULL + TEST + "\tfalse\n")
    course.commit()
    before = course.state()
    code, said = course.run("release.py", "somebody/some-course", "v2")
    assert code != 0 and "`make test` failed" in said
    as_before(course, before, said)


def test_where_git_refuses_the_commit_every_file_is_as_before(course):
    hook = course.root / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho not like this >&2\nexit 1\n")
    hook.chmod(0o755)
    before = course.state()
    code, said = course.run("release.py", "somebody/some-course", "v2")
    assert code != 0 and "not like this" in said
    as_before(course, before, said)


def test_after_ctrl_c_every_file_is_as_before(course):
    """What runs in `make test` goes on writing for a moment after it was stopped."""
    course.makefile(f"{FULL}\ntest:\n\t@{sys.executable} slow.py\n")
    (course.root / "slow.py").write_text(
        "import time\n"
        "print('begun', flush=True)\n"
        "try:\n"
        "    time.sleep(60)\n"
        "finally:\n"
        "    time.sleep(1)\n"
        "    open('README.md', 'a').write('late')\n"
    )
    course.commit()
    before = course.state()
    with course.start("release.py", "somebody/some-course", "v2") as started:
        while started.stdout.readline() != "begun\n":
            assert started.poll() is None
        os.killpg(started.pid, signal.SIGINT)
        said, _ = started.communicate()
    assert started.returncode != 0 and "Not released: stopped." in said
    # What slow.py itself says about Ctrl+C is no matter of the release.
    as_before(course, before, said.partition("Nothing was")[1] + said.partition("Nothing was")[2])
