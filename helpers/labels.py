"""See the rows that a training learns from, token by token: what is read, what is learnt, and what is wrong."""

from helpers import unsloth_first  # noqa: F401  # isort: skip

import html
from collections.abc import Iterator
from itertools import groupby
from numbers import Integral
from typing import TYPE_CHECKING

from trl import SFTTrainer

from helpers import chips, data, selection, token_rows, tokens, training
from helpers.choice import Choice
from helpers.errors import CourseError, check_whole
from helpers.faults import NOT_COUNTED, Fault, Piece, Pieces, Row
from helpers.svg import RED

if TYPE_CHECKING:
    import ipywidgets
    from datasets import Dataset

# Rows that the list shows; all are looked through for faults.
SHOWN = 20
# In the list a longer run of tokens, all read or all learnt, is folded to so many at each end.
EDGE = 8


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
            hidden = [f"[{chips.folded(kind, folded)}]"] if folded else []
            text = "|".join([*map(chips.plain, first), *hidden, *map(chips.plain, last)])
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
            words = chips.folded(kind, folded).replace(" ", "&nbsp;")
            hidden = [chips.chip(words, kind, faint=True)] if folded else []
            parts += [chips.span(piece, fold) for piece in first] + hidden
            parts += [chips.span(piece, fold) for piece in last]
        return (
            '<div style="padding:5px 0;border-top:1px solid #bbb">'
            f'<div style="margin-bottom:2px">{head}</div>'
            '<div style="font-family:monospace;line-height:1.75;overflow-wrap:anywhere">'
            f"{' '.join(parts)}</div></div>"
        )

    def _repr_html_(self) -> str:
        return chips.page(chips.legend(), self._html(False), *map(chips.explained, self.faults))


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
        found = token_rows.collated(trainer)
        names = [f"row {number}" for number in range(len(found))]
        if conversations is not None:
            names = token_rows.row_names(conversations)
        if len(names) != len(found):
            raise CourseError(
                f"These conversations make {len(names)} rows, and the trainer has {len(found)}.",
                "It was built from others, or left rows out.",
                "Give the conversations that it was built from, or leave them out here.",
            )
        judge = token_rows.judge(trainer)
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
                seen = token_rows.seen(
                    pairs.select(part), tokenizer, max_length, rows_at_once, whole
                )
                found |= dict(zip(part, seen, strict=True))
        rows = [(name, *found[i]) for i, name in enumerate(token_rows.row_names(conversations))]
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
        whole = isinstance(number, Integral) and not isinstance(number, bool)
        if not whole or not 0 <= number < len(self.rows):
            raise CourseError(
                f"There is no row {number!r:.40}.",
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
        found = [f"{f.name} ({chips.numbers(rows)}): {f.why}" for f, rows in self.faults.items()]
        return "\n".join([self.summary(), *found, *(row._text(True) for row in self.listed())])

    def _repr_html_(self) -> str:
        found = [chips.explained(fault, chips.numbers(rows)) for fault, rows in self.faults.items()]
        summary = f'<div style="margin:4px 0">{self.summary()}</div>'
        return chips.page(
            chips.legend(), summary, *found, *(row._html(True) for row in self.listed())
        )

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
