"""What machine is this, do its packages match the pins, and put it right. Needs only the standard library.

`python -m helpers.setup.environment [--json] [--probe]` prints the report and exits with 1 when something is wrong;
with `--versions` it only compares versions, in a tenth of a second.
"""

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import re
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from helpers import machine, presets, settings
from helpers.errors import CourseError
from helpers.setup import hints, installation, locks, network, probes, untouched
from helpers.setup.probes import Probe

# When the set-up began, for the minutes that a report line gives.
STARTED = time.monotonic()

# Loggers that warn, on a machine without a GPU, of GPU parts that are missing there.
QUIET = ("torchao", "bitsandbytes.backends.cpu.ops", "torch.utils._pytree")
# What Unsloth's banner says, in its two forms: several lines when a model is loaded onto a GPU
# (unsloth/models/llama.py), one line at import without a GPU (unsloth/_cpu_init.py).
BANNER = {
    "Unsloth": r"Unsloth (\d[\w.]*\w)",
    "Transformers": r"Transformers: (\d[\w.]*\w)",
    "GPU": r"(?:GPU: |/\|\s+|: )(\S[^:|]*?)(?:\. Num GPUs|\. Max memory| found)",
    "GPU memory": r"Max memory: ([\d.]+ GB)",
    "Platform": r"Platform: (\w+)",
    "CPU threads": r"(\d+) threads",
    "Torch": r"Torch: (\S+)\. ",
    "CUDA capability": r"CUDA: (\d+\.\d+)",
    "CUDA Toolkit": r"CUDA Toolkit: (\d+\.\d+|None)",
    "Triton": r"Triton: (\d[\w.+]*|None)",
    "bfloat16": r"[Bb]float16 = (\w+)",
    "Xformers": r"Xformers = ([\w.+]*\w)",
    "FlashAttention 2": r"FA2 = (\w+)",
}
# Asked for by packages that run without them where there is no GPU.
GPU_ONLY = ("torchvision", "torchaudio", "triton")
OTHER_IMAGE = f"it must not be replaced; {locks.OTHER_RUNTIME}"


@dataclass(frozen=True)
class Row:
    """One package: the pinned version, the one found (None if absent), and how to mend a difference."""

    package: str
    pinned: str
    found: str | None

    @property
    def ok(self) -> bool:
        return self.found == self.pinned

    @property
    def fix(self) -> str:
        if self.ok:
            return ""
        if self.found and self.package in locks.UNTOUCHED:
            return untouched.mend()
        return f"run environment.install() to get {self.package} {self.pinned}"


@dataclass(frozen=True)
class Report:
    """Result of `check`: the machine in words, one row a package, and what else was found.

    ``base`` judges what `install` leaves alone: Python, the GPU, PyTorch and its kind, NumPy.
    ``image`` says which Colab image this is (empty elsewhere), ``unmet`` lists declared requirements that are
    not met, ``on_purpose`` those that need not be, with the reason, ``probes`` what the GPU computed.
    """

    machine: dict[str, str]
    rows: tuple[Row, ...]
    image: str = ""
    unmet: tuple[str, ...] = ()
    on_purpose: tuple[str, ...] = ()
    base: tuple[Probe, ...] = ()
    probes: tuple[Probe, ...] = ()
    model: str = ""

    @property
    def ok(self) -> bool:
        return all(one.ok for one in (*self.base, *self.rows, *self.probes)) and not self.unmet

    def __str__(self) -> str:
        judged = [one.name for one in self.base]
        lines = [f"{n:<20} {value}" for n, value in self.machine.items() if n not in judged]
        lines += [f"{'image':<20} {self.image}"] if self.image else []
        lines += map(str, self.base)
        lines += [str(Probe(r.package, r.ok, r.found or "absent", r.fix)) for r in self.rows]
        lines += [f"[FIX] {text}" for text in self.unmet]
        lines += [f"[OK]  left unmet on purpose: {text}" for text in self.on_purpose]
        return "\n".join([*lines, *map(str, self.probes), *self.model.splitlines()])


def version(package: str) -> str | None:
    """Installed version of a package, or ``None``."""
    return installation.installed_version(package)


def package_rows() -> tuple[Row, ...]:
    """Every pinned package beside what is installed."""
    return tuple(Row(name, pin, version(name)) for name, pin in locks.pins().items())


def check(probe: bool = False) -> Report:
    """Compare this machine with what the course was proven with; nothing is changed.

    Args:
        probe: where there is a GPU, let it compute a few known results too. Takes some seconds.
    """
    facts, rows = machine.facts(), package_rows()
    judged = untouched.judge(facts)
    differing = {one.name for one in judged if not one.ok} | {r.package for r in rows if not r.ok}
    unmet, on_purpose = _requirements(rows, differing)
    image, found = "", ()
    if locks.on_colab():
        image = str(locks.nearest_image(platform.python_version(), version))
    if probe and (machine.torch_sees_gpu() or facts["GPU"] not in ("none", machine.NO_ANSWER)):
        found = tuple(probes.run())
    return Report(facts, rows, image, unmet, on_purpose, judged, found, machine.which_model(facts))


