"""Sliders over the course's functions; no arithmetic of its own. Works on ipywidgets 7.7 and 8.1."""

from collections.abc import Callable
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING

import ipywidgets as w
from IPython.core.pylabtools import print_figure
from IPython.display import display

from helpers import lora, plan, plots, presets, runs
from helpers.choice import Choice, save_choice
from helpers.errors import CourseError
from helpers.presets import PROJECTIONS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANKS = tuple(2**n for n in range(9))
ALPHAS = (*RANKS, 512)
MODULES = {
    "all seven": PROJECTIONS,
    "attention": PROJECTIONS[:4],
    "query and value": ("q_proj", "v_proj"),
    "feed-forward": PROJECTIONS[4:],
}
BATCHES, ROWS, EPOCHS = (1, 2, 4, 8, 16, 32), (0, 1, 2, 4, 8), (1, 2, 3, 5, 10, 15)
# Long lines wrap in a narrow window.
_PRE = '<pre style="white-space:pre-wrap;word-break:normal;overflow-wrap:anywhere;margin:4px 6px;line-height:1.35;font-size:12.5px">'
# Columns must not wrap: a narrow window scrolls.
_TABLE = _PRE.replace("pre-wrap", "pre").replace(
    "margin", "overflow-x:auto;width:0;min-width:calc(100% - 12px);margin"
)
# The longest label is per_device_train_batch_size.
_LABEL = {"description_width": "188px"}
# A field and its slider side by side, or below each other in a narrow window.
_SLIDER = {"readout": False, "layout": {"width": "240px"}}
_WRAP = {"flex_flow": "row wrap"}
_WIDE = {"width": "100%", "max_width": "500px"}


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
        self.field = kind(
            value=value, step=step, description=name, style=_LABEL, layout=w.Layout(width="256px")
        )
        self.slider = w.SelectionSlider(options=self.marks, value=value, **_SLIDER)
        self.row = w.HBox([self.field, self.slider], layout=w.Layout(**_WRAP))
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


