"""Pictures that move with a slider, as SVG texts: drawn again in a millisecond, without matplotlib.

Standard library only. Also the colours of all figures.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

# Okabe & Ito's palette: told apart by colour-blind readers too.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#777777",
)  # fmt: skip
PARTS = {
    "weights": BLUE,
    "adapter": ORANGE,
    "gradients": GREEN,
    "optimizer": RED,
    "activations": PURPLE,
    "overhead": SKY,
    "context": GREY,
}
# Pixels that one dot of a pool stands for, and its grey from so many conversations there on.
_CELL = 3
_SHADES = {1: "#b4b4b4", 2: "#909090", 6: "#6c6c6c", 25: "#484848"}


def memory_svg(parts: Mapping[str, float], limit: float, caption: str) -> str:
    """Memory as one stacked bar in GiB against a limit, with a legend that holds the numbers.

    Narrow enough to be read in a column of 400 pixels.
    """
    width, left, top, column = 440, 6, 48, 145
    total = sum(parts.values())
    scale = (width - 2 * left) / max(total, limit * 1.04)
    bars, legend, x = [], [], left
    for i, (name, gib) in enumerate([*parts.items(), ("together", total)]):
        across, down = left + i % 3 * column, top + 54 + i // 3 * 20
        if name in parts:
            colour, size = PARTS.get(name, GREY), gib * scale
            rest = f'y="{top}" width="{size:.1f}" height="34" fill="{colour}"'
            bars.append(f'<rect x="{x:.1f}" {rest} stroke="#fff" stroke-width="0.5"/>')
            legend.append(
                f'<rect x="{across}" y="{down - 10}" width="11" height="11" fill="{colour}"/>'
            )
            x += size
        style = "" if name in parts else ' font-weight="bold"'
        legend.append(f'<text x="{across + 16}" y="{down}"{style}>{escape(name)} {gib:.2f}</text>')
    line = left + limit * scale
    return (
        f'<svg viewBox="0 0 {width} 150" width="{width}" style="max-width:100%;background:#fff" role="img" '
        f'aria-label="{escape(caption)}" xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" '
        f'font-size="13"><text x="{left}" y="16" font-size="14">{escape(caption)}</text>{"".join(bars)}'
        f'<path d="M{line:.1f} {top - 8}V{top + 40}" stroke="#000" stroke-width="2" stroke-dasharray="4 2"/>'
        f'<text x="{line + 4:.1f}" y="{top - 13}" text-anchor="end">a T4 has {limit} GiB</text>'
        f"{''.join(legend)}</svg>"
    )


def dial_svg(
    points: Sequence[tuple[float, float]], chosen: int, others: Mapping[str, tuple[float, float]]
) -> str:
    """Held-out loss over the factor on alpha as a small SVG; the chosen point is marked.

    ``others`` are single points beside the curve. Factors are evenly spaced, as on the slider.
    """
    width, height, left, bottom = 460, 210, 44, 40
    places = {
        x: left + 24 + i * (width - left - 60) / (len(points) - 1)
        for i, (x, _) in enumerate(points)
    }
    ys = [y for _, y in [*points, *others.values()]]
    low, high = min(ys), max(ys)
    span = max(high - low, 0.05)

    def down(y: float) -> float:
        return 30 + (height - bottom - 46) * (high - y) / span

    base = height - bottom
    line = " ".join(f"{places[x]:.1f},{down(y):.1f}" for x, y in points)
    marks = [
        f'<circle cx="{places[x]:.1f}" cy="{down(y):.1f}" r="3" fill="{BLUE}"/>' for x, y in points
    ]
    x, y = points[chosen]
    marks.append(
        f'<circle cx="{places[x]:.1f}" cy="{down(y):.1f}" r="8" fill="none" stroke="{BLUE}" stroke-width="2.5"/>'
    )
    for name, (x, y) in others.items():
        across, at = places[x], down(y)
        marks.append(
            f'<rect x="{across - 4:.1f}" y="{at - 4:.1f}" width="8" height="8" fill="{RED}"/>'
        )
        marks.append(
            f'<text x="{across - 9:.1f}" y="{at + 4:.1f}" text-anchor="end">{escape(name)}</text>'
        )
    ticks = "".join(
        f'<text x="{at:.1f}" y="{base + 15}" text-anchor="middle">{x:g}</text>'
        for x, at in places.items()
    )
    caption = "held-out loss (nats a token) over the factor on alpha"
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" style="max-width:100%;background:#fff" '
        f'role="img" aria-label="{caption}" xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" '
        f'font-size="12"><text x="4" y="14" font-size="13">{caption}</text>'
        f'<path d="M{left} 22V{base}H{width - 8}" fill="none" stroke="#999"/>'
        f'<text x="{left - 5}" y="{down(high) + 4:.1f}" text-anchor="end">{high:.2f}</text>'
        f'<text x="{left - 5}" y="{down(low) + 4:.1f}" text-anchor="end">{low:.2f}</text>{ticks}'
        f'<text x="{(left + width) / 2}" y="{height - 8}" text-anchor="middle">alpha × …</text>'
        f'<polyline points="{line}" fill="none" stroke="{BLUE}" stroke-width="1.5"/>{"".join(marks)}</svg>'
    )


def pool_svg(
    pool: Sequence[tuple[float, float]],
    chosen: Sequence[tuple[float, float]],
    levels: Mapping[float, str],
    *,
    colour: str,
    unit: str,
    caption: str,
) -> str:
    """A pool of conversations by length and score as a small SVG, the chosen ones as rings.

    Lengths are drawn so that each doubling takes the same room. A dot stands for all conversations at its place,
    the darker the more: also 52,002 of them make a small picture.

    Args:
        pool, chosen: length (1 or more) and height of each conversation.
        levels: what is written at which heights, the scores.
        colour: of the rings.
        unit: what lengths are counted in.
    """
    width, height, left, right, top, bottom = 400, 260, 44, 12, 30, 44
    lengths = [length for length, _ in (*pool, *chosen)]
    low, high = _with_room(min(lengths), max(lengths))
    heights = [y for _, y in (*pool, *chosen)] + list(levels)
    lowest, highest = min(heights), max(heights)
    span = (highest - lowest) or 1

    def place(length: float, y: float) -> tuple[float, float]:
        across = math.log(length / low) / math.log(high / low)
        up = (y - lowest) / span if highest > lowest else 0.5
        return left + across * (width - left - right), height - bottom - 8 - up * (
            height - top - bottom - 16
        )

    rings = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.6"/>' for x, y in (place(*one) for one in chosen)
    )
    base = height - bottom
    ticks = "".join(
        f'<text x="{place(n, lowest)[0]:.1f}" y="{base + 15}" text-anchor="middle">{n:,}</text>'
        for n in round_numbers(low, high)
    )
    names = "".join(
        f'<text x="{left - 6}" y="{place(low, y)[1] + 4:.1f}" text-anchor="end">{escape(name)}</text>'
        for y, name in levels.items()
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" style="max-width:100%;background:#fff" role="img" '
        f'aria-label="{escape(caption)}" xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" '
        f'font-size="12"><text x="4" y="15" font-size="13">{escape(caption)}</text>'
        f'<path d="M{left} {top - 6}V{base}H{width - right}" fill="none" stroke="#999"/>{names}{ticks}'
        f'<text x="{(left + width) / 2}" y="{height - 8}" text-anchor="middle">{escape(unit)}</text>'
        f"{_dots([place(*one) for one in pool])}"
        f'<g fill="none" stroke="{colour}" stroke-width="1.6">{rings}</g></svg>'
    )


def _with_room(low: float, high: float) -> tuple[float, float]:
    """The ends of an axis for lengths from low to high: a factor of 4 at least, so that a round number is on it."""
    if high < 4 * low:
        middle = math.sqrt(low * high)
        low, high = min(low, middle / 2), max(high, middle * 2)
    return low * 0.95, high * 1.05


def round_numbers(low: float, high: float) -> list[int]:
    """1, 2, 5, 10, 20 … between two numbers; of more than nine only 1, 10, 100 …"""
    found = [k * 10**n for n in range(12) for k in (1, 2, 5) if low <= k * 10**n <= high]
    return found if len(found) <= 9 else [n for n in found if str(n).startswith("1")]


def _dots(places: Sequence[tuple[float, float]]) -> str:
    """One path for each shade: a line of no length with a round end is a dot."""
    cells = Counter((round(x / _CELL), round(y / _CELL)) for x, y in places)
    shades: dict[str, list[str]] = {shade: [] for shade in _SHADES.values()}
    for (x, y), count in cells.items():
        shade = next(shade for least, shade in reversed(_SHADES.items()) if count >= least)
        shades[shade].append(f"M{x * _CELL} {y * _CELL}h0")
    return "".join(
        f'<path d="{"".join(dots)}" stroke="{shade}" stroke-width="{_CELL}" stroke-linecap="round"/>'
        for shade, dots in shades.items()
        if dots
    )
