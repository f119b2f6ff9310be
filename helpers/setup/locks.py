"""The lock files and the known Colab images: what is pinned, what each pin asks for, which image this is.

Needs only the standard library. Where `packaging` is to be had (pip carries a copy), requirements are checked.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from helpers.errors import CourseError

KIT = Path(__file__).resolve().parents[2]
# Never replaced: compiled neighbours are built for them, and numpy is loaded before any cell runs.
UNTOUCHED = ("torch", "torchvision", "torchaudio", "triton", "numpy")
# Python versions for which every pin is proven to resolve.
PYTHONS = ("3.11", "3.12", "3.13")
# A machine has a known image if so many of its other packages are the image's.
ALIKE = 0.95
OTHER_RUNTIME = (
    "choose another runtime version: command palette (Ctrl+Shift+P) > Change runtime version"
)
OTHER_PYTHON = (
    f"On Colab {OTHER_RUNTIME}. "
    f"On your own machine use Python {', '.join(PYTHONS[:-1])} or {PYTHONS[-1]}."
)
NEW_COPY = "Get the course again: delete its folder, then run the notebook's first cell."
# A line that pins a package; a marker, a comment or hashes may follow.
PIN = re.compile(
    r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==(\d[\w.!+-]*)(?=[ \t]*(?:$|[;#\\]|--))",
    re.MULTILINE,
)


def python_ok(python: str) -> bool:
    """Whether every pin is proven to resolve for this version of Python, such as 3.12.13."""
    return ".".join(python.split(".")[:2]) in PYTHONS


def need_python(python: str) -> None:
    """Refuse a Python that the course is not proven with.

    Raises:
        CourseError: this one is not.
    """
    if not python_ok(python):
        why = f"The course's packages are proven with Python {', '.join(PYTHONS)}."
        raise CourseError(f"This is Python {python}.", why, OTHER_PYTHON)


class Unmet(NamedTuple):
    """A declared requirement that is not met: who asks, for what, and what is there (None: nothing)."""

    package: str
    requirement: str
    dependency: str
    found: str | None

    def __str__(self) -> str:
        there = f"{self.dependency} {self.found} is there" if self.found else "it is absent"
        return f"{self.package} asks for {self.requirement}; {there}"


class Image(NamedTuple):
    """The nearest known Colab image, and how this machine differs from it: ``{package: (there, here)}``."""

    label: str
    differences: dict[str, tuple[str, str | None]]

    def __str__(self) -> str:
        if not self.differences:
            return f"Colab {self.label}"
        parts = [
            f"{name} {here or 'absent'} ({there})"
            for name, (there, here) in self.differences.items()
        ]
        more = f" and {len(parts) - 6} more" if len(parts) > 6 else ""
        return f"not a known Colab image; nearest is {self.label}, which differs in {', '.join(parts[:6])}{more}"


def on_colab() -> bool:
    """Whether this is a Colab machine."""
    return "COLAB_RELEASE_TAG" in os.environ


def canonical(name: str) -> str:
    """A package's name as PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def versions(text: str) -> dict[str, str]:
    """``{package: version}`` of the ``name==version`` lines of a lock file or ``pip freeze``.

    Whatever else there is, such as comments, hashes, options, files and addresses, is passed over.
    """
    return {canonical(name): version for name, version in PIN.findall(text)}


def read(file: Path) -> str:
    """Text of one of the course's files.

    Raises:
        CourseError: the file is absent or damaged.
    """
    try:
        # Some editors begin a file with an invisible mark, which is not part of the first line.
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CourseError(
            f"{file} could not be read: {error}",
            "The course needs every one of its files.",
            NEW_COPY,
        ) from error


def lock_file() -> Path:
    """The list of pinned packages for this machine: Colab's, or the one for a machine of your own."""
    if on_colab():
        return KIT / "requirements-colab.txt"
    return KIT / "requirements" / "requirements-local.txt"


def pins(lock: Path | None = None) -> dict[str, str]:
    """``{package: version}`` of a lock file, in which every line has to be understood.

    Raises:
        CourseError: the file is absent, holds no pin, or a line that is none, or pins a package twice.
    """
    lock = lock or lock_file()
    found = {}
    for number, line in enumerate(read(lock).splitlines(), 1):
        if not line.strip() or line.lstrip().startswith(("#", "--")):
            continue
        pin = PIN.match(line)
        if not pin or canonical(pin[1]) in found:
            raise CourseError(
                f"{lock}, line {number}, {'pins a package again' if pin else 'is no pin'}: {line}",
                "Each package has one line, which begins with its name, == and a version.",
                f"Mend the line, or start anew. {NEW_COPY}",
            )
        found[canonical(pin[1])] = pin[2]
    if not found:
        raise CourseError(f"{lock} pins no package.", "It was emptied or cut off.", NEW_COPY)
    return found


