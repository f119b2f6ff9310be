"""What this machine has, and which model it gets. Needs only the standard library; PyTorch is asked if it is here."""

import glob
import os
import platform
import re
import shutil
import subprocess
import warnings
from functools import cache
from typing import NamedTuple

from helpers import memory, presets, settings, workspace
from helpers.setup import installation, locks

# Where Linux shows NVIDIA's GPUs, whether or not the driver's tool works.
DEVICES = "/dev/nvidia[0-9]*"
# Long enough for a driver that has to wake up.
DRIVER_SECONDS = 30
NO_ANSWER = "present, but its driver does not answer"
# Unsloth's and Triton's kernels are not made for older ones (unsloth/kernels/utils.py, _nf4_kernels_supported).
LEAST_CAPABILITY = (7, 0)
AMD = "An AMD GPU is here, and the course was never tried on one"
DRIVER_MENU = (
    "In Colab: menu Runtime > Restart session; if it stays, Disconnect and delete runtime. "
    "Elsewhere: run nvidia-smi in a terminal and mend what it reports."
)
T4_MENU = "In Colab: menu Runtime > Change runtime type > T4 GPU, then run the cells from the top."
FRESH_MACHINE = "take a fresh machine (menu Runtime > Disconnect and delete runtime)"
CUDA_BUILD = (
    f"On Colab {FRESH_MACHINE}. On your own machine delete the folder .venv, then run `make TORCH_INDEX= lab`: "
    "PyPI's build for Linux has CUDA."
)


class Card(NamedTuple):
    """A GPU in its driver's words; None where the driver does not say."""

    name: str
    memory: str | None = None  # such as "15360 MiB"
    driver: str | None = None
    capability: str | None = None  # such as "7.5"
    used: str | None = None  # memory that is in use, by whatever process
    index: str | None = None

    @property
    def too_old(self) -> bool:
        """Whether Unsloth's kernels cannot run on it at all."""
        known = re.fullmatch(r"(\d+)\.(\d+)", self.capability or "")
        return bool(known) and tuple(map(int, known.groups())) < LEAST_CAPABILITY


def _gib(text: str | None) -> float | None:
    """The driver's word for an amount of memory as a number."""
    number = re.fullmatch(r"(\d+) MiB", text or "")
    return int(number[1]) / 1024 if number else None


def cards() -> list[Card] | None:
    """The NVIDIA GPUs that the driver names; None where it does not answer."""
    if not shutil.which("nvidia-smi"):
        return []
    # An old driver does not know every field, and then answers nothing.
    for query in (
        "name,memory.total,driver_version,compute_cap,memory.used,index",
        "name,memory.total,driver_version",
    ):
        command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
        try:
            answer = subprocess.run(
                command, capture_output=True, text=True, timeout=DRIVER_SECONDS, check=False
            )
        except (subprocess.TimeoutExpired, OSError):
            return None
        if answer.returncode == 0:
            lines = [line.split(",") for line in answer.stdout.strip().splitlines()]
            # "No devices were found" is no GPU.
            found = [Card(*[part.strip() for part in line][:6]) for line in lines if len(line) > 2]
            return [one._replace(index=one.index or str(n)) for n, one in enumerate(found)]
    return None if glob.glob(DEVICES) else []


def gpu() -> dict[str, str]:
    """Name, memory, driver and compute capability of the NVIDIA GPU that is taken; empty where there is none.

    Where the driver does not answer, only that.
    """
    found = cards()
    if found is None:
        return {"GPU": NO_ANSWER}
    if not found:
        return {}
    labels = ("GPU", "GPU memory", "driver", "compute capability")
    said = {
        name: value
        for name, value in zip(labels, take_one().card or found[0], strict=False)
        if value
    }
    major = said.get("compute capability", "").partition(".")[0]
    if major.isdecimal():
        said["bfloat16"] = "yes" if int(major) >= 8 else "no"
    return said


