"""Choices are checked where they are made; sizes come from one variable."""

import json
from dataclasses import replace

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import presets
from helpers.errors import CourseError
from helpers.presets import PROJECTIONS, Choice

not_whole = st.one_of(
    st.floats(),
    st.text(max_size=5),
    st.booleans(),
    st.none(),
    st.lists(st.integers(), max_size=2),
)
not_a_number = st.one_of(st.text(max_size=5), st.booleans(), st.none(), st.lists(st.floats()))
not_positive = st.one_of(st.integers(max_value=0), st.floats(max_value=0), st.just(float("nan")))


def refused(**settings) -> str:
    with pytest.raises(CourseError) as caught:
        Choice(**settings)
    return str(caught.value)


# ------------------------------------------------------------------------------- a valid choice
def test_the_defaults_are_the_homeworks():
    choice = Choice()
    assert (choice.r, choice.lora_alpha, choice.lora_dropout) == (16, 16, 0)
    assert choice.target_modules == (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    assert (choice.batch_size, choice.epochs, choice.max_seq_length) == (2 * 4, 2, 2048)
    assert presets.MODELS["llama-2-7b"].learning_rate == 2e-4
    assert presets.MODELS["llama-2-7b"].hub_id == "unsloth/Llama-2-7b-bnb-4bit"
    assert presets.TRAINING == {
        "warmup_steps": 10,
        "optim": "adamw_8bit",
        "weight_decay": 0.01,
        "lr_scheduler_type": "linear",
        "seed": 3407,
    }


@given(
    r=st.integers(1, 1024),
    lora_alpha=st.integers(1, 2048) | st.floats(1e-3, 1e3),
    target_modules=st.lists(st.sampled_from(PROJECTIONS), min_size=1, unique=True),
    lora_dropout=st.floats(0, 1, exclude_max=True),
    use_rslora=st.booleans(),
    micro_batch=st.integers(1, 16) | st.none(),
    updates=st.integers(1, 8),
    epochs=st.floats(0.1, 10),
)
def test_a_valid_choice_survives_json(updates, **settings):
    choice = Choice(batch_size=(settings["micro_batch"] or 1) * updates, **settings)
    assert Choice(**json.loads(json.dumps(choice.to_dict()))) == choice


def test_a_choice_cannot_be_changed_and_its_copy_is_checked_too():
    choice = Choice()
    with pytest.raises(AttributeError):
        choice.r = 32
    with pytest.raises(CourseError):
        replace(choice, r=-1)


# ------------------------------------------------------------------------------------- whole numbers
@given(st.integers(max_value=0))
def test_a_rank_of_zero_or_less_is_refused(r):
    assert f"r = {r!r} is not a whole number of at least 1" in refused(r=r)


@given(not_whole)
def test_a_rank_that_is_not_a_whole_number_is_refused(r):
    assert f"r = {r!r}" in refused(r=r)


def test_rank_zero_is_told_that_it_trains_nothing():
    assert "r = 0 trains nothing" in refused(r=0)


@pytest.mark.parametrize("name", ["batch_size", "max_seq_length"])
@given(value=st.integers(max_value=0) | not_whole)
def test_counts_that_are_not_positive_whole_numbers_are_refused(name, value):
    assert f"{name} = {value!r}" in refused(**{name: value})


def test_a_number_in_quotes_true_and_a_whole_number_with_a_point_are_told_how_to_write_it():
    assert (
        "r = '16' is not a whole number of at least 1: it is text; take the quotes off"
        in refused(r="16")
    )
    assert "it is True or False" in refused(r=True)
    assert (
        "r = 16.0 is not a whole number of at least 1: it has a decimal point; write 16"
        in refused(r=16.0)
    )
    assert "take the quotes off" in refused(learning_rate="2e-4")
    assert "take the quotes off" in refused(lora_dropout="0.1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("r", numpy.int64(8)),
        ("batch_size", numpy.uint8(16)),
        ("max_seq_length", numpy.int32(512)),
        ("micro_batch", numpy.int64(2)),
        ("lora_alpha", numpy.float32(32)),
        ("lora_alpha", numpy.int64(32)),
        ("lora_dropout", numpy.float32(0.5)),
        ("epochs", numpy.float64(3)),
        ("learning_rate", numpy.float32(0.5)),
        ("use_rslora", numpy.True_),
    ],
)
def test_numpys_numbers_are_taken_and_become_pythons(name, value):
    choice = Choice(**{name: value})
    assert getattr(choice, name) == value
    assert type(getattr(choice, name)) in (int, float, bool)
    assert Choice(**json.loads(json.dumps(choice.to_dict()))) == choice


@pytest.mark.parametrize("value", [numpy.float64("nan"), numpy.float32("inf"), 10**400])
@pytest.mark.parametrize("name", ["lora_alpha", "epochs", "learning_rate", "lora_dropout"])
def test_a_number_that_is_not_finite_is_refused(name, value):
    assert name in refused(**{name: value})


@pytest.mark.parametrize("value", ["False", "", None, 2, []])
def test_a_switch_that_is_neither_true_nor_false_is_refused(value):
    assert f"use_rslora = {value!r} is neither True nor False" in refused(use_rslora=value)


