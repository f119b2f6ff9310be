"""Watched while a model trains: the loss on held-out rows, and how many updates were applied."""

from helpers import unsloth_first  # noqa: F401  # isort: skip

import contextlib
import math
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback

from helpers import data, tokens, trainer_files
from helpers.errors import check_whole, need_rows

if TYPE_CHECKING:
    from datasets import Dataset

# How many times as long as reading a token training it takes. By arithmetic three times: a forward pass, and a backward
# pass of twice that; more with gradient checkpointing. Measured it was 2.3 (`tools/training_costs.py`, the small model on
# 2 cores in 32 bits: 5 looks at 2,355 tokens took 12 % of the time that 41,336 trained tokens took).
TRAINED_PER_READ = 2.3
# Looks take at most this share of the training's time, as far as it follows from tokens.
SHARE = 0.1
# Points that a curve has at most, and at least: before, in the middle, at the end.
MOST_POINTS, FEWEST_POINTS = 8, 3
# Tokens that are read at once, padding included: their logits over Llama-2's 32,000 words then take 0.2 GB.
TOKENS_AT_ONCE = 1024


class Answer(NamedTuple):
    """The tokens of a conversation, and how many of them come before its last answer."""

    ids: list[int]
    start: int


class Looking(TrainerCallback):
    """Measures the loss on held-out rows before the first step, every some steps, after the last one, and after Stop.

    It is the mean over the tokens of each row's last answer, as `evaluation.answer_losses` counts them. Each value
    goes into the trainer's log as ``heldout_loss`` (nats a token); where only Stop made it look, with ``added``. Training
    goes on as if nobody had looked. Add it after whatever sets ``control.should_training_stop``, and before what shows or
    keeps its values.

    Args:
        rows: conversations that are not trained on.
        tokenizer: the model's.
        every: steps between two looks; ``None``: as `spacing` says.
    """

    def __init__(self, rows: "Dataset", tokenizer, every: int | None = None):
        need_rows(rows)
        self.rows, self.tokenizer = rows, tokenizer
        self.asked = None if every is None else check_whole("every", every, 1)
        # Step and loss of each look, those before an interruption included.
        self.points: list[tuple[int, float]] = []
        self.answers: list[Answer] = []

    def on_train_begin(self, args, state, control, model=None, train_dataloader=None, **kwargs):
        self.points = points(state.log_history)
        limit = min(args.max_length or math.inf, model.config.max_position_embeddings)
        self.answers = _fitting(_answers(self.rows, self.tokenizer), limit)
        read = sum(len(answer.ids) for answer in self.answers)
        trained = args.num_train_epochs * sum(map(len, train_dataloader.dataset["input_ids"]))
        self.every = self.asked or spacing(state.max_steps, read, trained)
        self.at_once = args.per_device_train_batch_size
        if state.global_step == 0:
            self.look(model, state)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        usual = state.global_step >= state.max_steps or state.global_step % self.every == 0
        if usual or control.should_training_stop:
            self.look(model, state, added=not usual)

    def look(self, model, state, *, added: bool = False) -> None:
        """Measure now, and log it; nothing where this step has its point already.

        Args:
            model, state: as Trainer has them.
            added: a run that nobody stops does not look here.
        """
        step = state.global_step
        if not self.answers or any(step == done for done, _ in self.points):
            return
        try:
            loss = loss_of(model, self.answers, self.tokenizer.pad_token_id, self.at_once)
        except torch.OutOfMemoryError as error:
            # The frames of the error hold what filled the memory.
            traceback.clear_frames(error.__traceback__)
            torch.cuda.empty_cache()
            self.answers = []
            print(
                f"After step {step} the held-out rows did not fit into the GPU's memory beside the training. It goes "
                "on without their loss."
            )
            return
        self.points.append((step, loss))
        entry = {"epoch": state.epoch or 0.0, "heldout_loss": loss, "step": step}
        state.log_history.append(entry | ({"added": True} if added else {}))


def points(log: list[dict]) -> list[tuple[int, float]]:
    """Step and held-out loss of each look that a trainer's log holds."""
    return trainer_files.series(log, "heldout_loss")


