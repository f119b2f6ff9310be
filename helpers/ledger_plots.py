"""Figures of several runs: their curves over each other, and a map of r and alpha."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle, product
from textwrap import fill

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from helpers import plots
from helpers.svg import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

COLOURS = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY, GREY)
STYLES = tuple(product(("-", "--"), COLOURS))
# Letters that a line across the figure has room for, at this size.
LINE, SMALL = 96, 9


def overlaid(
    series: Mapping[str, Sequence[tuple[float, float]]],
    xlabel: str,
    ylabel: str,
    *,
    smooth: int = 1,
    note: str = "",
) -> Figure:
    """A line for each named series of ``(x, y)`` points, and a note below.

    Args:
        smooth: the line is the running mean of so many points; the points themselves are drawn thin. With 1, the line
            goes through the points, and they are marked.
    """
    # Names stand below, since they can be long: two in a row if both have room there.
    columns = 2 if max(map(len, series)) < LINE // 2 - 6 else 1
    lines = math.ceil(len(series) / columns)
    note = "\n".join(fill(line, LINE) for line in note.splitlines())
    below = 0.21 * lines + 0.17 * (note.count("\n") + 1 if note else 0)
    figure, axes = plt.subplots(figsize=(7, 3.1 + below), layout="constrained")
    plt.close(figure)
    axes.spines[["top", "right"]].set_visible(False)
    for (name, points), (style, colour) in zip(series.items(), cycle(STYLES), strict=False):
        xs, ys = zip(*points, strict=True)
        means = plots.running_means(ys, smooth)
        marker = "o" if smooth == 1 or len(xs) == 1 else ""
        axes.plot(xs, means, style, color=colour, linewidth=2, marker=marker, ms=4, label=name)
        if smooth > 1:
            axes.plot(xs, ys, color=colour, linewidth=0.8, alpha=0.35)
    axes.set(ylabel=ylabel)
    axes.set_xlabel(xlabel)
    figure.legend(loc="outside lower left", ncols=columns, frameon=False, fontsize=SMALL)
    if note:
        axes.set_title(note, loc="left", fontsize=SMALL)
    return figure


def grid(
    cells: Mapping[tuple[int, float], float], label: str, title: str, *, note: str = ""
) -> Figure:
    """A map of a number for each ``(r, alpha)``: a row for each r, a column for each alpha; the others stay empty."""
    ranks, alphas = (sorted({cell[i] for cell in cells}) for i in (0, 1))
    note = fill(note, 60)
    figure, axes = plt.subplots(
        figsize=(max(4.4, 2.2 + 0.8 * len(alphas)), 1.5 + 0.5 * len(ranks) + 0.17 * len(note) / 60),
        layout="constrained",
    )
    plt.close(figure)
    table = [[cells.get((r, alpha), math.nan) for alpha in alphas] for r in ranks]
    image = axes.imshow(table, aspect="auto", cmap="viridis", origin="lower")
    for (y, r), (x, alpha) in product(enumerate(ranks), enumerate(alphas)):
        if (r, alpha) in cells:
            value = cells[r, alpha]
            # White on the dark half of the colours; a value that is no number has no colour.
            dark = math.isfinite(value) and image.norm(value) < 0.6
            axes.text(
                x, y, f"{value:.3f}", ha="center", va="center", color="white" if dark else "black"
            )
    axes.set_xticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
    axes.set_yticks(range(len(ranks)), [f"{r:g}" for r in ranks])
    axes.tick_params(length=0)
    axes.set(xlabel="alpha", ylabel="r")
    axes.set_title(f"{title}\n{note}".strip(), fontsize=SMALL, loc="left")
    figure.colorbar(image, ax=axes, label=label.replace(", ", ",\n"))
    return figure
