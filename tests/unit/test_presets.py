"""Sizes come from one variable; the models are as they are published."""

import pytest

from helpers import presets
from helpers.errors import CourseError


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
