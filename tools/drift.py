"""Does the lock still install and hold together on a Colab image? `python tools/drift.py IMAGE [--lock FILE]`.

IMAGE is a label of helpers/images.json, or the file of a `pip freeze` (with --python, unless a file named
os-info-… lies beside it). For every pin: is there a file for that Python, and is everything that it asks for
there, in the image or in the lock? Exits with 1 and a list of conflicts, each with what would mend it.
Nothing is installed; the metadata comes from the package index.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from images import UV, read_freeze, read_python

from helpers import locks

# Colab is Ubuntu 22.04, glibc 2.35: a wheel for any of these runs there.
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(35, 4, -1)]
PLATFORMS += [f"manylinux{year}_x86_64" for year in ("2014", "2010", "1")] + ["linux_x86_64"]


@dataclass
class Target:
    """A Colab image, and what stands there once the lock is installed on top."""

    name: str
    python: str
    image: dict[str, str]
    lock: dict[str, str] = field(default_factory=dict)

    @property
    def minor(self) -> str:
        return ".".join(self.python.split(".")[:2])

    def version(self, name: str) -> str | None:
        return self.lock.get(name, self.image.get(name))


@dataclass
class Conflict:
    """Something that does not fit, and what would mend it."""

    what: str
    mend: str

    def __str__(self) -> str:
        return f"[FIX] {self.what}\n      -> {self.mend}"


def read_image(image: str, python: str | None) -> Target:
    """The image by label or file."""
    known = locks.images()
    if image in known:
        return Target(f"Colab {image}", known[image]["python"], known[image]["packages"])
    path = Path(image)
    if not path.is_file():
        sys.exit(f"{image} is neither a file nor a known image. Known: {', '.join(known)}")
    beside = path.with_name(path.name.replace("pip-freeze", "os-info"))
    if python is None and (beside == path or not beside.is_file()):
        sys.exit(f"Which Python has {image}? Say so with --python, for example: --python 3.13")
    return Target(path.name, python or read_python(beside), read_freeze(path))


def report(pins: list[str], target: Target) -> list[dict] | str:
    """pip's report on what it would install of these pins, or what it says instead."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--no-deps"]
        command += ["--ignore-installed", "--target", folder, "--report", "-"]
        command += ["--disable-pip-version-check", "--only-binary", ":all:"]
        command += ["--python-version", target.minor]
        for platform in PLATFORMS:
            command += ["--platform", platform]
        done = subprocess.run([*command, *pins], capture_output=True, text=True, check=False)
    if done.returncode:
        return done.stderr
    return [entry["metadata"] for entry in json.loads(done.stdout)["install"]]


def read_metadata(target: Target) -> tuple[dict[str, dict], list[str]]:
    """Metadata of every pin that has a file for the image's Python, and the pins that have none."""
    pins = [f"{name}=={version}" for name, version in target.lock.items()]
    found = report(pins, target)
    without = []
    if isinstance(found, str):
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda pin: report([pin], target), pins))
        without = [
            pin for pin, answer in zip(pins, answers, strict=True) if isinstance(answer, str)
        ]
        found = [answer[0] for answer in answers if not isinstance(answer, str)]
        if not found:
            sys.exit(f"No package could be read from the index:\n{answers[0]}")
    return {locks.canonical(one["name"]): one for one in found}, without


def resolve(wanted: list[str], target: Target, *options: str) -> dict[str, str]:
    """What uv takes for these requirements on the image's Python; empty where nothing fits."""
    # Our own Python is named only so that uv need not look for the image's on this machine.
    command = [UV, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "-"]
    command += ["--python", sys.executable]
    command += ["--python-version", target.minor, "--python-platform", "x86_64-manylinux_2_35"]
    command += ["--only-binary", ":all:", *options]
    done = subprocess.run(
        command, input="\n".join(wanted), capture_output=True, text=True, check=False
    )
    return locks.versions(done.stdout) if done.returncode == 0 else {}