def torch_pin() -> str | None:
    """Version of torch for a machine of your own, beside its lock; None on Colab, where torch is the image's."""
    if on_colab():
        return None
    return versions(read(KIT / "requirements" / "requirements-local.in")).get("torch")


def proven(lock: Path | None = None) -> dict[str, str]:
    """``{package: version}`` of what a lock was proven with and never replaces, from its ``# proven with`` line."""
    line = re.search(r"^# proven with (.*)$", read(lock or lock_file()), flags=re.MULTILINE)
    return versions("\n".join(line[1].split(", "))) if line else {}


def exceptions(installed: Callable[[str], str | None] | None = None) -> dict[str, str]:
    """``{package: reason}``: requirements that are left unmet on purpose, from requirements-overrides.txt.

    Args:
        installed: gives a package's version; then an override counts only where it is met itself.
    """
    found, reason = {}, ""
    for line in read(KIT / "requirements" / "requirements-overrides.txt").splitlines():
        if line.startswith("#"):
            reason = line.removeprefix("#").strip()
        elif line.strip() and not (installed and unmet({"": [line]}, installed)):
            found[canonical(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0])] = reason
    return found


def requirement_class():
    """``packaging.requirements.Requirement``, from pip's own copy if need be; None where neither is there."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        try:
            from pip._vendor.packaging.requirements import Requirement
        except ImportError:
            return None
    return Requirement


def unmet(
    requires: Mapping[str, list[str]],
    installed: Callable[[str], str | None],
    python: str | None = None,
) -> list[Unmet]:
    """Declared requirements that are not met.

    Args:
        requires: for each package its ``Requires-Dist`` lines.
        installed: gives a package's version, or None where it is absent.
        python: judge markers for this Python on Linux x86_64 instead of for this machine.

    Raises:
        CourseError: `packaging` is not to be had.
    """
    requirement = requirement_class()
    if requirement is None:
        raise CourseError(
            "Requirements cannot be checked: the package `packaging` is absent.",
            "It reads a requirement as pip does.",
            "Run environment.install(), which brings it.",
        )
    place = {"extra": ""}
    if python:
        place |= {
            "python_version": ".".join(python.split(".")[:2]),
            "python_full_version": python if python.count(".") == 2 else f"{python}.0",
            "sys_platform": "linux",
            "platform_system": "Linux",
            "platform_machine": "x86_64",
            "os_name": "posix",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
        }
    found = []
    for package, lines in requires.items():
        for line in lines:
            asked = requirement(line)
            if asked.marker and not asked.marker.evaluate(place):
                continue
            here = installed(canonical(asked.name))
            if here is None or not asked.specifier.contains(here, prereleases=True):
                text = f"{asked.name}{asked.specifier}"
                found.append(Unmet(package, text, canonical(asked.name), here))
    return found


@cache
def images() -> dict[str, dict]:
    """Known Colab images by label, newest first: ``{"python": …, "packages": {name: version}}``.

    Raises:
        CourseError: the file of images is absent or damaged.
    """
    file = KIT / "helpers" / "setup" / "colab_images.json"
    try:
        return json.loads(read(file))
    except json.JSONDecodeError as error:
        raise CourseError(
            f"{file} is damaged: {error}", "It lists the known Colab images.", NEW_COPY
        ) from error


def this_image(python: str, installed: Callable[[str], str | None]) -> str | None:
    """Label of the Colab image that this machine has, whatever became of what is never replaced; None if unknown.

    It is known by its minor version of Python and by nearly all other packages that the course uses: the two images
    of 2026.07 and 2026-08-19 share four fifths of them.
    """
    used = {*pins(KIT / "requirements" / "requirements-local.txt")}
    used -= set(pins(KIT / "requirements-colab.txt"))
    for label, image in images().items():
        there = {n: v for n, v in image["packages"].items() if n in used and n not in UNTOUCHED}
        alike = sum(installed(name) == version for name, version in there.items())
        minor = python.split(".")[:2] == image["python"].split(".")[:2]
        if minor and there and alike >= ALIKE * len(there):
            return label
    return None


def nearest_image(python: str, installed: Callable[[str], str | None]) -> Image:
    """Which known Colab image a machine is, or is nearest to.

    Only what the course uses is compared, and nothing of Colab's lock, which replaces it on purpose.
    """
    used = {*pins(KIT / "requirements" / "requirements-local.txt"), *UNTOUCHED}
    used -= set(pins(KIT / "requirements-colab.txt"))
    found = []
    for label, image in images().items():
        packages = image["packages"]
        there = {"Python": image["python"]} | {n: packages[n] for n in packages if n in used}
        here = {name: python if name == "Python" else installed(name) for name in there}
        found.append(Image(label, {n: (there[n], here[n]) for n in there if there[n] != here[n]}))
    return min(found, key=lambda image: len(image.differences))
