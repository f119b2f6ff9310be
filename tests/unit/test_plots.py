"""The figures show the data that they were given."""

import itertools
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgba

from helpers import memory, plots, svg
from helpers.evaluation import Measure

points = st.lists(st.floats(0, 20), min_size=1, max_size=20).map(
    lambda losses: [(step, loss) for step, loss in enumerate(losses, 1)]
)
captions = st.text("a<>&\"'é中 ", min_size=1)


def parse(text: str) -> ElementTree.Element:
    """The SVG as XML, its namespace left out of the names."""
    root = ElementTree.fromstring(text)
    for element in root.iter():
        element.tag = element.tag.removeprefix("{http://www.w3.org/2000/svg}")
    return root


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text for element in root.iter("text")]


def legend(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


# ------------------------------------------------------------------------------------- loss curve
def test_the_loss_curve_shows_each_step_and_the_mean_of_the_last_steps():
    losses = [4.0, 3.0, 2.0, 1.0]
    figure = plots.loss_curve(list(enumerate(losses, 1)), smooth=2)
    each, mean = figure.axes[0].lines
    assert list(each.get_xdata()) == list(mean.get_xdata()) == [1, 2, 3, 4]
    assert list(each.get_ydata()) == losses
    assert list(mean.get_ydata()) == [4.0, 3.5, 2.5, 1.5]
    assert legend(figure.axes[0]) == ["each step", "mean of 2 steps"]


def test_the_loss_curve_leaves_room_for_the_steps_to_come():
    figure = plots.loss_curve([(1, 4.0), (2, 3.0)], steps=30, title="step 2 of 30")
    low, high = figure.axes[0].get_xlim()
    assert low <= 1 and high > 30
    assert figure.axes[0].get_title() == "step 2 of 30"


@settings(max_examples=10, deadline=None)
@given(points, captions)
def test_any_curve_becomes_a_png(points, caption):
    picture = plots.png(plots.loss_curve(points, steps=30, title=caption.replace("$", "")))
    assert picture.startswith(b"\x89PNG")


# ------------------------------------------------------------------------------------- memory bar
def memory_parts(**set_up) -> dict[str, float]:
    e = memory.estimate("llama-2-7b", **set_up)
    return {name: getattr(e, name) for name in svg.PARTS}


def test_the_memory_bar_holds_each_part_and_the_limit_as_text():
    parts = memory_parts(r=16, per_device_train_batch_size=2, max_length=2048)
    found = texts(parse(svg.memory_svg(parts, 14.563, "Llama & friends")))
    assert found[0] == "Llama & friends"
    assert {f"{name} {gib:.2f}" for name, gib in parts.items()} <= set(found)
    assert any("14.563" in text for text in found)


@pytest.mark.parametrize("rank", [1, 16, 512])
def test_the_widths_in_the_memory_bar_are_proportional_and_stay_inside_the_picture(rank):
    parts = memory_parts(r=rank, per_device_train_batch_size=8, max_length=2048)
    root = parse(svg.memory_svg(parts, 14.563, "memory"))
    limit = float(re.match(r"M([\d.]+)", root.find("path").get("d"))[1])
    # The bar's segments come first; the legend's squares follow.
    bar = [
        (float(r.get("x")), float(r.get("width"))) for r in list(root.iter("rect"))[: len(parts)]
    ]
    left, scale = bar[0][0], sum(width for _, width in bar) / sum(parts.values())
    for (_, width), gib in zip(bar, parts.values(), strict=True):
        assert width == pytest.approx(gib * scale, abs=0.11)
    assert limit == pytest.approx(left + 14.563 * scale, abs=1)
    width = float(root.get("width"))
    assert max(limit, *(x + part for x, part in bar)) <= width


def test_the_parts_of_an_estimate_have_different_colours():
    assert len(set(svg.PARTS.values())) == len(svg.PARTS)


# ---------------------------------------------------------------------------------- other figures
def test_levels_are_lines_over_a_histogram_of_all_weights():
    values = [-1 + i / 7.5 for i in range(16)]
    weights = [-0.9, -0.1, 0.0, 0.1, 0.1, 0.9]
    axes = plots.levels(values, weights).axes[0]
    assert [line.get_xdata()[0] for line in axes.lines] == values
    assert sum(bar.get_height() for bar in axes.patches) == len(weights)
    assert "the 16 levels" in legend(axes)


def test_bars_have_the_values_as_length_and_as_text_and_red_ones_are_above_the_limit():
    figure = plots.bars(["4 bits", "16 bits"], [3.6, 15.25], "GiB", limit=14.56)
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [3.6, 15.25]
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert colours == [to_rgba(svg.BLUE), to_rgba(svg.RED)]
    found = [text.get_text().strip() for text in axes.texts]
    assert {"3.60", "15.25", "T4: 14.56 GiB"} <= set(found)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["4 bits", "16 bits"]
    assert axes.lines[0].get_xdata()[0] == 14.56


def test_bars_without_a_limit_are_all_blue():
    axes = plots.bars(["a", "b"], [1, 2], "GiB").axes[0]
    assert {bar.get_facecolor() for bar in axes.patches} == {to_rgba(svg.BLUE)}
    assert not axes.lines


def test_the_pool_shows_all_rows_and_marks_each_selection_at_its_rows():
    words, scores = [10, 20, 30, 40], [1.0, 5.0, 5.0, 3.0]
    axes = plots.pool(words, scores, {"shortest": [0, 1], "best": [1, 2]}).axes[0]
    everything, shortest, best = axes.lines
    assert list(everything.get_xdata()) == words
    # The spread never moves a row to another score.
    assert [round(y) for y in everything.get_ydata()] == scores
    assert list(shortest.get_xdata()) == [10, 20] and list(best.get_xdata()) == [20, 30]
    assert list(best.get_ydata()) == [everything.get_ydata()[i] for i in (1, 2)]
    assert legend(axes) == ["the pool", "shortest", "best"]


def test_a_conversation_without_a_score_is_not_drawn_and_the_others_are():
    axes = plots.pool([10, 20, 30], [1.0, None, 5.0], {"shortest": [0, 1]}).axes[0]
    shown = [[*np.isfinite(line.get_ydata())] for line in axes.lines]
    assert shown == [[True, False, True], [True, False]]


def test_the_pool_looks_the_same_each_time():
    first, second = (plots.pool([1, 2], [3.0, 4.0], {}).axes[0].lines[0] for _ in range(2))
    assert list(first.get_ydata()) == list(second.get_ydata())


def test_every_selection_of_the_pool_is_drawn():
    picks = {name: [0] for name in ("simple", "advanced", "mine", "yours")}
    axes = plots.pool([1], [2.0], picks).axes[0]
    assert legend(axes) == ["the pool", *picks]


def test_lines_show_each_series_under_its_name():
    figure = plots.lines([1, 2, 4], {"A": [0.1, 0.2, 0.3], "B": [3, 2, 1]}, "rank", "GiB")
    axes = figure.axes[0]
    assert [list(line.get_xdata()) for line in axes.lines] == 2 * [[1, 2, 4]]
    assert [list(line.get_ydata()) for line in axes.lines] == [[0.1, 0.2, 0.3], [3, 2, 1]]
    assert len({line.get_color() for line in axes.lines}) == 2
    assert legend(axes) == ["A", "B"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("rank", "GiB")
    # So that heights can be compared by eye.
    assert axes.get_ylim()[0] == 0


def test_every_series_is_drawn():
    series = {name: [1.0] for name in "ABCDE"}
    assert legend(plots.lines([1], series, "x", "y").axes[0]) == list(series)


def test_before_and_after_stand_side_by_side_with_their_intervals():
    before, after = Measure(3.0, 2.5, 3.25, 10), Measure(1.0, 0.5, 2.0, 10)
    chrf_before, chrf_after = Measure(20, 15, 25, 10), Measure(40, 35, 45, 10)
    figure = plots.before_after(["loss", "chrF"], [before, chrf_before], [after, chrf_after])
    loss, chrf = figure.axes
    assert (loss.get_title(), chrf.get_title()) == ("loss", "chrF")
    assert error_bars(loss) == [(3.0, 2.5, 3.25), (1.0, 0.5, 2.0)]
    assert error_bars(chrf) == [(20, 15, 25), (40, 35, 45)]
    assert [text.get_text() for text in loss.texts] == ["3.00", "1.00"]


def test_a_single_quantity_before_and_after_can_be_drawn():
    one = Measure(3.0, 2.5, 3.25, 10)
    assert error_bars(plots.before_after(["loss"], [one], [one]).axes[0]) == 2 * [(3.0, 2.5, 3.25)]


def error_bars(axes) -> list[tuple[float, float, float]]:
    """(mean, low, high) of each point."""
    found = []
    for container in axes.containers:
        point, _, (bar,) = container.lines
        (low, high) = bar.get_segments()[0][:, 1]
        found.append((point.get_ydata()[0], float(low), float(high)))
    return found


def test_lines_are_one_for_each_series_with_its_name():
    axes = plots.lines(range(3), {"a": [3, 2, 1], "b": [1, 1, 1]}, "step", "loss").axes[0]
    assert [list(line.get_ydata()) for line in axes.lines] == [[3, 2, 1], [1, 1, 1]]
    assert [list(line.get_xdata()) for line in axes.lines] == [[0, 1, 2]] * 2
    assert legend(axes) == ["a", "b"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "loss")


def test_figures_are_closed_so_that_a_notebook_shows_them_once():
    import matplotlib.pyplot as plt

    plots.loss_curve([(1, 2.0)])
    plots.bars(["a"], [1.0], "GiB")
    assert plt.get_fignums() == []


def gaps(axes, *xs: float) -> list[float]:
    """How far apart places on the axis are drawn, beside the first two."""
    places = axes.transData.transform([(x, 1) for x in xs])[:, 0]
    steps = [b - a for a, b in itertools.pairwise(places)]
    return [step / steps[0] for step in steps]


def test_curves_have_points_of_their_own_and_may_double_along_the_axis():
    series = {"cut": [(1, 3.0), (2, 2.5), (4, 2.0)], "trained": [(4, 2.1)]}
    axes = plots.curves(series, "rank", "loss", doubling=True).axes[0]
    drawn = [list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in axes.lines]
    assert drawn == list(series.values()) and legend(axes) == ["cut", "trained"]
    assert gaps(axes, 1, 2, 4) == pytest.approx([1, 1])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "4"]
    assert gaps(plots.curves(series, "rank", "loss").axes[0], 1, 2, 4) == pytest.approx([1, 2])
    dial = plots.curves({"alpha": [(0, 3.0), (0.25, 2.0), (1, 2.5)]}, "", "", doubling=True)
    assert gaps(dial.axes[0], 0, 0.25, 1) == pytest.approx([1, 2])


def test_heat_maps_share_their_colours_and_name_the_projections():
    small, large = [[1.0, float("nan")]] * 7, [[2.0, 4.0]] * 7
    figure = plots.heat_maps({"mine": small, "theirs": large}, "directions")
    mine, theirs, bar = figure.axes
    assert (mine.get_title(), theirs.get_title()) == ("mine", "theirs")
    assert [text.get_text() for text in mine.get_yticklabels()][:2] == ["q_proj", "k_proj"]
    assert {axes.images[0].get_clim() for axes in (mine, theirs)} == {(0, 4.0)}
    assert bar.get_ylabel() == "directions"


@given(st.lists(st.floats(0, 20), min_size=2, max_size=8), st.data())
def test_the_dial_is_xml_and_marks_the_chosen_point(losses, choose):
    points = [(factor, loss) for factor, loss in enumerate(losses)]
    chosen = choose.draw(st.integers(0, len(points) - 1))
    root = parse(svg.dial_svg(points, chosen, {"trained <64>": (len(points) - 1, 1.0)}))
    dots = [c for c in root.iter("circle") if c.get("fill") != "none"]
    ring = next(c for c in root.iter("circle") if c.get("fill") == "none")
    assert len(dots) == len(points)
    assert (ring.get("cx"), ring.get("cy")) == (dots[chosen].get("cx"), dots[chosen].get("cy"))
    across = [float(dot.get("cx")) for dot in dots]
    assert across == sorted(across) and max(across) < 460 and min(across) > 0
    assert "trained <64>" in texts(root)
