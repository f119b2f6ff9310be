"""Does the lock still install and hold together on a Colab image? `python tools/drift.py IMAGE [--lock FILE]`.

IMAGE is a label of helpers/setup/colab_images.json, or the file of a `pip freeze` (with --python, unless a file
named os-info-… lies beside it). For every pin: is there a file for that Python, with a hash that the lock knows,
and is everything that it asks for there, in the image or in the lock? Exits with 1 and a list of conflicts, each
with what would mend it; with 2 if the package index could not be asked. Nothing is installed.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from images import UV, read_freeze, read_python

from helpers.errors import CourseError
from helpers.setup import locks

# Colab is Ubuntu 22.04, glibc 2.35: a wheel for any of these runs there.
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(35, 4, -1)]
PLATFORMS += [f"manylinux{year}_x86_64" for year in ("2014", "2010", "1")] + ["linux_x86_64"]


class Unasked(Exception):
    """The package index could not be asked: what uv or pip says."""


@dataclass
class Target:
    """A Colab image, and what stands there once the lock is installed on top."""

    name: str
    python: str
    image: dict[str, str]
    lock: dict[str, str] = field(default_factory=dict)
    hashes: dict[str, set[str]] = field(default_factory=dict)

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
    if python and not re.fullmatch(r"\d+\.\d+(\.\d+)?", python):
        sys.exit(f"{python} is not a version of Python. Write it as 3.13 or 3.13.5.")
    if image in known:
        if python:
            sys.exit(
                f"Colab {image} has Python {known[image]['python']}: --python goes with a file only."
            )
        return Target(f"Colab {image}", known[image]["python"], known[image]["packages"])
    path = Path(image)
    if not path.is_file():
        sys.exit(f"{image} is neither a file nor a known image. Known: {', '.join(known)}")
    # Google's own names are pip-freeze.gpu.txt and os-info-gpu.txt.
    name = path.name.replace("pip-freeze", "os-info")
    places = [path.with_name(name), path.with_name(name.replace(".gpu", "-gpu"))]
    beside = next((place for place in places if place != path and place.is_file()), None)
    if python is None and beside is None:
        sys.exit(
            f"Which Python has {image}? Say so with --python 3.13, or with make: IMAGE_PYTHON=3.13"
        )
    return Target(path.name, python or read_python(beside), read_freeze(path))


def blocks(text: str) -> dict[str, str]:
    """A lock's text by package: its ``name==version`` line and the hash lines below."""
    parts = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)
    return {next(iter(locks.versions(part))): part for part in parts if locks.versions(part)}


def hashes(text: str) -> dict[str, set[str]]:
    """The SHA-256 hashes that a lock's text has for each package."""
    found = {n: set(re.findall(r"sha256:([0-9a-f]{64})", part)) for n, part in blocks(text).items()}
    return {name: ours for name, ours in found.items() if ours}


def report(pins: list[str], target: Target) -> list[dict]:
    """pip's report on the files that it would install for these pins, all of which the index has."""
    if not pins:
        return []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--no-deps"]
        command += ["--ignore-installed", "--target", folder, "--report", "-"]
        command += ["--disable-pip-version-check", "--only-binary", ":all:"]
        # uv has judged Requires-Python by the image's Python; pip would by the one that runs it.
        command += ["--python-version", target.minor, "--ignore-requires-python"]
        for platform in PLATFORMS:
            command += ["--platform", platform]
        done = subprocess.run([*command, *pins], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unasked(done.stderr)
    return json.loads(done.stdout)["install"]


def read_files(target: Target) -> tuple[dict[str, dict], list[str]]:
    """pip's report on every pin that has a file for the image's Python, and the pins that have none."""
    pins = [f"{name}=={version}" for name, version in target.lock.items()]
    without = []
    # uv says which are missing: pip says "no matching distribution" for a lost connection too.
    if not resolve(pins, target, "--no-deps"):
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda pin: resolve([pin], target, "--no-deps"), pins))
        without = [pin for pin, answer in zip(pins, answers, strict=True) if not answer]
    found = report([pin for pin in pins if pin not in without], target)
    return {locks.canonical(one["metadata"]["name"]): one for one in found}, without


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
    if "Couldn't parse requirement" in done.stderr:
        sys.exit(f"This is no pin: {done.stderr}")
    # 1: nothing fits. But uv ends with 1 also where an index refused it or the network is switched off.
    refused = re.search(r"^hint: (An index|Packages were unavailable)", done.stderr, re.MULTILINE)
    if done.returncode not in (0, 1) or refused:
        raise Unasked(done.stderr)
    return locks.versions(done.stdout)


def mend_unmet(asking: list[locks.Unmet], everybody: list[str], target: Target) -> str:
    """What would satisfy everybody who asks for one package: its pin, or theirs if it must not be replaced."""
    name = asking[0].dependency
    if name in locks.UNTOUCHED:
        packages = dict.fromkeys(one.package for one in asking)
        return "\n      -> ".join(mend_asking(package, name, target) for package in packages)
    fitting = resolve(everybody, target, "--no-deps")
    if name not in fitting:
        return f"no release of {name} satisfies {' and '.join(everybody)}"
    return f"pin {name}=={fitting[name]}"


