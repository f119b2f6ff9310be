"""Tokens as coloured pieces of HTML, or as text. Standard library only."""

import html

from helpers.faults import Fault, Piece
from helpers.svg import RED, SKY

COLOURS = {"read": "#e8e8e8", "learnt": SKY, "padding": "#ffffff"}
SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
LINES = str.maketrans({" ": "·", "\n": "↵", "\r": "␍", "\t": "⇥"})
STYLES = {
    kind: f"background:{colour};color:#111;border:1px {line} #999;border-radius:3px;padding:0 2px;"
    "white-space:pre-wrap;unicode-bidi:isolate"
    for kind, colour, line in (
        ("read", COLOURS["read"], "solid"),
        ("learnt", COLOURS["learnt"], "solid"),
        ("padding", COLOURS["padding"], "dashed"),
    )
}


def plain(piece: Piece) -> str:
    """A piece as text: visible spaces and line ends, and how many tokens it is where it is more than one."""
    text = "".join(
        c if c.isprintable() else f"<U+{ord(c):04X}>" for c in piece.text.translate(LINES)
    )
    return text + (str(piece.tokens).translate(SUPERSCRIPT) if piece.tokens > 1 else "")


def folded(kind: str, count: int) -> str:
    return f"padding × {count}" if kind == "padding" else f"… {count} tokens …"


def span(piece: Piece, fold: bool) -> str:
    text = piece._replace(tokens=1)
    text = html.escape(plain(text)).replace("$", "<span>$</span>")
    if piece.tokens > 1:
        text += f"<sup>{piece.tokens}</sup>"
    ends_line = not fold and piece.text.endswith("\n")
    return chip(text, piece.kind, bold=piece.mark) + "<br>" * ends_line


def chip(text: str, kind: str, bold: bool = False, faint: bool = False) -> str:
    """A token in its colour; learnt ones also stand in <ins>, since GitHub shows no colours."""
    style = STYLES[kind] + ";font-weight:bold" * bold + ";font-style:italic" * faint
    tag = "ins" if kind == "learnt" else "span"
    style += ";text-decoration:none" * (kind == "learnt")
    return f'<{tag} style="{style}">{text}</{tag}>'


def legend() -> str:
    words = {
        "learnt": "learnt: its label counts",
        "read": "read: label −100",
        "padding": "padding: fills a row up",
    }
    chips = " ".join(chip(text.replace(" ", "&nbsp;"), kind) for kind, text in words.items())
    return (
        f'<div style="margin:4px 0;line-height:2">{chips} <b>bold</b>: a mark of the tokenizer; '
        "· a space, ↵ a new line; <sup>3</sup>: one character of 3 tokens</div>"
    )


def explained(fault: Fault, rows: str = "") -> str:
    name = html.escape(fault.name) + f" ({rows})" * bool(rows)
    return f'<div style="margin:3px 0"><b style="color:{RED}">⚠ {name}</b>: {html.escape(fault.why)}</div>'


def numbers(rows: list[int]) -> str:
    some = ", ".join(map(str, rows[:8]))
    return f"row {some}" if len(rows) == 1 else f"rows {some}{', …' * (len(rows) > 8)}"


def page(*parts: str) -> str:
    style = (
        "font-family:sans-serif;font-size:13px;line-height:1.45;text-align:left;max-width:1000px"
    )
    return f'<div style="{style}">{"".join(parts)}</div>'
