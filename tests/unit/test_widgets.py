"""The sliders: moving one changes the numbers and the picture, and the button keeps the choice."""

import base64
import re
import sys
from itertools import pairwise
from pathlib import Path

import ipywidgets
import nbformat
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import lora, memory, plan, presets, svg
from helpers.choice import Choice, load_choice
from helpers.controls import Knob
from helpers.errors import CourseError
from helpers.widgets import EPOCHS, MODULES, RANKS, AlphaDial, LoraSliders

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import course

import notebooks

VIEW = notebooks.WIDGET


@pytest.fixture(autouse=True)
def full_size(monkeypatch):
    """`load_choice` gives back the epochs that were saved."""
    monkeypatch.setenv("COURSE_SIZE", "full")


def leaves(widget) -> list:
    if isinstance(widget, ipywidgets.Box):
        return [leaf for child in widget.children for leaf in leaves(child)]
    return [widget]


def parts(control) -> list:
    return [control.field, control.slider] if isinstance(control, Knob) else [control]


def percent(text: str) -> float:
    return float(re.search(r"([\d.]+)%", text)[1])


# ---------------------------------------------------------------------------------------- moving
def test_the_sliders_start_at_the_homework_s_choice():
    sliders = LoraSliders()
    assert (sliders.r.value, sliders.alpha.value) == (16, 16)
    assert sliders.choice == Choice()
    for shown in (sliders.text(), sliders.readout.value):
        assert "39,976,960 of 6,778,392,576 = 0.59%" in shown
    assert sliders.picture() in sliders.view.value


CONTROLS = {
    "r": 4,
    "alpha": 4,
    "modules": MODULES["attention"],
    "dropout": 0.1,
    "rslora": True,
    "length": 512,
    "batch": 32,
    "rows": 1,
    "epochs": 5,
    "model": "SmolLM2-135M-Instruct",
}


@pytest.mark.parametrize("control", CONTROLS)
def test_moving_a_control_changes_the_text_at_once(control):
    sliders = LoraSliders()
    text, shown = sliders.text(), sliders.readout.value
    getattr(sliders, control).value = CONTROLS[control]
    assert sliders.text() != text and sliders.readout.value != shown


@pytest.mark.parametrize("control", ["r", "modules", "length", "rows", "model"])
def test_what_needs_memory_changes_the_picture(control):
    sliders = LoraSliders(Choice(per_device_train_batch_size=2))
    before = sliders.picture()
    getattr(sliders, control).value = CONTROLS[control]
    assert sliders.picture() != before
    assert sliders.picture() in sliders.view.value


def test_every_control_has_a_label_that_a_screen_reader_reads():
    # A slider's handle has no name in either version of ipywidgets; the field before it has.
    silent = (ipywidgets.HTML, ipywidgets.SelectionSlider)
    shown = leaves(LoraSliders().show())
    assert all(leaf.description for leaf in shown if not isinstance(leaf, silent))
    for here, after in pairwise(shown):
        if isinstance(after, ipywidgets.SelectionSlider):
            assert here.description and here.value == after.value
    assert 'role="img" aria-label="' in LoraSliders().picture()


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
    sliders.r.value, sliders.alpha.value, sliders.rows.value = r, alpha, rows
    sliders.length.value = 4096
    assert (sliders.choice.r, sliders.choice.lora_alpha) == (r, alpha)
    trained = lora.adapter_parameters("llama-2-7b", r)
    total = trained + lora.base_parameters("llama-2-7b")
    e = memory.estimate("llama-2-7b", r=r, per_device_train_batch_size=rows, max_length=4096)
    text = sliders.text()
    assert f"{trained:,} of {total:,} = {trained / total:.2%}" in text
    assert re.search(rf"scale.* {re.escape(f'{alpha / r:g}')}\n", text)
    assert f"{e.total:.2f}" in text
    assert ("does not fit on a T4" in text) == (not e.fits())


def test_what_does_not_fit_is_told_with_the_change_that_makes_it_fit():
    sliders = LoraSliders(
        Choice(r=256, lora_alpha=256, max_length=4096, per_device_train_batch_size=8)
    )
    assert "does not fit on a T4; it would with 4 rows at once instead of 8" in sliders.text()
    sliders.rows.value = 4
    assert "fits on a T4\n" in sliders.text()