class LoraSliders:
    """Sliders for everything that notebook 05 trains with; what it costs is redrawn at once.

    `show()` returns the widget, `text()` its readouts, `said` is the last message. The current setting is `choice`;
    "Use this" writes it for notebook 05 (one that does not fit on a T4 only when pressed twice), "Pin as A" keeps
    it for a comparison.

    Args:
        choice: where the sliders start.
        model: the preset that is planned for.
        config: a Transformers config of another Llama-shaped model, to plan for that one.
    """

    def __init__(self, choice: Choice | None = None, model: str = "llama-2-7b", config=None):
        self.choice = choice = choice or Choice()
        self.models = {preset.name: name for name, preset in presets.MODELS.items()}
        if config is not None:
            model = getattr(config, "_name_or_path", "") or "the given config"
            self.models[model] = lora.model_config(config)
        else:
            lora.model_config(model)  # CourseError for a name that is none
            model = presets.MODELS[model].name
        self.rates = _measured_rates(self.models)
        self.pinned: plan.Plan | None = None
        self.asked: Choice | None = None  # too large, and "Use this" was pressed once
        self.model = w.Dropdown(
            options=list(self.models), value=model, description="model", style=_LABEL,
            layout=w.Layout(**_WIDE),
        )  # fmt: skip
        self.r = Knob("r", RANKS, choice.r)
        self.alpha = Knob("lora_alpha", ALPHAS, float(choice.lora_alpha))
        sets = MODULES | (
            {}
            if choice.target_modules in MODULES.values()
            else {"as before": choice.target_modules}
        )
        self.modules = w.Dropdown(
            options=list(sets.items()), value=choice.target_modules, description="target_modules",
            style=_LABEL, layout=w.Layout(**_WIDE),
        )  # fmt: skip
        self.dropout = Knob("lora_dropout", (0.0, 0.05, 0.1), choice.lora_dropout, step=0.05)
        self.rslora = w.Checkbox(
            value=choice.use_rslora, description="use_rslora", style=_LABEL,
            layout=w.Layout(**_WIDE),
        )  # fmt: skip
        self.length = Knob("max_length", plan.LENGTHS, choice.max_length)
        self.batch = Knob("rows_per_update", BATCHES, choice.rows_per_update)
        self.rows = Knob(
            "per_device_train_batch_size", ROWS, choice.per_device_train_batch_size or 0
        )
        self.epochs = Knob("num_train_epochs", EPOCHS, float(choice.num_train_epochs))
        narrow = {"width": "104px"}
        self.same = w.Button(description="alpha = r", layout=w.Layout(**narrow))
        self.twice = w.Button(description="alpha = 2r", layout=w.Layout(**narrow))
        self.pin = w.Button(
            description="Pin as A",
            tooltip="Compare with what you move to",
            layout=w.Layout(**narrow),
        )
        self.use = w.Button(
            description="Use this", button_style="primary", tooltip="Save for notebook 05",
            layout=w.Layout(**narrow),
        )  # fmt: skip
        self.readout, self.message, self.said = w.HTML(), w.HTML(), ""
        self.plan, self.wrong = self._planned(choice), ""  # what is wrong with a typed number
        for control in self._controls():
            getattr(control, "field", control).observe(self._moved, names="value")
        self.same.on_click(lambda _: self._set_alpha(1))
        self.twice.on_click(lambda _: self._set_alpha(2))
        self.pin.on_click(lambda _: self._pin())
        self.use.on_click(lambda _: self._save())
        self._draw()

    def show(self) -> w.Widget:
        """The widget to put at the end of a cell."""
        buttons = w.HBox([self.same, self.twice, self.pin, self.use], layout=w.Layout(**_WRAP))
        rows = [getattr(control, "row", control) for control in self._controls()]
        return WithStill([*rows, buttons, self.message, self.readout], self.text, self.still)

    def text(self) -> str:
        """The readouts as plain text: for readers without widgets, and for tests."""
        return plan.describe(self.plan, self.rates.get(self.model.value))

    def picture(self) -> str:
        """The memory bar as SVG."""
        return plots.memory_svg(*self._memory())

    def still(self) -> "Figure":
        """The memory bar and the readouts as a figure."""
        return plots.memory_bar(*self._memory(), self.text())

    def code(self) -> str:
        """The calls that train this choice; what differs from the homework's is marked."""
        return f"{plan.peft_code(self.plan.choice)}\n\n{plan.training_code(self.plan)}"

    def comparison(self) -> str:
        """The pinned setting A beside the current one, B; empty where none is pinned."""
        return plan.compare(self.pinned, self.plan) if self.pinned else ""

    def _controls(self) -> list["Knob | w.Widget"]:
        return [
            *(self.model, self.r, self.alpha, self.modules, self.dropout, self.rslora),
            *(self.length, self.batch, self.rows, self.epochs),
        ]

    def _planned(self, choice: Choice) -> plan.Plan:
        return plan.of(choice, self.models[self.model.value])

    def _memory(self) -> tuple[dict[str, float], float, str]:
        """The parts in GiB, the T4's limit, and the caption of the bar."""
        parts = {name: getattr(self.plan.estimate, name) for name in plots.PARTS}
        return parts, presets.T4_MEMORY_GIB, f"{self.model.value} while training, in GiB"

    def _set_alpha(self, times: int) -> None:
        self.alpha.value = times * self.r.value

    def _moved(self, _change) -> None:
        try:
            moved = replace(
                self.choice,
                r=self.r.checked(),
                lora_alpha=self.alpha.checked(),
                target_modules=self.modules.value,
                lora_dropout=self.dropout.checked(),
                use_rslora=self.rslora.value,
                max_length=self.length.checked(),
                rows_per_update=self.batch.checked(),
                per_device_train_batch_size=self.rows.checked() or None,
                num_train_epochs=self.epochs.checked(),
            )
            self.plan = self._planned(moved)
        except CourseError as error:
            self.wrong = str(error)
            self._say(self.wrong)
            return
        self.choice, self.asked, self.wrong = moved, None, ""
        self._say("")
        self._draw()

    def _draw(self) -> None:
        parts = [f"{_PRE}{escape(self.text())}</pre>", self.picture()]
        if self.pinned:
            parts.append(f"{_TABLE}{escape(self.comparison())}</pre>")
        parts.append(
            f"<details><summary>The code that trains this</summary>{_PRE}{escape(self.code())}</pre></details>"
        )
        self.readout.value = "".join(parts)

    def _pin(self) -> None:
        self.pinned = self.plan
        self._draw()

    def _save(self) -> None:
        if self.wrong:
            self._say(f"Not saved. {self.wrong}")
            return
        if not self.plan.fits and self.asked != self.choice:
            self.asked = self.choice
            self._say(f"Not saved. {plan.too_large(self.plan)} To save it as it is, press again.")
            return
        try:
            path = save_choice(self.choice)
        except CourseError as error:
            self._say(str(error))
            return
        self._say(f"Saved r = {self.choice.r}, alpha = {self.choice.lora_alpha:g} in {path.name}.")

    def _say(self, text: str) -> None:
        self.said = text
        self.message.value = f"<b>{escape(text)}</b>" if text else ""


