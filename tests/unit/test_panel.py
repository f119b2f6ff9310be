"""The panel: one picture that is drawn seldom, holds what is known, and has a text; a line in a terminal."""

import base64
import itertools
import math
import time
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from transformers import TrainerControl, TrainerState

from helpers import panel, plots
from helpers.panel import Panel
from helpers.watching import Updates

STEPS = 26


def train(
    shown: Panel, steps: int = STEPS, begin: int = 0, log=(), seconds: float = 0
) -> TrainerState:
    """What the Trainer tells its callbacks, in its order, without a model; two steps are an epoch of 100 tokens."""
    state = TrainerState(max_steps=STEPS, global_step=begin, epoch=begin / 2, log_history=list(log))
    loader = SimpleNamespace(dataset={"input_ids": [[1] * 60, [1] * 40]})
    control = TrainerControl()
    shown.on_train_begin(None, state, control, train_dataloader=loader)
    for step in range(begin + 1, steps + 1):
        time.sleep(seconds)
        state.global_step, state.epoch = step, step / 2
        logs = {
            "loss": 3 - step / 20,
            "grad_norm": math.nan if step < 3 else 1.0,
            "learning_rate": 1e-4,
        }
        state.log_history.append(logs | {"step": step, "epoch": state.epoch})
        shown.on_log(None, state, control, logs=logs)
    shown.on_train_end(None, state, control)
    return state


