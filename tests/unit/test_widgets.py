"""The sliders: moving one changes the numbers and the picture, and the button keeps the choice."""

import re

import ipywidgets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import lora, memory
from helpers.presets import Choice
from helpers.widgets import RANKS, LoraSliders
from helpers.workspace import load_choice


@pytest.fixture(autouse=True)
def full_size(monkeypatch):
    """`load_choice` gives back the epochs that were saved."""
    monkeypatch.setenv("COURSE_SIZE", "full")


def leaves(widget) -> list:
    if isinstance(widget, ipywidgets.Box):
        return [leaf for child in widget.children for leaf in leaves(child)]
    return [widget]


def percent(text: str) -> float:
    return float(re.search(r"([\d.]+)%", text)[1])


# ---------------------------------------------------------------------------------------- moving
def test_the_sliders_start_at_the_homework_s_choice():
    sliders = LoraSliders()
    assert (sliders.r.value, sliders.alpha.value) == (16, 16)
    assert sliders.choice == Choice()
    for shown in (sliders.text(), sliders.readout.value):
        assert "39,976,960 of 6,778,392,576 = 0.59%" in shown
    assert sliders.picture() in sliders.readout.value


@pytest.mark.parametrize("slider", ["r", "alpha", "batch"])
def test_moving_a_slider_changes_the_text_at_once(slider):
    sliders = LoraSliders()
    text, shown = sliders.text(), sliders.readout.value
    getattr(sliders, slider).value = 4
    assert sliders.text() != text and sliders.readout.value != shown


@pytest.mark.parametrize(("slider", "value"), [("r", 256), ("batch", 8)])
def test_moving_rank_or_rows_changes_the_picture(slider, value):
    sliders = LoraSliders()
    before = sliders.picture()
    getattr(sliders, slider).value = value
    assert sliders.picture() != before
    assert sliders.picture() in sliders.readout.value


def test_alpha_moves_the_scale_but_neither_parameters_nor_memory():
    sliders = LoraSliders()
    picture, share = sliders.picture(), percent(sliders.text())
    sliders.alpha.value = 64
    assert re.search(r"scale.* 4\n", sliders.text())
    assert sliders.picture() == picture and percent(sliders.text()) == share


@settings(max_examples=30)
@given(st.sampled_from(RANKS), st.sampled_from(RANKS), st.sampled_from((1, 2, 4, 8)))
def test_the_text_holds_what_the_helpers_compute(r, alpha, rows):
    sliders = LoraSliders()
    sliders.r.value, sliders.alpha.value, sliders.batch.value = r, alpha, rows
    assert (sliders.choice.r, sliders.choice.lora_alpha) == (r, alpha)
    trained = lora.adapter_parameters("llama-2-7b", r)
    total = trained + lora.base_parameters("llama-2-7b")
    e = memory.estimate("llama-2-7b", r=r, batch_size=rows, sequence_length=2048)
    text = sliders.text()
    assert f"{trained:,} of {total:,} = {trained / total:.2%}" in text
    assert re.search(rf"scale.* {re.escape(f'{alpha / r:g}')}\n", text)
    assert f"{e.total:.2f}" in text
    assert ("does not fit on a T4" in text) == (not e.fits())


def test_a_choice_between_the_marks_keeps_its_numbers():
    sliders = LoraSliders(Choice(r=12, lora_alpha=18.5))
    assert (sliders.r.value, sliders.alpha.value) == (12, 18.5)
    sliders.batch.value = 4
    assert (sliders.choice.r, sliders.choice.lora_alpha) == (12, 18.5)


def test_moving_a_slider_keeps_the_rest_of_the_choice():
    start = Choice(epochs=5, learning_rate=1e-3, max_seq_length=512, target_modules=("q_proj",))
    sliders = LoraSliders(start)
    sliders.r.value = 8
    assert sliders.choice == Choice(**start.to_dict() | {"r": 8})


def test_the_numbers_are_those_of_the_chosen_modules():
    sliders = LoraSliders(Choice(target_modules=("q_proj", "v_proj")))
    expected = lora.adapter_parameters("llama-2-7b", 16, ("q_proj", "v_proj"))
    assert f"{expected:,}" in sliders.text()


def test_the_scale_of_rank_stabilised_lora_is_its_own():
    sliders = LoraSliders(Choice(use_rslora=True))
    assert re.search(r"scale.* 4\n", sliders.text())


def test_another_model_and_length_can_be_planned():
    sliders = LoraSliders(model="smollm2-135m", sequence_length=512)
    assert f"{lora.adapter_parameters('smollm2-135m', 16):,}" in sliders.text()
    assert "512 tokens" in sliders.text()
    assert "SmolLM2" in sliders.picture()


# ---------------------------------------------------------------------------------------- buttons
@pytest.mark.parametrize("r", RANKS)
def test_the_buttons_set_alpha_to_r_and_to_twice_r(r):
    sliders = LoraSliders()
    sliders.r.value = r
    sliders.twice.click()
    assert sliders.alpha.value == sliders.choice.lora_alpha == 2 * r
    sliders.same.click()
    assert sliders.alpha.value == sliders.choice.lora_alpha == r


def test_use_this_keeps_the_choice_for_the_next_notebook(workspace):
    sliders = LoraSliders(Choice(epochs=3, batch_size=4))
    sliders.r.value, sliders.alpha.value = 32, 64
    assert not (workspace / "choice.json").exists()
    sliders.use.click()
    assert (workspace / "choice.json").exists()
    assert load_choice() == sliders.choice == Choice(r=32, lora_alpha=64, epochs=3, batch_size=4)
    assert all(word in sliders.message.value for word in ("32", "64", "choice.json"))


def test_a_choice_that_was_only_moved_is_not_kept(workspace):
    sliders = LoraSliders()
    sliders.use.click()
    sliders.r.value = 64
    assert load_choice().r == 16
    # The word "Saved" would now be wrong.
    assert sliders.message.value == ""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(RANKS), st.sampled_from(RANKS))
def test_whatever_was_saved_is_where_new_sliders_start(workspace, r, alpha):
    sliders = LoraSliders()
    sliders.r.value, sliders.alpha.value = r, alpha
    sliders.use.click()
    assert LoraSliders(load_choice()).text() == sliders.text()


def test_everything_that_can_be_moved_is_shown():
    sliders = LoraSliders()
    parts = [sliders.r, sliders.alpha, sliders.batch, sliders.same, sliders.twice, sliders.use]
    assert leaves(sliders.show()) == [*parts, sliders.readout, sliders.message]


# -------------------------------------------------------------------------------------- bad input
def test_a_workspace_that_cannot_be_written_shows_a_message_and_raises_nothing(
    tmp_path, monkeypatch
):
    blocked = tmp_path / "a file, not a <folder>"
    blocked.write_text("in the way")
    monkeypatch.setenv("COURSE_WORKSPACE", str(blocked))
    sliders = LoraSliders()
    sliders.r.value = 64
    sliders.use.click()
    message = sliders.message.value
    assert "COURSE_WORKSPACE" in message and "Saved" not in message
    assert "a file, not a &lt;folder&gt;" in message
    assert sliders.choice.r == 64 and blocked.read_text() == "in the way"
