"""Put what a student needs into one zip: `python tools/kit.py`, which writes build/lora-course-VERSION.zip.

Where GitHub cannot be reached, a teacher hands that file out: beside a notebook, or in Google Drive, its opening
cell takes the course from there. In it are the files that git knows, as they stand in the folder, without the
tests and the GPU scripts. The same files make the same zip, byte for byte.
"""

import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What only whoever changes the course needs. Its tests also need the git repository.
LEFT_OUT = re.compile(
    r"tests/|gpu/|requirements/requirements-notebook65|\.ci/|\.github/|\.gitignore$"
    r"|\.pre-commit-config\.yaml$"
)


def git(*arguments: str, root: Path = ROOT) -> str:
    """What git prints; SystemExit with its complaint where it fails."""
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"git {' '.join(arguments)} failed: {done.stderr.strip()}")
    return done.stdout


def files(root: Path = ROOT) -> list[str]:
    """Paths of what goes into the kit, in order."""
    known = git("ls-files", "-z", root=root).split("\0")
    return sorted(p for p in known if p and not LEFT_OUT.match(p) and (root / p).is_file())


def version(root: Path = ROOT) -> str:
    """The tag of this commit; else what it is near to. What no tag names sorts before every release: 0-20261127-1a2b3c4."""
    described = ["describe", "--tags", "--match", "v[0-9]*"]
    command = ["git", "-C", str(root), *described]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not (name := done.stdout.strip()):
        name = git("log", "-1", "--format=0-%cd-%h", "--date=format:%Y%m%d", root=root).strip()
    changed = git("status", "--porcelain", "--untracked-files=no", root=root).strip()
    return f"{name}-changed" if changed else name


def write(root: Path = ROOT, name: str = "") -> Path:
    """Write the kit and return its path.

    Args:
        root: the course's folder, a git repository.
        name: the version; without it, `version`.
    """
    stem = f"lora-course-{name or version(root)}"
    target = root / "build" / f"{stem}.zip"
    target.parent.mkdir(exist_ok=True)
    # Every file gets the commit's time, in UTC: a zip knows no time zone.
    moment = time.gmtime(int(git("log", "-1", "--format=%ct", root=root)))[:6]
    half = target.with_suffix(".half")
    with zipfile.ZipFile(half, "w") as kit:
        for path in files(root):
            entry = zipfile.ZipInfo(f"{stem}/{path}", moment)
            entry.compress_type = zipfile.ZIP_DEFLATED
            executable = (root / path).stat().st_mode & 0o100
            # The upper half holds the rights that Unix gives it.
            entry.external_attr = (0o100755 if executable else 0o100644) << 16
            kit.writestr(entry, (root / path).read_bytes())
    half.replace(target)
    return target


def main() -> None:
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    made = write()
    print(f"{made.relative_to(ROOT)}: {made.stat().st_size / 1e6:.1f} MB, {len(files())} files")


if __name__ == "__main__":
    main()
