"""Looking at held-out rows changes nothing but the log, and every skipped update is counted."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tiny_run
import torch
from accelerate.optimizer import AcceleratedOptimizer
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainerCallback, set_seed
from unsloth import is_bfloat16_supported

from helpers import adapting, data, evaluation, homework, models, panel, selection, watching
from helpers.watching import Looking, Updates

pytestmark = pytest.mark.usefixtures("use_tiny_llama")

# 8 rows, 2 at a time: 4 steps.
CHOICE = replace(tiny_run.CHOICE, rows_per_update=2, num_train_epochs=1)
STEPS = 4


@pytest.fixture(scope="module")
def held():
    """Held-out rows that the tiny Llama can read."""
    return selection.select(data.load_conversations(data.OUR_HELDOUT), homework.simple_key, limit=4)


@pytest.fixture
def build(tmp_path):
    """A trainer of the tiny Llama, with callbacks."""

    def make(*callbacks, folder="run", **changed):
        choice = replace(CHOICE, **changed)
        rows = tiny_run.conversations(8)
        _, tokenizer, trainer = tiny_run.build(rows, choice, tmp_path / folder)
        for callback in callbacks:
            made = callback if isinstance(callback, TrainerCallback) else callback(tokenizer)
            trainer.add_callback(made)
        set_seed(trainer.args.seed)
        return trainer

    return make


def losses(trainer) -> list[tuple[int, float]]:
    return [(e["step"], e["loss"]) for e in trainer.state.log_history if "loss" in e]


def adapter(trainer) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}


class StopAfter(TrainerCallback):
    """Ends a training after a step, with a checkpoint, as Stop does."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


# ------------------------------------------------------------------------------ nothing else changes
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_watched_training_is_the_same_bit_for_bit(build, held, dropout):
    alone = build(lora_dropout=dropout, folder="alone")
    alone.train()
    updates = Updates()
    watched = build(
        lambda tokenizer: Looking(held, tokenizer, every=1),
        updates,
        panel.Panel(updates),
        lora_dropout=dropout,
        folder="watched",
    )
    watched.train()
    assert losses(watched) == losses(alone)
    assert len(watching.points(watched.state.log_history)) == STEPS + 1
    before, after = adapter(alone), adapter(watched)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (updates.applied, updates.skipped) == (STEPS, 0)


def test_reading_puts_back_every_mode_and_the_random_numbers():
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(2, 2))
    model[1].eval()
    state = torch.random.get_rng_state()
    with pytest.raises(ZeroDivisionError), watching.reading(model):
        assert not model.training and not model[0].training and not torch.is_grad_enabled()
        torch.rand(3)
        _ = 1 / 0
    assert (model.training, model[0].training, model[1].training) == (True, True, False)
    assert torch.is_grad_enabled() and torch.equal(torch.random.get_rng_state(), state)


# --------------------------------------------------------------------------------- what is measured
def test_the_loss_is_that_of_notebook_06_weighted_by_tokens(build, held):
    trainer = build(lambda tokenizer: Looking(held, tokenizer, every=2), learning_rate=0.05)
    trainer.train()
    (*_, (step, last)) = watching.points(trainer.state.log_history)
    # What `training.train` does after the last step: no automatic mixed precision any more.
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    each, counts = evaluation.answer_losses(trainer.model, trainer.processing_class, held)
    expected = sum(e * c for e, c in zip(each, counts, strict=True)) / sum(counts)
    assert step == STEPS
    assert last == pytest.approx(expected, abs=1e-3 if is_bfloat16_supported() else 1e-5)


def test_rows_at_once_do_not_change_the_loss(held, monkeypatch):
    model, tokenizer = models.load(max_seq_length=512)
    model = adapting.add_adapter(model, CHOICE)
    answers = watching._answers(held, tokenizer)
    found = [watching.loss_of(model, answers, tokenizer.pad_token_id, n) for n in (1, 2, 4)]
    monkeypatch.setattr(watching, "TOKENS_AT_ONCE", 1)
    found.append(watching.loss_of(model, answers, tokenizer.pad_token_id, 4))
    assert found == pytest.approx([found[0]] * 4, abs=1e-3 if is_bfloat16_supported() else 1e-5)
    assert found[0] == found[3], "a long row is read alone"


def test_there_is_a_point_before_the_first_step_every_some_steps_and_after_the_last(build, held):
    trainer = build(lambda tokenizer: Looking(held, tokenizer, every=3), learning_rate=0.05)
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "heldout_loss" in entry]
    assert [entry["step"] for entry in log] == [0, 3, 4]
    assert all(entry.keys() == {"epoch", "heldout_loss", "step"} for entry in log)
    assert [entry["epoch"] for entry in log] == [0, 0.75, 1]
    assert len({entry["heldout_loss"] for entry in log}) == 3
    (looking,) = [c for c in trainer.callback_handler.callbacks if isinstance(c, Looking)]
    assert looking.points == watching.points(trainer.state.log_history)
    # The untrained adapter adds nothing: this is the base model.
    with trainer.model.disable_adapter():
        base = watching.loss_of(trainer.model, looking.answers, looking.tokenizer.pad_token_id, 2)
    assert log[0]["heldout_loss"] == pytest.approx(base, abs=1e-6)


