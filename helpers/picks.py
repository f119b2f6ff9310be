"""What each sort picks from a pool: all of it as length and score, the chosen rows marked, and what they are like."""

import zlib
from collections.abc import Mapping
from html import escape
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, NamedTuple

from helpers import data, homework, selection, svg, traits
from helpers.errors import CourseError, need_rows

if TYPE_CHECKING:
    import ipywidgets
    from datasets import Dataset
    from matplotlib.figure import Figure

# The colours of plots.pool, in its order.
COLOURS = (svg.RED, svg.BLUE, svg.GREEN, svg.PURPLE)
# Up to so many different scores each is a level of its own, and what has it is spread by this share of the distance
# to the next, so that conversations do not hide each other.
LEVELS, SPREAD = 12, 0.28
EXAMPLES = 3


class _Set(NamedTuple):
    """Conversations, their lengths in each unit, and what they are like."""

    rows: list[dict]
    lengths: dict[str, list[int]]
    facts: dict[str, float | None]


class PoolView:
    """A pool as length and score, and what each sort picks of it, one click from sort to sort.

    `show()` returns the widget, `text()` the numbers, `picture()` what is drawn now.

    Args:
        pool: all candidates.
        picks: for each sort its name and the rows that it takes, 1 to 100.
        tokenizer: with one, lengths are counted in tokens too: a Chinese sentence is one "word".

    Raises:
        CourseError: a pool without rows, no sort, more rows than the homework allows, or a row that the
            tokenizer's chat template refuses.
    """

    def __init__(self, pool: "Dataset", picks: Mapping[str, "Dataset"], tokenizer=None):
        _check(pool, picks)
        self.pool = _set(pool, tokenizer)
        self.picks = {str(name): _set(rows, tokenizer) for name, rows in picks.items()}
        there = {row["id"]: i for i, row in enumerate(self.pool.rows)}
        self.places = {
            name: [_place(row, self.pool.rows, there) for row in one.rows]
            for name, one in self.picks.items()
        }
        every = [self.pool, *self.picks.values()]
        scores = [row.get("score") for one in every for row in one.rows]
        self.step, self.lowest, self.levels = _levels(scores)
        self.drawn: dict[tuple[str, str], str] = {}
        self._make_widgets(list(self.pool.lengths))

    def _make_widgets(self, units: list[str]) -> None:
        import ipywidgets as w

        style = {"button_width": "auto", "description_width": "initial"}
        self.sort = w.ToggleButtons(options=list(self.picks), description="sort", style=style)
        self.unit = w.ToggleButtons(options=units, description="length in", style=style)
        self.view, self.readout = w.HTML(), w.HTML()
        for control in (self.sort, self.unit):
            control.observe(lambda _: self._draw(), names="value")
        self._draw()

    def show(self) -> "ipywidgets.Widget":
        """The widget to put at the end of a cell: the picture, and beside it or below what the sorts take."""
        import ipywidgets as w

        from helpers import controls

        # As wide as the picture, and as the table; below each other where it is narrow.
        left, right = ({"flex": f"1 1 {n}px", "min_width": "0"} for n in (330, 340))
        columns = [
            w.VBox([self.view], layout=w.Layout(max_width="440px", **left)),
            w.VBox([self.readout], layout=w.Layout(**right)),
        ]
        wrap = controls.WRAP | {"align_items": "flex-start"}
        units = [self.unit] if len(self.unit.options) > 1 else []
        rows = [self.sort, *units, w.Box(columns, layout=w.Layout(**wrap))]
        return controls.WithStill(rows, self.text, self.still)

    def table(self) -> list[tuple[str, ...]]:
        """What the pool and each sort's rows are like: a line of names, then one for each fact."""
        columns = [self.pool.facts, *(one.facts for one in self.picks.values())]
        lines = [
            (name, *(traits.shown(name, facts[name]) for facts in columns)) for name in columns[0]
        ]
        return [("", "pool", *self.picks), *lines]

    def text(self) -> str:
        """The table and what else is to be said, as plain text."""
        table = self.table()
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            f"{name:<{widths[0]}}" + "".join(f"  {v:>{n}}" for v, n in zip(rest, widths[1:], strict=True))
            for name, *rest in table
        ]  # fmt: skip
        return "\n".join([*lines, *self._notes()])

    def picture(self) -> str:
        """The pool with the rows of the sort that is pressed, as SVG."""
        name, unit = self.sort.value, self.unit.value
        if (name, unit) not in self.drawn:
            chosen = self.picks[name]
            rows = f"{len(chosen.rows)} of {len(self.pool.rows):,}"
            colours = dict(zip(self.picks, cycle(COLOURS)))
            self.drawn[name, unit] = svg.pool_svg(
                self._points(self.pool, unit),
                self._points(chosen, unit),
                self.levels,
                colour=colours[name],
                unit=f"{unit} in the conversation",
                caption=f"score and length; in rings: {name}, {rows}",
            )
        return self.drawn[name, unit]

    def still(self) -> "Figure":
        """The pool with the rows of all sorts, and the table, as a figure."""
        from matplotlib.ticker import NullFormatter

        from helpers import plots

        unit = self.unit.value
        lengths = [max(1, n) for n in self.pool.lengths[unit]]
        heights, places = [self._level(row) for row in self.pool.rows], {}
        for name, one in self.picks.items():
            places[name] = []
            for row, n, place in zip(one.rows, one.lengths[unit], self.places[name], strict=True):
                if place is None:  # of another file: it gets a dot of its own
                    place = len(lengths)
                    lengths.append(max(1, n))
                    heights.append(self._level(row))
                places[name].append(place)
        figure = plots.pool(lengths, heights, places)
        axes, text = figure.axes[0], self.text()
        axes.set_xscale("log")
        ticks = svg.round_numbers(min(lengths), max(lengths)) or [lengths[0]]
        axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_yticks(list(self.levels), list(self.levels.values()))
        axes.set_xlabel(f"{unit} in the conversation")
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
        figure.set_size_inches(7, 4 + 0.2 * text.count("\n"))
        # An empty line keeps it off the axis.
        figure.supxlabel(f"\n{text}", x=0.02, ha="left", family="monospace", fontsize=9)
        return figure

    def _level(self, row: dict) -> float:
        score = row.get("score")
        return self.lowest - 1 if score is None else score / self.step

    def _points(self, one: _Set, unit: str) -> list[tuple[float, float]]:
        """Where rows stand; the same row has the same place in each set."""
        return [
            (max(1, n), self._level(row) + SPREAD * _between(row["id"]))
            for row, n in zip(one.rows, one.lengths[unit], strict=True)
        ]

    def _notes(self) -> list[str]:
        others = {name: places.count(None) for name, places in self.places.items()}
        return [
            f"{name}: {count} of {len(self.places[name])} rows are not in this pool as they are: from another file, or "
            "changed."
            for name, count in others.items()
            if count
        ]

    def _draw(self) -> None:
        self.view.value = self.picture()
        rows = self.picks[self.sort.value].rows[:EXAMPLES]
        first = "".join(
            f"<li>{escape(_short(data.question(row), 90))} → <b>{escape(_short(' '.join(traits.answers(row)), 120))}</b></li>"
            for row in rows
        )
        notes = "".join(f"<p>{escape(note)}</p>" for note in self._notes())
        lines = self.table()
        table = _as_html(lines, lines[0].index(self.sort.value, 2))
        self.readout.value = (
            f'{table}{notes}<div style="line-height:1.4;margin:6px">The first of <i>{escape(self.sort.value)}</i>:'
            f'<ol style="margin:0 0 0 20px;padding:0">{first}</ol></div>'
        )