# --------------------------------------------------------------------------------------- micro-batch
@given(batch=st.integers(1, 64), micro=st.integers(1, 64))
def test_a_micro_batch_must_divide_the_batch(batch, micro):
    if batch % micro == 0:
        assert Choice(batch_size=batch, micro_batch=micro).micro_batch == micro
    else:
        message = refused(batch_size=batch, micro_batch=micro)
        assert f"micro_batch = {micro} does not divide batch_size = {batch}" in message


@given(st.integers(max_value=0) | not_whole.filter(lambda value: value is not None))
def test_a_micro_batch_that_is_not_a_positive_whole_number_is_refused(micro):
    assert f"micro_batch = {micro!r}" in refused(micro_batch=micro)


# ------------------------------------------------------------------------ alpha, epochs, learning rate
@pytest.mark.parametrize("name", ["lora_alpha", "epochs", "learning_rate"])
@given(value=not_positive)
def test_numbers_that_must_be_positive_are_refused_otherwise(name, value):
    assert f"{name} = {value!r} is not a number above 0" in refused(**{name: value})


@pytest.mark.parametrize("name", ["lora_alpha", "epochs"])
@given(value=not_a_number)
def test_what_is_not_a_number_is_refused(name, value):
    assert f"{name} = {value!r} is not a number above 0" in refused(**{name: value})


@pytest.mark.parametrize("name", ["lora_alpha", "epochs", "learning_rate"])
def test_infinity_is_refused(name):
    assert f"{name} = inf" in refused(**{name: float("inf")})


# ------------------------------------------------------------------------------------------- dropout
@given(
    st.floats(max_value=0, exclude_max=True) | st.floats(min_value=1) | st.just(float("nan")),
)
def test_a_dropout_outside_zero_to_one_is_refused(dropout):
    assert f"lora_dropout = {dropout!r} is not between 0 and 1" in refused(lora_dropout=dropout)


@given(not_a_number)
def test_a_dropout_that_is_not_a_number_is_refused(dropout):
    assert f"lora_dropout = {dropout!r}" in refused(lora_dropout=dropout)


# ------------------------------------------------------------------------------------ target modules
@given(
    st.lists(st.sampled_from(PROJECTIONS)),
    st.text(max_size=8).filter(lambda n: n not in PROJECTIONS),
)
def test_a_module_that_no_llama_block_has_is_refused(known, unknown):
    message = refused(target_modules=[*known, unknown])
    assert repr(unknown) in message
    assert all(name in message for name in PROJECTIONS)


def test_adapting_no_module_is_refused():
    assert "target_modules = []" in refused(target_modules=[])


@pytest.mark.parametrize("modules", ["q_proj", [["q_proj"]], [1]])
def test_a_name_in_place_of_a_list_or_a_list_of_other_things_is_refused(modules):
    assert "cannot be adapted" in refused(target_modules=modules)


@pytest.mark.parametrize("modules", [None, 5])
def test_modules_that_are_not_a_list_are_refused(modules):
    assert f"target_modules = {modules!r}" in refused(target_modules=modules)


# ---------------------------------------------------------------------------------------------- sizes
def test_people_get_the_full_size(monkeypatch):
    monkeypatch.delenv("COURSE_SIZE", raising=False)
    assert presets.size() == presets.SIZES["full"]
    assert presets.size().conversations == presets.MAX_CONVERSATIONS == 100


def test_the_variable_names_the_size(monkeypatch):
    for name in ("test", '"test"', " test ", "Test"):
        monkeypatch.setenv("COURSE_SIZE", name)
        assert presets.size() == presets.SIZES["test"]


def test_the_test_size_is_smaller_in_every_way():
    full, small = presets.SIZES["full"], presets.SIZES["test"]
    numbers = [name for name in vars(full) if name != "ranks"]
    assert all(0 < getattr(small, name) < getattr(full, name) for name in numbers)
    assert {*small.ranks} <= {*full.ranks}


@pytest.mark.parametrize("name", ["huge", "tests"])
def test_an_unknown_size_is_refused(monkeypatch, name):
    monkeypatch.setenv("COURSE_SIZE", name)
    with pytest.raises(CourseError, match="full, test") as caught:
        presets.size()
    assert f"COURSE_SIZE = {name!r} is not a size" in str(caught.value)


# --------------------------------------------------------------------------------------------- models
def test_a_t4s_memory_is_what_todays_driver_gives():
    assert presets.T4_MEMORY_GIB == round(15_637_086_208 / 2**30, 3) < presets.OLDER_T4_MEMORY_GIB


def test_a_base_model_without_a_template_names_one():
    assert presets.MODELS["llama-2-7b"].template == "llama"
    assert presets.MODELS[presets.EMBEDDED].template is None


@pytest.mark.parametrize("preset", presets.MODELS)
def test_a_presets_shape_divides_into_heads(preset):
    shape = presets.MODELS[preset].shape
    assert shape["hidden_size"] % shape["num_attention_heads"] == 0
    assert shape["num_attention_heads"] % shape["num_key_value_heads"] == 0


def test_the_same_modules_in_another_order_are_the_same_choice():
    one = presets.Choice(target_modules=("v_proj", "q_proj", "v_proj"))
    assert one == presets.Choice(target_modules=["q_proj", "v_proj"])
    assert one.target_modules == ("q_proj", "v_proj")