def mend_asking(package: str, name: str, target: Target) -> str:
    """The newest release of a package that takes the image's PyTorch, Triton or NumPy."""
    # Alone: the index need not have the image's version of what the package asks for.
    fitting = resolve([package], target, "--no-deps")
    if package not in fitting:
        return f"no release of {package} has a file for Python {target.minor}"
    newest, here = fitting[package], target.version(name)
    (file,) = report([f"{package}=={newest}"], target)
    requires = {package: file["metadata"].get("requires_dist", [])}
    unmet = locks.unmet(requires, target.version, target.python)
    asked = [one.requirement for one in unmet if one.dependency == name]
    if not asked:
        takes = f"takes {name} {here}" if here else f"does without {name}"
        return f"pin {package}=={newest}, which {takes}"
    if here:
        public = here.split("+")[0]
        overrides = ["--override", str(ROOT / "requirements" / "requirements-overrides.txt")]
        fitting = resolve([package, f"{name}=={public}"], target, *overrides)
        if package in fitting:
            return f"pin {package}=={fitting[package]}, which takes {name} {public}"
    needs = " and ".join(asked)
    return f"{package} {newest}, its newest, asks for {needs} too: stay on an image that has it"


def mend_missing(pin: str, everybody: list[str], target: Target) -> str:
    """The newest release of a package that has a file for the image's Python and suits all who ask for it."""
    name = pin.split("==")[0]
    fitting = resolve([name, *everybody], target, "--no-deps")
    if name not in fitting:
        suits = f" and satisfies {' and '.join(everybody)}" if everybody else ""
        return f"no release of {name} has a file for Python {target.minor}{suits}"
    return f"pin {name}=={fitting[name]}, the newest with a file for Python {target.minor}"


def conflicts(target: Target) -> tuple[list[Conflict], list[locks.Unmet]]:
    """What does not fit; and what is left unmet on purpose."""
    replaced = {
        n: v for n, v in target.lock.items() if n in locks.UNTOUCHED and v != target.image.get(n)
    }
    found = [
        Conflict(
            f"{name}=={version}: the image has {target.image.get(name, 'none')}, "
            "which must not be replaced",
            "remove the pin",
        )
        for name, version in replaced.items()
    ]
    # Judge the rest by what the image has; the index does not hold Colab's own builds.
    target.lock = {n: v for n, v in target.lock.items() if n not in locks.UNTOUCHED}
    files, without = read_files(target)
    for name, file in files.items():
        theirs = file["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        if theirs and name in target.hashes and theirs not in target.hashes[name]:
            address = file["download_info"]["url"].rsplit("/", 1)[-1]
            found.append(Conflict(f"{address}: the lock does not have its hash", "run `make pins`"))
    # A bare list of pins has none at all.
    unhashed = [name for name in files if target.hashes and name not in target.hashes]
    found += [
        Conflict(f"{name}=={target.lock[name]}: the lock has no hash of it", "run `make pins`")
        for name in unhashed
    ]
    requires = {name: one["metadata"].get("requires_dist", []) for name, one in files.items()}
    asking: dict[str, list[locks.Unmet]] = {}
    for one in locks.unmet(requires, target.version, target.python):
        asking.setdefault(one.dependency, []).append(one)
    # With nothing installed everything is unmet: so this is all that the pins ask for, met or not.
    everything: dict[str, set[str]] = {}
    for one in locks.unmet(requires, lambda _: None, target.python):
        everything.setdefault(one.dependency, set()).add(one.requirement)
    reasons = locks.exceptions(target.version)
    absent = {pin.split("==")[0] for pin in without}
    serious = {n: g for n, g in asking.items() if n not in reasons and n not in absent}

    def mend(name: str) -> str:
        return mend_unmet(serious[name], sorted(everything[name]), target)

    with ThreadPoolExecutor(4) as pool:
        newer = pool.map(
            lambda pin: mend_missing(pin, sorted(everything.get(pin.split("==")[0], ())), target),
            without,
        )
        mends = pool.map(mend, serious)
        found += [
            Conflict(f"{pin}: no file for Python {target.minor} on Linux x86_64", one)
            for pin, one in zip(without, newer, strict=True)
        ]
        found += [
            Conflict("\n      ".join(map(str, group)), one)
            for group, one in zip(serious.values(), mends, strict=True)
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
    target.hashes = hashes(asked.lock.read_text(encoding="utf-8-sig"))
    torch = target.image.get("torch", "absent")
    print(
        f"{asked.lock.name}, {len(target.lock)} pins, on {target.name}: Python {target.python}, torch {torch}"
    )
    for name, version in locks.proven(asked.lock).items():
        if target.image.get(name) != version:
            print(
                f"Note: proven with {name} {version}, the image has {target.image.get(name, 'none')}."
            )
    try:
        found, on_purpose = conflicts(target)
    except Unasked as error:
        print(f"The index could not be asked:\n{error}", file=sys.stderr)
        sys.exit(2)
    if target.minor not in locks.PYTHONS:
        what = f"Python {target.minor}: the course is proven with {', '.join(locks.PYTHONS)} and refuses others"
        mend = "mend the rest, run `make pins` and `make replica`, then add it to PYTHONS in helpers/setup/locks.py"
        found.insert(0, Conflict(what, mend))
    for one in on_purpose:
        print(
            f"[OK]  left unmet on purpose: {one}. {locks.exceptions(target.version)[one.dependency]}"
        )
    for conflict in found:
        print(conflict)
    if found:
        print("Each is mended by itself. Then run this again: another pin may ask for more.")
        sys.exit(f"{len(found)} conflicts: this lock does not hold on {target.name}.")
    print("[OK]  Every pin has a file for this Python, and every requirement is met.")


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        sys.exit(str(error))
