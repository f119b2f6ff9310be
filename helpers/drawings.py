"""Drawings of the ideas: what LoRA adds, where it sits, how 4 bits store a weight, what training learns from.

Functions take plain data and return a matplotlib figure, so that a notebook shows the same picture everywhere.
"""

from collections.abc import Collection, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from helpers.errors import check_whole
from helpers.presets import PROJECTIONS
from helpers.svg import BLUE, GREY, ORANGE, RED, SKY

# Frozen numbers are grey, trained ones orange, in every drawing.
FROZEN, TRAINED, INK = "#d9d9d9", ORANGE, "#222222"


def _canvas(width: float, height: float, across: float, down: float) -> tuple[Figure, Axes]:
    """An empty drawing of ``width`` × ``height`` inches, with its own units; y grows downwards."""
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.set(xlim=(0, across), ylim=(down, 0))
    axes.set_axis_off()
    plt.close(figure)
    return figure, axes


def _box(
    axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str, **style
) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.12",
            facecolor=colour,
            edgecolor=INK,
        )
    )
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", **style)


def _matrix(
    axes: Axes, x: float, y: float, width: float, height: float, name: str, colour: str
) -> None:
    axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor=INK))
    axes.text(x + width / 2, y + height / 2, name, ha="center", va="center", fontsize=15)


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = INK
) -> None:
    axes.annotate(
        "", end, start, arrowprops={"arrowstyle": "->", "color": colour, "shrinkA": 0, "shrinkB": 0}
    )


def weight_and_update(n_in: int, n_out: int, r: int) -> Figure:
    """A weight, and beside it the two thin matrices that LoRA trains; sides as long as their shapes say.

    Args:
        n_in, n_out: features that the layer takes and gives.
        r: the rank. It is drawn at least as wide as a letter.

    Raises:
        CourseError: r is no whole number above 0.
    """
    check_whole("r", r, 1)
    figure, axes = _canvas(7.2, 3.6, 18, 9)
    unit, middle = 6 / max(n_in, n_out), 3.6
    wide, high, thin = n_in * unit, n_out * unit, max(r * unit, 0.5)
    x = (18 - (wide + 2.8 + thin + 1 + wide)) / 2
    top, below = middle - high / 2, middle + high / 2 + 0.3
    _matrix(axes, x, top, wide, high, "W", FROZEN)
    axes.text(
        x + wide / 2,
        below,
        f"{n_out:,} × {n_in:,}\n{n_out * n_in:,} numbers,\nfrozen",
        ha="center",
        va="top",
        fontsize=9,
    )
    axes.text(x + wide + 1.3, middle, "+  α / r  ·", ha="center", va="center", fontsize=14)
    x += wide + 2.8
    _matrix(axes, x, top, thin, high, "B", TRAINED)
    axes.text(x + thin / 2, below, f"{n_out:,} × {r}", ha="center", va="top", fontsize=9)
    axes.text(x + thin + 0.5, middle, "·", ha="center", va="center", fontsize=18)
    x += thin + 1
    _matrix(axes, x, middle - thin / 2, wide, thin, "A", TRAINED)
    axes.text(
        x + wide / 2, middle + thin / 2 + 0.3, f"{r} × {n_in:,}", ha="center", va="top", fontsize=9
    )
    both = r * (n_in + n_out)
    note = f"A and B: {both:,} numbers,\ntrained: {both / (n_in * n_out):.2%} of W"
    note += "\n(drawn wider than they are)" if thin > r * unit else ""
    axes.text(x, below, note, va="top", fontsize=9)
    return figure


def llama_block(adapted: Collection[str] = PROJECTIONS) -> Figure:
    """One block of a Llama: its seven projections, and which of them have an adapter.

    Args:
        adapted: names of the projections with an adapter.
    """
    figure, axes = _canvas(7.2, 4.3, 18, 11)
    for left, title, inputs, middle, output in (
        (
            0.6,
            "attention: looks at other tokens",
            PROJECTIONS[:3],
            "who attends\nto whom",
            PROJECTIONS[3],
        ),
        (9.8, "feed-forward: each token by itself", PROJECTIONS[4:6], "gate × up", PROJECTIONS[6]),
    ):
        axes.add_patch(
            Rectangle((left, 1.3), 7.6, 7.6, facecolor="#f6f6f6", edgecolor=GREY, linestyle="--")
        )
        axes.text(left + 3.8, 0.9, title, ha="center", va="bottom", fontsize=10)
        room = 7.6 / len(inputs)
        for i, name in enumerate(inputs):
            x = left + room * (i + 0.5)
            _projection(axes, x, 2.2, name, name in adapted)
            _arrow(axes, (x, 3.9), (left + 3.8 + (i - (len(inputs) - 1) / 2) * 0.8, 4.7))
        _box(axes, left + 2.4, 4.7, 2.8, 1.2, middle, "white", fontsize=9)
        _arrow(axes, (left + 3.8, 5.9), (left + 3.8, 6.6))
        _projection(axes, left + 3.8, 6.6, output, output in adapted)
    _arrow(axes, (8.2, 5.1), (9.8, 5.1))
    axes.text(9, 4.9, "added to\nits input", ha="center", va="bottom", fontsize=8)
    count = sum(name in adapted for name in PROJECTIONS)
    axes.add_patch(Rectangle((0.6, 9.9), 0.6, 0.6, facecolor=FROZEN, edgecolor=INK))
    axes.text(1.4, 10.2, "a frozen weight", va="center", fontsize=9)
    axes.add_patch(Rectangle((6.0, 9.9), 0.6, 0.6, facecolor=TRAINED, edgecolor=INK))
    axes.text(6.8, 10.2, f"its adapter, A and B: {count} of 7 have one", va="center", fontsize=9)
    return figure


