"""Answers to the same questions side by side: a table that a notebook shows, or the same as text."""

import html
from collections.abc import Sequence
from itertools import zip_longest
from textwrap import fill, wrap

from helpers.errors import CourseError

# Letters a line of the text has.
WIDTH = 96


class SideBySide:
    """A table with a column for each who answered; above each row stands its question.

    As the value of a cell, Jupyter and GitHub show it as a table; ``print`` shows it as text.

    Args:
        questions: texts, or lists of messages as `answering.generate` takes them (the last message is shown).
        answers: for each column its heading and its answers, in the order of the questions.
    """

    def __init__(self, questions: Sequence[str | list[dict]], **answers: Sequence[str]):
        if not answers:
            raise CourseError(
                "Nobody's answers are given.",
                "Each column has its name: SideBySide(questions, before=…, after=…).",
                "Write them like this.",
            )
        texts = [q if isinstance(q, str) else q[-1]["content"] for q in questions]
        self.names = list(answers)
        self.rows = list(zip(texts, *answers.values(), strict=True))

    def __repr__(self) -> str:
        width = (WIDTH + 3) // len(self.names) - 3
        lines = []
        for question, *answers in self.rows:
            lines += ["", fill(f"Question: {question}", WIDTH), ""]
            texts = [f"{name}:\n{text}" for name, text in zip(self.names, answers, strict=True)]
            for parts in zip_longest(*(_wrapped(text, width) for text in texts), fillvalue=""):
                lines.append(" | ".join(f"{part:<{width}}" for part in parts).rstrip())
        return "\n".join(lines[1:])

    def _repr_html_(self) -> str:
        style = f'style="text-align:left; vertical-align:top; white-space:normal; width:{100 // len(self.names)}%"'
        rows = [[f"<th {style}>{_as_html(name)}</th>" for name in self.names]]
        for question, *answers in self.rows:
            span = f'colspan="{len(self.names)}" style="text-align:left; white-space:normal"'
            rows.append([f"<td {span}><b>{_as_html(question)}</b></td>"])
            rows.append([f"<td {style}>{_as_html(answer)}</td>" for answer in answers])
        return "<table>\n" + "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows) + "\n</table>"


def _wrapped(text: str, width: int) -> list[str]:
    """The lines of a text, none longer than ``width``."""
    return [part for line in text.splitlines() for part in wrap(line, width) or [""]]


def _as_html(text: str) -> str:
    """A text as HTML that shows it as it is: lines and indents stay, and nothing becomes a tag or a formula."""
    text = html.escape(text).replace("\n", "<br>").replace("  ", "&nbsp; ")
    # Alone in an element, a dollar sign begins no formula for MathJax.
    return text.replace("$", "<span>$</span>")
