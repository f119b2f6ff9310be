"""Sliders over the course's functions; no arithmetic of its own. Works on ipywidgets 7.7 and 8.1."""

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING

import ipywidgets as w

from helpers import controls, lora, plan, plots, presets, runs, svg
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
# Two columns where there is room for both, else one below the other.
_LEFT, _RIGHT = {"flex": "1 1 300px", "max_width": "420px"}, {"flex": "2 1 330px", "min_width": "0"}


class LoraSliders:
    """Sliders for everything that notebook 05 trains with; what it costs is redrawn at once.

    `show()` returns the widget, `text()` its readouts, `said` is the last message. The current setting is `choice`;
    "Use this" writes it for notebook 05 (one that does not fit on a T4 only when pressed twice), "Pin as A" keeps
    it for a comparison.

    Args:
        choice: where the sliders start.
        model: the preset that is planned for.
        config: a Transformers config of another Llama-shaped model, to plan for that one.
        lengths: tokens of each training row (`data.row_lengths`); without them every row counts as full.
    """

    def __init__(
        self,
        choice: Choice | None = None,
        model: str = "llama-2-7b",
        config=None,
        lengths: Sequence[int] = (),
    ):
        self.choice, self.lengths = choice or Choice(), lengths
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
        self._make_knobs(model)
        self._make_buttons()
        self.view, self.readout, self.message, self.said = w.HTML(), w.HTML(), w.HTML(), ""
        self.plan, self.wrong = self._planned(self.choice), ""  # what is wrong with a typed number
        for control in self._controls():
            getattr(control, "field", control).observe(self._moved, names="value")
        self.more.observe(lambda _: self._fold(), names="value")
        self._fold()
        self._draw()

    def _make_knobs(self, model: str) -> None:
        choice = self.choice
        self.model = controls.dropdown("model", list(self.models), model)
        self.r = controls.Knob("r", RANKS, choice.r)
        self.alpha = controls.Knob("lora_alpha", ALPHAS, float(choice.lora_alpha))
        own = {"as before": choice.target_modules}
        sets = MODULES | ({} if choice.target_modules in MODULES.values() else own)
        self.modules = controls.dropdown(
            "target_modules", list(sets.items()), choice.target_modules
        )
        self.dropout = controls.Knob(
            "lora_dropout", (0.0, 0.05, 0.1), choice.lora_dropout, step=0.05
        )
        self.rslora = w.Checkbox(
            value=choice.use_rslora, description="use_rslora: divide lora_alpha by √r",
            style=controls.LABEL, layout=w.Layout(**controls.WIDE), indent=False,
        )  # fmt: skip
        self.length = controls.Knob("max_length", plan.LENGTHS, choice.max_length)
        self.batch = controls.Knob("rows_per_update", BATCHES, choice.rows_per_update)
        self.rows = controls.Knob(
            "per_device_train_batch_size", ROWS, choice.per_device_train_batch_size or 0
        )
        self.epochs = controls.Knob("num_train_epochs", EPOCHS, float(choice.num_train_epochs))

    def _make_buttons(self) -> None:
        self.same, self.twice = controls.button("alpha = r"), controls.button("alpha = 2r")
        self.pin = controls.button("Pin as A", tooltip="Compare with what you move to")
        self.use = controls.button(
            "Use this", button_style="primary", tooltip="Save for notebook 05"
        )
        self.fit = controls.button(
            "Make it fit", button_style="warning", tooltip="Take the change that is named"
        )
        self.more = w.ToggleButton(description="More settings", layout=w.Layout(width="130px"))
        self.folded = w.VBox([controls.row(control) for control in self._controls()[3:]])
        for button, action in (
            (self.same, lambda: self._set_alpha(1)),
            (self.twice, lambda: self._set_alpha(2)),
            (self.pin, self._pin), (self.use, self._save), (self.fit, self._make_it_fit),
        ):  # fmt: skip
            button.on_click(lambda _, action=action: action())

    def show(self) -> w.Widget:
        """The widget to put at the end of a cell.

        On the left r and alpha, on the right what they cost, all in view at once; below each other on a phone. The
        other settings are folded away.
        """
        left = [controls.row(control) for control in self._controls()[:3]]
        left.append(w.HBox([self.same, self.twice], layout=w.Layout(**controls.WRAP)))
        left.append(w.HBox([self.pin, self.use, self.fit], layout=w.Layout(**controls.WRAP)))
        columns = [
            w.VBox([*left, self.message], layout=w.Layout(**_LEFT)),
            w.VBox([self.view], layout=w.Layout(**_RIGHT)),
        ]
        top = w.Box(columns, layout=w.Layout(**controls.WRAP | {"align_items": "flex-start"}))
        return controls.WithStill(
            [top, self.more, self.folded, self.readout], self.text, self.still
        )

    def text(self) -> str:
        """The readouts as plain text: for readers without widgets, and for tests."""
        return plan.describe(self.plan, self.rates.get(self.model.value))

    def verdict(self) -> str:
        """The three numbers that matter most, in a line; of a number that cannot be used, why."""
        if self.wrong:
            return self.wrong.split("\n")[0]
        e, trained = self.plan.estimate, self.plan.trained
        gib = f"{e.total + e.context:.1f} of {presets.T4_MEMORY_GIB:.1f} GiB"
        share = f"{trained:,} numbers trained, {trained / self.plan.total:.2%}"
        return f"{gib}: {plan.verdict(self.plan)} · {share}"

    def change(self) -> tuple[str, plan.Plan] | None:
        """The change that makes a plan fit, in words, and its plan; None where it fits, or none helps."""
        return plan.smallest_change(self.plan)

    def picture(self) -> str:
        """The memory bar as SVG."""
        return svg.memory_svg(*self._memory())

    def still(self) -> "Figure":
        """The memory bar and the readouts as a figure."""
        return plots.memory_bar(*self._memory(), self.text())

    def code(self) -> str:
        """The calls that train this choice; what differs from the homework's is marked."""
        return f"{plan.peft_code(self.plan.choice)}\n\n{plan.training_code(self.plan)}"

    def comparison(self) -> str:
        """The pinned setting A beside the current one, B; empty where none is pinned."""
        return plan.compare(self.pinned, self.plan) if self.pinned else ""

    def _controls(self) -> list["controls.Knob | w.Widget"]:
        return [
            *(self.model, self.r, self.alpha, self.modules, self.dropout, self.rslora),
            *(self.length, self.batch, self.rows, self.epochs),
        ]

    def _planned(self, choice: Choice) -> plan.Plan:
        return plan.of(choice, self.models[self.model.value], lengths=self.lengths)

    def _memory(self) -> tuple[dict[str, float], float, str]:
        """The parts in GiB, the T4's limit, and the caption of the bar."""
        parts = {name: getattr(self.plan.estimate, name) for name in svg.PARTS}
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
        colour = "inherit" if self.plan.fits else "#b00020"
        style = f"margin:2px 6px;line-height:1.4;color:{colour}"
        self.view.value = f'{self.picture()}<p style="{style}">{escape(self.verdict())}</p>'
        found = plan.readouts(self.plan, self.rates.get(self.model.value))
        parts = [controls.table(found)]
        if self.pinned:
            parts.append(f"{controls.TABLE}{escape(self.comparison())}</pre>")
        parts.append(
            f"<details><summary>The code that trains this</summary>{controls.TABLE}{escape(self.code())}</pre></details>"
        )
        self.readout.value = "".join(parts)
        self.fit.layout.display = "none" if self.plan.fits or not self.change() else ""

    def _fold(self) -> None:
        self.folded.layout.display = "" if self.more.value else "none"

    def _make_it_fit(self) -> None:
        if self.wrong:
            self._say(f"Not changed. {self.wrong}")
            return
        if not (change := self.change()):
            return
        smaller = change[1].choice
        self.rows.value = smaller.per_device_train_batch_size or 0
        self.length.value, self.r.value = smaller.max_length, smaller.r
        self._say(f"Changed: {change[0]}.")

    def _pin(self) -> None:
        self.pinned = self.plan
        self._draw()

    def _save(self) -> None:
        self.saved = False
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
        self.saved = True
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
        if len(losses) < 2 or len(losses) != len(answers):
            raise CourseError(
                f"There are {len(losses)} losses and {len(answers)} answers.",
                "The dial turns through two factors or more, and shows an answer for each. The cell that measures them "
                "was stopped, or has other factors.",
                "Run that cell again to its end.",
            )
        self.alpha, self.losses = alpha, losses
        self.question, self.answers, self.trained = question, answers, trained or {}
        factors = [factor for factor, _ in losses]
        names = [(f"{factor:g}", factor) for factor in factors]
        start = factors.index(1) if 1 in factors else 0
        self.field = w.Dropdown(
            options=names, index=start, description="alpha × …", style={"description_width": "112px"},
            layout=w.Layout(width="200px"),
        )  # fmt: skip
        self.slider = w.SelectionSlider(options=names, index=start, **controls.SLIDER)
        w.link((self.field, "index"), (self.slider, "index"))
        self.readout = w.HTML()
        self.slider.observe(lambda _: self._draw(), names="value")
        self._draw()

    def show(self) -> w.Widget:
        """The widget to put at the end of a cell."""
        row = w.HBox([self.field, self.slider], layout=w.Layout(**controls.WRAP))
        return controls.WithStill([row, self.readout], self.text, self.still)

    def still(self) -> "Figure":
        """The curve as a figure."""
        single = {name: [point] for name, point in self._others().items()}
        series = {"one adapter, alpha turned": self.losses, **single}
        return plots.curves(series, "factor on alpha", "held-out loss, nats a token", doubling=True)

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
        picture = svg.dial_svg(self.losses, self.slider.index, self._others())
        self.readout.value = f"{picture}{controls.PRE}{escape(self.text())}</pre>"

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