def test_a_warning_stands_in_the_text():
    sliders = LoraSliders()
    assert "note" not in sliders.text()
    sliders = LoraSliders(Choice(learning_rate=2.0))
    assert "note       learning_rate = 2 is very high" in sliders.text()


def test_the_code_is_shown_as_it_would_run():
    sliders = LoraSliders()
    sliders.r.value = 64
    assert "r=64,  # the homework: 16" in sliders.code()
    assert (
        sliders.code() == f"{plan.peft_code(sliders.choice)}\n\n{plan.training_code(sliders.plan)}"
    )
    assert "r=64,  # the homework: 16" in sliders.readout.value


def test_a_pinned_setting_is_compared_with_what_comes_after():
    sliders = LoraSliders()
    assert sliders.comparison() == ""
    sliders.pin.click()
    sliders.r.value = 64
    rows = {line[:12].strip(): line[12:].split() for line in sliders.comparison().splitlines()}
    assert rows["trainable"] == ["39,976,960", "159,907,840", "4.00"]
    assert rows["scale"] == ["1", "0.25", "0.25"]
    assert rows["r, alpha"] == ["16,", "16", "64,", "16"]
    assert sliders.comparison() in sliders.readout.value
    sliders.pin.click()
    assert "159,907,840     159,907,840     1.00" in sliders.comparison()


def test_a_choice_between_the_marks_keeps_its_numbers():
    sliders = LoraSliders(Choice(r=12, lora_alpha=18.5))
    assert (sliders.r.value, sliders.alpha.value) == (12, 18.5)
    sliders.rows.value = 4
    assert (sliders.choice.r, sliders.choice.lora_alpha) == (12, 18.5)


def test_moving_a_slider_keeps_the_rest_of_the_choice():
    start = Choice(
        num_train_epochs=5, learning_rate=1e-3, max_length=512, target_modules=("q_proj",)
    )
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
    sliders = LoraSliders(Choice(max_length=512), model="smollm2-135m")
    assert f"{lora.adapter_parameters('smollm2-135m', 16):,}" in sliders.text()
    assert "512 tokens" in sliders.text()
    assert "SmolLM2" in sliders.picture()


def test_any_llama_shaped_config_can_be_planned_and_another_is_refused():
    from transformers import GPT2Config, MistralConfig

    config = MistralConfig()
    sliders = LoraSliders(config=config)
    assert sliders.model.value == "the given config" and len(sliders.model.options) == 3
    assert f"{lora.adapter_parameters(config, 16):,}" in sliders.text()
    sliders.model.value = "Llama-2-7B"
    assert "39,976,960" in sliders.text()
    with pytest.raises(CourseError, match="config has no"):
        LoraSliders(config=GPT2Config())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
@given(st.sampled_from(EPOCHS))
def test_minutes_are_measured_ones_once_this_model_was_trained(workspace, epochs):
    folder = workspace / "runs" / "r16-alpha16"
    folder.mkdir(parents=True, exist_ok=True)
    record = '{"model": "llama-2-7b", "tokens": 40000, "minutes": 4}'
    (folder / "run.json").write_text(record)
    sliders = LoraSliders(Choice(num_train_epochs=epochs))
    said = float(re.search(r"([\d.]+) min at the rate of your newest run", sliders.text())[1])
    assert said == pytest.approx(sliders.plan.tokens / 10_000, rel=0.06)
    (folder / "run.json").write_text(record.replace("llama-2-7b", "another"))
    assert "on a T4, by arithmetic alone" in LoraSliders().text()


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
    sliders = LoraSliders(Choice(num_train_epochs=3, rows_per_update=4))
    sliders.r.value, sliders.alpha.value = 32, 64
    assert not (workspace / "choice.json").exists()
    sliders.use.click()
    assert (workspace / "choice.json").exists()
    assert (
        load_choice()
        == sliders.choice
        == Choice(r=32, lora_alpha=64, num_train_epochs=3, rows_per_update=4)
    )
    assert all(word in sliders.message.value for word in ("32", "64", "choice.json"))


