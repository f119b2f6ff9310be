"""What a training set-up will take on a GPU: memory in GiB, part by part, and minutes on a T4.

The parts are counted from the model's shape. A few numbers are not: how much of one block lives at once,
and what the allocator adds. They were fitted to peaks of ``torch.cuda.max_memory_reserved()`` of Llama-2-7B
and Llama-3.2-3B on a GPU limited to a T4's memory and on a T4's code path (Unsloth 2026.10.9; gpu/results.json has
them all).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from helpers import lora
from helpers.errors import CourseError, check_whole, need_switch
from helpers.presets import CUDA_CONTEXT_GIB, PROJECTIONS, T4_MEMORY_GIB

if TYPE_CHECKING:
    from transformers import PretrainedConfig

GIB = 2**30

# NF4 keeps half a byte a number, one byte of scale for each block of 64, and with double quantisation one
# float32 for each 256 of these scales (Dettmers et al. 2023, section 3).
BYTES_PER_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)

# Of one block, which is recomputed in the backward pass, these many 16-bit numbers live at once for each
# token: HIDDEN × hidden size + INNER × intermediate size. Where an MLP projection has no adapter, Unsloth's
# fused MLP is not used, and more of them live. Fitted, see above.
HIDDEN, INNER, INNER_NOT_FUSED = 8, 5.25, 7
MLP = {"gate_proj", "up_proj", "down_proj"}
# What the allocator and small tensors add, and bytes a trained parameter that it cannot use again: gaps between
# gradients. Fitted.
ALLOCATOR_GIB, GAPS = 0.11, 0.2

# Unsloth moves the input embedding to the host when what it reserves for a step does not fit beside weights and
# adapter: in 16 bits, and in 4 bits from about r = 190 on. The reserve, in bytes: 48 a token and hidden number, 4 a
# logit, 16 a trained parameter, then a sixteenth more and 256 MiB, for one row of the course's 2048 tokens
# (unsloth_zoo, estimate_training_reserve_bytes).
RESERVED_TOKENS = 2048

# Without Unsloth's fused loss the logits exist several times: 16-bit and float32 values, their softmax
# and its gradients, in all about this many bytes a logit. Fitted to the peaks of Transformers, PEFT and TRL.
BYTES_PER_LOGIT = 17

# Tokens at once beyond which more of them bring little. On an H100 8 rows of 192 tokens at once trained 1.6 times
# as fast as 4, but 8 rows of 1000 only 1.15 times as fast as 4, and 4 rows of 2048 1.14 times as fast as 2
# (gpu/results.json). A T4 was not measured.
BUSY_TOKENS = 4096

# Left free when the rows at once are chosen, in GiB: the estimate may be a little low.
SPARE_GIB = 1.0

# Tokens a second that a T4 trains of a 7B model in 4 bits. An estimate: 6 operations a parameter and
# token (forward, recomputation and backward, Kaplan et al. 2020) at 10 to 30 % of the T4's 65 TFLOP/s.
T4_FLOPS = (6.5e12, 19.5e12)


@dataclass(frozen=True)
class Estimate:
    """Memory while training, in GiB. ``total`` predicts ``torch.cuda.max_memory_reserved()``."""

    weights: float
    adapter: float
    gradients: float
    optimizer: float
    activations: float
    overhead: float
    context: float = CUDA_CONTEXT_GIB

    @property
    def total(self) -> float:
        """Everything but the CUDA context, which PyTorch does not count."""
        parts = (self.weights, self.adapter, self.gradients, self.optimizer, self.activations)
        return sum(parts) + self.overhead

    def fits(self, gib: float = T4_MEMORY_GIB) -> bool:
        """Whether it fits beside the CUDA context."""
        return self.total + self.context <= gib


def weight_gib(config: "PretrainedConfig | str", bits: int = 4, rest_bits: int = 16) -> float:
    """The model's weights in GiB.

    In 4 and 8 bits only the projections are quantised. The rest has ``rest_bits``: 16, or 32 on a processor
    that does not compute with bfloat16.
    """
    if bits not in (4, 8, 16, 32):
        raise CourseError(
            f"{bits} bits are not a known precision.",
            "Known are 4, 8, 16 and 32.",
            "Choose one of them.",
        )
    config = lora.model_config(config)
    total = lora.base_parameters(config)
    if bits in (16, 32):
        return total * bits / 8 / GIB
    shapes = lora.projection_shapes(config).values()
    quantised = config.num_hidden_layers * sum(n_in * n_out for n_in, n_out in shapes)
    rows = config.num_hidden_layers * sum(n_out for _, n_out in shapes)
    # 8 bits: one byte a number and a float32 scale for each output row (Dettmers et al. 2022).
    packed = quantised * BYTES_PER_NF4 if bits == 4 else quantised + 4 * rows
    return (packed + (total - quantised) * rest_bits / 8) / GIB


def estimate(
    config: "PretrainedConfig | str",
    *,
    r: int,
    per_device_train_batch_size: int,
    max_length: int,
    target_modules: Sequence[str] = PROJECTIONS,
    load_in_4bit: bool = True,
    stack: str = "unsloth",
) -> Estimate:
    """Predict the peak of memory while training a LoRA adapter.

    Args:
        config: a Transformers config, or a preset name such as ``"llama-2-7b"``.
        r: the rank.
        per_device_train_batch_size: rows at once, which go through the GPU together; not rows an update.
        max_length: tokens of each of these rows.
        target_modules: adapted projections.
        load_in_4bit: NF4 weights, else 16-bit ones.
        stack: ``"unsloth"``, or ``"transformers"`` for Transformers, PEFT and TRL alone.

    The terms, in bytes; n is the number of trained parameters:

    - weights: (½ + 1/64 + 4/16384) a number of the projections (NF4 with double quantisation, Dettmers et al. 2023,
      section 3), 2 a number of embedding, norms and output head;
    - adapter: 4·n, gradients: 4·n (float32, as Unsloth keeps them on a GPU);
    - optimizer: 2·n (two 8-bit averages, Dettmers et al. 2022, "8-bit Optimizers");
    - activations: rows · tokens · 2 · (8·hidden + 5.25·intermediate), one block as it is recomputed (gradient
      checkpointing, Chen et al. 2016). The blocks' inputs are in host memory, and Unsloth's fused loss never holds
      all logits. 7 in place of 5.25 where its fused MLP is off. The factors are fitted, see above;
    - overhead: 2 · 2 · the numbers of the largest projection, unpacked to 16 bits twice, n/5, and 0.11 GiB (fitted).

    With ``stack="transformers"`` the inputs of every block (2·layers·hidden a token) and the logits (17 bytes each)
    stay on the GPU; PEFT turns the unquantised weights of a 4-bit model into float32, and a 16-bit copy of the
    output matrix lives beside it.
    """
    per_device_train_batch_size = check_whole(
        "per_device_train_batch_size", per_device_train_batch_size, 1
    )
    max_length = check_whole("max_length", max_length, 1)
    need_switch(load_in_4bit, "load_in_4bit")
    if stack not in ("unsloth", "transformers"):
        raise CourseError(
            f"stack = {stack!r} is unknown.",
            "It is 'unsloth' or 'transformers'.",
            "Choose one of them.",
        )
    config = lora.model_config(config)
    trained = lora.adapter_parameters(config, r, target_modules)
    weights = weight_gib(config, 4 if load_in_4bit else 16)
    vocabulary = 2 * config.vocab_size * config.hidden_size / GIB
    inner = INNER if set(target_modules) >= MLP else INNER_NOT_FUSED
    per_token = 2 * (HIDDEN * config.hidden_size + inner * config.intermediate_size)
    if stack == "transformers":
        per_token += 2 * config.num_hidden_layers * config.hidden_size
        per_token += BYTES_PER_LOGIT * config.vocab_size
        weights += 3 * vocabulary if load_in_4bit else 0
    elif not config.tie_word_embeddings:
        room = T4_MEMORY_GIB - CUDA_CONTEXT_GIB - weights - 4 * trained / GIB
        reserve = RESERVED_TOKENS * (48 * config.hidden_size + 4 * config.vocab_size) + 16 * trained
        weights -= vocabulary if room < 17 / 16 * reserve / GIB + 1 / 4 else 0
    overhead = ALLOCATOR_GIB + GAPS * trained / GIB
    if load_in_4bit:
        largest = max(n_in * n_out for n_in, n_out in lora.projection_shapes(config).values())
        overhead += 2 * 2 * largest / GIB
    return Estimate(
        weights=weights,
        adapter=4 * trained / GIB,
        gradients=4 * trained / GIB,
        optimizer=2 * trained / GIB,
        activations=per_device_train_batch_size * max_length * per_token / GIB,
        overhead=overhead,
    )


def per_device_train_batch_size(
    config: "PretrainedConfig | str",
    *,
    r: int,
    rows_per_update: int,
    max_length: int,
    gib: float,
    target_modules: Sequence[str] = PROJECTIONS,
) -> int:
    """The fewest rows at once that keep a GPU busy, as far as they are predicted to fit into ``gib`` GiB.

    They divide ``rows_per_update``. More rows at once need fewer, fuller steps for the same update; beyond
    `BUSY_TOKENS` they only cost memory. At least 1, also where nothing fits.
    """
    best, max_length = 1, check_whole("max_length", max_length, 1)
    for rows in divisors(check_whole("rows_per_update", rows_per_update, 1)):
        needed = estimate(
            config,
            r=r,
            per_device_train_batch_size=rows,
            max_length=max_length,
            target_modules=target_modules,
        )
        if not needed.fits(gib):
            break
        best = rows
        if rows * max_length >= BUSY_TOKENS:
            break
    return best


def divisors(count: int) -> list[int]:
    """The numbers that divide ``count`` evenly, ascending; quick for a large one too."""
    small = [n for n in range(1, math.isqrt(count) + 1) if count % n == 0]
    return sorted({*small, *(count // n for n in small)})


def minutes_on_t4(config: "PretrainedConfig | str", tokens: int) -> tuple[float, float]:
    """Shortest and longest estimate, in minutes, for training ``tokens`` tokens on a T4."""
    operations = 6 * lora.base_parameters(config) * int(tokens)
    return operations / T4_FLOPS[1] / 60, operations / T4_FLOPS[0] / 60