def spacing(steps: int, read: int, trained: float) -> int:
    """Steps between two looks: as few as give at most 8 points and take at most a tenth of the training's time.

    It follows from tokens and not from a clock, so that a run has its points at the same steps on every machine.
    There are three points at least, also where they take longer: training on few, short rows is soon done.

    Args:
        steps: of the whole training.
        read: tokens that one look reads.
        trained: tokens of the whole training, each as often as it is trained on.
    """
    affordable = int(SHARE * TRAINED_PER_READ * trained / read) if read else 0
    # One of the points is before the first step.
    count = min(max(affordable, FEWEST_POINTS), MOST_POINTS) - 1
    return max(1, math.ceil(steps / count))


@contextlib.contextmanager
def reading(model) -> Iterator[None]:
    """A model that only reads, for the time of a ``with`` block: no dropout, no gradients.

    Afterwards each of its parts is in the mode it was in, and random numbers go on where they were. `for_inference`
    would change more than that, and is not needed: without labels Unsloth's model returns logits in any mode. Not
    ``torch.inference_mode``: what a model keeps for later, such as tables of positions, could not be trained with.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.random.fork_rng(), torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def loss_of(model, answers: list[Answer], pad_token_id: int, at_once: int) -> float:
    """Mean negative log-likelihood of all answers' tokens, in nats a token.

    Args:
        model: in whatever mode.
        answers: at least one.
        pad_token_id: fills shorter rows up.
        at_once: rows that go through the model together, at most; fewer where they are long.
    """
    total, count = 0.0, sum(len(answer.ids) - answer.start for answer in answers)
    # Rows of similar length together: less padding.
    left = sorted(answers, key=lambda answer: len(answer.ids))
    with reading(model):
        while left:
            fit = max(1, min(at_once, TOKENS_AT_ONCE // len(left[-1].ids)))
            total += _sum_of_losses(model, left[-fit:], pad_token_id)
            del left[-fit:]
    return total / count


def _sum_of_losses(model, answers: list[Answer], pad_token_id: int) -> float:
    longest = max(len(answer.ids) for answer in answers)
    ids = torch.full((len(answers), longest), pad_token_id)
    mask, learnt = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for i, answer in enumerate(answers):
        ids[i, : len(answer.ids)] = torch.tensor(answer.ids)
        mask[i, : len(answer.ids)] = 1
        learnt[i, answer.start : len(answer.ids)] = True
    ids, mask, learnt = (tensor.to(model.device) for tensor in (ids, mask, learnt))
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    # Position t predicts token t + 1.
    predicted = logits[:, :-1][learnt[:, 1:]].float()
    return cross_entropy(predicted, ids[:, 1:][learnt[:, 1:]], reduction="sum").item()


def _answers(rows: "Dataset", tokenizer) -> list[Answer]:
    """The last answer of each row, with what comes before it."""
    found = []
    for row in rows.select_columns(["id", "conversations", "score"]):
        last = data.to_prompt_completion(type(rows).from_list([row]))[-1]
        found.append(Answer(*tokens.learned_ids(tokenizer, last["prompt"], last["completion"])))
    return found


def _fitting(answers: list[Answer], limit: float) -> list[Answer]:
    """Those of at most ``limit`` tokens: of a longer one the model would read a part only."""
    kept = [answer for answer in answers if len(answer.ids) <= limit]
    if len(kept) < len(answers):
        print(
            f"{len(answers) - len(kept)} of {len(answers)} held-out rows are longer than {limit} tokens (max_length, or "
            f"what the model can read): {'the loss while training is that of the others' if kept else 'none is left to look at'}."
        )
    return kept


class Updates(TrainerCallback):
    """Counts the updates of the adapter that were applied, and those that were skipped.

    In float16 the loss is multiplied by a large number, so that small gradients stay above 0. Where a gradient then is
    infinite or no number, that update is skipped and the number halved (Micikevicius et al. 2018, "Mixed Precision
    Training", section 3.2); it starts at 65,536, so the first steps of a training are often skipped. The gradient norm
    of such a step is infinite or no number too, and nothing is wrong.

    Args:
        applied: updates before an interruption.
        skipped: likewise.
    """

    def __init__(self, applied: int = 0, skipped: int = 0):
        self.applied, self.skipped = applied, skipped

    def on_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        # Accelerate's wrapper sees whether the scaler called the optimizer. It would miss what a fused PyTorch
        # optimizer skips by itself; the course's, in 8 bits, does not.
        if optimizer.step_was_skipped:
            self.skipped += 1
        else:
            self.applied += 1

    def __str__(self) -> str:
        steps = self.applied + self.skipped
        skipped = f" ({self.skipped} skipped)" if self.skipped else ""
        return f"{self.applied} of {steps} updates applied{skipped}"