@pytest.fixture
def kernel(monkeypatch, tmp_path):
    """IPython as a notebook's kernel sets it up, in this process."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shell = InteractiveShell.instance()
    shell.kernel = object()
    yield shell
    shell.history_manager.end_session()
    InteractiveShell.clear_instance()


@pytest.fixture
def published(kernel, monkeypatch):
    """What goes to the notebook, in order."""
    found = []
    monkeypatch.setattr(kernel.display_pub, "publish", lambda **message: found.append(message))
    return found


# ------------------------------------------------------------------------------------- in a notebook
def test_a_notebook_keeps_one_picture_with_a_text_and_few_are_drawn(published):
    shown = Panel(Updates(applied=26))
    state = train(shown, log=[{"heldout_loss": 3.25, "step": 0, "epoch": 0.0}])
    first, *others = published
    # The first, and the final one: the training was over within a second.
    assert len(others) == 1
    assert not first.get("update") and all(message["update"] for message in others)
    assert len({message["transient"]["display_id"] for message in published}) == 1
    final = others[-1]
    assert base64.b64decode(final["data"]["image/png"]).startswith(b"\x89PNG")
    text = final["data"]["text/plain"]
    assert final["metadata"]["image/png"]["alt"] == text
    assert text.startswith("Training: step 26 of 26 · loss 1.70 · held-out 3.25 · ")
    assert "26 of 26 updates applied" in text and "left" not in text
    assert shown.points == [(e["step"], e["loss"]) for e in state.log_history if "loss" in e]


def test_drawing_takes_a_small_share_of_the_time(published, monkeypatch):
    drawn = []

    class Timed(Panel):
        def _draw(self, state):
            before = time.perf_counter()
            super()._draw(state)
            drawn.append((before, time.perf_counter()))

    monkeypatch.setattr(panel, "PAUSE", 0)
    monkeypatch.setattr(panel, "SHARE", 0.5)
    train(Timed(), seconds=0.1)
    assert len(drawn) > 3, "it moves"
    # The last one is drawn in any case.
    for (before, after), (again, _) in itertools.pairwise(drawn[:-1]):
        assert again - after >= 0.9 * (after - before) / 0.5


def test_a_picture_is_not_drawn_twice_within_a_second(published, monkeypatch):
    monkeypatch.setattr(panel, "SHARE", 1e9)
    train(Panel(), seconds=0.05)
    assert 2 <= len(published) <= 4


def test_a_training_that_goes_on_has_a_picture_in_its_own_cell_with_the_points_before(published):
    shown = Panel()
    before = train(shown, steps=10)
    stopped = len(published)
    train(shown, begin=10, log=before.log_history)
    again = published[stopped:]
    assert not again[0].get("update") and len(shown.points) == STEPS
    ids = [message["transient"]["display_id"] for message in (published[0], again[0])]
    assert len(set(ids)) == 2
    assert again[0]["data"]["text/plain"].startswith("Training: step 10 of 26 · loss 2.50")


# ------------------------------------------------------------------------------------- in a terminal
def test_a_terminal_gets_one_line_at_the_end(capsys):
    train(Panel())
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and out.startswith("step 26 of 26 · loss 1.70 · ")


def test_ipython_in_a_terminal_gets_the_line_too(kernel):
    del kernel.kernel
    with capture_output() as out:
        train(Panel())
    assert out.outputs == [] and out.stdout.startswith("step 26 of 26")


# --------------------------------------------------------------------------------------- what it says
def test_the_line_says_what_is_known_only(monkeypatch):
    shown = Panel()
    state = train(shown, steps=0)
    assert shown.line(state).startswith("step 0 of 26 · memory ")
    state = train(shown, steps=13)
    shown.started -= 60
    line = shown.line(state)
    assert "step 13 of 26 · loss 2.35 · 1.0 min left · 11 tokens/s" in line
    assert "updates" not in line and "predicted" not in line
    shown.updates = Updates()
    assert "updates" not in shown.line(state), "nothing was counted yet"
    shown.updates = Updates(10, 3)
    assert shown.line(state).endswith(" · 10 of 13 updates applied (3 skipped)")


def test_speed_and_time_left_are_of_this_session(capsys):
    shown = Panel()
    state = train(shown, begin=20, steps=24)
    shown.started -= 8
    # 2 epochs of 100 tokens in 8 seconds, and 2 of 4 steps as many again.
    assert "0.1 min left · 25 tokens/s" in shown.line(state)


words = st.text("ab/(),.-", min_size=1, max_size=12)
parts = st.lists(words, min_size=1, max_size=5).map(" ".join).filter(lambda p: len(p) < 55)


@given(st.lists(parts, min_size=1, max_size=9))
def test_a_wrapped_line_keeps_its_parts_whole_and_fits(found):
    lines = panel.wrapped(" · ".join(found)).split("\n")
    assert all(len(line) <= panel.LINE for line in lines)
    assert [part for line in lines for part in line.removesuffix(" ·").split(" · ")] == found


# --------------------------------------------------------------------------------------- the picture
def test_the_picture_shows_each_number_it_is_given():
    losses, held = [(1, 3.0), (2, 2.0), (3, 1.0)], [(0, 3.5), (3, 1.5)]
    figure = plots.training(
        losses, heldout=held, norms=[(1, math.inf), (2, 1.0)], rates=[(1, 1e-4)],
        borders=[1, 2], steps=4, title="step 3 of 4", smooth=2,
    )  # fmt: skip
    loss, norm, rate = figure.axes
    each, mean, heldout, *borders = loss.lines
    assert list(zip(each.get_xdata(), each.get_ydata(), strict=True)) == losses
    assert list(mean.get_ydata()) == [3.0, 2.5, 1.5]
    assert list(zip(heldout.get_xdata(), heldout.get_ydata(), strict=True)) == held
    assert heldout.get_marker() == "D"
    assert [line.get_xdata()[0] for line in borders] == [1.5, 2.5]
    assert [text.get_text().strip() for text in loss.texts] == ["stage 2", "stage 3"]
    names = [text.get_text() for text in loss.get_legend().get_texts()]
    assert names == ["each step", "mean of 2 steps", "held-out rows"]
    assert (norm.get_title(), rate.get_title()) == ("gradient norm", "learning rate")
    assert math.isnan(norm.lines[0].get_ydata()[0]) and norm.get_ylim()[0] == 0
    assert loss.get_xlim() == norm.get_xlim() == (-0.5, 4.5)
    assert figure.get_suptitle() == "step 3 of 4"


def test_after_one_step_the_axis_is_not_stretched():
    low, high = plots.training([(1, 2.01)], heldout=[(0, 2.0)]).axes[0].get_ylim()
    assert low < 2 and high > 2.01 and high - low == pytest.approx(1)


numbers = st.lists(st.floats(0, 1e30) | st.just(math.nan) | st.just(math.inf), max_size=5).map(
    lambda values: list(enumerate(values, 1))
)


@settings(max_examples=10)
@given(numbers, numbers, numbers)
def test_any_training_becomes_a_png_also_before_its_first_step(losses, heldout, norms):
    figure = plots.training(losses, heldout=heldout, norms=norms, steps=5)
    for axes in figure.axes:
        assert all(math.isfinite(limit) for limit in axes.get_ylim())
    figure.draw_without_rendering()
