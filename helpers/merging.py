"""Merge an adapter into weights that are stored in 4 bits, and see what the rounding does to it."""

import contextlib

import torch

from helpers import adapter
from helpers.errors import CourseError


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
        for name, layer in adapter.layers(model).items():
            weight = layer.get_base_layer().weight
            packed, state = pack(
                layer, adapter.base_weight(layer) + layer.get_delta_weight(adapter.NAME)
            )
            kept[name] = weight, weight.data, weight.quant_state
            weight.data, weight.quant_state = packed.view_as(weight), state
        yield
    finally:
        for weight, data, state in kept.values():
            weight.data, weight.quant_state = data, state
