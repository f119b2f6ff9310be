"""See the rows that a training learns from, token by token: what is read, what is learnt, and what is wrong."""

from helpers import unsloth_first  # noqa: F401  # isort: skip

import codecs
import contextlib
import html
import io
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import datasets
from transformers import LlamaConfig, LlamaForCausalLM
from trl import SFTTrainer

from helpers import data, selection, tokens, training
from helpers.choice import Choice
from helpers.errors import CourseError, check_whole
from helpers.svg import RED, SKY

if TYPE_CHECKING:
    import ipywidgets
    from datasets import Dataset

# PyTorch's cross entropy leaves out what has this label.
NOT_COUNTED = -100
# Rows that the list shows; all are looked through for faults.
SHOWN = 20
# In the list a longer run of tokens, all read or all learnt, is folded to so many at each end.
EDGE = 8
# What a collator reads of a row; TRL's trainer on a CPU keeps the messages beside it.
COLUMNS = ("input_ids", "labels", "attention_mask", "completion_mask", "assistant_masks")
COLUMNS += ("seq_lengths", "token_type_ids")
COLOURS = {"read": "#e8e8e8", "learnt": SKY, "padding": "#ffffff"}
SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
LINES = str.maketrans({" ": "·", "\n": "↵", "\r": "␍", "\t": "⇥"})


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


# --------------------------------------------------------------------------------------------- what is seen
class LabelRow:
    """One row as a training sees it; as the value of a cell it is shown whole.

    Attributes:
        number, name: its place among the trainer's rows, and the id of its conversation where that is known.
        ids, labels: token ids and labels (−100: not counted), padding included.
        real: for each token, whether it is one of the row and no padding.
        faults: what is wrong with it.
    """

    def __init__(self, number: int, name: str, row: Row, found: list[Fault], pieces: Pieces):
        self.number, self.name, self.faults, self._pieces = number, name, found, pieces
        self.ids, self.labels, self.real = row

    @property
    def tokens(self) -> int:
        """How many tokens the row has, without padding."""
        return sum(self.real)

    @property
    def learnt(self) -> int:
        """How many of them count."""
        return sum(label != NOT_COUNTED for label in self.labels)

    def pieces(self) -> list[Piece]:
        """The tokens as texts, those of one character together."""
        return self._pieces.of(Row(self.ids, self.labels, self.real))

    def runs(self, fold: bool) -> list[tuple[str, list[Piece], int, list[Piece]]]:
        """Neighbours of one kind: the kind, the first pieces, how many tokens are folded away, the last pieces."""
        found = []
        for kind, run in groupby(self.pieces(), key=lambda piece: piece.kind):
            run = list(run)
            edge = len(run)
            if kind == "padding":
                edge = 0
            elif fold and len(run) > 2 * EDGE + 2:
                edge = EDGE
            last = run[-edge:] if 0 < edge < len(run) else []
            middle = run[edge : len(run) - len(last)]
            found.append((kind, run[:edge], sum(piece.tokens for piece in middle), last))
        return found

    def summary(self) -> str:
        if not self.ids:
            return "left out by the trainer"
        padding = len(self.real) - self.tokens
        filled = f", {padding} padding" * bool(padding)
        return f"{self.tokens} tokens, {self.learnt} learnt{filled}"

    def _text(self, fold: bool) -> str:
        names = "; ".join(fault.name for fault in self.faults)
        lines = [f"{self.number:>3}  {self.name}  {self.summary()}{f'  ! {names}' * bool(names)}"]
        parts = []
        for kind, first, folded, last in self.runs(fold):
            hidden = [f"[{_folded(kind, folded)}]"] if folded else []
            text = "|".join([*map(_plain, first), *hidden, *map(_plain, last)])
            parts.append(f"⟦{text}⟧" if kind == "learnt" else text)
        return "\n".join([*lines, *([" ".join(parts)] if parts else [])])

    def __repr__(self) -> str:
        return "\n".join([self._text(False), *(f"{f.name}: {f.why}" for f in self.faults)])

    def _html(self, fold: bool) -> str:
        names = "".join(
            f' <b style="color:{RED}">⚠&nbsp;{html.escape(f.name)}</b>' for f in self.faults
        )
        head = f"<b>{self.number}</b> &nbsp;{html.escape(self.name)} &nbsp;{self.summary()}{names}"
        parts = []
        for kind, first, folded, last in self.runs(fold):
            words = _folded(kind, folded).replace(" ", "&nbsp;")
            hidden = [_chip(words, kind, faint=True)] if folded else []
            parts += [_span(piece, fold) for piece in first] + hidden
            parts += [_span(piece, fold) for piece in last]
        return (
            '<div style="padding:5px 0;border-top:1px solid #bbb">'
            f'<div style="margin-bottom:2px">{head}</div>'
            '<div style="font-family:monospace;line-height:1.75;overflow-wrap:anywhere">'
            f"{' '.join(parts)}</div></div>"
        )

    def _repr_html_(self) -> str:
        return _page(_legend(), self._html(False), *map(_explained, self.faults))


