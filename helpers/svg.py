"""Pictures that move with a slider, as SVG texts: drawn again in a millisecond, without matplotlib.

Standard library only. Also the colours of all figures.
"""

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
