"""Checkpoints that are whole or not there, and which one to go on from: the newest whole one.

What is not whole, or only looks like one, is set aside.
"""

import contextlib
import errno
import json
import os
import re
import shutil
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.trainer_files import ADAPTER, STATE

if TYPE_CHECKING:
    from transformers import Trainer

# What Trainer needs to go on exactly (transformers/trainer.py, `_save_checkpoint`), in the order it is written.
NEEDED = (
    "adapter_config.json",
    ADAPTER,
    "training_args.bin",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    STATE,
)
ASIDE = "passed-over-"
# Our own file in a checkpoint: minutes, tokens and updates until then, of which run it is, and its files' sizes.
SO_FAR = "so_far.json"
# Where a checkpoint is written; Trainer, which deletes old ones, looks for names that begin with "checkpoint-".
PARTIAL = "partial-checkpoint"
# The newest, and the one before in case the newest is damaged.
KEPT = 2


def write_whole(trainer: "Trainer", model, trial, so_far: dict) -> None:
    """Trainer's ``_save_checkpoint``, but for the place: a folder beside, which is renamed when it is on the disk.

    So a machine that goes away in the middle leaves no half of a checkpoint, and the older ones are deleted only when
    the new one is whole.

    Args:
        trainer, model, trial: as Trainer has them.
        so_far: what `so_far` shall read back from the checkpoint.
    """
    from transformers.trainer_utils import rotate_checkpoints

    folder = Path(trainer.args.output_dir).absolute()
    beside = folder / PARTIAL
    remove_partial(folder)
    trainer._get_output_dir = lambda trial: str(beside)
    try:
        type(trainer)._save_checkpoint(trainer, model, trial)
        (written,) = beside.iterdir()
        text = json.dumps(so_far | {"sizes": sizes_in(written)}, ensure_ascii=False)
        (written / SO_FAR).write_text(text, encoding="utf-8")
        put(written, folder / written.name)
    finally:
        del trainer._get_output_dir
        shutil.rmtree(beside, ignore_errors=True)
    rotate_checkpoints(str(folder), save_total_limit=KEPT)


def put(written: Path, place: Path) -> None:
    """Move a folder to its place in one step, in that of another if need be, once all of it is on the disk."""
    for file in (*written.rglob("*"), written):
        _sync(file)
    with contextlib.suppress(OSError):  # it holds something, or is not there
        place.rmdir()
    if place.exists():
        place.rename(written.with_name(f"before-{place.name}"))
    written.rename(place)
    _sync(place.parent)


def _sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk and not only in the machine's memory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.ENOTSUP,
        ):  # a file system that cannot, as Drive's
            raise
    finally:
        os.close(handle)


def remove_partial(folder: Path) -> bool:
    """Remove what a training left that went away while it wrote a checkpoint; whether there was something."""
    found = (folder / PARTIAL).exists()
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)
    return found


def so_far(checkpoint: Path | None) -> dict:
    """What `write_whole` was given for a checkpoint; empty where an older version of the course wrote it."""
    with contextlib.suppress(OSError, ValueError):
        if checkpoint:
            return dict(json.loads((checkpoint / SO_FAR).read_text(encoding="utf-8")))
    return {}


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
        here, known = sizes_in(checkpoint), so_far(checkpoint)
        sizes = known.get("sizes", {}) | sizes
        scaler = ("scaler.pt",) if known.get("number_format") == "float16" else ()
        for name in [*NEEDED, *scaler, *sizes]:
            if name not in here:
                return f"{name} is missing"
        for name, size in here.items():
            if size == 0 or size != sizes.get(name, size) or not is_whole(checkpoint / name):
                return f"{name} is cut off"
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        return None if state["global_step"] == step else f"{STATE} is of another step"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it cannot be read: {error}"


def is_whole(file: Path) -> bool:
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