def test_a_plan_that_does_not_fit_is_saved_only_when_use_this_is_pressed_again(workspace):
    sliders = LoraSliders(
        Choice(r=256, lora_alpha=256, max_length=4096, per_device_train_batch_size=8)
    )
    sliders.use.click()
    assert not (workspace / "choice.json").exists()
    assert "Not saved" in sliders.said and "4 rows at once instead of 8" in sliders.said
    assert "4 rows at once instead of 8" in sliders.message.value
    # Moved away and back: asked again.
    sliders.rows.value = 4
    assert sliders.said == ""
    sliders.rows.value = 8
    sliders.use.click()
    assert not (workspace / "choice.json").exists()
    sliders.use.click()
    assert load_choice() == sliders.choice and "Saved r = 256" in sliders.said
    sliders.rows.value = 4
    sliders.use.click()
    assert load_choice().per_device_train_batch_size == 4


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
    shown = leaves(sliders.show())
    buttons = [sliders.same, sliders.twice, sliders.pin, sliders.use, sliders.fit, sliders.more]
    controls = [leaf for name in CONTROLS for leaf in parts(getattr(sliders, name))]
    expected = [*controls, *buttons, sliders.view, sliders.readout, sliders.message]
    assert {*map(id, shown)} == {*map(id, expected)}


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


@settings(max_examples=30)
@given(st.integers(1, 256), st.floats(1, 512))
def test_a_number_typed_between_the_marks_is_taken_and_the_slider_shows_it(r, alpha):
    sliders = LoraSliders()
    sliders.r.field.value, sliders.alpha.field.value = r, alpha
    assert (sliders.choice.r, sliders.choice.lora_alpha) == (r, alpha)
    assert (sliders.r.slider.value, sliders.alpha.slider.value) == (r, alpha)
    assert f"{lora.adapter_parameters('llama-2-7b', r):,}" in sliders.text()
    sliders.r.slider.value = 8
    assert sliders.r.value == sliders.choice.r == 8


@pytest.mark.parametrize(
    ("control", "typed"),
    [("r", 0), ("r", 999), ("r", -4), ("alpha", 0), ("alpha", 5000), ("dropout", 1.5),
     ("length", 3), ("length", 10**6), ("batch", 0), ("epochs", 0), ("rows", -1),
     ("alpha", float("nan")), ("epochs", float("inf"))],
)  # fmt: skip
def test_a_number_typed_out_of_range_leaves_a_message_and_the_last_setting(control, typed):
    sliders = LoraSliders()
    before = sliders.text(), sliders.choice
    knob = getattr(sliders, control)
    good = knob.value
    knob.field.value = typed
    assert f"{knob.name} = {typed:g} is not between" in sliders.message.value
    assert (sliders.text(), sliders.choice) == before and knob.slider.value == good
    assert sliders.verdict().startswith(f"{knob.name} = {typed:g} is not between")
    knob.field.value = knob.marks[-1]
    assert sliders.message.value == "" and sliders.text() != before[0]


def test_a_setting_that_means_nothing_leaves_a_message_and_the_sliders_alive():
    sliders = LoraSliders(Choice(per_device_train_batch_size=8))
    sliders.batch.value = 4
    assert (
        "per_device_train_batch_size = 8 does not divide rows_per_update = 4"
        in sliders.message.value
    )
    assert sliders.choice.rows_per_update == 8
    sliders.rows.value = 2
    assert sliders.message.value == ""
    assert (sliders.choice.rows_per_update, sliders.choice.per_device_train_batch_size) == (4, 2)


# ------------------------------------------------------------------------------------------- the dial
def test_the_dial_starts_as_trained_and_shows_what_belongs_to_each_factor():
    losses = [(0, 3.3), (0.5, 2.4), (1, 2.2), (4, 2.9)]
    dial = AlphaDial(16, losses, "Why <is> it?", ["base", "half", "one", "four & more"], {4: 2.25})
    assert "alpha 16 × 1 = 16 (as trained)" in dial.text() and dial.text().endswith("one")
    assert "trained with this alpha" not in dial.text()
    dial.slider.value = 4
    for shown in (dial.text(), dial.readout.value):
        assert "alpha 16 × 4 = 64" in shown and "held-out loss 2.90" in shown
        assert "2.25 for an adapter trained with this alpha" in shown
    assert "Why &lt;is&gt; it?" in dial.readout.value and "four &amp; more" in dial.readout.value
    dial.slider.value = 0
    assert "(the base model)" in dial.text() and dial.text().endswith("base")
    assert [*leaves(dial.show())] == [dial.field, dial.slider, dial.readout]
    assert dial.field.description == "alpha × …"
    dial.field.index = 1
    assert dial.slider.value == 0.5 and dial.text().endswith("half")


