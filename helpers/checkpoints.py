"""Which checkpoint to go on from: the newest whole one. What is not whole, or only looks like one, is set aside."""

import contextlib
import json
import re
import zipfile
from collections.abc import Collection
from pathlib import Path

# What Trainer needs to go on exactly (transformers/trainer.py, `_save_checkpoint`), in the order it is written.
NEEDED = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "training_args.bin",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
)
ASIDE = "passed-over-"


def newest(folder: Path, sizes: dict[str, dict[str, int]] | None = None) -> Path | None:
    """The newest whole checkpoint, or ``None``.

    Everything else whose name begins like a checkpoint's and would come before it gets another name, so that
    neither the next try nor Trainer, which deletes old checkpoints, takes it for one. One line says so.

    Args:
        folder: the folder of a run.
        sizes: of each checkpoint's files, in bytes, as `sizes_in` found them when it was saved.
    """
    found = {}
    for path in sorted(folder.glob("checkpoint-*")):
        number = re.fullmatch(r"checkpoint-([1-9][0-9]*)", path.name)
        if number and path.is_dir():
            found[int(number[1])] = path
        else:
            _set_aside(path, "it only looks like a checkpoint")
    for step in sorted(found, reverse=True):
        fault = _fault(found[step], step, (sizes or {}).get(found[step].name, {}))
        if fault is None:
            return found[step]
        _set_aside(found[step], fault)
    return None


def sizes_in(folder: Path, names: Collection[str] = ()) -> dict[str, int]:
    """Bytes of each file in a checkpoint's folder, or only of those of these names."""
    files = sorted(folder.iterdir())
    return {file.name: file.stat().st_size for file in files if not names or file.name in names}


def _fault(checkpoint: Path, step: int, sizes: dict[str, int]) -> str | None:
    """What is wrong with a checkpoint, or ``None``."""
    try:
        here = sizes_in(checkpoint)
        for name in [*NEEDED, *sizes]:
            if name not in here:
                return f"{name} is missing"
        for name, size in here.items():
            if size == 0 or size != sizes.get(name, size) or not _is_whole(checkpoint / name):
                return f"{name} is cut off"
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        return None if state["global_step"] == step else "trainer_state.json is of another step"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it cannot be read: {error}"


def _is_whole(file: Path) -> bool:
    """Whether a file of one of the kinds that Trainer writes ends where it should."""
    from safetensors import safe_open

    try:
        if file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        elif file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                return bool(tensors.keys())
        elif file.suffix in (".pt", ".pth", ".bin"):
            # torch.save writes a zip archive, with a checksum of each part.
            with zipfile.ZipFile(file) as archive:
                return archive.testzip() is None
    # Whatever is wrong in a file shows as any kind of error.
    except Exception:  # noqa: BLE001
        return False
    return True


def _set_aside(path: Path, why: str) -> None:
    """Give something another name, and say so; an empty folder is removed."""
    print(f"{path.name} in {path.parent.name} is passed over: {why}.", end=" ")
    with contextlib.suppress(OSError):
        path.rmdir()
        print("It was empty and is removed.")
        return
    target, number = path.with_name(ASIDE + path.name), 1
    while target.exists():
        number += 1
        target = path.with_name(f"{ASIDE}{number}-{path.name}")
    with contextlib.suppress(OSError):
        path.rename(target)
    print(f"It is now called {target.name}." if not path.exists() else "It stays as it is.")
