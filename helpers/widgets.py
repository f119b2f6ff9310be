"""Sliders over the course's functions; no arithmetic of its own."""

from dataclasses import replace
from html import escape

import ipywidgets as w

from helpers import lora, memory, plots, presets, workspace
from helpers.errors import CourseError
from helpers.presets import Choice

# Powers of two: r to 512, where a T4 is too small for Llama-2-7B, and alpha to twice that.
RANKS = tuple(2**n for n in range(10))
ALPHAS = (*RANKS, 1024)
# Long lines wrap in a narrow window.
_PRE = '<pre style="white-space:pre-wrap;margin:4px 6px;line-height:1.35;font-size:12.5px">'


class LoraSliders:
    """Sliders for r and alpha; parameters, share, scale and memory of Llama-2-7B are redrawn at once.

    `show()` returns the widget. The current setting is `choice`; the button "Use this" writes it for
    notebook 05. "rows at once" is for planning only: training derives it from the machine's memory.

    Args:
        choice: where the sliders start.
        model: the preset that is planned for.
        sequence_length: tokens of each training row, for the memory estimate.
    """

    def __init__(
        self, choice: Choice | None = None, model: str = "llama-2-7b", sequence_length: int = 2048
    ):
        self.choice = choice or Choice()
        self.model, self.sequence_length = model, sequence_length
        self.r = _slider("rank r", RANKS, self.choice.r)
        alphas = (*ALPHAS, self.choice.r, 2 * self.choice.r)
        self.alpha = _slider("lora_alpha", alphas, self.choice.lora_alpha)
        self.batch = _slider("rows at once", (1, 2, 4, 8), 2)
        narrow = {"layout": w.Layout(width="118px")}
        self.same = w.Button(description="alpha = r", **narrow)
        self.twice = w.Button(description="alpha = 2r", **narrow)
        self.use = w.Button(
            description="Use this", button_style="primary", tooltip="Save for notebook 05", **narrow
        )
        self.readout = w.HTML()
        self.message = w.HTML()
        for slider in (self.r, self.alpha, self.batch):
            slider.observe(self._moved, names="value")
        self.same.on_click(lambda _: self._set_alpha(1))
        self.twice.on_click(lambda _: self._set_alpha(2))
        self.use.on_click(lambda _: self._save())
        self._draw()

    def show(self) -> w.Widget:
        """The widget to put at the end of a cell."""
        buttons = w.HBox([self.same, self.twice, self.use])
        return w.VBox([self.r, self.alpha, self.batch, buttons, self.readout, self.message])

    def text(self) -> str:
        """The readouts as plain text: for readers without widgets, and for tests."""
        e, c = self._estimate(), self.choice
        trained = lora.adapter_parameters(self.model, c.r, c.target_modules)
        total = lora.base_parameters(self.model) + trained
        scale = lora.scaling(c.r, c.lora_alpha, c.use_rslora)
        formula = "alpha / √r" if c.use_rslora else "alpha / r"
        rows = "1 row" if self.batch.value == 1 else f"{self.batch.value} rows"
        verdict = "fits on a T4" if e.fits() else "does not fit on a T4"
        return (
            f"r = {c.r}, lora_alpha = {c.lora_alpha:g}\n"
            f"trainable  {trained:,} of {total:,} = {trained / total:.2%}\n"
            f"scale      {formula} = {scale:g}\n"
            f"memory     {e.total:.2f} + {e.context:.2f} GiB: {verdict}\n"
            f"           {rows} of {self.sequence_length:,} tokens at once"
        )

    def picture(self) -> str:
        """The memory bar as SVG."""
        e = self._estimate()
        parts = {name: getattr(e, name) for name in plots.PARTS}
        name = presets.MODELS[self.model].name
        return plots.memory_svg(parts, presets.T4_MEMORY_GIB, f"{name} while training, in GiB")

    def _estimate(self) -> memory.Estimate:
        return memory.estimate(
            self.model,
            r=self.choice.r,
            batch_size=self.batch.value,
            sequence_length=self.sequence_length,
            target_modules=self.choice.target_modules,
        )

    def _set_alpha(self, times: int) -> None:
        self.alpha.value = times * self.r.value

    def _moved(self, _change) -> None:
        self.choice = replace(self.choice, r=self.r.value, lora_alpha=self.alpha.value)
        self.message.value = ""
        self._draw()

    def _draw(self) -> None:
        self.readout.value = f"{_PRE}{escape(self.text())}</pre>{self.picture()}"

    def _save(self) -> None:
        try:
            path = workspace.save_choice(self.choice)
            self.message.value = (
                f"Saved r = {self.choice.r}, alpha = {self.choice.lora_alpha:g} in {path.name}."
            )
        except CourseError as error:
            self.message.value = f"<b>{escape(str(error))}</b>"


def _slider(name: str, options: tuple, value: float) -> w.SelectionSlider:
    """A slider over ``options``, and ``value`` if a student chose one between them."""
    return w.SelectionSlider(
        options=[(f"{option:g}", option) for option in sorted({*options, value})],
        value=value,
        description=name,
        style={"description_width": "92px"},
        layout=w.Layout(width="100%", max_width="430px"),
    )
