"""Sliders over the course's functions; no arithmetic of its own. Works on ipywidgets 7.7 and 8.1."""

from dataclasses import replace
from html import escape

import ipywidgets as w

from helpers import lab, lora, plots, presets, runs, workspace
from helpers.errors import CourseError
from helpers.presets import PROJECTIONS, Choice

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
_PRE = '<pre style="white-space:pre-wrap;margin:4px 6px;line-height:1.35;font-size:12.5px">'
_LABEL = {"description_width": "96px"}
_WIDE = {"width": "100%", "max_width": "430px"}


class LoraSliders:
    """Sliders for everything that notebook 05 trains with; what it costs is redrawn at once.

    `show()` returns the widget, `text()` its readouts. The current setting is `choice`; "Use this" writes it for
    notebook 05, "Pin as A" keeps it for a comparison.

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
            model = presets.MODELS[model].name
        self.rates = _measured_rates(self.models)
        self.pinned: lab.Plan | None = None
        self.model = w.Dropdown(
            options=list(self.models), value=model, description="model", style=_LABEL,
            layout=w.Layout(**_WIDE),
        )  # fmt: skip
        self.r = _slider("rank r", RANKS, choice.r)
        self.alpha = _slider("lora_alpha", (*ALPHAS, 2 * choice.r), choice.lora_alpha)
        sets = MODULES | (
            {}
            if choice.target_modules in MODULES.values()
            else {"as before": choice.target_modules}
        )
        self.modules = w.Dropdown(
            options=list(sets.items()), value=choice.target_modules, description="modules",
            style=_LABEL, layout=w.Layout(**_WIDE),
        )  # fmt: skip
        self.dropout = _slider("lora_dropout", (0.0, 0.05, 0.1), choice.lora_dropout)
        self.rslora = w.Checkbox(
            value=choice.use_rslora, description="rsLoRA: divide alpha by √r", style=_LABEL
        )
        self.length = _slider("tokens a row", lab.LENGTHS, choice.max_seq_length)
        self.batch = _slider("rows an update", BATCHES, choice.batch_size)
        self.rows = _slider("rows at once", ROWS, choice.micro_batch or 0, zero="derived")
        self.epochs = _slider("epochs", EPOCHS, choice.epochs)
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
        self.readout, self.message = w.HTML(), w.HTML()
        self.plan = self._planned(choice)
        for control in self._controls():
            control.observe(self._moved, names="value")
        self.same.on_click(lambda _: self._set_alpha(1))
        self.twice.on_click(lambda _: self._set_alpha(2))
        self.pin.on_click(lambda _: self._pin())
        self.use.on_click(lambda _: self._save())
        self._draw()

    def show(self) -> w.Widget:
        """The widget to put at the end of a cell."""
        buttons = w.HBox(
            [self.same, self.twice, self.pin, self.use], layout=w.Layout(flex_flow="row wrap")
        )
        return w.VBox([*self._controls(), buttons, self.readout, self.message])

    def text(self) -> str:
        """The readouts as plain text: for readers without widgets, and for tests."""
        return describe(self.plan, self.rates.get(self.model.value))

    def picture(self) -> str:
        """The memory bar as SVG."""
        e = self.plan.estimate
        parts = {name: getattr(e, name) for name in plots.PARTS}
        caption = f"{self.model.value} while training, in GiB"
        return plots.memory_svg(parts, presets.T4_MEMORY_GIB, caption)

    def code(self) -> str:
        """The calls that train this choice; what differs from the homework's is marked."""
        return f"{lab.peft_code(self.plan.choice)}\n\n{lab.training_code(self.plan)}"

    def comparison(self) -> str:
        """The pinned setting A beside the current one, B; empty where none is pinned."""
        return compare(self.pinned, self.plan) if self.pinned else ""

    def _controls(self) -> list[w.Widget]:
        return [
            *(self.model, self.r, self.alpha, self.modules, self.dropout, self.rslora),
            *(self.length, self.batch, self.rows, self.epochs),
        ]

    def _planned(self, choice: Choice) -> lab.Plan:
        return lab.plan(choice, self.models[self.model.value])

    def _set_alpha(self, times: int) -> None:
        self.alpha.value = times * self.r.value

    def _moved(self, _change) -> None:
        try:
            moved = replace(
                self.choice,
                r=self.r.value,
                lora_alpha=self.alpha.value,
                target_modules=self.modules.value,
                lora_dropout=self.dropout.value,
                use_rslora=self.rslora.value,
                max_seq_length=self.length.value,
                batch_size=self.batch.value,
                micro_batch=self.rows.value or None,
                epochs=self.epochs.value,
            )
            self.plan = self._planned(moved)
        except CourseError as error:
            self.message.value = f"<b>{escape(str(error))}</b>"
            return
        self.choice, self.message.value = moved, ""
        self._draw()

    def _draw(self) -> None:
        parts = [f"{_PRE}{escape(self.text())}</pre>", self.picture()]
        if self.pinned:
            parts.append(f"{_PRE}{escape(self.comparison())}</pre>")
        parts.append(
            f"<details><summary>The code that trains this</summary>{_PRE}{escape(self.code())}</pre></details>"
        )
        self.readout.value = "".join(parts)

    def _pin(self) -> None:
        self.pinned = self.plan
        self._draw()

    def _save(self) -> None:
        try:
            path = workspace.save_choice(self.choice)
            self.message.value = (
                f"Saved r = {self.choice.r}, alpha = {self.choice.lora_alpha:g} in {path.name}."
            )
        except CourseError as error:
            self.message.value = f"<b>{escape(str(error))}</b>"


