"""The course's figures. Functions take plain data and return a matplotlib figure."""

import io
import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from helpers.presets import PROJECTIONS
from helpers.svg import BLUE, GREEN, GREY, ORANGE, PARTS, PURPLE, RED, SKY

# Steps of the running mean in which a loss is drawn: one step's loss is that of a few rows.
SMOOTH = 5


def _figure(width: float = 7, height: float = 3.2):
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    # Closed, so that Jupyter shows it once: as the result of the cell.
    plt.close(figure)
    return figure, axes


def loss_curve(
    points: Sequence[tuple[int, float]],
    *,
    smooth: int = SMOOTH,
    steps: int | None = None,
    title: str = "",
) -> Figure:
    """Training loss over steps, each step and a running mean of ``smooth`` steps.

    ``steps`` leaves room on the right for a training that has so many steps and is not finished.
    """
    figure, axes = _figure()
    _plot_losses(axes, points, smooth)
    axes.set(xlabel="step (one update of the adapter)", ylabel="training loss, nats a token")
    axes.set_title(title, fontsize=10)
    if steps:
        axes.set_xlim(0, steps + 1)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, loc="upper right")
    return figure


def _plot_losses(axes, points: Sequence[tuple[int, float]], smooth: int) -> None:
    """Each step as a dot, and a running mean of ``smooth`` steps as a line."""
    xs, losses = zip(*points, strict=True)
    axes.plot(xs, losses, "o", color=SKY, markersize=4, label="each step")
    means = running_means(losses, smooth)
    axes.plot(xs, means, color=BLUE, linewidth=2, label=f"mean of {smooth} steps")