class AlphaDial:
    """A slider over factors on alpha *after* training: held-out loss, and one question's answer, at each.

    All were computed before, so that the slider answers at once.

    Args:
        alpha: what the adapter was trained with.
        losses: ``(factor, held-out loss)``, factors ascending; 0 is the base model.
        question, answers: one answer for each factor.
        trained: for a factor, the loss of an adapter that was *trained* with that alpha.
    """

    def __init__(
        self,
        alpha: float,
        losses: list[tuple[float, float]],
        question: str,
        answers: list[str],
        trained: dict[float, float] | None = None,
    ):
        self.alpha, self.losses = alpha, losses
        self.question, self.answers, self.trained = question, answers, trained or {}
        factors = [factor for factor, _ in losses]
        names = [(f"{factor:g}", factor) for factor in factors]
        start = factors.index(1) if 1 in factors else 0
        self.field = w.Dropdown(
            options=names, index=start, description="alpha × …", style={"description_width": "112px"},
            layout=w.Layout(width="200px"),
        )  # fmt: skip
        self.slider = w.SelectionSlider(options=names, index=start, **_SLIDER)
        w.link((self.field, "index"), (self.slider, "index"))
        self.readout = w.HTML()
        self.slider.observe(lambda _: self._draw(), names="value")
        self._draw()

    def show(self) -> w.Widget:
        """The widget to put at the end of a cell."""
        row = w.HBox([self.field, self.slider], layout=w.Layout(**_WRAP))
        return WithStill([row, self.readout], self.text, self.still)

    def still(self) -> "Figure":
        """The curve as a figure."""
        single = {name: [point] for name, point in self._others().items()}
        series = {"one adapter, alpha turned": self.losses, **single}
        return plots.curves(series, "factor on alpha", "held-out loss, nats a token")

    def text(self) -> str:
        """What the slider shows, as plain text."""
        factor, loss = self.losses[self.slider.index]
        name = (
            "the base model" if factor == 0 else "as trained" if factor == 1 else "not trained so"
        )
        lines = [f"alpha {self.alpha:g} × {factor:g} = {self.alpha * factor:g} ({name})"]
        lines.append(f"held-out loss {loss:.2f}")
        if factor in self.trained:
            lines.append(f"  {self.trained[factor]:.2f} for an adapter trained with this alpha")
        return "\n".join([*lines, "", self.question, "", self.answers[self.slider.index]])

    def _draw(self) -> None:
        picture = plots.dial_svg(self.losses, self.slider.index, self._others())
        self.readout.value = f"{picture}{_PRE}{escape(self.text())}</pre>"

    def _others(self) -> dict[str, tuple[float, float]]:
        """The points beside the curve, with their names."""
        return {f"trained at {f * self.alpha:g}": (f, y) for f, y in self.trained.items()}


def _measured_rates(models: dict) -> dict[str, float]:
    """Tokens a minute of the newest run of each model, if any. A workspace that cannot be read has none."""
    try:
        found = {name: runs.tokens_per_minute(preset) for name, preset in models.items()}
    except CourseError:
        return {}
    return {name: rate for name, rate in found.items() if rate}
