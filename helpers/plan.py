"""What a choice costs, in words, numbers and warnings; and the code that trains it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from helpers import cautions, lora, memory, presets
from helpers.choice import Choice
from helpers.errors import check_whole
from helpers.presets import MAX_CONVERSATIONS, T4_MEMORY_GIB

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LENGTHS = (256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Plan:
    """A choice with everything that follows from it, for one model on a T4.

    ``rows`` are training rows, ``lengths`` their tokens where they are known, and ``longest`` the most tokens of one.
    ``trained`` and ``total`` count parameters, ``file_mib`` is the saved adapter (float32), ``steps`` are updates of the
    adapter, ``tokens`` what is trained on (at most, where lengths are not known), ``minutes`` shortest and longest
    estimate for a T4.
    """

    choice: Choice
    config: "PretrainedConfig"
    rows: int
    lengths: tuple[int, ...]
    longest: int
    rows_at_once: int
    trained: int
    total: int
    scale: float
    file_mib: float
    steps: int
    tokens: int
    minutes: tuple[float, float]
    estimate: memory.Estimate

    @property
    def fits(self) -> bool:
        """Whether training fits on a T4, beside the CUDA context."""
        return self.estimate.fits()


def of(
    choice: Choice,
    config: "PretrainedConfig | str" = "llama-2-7b",
    rows: int = MAX_CONVERSATIONS,
    lengths: Sequence[int] = (),
) -> Plan:
    """The plan of a choice.

    Args:
        choice: what would be trained.
        config: a preset name or a Transformers config of a model shaped like Llama.
        rows: training rows; each is counted with the longest length that is allowed.
        lengths: tokens of each training row, if the rows are known; ``rows`` does not count then.

    Raises:
        CourseError: the config is not Llama-like, or the choice means nothing.
    """
    config = lora.model_config(config)
    rows = len(lengths) or check_whole("rows", rows, 1)
    kept = [min(length, choice.max_length) for length in lengths] or [choice.max_length] * rows
    trained = lora.adapter_parameters(config, choice.r, choice.target_modules)
    at_once = choice.per_device_train_batch_size or memory.per_device_train_batch_size(
        config,
        r=choice.r,
        rows_per_update=choice.rows_per_update,
        max_length=max(kept),
        gib=T4_MEMORY_GIB - memory.SPARE_GIB,
        target_modules=choice.target_modules,
    )
    tokens = round(sum(kept) * choice.num_train_epochs)
    return Plan(
        choice=choice,
        config=config,
        rows=rows,
        lengths=tuple(lengths),
        longest=max(kept),
        rows_at_once=at_once,
        trained=trained,
        total=trained + lora.base_parameters(config),
        scale=lora.scaling(choice.r, choice.lora_alpha, choice.use_rslora),
        file_mib=4 * trained / 2**20,
        steps=choice.count_steps(rows),
        tokens=tokens,
        minutes=memory.minutes_on_t4(config, tokens),
        estimate=memory.estimate(
            config,
            r=choice.r,
            per_device_train_batch_size=at_once,
            max_length=max(kept),
            target_modules=choice.target_modules,
        ),
    )


def smallest_change(too_large: Plan) -> tuple[str, Plan] | None:
    """The first single change that makes a plan fit, in words, with the plan that it gives.

    Fewer rows at once come first, since they change no result; then shorter rows, then a lower rank. None where
    the plan fits, or where no single change helps.
    """
    if too_large.fits:
        return None
    choice = too_large.choice
    tries = [
        (
            f"{rows} rows at once instead of {too_large.rows_at_once}",
            {"per_device_train_batch_size": rows},
        )
        for rows in reversed(memory.divisors(choice.rows_per_update))
        if rows < too_large.rows_at_once
    ]
    tries += [
        (f"rows of at most {length:,} tokens", {"max_length": length})
        for length in reversed(LENGTHS)
        if max(too_large.lengths or [0]) <= length < choice.max_length
    ]
    tries += [
        (f"r = {2**power}", {"r": 2**power})
        for power in range(math.ceil(math.log2(choice.r)) - 1, -1, -1)
    ]
    for words, change in tries:
        smaller = of(replace(choice, **change), too_large.config, too_large.rows, too_large.lengths)
        if smaller.fits:
            return words.replace("1 rows", "1 row"), smaller
    return None


def warnings_for(
    choice: Choice,
    config: "PretrainedConfig | str" = "llama-2-7b",
    rows: int = MAX_CONVERSATIONS,
) -> list[str]:
    """What a student should know about a choice before training with it; arguments as those of `of`.

    Each says what was measured, calculated or read, and what to take instead.
    """
    worked_out = of(choice, config, rows)
    too_much = [] if worked_out.fits else [too_large(worked_out)]
    return [*too_much, *_notes(worked_out)]


def _notes(worked_out: Plan) -> list[str]:
    """What else than memory speaks against a plan, the gravest first."""
    c, config = worked_out.choice, worked_out.config
    return [
        *cautions.extremes(c, config),
        *cautions.contradictions(worked_out),
        *cautions.about_dropout(c),
    ]


def too_large(worked_out: Plan) -> str:
    """That a plan does not fit on a T4, and the change that makes it fit."""
    e = worked_out.estimate
    change = smallest_change(worked_out)
    helps = f"It would fit with {change[0]}." if change else "No single change makes it fit."
    return (
        f"Rows of {worked_out.longest:,} tokens take {e.total:.1f} + {e.context:.1f} GiB, and a T4 has "
        f"{T4_MEMORY_GIB}. {helps}"
    )


def peft_code(choice: Choice) -> str:
    """The call of ``get_peft_model`` for a choice; what differs from the homework's is marked."""
    return _call("model = FastLanguageModel.get_peft_model", ["model"], choice.adapter_arguments())


