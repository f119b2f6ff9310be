"""What sliders are made of: a number field with its slider, a button, a list, a table; and the still picture."""

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

import ipywidgets as w
from IPython.core.pylabtools import print_figure
from IPython.display import display

from helpers.errors import CourseError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Long lines wrap in a narrow window.
PRE = '<pre style="white-space:pre-wrap;word-break:normal;overflow-wrap:anywhere;margin:4px 6px;line-height:1.35;font-size:12.5px">'
# Columns must not wrap: a narrow window scrolls.
TABLE = PRE.replace("pre-wrap", "pre").replace(
    "margin", "overflow-x:auto;width:0;min-width:calc(100% - 12px);margin"
)
# The whole label, however long; the names are those of the code that is printed.
LABEL = {"description_width": "initial"}
# A field and its slider side by side, or below each other where it is narrow.
SLIDER = {"readout": False, "layout": {"width": "190px"}}
WRAP = {"flex_flow": "row wrap", "align_items": "center"}
# A widget has a margin of 2 pixels on each side.
WIDE = {"width": "calc(100% - 4px)", "max_width": "340px"}


class WithStill(w.VBox):
    """Widgets in a column that leave a still picture in a saved notebook: GitHub shows no widgets.

    A front end takes the widget where it can. Whoever has neither gets the text.

    Args:
        rows: the widgets.
        text: what they show, as plain text.
        still: draws what they show now.
    """

    def __init__(
        self, rows: list[w.Widget], text: Callable[[], str], still: "Callable[[], Figure]"
    ):
        super().__init__(rows)
        self.text, self.still = text, still

    def _ipython_display_(self, **_kwargs) -> None:
        # The way that both 7.7 and 8.1 know; 8.1's own way cannot hold a picture.
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        shown = {
            "text/plain": self.text(),
            "image/png": print_figure(self.still(), base64=True),
            "application/vnd.jupyter.widget-view+json": view,
        }
        display(shown, raw=True)


class Knob:
    """A labelled number field, and beside it a slider over the usual values; both show the same number.

    The field is what the keyboard and screen readers use: a slider of ipywidgets has no name for them.

    Args:
        name: the label.
        marks: the slider's values, ascending; the field takes numbers between them too.
        value: where it starts; a value beyond the marks widens the range.
        step: of the field's arrows; a whole number makes it a field of whole numbers.
    """

    def __init__(self, name: str, marks: tuple, value: float, step: float = 1):
        self.name, self.marks = name, tuple(sorted({*marks, value}))
        kind = w.IntText if all(isinstance(n, int) for n in (*marks, value, step)) else w.FloatText
        # A short name leaves room for the slider beside the field.
        size = {"width": "180px"} if len(name) < 14 else WIDE
        self.field = kind(
            value=value, step=step, description=name, style=LABEL, layout=w.Layout(**size)
        )
        self.slider = w.SelectionSlider(options=self.marks, value=value, **SLIDER)
        self.row = w.HBox([self.field, self.slider], layout=w.Layout(**WRAP))
        self.following = False
        self.field.observe(self._typed, names="value")
        self.slider.observe(self._slid, names="value")

    @property
    def value(self) -> float:
        """The number in the field; a whole one as int, which reads better in code."""
        number = self.field.value
        return int(number) if float(number).is_integer() else number

    @value.setter
    def value(self, number: float) -> None:
        self.field.value = number

    def checked(self) -> float:
        """The number in the field; CourseError if it is out of range."""
        low, high = self.marks[0], self.marks[-1]
        if not low <= self.value <= high:
            raise CourseError(
                f"{self.name} = {self.value:g} is not between {low:g} and {high:g}.",
                "The numbers below still belong to the last setting that could be used.",
                "Type another number, or move the slider.",
            )
        return self.value

    def _typed(self, _change) -> None:
        if self.marks[0] <= self.value <= self.marks[-1]:
            # New marks first send the slider to its beginning: nobody moved it there.
            self.following = True
            self.slider.options = tuple(sorted({*self.marks, self.value}))
            self.slider.value = self.value
            self.following = False

    def _slid(self, _change) -> None:
        if not self.following:
            self.field.value = self.slider.value


def row(control: "Knob | w.Widget") -> w.Widget:
    return getattr(control, "row", control)


def button(text: str, **settings) -> w.Button:
    return w.Button(description=text, layout=w.Layout(width="104px"), **settings)


def dropdown(name: str, options: list, value: object) -> w.Dropdown:
    return w.Dropdown(
        options=options, value=value, description=name, style=LABEL, layout=w.Layout(**WIDE)
    )


def table(rows: list[tuple[str, str]]) -> str:
    """Names and values as HTML: a long value wraps within its column."""
    cell = '<td style="vertical-align:top;text-align:left;padding:0 10px 0 6px'
    lines = [
        f'<tr>{cell};color:#555">{escape(name)}</td>{cell}">{escape(value)}</td></tr>'
        for name, value in rows
    ]
    return f'<table style="font-size:13px;line-height:1.45;margin:4px 0">{"".join(lines)}</table>'
