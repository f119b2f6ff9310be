"""Give a model the adapter that was chosen; say whether a model holds what was chosen, or a run's adapter."""

from helpers import unsloth_first  # noqa: F401  # isort: skip

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from unsloth import FastLanguageModel

from helpers import lora, memory
from helpers.choice import Choice
from helpers.errors import CourseError

DIVERGED = (
    "The adapter holds numbers that are infinite or none at all (NaN): the training diverged. Usually "
    "the learning rate or alpha is too large."
)
UNMOVED = (
    "The adapter is as it was before: no update changed it. Alpha or the learning rate is too small, so large "
    "that every update overflowed, or the training has a single step, whose learning rate is 0."
)
# What adapter_config.json and a choice both hold, by the same names.
SETTINGS = ("r", "lora_alpha", "lora_dropout", "use_rslora")


def add_adapter(model, choice: Choice):
    """``FastLanguageModel.get_peft_model`` with a choice's settings and the homework's seed.

    A model that has an adapter gets a new one in its place, untrained, as if it had just been loaded. (Unsloth
    keeps the old one on a CPU, whatever is asked, and on a GPU it goes on from the trained one or stops.)

    Raises:
        CourseError: the base of a model with an adapter was given, instead of what this function returned; adding
            one was broken off before; or the adapter alone does not fit into the memory.
    """
    if isinstance(model, PeftModel):
        model = _without_adapter(model)
    elif getattr(model, "peft_config", None) or any(
        ".lora_" in n for n, _ in model.named_modules()
    ):
        raise CourseError(
            "This model is already the base of a model with an adapter, or holds a part of one.",
            "A second adapter would be trained on top of the first. A part is left where adding one was stopped.",
            "Run the cell that loads the model again, then this one.",
        )
    _need_memory(model, choice)
    return FastLanguageModel.get_peft_model(model, **choice.adapter_arguments())


def _need_memory(model, choice: Choice) -> None:
    """CourseError unless the adapter, in float32, fits into the memory that is free."""
    import psutil  # comes with accelerate

    cuda = model.device.type == "cuda"
    if cuda:  # what PyTorch keeps of deleted tensors is free too
        gc.collect()
        torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0] if cuda else psutil.virtual_memory().available
    needed = 4 * lora.adapter_parameters(model.config, choice.r, choice.target_modules)
    if needed > free:
        raise CourseError(
            f"An adapter with r = {choice.r} takes {needed / memory.GIB:.1f} GiB, and {free / memory.GIB:.1f} GiB are free.",
            "Each unit of rank adds a row to A and a column to B, in every adapted layer. 4 to 64 are common.",
            "Choose a smaller r, then run this cell again.",
        )


def _without_adapter(model):
    """The base of a model with an adapter, as it was before; the adapter is lost.

    Unsloth puts its own functions in place of some layers' when it adds an adapter on a GPU
    (``patch_peft_model`` in unsloth/models/llama.py); those go too.
    """
    base = model.unload()
    # A trainer may still hold the old model: this says that it has no adapter any more.
    model.peft_config.clear()
    base.disable_input_require_grads()
    if torch.cuda.is_available():
        from unsloth.models import llama

        for layer in base.model.layers:
            layer.self_attn.apply_qkv = llama.original_apply_qkv
            layer.self_attn.apply_o = llama.original_apply_o
            layer.mlp.__dict__.pop("forward", None)
        gc.collect()
        torch.cuda.empty_cache()
    return base


def differences(settings: dict, choice: Choice) -> list[str]:
    """In which settings an adapter is not the chosen one, in words; empty if in none.

    Args:
        settings: an adapter's, as in ``adapter_config.json``.
        choice: what was chosen.
    """
    found = [
        f"{name} is {settings.get(name)!r} instead of {getattr(choice, name)!r}"
        for name in SETTINGS
        if settings.get(name) != getattr(choice, name)
    ]
    modules = settings.get("target_modules") or []
    if set(modules) != set(choice.target_modules):
        found.append(f"target_modules are {', '.join(sorted(modules))}")
    return found


def settings_of(model) -> dict:
    """Settings of a model's adapter; empty where it has none (any more)."""
    configs = getattr(model, "peft_config", None) or {}
    return configs["default"].to_dict() if "default" in configs else {}


def trains_more(model) -> list[str]:
    """Names of what training would change beside A and B; empty as it should be."""
    return [n for n, p in model.named_parameters() if p.requires_grad and ".lora_" not in n]


def is_trained(model) -> bool:
    """Whether training has changed a model's adapter: B is zero in every new one."""
    return any(bool(p.any()) for name, p in model.named_parameters() if "lora_B" in name)


def in_4bit(model) -> bool:
    """Whether a model's large matrices are stored in 4 bits."""
    return any(getattr(p, "quant_state", None) is not None for p in model.parameters())


@contextlib.contextmanager
def base_model(model) -> Iterator[None]:
    """Inside, the base model answers: without its adapter, where it has one by now."""
    with model.disable_adapter() if settings_of(model) else contextlib.nullcontext():
        yield


def fault(model) -> str:
    """What is wrong with the numbers of a trained adapter, in a sentence; empty where nothing is."""
    numbers = list(_numbers(model).values())
    if not all(bool(torch.isfinite(one).all()) for one in numbers):
        return DIVERGED
    return "" if is_trained(model) else UNMOVED


def holds(model, folder: Path) -> bool:
    """Whether a model's adapter is the one that a run saved in a folder, number for number."""
    saved, here = _saved(folder), _numbers(model)
    if not saved or here.keys() != saved.keys():
        return False
    return all(_same(parameter, saved[name]) for name, parameter in here.items())


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal to the last bit; NaN, which a diverged training leaves, counts as equal to NaN."""
    one, other = one.detach().cpu().float(), other.float()
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def put_back(model, folder: Path) -> None:
    """Give a model's adapter the numbers that a run saved in a folder, if they fit."""
    saved, here = _saved(folder), _numbers(model)
    if {n: t.shape for n, t in saved.items()} == {n: p.shape for n, p in here.items()}:
        for name, parameter in here.items():
            # A copy: what safetensors loads is the file itself, and changes when somebody writes into that.
            parameter.data = saved[name].to(parameter.device, copy=True)
        model.trained_in = str(folder)


def _numbers(model) -> dict[str, torch.nn.Parameter]:
    """A and B of every adapted layer, by the names that PEFT saves them under."""
    named = model.named_parameters() if settings_of(model) else ()
    return {name.replace(".default.", "."): p for name, p in named if ".lora_" in name}


def _saved(folder: Path) -> dict[str, torch.Tensor]:
    """The same from a run's folder; empty where there are none, or the file is damaged."""
    try:
        return load_file(folder / "adapter_model.safetensors")
    except (OSError, SafetensorError):
        return {}
