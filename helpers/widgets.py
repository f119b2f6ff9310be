"""Sliders over the course's functions; no arithmetic of its own."""

from dataclasses import replace
from html import escape

import ipywidgets as w

from helpers import lora, memory, plots, presets, workspace
from helpers.errors import CourseError
from helpers.presets import Choice

# Powers of two from 1 to 256.
RANKS = tuple(2**n for n in range(9))


class LoraSliders:
    """Sliders for r and alpha; parameters, share, scale and memory of Llama-2-7B are redrawn at once.

    `show()` returns the widget. The current setting is `choice`; the button writes it for notebook 05.

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
        wide = {"style": {"description_width": "110px"}, "layout": w.Layout(width="430px")}
        self.r = w.SelectionSlider(options=RANKS, value=self.choice.r, description="rank r", **wide)
        self.alpha = w.SelectionSlider(
            options=(*RANKS, 512),
            value=int(self.choice.lora_alpha),
            description="lora_alpha",
            **wide,
        )
        self.batch = w.SelectionSlider(
            options=(1, 2, 4, 8), value=2, description="rows at once", **wide
        )
        self.same = w.Button(description="alpha = r")
        self.twice = w.Button(description="alpha = 2r")
        self.use = w.Button(
            description="Use this", button_style="primary", tooltip="Save for notebook 05"
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
        e = self._estimate()
        trained = lora.adapter_parameters(self.model, self.choice.r)
        total = lora.base_parameters(self.model) + trained
        scale = lora.scaling(self.choice.r, self.choice.lora_alpha)
        verdict = "fits on a T4" if e.fits() else "does not fit on a T4"
        return (
            f"r = {self.choice.r}, lora_alpha = {self.choice.lora_alpha}, rows at once = {self.batch.value}\n"
            f"trainable parameters  {trained:,} of {total:,} = {trained / total:.2%}\n"
            f"scale alpha / r       {scale:g}\n"
            f"memory while training {e.total:.2f} GiB with rows of {self.sequence_length} tokens: {verdict}"
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
        )

    def _set_alpha(self, times: int) -> None:
        self.alpha.value = min(512, times * self.r.value)

    def _moved(self, _change) -> None:
        self.choice = replace(self.choice, r=self.r.value, lora_alpha=self.alpha.value)
        self.message.value = ""
        self._draw()

    def _draw(self) -> None:
        self.readout.value = f"<pre>{escape(self.text())}</pre>{self.picture()}"

    def _save(self) -> None:
        try:
            path = workspace.save_choice(self.choice)
            self.message.value = (
                f"Saved r = {self.choice.r}, alpha = {self.choice.lora_alpha} in {path.name}."
            )
        except CourseError as error:
            self.message.value = f"<b>{escape(str(error))}</b>"