class Taken(NamedTuple):
    """The GPU that this session takes, if any; why Llama-2-7B does not run on it, and how many there are."""

    card: Card | None
    unfit: str | None
    count: int


def unfit(card: Card) -> str | None:
    """Why Llama-2-7B cannot be trained on a GPU, in words that follow its name; None where it can."""
    needed = memory.estimate("llama-2-7b", r=16, per_device_train_batch_size=1, max_length=2048)
    least = needed.total + needed.context
    if card.too_old:
        return f"has compute capability {card.capability}; Unsloth's kernels need 7.0 or more"
    total, used = _gib(card.memory), _gib(card.used)
    if total is not None and total < least:
        return f"has {total:.1f} GiB; Llama-2-7B needs {least:.1f} to train, with the fewest rows at once"
    if total is not None and used is not None and total - used < least:
        return (
            f"has {used:.1f} of its {total:.1f} GiB in use by another program, often a notebook that is still open; "
            f"Llama-2-7B needs {least:.1f}. End it (nvidia-smi names it), and restart this session"
        )
    return None


@cache
def take_one() -> Taken:
    """Choose one GPU for this process: the first that suits, before PyTorch looks. Later calls say the same.

    Of several, PyTorch is shown that one only: the course trains on one. One that Unsloth cannot use at all is hidden.
    Where CUDA_VISIBLE_DEVICES names some by number, one of these is taken.
    """
    found = cards() or []
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is not None:
        found = [card for card in found if card.index in wanted.replace(" ", "").split(",")]
    if not found:
        return Taken(None, None, 0)
    card = next((one for one in found if not unfit(one)), found[0])
    if len(found) > 1 or card.too_old:
        # The driver's tool counts by the bus, CUDA else by speed.
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        os.environ["CUDA_VISIBLE_DEVICES"] = "" if card.too_old else card.index or "0"
    return Taken(card, unfit(card), len(found))


def facts() -> dict[str, str]:
    """This machine in words: Python, processor, memory, disk, GPU, place."""
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = {
        "Python": platform.python_version(),
        "cores": str(os.cpu_count()),
        "memory": f"{gib:.0f} GiB",
        "free disk": f"{shutil.disk_usage(locks.KIT).free / 2**30:.0f} GiB",
        "place": "Google Colab" if locks.on_colab() else "not Colab",
    }
    found |= gpu() or {"GPU": "none"}
    versions = {n: installation.installed_version(n) or "absent" for n in locks.UNTOUCHED}
    return found | versions


@cache
def _ask_torch() -> tuple[bool, str]:
    """Whether PyTorch sees a CUDA GPU; and what it said when it looked for one. It looks once in a process."""
    take_one()
    try:
        import torch
    except (ImportError, OSError) as error:
        return False, str(error)
    if getattr(getattr(torch, "version", None), "hip", None):
        os.environ["HIP_VISIBLE_DEVICES"] = ""  # the course was never tried on an AMD GPU
        return False, AMD
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = torch.cuda.is_available()
    return found, " ".join(str(one.message) for one in said)


def choose_number_format() -> None:
    """Say whether training on this processor computes in bfloat16, where nobody did; before Unsloth is imported.

    Unsloth takes it wherever the processor has it. On Intel's that have it in AVX-512 and not in AMX, as in many
    virtual machines, it is slower: of a Xeon (family 6, model 207) two cores did 165 billion operations a second in
    bfloat16 and 310 in 32 bits (products of 1000 × 576 and 576 × 1536 numbers), and training took 1.6 times as long.
    """
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            about = file.read()
    except OSError:
        return
    if computes_slowly_in_bfloat16(about):
        os.environ.setdefault("UNSLOTH_CPU_BF16", "0")


def computes_slowly_in_bfloat16(cpuinfo: str) -> bool:
    """Whether a processor that Linux describes so is an Intel one with bfloat16 in AVX-512 only."""
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    has = set(flags[1].split()) if flags else set()
    return "GenuineIntel" in cpuinfo and "avx512_bf16" in has and "amx_bf16" not in has