def mend_unmet(asking: list[locks.Unmet], target: Target) -> str:
    """What would satisfy everybody who asks for one package: its pin, or theirs if it must not be replaced."""
    name = asking[0].dependency
    if name in locks.UNTOUCHED:
        return "; ".join(mend_asking(one.package, name, target) for one in asking)
    everybody = sorted({one.requirement for one in asking})
    fitting = resolve(everybody, target, "--no-deps")
    if name not in fitting:
        return f"no release of {name} satisfies {' and '.join(everybody)}"
    return f"pin {name}=={fitting[name]}"


def mend_asking(package: str, name: str, target: Target) -> str:
    """The newest release of a package that takes the image's PyTorch, Triton or NumPy."""
    public = (target.version(name) or "").split("+")[0]
    overrides = ["--override", str(ROOT / "requirements-overrides.txt")]
    fitting = resolve([package, f"{name}=={public}"], target, *overrides)
    if package not in fitting:
        return f"no release of {package} takes {name} {public}: stay on an older image"
    return f"pin {package}=={fitting[package]}, which takes {name} {public}"


def mend_missing(pin: str, target: Target) -> str:
    """The newest release of a package that has a file for the image's Python."""
    name = pin.split("==")[0]
    fitting = resolve([name], target, "--no-deps")
    if name not in fitting:
        return f"no release of {name} has a file for Python {target.minor}"
    return f"pin {name}=={fitting[name]}, the newest with a file for Python {target.minor}"


def conflicts(target: Target) -> tuple[list[Conflict], list[locks.Unmet]]:
    """What does not fit; and what is left unmet on purpose."""
    metadata, without = read_metadata(target)
    requires = {name: one.get("requires_dist", []) for name, one in metadata.items()}
    asking: dict[str, list[locks.Unmet]] = {}
    for one in locks.unmet(requires, target.version, target.python):
        asking.setdefault(one.dependency, []).append(one)
    reasons = locks.exceptions()
    serious = [group for name, group in asking.items() if name not in reasons]
    with ThreadPoolExecutor(4) as pool:
        newer = pool.map(lambda pin: mend_missing(pin, target), without)
        mends = pool.map(lambda group: mend_unmet(group, target), serious)
        found = [
            Conflict(f"{pin}: no file for Python {target.minor} on Linux x86_64", mend)
            for pin, mend in zip(without, newer, strict=True)
        ]
        found += [
            Conflict("\n      ".join(map(str, group)), mend)
            for group, mend in zip(serious, mends, strict=True)
        ]
    return found, [one for name, group in asking.items() if name in reasons for one in group]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("image", help="a known label, or the file of a pip freeze")
    parser.add_argument("--lock", type=Path, default=ROOT / "requirements-colab.txt")
    parser.add_argument("--python", help="the image's Python, such as 3.13")
    asked = parser.parse_args()
    target = read_image(asked.image, asked.python)
    target.lock = locks.pins(asked.lock)
    torch = target.image.get("torch", "absent")
    print(
        f"{asked.lock.name}, {len(target.lock)} pins, on {target.name}: Python {target.python}, torch {torch}"
    )
    for name, version in locks.proven(asked.lock).items():
        if target.image.get(name) != version:
            print(
                f"Note: proven with {name} {version}, the image has {target.image.get(name, 'none')}."
            )
    if target.minor not in locks.PYTHONS:
        print(f"Note: proven with Python {', '.join(locks.PYTHONS)}.")
    found, on_purpose = conflicts(target)
    for one in on_purpose:
        print(f"[OK]  left unmet on purpose: {one}. {locks.exceptions()[one.dependency]}")
    for conflict in found:
        print(conflict)
    if found:
        sys.exit(f"{len(found)} conflicts: this lock does not hold on {target.name}.")
    print("[OK]  Every pin has a file for this Python, and every requirement is met.")


if __name__ == "__main__":
    main()
