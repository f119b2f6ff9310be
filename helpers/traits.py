"""What conversations are like: their lengths, what repeats, how many are in house style, their scores."""

import re
from collections import Counter
from collections.abc import Sequence
from statistics import fmean, median
from typing import TYPE_CHECKING

from helpers import data, homework, letters, selection

if TYPE_CHECKING:
    from datasets import Dataset

# The labels of the three lines that the course's best answers have (data/README.md).
HOUSE_STYLE = ("Short answer", "Why", "Try it")
_LABELS = re.compile(rf"^({'|'.join(HOUSE_STYLE)}): (?=\S)", re.MULTILINE)
# Answers of so many words say almost nothing.
FEW_WORDS = 4


def house_style(row: dict) -> bool:
    """Whether each answer of a row has the three labelled lines, in their order, and no label twice."""
    texts = answers(row)
    return bool(texts) and all(tuple(_LABELS.findall(text)) == HOUSE_STYLE for text in texts)


def of(rows: Sequence[dict], tokens: Sequence[int] = ()) -> dict[str, float | None]:
    """What rows are like, by name: medians and means, and shares of the rows from 0 to 1.

    Args:
        rows: one or more.
        tokens: the length of each in tokens; without them there is no median of these.
    """
    scores = [row["score"] for row in rows if row.get("score") is not None]
    texts = [" ".join(letters.plain("\n".join(answers(row))).split()) for row in rows]
    return {
        "rows": len(rows),
        "words, median": median(map(homework.words, rows)),
        **({"tokens, median": median(tokens)} if tokens else {}),
        "answer words, median": median(map(selection.answer_words, rows)),
        f"answers of ≤ {FEW_WORDS} words": fmean(
            selection.answer_words(row) <= FEW_WORDS for row in rows
        ),
        "repeated answers": _repeated(texts),
        "repeated questions": _repeated([letters.bare(data.question(row)) for row in rows]),
        "in house style": fmean(map(house_style, rows)),
        "score, mean": fmean(scores) if scores else None,
    }


def answers(row: dict) -> list[str]:
    """What the assistant says in a conversation."""
    return [m["content"] for m in row["conversations"] if m["role"] == "assistant"]


def _repeated(texts: list[str]) -> float:
    """The share of texts that stand there more than once."""
    counts = Counter(texts)
    return fmean(counts[text] > 1 for text in texts)


def shown(name: str, value: float | None) -> str:
    """One of the numbers of `of` as text; a dash where there is none."""
    if value is None:
        return "–"
    if name == "rows":
        return f"{value:,}"
    if name.endswith("median"):
        return f"{value:g}"
    if name == "score, mean":
        return f"{value:.2f}"
    return "<1%" if 0 < value < 0.005 else f"{value:.0%}"


def token_counts(rows: "Dataset", tokenizer) -> list[int]:
    """Tokens of each conversation, template included, in one call: 52,002 rows of 116 take 7 seconds on one core.

    A text's own mark of the tokenizer counts as one token; training reads it as text (see `tokens`).

    Raises:
        CourseError: the chat template refuses a conversation.
    """
    try:
        texts = tokenizer.apply_chat_template(rows["conversations"][:], tokenize=False)
    # A template is a program of somebody else's, and stops with any error; the check names the row.
    except Exception:
        data.check_template(rows, tokenizer)
        raise
    found = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)
    return [len(ids) for ids in found["input_ids"]]