class LabelView:
    """The rows of a training: a list of up to 20, and ``view[3]`` for one of them, whole.

    Rows with faults come into the list first. As the value of a cell, Jupyter and GitHub show the list as coloured
    tokens; ``print`` shows it as text, with what is learnt between ⟦ and ⟧.

    Args:
        trainer: what `training.prepare` returned. Its own rows go through its own collator, as many at once as in
            training; there they come in another order, so that rows of other lengths meet, and padding differs.
        conversations: what it was made from, for the ids.
        shown: rows in the list.

    Attributes:
        rows: a `LabelRow` for each of the trainer's rows.
        faults: each fault that was found, with the numbers of its rows.

    Raises:
        CourseError: these conversations make another number of rows than the trainer has.
    """

    def __init__(
        self, trainer: SFTTrainer, conversations: "Dataset | None" = None, *, shown: int = SHOWN
    ):
        found = collated(trainer)
        names = [f"row {number}" for number in range(len(found))]
        if conversations is not None:
            names = row_names(conversations)
        if len(names) != len(found):
            raise CourseError(
                f"These conversations make {len(names)} rows, and the trainer has {len(found)}.",
                "It was built from others, or left rows out.",
                "Give the conversations that it was built from, or leave them out here.",
            )
        judge = _judge(trainer)
        rows = [(name, row, judge(row)) for name, row in zip(names, found, strict=True)]
        self._fill(rows, trainer.processing_class, shown)

    @classmethod
    def of(
        cls,
        conversations: "Dataset",
        tokenizer,
        *,
        max_length: int = Choice.max_length,
        rows_at_once: int = training.CPU_ROWS_AT_ONCE,
        shown: int = SHOWN,
    ) -> "LabelView":
        """The same before there is a model: a tokenizer is enough, such as `models.load_tokenizer` gives.

        A Llama of a few numbers stands in for the model; trainer and collator are the real ones.

        Args:
            conversations: at most 100, as `data.load_conversations` gives them.
            tokenizer: with a chat template.
            max_length: tokens of the longest row. Training refuses longer ones; here they are shown cut.
            rows_at_once: rows that are padded to one length.
            shown: rows in the list.

        Raises:
            CourseError: the chat template refuses a conversation; there are too many, or one comes twice.
        """
        check_whole("max_length", max_length, 8)
        check_whole("rows_at_once", rows_at_once, 1)
        selection.check_rows(conversations)
        data.check_template(conversations, tokenizer)
        pairs = data.to_prompt_completion(conversations)
        fits = [
            len(tokens.learned_ids(tokenizer, row["prompt"], row["completion"])[0]) <= max_length
            for row in pairs
        ]
        found = {}
        for whole in (True, False):
            part = [i for i, fit in enumerate(fits) if fit == whole]
            if part:
                seen = _seen(pairs.select(part), tokenizer, max_length, rows_at_once, whole)
                found |= dict(zip(part, seen, strict=True))
        rows = [(name, *found[i]) for i, name in enumerate(row_names(conversations))]
        view = cls.__new__(cls)
        view._fill(rows, tokenizer, shown)
        return view

    def _fill(self, rows: list[tuple[str, Row, list[Fault]]], tokenizer, shown: int) -> None:
        pieces = Pieces(tokenizer)
        self.rows = [LabelRow(i, *row, pieces) for i, row in enumerate(rows)]
        self.shown = check_whole("shown", shown, 1)
        self.faults: dict[Fault, list[int]] = {}
        for row in self.rows:
            for fault in row.faults:
                self.faults.setdefault(fault, []).append(row.number)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[LabelRow]:
        return iter(self.rows)

    def __getitem__(self, number: int) -> LabelRow:
        check_whole("number", number, 0)
        if number >= len(self.rows):
            raise CourseError(
                f"There is no row {number}.",
                f"The rows have the numbers 0 to {len(self.rows) - 1}.",
                "Give one of them: view[0].",
            )
        return self.rows[number]

    def listed(self) -> list[LabelRow]:
        """The rows in the list: those with faults, then from the first on; in their order."""
        first = sorted(self.rows, key=lambda row: not row.faults)[: self.shown]
        return sorted(first, key=lambda row: row.number)

    def summary(self) -> str:
        listed, count = len(self.listed()), len(self.rows)
        seen = f"{count} rows" if listed == count else f"{listed} of {count} rows"
        faulty = sum(bool(row.faults) for row in self.rows)
        learnt, total = (sum(getattr(row, n) for row in self.rows) for n in ("learnt", "tokens"))
        wrong = f"faults in {faulty}" if faulty else "no faults found"
        return f"{seen}; {learnt:,} of all {total:,} tokens are learnt; {wrong}."

    def __repr__(self) -> str:
        found = [f"{f.name} ({_numbers(rows)}): {f.why}" for f, rows in self.faults.items()]
        return "\n".join([self.summary(), *found, *(row._text(True) for row in self.listed())])

    def _repr_html_(self) -> str:
        found = [_explained(fault, _numbers(rows)) for fault, rows in self.faults.items()]
        summary = f'<div style="margin:4px 0">{self.summary()}</div>'
        return _page(_legend(), summary, *found, *(row._html(True) for row in self.listed()))

    def slider(self) -> "ipywidgets.VBox":
        """A slider over the rows, with the one it stands on whole; a saved notebook keeps the list."""
        import ipywidgets as w
        from IPython.display import display

        place = w.IntSlider(max=len(self.rows) - 1, description="row")
        shown = w.HTML(self.rows[0]._repr_html_())
        place.observe(
            lambda change: setattr(shown, "value", self.rows[change["new"]]._repr_html_()), "value"
        )
        still = {"text/plain": repr(self), "text/html": self._repr_html_()}

        class Slider(w.VBox):
            # The way that ipywidgets 7.7 and 8.1 both know, see `controls.WithStill`.
            def _ipython_display_(self, **_kwargs) -> None:
                view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
                display(
                    still | {"application/vnd.jupyter.widget-view+json": view},
                    raw=True,
                )

        return Slider([place, shown])


