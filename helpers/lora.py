"""LoRA arithmetic: how many numbers it trains, how strongly they act, and what a trained adapter holds."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from helpers.errors import CourseError, check_positive, check_whole, need_switch
from helpers.presets import MODELS, PROJECTIONS, SEED

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class Counts(NamedTuple):
    """True parameter counts of a model."""

    trainable: int
    total: int

    @property
    def share(self) -> float:
        """Trainable share, 0 to 1."""
        return self.trainable / self.total


def model_config(config: "PretrainedConfig | str") -> "PretrainedConfig":
    """The Transformers config of a preset name, or the given config after a check of its fields."""
    if isinstance(config, str):
        if config not in MODELS:
            raise CourseError(
                f"{config!r} is not a preset.",
                f"Presets are {', '.join(MODELS)}.",
                "Use one of them, or pass a Transformers config.",
            )
        from transformers import LlamaConfig

        return LlamaConfig(**MODELS[config].shape)
    needed = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    missing = [name for name in (*needed, "vocab_size") if not hasattr(config, name)]
    if missing:
        raise CourseError(
            f"This config has no {', '.join(missing)}.",
            "The course's arithmetic knows models shaped like Llama.",
            "Use the config of a Llama, Mistral, Qwen2 or SmolLM2 model.",
        )
    return config


def projection_shapes(config: "PretrainedConfig | str") -> dict[str, tuple[int, int]]:
    """``{projection: (n_in, n_out)}`` in features, for one Llama block.

    With grouped-query attention the key and value projections are narrower than the query's.
    """
    config = model_config(config)
    hidden, inner = config.hidden_size, config.intermediate_size
    head = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    queries = head * config.num_attention_heads
    keys = head * (getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    shapes = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    shapes += [(hidden, inner), (hidden, inner), (inner, hidden)]
    return dict(zip(PROJECTIONS, shapes, strict=True))


def adapter_parameters(
    config: "PretrainedConfig | str", r: int, target_modules: Sequence[str] = PROJECTIONS
) -> int:
    """Number of trainable parameters that rank-``r`` LoRA adds to a Llama-shaped model.

    Each adapted projection from ``n_in`` to ``n_out`` features gains A (r × n_in) and B (n_out × r):
    r · (n_in + n_out) numbers (Hu et al. 2021, section 4.1).

    Args:
        config: a Transformers config, or a preset name such as ``"llama-2-7b"``.
        r: the rank, a whole number ≥ 1.
        target_modules: projection names, a subset of ``PROJECTIONS``.

    Raises:
        CourseError: r is not a whole number ≥ 1, or a name is not a projection of this model.
    """
    r = check_whole("r", r, 1)
    config = model_config(config)
    shapes = projection_shapes(config)
    one = isinstance(target_modules, str)
    unknown = [] if one else [name for name in target_modules if name not in shapes]
    if one or unknown or not len(target_modules):
        raise CourseError(
            f"{unknown or target_modules!r} is not a list of projections.",
            f"A Llama block has {', '.join(PROJECTIONS)}.",
            "Choose one or more of them.",
        )
    return config.num_hidden_layers * r * sum(sum(shapes[name]) for name in set(target_modules))


def base_parameters(config: "PretrainedConfig | str") -> int:
    """Number of parameters of the model itself: projections, norms, embedding and output head."""
    config = model_config(config)
    block = sum(n_in * n_out for n_in, n_out in projection_shapes(config).values())
    norms = 2 * config.hidden_size
    embedding = config.vocab_size * config.hidden_size
    heads = 1 if config.tie_word_embeddings else 2
    return config.num_hidden_layers * (block + norms) + config.hidden_size + heads * embedding


def count_parameters(model: torch.nn.Module) -> Counts:
    """True parameter counts, also of a 4-bit model.

    bitsandbytes stores a 4-bit weight as bytes that hold two numbers each, so ``p.numel()`` counts half.
    The weight's ``quant_state`` remembers the true shape.
    """
    trainable = total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        numbers = math.prod(state.shape) if state is not None else parameter.numel()
        total += numbers
        trainable += numbers if parameter.requires_grad else 0
    return Counts(trainable, total)


def scaling(r: int, alpha: float, use_rslora: bool = False) -> float:
    """Factor in front of B·A: alpha / r (Hu et al. 2021, section 4.1), or alpha / √r for rank-stabilised
    LoRA (Kalajdzievski 2023, equation 2)."""
    r, alpha = check_whole("r", r, 1), check_positive("alpha", alpha)
    need_switch(use_rslora, "use_rslora")
    return alpha / math.sqrt(r) if use_rslora else alpha / r


@torch.no_grad()
def delta_weight(layer: torch.nn.Module, adapter: str = "default") -> torch.Tensor:
    """ΔW = scaling · B·A of one PEFT LoRA layer: n_out × n_in, float32, ready to add to the weight."""
    down = layer.lora_A[adapter].weight.float()
    up = layer.lora_B[adapter].weight.float()
    return layer.scaling[adapter] * (up @ down)


class Factors(NamedTuple):
    """One layer's adapter in float32: its change of the weight is ``scale`` · B·A.

    ``a`` is r × n_in, ``b`` is n_out × r.
    """

    a: torch.Tensor
    b: torch.Tensor
    scale: float


def layers(model: torch.nn.Module, adapter: str = "default") -> dict[str, torch.nn.Module]:
    """Every PEFT LoRA layer of a model that holds this adapter, by its name in the base model.

    Raises:
        CourseError: the model has no such adapter.
    """
    found = {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if adapter in getattr(module, "lora_A", {})
    }
    if not found:
        raise CourseError(
            f"This model has no LoRA adapter named {adapter!r}.",
            "It is a base model, or its adapter was merged.",
            "Load a trained run: models.load(run.folder).",
        )
    return found


def factors(model: torch.nn.Module, adapter: str = "default") -> dict[str, Factors]:
    """A copy of every layer's A, B and scale."""
    return {
        name: Factors(
            layer.lora_A[adapter].weight.detach().float().clone(),
            layer.lora_B[adapter].weight.detach().float().clone(),
            layer.scaling[adapter],
        )
        for name, layer in layers(model, adapter).items()
    }


