"""Look into a trained adapter: read and change A and B, see where its change went."""

import json
import math
import re
from pathlib import Path
from typing import NamedTuple

import torch

from helpers import lora
from helpers.errors import CourseError, check_whole
from helpers.presets import PROJECTIONS, SEED
from helpers.trainer_files import ADAPTER

# What PEFT calls an adapter that nobody named.
NAME = "default"


class Factors(NamedTuple):
    """One layer's adapter in float32: its change of the weight is ``scale`` · B·A.

    ``a`` is r × n_in, ``b`` is n_out × r.
    """

    a: torch.Tensor
    b: torch.Tensor
    scale: float


def layers(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Every PEFT LoRA layer of a model that holds an adapter, by its name in the base model.

    Raises:
        CourseError: the model has none; or it is a DoRA adapter, whose change of the weight is not B·A.
    """
    found = {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if NAME in getattr(module, "lora_A", {})
    }
    if not found:
        raise CourseError(
            f"This model has no LoRA adapter named {NAME!r}.",
            "It is a base model, or its adapter was merged.",
            "Load a trained run: models.load(run.folder).",
        )
    if any(layer.use_dora.get(NAME) for layer in found.values()):
        raise CourseError(
            "This is a DoRA adapter.",
            "It also rescales each weight, so its change is not scale · B·A, which this lesson is about.",
            "Train without use_dora.",
        )
    return found


def factors(model: torch.nn.Module) -> dict[str, Factors]:
    """A copy of every layer's A, B and scale."""
    return {
        name: Factors(
            layer.lora_A[NAME].weight.detach().float().clone(),
            layer.lora_B[NAME].weight.detach().float().clone(),
            layer.scaling[NAME],
        )
        for name, layer in layers(model).items()
    }


@torch.no_grad()
def put_factors(model: torch.nn.Module, wanted: dict[str, Factors]) -> None:
    """Write A, B and scale into a model. Where they have a lower rank, the rest is filled with zeros.

    Raises:
        CourseError: they belong to another base model, to other layers, or have a higher rank.
    """
    adapted = layers(model)
    for name, layer in adapted.items():
        _check_fit(name, layer.lora_A[NAME].weight, layer.lora_B[NAME].weight, wanted.get(name))
    for name, layer in adapted.items():
        down, up, new = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight, wanted[name]
        rank = new.a.shape[0]
        down.zero_()[:rank] = new.a.to(down)
        up.zero_()[:, :rank] = new.b.to(up)
        layer.scaling[NAME] = new.scale


@torch.no_grad()
def put_in(layer: torch.nn.Module, a: torch.Tensor, b: torch.Tensor) -> None:
    """Write an A (r × n_in) and a B (n_out × r) into one PEFT LoRA layer; its scale stays.

    Raises:
        CourseError: the layer's own A and B have other shapes, most often another rank.
    """
    down, up = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
    if (a.shape, b.shape) != (down.shape, up.shape):
        here, there = (
            f"A is {' × '.join(map(str, one.shape))} and B is {' × '.join(map(str, two.shape))}"
            for one, two in ((a, b), (down, up))
        )
        raise CourseError(
            f"An A of rank {a.shape[0]} does not fit into a layer whose adapter has rank {down.shape[0]}: "
            f"{here}; in the layer {there}.",
            "An adapter keeps the shapes that it was added with. Probably r was changed after that.",
            "Run the cell that calls get_peft_model again, then those below it.",
        )
    down.copy_(a)
    up.copy_(b)


def _check_fit(name: str, down: torch.Tensor, up: torch.Tensor, new: Factors | None) -> None:
    if new is None or new.a.shape[1] != down.shape[1] or new.b.shape[0] != up.shape[0]:
        there = f"{new.b.shape[0]} × {new.a.shape[1]}" if new else "absent"
        raise CourseError(
            f"The adapter does not fit this model: {name} is {up.shape[0]} × {down.shape[1]} here, and "
            f"{there} in the adapter.",
            "It was trained on another base model, or on other layers.",
            "Load the base model that its adapter_config.json names.",
        )
    if new.a.shape[0] > down.shape[0]:
        raise CourseError(
            f"The adapter of rank {new.a.shape[0]} does not fit into one of rank {down.shape[0]}.",
            "A and B keep their size.",
            "Load a model whose adapter has at least that rank.",
        )


def rescale(model: torch.nn.Module, times: float) -> None:
    """Multiply the scale of every layer, as if ``alpha`` were ``times`` as large *after* training.

    The update is linear in alpha: at 0 the base model answers. An adapter that was *trained* with that alpha is
    another one.
    """
    for layer in layers(model).values():
        layer.scaling[NAME] *= times


def _compact_svd(one: Factors) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """U (n_out × k), S (k), V (n_in × k) of B·A, k = min(r, n_in, n_out), without ever forming B·A.

    With the QR decompositions B = Q·R and Aᵀ = P·T, the product is Q·(R·Tᵀ)·Pᵀ. The matrix in the middle is only
    r × r, and Q and P turn its singular vectors without changing its singular values.
    """
    if not (one.a.isfinite().all() and one.b.isfinite().all()):
        raise CourseError(
            "This adapter holds numbers that are infinite or none at all (NaN).",
            "Its training diverged, and such a matrix has no singular values.",
            "Train it again with a smaller learning rate or alpha.",
        )
    q, r = torch.linalg.qr(one.b)
    p, t = torch.linalg.qr(one.a.T)
    u, s, vt = torch.linalg.svd(r @ t.T, full_matrices=False)
    return q @ u, s, p @ vt.T


def spectrum(one: Factors) -> torch.Tensor:
    """Singular values of a layer's change ``scale`` · B·A, largest first: how far it reaches in each of its
    r directions."""
    return abs(one.scale) * _compact_svd(one)[1]


def truncate(one: Factors, rank: int) -> Factors:
    """The best approximation of rank ``rank`` of a layer's change (Eckart & Young 1936): its largest singular
    values, each shared evenly between A and B. At full rank it is the same change.

    Raises:
        CourseError: ``rank`` is not a whole number ≥ 1.
    """
    check_whole("rank", rank, 1)
    u, s, v = _compact_svd(one)
    root = s[:rank].sqrt()
    return Factors(root[:, None] * v[:, :rank].T, u[:, :rank] * root, one.scale)


def directions_for(values: torch.Tensor, share: float = 0.9) -> int:
    """How many of the largest singular values carry this share of the change's squared size.

    0 for a change that is all zeros.
    """
    if not 0 < share <= 1:
        raise CourseError(
            f"share = {share!r} is not above 0 and at most 1.",
            "It is a part of the whole.",
            "Write 0.9 for 90 %.",
        )
    energy = values.double().square().cumsum(0)
    if not energy.numel() or energy[-1] == 0:
        return 0
    return int((energy < share * energy[-1] * (1 - 1e-12)).sum()) + 1


def redraw(model: torch.nn.Module, a: float, b: float) -> None:
    """Draw every A and every B of an adapter anew, with the homework's seed; to try out starts.

    Args:
        model: a PEFT model.
        a: spread of A's numbers, normally distributed around 0. With 1 a layer's output is about as large as
            its input (a standard deviation of 1 / √columns); with 0 all are zeros.
        b: the same for B.
    """
    # Another one may be active where a cell was stopped.
    model.set_adapter(NAME)
    torch.manual_seed(SEED)
    for name, parameter in model.named_parameters():
        for matrix, spread in (("lora_A", a), ("lora_B", b)):
            if f"{matrix}.{NAME}." in name:
                torch.nn.init.normal_(parameter, std=spread / math.sqrt(parameter.shape[1]))


def largest_gradients(model: torch.nn.Module) -> tuple[float, float]:
    """The largest absolute gradient in all A, and in all B, after ``loss.backward()``."""

    def largest(matrix: str) -> float:
        sizes = (
            parameter.grad.abs().max().item()
            for name, parameter in model.named_parameters()
            if matrix in name and parameter.grad is not None
        )
        return max(sizes, default=0.0)

    return largest("lora_A"), largest("lora_B")


def read_factors(folder: str | Path) -> dict[str, Factors]:
    """A, B and scale of every layer, from an adapter's two files; no model is loaded.

    Raises:
        CourseError: a file is missing or damaged, or holds another kind of adapter.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / ADAPTER)
        if config["use_dora"] or config["rank_pattern"] or config["alpha_pattern"]:
            raise ValueError("it is not a plain LoRA adapter with one rank")
        scale = lora.scaling(config["r"], config["lora_alpha"], config["use_rslora"])
        found = {}
        for key in tensors:
            if key.endswith(".lora_A.weight"):
                name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                up = tensors[key.replace(".lora_A.", ".lora_B.")]
                found[name] = Factors(tensors[key].float(), up.float(), scale)
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

    ``values`` names layers as `layers` does; NaN stands where a projection has no adapter.
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
    for name, layer in layers(model).items():
        found[name] = (layer.get_delta_weight(NAME).norm() / base_weight(layer).norm()).item()
    return found


def four_bits(layer: torch.nn.Module):
    """The shape and the scales of a layer's weight that is stored in 4 bits (bitsandbytes' ``QuantState``).

    Raises:
        CourseError: it is stored in 16 or 32 bits.
    """
    state = getattr(layer.weight, "quant_state", None)
    if state is None:
        raise CourseError(
            f"This layer's weight is stored as {layer.weight.dtype}, not in 4 bits.",
            "Its model was loaded with load_in_4bit=False.",
            "Load it with load_in_4bit=True, and run the cells from that one on.",
        )
    return state


@torch.no_grad()
def base_weight(layer: torch.nn.Module) -> torch.Tensor:
    """The frozen weight below an adapter: n_out × n_in, float32, unpacked where it is stored in 4 bits."""
    from bitsandbytes.functional import dequantize_4bit

    weight = layer.get_base_layer().weight
    state = getattr(weight, "quant_state", None)
    return (weight if state is None else dequantize_4bit(weight.data, state)).float()
