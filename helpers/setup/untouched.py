"""What the course never replaces (Python, PyTorch and its kind, NumPy): is it what belongs on this machine?

Another `pip install` may have moved one of them. Other packages hold compiled code for the version that was there,
and a notebook may have the earlier one in memory.
"""

import importlib.metadata
import platform
import sys
from pathlib import Path

from helpers import machine
from helpers.errors import CourseError
from helpers.setup import locks
from helpers.setup.probes import Probe

# What the Makefile leaves in the environment that it sets up.
READY = Path(sys.prefix, ".ready")
RESTART = "restart the session (menu Runtime > Restart session), then run the cells from the top"
# `make` compares versions each time, so it notices a package that was moved since it installed it.
MAKE = "run `make lab`: it puts the right one back, in an environment of the course's own"


def installed(package: str) -> str | None:
    """A package's version as its metadata says it; None where it is absent."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def loaded(package: str) -> str | None:
    """The version that this process has in memory; None where it has none."""
    found = getattr(sys.modules.get(package), "__version__", None)
    return found and str(found)


def same(one: str | None, other: str | None) -> bool:
    """Whether two versions are one, whatever they were built for: 2.13.0+cpu is 2.13.0."""
    return (one or "").partition("+")[0] == (other or "").partition("+")[0]


def expected() -> tuple[dict[str, str], str]:
    """``{package: version}`` that belong here, and who says so; empty on a Colab image that nobody knows."""
    if not locks.on_colab():
        pins = {"torch": locks.torch_pin(), "numpy": locks.pins().get("numpy")}
        return {name: pin for name, pin in pins.items() if pin}, "the course is proven with"
    label = locks.this_image(platform.python_version(), installed)
    packages = locks.images()[label]["packages"] if label else {}
    return {n: packages[n] for n in locks.UNTOUCHED if n in packages}, f"Colab {label} came with"


def mend() -> str:
    """How to get back what was moved."""
    return machine.FRESH_MACHINE if locks.on_colab() else MAKE


def moved() -> list[Probe]:
    """The packages that another installation moved, or loaded in another version than is installed."""
    wanted, source = expected()
    found = []
    for name in locks.UNTOUCHED:
        pin, here, held = wanted.get(name), installed(name), loaded(name)
        if pin and not same(pin, here) and (here or name != "numpy" or locks.on_colab()):
            detail = f"{here or 'absent'}; {source} {pin}"
            found.append(Probe(name, False, detail, mend()))
        elif held and not same(held, here):
            detail = f"{held} is loaded, {here or 'none'} is installed"
            found.append(Probe(name, False, detail, RESTART))
    return found


def judge(facts: dict[str, str]) -> tuple[Probe, ...]:
    """Python, the GPU as PyTorch sees it, and what was moved: each right or wrong."""
    python = facts["Python"]
    ok = locks.python_ok(python)
    found = [Probe("Python", ok, python, "" if ok else locks.OTHER_PYTHON)]
    card = facts["GPU"]
    if card == machine.NO_ANSWER:
        found.append(Probe("GPU", False, machine.NO_ANSWER, machine.DRIVER_MENU))
    elif card != "none" and not machine.torch_sees_gpu():
        unseen = machine.why_unseen()
        if not unseen.chosen:
            found.append(
                Probe(
                    "GPU", False, f"{card}, which PyTorch does not see: {unseen.why}", unseen.todo
                )
            )
    pinned = locks.pins()
    # A pinned package has a line of its own in the report.
    wrong = [one for one in moved() if one.fix == RESTART or one.name not in pinned]
    if locks.torch_pin() and "torch" not in [one.name for one in wrong]:
        found.append(Probe("torch", True, facts["torch"]))
    return (*found, *wrong)


def need() -> None:
    """Refuse to go on with packages that another installation moved.

    An environment of somebody's own has the PyTorch that they chose: there it is only said that the course is proven
    with another one.

    Raises:
        CourseError: some were, or PyTorch is absent; it names them, and the way back.
    """
    wrong = moved()
    if not locks.on_colab() and not READY.is_file():
        for one in wrong:
            if installed(one.name) and one.fix != RESTART:
                print(f"{one.name} {one.detail}. If something fails, {one.fix}.")
        wrong = [one for one in wrong if one.fix == RESTART or not installed(one.name)]
    if not wrong:
        return
    absent = not locks.on_colab() and all(not installed(one.name) for one in wrong)
    todo = list(dict.fromkeys(one.fix[0].upper() + one.fix[1:] for one in wrong))
    raise CourseError(
        "Not the right version: " + ", ".join(f"{one.name} {one.detail}" for one in wrong) + ".",
        "It is not installed, or another installation took it away. The course runs on it."
        if absent
        else "Another installation moved it. Other packages hold code that was compiled for the right version.",
        f"{'. '.join(todo)}. To try the course with it as it is: %env COURSE_INSTALL=0, then this cell again.",
    )


def differing() -> list[str]:
    """Pinned packages, and torch, that are not installed in the pinned version. Only metadata is read."""
    wanted = {**locks.pins(), "torch": locks.torch_pin()}
    return [n for n, pin in wanted.items() if pin and not same(pin, installed(n))]
