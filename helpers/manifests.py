"""Which files a copy of a run holds, with the size and the hash of each: written beside a copy, and held against it."""

import hashlib
import json
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import BinaryIO

from helpers.trainer_files import ADAPTER

# The files of a run, its best adapter and its checkpoints; nothing above, beside or below these.
OURS = re.compile(r"((checkpoint(-[1-9][0-9]{0,8})?|best)/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
# Of one session or one machine, or half of something.
NOT_COPIED = (".lock", ".partial", ".zip")
BLOCK = 2**20

# By name: bytes, and SHA-256 in hexadecimal digits.
Files = dict[str, tuple[int, str]]


def inside(folder: Path, prefix: str = "") -> dict[str, Path]:
    """The files of a folder by the names that they get in a copy; none where there is no such folder."""
    found = {prefix + file.name: file for file in sorted(folder.glob("*")) if file.is_file()}
    return {
        name: file
        for name, file in found.items()
        if OURS.fullmatch(name) and file.suffix not in NOT_COPIED
    }


def of(file: Path) -> tuple[int, str]:
    """Size and hash of a file."""
    with file.open("rb") as content:
        return file.stat().st_size, hashlib.file_digest(content, "sha256").hexdigest()


def kept(folder: Path, names: Collection[str]) -> dict:
    """For a run's record: the sizes of its files of these names, in bytes, and the hash of its adapter."""
    sizes = {name: (folder / name).stat().st_size for name in names if (folder / name).is_file()}
    return {"files": sizes, "adapter_sha256": of(folder / ADAPTER)[1]}


def changed(folder: Path, record: dict, *, hashed: bool = True) -> str:
    """The first file of a run that is not as its record says (`kept`), and what is wrong with it; empty where none is.

    Args:
        folder: of a run that is finished or stopped.
        record: its ``run.json``.
        hashed: compare the adapter's hash too, for which it has to be read.
    """
    sizes, digest = record.get("files"), record.get("adapter_sha256")
    for name, size in (sizes if isinstance(sizes, dict) else {}).items():
        if not (folder / name).is_file():
            return f"{name} is gone"
        if (folder / name).stat().st_size != size:
            return f"{name} is cut off or changed"
    adapter = folder / ADAPTER
    if hashed and digest and not (adapter.is_file() and of(adapter)[1] == digest):
        return f"{ADAPTER} is another one or damaged"
    return ""


def files_in(manifest: object) -> Files:
    """What a manifest lists under ``files``.

    Raises:
        ValueError: a name is not one of ours, or a size or a hash is none.
    """
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or not all(map(OURS.fullmatch, files)):
        raise ValueError("its list names files that no run has")
    for entry in files.values():
        match entry:
            case [int(size), str(digest)] if size >= 0 and re.fullmatch("[0-9a-f]{64}", digest):
                continue
        raise ValueError("its list is damaged")
    return {name: (size, digest) for name, (size, digest) in files.items()}


def text(manifest: dict) -> bytes:
    """A manifest as the text of a file."""
    return json.dumps(manifest, indent=1, ensure_ascii=False).encode()


def gib(files: Files) -> float:
    """What the files take on a disk, in GiB."""
    return sum(size for size, _ in files.values()) / 2**30


def fill(folder: Path, files: Files, opened: Callable[[str], BinaryIO]) -> None:
    """Write the listed files into a new folder.

    Raises:
        ValueError: a file is not what its size and hash say.
    """
    for name, (size, digest) in files.items():
        target, found, left = folder / name, hashlib.sha256(), size + 1
        target.parent.mkdir(parents=True, exist_ok=True)
        with opened(name) as source, target.open("xb") as new:
            while left and (block := source.read(min(BLOCK, left))):
                found.update(block)
                new.write(block)
                left -= len(block)
        if left != 1 or found.hexdigest() != digest:
            raise ValueError(f"{name} is damaged")