def test_after_stop_there_is_a_point_and_resuming_goes_on_with_the_points(build, held):
    def look(tokenizer):
        return Looking(held, tokenizer, every=3)

    whole = build(look, folder="whole")
    whole.train()
    stopped = build(StopAfter(2), look)
    stopped.train()
    before = watching.points(stopped.state.log_history)
    assert [step for step, _ in before] == [0, 2]
    assert [
        entry.get("added") for entry in stopped.state.log_history if "heldout_loss" in entry
    ] == [None, True]
    resumed = build(look)
    resumed.train(resume_from_checkpoint=f"{resumed.args.output_dir}/checkpoint-2")
    after = watching.points(resumed.state.log_history)
    assert [step for step, _ in after] == [0, 2, 3, 4] and after[:2] == before
    assert after[2:] == watching.points(whole.state.log_history)[1:]
    assert losses(resumed) == losses(whole)


def test_rows_longer_than_the_training_reads_are_left_out_and_counted(build, held, capsys):
    answers = [watching.Answer([1] * length, 3) for length in (10, 20, 30)]
    assert watching._fitting(answers, 20) == answers[:2]
    said = capsys.readouterr().out
    assert "1 of 3 held-out rows are longer than 20 tokens" in said and "the others" in said
    assert watching._fitting(answers, 5) == [] and "none is left" in capsys.readouterr().out
    assert watching._fitting(answers, 30) == answers and not capsys.readouterr().out


def test_where_memory_runs_out_looking_ends_with_a_sentence_and_training_goes_on(
    build, held, capsys
):
    def too_much(module, inputs):
        if not module.training and full:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    class Fill(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            full.extend([True] * (state.global_step == 1))

    full = []
    alone = build(folder="alone")
    alone.train()
    trainer = build(lambda tokenizer: Looking(held, tokenizer, every=1), Fill())
    trainer.model.register_forward_pre_hook(too_much)
    trainer.train()
    assert losses(trainer) == losses(alone) and trainer.model.training == alone.model.training
    assert [step for step, _ in watching.points(trainer.state.log_history)] == [0, 1]
    assert capsys.readouterr().out.count("did not fit into the GPU's memory") == 1


@given(st.integers(1, 2000), st.integers(0, 10**5), st.integers(1, 10**7))
def test_a_curve_has_three_to_eight_points_and_takes_a_tenth_at_most_where_it_has_more(
    steps, read, trained
):
    every = watching.spacing(steps, read, trained)
    looked = {0, *range(every, steps, every), steps}
    assert len(looked) <= watching.MOST_POINTS
    assert len(looked) >= min(steps + 1, watching.FEWEST_POINTS)
    if len(looked) > watching.FEWEST_POINTS:
        share = len(looked) * read / (watching.TRAINED_PER_READ * trained)
        assert share <= watching.SHARE


def test_the_course_s_usual_run_has_four_points():
    """100 conversations of the best scores are 120 answers and 20,668 tokens; the 16 looking rows 2,355."""
    assert watching.spacing(steps=30, read=2355, trained=2 * 20668) == 10
    assert watching.spacing(steps=26, read=1000, trained=10**6) == 4, (
        "8 points, where they cost little"
    )


# ------------------------------------------------------------------------------------------ updates
class Overflow(TrainerCallback):
    """Gives a training on the CPU float16's loss scaler, and in some steps an infinite gradient."""

    def __init__(self, *steps: int):
        self.steps, self.scaler = steps, torch.amp.GradScaler("cpu", init_scale=1.0)

    def on_train_begin(self, args, state, control, optimizer=None, **kwargs):
        self.scaler.scale(torch.zeros(()))  # makes its scale
        # As accelerate's own constructor sets it up.
        optimizer.__init__(optimizer.optimizer, device_placement=False, scaler=self.scaler)

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step + 1 in self.steps:
            parameter = next(p for p in model.parameters() if p.grad is not None)
            parameter.grad[0, 0] = math.inf


def test_updates_that_float16_s_scaler_skips_are_counted(build):
    updates, before = Updates(applied=5, skipped=1), {}

    class Note(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            before[state.global_step] = adapter(SimpleNamespace(model=model))

    trainer = build(updates, Overflow(1, 3), Note())
    # As the 8-bit optimizer of a GPU: the scaler does not call it. A fused one is called, and skips by itself.
    trainer.args.optim, trainer.args.warmup_steps = "adamw_torch", 0
    trainer.train()
    assert isinstance(trainer.optimizer, AcceleratedOptimizer)
    assert (updates.applied, updates.skipped) == (5 + 2, 1 + 2)
    assert str(updates) == "7 of 10 updates applied (3 skipped)"
    moved = [
        any(not torch.equal(before[step][name], before[step - 1][name]) for name in before[step])
        for step in (2, 3, 4)
    ]
    assert moved == [True, False, True], "a skipped update moves nothing"


def test_no_skipped_update_is_not_mentioned():
    assert str(Updates(12)) == "12 of 12 updates applied"
