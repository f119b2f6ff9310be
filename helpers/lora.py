"""LoRA arithmetic on shapes: how many numbers it trains, and how strongly they act."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

from helpers.errors import CourseError, check_positive, check_whole, need_switch
from helpers.presets import MODELS, PROJECTIONS

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def model_config(config: "PretrainedConfig | str") -> "PretrainedConfig | SimpleNamespace":
    """The shape of a preset, by the names that a Transformers config gives it; or the given config, its fields checked.

    For a preset's name Transformers is not needed.
    """
    if isinstance(config, str):
        if config not in MODELS:
            raise CourseError(
                f"{config!r} is not a preset.",
                f"Presets are {', '.join(MODELS)}.",
                "Use one of them, or pass a Transformers config.",
            )
        return SimpleNamespace(**MODELS[config].shape)
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


def scaling(r: int, alpha: float, use_rslora: bool = False) -> float:
    """Factor in front of B·A: alpha / r (Hu et al. 2021, section 4.1), or alpha / √r for rank-stabilised
    LoRA (Kalajdzievski 2023, equation 2)."""
    r, alpha = check_whole("r", r, 1), check_positive("alpha", alpha)
    need_switch(use_rslora, "use_rslora")
    return alpha / math.sqrt(r) if use_rslora else alpha / r
