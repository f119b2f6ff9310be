"""What machine is this, do its packages match the pins, and put it right. Needs only the standard library.

`python -m helpers.environment [--json] [--probe]` prints the report and exits with 1 when something is wrong.
"""

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass

from helpers import installation, locks, presets, probes
from helpers.errors import CourseError
from helpers.probes import Probe

# Loggers that warn, on a machine without a GPU, of GPU parts that are missing there.
QUIET = ("torchao", "bitsandbytes.backends.cpu.ops", "torch.utils._pytree")
# What Unsloth's banner says, in its two forms: several lines when a model is loaded onto a GPU
# (unsloth/models/llama.py), one line at import without a GPU (unsloth/_cpu_init.py).
BANNER = {
    "Unsloth": r"Unsloth (\d[\w.]*\w)",
    "Transformers": r"Transformers: (\d[\w.]*\w)",
    "GPU": r"(?:GPU: |/\|\s+|: )(\S[^:|]*?)(?:\. Num GPUs|\. Max memory| found)",
    "GPU memory": r"Max memory: ([\d.]+ GB)",
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
FRESH_MACHINE = "take a fresh machine (menu Runtime > Disconnect and delete runtime)"
# Long enough for a driver that has to wake up.
DRIVER_SECONDS = 30
NO_ANSWER = "present, but its driver does not answer"
DRIVER_MENU = (
    "In Colab: menu Runtime > Restart session; if it stays, Disconnect and delete runtime. "
    "Elsewhere: run nvidia-smi in a terminal and mend what it reports."
)
T4_MENU = "In Colab: menu Runtime > Change runtime type > T4 GPU, then run the cells from the top."


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
        return "" if self.ok else f"run environment.install() to get {self.package} {self.pinned}"


@dataclass(frozen=True)
class Report:
    """Result of `check`: the machine in words, one row a package, and what else was found.

    ``base`` judges what `install` leaves alone: Python, PyTorch outside Colab, a GPU that does not answer.
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


def gpu() -> dict[str, str]:
    """Name, memory, driver and compute capability of the first NVIDIA GPU; empty where there is none.

    Where the driver does not answer, only that.
    """
    query = ["name", "memory.total", "driver_version", "compute_cap"]
    command = ["nvidia-smi", f"--query-gpu={','.join(query)}", "--format=csv,noheader"]
    if not shutil.which("nvidia-smi"):
        return {}
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=DRIVER_SECONDS, check=False
        )
    except (subprocess.TimeoutExpired, OSError):
        return {"GPU": NO_ANSWER}
    values = answer.stdout.strip().splitlines()[:1]
    if answer.returncode or not values:
        return {}
    labels = ("GPU", "GPU memory", "driver", "compute capability")
    found = dict(zip(labels, (value.strip() for value in values[0].split(",")), strict=False))
    major = found.get("compute capability", "").partition(".")[0]
    if major.isdecimal():
        found["bfloat16"] = "yes" if int(major) >= 8 else "no"
    return found


def machine() -> dict[str, str]:
    """This machine in words: Python, processor, memory, disk, GPU, place."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    facts = {
        "Python": platform.python_version(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "free disk": f"{shutil.disk_usage(locks.KIT).free / 2**30:.0f} GiB",
        "place": "Google Colab" if locks.on_colab() else "not Colab",
    }
    facts |= gpu() or {"GPU": "none"}
    return facts | {name: version(name) or "absent" for name in locks.UNTOUCHED}


def package_rows() -> tuple[Row, ...]:
    """Every pinned package beside what is installed."""
    return tuple(Row(name, pin, version(name)) for name, pin in locks.pins().items())


def base(facts: dict[str, str]) -> tuple[Probe, ...]:
    """Whether what `install` leaves alone is as it should be."""
    python, pin, torch = facts["Python"], locks.torch_pin(), facts["torch"]
    ok = locks.python_ok(python)
    found = [Probe("Python", ok, python, "" if ok else locks.OTHER_PYTHON)]
    if facts["GPU"] == NO_ANSWER:
        found.append(Probe("GPU", False, NO_ANSWER, DRIVER_MENU))
    if pin:
        # What comes after + says for which processor or CUDA it was built.
        ok = torch.partition("+")[0] == pin
        fix = f"`make lab` sets up an environment with it; or: python -m pip install torch=={pin}"
        found.append(Probe("torch", ok, torch, "" if ok else fix))
    return tuple(found)


def check(probe: bool = False) -> Report:
    """Compare this machine with what the course was proven with; nothing is changed.

    Args:
        probe: where there is a GPU, let it compute a few known results too. Takes some seconds.
    """
    facts, rows = machine(), package_rows()
    judged, has_gpu = base(facts), facts["GPU"] not in ("none", NO_ANSWER)
    differing = {one.name for one in judged if not one.ok} | {r.package for r in rows if not r.ok}
    unmet, on_purpose = _requirements(rows, differing, has_gpu)
    image, found = "", ()
    if locks.on_colab():
        image = str(locks.nearest_image(platform.python_version(), version))
    if probe and has_gpu:
        found = tuple(probes.run())
    return Report(facts, rows, image, unmet, on_purpose, judged, found, which_model(facts))


def _requirements(
    rows: tuple[Row, ...], differing: set[str], has_gpu: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What pinned packages ask for and do not find; and apart, what they need not find, with the reason.

    A package that differs from its pin is not asked, nor asked for: its row says so already.
    """
    requires = {
        row.package: importlib.metadata.requires(row.package) or [] for row in rows if row.ok
    }
    if not requires:
        return (), ()
    if locks.requirement_class() is None:
        return (), ("requirements were not checked: the package `packaging` is absent",)
    reasons = locks.exceptions(version)
    if not has_gpu:
        absent = "it serves GPUs, and this machine has none"
        reasons |= {name: absent for name in GPU_ONLY if version(name) is None}
    unmet, on_purpose = [], []
    for one in locks.unmet(requires, version):
        if one.dependency in reasons:
            on_purpose.append(f"{one}. {reasons[one.dependency]}")
        elif one.dependency not in differing:
            unmet.append(f"{one}  ->  {_mend(one)}")
    return tuple(unmet), tuple(on_purpose)


def _mend(one: locks.Unmet) -> str:
    """How to meet a requirement."""
    if one.dependency not in locks.UNTOUCHED:
        return f"pip install --no-deps '{one.requirement}'"
    if locks.on_colab():
        return OTHER_IMAGE if one.found else FRESH_MACHINE
    # Named together, they come in versions that fit each other.
    return f"python -m pip install torch=={locks.torch_pin()} {one.dependency}"


def install() -> None:
    """Install what differs from the pins, and nothing else; then say which model this machine will use.

    Raises:
        CourseError: the course is not proven with this Python; an installation failed, or would replace what
            must not be replaced; or what was replaced is already loaded, and the session has to be restarted.
    """
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    # Unsloth reports each load to its makers unless told not to.
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    installation.ask_for_restart()
    declined = os.environ.get("COURSE_INSTALL") == "0"
    if not declined:
        locks.need_python(platform.python_version())
    wrong = [row.package for row in package_rows() if not row.ok]
    if wrong and declined:
        print(
            f"{len(wrong)} packages differ from the pins; COURSE_INSTALL=0 leaves them as they are."
        )
    elif wrong:
        installation.bring(wrong)
    print("Packages do not match the pins." if wrong and declined else "Packages match the pins.")
    print(which_model(gpu()))


def limit_to_t4() -> None:
    """Make a larger NVIDIA GPU behave like a T4 in PyTorch: its memory less a CUDA context, fp16, plain attention.

    `models.limit_to_t4` does this for Unsloth too. Speed stays the larger GPU's.
    """
    import torch

    total = torch.cuda.get_device_properties(0).total_memory / 2**30
    limit = presets.T4_MEMORY_GIB - presets.CUDA_CONTEXT_GIB
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))
    # A T4 has neither bf16 nor the kernels that need compute capability 8.
    torch.cuda.is_bf16_supported = lambda *args, **kwargs: False
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)


def read_banner(text: str) -> dict[str, str]:
    """The facts in what Unsloth prints, by name; a fact that this form of the banner lacks is left out."""
    found = {name: re.search(pattern, text) for name, pattern in BANNER.items()}
    return {name: match[1] for name, match in found.items() if match}


def which_model(facts: dict[str, str]) -> str:
    """One or two sentences: what the course runs on a machine with these facts, and how to get the other."""
    if os.environ.get("COURSE_MODEL"):
        return f"Model: {os.environ['COURSE_MODEL']}, from COURSE_MODEL."
    found = facts.get("GPU", "none")
    small = presets.MODELS[presets.EMBEDDED].name
    if found == NO_ANSWER:
        return f"A GPU is {NO_ANSWER}: until it does, use the small model {small}.\n{DRIVER_MENU}"
    if found != "none":
        return f"{found} found: the course uses {presets.MODELS['llama-2-7b'].name}."
    return (
        f"No GPU here: the course uses the small model {small}, same cells, same steps.\n{T4_MENU}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="machine-readable report")
    parser.add_argument("--probe", action="store_true", help="let a GPU compute known results too")
    arguments = parser.parse_args()
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
