"""Load a model in 4 bits through Unsloth, with a chat template, on a GPU or without one."""

from helpers import unsloth_first  # noqa: F401  # isort: skip
from unsloth import FastLanguageModel, get_chat_template

import contextlib
import difflib
import json
import os
from pathlib import Path

import torch
from safetensors import safe_open

from helpers import machine, presets, settings, small_model, workspace
from helpers.choice import Choice
from helpers.errors import CourseError, check_whole
from helpers.setup import network
from helpers.trainer_files import ADAPTER


def name_of(model=None) -> str:
    """What a loaded model is called, a preset's name, a hub id or a folder; without one, `machine.default_name`."""
    return getattr(model, "course_name", None) or machine.default_name()


def learning_rate(choice: Choice, model=None) -> float:
    """The chosen learning rate, else the one that fits a loaded model; without one, this machine's."""
    if choice.learning_rate is not None:
        return choice.learning_rate
    preset = presets.MODELS.get(name_of(model))
    return preset.learning_rate if preset else presets.MODELS["llama-2-7b"].learning_rate


def locate(model: str | os.PathLike | None = None) -> str:
    """What to pass to ``from_pretrained``: a hub id, or a folder that is checked to hold a model."""
    chosen_by = "COURSE_MODEL = " if model is None and settings.text("COURSE_MODEL") else ""
    model = os.path.expanduser(str(machine.default_name() if model is None else model).strip())
    if model == presets.EMBEDDED:
        return str(small_model.folder())
    if model in presets.MODELS:
        return presets.MODELS[model].hub_id
    if os.path.isdir(model):
        if not _is_complete(Path(model)):
            raise CourseError(
                f"The folder {model} holds no complete model.",
                "A model is a config.json with *.safetensors beside it, or an adapter_config.json with "
                f"{ADAPTER}.",
                "Check the path; if training was interrupted, run notebook 05 again.",
            )
        return os.path.abspath(model)
    if not _is_hub_id(model):
        near = difflib.get_close_matches(model, presets.MODELS, n=1)
        raise CourseError(
            f"{chosen_by}{model!r} is neither a preset, a folder, nor a hub id.",
            f"Presets are {', '.join(presets.MODELS)}; a hub id looks like owner/name; a folder may have been "
            "deleted or moved.",
            (f"Did you mean {near[0]}? " if near else "")
            + "Correct the name, or the path if it is a folder. With no name the course chooses a model: "
            "COURSE_MODEL if that is set, else the one for this machine.",
        )
    return model


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith(("/", ".", "~"))