def running_means(values: Sequence[float], steps: int) -> list[float]:
    """The mean of each value and those before it, of so many at most."""
    windows = [values[max(0, i + 1 - steps) : i + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def training(
    losses: Sequence[tuple[int, float]],
    *,
    heldout: Sequence[tuple[int, float]] = (),
    norms: Sequence[tuple[int, float]] = (),
    rates: Sequence[tuple[int, float]] = (),
    borders: Sequence[int] = (),
    steps: int | None = None,
    title: str = "",
    smooth: int = SMOOTH,
) -> Figure:
    """A training as it goes: losses above; gradient norm and learning rate below. All are ``(step, value)``.

    Args:
        losses: training loss of each step; may be empty.
        heldout: loss on held-out rows, at some steps.
        norms: length of the gradient over all trained numbers, before clipping. One that is infinite or no number
            leaves a gap.
        rates: learning rate.
        borders: after each of these steps the next stage of a curriculum begins.
        steps: leaves room on the right for a training that has so many steps and is not finished.
        title: its lines stand above.
        smooth: steps of the running mean.
    """
    # Narrow, so that its letters can still be read on a phone of 360 pixels.
    figure = Figure(figsize=(5.6, 4.8), layout="constrained")
    places = figure.subplot_mosaic([["loss", "loss"], ["norm", "rate"]], height_ratios=[3, 1.1])
    figure.suptitle(title, fontsize=10.5, x=0.01, ha="left")
    loss = places["loss"]
    if losses:
        _plot_losses(loss, list(zip(*_gaps(losses), strict=True)), smooth)
    if heldout:
        loss.plot(*_gaps(heldout), "D-", color=RED, markersize=5, label="held-out rows")
    for number, border in enumerate(borders, 2):
        loss.axvline(border + 0.5, color=GREY, linestyle="--", linewidth=1)
        across = loss.get_xaxis_transform()
        loss.text(border + 0.5, 1, f" stage {number}", color=GREY, va="top", transform=across)
    loss.set(xlabel="step", ylabel="loss, nats a token")
    low, high = loss.get_ylim()
    if high - low < 1:  # After a step or two a small difference would look like a large one.
        loss.set_ylim((low + high - 1) / 2, (low + high + 1) / 2)
    if losses or heldout:
        loss.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=3)
    _plot_small(places["norm"], norms, "gradient norm")
    _plot_small(places["rate"], rates, "learning rate")
    for axes in places.values():
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if steps:
            axes.set_xlim(-0.5, steps + 0.5)
    return figure


def _plot_small(axes, points: Sequence[tuple[int, float]], name: str) -> None:
    """One number of each step, from 0 up, with few marks on its axis."""
    if points:
        axes.plot(*_gaps(points), ".-", color=PURPLE, markersize=4, linewidth=1)
    axes.set_title(name, fontsize=10)
    axes.set_ylim(bottom=0)
    axes.locator_params(nbins=3)
    axes.yaxis.set_major_formatter("{x:g}")


def _gaps(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """Steps and values; one that is infinite, which no axis can hold, is no number."""
    return [step for step, _ in points], [
        value if math.isfinite(value) else math.nan for _, value in points
    ]


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return content.getvalue()


def memory_bar(parts: Mapping[str, float], limit: float, caption: str, text: str = "") -> Figure:
    """The same bar as a figure, for where no sliders run; ``text`` stands below it."""
    # A line of this font has room for so many letters; what is left of one goes below its value.
    text = "\n".join(fill(line, 82, subsequent_indent=" " * 11) for line in text.splitlines())
    lines = text.count("\n") + 1 if text else 0
    figure, axes = _figure(height=2.0 + 0.2 * lines)
    left = 0.0
    for name, gib in parts.items():
        colour = PARTS.get(name, GREY)
        axes.barh(0, gib, left=left, height=0.5, color=colour, label=f"{name} {gib:.2f}")
        left += gib
    axes.axvline(limit, color="black", linestyle="--", linewidth=1.5)
    axes.text(limit, 0.3, f"a T4 has {limit} GiB ", ha="right", va="bottom", fontsize=9)
    axes.set(title=f"{caption}: {left:.2f}", yticks=[], ylim=(-0.3, 0.6))
    axes.spines["left"].set_visible(False)
    axes.legend(frameon=False, ncols=4, loc="upper left", bbox_to_anchor=(0, -0.25), fontsize=9)
    if text:
        # An empty line keeps it off the legend.
        figure.supxlabel(f"\n{text}", x=0.02, ha="left", family="monospace", fontsize=9)
    return figure


def levels(values: Sequence[float], weights: Sequence[float]) -> Figure:
    """The 16 values that NF4 can store, over a histogram of scaled weights (both from −1 to 1)."""
    figure, axes = _figure()
    axes.hist(weights, bins=100, color=SKY, label="weights, each block divided by its largest")
    for i, value in enumerate(values):
        axes.axvline(value, color=RED, linewidth=1, label="the 16 levels" if i == 0 else None)
    axes.set(xlabel="scaled weight", ylabel="how many weights", yticks=[])
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return figure


def bars(
    names: Sequence[str], values: Sequence[float], label: str, limit: float | None = None
) -> Figure:
    """Horizontal bars with their values, and an optional limit (a T4's memory)."""
    figure, axes = _figure(height=0.6 + 0.42 * len(names))
    places = range(len(names))
    axes.barh(places, values, color=[BLUE if limit is None or v <= limit else RED for v in values])
    for place, value in zip(places, values, strict=True):
        axes.text(value, place, f" {value:.2f}", va="center")
    if limit is not None:
        axes.axvline(limit, color="black", linestyle="--", linewidth=1)
        axes.text(limit, -0.62, f" T4: {limit} GiB", va="bottom", fontsize=9)
    axes.set(xlabel=label, yticks=list(places), yticklabels=names)
    axes.invert_yaxis()
    axes.set_xlim(right=max([*values, limit or 0]) * 1.15)
    return figure


def pool(
    words: Sequence[int],
    scores: Sequence[float | None],
    picks: Mapping[str, Sequence[int]],
    seed: int = 0,
) -> Figure:
    """A pool of conversations, length against score, with what each selection picks.

    ``picks`` maps a name to positions in ``words`` and ``scores``. Scores are spread a little, so that
    points do not hide each other. A conversation without a score (``None``) is not drawn.
    """
    import random

    rng = random.Random(seed)
    scores = [math.nan if score is None else score for score in scores]
    height = [score + rng.uniform(-0.28, 0.28) for score in scores]
    figure, axes = _figure(height=3.8)
    axes.plot(words, height, ".", color="#bbbbbb", label="the pool")
    styles = cycle(zip((RED, BLUE, GREEN, PURPLE), ("x", "o", "^", "s"), strict=True))
    for (name, chosen), (colour, marker) in zip(picks.items(), styles, strict=False):
        axes.plot(
            [words[i] for i in chosen], [height[i] for i in chosen], marker, color=colour,
            markerfacecolor="none", label=name,
        )  # fmt: skip
    axes.set(xlabel="words in the conversation", ylabel="score")
    axes.legend(frameon=False, loc="lower right")
    return figure


def before_after(names: Sequence[str], before: Sequence, after: Sequence) -> Figure:
    """Two measures each (mean with interval), before and after training, one panel a quantity."""
    figure, all_axes = plt.subplots(
        1, len(names), figsize=(3.4 * len(names), 3), layout="constrained", squeeze=False
    )
    plt.close(figure)
    for axes, name, *pair in zip(all_axes[0], names, before, after, strict=True):
        for x, (m, colour) in enumerate(zip(pair, (GREY, BLUE), strict=True)):
            error = [[m.mean - m.low], [m.high - m.mean]]
            axes.errorbar([x], [m.mean], yerr=error, fmt="o", color=colour, capsize=6, markersize=8)
            axes.text(x + 0.08, m.mean, f"{m.mean:.2f}", va="center")
        axes.set(title=name, xticks=[0, 1], xticklabels=["before", "after"], xlim=(-0.5, 1.6))
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def lines(
    xs: Sequence[float], series: Mapping[str, Sequence[float]], xlabel: str, ylabel: str
) -> Figure:
    """One line with markers for each named series of values over ``xs``."""
    figure, axes = _figure()
    points = {name: list(zip(xs, values, strict=True)) for name, values in series.items()}
    _plot_series(axes, points, (BLUE, ORANGE, RED, GREEN))
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
    if all(isinstance(x, int) for x in xs):
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _plot_series(axes, series: Mapping[str, Sequence[tuple[float, float]]], colours: Sequence[str]):
    """A line with markers for each named series of points, and the legend."""
    styles = cycle(zip(colours, "osD^", strict=True))
    for (name, points), (colour, marker) in zip(series.items(), styles, strict=False):
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, marker=marker, color=colour, label=name)
    axes.legend(frameon=False)


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    xlabel: str,
    ylabel: str,
    *,
    doubling: bool = False,
) -> Figure:
    """A line with markers for each named series of ``(x, y)`` points; a single point is only a marker.

    ``doubling`` spaces x so that each doubling takes the same room, and so does the way from 0 to the first above it.
    """
    figure, axes = _figure()
    _plot_series(axes, series, (BLUE, RED, GREEN, ORANGE))
    if doubling:
        ticks = sorted({x for points in series.values() for x, _ in points})
        axes.set_xscale("symlog", base=2, linthresh=min(x for x in ticks if x > 0), linscale=0.5)
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return figure


def heat_maps(grids: Mapping[str, Sequence[Sequence[float]]], label: str) -> Figure:
    """One map a name, with the same colours: a row for each projection, a column for each layer."""
    figure, all_axes = plt.subplots(
        len(grids), 1, figsize=(7.5, 0.4 + 2.1 * len(grids)), layout="constrained", squeeze=False
    )
    plt.close(figure)
    top = np.nanmax(list(grids.values()))
    for axes, (name, grid) in zip(all_axes[:, 0], grids.items(), strict=True):
        image = axes.imshow(grid, aspect="auto", cmap="viridis", vmin=0, vmax=top)
        axes.set(title=name, yticks=range(len(PROJECTIONS)), yticklabels=PROJECTIONS)
        axes.tick_params(length=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
    all_axes[-1, 0].set_xlabel("layer, from the input on")
    figure.colorbar(image, ax=all_axes[:, 0].tolist(), label=label)
    return figure
