"""Make a release: `python tools/release.py OWNER/NAME REF`, such as you/lora-course v2.

Points every badge and opening cell at the tag, runs the course at full size and the tests (`make full`, `make test`);
then commits, tags, and writes the kit. It refuses while something is not committed or an output is not saved, where
the tag exists, and without one of the two targets. Where a step fails, nothing is committed and every file that git
knows is as before. Nothing is pushed: the last line says how.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import kit
import record

import notebooks

ROOT = notebooks.ROOT
PLACEHOLDER = notebooks.PLACEHOLDER.partition("/")[0]
# At full size first: it leaves a record, which the tests look at.
TARGETS = ("full", "test")


def refusals(repo: str, ref: str) -> list[str]:
    """Why this cannot be released now; empty if it can."""
    found = []
    if repo == notebooks.PLACEHOLDER:
        found.append(f"{repo} is only a placeholder: name the repository, REPO=owner/name.")
    elif wrong := notebooks.valid(repo, ref):
        found.append(wrong)
    elif kit.git("tag", "--list", ref).strip():
        found.append(
            f"the tag {ref} exists: choose the next one, since students may have this one."
        )
    if changed := kit.git("status", "--porcelain").strip():
        found.append(f"not everything is committed:\n{changed}")
    for path, numbers in notebooks.all_unsaved(record.notebooks()).items():
        where = ", ".join(map(str, numbers))
        found.append(f"{path.name} shows no output under cell {where}: run `make notebooks`.")
    for target in TARGETS:
        if target not in targets():
            found.append(f"the Makefile has no target `{target}`, which a release has to pass.")
    return found


def targets() -> set[str]:
    """What `make` can do here."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z]\w*):(?!=)", text, flags=re.MULTILINE))


def pointed_at() -> list[Path]:
    """The files that name the release."""
    return [*record.notebooks(), ROOT / "README.md"]


def point_at(repo: str, ref: str) -> None:
    """Make every badge and every opening cell name this release."""
    for path in record.notebooks():
        path.write_text(notebooks.rewritten(path, repo, ref), encoding="utf-8")
    (ROOT / "README.md").write_text(notebooks.readme(repo, ref), encoding="utf-8")


def make(target: str) -> None:
    """Run a target of the Makefile; CalledProcessError where it fails."""
    command = ["make", target]
    with subprocess.Popen(command, cwd=ROOT) as running:
        try:
            code = running.wait()
        except KeyboardInterrupt:
            # What it runs heard Ctrl+C too, and may still write: nothing is restored before it has ended.
            running.wait()
            raise
    if code:
        raise subprocess.CalledProcessError(code, command)


def restore() -> None:
    """Give every file that git knows its committed content again; name what else is new.

    The tree was clean: each change since is the release's. A new file may be somebody's work: it stays.
    """
    kit.git("reset", "--quiet")
    kit.git("checkout", "--quiet", "--", ".")
    print("Nothing was committed or tagged; what git knows is as before.")
    if new := kit.git("ls-files", "-z", "--others", "--exclude-standard").split("\0")[:-1]:
        print("New, and left where it is:", ", ".join(new))


def release(repo: str, ref: str, run: Callable[[str], None] = make) -> Path:
    """Do everything up to the tag and the kit; return the kit's path.

    Args:
        repo: owner/name on GitHub.
        ref: the tag.
        run: runs a target of the Makefile.
    """
    try:
        point_at(repo, ref)
        left = [p.name for p in pointed_at() if PLACEHOLDER in p.read_text(encoding="utf-8")]
        if left:
            sys.exit(f"Not released: {PLACEHOLDER} still stands in {', '.join(left)}.")
        for target in TARGETS:
            run(target)
        # The tree was clean: what is new or changed now belongs to the release.
        kit.git("add", "--all")
        kit.git("commit", "--quiet", "--allow-empty", "--message", f"Release {ref}")
    except BaseException:
        # Also after Ctrl+C: a half-made release is worse than none.
        restore()
        raise
    kit.git("tag", "--annotate", "--message", f"Release {ref}", ref)
    return kit.write(ROOT, ref)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("repo", metavar="OWNER/NAME")
    parser.add_argument("ref", metavar="REF")
    asked = parser.parse_args()
    if found := refusals(asked.repo, asked.ref):
        sys.exit("Not released: " + "\nNot released: ".join(found))
    try:
        made = release(asked.repo, asked.ref)
    except subprocess.CalledProcessError as error:
        sys.exit(f"Not released: `{' '.join(error.cmd)}` failed.")
    except KeyboardInterrupt:
        sys.exit("Not released: stopped.")
    print(f"Release {asked.ref} is tagged, and its kit is {made.relative_to(ROOT)}.")
    print(
        f"Now publish both: git push origin HEAD {asked.ref}, and add the kit to the release's files."
    )


if __name__ == "__main__":
    main()
