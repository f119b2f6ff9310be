"""What this machine has, and which model it gets. Needs only the standard library; PyTorch is asked if it is here."""

import os
import platform
import shutil
import subprocess
import warnings
from functools import cache
from typing import NamedTuple

from helpers import presets, settings, workspace
from helpers.setup import installation, locks

# Long enough for a driver that has to wake up.
DRIVER_SECONDS = 30
NO_ANSWER = "present, but its driver does not answer"
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


def facts() -> dict[str, str]:
    """This machine in words: Python, processor, memory, disk, GPU, place."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = {
        "Python": platform.python_version(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "free disk": f"{shutil.disk_usage(locks.KIT).free / 2**30:.0f} GiB",
        "place": "Google Colab" if locks.on_colab() else "not Colab",
    }
    found |= gpu() or {"GPU": "none"}
    versions = {n: installation.installed_version(n) or "absent" for n in locks.UNTOUCHED}
    return found | versions


@cache
def _ask_torch() -> tuple[bool, str]:
    """Whether PyTorch sees a CUDA GPU; and what it said when it looked for one. It looks once in a process."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return False, str(error)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = torch.cuda.is_available()
    return found, " ".join(str(one.message) for one in said)


def torch_sees_gpu() -> bool:
    """Whether PyTorch is here and sees a CUDA GPU: only then can it train on one."""
    return _ask_torch()[0]


def default_name() -> str:
    """The model that this machine gets: a preset's name, a hub id or a folder.

    ``COURSE_MODEL`` if set; else Llama-2-7B where PyTorch sees a CUDA GPU, and the small embedded model elsewhere.
    This is the only place that decides it.
    """
    if named := settings.text("COURSE_MODEL"):
        folder = os.path.isdir(os.path.expanduser(os.path.expandvars(named)))
        if folder and named not in presets.MODELS:
            named = str(settings.path("COURSE_MODEL"))  # it stays the same one after os.chdir
        return known_as(named)
    return "llama-2-7b" if torch_sees_gpu() else presets.EMBEDDED


def known_as(model: str) -> str:
    """The preset that a hub id or a folder is, else the same text: one model has one name in every record."""
    if os.path.isabs(model) and model == str(workspace.path("models", presets.EMBEDDED)):
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
        return f"{card} found: the course uses {presets.MODELS[name].name}."
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


def answer_as_a_t4() -> None:
    """Tell whoever asks that this GPU has a T4's compute capability: Unsloth then chooses a T4's kernels.

    To be called before Unsloth is imported. Triton still compiles for the GPU that is there; `limit_to_t4` sees to
    torch.compile. Does nothing without an NVIDIA GPU.
    """
    import torch

    true_capability = torch.cuda.get_device_capability
    if not torch.cuda.is_available() or getattr(true_capability, "as_a_t4", False):
        return
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.driver import CudaDriver

    def capability(device=None) -> tuple[int, int]:
        return presets.T4_CAPABILITY

    capability.as_a_t4, capability.true = True, true_capability
    # Unsloth puts a cache around this function, unless it takes it for that cache.
    capability._unsloth_per_device_cache = True
    torch.cuda.get_device_capability = capability

    def target(driver) -> GPUTarget:
        major, minor = true_capability()
        return GPUTarget("cuda", 10 * major + minor, 32)

    CudaDriver.get_current_target = target


def limit_to_t4() -> None:
    """Make a larger NVIDIA GPU behave like a T4 in PyTorch: its memory less a CUDA context, fp16, plain attention.

    `models.limit_to_t4` does this for Unsloth too. Speed stays the larger GPU's.
    """
    import torch

    if hasattr(torch.cuda.get_device_capability, "true"):
        from torch._dynamo.device_interface import CudaInterface

        major, minor = torch.cuda.get_device_capability.true()
        CudaInterface.get_compute_capability = staticmethod(lambda device=None: 10 * major + minor)
    total = torch.cuda.get_device_properties(0).total_memory / 2**30
    limit = presets.T4_MEMORY_GIB - presets.CUDA_CONTEXT_GIB
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))
    # A T4 has neither bf16 nor the kernels that need compute capability 8.
    torch.cuda.is_bf16_supported = lambda *args, **kwargs: False
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)