def torch_sees_gpu() -> bool:
    """Whether PyTorch is here and sees a CUDA GPU: only then can it train on one."""
    return _ask_torch()[0]


def default_name() -> str:
    """The model that this machine gets: a preset's name, a hub id or a folder.

    ``COURSE_MODEL`` if set; else Llama-2-7B where PyTorch sees a CUDA GPU that suits it (`take_one`), and the small
    embedded model elsewhere. This is the only place that decides it.
    """
    taken = take_one()
    if named := settings.text("COURSE_MODEL"):
        folder = os.path.isdir(os.path.expanduser(os.path.expandvars(named)))
        if folder and named not in presets.MODELS:
            named = str(settings.path("COURSE_MODEL"))  # it stays the same one after os.chdir
        return known_as(named)
    return "llama-2-7b" if torch_sees_gpu() and not taken.unfit else presets.EMBEDDED


def known_as(model: str) -> str:
    """The preset that a hub id or a folder is, else the same text: one model has one name in every record."""
    if os.path.isabs(model) and model == str(workspace.models() / presets.EMBEDDED):
        return presets.EMBEDDED
    named = [name for name, one in presets.MODELS.items() if one.hub_id.lower() == model.lower()]
    return next(iter(named), model)


class Unseen(NamedTuple):
    """Why PyTorch does not see a GPU that the driver names, and what to do.

    ``chosen``: somebody wanted it so, or another line of the report says it already.
    """

    why: str
    todo: str
    chosen: bool


def why_unseen() -> Unseen:
    """Why PyTorch does not see the GPU that the driver names."""
    try:
        import torch
    except (ImportError, OSError) as error:
        todo = f"On Colab {FRESH_MACHINE}. On your own machine run `make lab`."
        return Unseen(f"PyTorch cannot be loaded ({error})", todo, True)
    if torch.version.cuda is None:
        # `make` installs such a build: it is smaller, and most machines have no GPU.
        why = f"this PyTorch, {torch.__version__}, is a build without CUDA"
        return Unseen(why, CUDA_BUILD, not locks.on_colab())
    if (card := take_one().card) and card.too_old:
        return Unseen(f"it {unfit(card)}", "Use the small model here, or another machine.", True)
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1"):
        todo = "Take that variable away and restart the session."
        return Unseen(f"CUDA_VISIBLE_DEVICES = {hidden!r} hides it", todo, True)
    why = f"PyTorch {torch.__version__}, built for CUDA {torch.version.cuda}, cannot use its driver"
    said = " ".join(_ask_torch()[1].split())[:300]
    return Unseen(f"{why} ({said})" if said else why, DRIVER_MENU, False)


def which_model(found: dict[str, str]) -> str:
    """One to three sentences: what the course runs on a machine with these facts, and how to get the other."""
    name = default_name()
    small = presets.MODELS[presets.EMBEDDED].name
    card = found.get("GPU", "none")
    if settings.text("COURSE_MODEL"):
        return f"Model: {name}, from COURSE_MODEL."
    if name != presets.EMBEDDED:
        card = "A GPU" if card in ("none", NO_ANSWER) else card
        several = f" (one of {take_one().count} GPUs)" if take_one().count > 1 else ""
        return f"{card} found{several}: the course uses {presets.MODELS[name].name}."
    if why := take_one().unfit:
        return f"{take_one().card.name} {why}. The course uses the small model {small}, same cells."
    if _ask_torch()[1] == AMD:
        return f"{AMD}. The course uses the small model {small} on the processor."
    if card == NO_ANSWER:
        return f"A GPU is {NO_ANSWER}: until it does, use the small model {small}.\n{DRIVER_MENU}"
    if card != "none":
        unseen = why_unseen()
        return (
            f"{card} is here, but PyTorch does not see it: {unseen.why}. "
            f"The course uses the small model {small} until it does.\n{unseen.todo}"
        )
    return (
        f"No GPU here: the course uses the small model {small}, same cells, same steps.\n{T4_MENU}"
    )
