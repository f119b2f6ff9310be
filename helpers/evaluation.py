"""Answer questions in batches, measure answers, write predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from helpers import answering, presets, tokens
from helpers.errors import CourseError, need_rows, need_texts

if TYPE_CHECKING:
    from datasets import Dataset

RESAMPLES = 2000


@dataclass(frozen=True)
class Measure:
    """A mean with its 95 % bootstrap interval over rows (Efron & Tibshirani 1993, percentile method).

    The interval holds the middle 95 % of the means of rows that are drawn again from these rows. Of many sets of rows,
    about 95 % have an interval that holds the mean over all rows of their kind; fewer where rows are few.
    """

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return (
            f"{self.mean:.2f} (95 % interval {self.low:.2f} to {self.high:.2f}, n = {self.count})"
        )


def measure(values: Sequence[float], weights: Sequence[float] | None = None) -> Measure:
    """Weighted mean of one value a row, with an interval from drawing the rows again and again."""
    if not len(values):
        raise CourseError(
            "There is nothing to average.", "The list of rows is empty.", "Choose some rows."
        )
    _check_same_rows(values, values if weights is None else weights)
    v = torch.tensor(values, dtype=torch.float64)
    w = torch.ones_like(v) if weights is None else torch.tensor(weights, dtype=torch.float64)
    generator = torch.Generator().manual_seed(presets.SEED)
    drawn = torch.randint(len(v), (RESAMPLES, len(v)), generator=generator)
    means = (v * w)[drawn].sum(1) / w[drawn].sum(1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Measure(((v * w).sum() / w.sum()).item(), low, high, len(v))


def _check_same_rows(one: Sequence[float], other: Sequence[float]) -> None:
    if len(one) != len(other):
        raise CourseError(
            f"There are {len(one)} and {len(other)} numbers, and each row has one of both.",
            "They were measured on different rows.",
            "Measure both on the same rows, then run this cell again.",
        )


def change(
    before: Sequence[float], after: Sequence[float], weights: Sequence[float] | None = None
) -> Measure:
    """Mean of ``after − before``, row by row: a paired comparison. What a row's difficulty adds to both cancels out."""
    _check_same_rows(before, after)
    return measure([b - a for a, b in zip(before, after, strict=True)], weights)


# ---------------------------------------------------------------------------------------- answering


# ---------------------------------------------------------------------------------------- measuring
def answer_losses(
    model, tokenizer, rows: "Dataset", *, at_once: int = 8
) -> tuple[list[float], list[int]]:
    """Held-out loss: how surprised the model is by each reference answer.

    Returns:
        For each row, the mean negative log-likelihood of its last answer's tokens (in nats a token), and
        how many tokens that are. The question and earlier turns are read but not counted.
    """
    from helpers.data import to_prompt_completion

    need_rows(rows)
    answering.inference_mode(model)
    pairs = []
    for row in rows.select_columns(["id", "conversations", "score"]):
        last = to_prompt_completion(type(rows).from_list([row]))[-1]
        whole, read = tokens.learned_ids(tokenizer, last["prompt"], last["completion"])
        answering.check_context(model, len(whole), f"The conversation {row['id']!r:.40}")
        pairs.append((read, whole))
    losses: list[float] = []
    for start in range(0, len(pairs), at_once):
        losses += _losses(model, tokenizer, pairs[start : start + at_once])
    return losses, [len(whole) - prompt for prompt, whole in pairs]


def _losses(model, tokenizer, pairs: list[tuple[int, list[int]]]) -> list[float]:
    longest = max(len(whole) for _, whole in pairs)
    ids = torch.full((len(pairs), longest), tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for i, (_, whole) in enumerate(pairs):
        ids[i, : len(whole)] = torch.tensor(whole)
        mask[i, : len(whole)] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    found = []
    for i, (prompt, whole) in enumerate(pairs):
        # Position t predicts token t + 1.
        predicted = logits[i, prompt - 1 : len(whole) - 1].float()
        loss = torch.nn.functional.cross_entropy(predicted, ids[i, prompt : len(whole)])
        found.append(loss.item())
    return found


def chrf(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """chrF of each answer against its reference, 0 to 100 (Popović 2015; sacrebleu's default settings).

    It counts common letter sequences, so it rewards wording and form, not truth.
    """
    from sacrebleu.metrics import CHRF

    need_texts(answers, "answers")
    need_texts(references, "references")
    if len(answers) != len(references):
        raise CourseError(
            f"There are {len(answers)} answers and {len(references)} references.",
            "Each answer is compared with one reference.",
            "Take answers and references of the same rows.",
        )
    metric = CHRF()
    return [metric.sentence_score(a, [r]).score for a, r in zip(answers, references, strict=True)]


def references(rows: "Dataset") -> list[str]:
    """The last answer of each row.

    Raises:
        CourseError: a row ends with a question, as those of a test set do.
    """
    need_rows(rows)
    for row_id, messages in zip(rows["id"], rows["conversations"], strict=True):
        if messages[-1]["role"] != "assistant":
            raise CourseError(
                f"The conversation {row_id!r:.40} ends with a question.",
                "What the model writes is compared with the answer that follows it.",
                "Take rows that end with an answer, such as those of heldout.json.",
            )
    return [messages[-1]["content"] for messages in rows["conversations"]]


# -------------------------------------------------------------------------------- the homework's files
