"""A choice is checked where it is made, survives its file, and becomes two calls."""

import ast
import json
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rows import refusal

from helpers import presets
from helpers import workspace as places
from helpers.choice import Choice, load_choice, save_choice
from helpers.errors import CourseError
from helpers.presets import PROJECTIONS

not_whole = st.one_of(
    st.floats(),
    st.text(max_size=5),
    st.booleans(),
    st.none(),
    st.lists(st.integers(), max_size=2),
)
not_a_number = st.one_of(st.text(max_size=5), st.booleans(), st.none(), st.lists(st.floats()))
not_positive = st.one_of(st.integers(max_value=0), st.floats(max_value=0), st.just(float("nan")))


@pytest.fixture
def full_size(monkeypatch):
    monkeypatch.setenv("COURSE_SIZE", "full")


def refused(**wrong) -> str:
    with pytest.raises(CourseError) as caught:
        Choice(**wrong)
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
    assert (choice.rows_per_update, choice.num_train_epochs, choice.max_length) == (2 * 4, 2, 2048)
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
    per_device_train_batch_size=st.integers(1, 16) | st.none(),
    updates=st.integers(1, 8),
    num_train_epochs=st.floats(0.1, 10),
)
def test_a_valid_choice_survives_json(updates, **values):
    choice = Choice(
        rows_per_update=(values["per_device_train_batch_size"] or 1) * updates, **values
    )
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


@pytest.mark.parametrize("name", ["rows_per_update", "max_length"])
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
        ("rows_per_update", numpy.uint8(16)),
        ("max_length", numpy.int32(512)),
        ("per_device_train_batch_size", numpy.int64(2)),
        ("lora_alpha", numpy.float32(32)),
        ("lora_alpha", numpy.int64(32)),
        ("lora_dropout", numpy.float32(0.5)),
        ("num_train_epochs", numpy.float64(3)),
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
@pytest.mark.parametrize(
    "name", ["lora_alpha", "num_train_epochs", "learning_rate", "lora_dropout"]
)
def test_a_number_that_is_not_finite_is_refused(name, value):
    assert name in refused(**{name: value})


@pytest.mark.parametrize("value", ["False", "", None, 2, []])
def test_a_switch_that_is_neither_true_nor_false_is_refused(value):
    assert f"use_rslora = {value!r} is neither True nor False" in refused(use_rslora=value)


# --------------------------------------------------------------------------------------- rows at once
@given(batch=st.integers(1, 64), micro=st.integers(1, 64))
def test_rows_at_once_must_divide_the_batch(batch, micro):
    if batch % micro == 0:
        assert (
            Choice(
                rows_per_update=batch, per_device_train_batch_size=micro
            ).per_device_train_batch_size
            == micro
        )
    else:
        message = refused(rows_per_update=batch, per_device_train_batch_size=micro)
        assert (
            f"per_device_train_batch_size = {micro} does not divide rows_per_update = {batch}"
            in message
        )


@given(st.integers(max_value=0) | not_whole.filter(lambda value: value is not None))
def test_rows_at_once_that_is_not_a_positive_whole_number_is_refused(micro):
    assert f"per_device_train_batch_size = {micro!r}" in refused(per_device_train_batch_size=micro)


# ------------------------------------------------------------------------ alpha, epochs, learning rate
@pytest.mark.parametrize("name", ["lora_alpha", "num_train_epochs", "learning_rate"])
@given(value=not_positive)
def test_numbers_that_must_be_positive_are_refused_otherwise(name, value):
    assert f"{name} = {value!r} is not a number above 0" in refused(**{name: value})


@pytest.mark.parametrize("name", ["lora_alpha", "num_train_epochs"])
@given(value=not_a_number)
def test_what_is_not_a_number_is_refused(name, value):
    assert f"{name} = {value!r} is not a number above 0" in refused(**{name: value})


@pytest.mark.parametrize("name", ["lora_alpha", "num_train_epochs", "learning_rate"])
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


def test_the_same_modules_in_another_order_are_the_same_choice():
    one = Choice(target_modules=("v_proj", "q_proj", "v_proj"))
    assert one == Choice(target_modules=["q_proj", "v_proj"])
    assert one.target_modules == ("q_proj", "v_proj")


# -------------------------------------------------------------------------------------- its two calls
def test_the_homeworks_calls_follow_from_the_defaults():
    assert Choice().adapter_arguments() == {
        "r": 16,
        "lora_alpha": 16,
        "target_modules": list(PROJECTIONS),
        "lora_dropout": 0,
        "bias": "none",
        "use_gradient_checkpointing": "unsloth",
        "random_state": 3407,
        "use_rslora": False,
        "loftq_config": None,
    }
    assert Choice().training_arguments(100, 2, 2e-4) == presets.TRAINING | {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "num_train_epochs": 2,
        "learning_rate": 2e-4,
        "max_length": 2048,
    }


