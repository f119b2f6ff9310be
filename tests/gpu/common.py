"""Shared by the GPU scripts: where models and results lie, what machine this is, rows of a wanted length."""

import importlib.metadata
import json
import os
import platform
import random
import subprocess
import sys
from pathlib import Path

KIT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(KIT))
MODELS = Path(os.environ.get("MODELS", "/tmp/lora-course/models"))
RESULTS = Path(os.environ.get("RESULTS", KIT / "build" / "gpu" / "results"))
GIB = 2**30
PACKAGES = (
    *("torch", "triton", "unsloth", "unsloth_zoo", "transformers", "trl", "peft", "bitsandbytes"),
    *("accelerate", "datasets"),
)


def save(name: str, content: object) -> None:
    """Write one script's results as JSON."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def machine() -> dict:
    """GPU, driver, memory, Python and versions."""
    asked = "name,driver_version,memory.total"
    said = subprocess.run(
        ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=True,
    )
    gpu, driver, total = said.stdout.strip().split("\n")[0].split(", ")
    return {
        "gpu": gpu,
        "driver": driver,
        "memory": total,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def used_gib() -> float:
    """Memory of the first GPU that is in use, by whatever process, in GiB."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(said.stdout.split()[0]) / 1024


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


def limit_to_t4() -> None:
    """A T4's memory, number formats and attention for a process that does without Unsloth."""
    import torch

    from helpers import presets

    total = torch.cuda.get_device_properties(0).total_memory / GIB
    limit = presets.T4_MEMORY_GIB - presets.CUDA_CONTEXT_GIB
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))
    torch.cuda.is_bf16_supported = lambda *args, **kwargs: False
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)


def table(rows: list[list]) -> None:
    """Print rows in columns; the first is the heading."""
    texts = [[f"{v:.2f}" if isinstance(v, float) else str(v) for v in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        print("  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    save("machine", machine())
