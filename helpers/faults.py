"""What is wrong with a training row, and its tokens as texts."""

import codecs
import json
import re
from itertools import pairwise
from typing import NamedTuple

# PyTorch's cross entropy leaves out what has this label.
NOT_COUNTED = -100


class Row(NamedTuple):
    """One row of a batch: token ids, their labels, and for each whether it is of the row and no padding."""

    ids: list[int]
    labels: list[int]
    real: list[bool]


class Piece(NamedTuple):
    """What is shown of a row at once: a token's text, or a character's that several tokens make up."""

    text: str
    tokens: int
    kind: str  # "read", "learnt" or "padding"
    mark: bool


class Fault(NamedTuple):
    """What is wrong with a row: in a few words, and in a sentence with what to do."""

    name: str
    why: str


# ---------------------------------------------------------------------------------------- tokens as texts
class Pieces:
    """Token ids as texts, exactly: each space stays, and tokens that are bytes of one character come together."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self.added = {i: str(token) for i, token in added.items()}
        self.marks = {i for i, token in added.items() if token.special}
        self.backend = tokenizer.backend_tokenizer
        # What a decoder of the Tokenizers library is pickled as: its part of tokenizer.json.
        decoder = json.loads(self.backend.decoder.__getstate__()) if self.backend.decoder else {}
        kinds = {part.get("type") for part in [decoder, *decoder.get("decoders", [])]}
        self.letters = _byte_letters() if "ByteLevel" in kinds else {}

    def bytes_of(self, token: int) -> bytes:
        """The bytes of the text that a token stands for."""
        if token in self.added:
            return self.added[token].encode()
        word = self.backend.id_to_token(token)
        if self.letters:
            return bytes(self.letters[letter] for letter in word)
        byte = re.fullmatch("<0x([0-9A-F]{2})>", word)  # SentencePiece's name for a byte
        return bytes([int(byte[1], 16)]) if byte else word.replace("▁", " ").encode()

    def text(self, token: int) -> str:
        """A token's text; bytes that are no whole character become �."""
        return self.bytes_of(token).decode(errors="replace")

    def of(self, row: Row) -> list[Piece]:
        """A row's tokens as pieces."""
        kinds = [
            "padding" if not real else "read" if label == NOT_COUNTED else "learnt"
            for label, real in zip(row.labels, row.real, strict=True)
        ]
        found, decoder, text, count = [], codecs.getincrementaldecoder("utf-8")("replace"), "", 0
        for i, (token, kind) in enumerate(zip(row.ids, kinds, strict=True)):
            text, count = text + decoder.decode(self.bytes_of(token)), count + 1
            following = row.ids[i + 1] if kinds[i + 1 : i + 2] == [kind] else None
            if decoder.getstate()[0] and following is not None and following not in self.marks:
                continue
            text += decoder.decode(b"", final=True)
            found.append(Piece(text, count, kind, token in self.marks))
            text, count = "", 0
        return found