def describe(plan: lab.Plan, tokens_per_minute: float | None = None) -> str:
    """A plan's readouts as text. Minutes come from a measured rate where there is one."""
    c, e = plan.choice, plan.estimate
    formula = "alpha / √r" if c.use_rslora else "alpha / r"
    verdict = "fits on a T4"
    if not plan.fits:
        change = lab.smallest_change(plan)
        verdict = "does not fit on a T4" + (f"; it would with {change[0]}" if change else "")
    rows = "1 row" if plan.rows_at_once == 1 else f"{plan.rows_at_once} rows"
    short, long = plan.minutes
    time = f"{short:.0f} to {long:.0f} min on a T4 (estimated from the arithmetic)"
    if tokens_per_minute:
        time = f"{plan.tokens / tokens_per_minute:.0f} min at the rate of your last run"
    lines = [
        f"r = {c.r}, lora_alpha = {c.lora_alpha:g}",
        f"trainable  {plan.trained:,} of {plan.total:,} = {plan.trained / plan.total:.2%}",
        f"scale      {formula} = {plan.scale:g}",
        f"file       {plan.file_mib:,.0f} MiB",
        f"memory     {e.total:.2f} + {e.context:.2f} GiB: {verdict}",
        f"           {rows} of {c.max_seq_length:,} tokens at once, {c.batch_size} for an update",
        f"time       at most {time}",
        f"           {plan.steps} updates, {plan.tokens:,} tokens if every row is full",
    ]
    return "\n".join(lines + [f"note       {warning}" for warning in lab.warnings_for(c)])


def compare(a: lab.Plan, b: lab.Plan) -> str:
    """Two plans side by side, and how many times as large the second is."""
    rows = [
        ("trainable", a.trained, b.trained, ",.0f"),
        ("scale", a.scale, b.scale, "g"),
        ("file, MiB", a.file_mib, b.file_mib, ",.0f"),
        ("memory, GiB", a.estimate.total, b.estimate.total, ".2f"),
        ("tokens", a.tokens, b.tokens, ",.0f"),
        ("updates", a.steps, b.steps, "g"),
    ]
    lines = [f"{'':<12}{'A: pinned':>16}{'B: now':>16}{'B / A':>9}"]
    lines += [f"{'r, alpha':<12}{_pair(a):>16}{_pair(b):>16}"]
    for name, one, two, form in rows:
        lines.append(f"{name:<12}{one:>16{form}}{two:>16{form}}{two / one:>9.2f}")
    return "\n".join(lines)


def _measured_rates(models: dict) -> dict[str, float]:
    """Tokens a minute of the last run, for the model that it trained. A workspace that cannot be read has none."""
    try:
        found = {name: runs.tokens_per_minute(preset) for name, preset in models.items()}
    except CourseError:
        return {}
    return {name: rate for name, rate in found.items() if rate}


def _pair(plan: lab.Plan) -> str:
    return f"{plan.choice.r}, {plan.choice.lora_alpha:g}"


def _slider(name: str, options: tuple, value: float, zero: str = "0") -> w.SelectionSlider:
    """A slider over ``options``, and ``value`` if a student chose one between them; ``zero`` is shown for 0."""
    numbers = sorted({*options, value})
    return w.SelectionSlider(
        options=[(f"{number:g}" if number else zero, number) for number in numbers],
        value=value,
        description=name,
        style=_LABEL,
        layout=w.Layout(**_WIDE),
    )