def test_a_chosen_learning_rate_goes_before_the_models_own():
    assert Choice(learning_rate=1e-3).training_arguments(100, 2, 2e-4)["learning_rate"] == 1e-3
    for at_once in (0, 3, 16):
        with pytest.raises(CourseError, match=f"per_device_train_batch_size = {at_once}"):
            Choice().training_arguments(100, at_once, 2e-4)


@given(st.integers(1, 100), st.sampled_from([1, 2, 4, 8, 16]), st.sampled_from([0.5, 1, 2, 3]))
def test_the_warm_up_is_the_homework_s_or_a_quarter_of_a_short_training(rows, batch, epochs):
    choice = Choice(rows_per_update=batch, num_train_epochs=epochs)
    steps = choice.count_steps(rows)
    assert steps * batch >= rows * epochs
    assert choice.warmup_steps(rows) == (10 if steps >= 20 else steps // 4)
    assert choice.training_arguments(rows, 1, 1)["warmup_steps"] == choice.warmup_steps(rows)


def written_call(notebook: str, name: str) -> set[str]:
    """Keyword arguments of the one call of a function in a notebook's code cells."""
    file = Path(__file__).parents[2] / "notebooks" / notebook
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    (cell,) = [source for source in code if f"{name}(" in source and "import os" not in source]
    (call,) = [
        node
        for node in ast.walk(ast.parse(cell))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == name
    ]
    return {keyword.arg for keyword in call.keywords}


def test_the_calls_that_notebooks_write_out_name_the_same_arguments():
    adapter = written_call("03_lora_lab.ipynb", "FastLanguageModel.get_peft_model")
    assert adapter == set(Choice().adapter_arguments())
    training = written_call("05_train.ipynb", "SFTConfig")
    # What differs between machines, how often to note and save, and where.
    beside = {"output_dir", "fp16", "bf16", "report_to", "disable_tqdm"}
    beside |= {"logging_steps", "save_strategy", "save_steps", "save_total_limit"}
    beside |= {"logging_nan_inf_filter"}
    assert training == beside | set(Choice().training_arguments(100, 2, 2e-4))


# ------------------------------------------------------------------------------------------- its file
@given(
    r=st.integers(1, 256),
    lora_alpha=st.integers(1, 512) | st.floats(0.5, 512),
    target_modules=st.lists(st.sampled_from(PROJECTIONS), min_size=1, unique=True),
    lora_dropout=st.floats(0, 0.9),
    rows_per_update=st.integers(1, 64),
    num_train_epochs=st.floats(0.1, 10),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_saved_choice_comes_back(workspace, full_size, **values):
    choice = Choice(**values)
    save_choice(choice)
    assert load_choice() == choice


def test_without_a_saved_choice_the_homeworks_defaults_are_used_and_named(
    workspace, full_size, capsys
):
    assert load_choice() == Choice()
    assert "No saved choice" in capsys.readouterr().out


def test_the_choice_that_is_used_is_named(workspace, capsys):
    save_choice(Choice(r=4, lora_alpha=32))
    load_choice()
    assert "r = 4, alpha = 32" in capsys.readouterr().out


def test_the_test_size_limits_the_epochs_and_not_the_saved_choice(workspace, monkeypatch):
    monkeypatch.setenv("COURSE_SIZE", "test")
    assert load_choice().num_train_epochs == 1
    save_choice(Choice(num_train_epochs=3))
    assert load_choice().num_train_epochs == 1
    assert places.read_json("choice.json")["num_train_epochs"] == 3


def test_unknown_settings_in_a_saved_choice_are_named_with_the_file(workspace):
    places.write_json("choice.json", Choice().to_dict() | {"rank": 8, "beta": 2})
    message = refusal(load_choice)
    assert f"{workspace / 'choice.json'} holds unknown settings: beta, rank" in message
    assert "lora_alpha" in message
    assert places.read_json("choice.json")["rank"] == 8


def test_a_saved_choice_with_an_impossible_value_is_refused(workspace):
    places.write_json("choice.json", Choice().to_dict() | {"r": 0})
    assert "r = 0" in refusal(load_choice)


@pytest.mark.parametrize("content", [[], [16, 16], 16])
def test_a_saved_choice_that_is_not_an_object_is_refused(workspace, content):
    places.write_json("choice.json", content)
    assert str(workspace / "choice.json") in refusal(load_choice)