def _byte_letters() -> dict[str, int]:
    """The letters by which GPT-2's tokenizers, and all after them, write bytes (bytes_to_unicode in its encoder.py)."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(256 + i): b for i, b in enumerate(others)}


# -------------------------------------------------------------------------------------------- what is wrong
NOTHING_LEARNT = Fault(
    "nothing learnt",
    "No label counts, so the row teaches nothing (question and answer cannot be told apart): look at the chat "
    "template, which has to write the answer behind the text that a prompt ends with.",
)
TWO_BEGINS = Fault(
    "two begin tokens",
    "The begin token stands there twice, and the model never saw that: one is in the text, and the tokenizer adds "
    "another; give messages and leave both to the chat template, or take it out of the text.",
)
EMPTY = Fault(
    "empty answer",
    "Nothing is learnt but to stop at once: leave the row out, or write its answer.",
)
MARK_IN_TEXT = Fault(
    "end token inside the answer",
    "Letters of the answer were taken for the end token, so the model learns to stop there: "
    "training.prepare(trainer, rows) keeps marks in a text as text.",
)
NO_END = Fault(
    "no end token",
    "No end token follows the answer, so the model does not learn to stop: use a chat template that closes an answer "
    "with the tokenizer's eos_token.",
)
END_MASKED = Fault(
    "end token not learnt",
    "The end token follows the answer, but does not count, so the model does not learn to stop: let the labels (or "
    "the template's {% generation %} part) cover it too.",
)
PAD_IS_END = Fault(
    "end token masked as padding",
    "Padding and end token are one and the same, and this collator masks every padding token, so the model does not "
    "learn to stop: give the tokenizer another pad_token, or use TRL's own collator.",
)
# Marks as templates spell them: those of ChatML, Llama 3, Phi; of Gemma; of Llama 2.
TEMPLATE_MARK = re.compile(r"<\|[^|<>\s'\"]{1,40}\|>|<(?:start|end)_of_turn>|<(?:bos|eos)>|</?s>")


def cut_off(max_length: int, answer_left: bool = True) -> Fault:
    """The fault of a row that is longer than ``max_length`` tokens."""
    if answer_left:
        return Fault(
            "cut off, no end token",
            f"The row is cut off at max_length = {max_length}, so the model learns to break off in the middle and not "
            "to stop: leave the row out, or raise max_length.",
        )
    return Fault(
        "no answer left",
        f"The question alone fills max_length = {max_length}, so nothing of the answer is learnt: leave the row out, or "
        "raise max_length.",
    )


def other_template(marks: list[str]) -> Fault:
    """The fault of a row whose template has marks that its tokenizer does not know."""
    names = " ".join(marks[:3])
    return Fault(
        "another model's template",
        f"Marks of the chat template ({names}) are no tokens of this tokenizer and are spelled out in several, so the "
        "model knows none of them: use its own template, unless you chose this one on purpose (the homework does).",
    )


def other_end(mark: str, end: str) -> Fault:
    """The fault of a row whose answer is closed by a mark that is not the end token."""
    return Fault(
        "another end token",
        f"The answer ends with {mark}, and the tokenizer's end token is {end}, at which answering stops: make them the "
        "same, unless the model's generation_config names both.",
    )


def faults(
    row: Row,
    pieces: Pieces,
    *,
    ends: set[int],
    template: str | None = None,
    max_length: int | None = None,
) -> list[Fault]:
    """What is wrong with a row; empty where nothing is.

    Args:
        row: as the collator gave it.
        pieces: of its tokenizer.
        ends: ids of the tokens at which answering stops.
        template: the chat template.
        max_length: tokens at which rows are cut.
    """
    kept = [i for i, real in enumerate(row.real) if real]
    ids, labels = [row.ids[i] for i in kept], [row.labels[i] for i in kept]
    begin = pieces.tokenizer.bos_token_id
    found = [TWO_BEGINS] if begin is not None and ids[:2] == [begin, begin] else []
    spelled = dict.fromkeys(TEMPLATE_MARK.findall(template or ""))
    marks = [mark for mark in spelled if pieces.backend.token_to_id(mark) is None]
    text = b"".join(map(pieces.bytes_of, ids)).decode(errors="replace") if marks else ""
    if marks := [mark for mark in marks if mark in text]:
        found.append(other_template(marks))
    learnt = [i for i, label in enumerate(labels) if label != NOT_COUNTED]
    full = max_length is not None and len(ids) >= max_length
    if not learnt:
        return [*found, cut_off(max_length, answer_left=False) if full else NOTHING_LEARNT]
    said = [i for i in learnt if pieces.text(ids[i]).strip()]
    if all(ids[i] in pieces.marks for i in said):
        found.append(EMPTY)
    if _ends_early(ids, labels, said, ends, pieces):
        found.append(MARK_IN_TEXT)
    if not said or ids[said[-1]] not in ends:
        found.append(_unclosed(ids, learnt, said, ends, pieces, max_length if full else None))
    return found


def _ends_early(
    ids: list[int], labels: list[int], said: list[int], ends: set[int], pieces: Pieces
) -> bool:
    """Whether what is learnt goes on with text, or ends again, behind an end token; a next turn begins with a mark."""
    for here, following in pairwise(said):
        together = NOT_COUNTED not in labels[here:following]
        goes_on = ids[following] in ends or ids[following] not in pieces.marks
        if ids[here] in ends and together and goes_on:
            return True
    return False


def _unclosed(
    ids: list[int],
    learnt: list[int],
    said: list[int],
    ends: set[int],
    pieces: Pieces,
    cut_at: int | None,
) -> Fault:
    """Why no end token closes what is learnt."""
    last = (said or learnt)[-1]
    behind = [token for token in ids[last + 1 :] if pieces.text(token).strip()]
    if behind and behind[0] in ends:
        return PAD_IS_END if behind[0] == pieces.tokenizer.pad_token_id else END_MASKED
    if cut_at is not None:
        return cut_off(cut_at)
    if said and ids[said[-1]] in pieces.marks:
        return other_end(pieces.text(ids[said[-1]]), pieces.tokenizer.eos_token)
    return NO_END