def _check(pool: "Dataset", picks: Mapping[str, "Dataset"]) -> None:
    need_rows(pool, "pool")
    if not isinstance(picks, Mapping) or not picks:
        raise CourseError(
            "No sort's rows were given.",
            "The view compares what sorts take, each with its name.",
            'Write PoolView(pool, {"simple": simple, "advanced": advanced}).',
        )
    if not len(pool):
        raise CourseError(
            "The pool has no row.", "A filter left none over.", "Let more rows through."
        )
    for name, rows in picks.items():
        need_rows(rows, str(name))
        selection.check_count(len(rows))


def _set(rows: "Dataset", tokenizer) -> _Set:
    listed = rows.to_list()
    counts = traits.token_counts(rows, tokenizer) if tokenizer is not None else []
    lengths = {"words": [homework.words(row) for row in listed]}
    return _Set(listed, lengths | ({"tokens": counts} if counts else {}), traits.of(listed, counts))


def _place(row: dict, pool: list[dict], there: Mapping[str, int]) -> int | None:
    """Where a row stands in the pool; None where the pool does not have it as it is."""
    place = there.get(row["id"])
    same = place is not None and pool[place]["conversations"] == row["conversations"]
    return place if same else None


def _levels(scores: list[float | None]) -> tuple[float, float, dict[float, str]]:
    """The distance between two scores, the lowest score in such steps, and what to write at which height."""
    found = sorted({score for score in scores if score is not None}) or [0.0]
    gaps = [b - a for a, b in pairwise(found)]
    few = len(found) <= LEVELS
    step = (min(gaps) if few else (found[-1] - found[0]) / LEVELS) if gaps else 1.0
    lowest = found[0] / step
    if not few:
        found = [found[0] + i * (found[-1] - found[0]) / 4 for i in range(5)]
    named: dict[float, str] = {}
    if None in scores:
        named[lowest - 1] = "none"
    if any(score is not None for score in scores):
        room = (found[-1] - found[0]) / step / LEVELS
        for score in found:
            # Names that would cover each other are left out.
            if not named or score / step - max(named) >= room:
                named[score / step] = f"{score:.3g}"
    return step, lowest, named


def _between(row_id: str) -> float:
    """A number from −1 to 1 that belongs to an id, the same in every session."""
    return zlib.crc32(row_id.encode("utf-8", "replace")) / 2**31 - 1


def _short(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _as_html(table: list[tuple[str, ...]], marked: int) -> str:
    """The table, with the marked column set off; a narrow window scrolls."""
    lines = []
    for number, line in enumerate(table):
        tag = "td" if number else "th"
        cells = [
            f'<{tag} style="padding:1px 6px;text-align:{"right" if i else "left"};font-weight:'
            f'{"bold;background:#e8eef5;color:#000" if i == marked else "normal"}">{escape(cell)}</{tag}>'
            for i, cell in enumerate(line)
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return (
        '<div style="overflow-x:auto;width:0;min-width:100%"><table style="font-size:13px;line-height:1.45;'
        f'margin:4px 0;border-collapse:collapse">{"".join(lines)}</table></div>'
    )