def _requirements(
    rows: tuple[Row, ...], differing: set[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What packages ask for and do not find; and apart, what they need not find, with the reason.

    Asked are the pinned packages, and those that are never replaced, about each other. A package that differs from
    its pin is not asked, nor asked for: its row says so already.
    """
    requires = {row.package: _requires(row.package) for row in rows if row.ok}
    if not requires:
        return (), ()
    if locks.requirement_class() is None:
        return (), ("requirements were not checked: the package `packaging` is absent",)
    kind = [n for n in locks.UNTOUCHED if n not in differing and untouched.installed(n)]
    reasons = locks.exceptions(version)
    if not machine.torch_sees_gpu():
        absent = "it serves GPUs, and PyTorch sees none here"
        reasons |= {name: absent for name in GPU_ONLY if version(name) is None}
    asked = locks.unmet(requires, version)
    among = locks.unmet({name: _requires(name) for name in kind if name not in requires}, version)
    asked += [one for one in among if one.dependency in locks.UNTOUCHED and one.found]
    unmet, on_purpose = [], []
    for one in asked:
        if one.dependency in reasons:
            on_purpose.append(f"{one}. {reasons[one.dependency]}")
        elif one.dependency not in differing:
            unmet.append(f"{one}  ->  {_mend(one)}")
    return tuple(unmet), tuple(on_purpose)


def _requires(package: str) -> list[str]:
    return importlib.metadata.requires(package) or []


def _mend(one: locks.Unmet) -> str:
    """How to meet a requirement."""
    if one.dependency not in locks.UNTOUCHED:
        return f"pip install --no-deps '{one.requirement}'"
    if locks.on_colab():
        of_its_kind = one.package in locks.UNTOUCHED or not one.found
        return machine.FRESH_MACHINE if of_its_kind else OTHER_IMAGE
    # Named together, they come in versions that fit each other.
    names = {"torch", one.dependency, one.package} & set(locks.UNTOUCHED)
    wanted = [f"torch=={locks.torch_pin()}", *sorted(names - {"torch"})]
    return f"python -m pip install {' '.join(wanted)}"


def _need_these_helpers() -> None:
    """CourseError where the first cell has found another copy of the course since these helpers were loaded."""
    kit = Path(__file__).resolve().parents[2]
    found = (Path(place) for place in sys.path if (Path(place) / "helpers/presets.py").is_file())
    now = next(found, kit).resolve()
    if now != kit:
        raise CourseError(
            f"This session works with the course in {kit}, and the first cell has now found {now}.",
            "Python keeps what it has loaded.",
            "Restart the session (menu Runtime > Restart session), then run the cells from the top.",
        )


def install() -> None:
    """Install what differs from the pins, and nothing else; then say which model this machine will use.

    Raises:
        CourseError: the course is not proven with this Python; ``COURSE_SIZE`` is misspelt; a proxy or mirror setting
            cannot work; another installation moved what must not be replaced; an installation failed, or would
            replace such a package; or what was replaced is already loaded, and the session has to be restarted.
    """
    presets.size()  # a wrong one is told of now, not in the middle of a notebook
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    # Unsloth reports each load to its makers unless told not to.
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    _need_these_helpers()
    installation.ask_for_restart()
    declined = settings.text("COURSE_INSTALL").lower() in ("0", "no", "false", "off")
    if not declined:
        locks.need_python(platform.python_version())
        untouched.need()
    wrong = [row.package for row in package_rows() if not row.ok]
    if wrong and not declined:
        network.check()
        installation.bring(wrong)
    if wrong and declined:
        print(
            f"{len(wrong)} packages differ from the pins; COURSE_INSTALL=0 leaves them as they are."
        )
    print("Packages do not match the pins." if wrong and declined else "Packages match the pins.")
    _say_which_model()
    hints.explain_missing_names()


def _say_which_model() -> None:
    """Print which model this machine will use, and what stands in the way of its download.

    Raises:
        CourseError: the model has to be downloaded, and a setting keeps it from that.
    """
    print(machine.which_model(machine.gpu()))
    name = machine.default_name()
    hub_id = presets.MODELS[name].hub_id if name in presets.MODELS else name
    here = name == presets.EMBEDDED or os.path.isdir(name) or network.is_cached(hub_id)
    if not here:
        network.check()
        # A fresh machine has no model: there the setting can only be a mistake.
        if locks.on_colab() and (forbidden := network.offline()):
            raise CourseError(*forbidden)
    for one in network.problems():
        print(f"Before you download anything: {one.what} {one.todo}")


def read_banner(text: str) -> dict[str, str]:
    """The facts in what Unsloth prints, by name; a fact that this form of the banner lacks is left out."""
    found = {name: re.search(pattern, text) for name, pattern in BANNER.items()}
    return {name: match[1] for name, match in found.items() if match}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="machine-readable report")
    parser.add_argument("--probe", action="store_true", help="let a GPU compute known results too")
    parser.add_argument("--versions", action="store_true", help="only compare versions, quickly")
    arguments = parser.parse_args()
    if arguments.versions:
        wrong = untouched.differing()
        print("differ from the pins:" if wrong else "versions match", *wrong)
        return 1 if wrong else 0
    try:
        report = check(arguments.probe)
    except CourseError as error:
        if arguments.json:
            print(json.dumps({"ok": False, "error": str(error)}, indent=1))
        else:
            print(error, file=sys.stderr)
        return 1
    if arguments.json:
        rows = [asdict(row) | {"ok": row.ok, "fix": row.fix} for row in report.rows]
        content = {"ok": report.ok, "machine": report.machine, "image": report.image}
        content |= {"packages": rows, "unmet": report.unmet, "on_purpose": report.on_purpose}
        content["base"] = [one._asdict() for one in report.base]
        content["probes"] = [probe._asdict() for probe in report.probes]
        print(json.dumps(content | {"model": report.model}, indent=1))
    else:
        print(report)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
