"""What to know about a choice before training with it: settings that do harm, gain nothing, or contradict each other."""

import math
from typing import TYPE_CHECKING

from helpers import lora, presets
from helpers.choice import Choice

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from helpers.plan import Plan

# What extreme settings did to the small model: loss on the 16 held-out rows for looking after the course's 100
# conversations, all else as in `Choice` (tools/extremes.py; one H200 with a T4's number formats, 2026-11-28). It was 3.35
# before training, and 2.31 after it with r = 16, alpha = 16, learning rate 0.002 and 2 epochs. Not warned of: alpha 1
# (2.54), 64 (2.31), 256 (2.48); learning rate 0.0002 (2.89), 0.006 (2.33). Of alpha and alpha / r the first counts: with
# alpha = 16, r = 1, 4 and 64 came to 2.33, 2.31 and 2.31; with alpha = r to 2.55, 2.38 and 2.32.
UNTRAINED, USUAL, NAN = 3.35, 2.31, "NaN, which is no number,"
EXTREMES = {
    "learning_rate": ({2e-5: 3.31}, {0.02: 2.74, 0.2: NAN, 2: NAN}),
    "lora_alpha": ({0.0001: 3.35, 0.016: 3.30, 0.16: 3.00}, {1024: 3.42, 1e6: NAN}),
    "num_train_epochs": ({}, {8: 3.80, 15: 4.37}),
}
# The same with dropout.
DROPPED = {0.1: 2.31, 0.5: 2.31, 0.9: 2.35}
# From so many parameters on a model is as large as Llama-2-7B, and from such a learning rate on that is warned of. Not
# measured here: QLoRA took 2e-4 for 7B and 13B, 1e-4 for 33B and 65B (Dettmers et al. 2023, table 9), Alpaca-LoRA 3e-4
# for 7B.
LARGE, HIGH_RATE = 6e9, 1e-3
# The longest rows whose memory was measured (gpu/results.json).
LONGEST_MEASURED = 4096
# "Notebooks can run for at most 12 hours" (Colab's FAQ, on its free machines).
COLAB_HOURS = 12


def usual_learning_rate(config: "PretrainedConfig") -> float:
    """That of the preset with as many parameters, else the homework's."""
    size = lora.base_parameters(config)
    known = (m for name, m in presets.MODELS.items() if lora.base_parameters(name) == size)
    return next(known, presets.MODELS["llama-2-7b"]).learning_rate


def extremes(choice: Choice, config: "PretrainedConfig") -> list[str]:
    """Settings that let a model learn next to nothing, or break it, with the usual ones.

    Most are as extreme as one that did so to the small model; a learning rate can be so for a large model alone.
    """
    found, usual = [], {"learning_rate": usual_learning_rate(config)}
    for name, (small, large) in EXTREMES.items():
        value, said = getattr(choice, name), name
        if value is None:
            continue
        if name == "num_train_epochs" and choice.stages:
            value = max(epochs for _, epochs in choice.stages)
        if name == "lora_alpha" and choice.use_rslora:
            # As plain LoRA with alpha · √r: alpha / √r is alpha · √r / r.
            value, said = value * math.sqrt(choice.r), "lora_alpha · √r"
        as_small = [known for known in small if value <= known]
        as_large = [known for known in large if value >= known]
        take = f"Take {name} = {usual.get(name, getattr(Choice, name)):g}."
        if as_small or as_large:
            known = min(as_small) if as_small else max(as_large)
            loss = (small | large)[known]
            found.append(
                f"{said} = {value:g} is very {'low' if as_small else 'high'}. Training took the small model's "
                f"held-out loss from {UNTRAINED} to {USUAL} with the usual one, and to {loss} with {known:g}. {take}"
            )
        elif (
            name == "learning_rate" and value >= HIGH_RATE and lora.base_parameters(config) >= LARGE
        ):
            found.append(
                f"{name} = {value:g} is high for a model of this size: Llama-2-7B usually takes 1e-4 to 3e-4. With "
                f"larger steps the loss may climb, or become NaN. {take}"
            )
    return found


def about_dropout(choice: Choice) -> list[str]:
    """What dropout costs, and that it brought nothing.

    Unsloth 2026.10.9 drops inside its fast kernels (``FUSED_LORA_DROPOUT`` in kernels/fast_lora.py); earlier ones left
    them for PEFT's own, slower layers. The random numbers follow from the seed, and from how many rows go at once.
    """
    if not choice.lora_dropout:
        return []
    least, most = min(DROPPED), max(DROPPED)
    text = (
        f"lora_dropout = {choice.lora_dropout:g} sets that share of the adapter's inputs to zero at random. Each step does "
        "more work, memory was measured without it, and with more or fewer rows at once the result is not the same. It "
        f"did not help the small model: held-out loss {USUAL} without it, {DROPPED[least]} with {least}, "
        f"{DROPPED[most]} with {most}. Take lora_dropout = 0."
    )
    return [text]


def contradictions(worked_out: "Plan") -> list[str]:
    """Settings that contradict the model's shape, the number of rows, or the time there is."""
    return [*_with_the_model(worked_out), *_with_the_rows(worked_out)]


def _with_the_model(worked_out: "Plan") -> list[str]:
    c, config, found = worked_out.choice, worked_out.config, []
    shapes = lora.projection_shapes(config)
    own = sum(math.prod(shapes[name]) for name in {*c.target_modules})
    if worked_out.trained >= config.num_hidden_layers * own:
        found.append(
            f"r = {c.r} is no low rank here: A and B hold as many numbers as the layers they stand beside, or more. "
            "Take a smaller r."
        )
    positions = getattr(config, "max_position_embeddings", c.max_length)
    if c.max_length > positions:
        found.append(
            f"max_length = {c.max_length:,} is beyond the {positions:,} positions that the model was made for. Take no "
            "more than these."
        )
    if c.max_length > LONGEST_MEASURED:
        found.append(
            f"Memory was measured for rows of at most {LONGEST_MEASURED:,} tokens; beyond, the estimate was not checked."
        )
    return found


def _with_the_rows(worked_out: "Plan") -> list[str]:
    c, found = worked_out.choice, []
    if c.rows_per_update > worked_out.rows:
        found.append(
            f"rows_per_update = {c.rows_per_update} is more than the {worked_out.rows} rows: an epoch is one update, "
            f"{worked_out.steps} in all. Take fewer."
        )
    if cut := sum(length > c.max_length for length in worked_out.lengths):
        found.append(
            f"{cut} of the {worked_out.rows} rows are longer than max_length = {c.max_length:,}: training will refuse "
            f"them. Take max_length = {max(worked_out.lengths):,}, or choose shorter rows."
        )
    hours = worked_out.minutes[0] / 60
    if hours > COLAB_HOURS:
        found.append(
            f"{'' if worked_out.lengths else 'If every row is full, '}{c.num_train_epochs:g} epochs take at least "
            f"{hours:,.0f} hours on a T4, by arithmetic; a free Colab machine lives at most {COLAB_HOURS}. Take fewer."
        )
    return found