def test_a_plan_that_does_not_fit_is_changed_by_one_button():
    sliders = LoraSliders(
        Choice(r=256, max_length=4096, rows_per_update=8, per_device_train_batch_size=8)
    )
    assert not sliders.plan.fits and sliders.fit.layout.display == ""
    words, smaller = sliders.change()
    assert words in sliders.verdict() and words in sliders.view.value
    sliders.fit.click()
    assert sliders.plan.fits and sliders.choice == smaller.choice
    assert sliders.said == f"Changed: {words}."
    assert sliders.fit.layout.display == "none" and sliders.change() is None


def test_beside_a_wrong_number_nothing_is_made_to_fit():
    sliders = LoraSliders(Choice(r=256, max_length=4096, per_device_train_batch_size=8))
    sliders.alpha.value = 9999
    before = sliders.choice
    sliders.fit.click()
    assert sliders.said.startswith("Not changed. lora_alpha = 9999") and sliders.choice == before


def test_the_other_settings_are_folded_away_and_come_back():
    sliders = LoraSliders()
    assert sliders.folded.layout.display == "none"
    sliders.more.value = True
    assert sliders.folded.layout.display == ""
    inside = {*map(id, leaves(sliders.folded))}
    assert {id(sliders.dropout.field), id(sliders.epochs.field)} <= inside
    assert id(sliders.r.field) not in inside


def test_a_number_that_was_refused_is_not_saved_as_another(workspace):
    sliders = LoraSliders()
    sliders.epochs.value = 20
    sliders.use.click()
    assert "Not saved." in sliders.said and "num_train_epochs = 20" in sliders.said
    assert not (workspace / "choice.json").exists()
    sliders.epochs.value = 5
    sliders.use.click()
    assert load_choice().num_train_epochs == 5


def test_sliders_for_a_model_that_is_none_are_refused():
    with pytest.raises(CourseError, match="'Llama-2-7B' is not a preset"):
        LoraSliders(model="Llama-2-7B")


# ------------------------------------------------------------------------------------ still pictures
SHOWN = """\
import sys
sys.path.insert(0, "..")
from helpers.widgets import AlphaDial, LoraSliders
LoraSliders().show()
# cell
AlphaDial(16, [(0, 3.3), (1, 2.2)], "Why?", ["base", "one"], {1: 2.25}).show()
"""


def test_a_saved_notebook_keeps_a_still_picture_of_the_widgets_and_their_text():
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in SHOWN.split("# cell\n")]
    course.client_for(notebook, timeout=120).execute()
    for (live,), text in zip(
        [cell.outputs for cell in notebook.cells], ("39,976,960", "as trained"), strict=True
    ):
        assert VIEW in live.data and text in live.data["text/plain"]
    notebooks.clean(notebook, "03_lora_lab.ipynb")
    for cell in notebook.cells:
        (kept,) = cell.outputs
        assert {*kept.data} == {"image/png", "text/plain"}
        assert base64.b64decode(kept.data["image/png"]).startswith(b"\x89PNG")


def test_the_still_pictures_show_the_numbers_that_the_widgets_show():
    sliders = LoraSliders()
    sliders.r.value = 64
    axes = sliders.still().axes[0]
    widths = {
        label: bar[0].get_width()
        for label, bar in zip(axes.get_legend_handles_labels()[1], axes.containers, strict=True)
    }
    parts = {name: getattr(sliders.plan.estimate, name) for name in svg.PARTS}
    assert widths == {f"{name} {gib:.2f}": pytest.approx(gib) for name, gib in parts.items()}
    assert axes.lines[0].get_xdata()[0] == presets.T4_MEMORY_GIB
    assert sliders.still().get_supxlabel().strip() == sliders.text()
    dial = AlphaDial(16, [(0, 3.3), (1, 2.2), (4, 2.9)], "Why?", ["a", "b", "c"], {4: 2.25})
    curve, single = dial.still().axes[0].lines
    assert list(zip(*curve.get_data(), strict=True)) == dial.losses
    assert list(zip(*single.get_data(), strict=True)) == [(4, 2.25)]