def _projection(axes: Axes, x: float, y: float, name: str, adapted: bool) -> None:
    """A projection centred at ``x``: the weight, and its adapter beside it."""
    axes.add_patch(Rectangle((x - 0.75, y), 1.1, 1.1, facecolor=FROZEN, edgecolor=INK))
    if adapted:
        axes.add_patch(
            Rectangle((x + 0.43, y), 0.14, 1.1, facecolor=TRAINED, edgecolor=INK, linewidth=0.7)
        )
        axes.add_patch(
            Rectangle(
                (x + 0.62, y + 0.02), 0.42, 0.14, facecolor=TRAINED, edgecolor=INK, linewidth=0.7
            )
        )
    axes.text(x, y + 1.2, name, ha="center", va="top", fontsize=9, family="monospace")


def block_of_weights(weights: Sequence[float], levels: Sequence[float]) -> Figure:
    """A block of weights as 4 bits store it: its scale, the 16 levels, and which level each weight takes.

    Args:
        weights: the block's weights, 64 of them in NF4; the largest, without its sign, is the scale.
        levels: the 16 values between −1 and 1 that can be stored.
    """
    figure, axes = plt.subplots(figsize=(7.2, 3.4), layout="constrained")
    plt.close(figure)
    scale = max(abs(w) for w in weights)
    stored = [scale * min(levels, key=lambda level: abs(level - w / scale)) for w in weights]
    for level in levels:
        axes.axhline(scale * level, color=FROZEN, linewidth=0.8, zorder=0)
    places = range(len(weights))
    axes.vlines(places, weights, stored, color=RED, linewidth=1.8)
    axes.plot(
        places,
        stored,
        "_",
        color=BLUE,
        markersize=7,
        markeredgewidth=2,
        label="stored: the nearest of 16 levels",
    )
    axes.plot(places, weights, ".", color=INK, markersize=5, label="the weight")
    largest = max(places, key=lambda i: abs(weights[i]))
    side = "right" if largest > len(weights) / 2 else "left"
    axes.text(
        largest,
        weights[largest],
        f"  the largest: it is the scale, {scale:.3g}  ",
        ha=side,
        va="center",
        fontsize=9,
    )
    axes.set(
        xlabel=f"the {len(weights)} weights of one block",
        ylabel="value",
        xlim=(-1, len(weights)),
        xticks=[0, len(weights) - 1],
        xticklabels=["first", "last"],
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize=9)
    return figure


def tokens_and_labels(pieces: Sequence[str], learnt: Sequence[bool], across: float = 66) -> Figure:
    """A conversation cut into tokens: which are only read, and which training learns from.

    Args:
        pieces: each token's text.
        learnt: whether its loss counts.
        across: letters in a line.
    """
    shown = [piece.replace("\n", "↵").replace(" ", "·") or "·" for piece in pieces]
    x, row, places = 0.0, 0, []
    for text in shown:
        width = 0.72 * len(text) + 0.55
        if x + width > across * 0.72:
            x, row = 0.0, row + 1
        places.append((x, row, width))
        x += width + 0.12
    figure, axes = _canvas(7.2, 0.9 + 0.29 * (row + 1), across * 0.72, row + 2.6)
    for text, counts, (left, line, width) in zip(shown, learnt, places, strict=True):
        axes.add_patch(
            Rectangle(
                (left, line + 0.1),
                width,
                0.8,
                facecolor=SKY if counts else "#eeeeee",
                edgecolor="white",
            )
        )
        axes.text(
            left + width / 2,
            line + 0.5,
            text,
            ha="center",
            va="center",
            family="monospace",
            fontsize=8.5,
            parse_math=False,  # a text may hold dollar signs
        )
    low = row + 1.7
    for left, colour, text in (
        (0, "#eeeeee", f"read: {len(shown) - sum(learnt)} tokens, label −100"),
        (across * 0.36, SKY, f"learnt: {sum(learnt)} tokens"),
    ):
        axes.add_patch(Rectangle((left, low), 1.2, 0.8, facecolor=colour, edgecolor="white"))
        axes.text(left + 1.6, low + 0.4, text, va="center", fontsize=9)
    return figure
