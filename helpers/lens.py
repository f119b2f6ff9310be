"""Look into a trained adapter: read its file, see where its change went, merge it into 4-bit weights."""

import contextlib
import json
import re
from pathlib import Path

import torch

from helpers import lora
from helpers.errors import CourseError
from helpers.presets import PROJECTIONS


def read_factors(folder: str | Path) -> dict[str, lora.Factors]:
    """A, B and scale of every layer, from an adapter's two files; no model is loaded.

    Raises:
        CourseError: a file is missing or damaged, or holds another kind of adapter.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors")
        if config["use_dora"] or config["rank_pattern"] or config["alpha_pattern"]:
            raise ValueError("it is not a plain LoRA adapter with one rank")
        scale = lora.scaling(config["r"], config["lora_alpha"], config["use_rslora"])
        found = {}
        for key in tensors:
            if key.endswith(".lora_A.weight"):
                name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                up = tensors[key.replace(".lora_A.", ".lora_B.")]
                found[name] = lora.Factors(tensors[key].float(), up.float(), scale)
        if not found:
            raise ValueError("it holds no matrix A")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CourseError(
            f"The adapter in {folder} could not be read: {type(error).__name__}: {error}",
            "A file of it is missing, cut off, or of another kind of adapter.",
            "Train it again: delete that folder, run the cell that trains this adapter, then this one.",
        ) from error
    return found


def grid(values: dict[str, float]) -> list[list[float]]:
    """One row for each of the seven projections, one column for each layer of the model.

    ``values`` names layers as `lora.layers` does; NaN stands where a projection has no adapter.
    """
    places = {}
    for name, value in values.items():
        layer = re.search(r"\.layers\.(\d+)\.", name)
        places[name.rsplit(".", 1)[-1], int(layer[1])] = float(value)
    columns = range(1 + max(layer for _, layer in places))
    return [[places.get((p, layer), float("nan")) for layer in columns] for p in PROJECTIONS]


@torch.no_grad()
def relative_changes(model: torch.nn.Module) -> dict[str, float]:
    """How large each layer's change is beside its weight: ‖ΔW‖ / ‖W‖, Frobenius norms."""
    found = {}
    for name, layer in lora.layers(model).items():
        found[name] = (lora.delta_weight(layer).norm() / base_weight(layer).norm()).item()
    return found


@torch.no_grad()
def base_weight(layer: torch.nn.Module) -> torch.Tensor:
    """The frozen weight below an adapter: n_out × n_in, float32, unpacked where it is stored in 4 bits."""
    from bitsandbytes.functional import dequantize_4bit

    weight = layer.get_base_layer().weight
    state = getattr(weight, "quant_state", None)
    return (weight if state is None else dequantize_4bit(weight.data, state)).float()


@torch.no_grad()
def pack(layer: torch.nn.Module, weight: torch.Tensor):
    """A weight in the 4 bits in which a layer stores its own: ``(packed bytes, quant_state)``.

    Raises:
        CourseError: the layer's weight is not stored in 4 bits.
    """
    from bitsandbytes.functional import quantize_4bit

    state = getattr(layer.get_base_layer().weight, "quant_state", None)
    if state is None:
        raise CourseError(
            "This layer's weight is not stored in 4 bits.",
            "In 16 bits PEFT merges it: model.merge_and_unload().",
            "Load the model with load_in_4bit=True for this experiment.",
        )
    return quantize_4bit(
        weight.to(state.dtype),
        blocksize=state.blocksize,
        compress_statistics=state.nested,
        quant_type=state.quant_type,
    )


@torch.no_grad()
def rounded(layer: torch.nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """What is left of a weight when a layer stores it in its 4 bits: n_out × n_in, float32."""
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(*pack(layer, weight)).float()


@contextlib.contextmanager
def merged_in_4bit(model: torch.nn.Module):
    """Within a ``with`` block, every base weight is W + ΔW, packed into 4 bits; afterwards it is W again.

    The adapter still acts on top: switch it off with ``model.disable_adapter()``. PEFT's own ``merge_adapter``
    rounds in the same way, but there is no exact way back from it.
    """
    kept = {}
    try:
        for name, layer in lora.layers(model).items():
            weight = layer.get_base_layer().weight
            packed, state = pack(layer, base_weight(layer) + lora.delta_weight(layer))
            kept[name] = weight, weight.data, weight.quant_state
            weight.data, weight.quant_state = packed.view_as(weight), state
        yield
    finally:
        for weight, data, state in kept.values():
            weight.data, weight.quant_state = data, state