# ------------------------------------------------------------------------------------- the trainer's rows
def collated(trainer: SFTTrainer) -> list[Row]:
    """The trainer's rows, as they come out of its own collator."""
    examples = [
        {name: row[name] for name in COLUMNS if name in row} for row in trainer.train_dataset
    ]
    at_once = trainer.args.per_device_train_batch_size
    found = []
    for start in range(0, len(examples), at_once):
        part = examples[start : start + at_once]
        found += _split(trainer.data_collator(part), len(part))
    return found


def _split(batch: dict, count: int) -> list[Row]:
    """The rows of a batch: below each other and padded, or (padding-free) one behind the other."""
    ids, labels = batch["input_ids"].tolist(), batch["labels"].tolist()
    if "attention_mask" in batch:
        masks = [[bool(n) for n in row] for row in batch["attention_mask"].tolist()]
        return [Row(*row) for row in zip(ids, labels, masks, strict=True)]
    # Unsloth's trainer on a GPU, see enable_padding_free_metadata in unsloth/utils/packing.py. Each row counts
    # its positions from 0; what fills the batch up behind the last one has position 0 too.
    places = batch["position_ids"][0].tolist()
    starts = [i for i, place in enumerate(places) if place == 0]
    ends = [*starts[1:], len(places)]
    cuts = [slice(*cut) for cut in zip(starts, ends, strict=True)][:count]
    return [Row(ids[0][cut], labels[0][cut], [True] * len(ids[0][cut])) for cut in cuts]


def _judge(trainer: SFTTrainer) -> Callable[[Row], list[Fault]]:
    """What finds the faults of this trainer's rows."""
    tokenizer = trainer.processing_class
    named = trainer.model.generation_config.eos_token_id
    ends = {*named} if isinstance(named, list) else {named}
    return partial(
        faults,
        pieces=Pieces(tokenizer),
        ends={*ends, tokenizer.eos_token_id} - {None},
        template=getattr(trainer, "chat_template", None) or tokenizer.chat_template,
        max_length=trainer.args.max_length,
    )


def row_names(conversations: "Dataset") -> list[str]:
    """For each training row the id of its conversation, with the answer's number where there are several."""
    names = []
    for row in conversations:
        answers = sum(message["role"] == "assistant" for message in row["conversations"])
        names += [
            row["id"] + f", answer {number}" * (answers > 1) for number in range(1, answers + 1)
        ]
    return names


