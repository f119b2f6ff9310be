"""The lab's readouts: what follows from a choice, what would make it fit, and the code that writes it down."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import cautions, lora, memory, plan, presets
from helpers.choice import Choice
from helpers.errors import CourseError
from helpers.presets import MODELS, PROJECTIONS, T4_MEMORY_GIB

quick = settings(max_examples=40)


@st.composite
def choices(draw):
    batch = draw(st.sampled_from([1, 2, 4, 8, 16, 32]))
    at_once = [n for n in (1, 2, 4, 8) if batch % n == 0]
    return Choice(
        r=draw(st.sampled_from([1, 2, 8, 16, 64, 100, 256, 512])),
        lora_alpha=draw(st.sampled_from([1, 16, 32, 512])),
        target_modules=draw(
            st.lists(st.sampled_from(PROJECTIONS), min_size=1, unique=True).map(tuple)
        ),
        lora_dropout=draw(st.sampled_from([0.0, 0.05])),
        use_rslora=draw(st.booleans()),
        max_length=draw(st.sampled_from([256, 1000, 2048, 4096])),
        rows_per_update=batch,
        per_device_train_batch_size=draw(st.sampled_from([None, *at_once])),
        num_train_epochs=draw(st.sampled_from([0.5, 1, 2, 15])),
    )


models = st.sampled_from(sorted(MODELS))


@quick
@given(choices(), models)
def test_a_plan_holds_what_the_courses_arithmetic_says(choice, model):
    p = plan.of(choice, model)
    assert p.trained == lora.adapter_parameters(model, choice.r, choice.target_modules)
    assert p.total == p.trained + lora.base_parameters(model)
    assert p.scale == lora.scaling(choice.r, choice.lora_alpha, choice.use_rslora)
    assert p.file_mib * 2**20 == pytest.approx(4 * p.trained)
    assert choice.rows_per_update % p.rows_at_once == 0
    assert p.rows_at_once == (choice.per_device_train_batch_size or p.rows_at_once)
    assert p.fits == (p.estimate.total + p.estimate.context <= T4_MEMORY_GIB)
    assert p.minutes == memory.minutes_on_t4(model, p.tokens)


@quick
@given(choices(), models)
def test_the_smallest_change_is_one_change_and_makes_it_fit(choice, model):
    p = plan.of(choice, model)
    found = plan.smallest_change(p)
    if p.fits:
        assert found is None
        return
    if found is None:
        least = replace(choice, per_device_train_batch_size=1)
        assert not plan.of(least, model).fits
        return
    words, smaller = found
    assert smaller.fits and words
    fields = ("r", "max_length", "per_device_train_batch_size")
    before = replace(choice, per_device_train_batch_size=p.rows_at_once)
    after = replace(smaller.choice, per_device_train_batch_size=smaller.rows_at_once)
    changed = [name for name in fields if getattr(before, name) != getattr(after, name)]
    # A shorter row or a lower rank may let more rows through at once; what is asked for is one thing.
    assert changed and set(changed) <= {*fields}
    asked = [name for name in fields if getattr(choice, name) != getattr(smaller.choice, name)]
    assert len(asked) == 1


def test_fewer_rows_at_once_are_proposed_first_then_shorter_rows_then_a_lower_rank():
    def proposed(**change):
        return plan.smallest_change(plan.of(Choice(**change)))[0]

    assert (
        proposed(r=256, per_device_train_batch_size=8, max_length=4096)
        == "4 rows at once instead of 8"
    )
    assert proposed(r=410, per_device_train_batch_size=1, max_length=4096).startswith(
        "rows of at most "
    )
    assert proposed(r=512) == "r = 256"


def test_the_homework_is_written_without_a_mark_but_for_its_few_rows_at_once():
    p = plan.of(Choice())
    assert "#" not in plan.peft_code(Choice())
    marked = [line for line in plan.training_code(p).splitlines() if "#" in line]
    assert all("train_batch_size" in line or "accumulation" in line for line in marked)
    same = plan.training_code(plan.of(Choice(per_device_train_batch_size=2)))
    assert "#" not in same


@quick
@given(choices())
def test_the_code_is_python_and_says_what_was_chosen(choice):
    p = plan.of(choice)
    for text in (plan.peft_code(choice), plan.training_code(p)):
        (statement,) = ast.parse(text).body
        given_ = {k.arg: ast.literal_eval(k.value) for k in statement.value.keywords}
        for name in ("r", "lora_alpha", "lora_dropout", "use_rslora"):
            assert given_.get(name, getattr(choice, name)) == getattr(choice, name)
        batch = given_.get("per_device_train_batch_size", choice.rows_per_update)
        assert batch * given_.get("gradient_accumulation_steps", 1) == choice.rows_per_update
        marks = {
            line.split("=")[0].strip() for line in text.splitlines() if "# the homework" in line
        }
        assert marks == {
            name for name in given_ if given_[name] != plan.HOMEWORK.get(name, given_[name])
        }


# --------------------------------------------------------------------------------------- warnings
@pytest.mark.parametrize(
    "usual",
    [
        {},
        {"r": 4},
        {"r": 8, "lora_alpha": 16},
        {"r": 64},
        {"r": 128, "lora_alpha": 128},
        {"use_rslora": True},
        {"learning_rate": 3e-4},
        {"learning_rate": 9e-4},
        {"num_train_epochs": 5},
        {"max_length": 4096},
        {"rows_per_update": 100},
    ],
    ids=str,
)
def test_a_choice_that_nothing_is_known_against_is_not_warned_of(usual):
    assert plan.warnings_for(Choice(**usual)) == []


_, GREAT = cautions.EXTREMES["learning_rate"]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ({"learning_rate": 2}, "learning_rate = 2 is very high"),
        ({"learning_rate": 0.03}, f"and to {GREAT[0.02]} with 0.02. Take learning_rate = 0.0002."),
        ({"learning_rate": 1e-3}, "high for a model of this size"),
        ({"learning_rate": 1e-3}, "Take learning_rate = 0.0002."),
        ({"lora_dropout": 0.05}, "lora_dropout = 0.05 sets that share"),
        ({"lora_dropout": 0.1}, "Take lora_dropout = 0."),
        ({"lora_alpha": 1e6}, "lora_alpha = 1e+06 is very high"),
        ({"lora_alpha": 0.0001}, "lora_alpha = 0.0001 is very low"),
        ({"lora_alpha": 512, "use_rslora": True}, "lora_alpha · √r = 2048 is very high"),
        ({"lora_alpha": 512, "use_rslora": True}, "Take lora_alpha = 16."),
        ({"num_train_epochs": 15}, "with 15. Take num_train_epochs = 2."),
        ({"learning_rate": 1e-9}, "learning_rate = 1e-09 is very low"),
        ({"num_train_epochs": 1000}, "1000 epochs take at least 118 hours"),
        ({"rows_per_update": 200}, "more than the 100 rows: an epoch is one update, 2 in all"),
        ({"max_length": 4097}, "4,097 is beyond the 4,096 positions"),
        ({"r": 2048, "lora_alpha": 2048, "target_modules": ("q_proj",)}, "no low rank"),
        ({"r": 512}, "It would fit with r = 256"),
    ],
    ids=str,
)
def test_what_does_harm_is_warned_of_with_the_reason(harm, said):
    assert any(said in warning for warning in plan.warnings_for(Choice(**harm)))


# Measured on the small model, so that it is known what does it no harm.
@pytest.mark.parametrize("rate", [2e-4, 2e-3, 6e-3])
def test_the_small_model_takes_a_learning_rate_that_is_too_high_for_a_large_one(rate):
    choice = Choice(learning_rate=rate)
    assert plan.warnings_for(choice, "smollm2-135m") == []
    assert bool(plan.warnings_for(choice, "llama-2-7b")) == (rate >= cautions.HIGH_RATE)


def test_a_hub_model_of_another_size_is_warned_of_by_its_size():
    from transformers import LlamaConfig

    shape = MODELS["llama-2-7b"].shape
    high = Choice(learning_rate=2e-3)
    assert plan.warnings_for(high, LlamaConfig(**shape | {"num_hidden_layers": 40}))
    assert plan.warnings_for(high, LlamaConfig(**shape | {"num_hidden_layers": 8})) == []


@pytest.mark.parametrize("model", sorted(MODELS))
@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("name", [*cautions.EXTREMES, "lora_dropout"])
def test_what_a_warning_says_to_take_instead_is_not_warned_of(name, rslora, model):
    values = [value for side in cautions.EXTREMES.get(name, ({}, {0.5: 0})) for value in side]
    if name == "lora_alpha" and rslora:
        values = [value / 4 for value in values]  # r = 16
    if name == "learning_rate" and model == "llama-2-7b":
        values.append(cautions.HIGH_RATE)
    for value in values:
        choice = Choice(**{name: value}, use_rslora=rslora)
        said = " ".join(plan.warnings_for(choice, model))
        taken = re.search(rf"Take {name} = (\S+)\.", said)[1]
        assert plan.warnings_for(replace(choice, **{name: float(taken)}), model) == []


def test_a_learning_rate_is_warned_of_once():
    for rate in (1e-3, 0.02, 0.03, 2):
        (_,) = plan.warnings_for(Choice(learning_rate=rate))


def test_all_that_is_warned_of_but_memory_stands_among_the_readouts():
    choice = Choice(
        learning_rate=1e-3, lora_dropout=0.1, lora_alpha=1e6, max_length=4097, rows_per_update=200
    )
    p = plan.of(choice)
    notes = [text for name, text in plan.readouts(p) if name == "note"]
    assert len(notes) == 6
    assert plan.warnings_for(choice)[-6:] == notes
    assert all(text in plan.describe(p) for text in notes)


def test_the_number_of_rows_and_the_model_are_those_that_are_trained():
    few = Choice(rows_per_update=32)
    assert plan.warnings_for(few) == []
    assert "24 rows" in plan.warnings_for(few, rows=24)[0]
    long = Choice(max_length=8192)
    assert any("positions" in warning for warning in plan.warnings_for(long))
    assert not any("positions" in warning for warning in plan.warnings_for(long, "smollm2-135m"))


def test_two_choices_with_the_same_update_are_warned_of_alike():
    # Rank-stabilised LoRA with alpha is LoRA with alpha · √r.
    for alpha in (1e-5, 1, 256, 1e5):
        stabilised = plan.warnings_for(Choice(lora_alpha=alpha, use_rslora=True))
        plain = plan.warnings_for(Choice(lora_alpha=4 * alpha))
        assert [text.split(" = ")[1:] for text in stabilised] == [
            text.split(" = ")[1:] for text in plain
        ]


def test_every_figure_of_the_warnings_can_be_measured_again(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "tools")
    import extremes

    for name, (small, large) in cautions.EXTREMES.items():
        assert all({name: value} in extremes.EXTREMES for value in small | large)
    assert all({"lora_dropout": share} in extremes.EXTREMES for share in cautions.DROPPED)


@quick
@given(choices(), models)
def test_a_plan_that_does_not_fit_is_warned_of_first_and_only_that(choice, model):
    p = plan.of(choice, model)
    warnings = plan.warnings_for(choice, model)
    assert p.fits == (not warnings or f"a T4 has {T4_MEMORY_GIB}" not in warnings[0])
    # The readout says it in the line about memory.
    assert f"a T4 has {T4_MEMORY_GIB}" not in plan.describe(p)


def test_a_batch_of_a_billion_rows_is_worked_out_at_once():
    p = plan.of(Choice(rows_per_update=10**9 + 7))
    assert p.rows_at_once == 1 and p.steps == 2


def test_a_config_that_is_no_llama_and_an_unknown_preset_are_named():
    from transformers import GPT2Config

    with pytest.raises(CourseError, match="config has no"):
        plan.of(Choice(), GPT2Config())
    with pytest.raises(CourseError, match="gpt-5"):
        plan.of(Choice(), "gpt-5")


def test_the_plan_of_the_small_model_is_its_own():
    p = plan.of(Choice(), "smollm2-135m")
    assert p.trained == lora.adapter_parameters("smollm2-135m", 16) and p.fits
    assert p.config.vocab_size == presets.MODELS["smollm2-135m"].shape["vocab_size"]


def test_the_printed_learning_rate_is_that_of_the_planned_model():
    for name, preset in presets.MODELS.items():
        rate = f"learning_rate={preset.learning_rate!r}"
        assert rate in plan.training_code(plan.of(Choice(), name))


@quick
@given(choices(), models, st.lists(st.integers(1, 5000), min_size=1, max_size=100))
def test_with_known_rows_a_plan_counts_their_tokens_and_not_full_rows(choice, model, lengths):
    p = plan.of(choice, model, lengths=lengths)
    kept = [min(length, choice.max_length) for length in lengths]
    assert p.rows == len(lengths) and p.longest == max(kept)
    assert p.tokens == round(sum(kept) * choice.num_train_epochs)
    full = plan.of(choice, model, rows=len(lengths))
    assert p.tokens <= full.tokens and p.minutes[0] <= full.minutes[0]
    text = plan.describe(p)
    assert "at most" not in text.split("time")[1].split("\n")[0] and "in the rows you chose" in text
    refused = any(length > choice.max_length for length in lengths)
    assert refused == ("training will refuse them" in text)
