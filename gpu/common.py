"""Shared by the GPU scripts: where models and results lie, what machine this is, rows of a wanted length."""

import ast
import contextlib
import datetime
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import queue
import random
import re
import subprocess
import sys
from pathlib import Path

KIT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(KIT))
MODELS = Path(os.environ.get("MODELS", "/tmp/lora-course/models"))
RESULTS = Path(os.environ.get("RESULTS", KIT / "build" / "gpu" / "results"))
GIB = 2**30
from helpers import machine as machine_facts, presets  # isort: skip

# What PyTorch may take in T4 mode: the driver counts the CUDA context to the 14.563 GiB too.
LIMIT_GIB = round(presets.T4_MEMORY_GIB - presets.CUDA_CONTEXT_GIB, 3)
SHAPES = {
    "llama-2-7b": presets.MODELS["llama-2-7b"].shape,
    # config.json of meta-llama/Llama-3.2-3B: grouped-query attention, a large vocabulary, tied embeddings.
    "llama-3.2-3b": {
        "vocab_size": 128256,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    },
    # Two layers as wide as the 7B's: its kernels, in a second.
    "llama-wide": presets.MODELS["llama-2-7b"].shape | {"num_hidden_layers": 2},
}
# What gpu/notebooks.py imports in every kernel, before a notebook's own cells.
BEFORE_CELLS = "from helpers import t4_mode as _t4_mode"
PACKAGES = (
    *("torch", "triton", "unsloth", "unsloth_zoo", "transformers", "trl", "peft", "bitsandbytes"),
    *("accelerate", "datasets"),
)


def save(name: str, content: dict, **about) -> None:
    """Write one script's results as JSON; under `run` stands when and with what they were measured."""
    # A piece such as grid-3 is its script's.
    run = provenance(name.split("-")[0]) | about
    RESULTS.mkdir(parents=True, exist_ok=True)
    # A script that is cut off while it writes must not leave half a file.
    half = RESULTS / f"{name}.tmp"
    half.write_text(json.dumps(content | {"run": run}, indent=1) + "\n", encoding="utf-8")
    half.replace(RESULTS / f"{name}.json")


def provenance(name: str) -> dict:
    """Date, GPU, its memory limit, helpers and versions of a part or a notebook that is measured now."""
    gpu = (ask_gpu("name") or [None])[0]
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "date": datetime.date.today().isoformat(),
        "gpu": gpu,
        "limit_gib": LIMIT_GIB,
        "code_path": code_path(),
        "helpers": helpers_hash(name),
        "versions": versions,
    }


def code_path() -> str | None:
    """Whose kernels Unsloth takes in this process, "T4" or this GPU's "own"; None where PyTorch is not loaded."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    return "T4" if getattr(torch.cuda.get_device_capability, "as_a_t4", False) else "own"


def need_t4_mode() -> None:
    """Refuse to measure what would not be within a T4's limits."""
    if os.environ.get("COURSE_T4") != "1":
        sys.exit("Set COURSE_T4=1: everything is measured within a T4's memory.")


def merge(old: list[dict], new: list[dict]) -> list[dict]:
    """Verdicts on notebooks, sorted; a newer one replaces the older one on the same notebook."""
    found = {one["notebook"]: one for one in [*old, *new]}
    return [found[name] for name in sorted(found)]


def helpers_hash(name: str) -> str:
    """A short hash of the helpers behind a part of the results ("grid") or a notebook ("05_train")."""
    folder, seen = KIT / "helpers", hashlib.sha256()
    for path in needed_helpers(name):
        file = path.relative_to(folder).as_posix()
        seen.update(f"{file}\0{path.read_text(encoding='utf-8')}\0".encode())
    return seen.hexdigest()[:16]


def needed_helpers(name: str) -> list[Path]:
    """The helpers that a part's script or a notebook imports, directly or through scripts and helpers, sorted."""
    waiting, found = [code_of(name)], set()
    while waiting:
        for module in imported(waiting.pop()):
            folder = KIT if module.startswith("helpers.") else KIT / "gpu"
            path = folder / f"{module.replace('.', '/')}.py"
            if path not in found and path.is_file():
                found.add(path)
                waiting.append(path.read_text(encoding="utf-8"))
    return sorted(path for path in found if KIT / "helpers" in path.parents)