def _seen(
    pairs: "Dataset", tokenizer, max_length: int, at_once: int, whole: bool
) -> list[tuple[Row, list[Fault]]]:
    """What a real trainer makes of prompt/completion rows, and the faults; it prepares only rows that fit."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        numbered = pairs.add_column("place", range(len(pairs)))
        trainer = _trainer(numbered, tokenizer, max_length, at_once, Path(folder))
        if whole:
            trainer = training.prepare(trainer, pairs)
        kept = trainer.train_dataset
        # Unsloth's trainer on a GPU drops the column, and no row; TRL's drops rows without a label.
        places = kept["place"] if "place" in kept.column_names else range(len(pairs))
        judge = _judge(trainer)
        seen = {
            place: (row, judge(row)) for place, row in zip(places, collated(trainer), strict=True)
        }
    gone = Row([], [], []), [NOTHING_LEARNT if whole else cut_off(max_length, answer_left=False)]
    return [seen.get(i, gone) for i in range(len(pairs))]


def _trainer(rows: "Dataset", tokenizer, max_length: int, at_once: int, folder: Path) -> SFTTrainer:
    """The course's trainer around a stand-in: what it makes of rows depends on the tokenizer alone."""
    choice = Choice(max_length=max_length, rows_per_update=at_once)
    return SFTTrainer(
        model=stand_in(tokenizer, max_length),
        args=training.build_config(choice, len(rows), at_once, folder),
        train_dataset=rows,
        processing_class=tokenizer,
    )


def stand_in(tokenizer, max_length: int) -> LlamaForCausalLM:
    """A Llama of a few numbers, for a trainer that trains nothing."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            max_position_embeddings=max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars and what Unsloth prints about a trainer: this one trains nothing."""
    before = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        if not before:
            datasets.enable_progress_bars()


# ------------------------------------------------------------------------------------------------ drawing

STYLES = {
    kind: f"background:{colour};color:#111;border:1px {line} #999;border-radius:3px;padding:0 2px;"
    "white-space:pre-wrap;unicode-bidi:isolate"
    for kind, colour, line in (
        ("read", COLOURS["read"], "solid"),
        ("learnt", COLOURS["learnt"], "solid"),
        ("padding", COLOURS["padding"], "dashed"),
    )
}


def _plain(piece: Piece) -> str:
    """A piece as text: visible spaces and line ends, and how many tokens it is where it is more than one."""
    text = "".join(
        c if c.isprintable() else f"<U+{ord(c):04X}>" for c in piece.text.translate(LINES)
    )
    return text + (str(piece.tokens).translate(SUPERSCRIPT) if piece.tokens > 1 else "")


def _folded(kind: str, count: int) -> str:
    return f"padding × {count}" if kind == "padding" else f"… {count} tokens …"


def _span(piece: Piece, fold: bool) -> str:
    text = piece._replace(tokens=1)
    text = html.escape(_plain(text)).replace("$", "<span>$</span>")
    if piece.tokens > 1:
        text += f"<sup>{piece.tokens}</sup>"
    ends_line = not fold and piece.text.endswith("\n")
    return _chip(text, piece.kind, bold=piece.mark) + "<br>" * ends_line


def _chip(text: str, kind: str, bold: bool = False, faint: bool = False) -> str:
    """A token in its colour; learnt ones also stand in <ins>, since GitHub shows no colours."""
    style = STYLES[kind] + ";font-weight:bold" * bold + ";font-style:italic" * faint
    tag = "ins" if kind == "learnt" else "span"
    style += ";text-decoration:none" * (kind == "learnt")
    return f'<{tag} style="{style}">{text}</{tag}>'


def _legend() -> str:
    words = {
        "learnt": "learnt: its label counts",
        "read": "read: label −100",
        "padding": "padding: fills a row up",
    }
    chips = " ".join(_chip(text.replace(" ", "&nbsp;"), kind) for kind, text in words.items())
    return (
        f'<div style="margin:4px 0;line-height:2">{chips} <b>bold</b>: a mark of the tokenizer; '
        "· a space, ↵ a new line; <sup>3</sup>: one character of 3 tokens</div>"
    )


def _explained(fault: Fault, rows: str = "") -> str:
    name = html.escape(fault.name) + f" ({rows})" * bool(rows)
    return f'<div style="margin:3px 0"><b style="color:{RED}">⚠ {name}</b>: {html.escape(fault.why)}</div>'


def _numbers(rows: list[int]) -> str:
    some = ", ".join(map(str, rows[:8]))
    return f"row {some}" if len(rows) == 1 else f"rows {some}{', …' * (len(rows) > 8)}"


def _page(*parts: str) -> str:
    style = (
        "font-family:sans-serif;font-size:13px;line-height:1.45;text-align:left;max-width:1000px"
    )
    return f'<div style="{style}">{"".join(parts)}</div>'