@torch.no_grad()
def put_factors(
    model: torch.nn.Module, wanted: dict[str, Factors], adapter: str = "default"
) -> None:
    """Write A, B and scale into a model. Where they have a lower rank, the rest is filled with zeros.

    Raises:
        CourseError: they belong to another base model, to other layers, or have a higher rank.
    """
    adapted = layers(model, adapter)
    for name, layer in adapted.items():
        _check_fit(
            name, layer.lora_A[adapter].weight, layer.lora_B[adapter].weight, wanted.get(name)
        )
    for name, layer in adapted.items():
        down, up, new = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight, wanted[name]
        rank = new.a.shape[0]
        down.zero_()[:rank] = new.a.to(down)
        up.zero_()[:, :rank] = new.b.to(up)
        layer.scaling[adapter] = new.scale


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


def rescale(model: torch.nn.Module, times: float, adapter: str = "default") -> None:
    """Multiply the scale of every layer, as if ``alpha`` were ``times`` as large *after* training.

    The update is linear in alpha: at 0 the base model answers. An adapter that was *trained* with that alpha is
    another one.
    """
    for layer in layers(model, adapter).values():
        layer.scaling[adapter] *= times


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


def redraw(model: torch.nn.Module, a: float, b: float, adapter: str = "default") -> None:
    """Draw every A and every B of an adapter anew, with the homework's seed; to try out starts.

    Args:
        model: a PEFT model.
        a: spread of A's numbers, normally distributed around 0. With 1 a layer's output is about as large as
            its input (a standard deviation of 1 / √columns); with 0 all are zeros.
        b: the same for B.
        adapter: the adapter's name.
    """
    torch.manual_seed(SEED)
    for name, parameter in model.named_parameters():
        for matrix, spread in (("lora_A", a), ("lora_B", b)):
            if f"{matrix}.{adapter}." in name:
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
