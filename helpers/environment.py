"""What machine is this, do its packages match the pins, and put it right. Needs only the standard library.

`python -m helpers.environment [--json]` prints the report and exits with 1 when something is wrong.
"""

import argparse
import importlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from helpers import presets
from helpers.errors import CourseError

KIT = Path(__file__).resolve().parent.parent
# Never replaced: compiled neighbours are built for them, and numpy is loaded before any cell runs.
UNTOUCHED = ("torch", "torchvision", "triton", "numpy")
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
    """Result of `check`: the machine in words, and one row a package."""

    machine: dict[str, str]
    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        return all(row.ok for row in self.rows)

    def __str__(self) -> str:
        lines = [f"{name:<20} {value}" for name, value in self.machine.items()]
        for row in self.rows:
            mark = "[OK] " if row.ok else "[FIX]"
            found = row.found or "absent"
            lines.append(
                f"{mark} {row.package:<20} {found}" + (f"  ->  {row.fix}" if row.fix else "")
            )
        return "\n".join(lines)


def on_colab() -> bool:
    """Whether this is a Colab machine."""
    return "COLAB_RELEASE_TAG" in os.environ


def lock_file() -> Path:
    """The list of pinned packages for this machine: Colab's, or the one for a machine of your own."""
    return KIT / ("requirements-colab.txt" if on_colab() else "requirements-local.txt")


def pins(lock: Path | None = None) -> dict[str, str]:
    """``{package: version}`` of a lock file."""
    text = (lock or lock_file()).read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, flags=re.MULTILINE))


def version(package: str) -> str | None:
    """Installed version of a package, or ``None``."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def gpu() -> dict[str, str]:
    """Name, memory, driver and compute capability of the first NVIDIA GPU; empty where there is none."""
    query = ["name", "memory.total", "driver_version", "compute_cap"]
    command = ["nvidia-smi", f"--query-gpu={','.join(query)}", "--format=csv,noheader"]
    if not shutil.which("nvidia-smi"):
        return {}
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        return {"GPU": "present, but its driver does not answer"}
    values = answer.stdout.strip().splitlines()[:1]
    if answer.returncode or not values:
        return {}
    labels = ("GPU", "GPU memory", "driver", "compute capability")
    return dict(zip(labels, (value.strip() for value in values[0].split(",")), strict=False))


def machine() -> dict[str, str]:
    """This machine in words: Python, processor, memory, disk, GPU, place."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    facts = {
        "Python": platform.python_version(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "free disk": f"{shutil.disk_usage(KIT).free / 2**30:.0f} GiB",
        "place": "Google Colab" if on_colab() else "not Colab",
    }
    facts |= gpu() or {"GPU": "none"}
    return facts | {name: version(name) or "absent" for name in UNTOUCHED}


def check() -> Report:
    """Compare every pinned package with what is installed; nothing is changed."""
    return Report(machine(), tuple(Row(name, pin, version(name)) for name, pin in pins().items()))


def install() -> None:
    """Install what differs from the pins, and nothing else; then say which model this machine will use.

    Raises:
        CourseError: an installation failed, or it moved one of the packages that must not move, or a
            package that was replaced is already loaded and the runtime has to be restarted.
    """
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    # Unsloth reports each load to its makers unless told not to.
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    wrong = [row for row in check().rows if not row.ok]
    if wrong and os.environ.get("COURSE_INSTALL") == "0":
        print(
            f"{len(wrong)} packages differ from the pins; COURSE_INSTALL=0 leaves them as they are."
        )
    elif wrong:
        _install([row.package for row in wrong])
    print("Packages match the pins." if check().ok else "Packages do not match the pins.")
    print(which_model())


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


def which_model() -> str:
    """One or two sentences: what the course runs on this machine, and how to get the other."""
    if os.environ.get("COURSE_MODEL"):
        return f"Model: {os.environ['COURSE_MODEL']}, from COURSE_MODEL."
    found = gpu()
    if found:
        return f"{found['GPU']} found: the course uses {presets.MODELS['llama-2-7b'].name}."
    small = presets.MODELS[presets.EMBEDDED].name
    return (
        f"No GPU here: the course uses the small model {small}, same cells, same steps.\n{T4_MENU}"
    )


def _install(packages: list[str]) -> None:
    before = {name: version(name) for name in UNTOUCHED}
    loaded = [name for name in packages if name.replace("-", "_") in sys.modules]
    wanted = re.split(
        r"^(?=[A-Za-z0-9])", lock_file().read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    chosen = [block for block in wanted if block.split("==")[0] in packages]
    print(f"Installing {len(packages)} packages: {', '.join(packages)} …")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as subset:
        subset.write("".join(chosen))
        subset.flush()
        options = ["--no-deps", "--require-hashes", "-r", subset.name]
        if shutil.which("uv"):
            command = ["uv", "pip", "install", "--quiet", "--python", sys.executable, *options]
            command += [] if sys.prefix != sys.base_prefix else ["--system"]
        else:
            command = [sys.executable, "-m", "pip", "install", "--quiet", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise CourseError(
            f"The packages could not be installed: {reason}",
            "There may be no network, or too little disk space.",
            "Run this cell again; what is already installed stays.",
        )
    importlib.invalidate_caches()
    moved = [name for name in UNTOUCHED if before[name] not in (None, version(name))]
    if moved:
        raise CourseError(
            f"The installation changed {', '.join(moved)}.",
            "Other packages on this machine are built for the earlier version.",
            "Delete the runtime (menu Runtime > Disconnect and delete runtime), and report this.",
        )
    if loaded:
        raise CourseError(
            f"{', '.join(loaded)} had been loaded before it was replaced.",
            "Python keeps the old version in memory.",
            "Restart the session (menu Runtime > Restart session), then run the cells from the top.",
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="machine-readable report")
    arguments = parser.parse_args()
    report = check()
    if arguments.json:
        rows = [asdict(row) | {"ok": row.ok, "fix": row.fix} for row in report.rows]
        print(json.dumps({"ok": report.ok, "machine": report.machine, "packages": rows}, indent=1))
    else:
        print(report)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