def training_code(worked_out: Plan) -> str:
    """The ``SFTConfig`` for a plan; what differs from the homework's is marked."""
    values = worked_out.choice.training_arguments(
        worked_out.rows, worked_out.rows_at_once, cautions.usual_learning_rate(worked_out.config)
    )
    return _call("config = SFTConfig", [], values)


# What the homework's cells hold, for the marks. Its batch is 2 rows × 4; so many at once is derived here.
HOMEWORK = Choice().adapter_arguments() | Choice().training_arguments(
    MAX_CONVERSATIONS, 2, presets.MODELS["llama-2-7b"].learning_rate
)


def _call(name: str, positional: list[str], values: dict) -> str:
    lines = [f"{name}("] + [f"    {argument}," for argument in positional]
    for argument, value in values.items():
        usual = HOMEWORK.get(argument, value)
        mark = "" if value == usual else f"  # the homework: {usual!r}"
        lines.append(f"    {argument}={value!r},{mark}")
    return "\n".join([*lines, ")"])


def describe(worked_out: Plan, tokens_per_minute: float | None = None) -> str:
    """A plan's `readouts` as text."""
    found = readouts(worked_out, tokens_per_minute)
    return "\n".join(f"{name:<11}{value}".rstrip() for name, value in found)


def verdict(worked_out: Plan) -> str:
    """Whether a plan fits on a T4, in words; where it does not, the change that helps."""
    if worked_out.fits:
        return "fits on a T4"
    change = smallest_change(worked_out)
    return "does not fit on a T4" + (f"; it would with {change[0]}" if change else "")


def readouts(worked_out: Plan, tokens_per_minute: float | None = None) -> list[tuple[str, str]]:
    """What a plan costs, ``(name, value)`` a line. Minutes come from a measured rate where there is one."""
    c, e = worked_out.choice, worked_out.estimate
    formula = "alpha / √r" if c.use_rslora else "alpha / r"
    rows = "1 row" if worked_out.rows_at_once == 1 else f"{worked_out.rows_at_once} rows"
    derived = "" if c.per_device_train_batch_size else " (chosen for you)"
    short, long = map(_rounded, worked_out.minutes)
    time = f"{short} to {long} min on a T4, by arithmetic alone"
    if tokens_per_minute:
        time = (
            f"{_rounded(worked_out.tokens / tokens_per_minute)} min at the rate of your newest run"
        )
    known = worked_out.lengths
    dropout = f", lora_dropout = {c.lora_dropout:g}" if c.lora_dropout else ""
    return [
        ("choice", f"r = {c.r}, lora_alpha = {c.lora_alpha:g}{dropout}"),
        (
            "trainable",
            f"{worked_out.trained:,} of {worked_out.total:,} = {worked_out.trained / worked_out.total:.2%}",
        ),
        ("scale", f"{formula} = {worked_out.scale:g}"),
        ("file", f"{worked_out.file_mib:,.0f} MiB"),
        ("memory", f"{e.total:.2f} + {e.context:.2f} GiB: {verdict(worked_out)}"),
        (
            "",
            f"{rows} of {worked_out.longest:,} tokens at once{derived}, {c.rows_per_update} rows an update",
        ),
        ("time", time if known else f"at most {time}"),
        (
            "",
            f"{worked_out.steps} updates, {worked_out.tokens:,} tokens "
            + ("in the rows you chose" if known else "if every row is full"),
        ),
        *(("note", warning) for warning in _notes(worked_out)),
    ]


def _rounded(minutes: float) -> str:
    return f"{minutes:.0f}" if minutes >= 10 else f"{minutes:.1f}"


def compare(a: Plan, b: Plan) -> str:
    """Two plans side by side, and how many times as large the second is."""
    rows = [
        ("trainable", a.trained, b.trained, ",.0f"),
        ("scale", a.scale, b.scale, "g"),
        ("file, MiB", a.file_mib, b.file_mib, ",.0f"),
        ("memory, GiB", a.estimate.total, b.estimate.total, ".2f"),
        ("tokens", a.tokens, b.tokens, ",.0f"),
        ("updates", a.steps, b.steps, "g"),
    ]
    lines = [f"{'':<12}{'A: pinned':>16}{'B: now':>16}{'B / A':>9}"]
    lines += [f"{'r, alpha':<12}{_pair(a):>16}{_pair(b):>16}"]
    for name, one, two, form in rows:
        times = f"{two / one:.2f}" if one else "–"  # a part of an epoch may be less than a token
        lines.append(f"{name:<12}{one:>16{form}}{two:>16{form}}{times:>9}")
    return "\n".join(lines)


def _pair(one: Plan) -> str:
    return f"{one.choice.r}, {one.choice.lora_alpha:g}"