@functools.cache
def imported(code: str) -> frozenset[str]:
    """All that Python code imports, also inside functions: modules, and MODULE.NAME of each name from one."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def code_of(name: str) -> str:
    """The Python that a notebook runs on a GPU, or the script that gives a part."""
    notebook = KIT / "notebooks" / f"{name}.ipynb"
    if notebook.exists():
        code = "\n".join([BEFORE_CELLS, *code_cells(notebook)])
        # Lines of IPython's, which Python cannot read.
        return re.sub(r"(?m)^([ \t]*)[%!].*$", r"\1pass", code)
    script = "common" if name == "machine" else name
    return (KIT / "gpu" / f"{script}.py").read_text(encoding="utf-8")


def code_cells(notebook: Path) -> list[str]:
    """The code of each code cell of a notebook."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def code_hash(notebook: Path) -> str:
    """A short hash of a notebook's own code: every code cell but the two that all notebooks open with."""
    return hashlib.sha256("\0".join(code_cells(notebook)[2:]).encode()).hexdigest()[:16]


def gpu_ids() -> list[str]:
    """Names of the GPU in use for `nvidia-smi -i`, the surest first: it does not heed CUDA_VISIBLE_DEVICES."""
    names = [os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"]
    torch = sys.modules.get("torch")
    # Asking PyTorch before it uses the GPU would make a context there, which takes memory.
    if torch is not None and hasattr(torch, "cuda") and torch.cuda.is_initialized():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        names.insert(0, f"GPU-{str(getattr(properties, 'uuid', '')).removeprefix('GPU-')}")
    return names


def ask_gpu(*fields: str) -> list[str] | None:
    """What nvidia-smi says about the GPU in use, without units; None where it says nothing."""
    asked = [f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    for name in gpu_ids():
        command = ["nvidia-smi", "-i", name, *asked]
        try:
            said = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return said.stdout.strip().split("\n")[0].split(", ")
    return None


def turns(jobs: int) -> queue.SimpleQueue:
    """A GPU of this machine for each of `jobs` at once, as CUDA_VISIBLE_DEVICES names it: the jobs are spread over all."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    gpus = [name.strip() for name in named if name.strip()]
    gpus = gpus or [card.index for card in machine_facts.cards() or []] or ["0"]
    free = queue.SimpleQueue()
    for number in range(jobs):
        free.put(gpus[number % len(gpus)])
    return free


@contextlib.contextmanager
def own_gpu(free: queue.SimpleQueue):
    """The environment of a process that sees one GPU of `turns`, which is free again afterwards."""
    gpu = free.get()
    try:
        yield os.environ | {"CUDA_VISIBLE_DEVICES": gpu}
    finally:
        free.put(gpu)


def machine() -> dict:
    """GPU, driver, memory, Python and versions."""
    said = ask_gpu("name", "driver_version", "memory.total")
    gpu, driver, total = said or (None, None, None)
    return {
        "gpu": gpu,
        "driver": driver,
        "memory": total and f"{total} MiB",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def used_gib() -> float | None:
    """Memory of the GPU that is in use, by whatever process, in GiB; None where it is not known."""
    said = (ask_gpu("memory.used") or [""])[0]
    return int(said) / 1024 if said.isdigit() else None


def context_gib(before: float | None, after: float | None, reserved: float) -> dict:
    """The CUDA context: what the driver counts beyond PyTorch's memory, or why that is not known."""
    if before is None or after is None:
        return {"context_gib": None, "context_reason": "nvidia-smi did not say what memory is used"}
    gib = round(after - before - reserved, 3)
    if not 0.1 <= gib <= 3:
        reason = f"{gib} GiB is no context: another process used this GPU too"
        return {"context_gib": None, "context_reason": reason}
    return {"context_gib": gib}


def predicted_gib(point: dict, stack: str = "unsloth") -> float:
    """What the planner says of one measured set-up (with model, bits, r, targets, rows, tokens)."""
    from transformers import LlamaConfig

    from helpers import memory

    return memory.estimate(
        LlamaConfig(**SHAPES[point["model"].removesuffix("-bnb-4bit")]),
        r=point["r"],
        per_device_train_batch_size=point["rows"],
        max_length=point["tokens"],
        target_modules=point["targets"],
        load_in_4bit=point["bits"] == 4,
        stack=stack,
    ).total


def long_rows(count: int, words: int, seed: int = 0):
    """Prompt/completion rows of random words; longer than any limit in use, so all are cut to one length."""
    from datasets import Dataset

    text = (KIT / "data" / "conversations.json").read_text(encoding="utf-8").split()
    draw = random.Random(seed)
    rows = [
        {
            "prompt": [{"role": "user", "content": "Write on."}],
            "completion": [{"role": "assistant", "content": " ".join(draw.choices(text, k=words))}],
        }
        for _ in range(count)
    ]
    return Dataset.from_list(rows)


def table(rows: list[list]) -> None:
    """Print rows in columns; the first is the heading."""
    texts = [[f"{v:.2f}" if isinstance(v, float) else str(v) for v in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        print("  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip())


def finish(failures: list[str]) -> None:
    """Print what failed, and exit accordingly."""
    for failure in failures:
        print(f"FAILED  {failure}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    save("machine", machine())