def _is_complete(folder: Path) -> bool:
    """Whether a folder holds the configuration and some weights of a model or an adapter."""
    configured = any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
    # A link may lead nowhere, and a full disk leaves files of no length.
    weights = [file for file in folder.glob("*.safetensors") if file.is_file()]
    return configured and any(file.stat().st_size > 0 for file in weights)


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
        CourseError: the name means nothing, files are missing, damaged or do not fit each other, an adapter's
            base model is not here, the hub cannot be reached, or the GPU's memory is full.
    """
    check_whole("max_seq_length", max_seq_length, 8)
    place = locate(model)
    adapted = (Path(place) / "adapter_config.json").is_file()
    base = _base_model(Path(place)) if adapted else place
    try:
        if os.path.isdir(base):
            _check_shapes(Path(base))
        loaded, tokenizer = FastLanguageModel.from_pretrained(
            model_name=place, max_seq_length=max_seq_length, dtype=None, load_in_4bit=load_in_4bit
        )
    except CourseError:
        raise
    except ImportError as error:
        # Through a SOCKS proxy the hub's client needs a package that may be absent.
        if explained := network.failure(f"{place} could not be loaded: {error}"):
            raise explained from error
        raise
    # Whatever is wrong in a file shows as any kind of error: a KeyError, a TypeError, and so on.
    except Exception as error:
        raise _loading_error(place, base, error) from error
    if adapted:
        _check_adapter(loaded, Path(place))
    # On a GPU Unsloth sets it to the model's whole context. Beside max_new_tokens, which the course gives
    # with every answer, that would print a warning each time.
    loaded.generation_config.max_length = None
    # What a run's record calls the model (a folder of adapters is no model).
    loaded.course_name = machine.known_as(base)
    tokenizer = with_template(tokenizer, template, model_name=place)
    # SFTConfig(eos_token=…) would change it for every later training.
    tokenizer.loaded_end = tokenizer.eos_token
    return loaded, tokenizer


def load_tokenizer(model: str | os.PathLike | None = None, *, template: str | None = None):
    """A model's tokenizer alone, with its chat template as `load` gives it; no weights are loaded.

    Args:
        model, template: as for `load`.

    Raises:
        CourseError: as for `load`.
    """
    from transformers import AutoTokenizer

    place = locate(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, padding_side="right")
    except Exception as error:
        raise _loading_error(place, place, error) from error
    # As Unsloth does without a GPU; on one it may choose another mark, which is not learnt either.
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer = with_template(tokenizer, template, model_name=place)
    tokenizer.loaded_end = tokenizer.eos_token
    return tokenizer


def _base_model(folder: Path) -> str:
    """Where an adapter's base model is: a complete folder or a hub id.

    Training notes the base model's absolute path in adapter_config.json, and Unsloth reads it there and
    nowhere else. When the workspace has moved (Drive on another machine), the path of the small embedded
    model is put right in that file; the adapter itself stays as it is.
    """
    file = folder / "adapter_config.json"
    saved = None
    with contextlib.suppress(OSError, ValueError):
        saved = json.loads(file.read_text(encoding="utf-8"))
    base = saved.get("base_model_name_or_path") if isinstance(saved, dict) else None
    if not base or not isinstance(base, str):
        raise CourseError(
            f"{file} does not name the adapter's base model.",
            "It was cut off or edited by hand. An adapter is of no use without its base model.",
            "Copy the file of this name from a checkpoint folder beside it, or train again in notebook 05.",
        )
    here = workspace.models() / presets.EMBEDDED
    if _is_hub_id(base):
        return base
    moved = Path(base).name == presets.EMBEDDED and not Path(base).is_dir()
    if moved or Path(base) == here:
        small_model.folder()
        if moved and Path(base) != here:
            workspace.write_json(file.resolve(), saved | {"base_model_name_or_path": str(here)})
            print(f"{file}: the base model was at {base}; changed to {here}.")
        return str(here)
    if not _is_complete(Path(base)):
        raise CourseError(
            f"The adapter in {folder} needs its base model {base}, and no complete model is there.",
            "An adapter holds only the changes to its base model, which is loaded first.",
            "Put the base model's folder back there, or train again in notebook 05.",
        )
    return base


def _check_shapes(folder: Path) -> None:
    """CourseError unless a Llama's weights have the shapes that its config.json gives.

    In 4 bits, weights of other shapes are packed without complaint, and missing ones are made up at random.
    Only the headers of the files are read. Packed weights have shapes of their own, and other architectures
    may rename theirs while loading: those are passed over.
    """
    from transformers import AutoConfig, LlamaForCausalLM

    config = AutoConfig.from_pretrained(folder)
    if config.model_type != "llama" or getattr(config, "quantization_config", None):
        return
    with torch.device("meta"):
        wanted = {name: list(t.shape) for name, t in LlamaForCausalLM(config).state_dict().items()}
    if config.tie_word_embeddings:
        del wanted["lm_head.weight"]
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            names = weights.keys()
            found |= {name: weights.get_slice(name).get_shape() for name in names}
    wrong = [name for name in wanted if found.get(name) != wanted[name]]
    if wrong:
        raise CourseError(
            f"{folder}: {len(wrong)} weights do not fit config.json, first {wrong[0]}: "
            f"{found.get(wrong[0], 'missing')} instead of {wanted[wrong[0]]}.",
            "config.json or the weights belong to another model, or a weights file is missing.",
            "Move the folder away and make or download it again.",
        )


def _check_adapter(model, folder: Path) -> None:
    """CourseError unless a folder holds A and B of every layer: PEFT leaves untrained what is missing."""
    with safe_open(folder / ADAPTER, framework="pt") as weights:
        found = {*weights.keys()}
    named = (name.replace(".default.", ".") for name, _ in model.named_parameters())
    if missing := sorted({name for name in named if ".lora_" in name} - found):
        raise CourseError(
            f"The adapter in {folder} lacks {len(missing)} of its matrices, the first of them {missing[0]}.",
            f"{ADAPTER} was edited, or belongs to another adapter_config.json.",
            "Copy both files from a checkpoint folder beside them, or train again in notebook 05.",
        )


def _loading_error(place: str, base: str, error: Exception) -> CourseError:
    """What a student reads when Unsloth cannot load ``place``, with ``base`` below if it is an adapter."""
    short = " ".join(str(error).split())[:200]
    what = f"could not be loaded: {type(error).__name__}: {short}"
    # Transformers counts before it fills a GPU; what it says then, and what Unsloth makes of it.
    counted = ("dispatched on the CPU or the disk", "does not fit in GPU memory")
    full = any(text in str(error) for text in counted)
    if full or isinstance(error, torch.cuda.OutOfMemoryError):
        return CourseError(
            f"{place} {what}",
            "The GPU's memory is full: another model is probably still in it, or this one is too large.",
            "Restart the session (Runtime menu) and run the cells from the first one on. What is saved "
            "stays.",
        )
    if base != place:
        local = os.path.isdir(base)
        explained = None if local else network.failure(f"{base} {what}")
        return explained or CourseError(
            f"The adapter in {place} with its base model {base} {what}",
            ("" if local else "The base model cannot be reached (no network, or it is gated), or: ")
            + "a file of the adapter or of its base model is cut off, or the two do not belong together.",
            ("" if local else "Check the network first. ")
            + "Train again in notebook 05; if that fails too, make or download the base model again.",
        )
    if os.path.isdir(place):
        return CourseError(
            f"{place} {what}",
            "A file in it is cut off or does not fit the others, or Unsloth does not know this kind of "
            "model.",
            "Move the folder away and make or download it again.",
        )
    return network.failure(f"{place} {what}") or CourseError(
        f"{place} {what}",
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
        if tokenizer.chat_template:
            return tokenizer
        if tokenizer.chat_template is not None:
            raise CourseError(
                f"The chat template of {model_name or 'this tokenizer'} is empty.",
                "Its file chat_template.jinja was cut off. With another template the model would read questions in a form "
                "that it was not trained on.",
                "Copy that file from a checkpoint folder beside it, or train again in notebook 05.",
            )
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
