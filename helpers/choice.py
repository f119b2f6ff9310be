"""What a student chose to train with: its checks, its file, and the two calls that it becomes."""

import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from helpers import presets, workspace
from helpers.errors import CourseError, check_positive, check_share, check_whole, need_switch
from helpers.presets import PROJECTIONS

# The least that makes sense of each whole number.
WHOLE = {
    "r": 1,
    "max_length": 8,
    "rows_per_update": 1,
    "per_device_train_batch_size": 1,
    "patience": 1,
}
# What need not be chosen: it follows from the machine or the model, or there is none.
MAY_BE_NONE = ("per_device_train_batch_size", "learning_rate", "patience", "stages")
ANEW = "Save a choice in notebook 03 again, or delete the file to get the homework's settings."


@dataclass(frozen=True)
class Choice:
    """What a student chose to train with; the defaults are the homework's.

    The first five fields are arguments of ``get_peft_model``, the others, but for three, of ``SFTConfig``.
    ``rows_per_update`` is one: rows between two updates of the adapter. How many of them go through the machine at
    once (``per_device_train_batch_size``) changes time and memory, not the result (but with dropout, whose random
    numbers are others then), and is derived when ``None``.
    ``patience`` is another: after so many looks at the held-out loss without a lower one, training ends early.
    A look that Stop adds does not count.
    ``stages`` is the third: numbers of conversations and their epochs, for each stage of a training (`helpers.stages`).
    """

    r: int = 16
    lora_alpha: float = 16
    target_modules: tuple[str, ...] = PROJECTIONS
    lora_dropout: float = 0.0
    use_rslora: bool = False
    max_length: int = 2048
    rows_per_update: int = 8
    per_device_train_batch_size: int | None = None
    num_train_epochs: float = 2
    # ``None``: the model's own, see `presets.MODELS`.
    learning_rate: float | None = None
    # ``None``: training never ends early.
    patience: int | None = None
    # ``None``: all conversations in every epoch, in random order.
    stages: tuple[tuple[tuple[int, ...], float], ...] | None = None

    def __post_init__(self):
        for name, least in WHOLE.items():
            if not self._left_out(name):
                self._set(name, check_whole(name, getattr(self, name), least))
        for name in ("lora_alpha", "num_train_epochs", "learning_rate"):
            if not self._left_out(name):
                self._set(name, check_positive(name, getattr(self, name)))
        at_once = self.per_device_train_batch_size
        if at_once is not None and self.rows_per_update % at_once:
            raise CourseError(
                f"per_device_train_batch_size = {at_once} does not divide rows_per_update = {self.rows_per_update}.",
                "An update is made of whole parts, of so many rows at once each.",
                "Choose a number that divides it, or leave it out.",
            )
        dropout = check_share(
            "lora_dropout",
            self.lora_dropout,
            "It is the share of adapter inputs that are dropped at random in each step.",
            "Use 0, as the homework does, or a small share such as 0.05.",
        )
        self._set("lora_dropout", dropout)
        self._check_modules()
        self._check_stages()
        # NumPy's True and False are switches too.
        switch = self.use_rslora in (True, False)
        self._set("use_rslora", bool(self.use_rslora) if switch else self.use_rslora)
        need_switch(self.use_rslora, "use_rslora")

    def _left_out(self, name: str) -> bool:
        return name in MAY_BE_NONE and getattr(self, name) is None

    def _set(self, name: str, value: object) -> None:
        """As Python's own kind of number, so that a choice made with NumPy can be saved as JSON."""
        object.__setattr__(self, name, value)

    def _check_modules(self) -> None:
        modules = self.target_modules
        listed = isinstance(modules, list | tuple)
        if not listed or not modules or any(name not in PROJECTIONS for name in modules):
            raise CourseError(
                f"target_modules = {list(modules) if listed else modules!r} cannot be adapted.",
                f"A Llama block has these linear layers: {', '.join(PROJECTIONS)}.",
                "Choose one or more of them, as a list.",
            )
        # The same layers in another order are the same choice.
        self._set("target_modules", tuple(name for name in PROJECTIONS if name in modules))

    def _check_stages(self) -> None:
        if self.stages is None:
            return
        try:
            found = tuple((tuple(rows), epochs) for rows, epochs in self.stages)
        except (TypeError, ValueError):
            found = ()
        if not found or not all(rows for rows, _ in found):
            raise CourseError(
                f"stages = {self.stages!r:.60} are no stages.",
                "A stage is a list of row numbers, with the number of its epochs.",
                "Make them with stages.plan, or leave them out: stages=None.",
            )
        self._set(
            "stages",
            tuple(
                (
                    tuple(check_whole("row number", row, 0) for row in rows),
                    check_positive("epochs", epochs),
                )
                for rows, epochs in found
            ),
        )

    def to_dict(self) -> dict:
        """A dict that JSON can hold."""
        stages = self.stages and [[list(rows), epochs] for rows, epochs in self.stages]
        return asdict(self) | {"target_modules": list(self.target_modules), "stages": stages}

    def adapter_arguments(self) -> dict:
        """The keyword arguments of ``FastLanguageModel.get_peft_model``; notebook 03 explains each."""
        return {
            "r": self.r,
            "lora_alpha": self.lora_alpha,
            "target_modules": list(self.target_modules),
            "lora_dropout": self.lora_dropout,
            "bias": "none",
            "use_gradient_checkpointing": "unsloth",
            "random_state": presets.SEED,
            "use_rslora": self.use_rslora,
            "loftq_config": None,
        }

    def training_arguments(
        self, rows: int, per_device_train_batch_size: int, learning_rate: float
    ) -> dict:
        """The arguments of ``SFTConfig`` that follow from the choice; notebook 05 explains each.

        Args:
            rows: training rows, as prompt and completion.
            per_device_train_batch_size: rows at once; they divide ``rows_per_update``.
            learning_rate: the model's own, for a choice that names none.

        Raises:
            CourseError: so many rows at once do not divide ``rows_per_update``.
        """
        replace(self, per_device_train_batch_size=per_device_train_batch_size)  # refuses others
        return {
            "per_device_train_batch_size": per_device_train_batch_size,
            "gradient_accumulation_steps": self.rows_per_update // per_device_train_batch_size,
            "num_train_epochs": self.num_train_epochs,
            "learning_rate": learning_rate if self.learning_rate is None else self.learning_rate,
            "max_length": self.max_length,
            **presets.TRAINING | {"warmup_steps": self.warmup_steps(rows)},
            # The rows of a training in stages stand in their order already.
            **({"train_sampling_strategy": "sequential"} if self.stages else {}),
        }

    def count_steps(self, rows: int) -> int:
        """Updates of the adapter in a whole training on so many rows: each takes ``rows_per_update`` of them, the last
        of an epoch may take fewer."""
        return math.ceil(math.ceil(rows / self.rows_per_update) * self.num_train_epochs)

    def warmup_steps(self, rows: int) -> int:
        """The homework's 10 warm-up steps; a quarter of a training that has fewer than 20 steps in all."""
        usual, steps = presets.TRAINING["warmup_steps"], self.count_steps(rows)
        return usual if steps >= 2 * usual else steps // 4


def save_choice(choice: Choice) -> Path:
    """Keep a choice for notebook 05."""
    return workspace.write_json("choice.json", choice.to_dict())


def saved_choice() -> Choice | None:
    """The choice that notebook 03 saved, or ``None`` where there is none."""
    saved = workspace.read_json("choice.json")
    if saved is None:
        return None
    return choice_from(saved, workspace.path("choice.json"), ANEW)


def choice_from(saved: object, file: Path, todo: str) -> Choice:
    """A choice as a JSON file holds it.

    Raises:
        CourseError: the file holds something else; it is named, and ``todo`` says what to do.
    """
    if not isinstance(saved, dict):
        raise CourseError(
            f"{file} does not hold a choice.", "It was probably edited by hand.", todo
        )
    known = {f.name for f in fields(Choice)}
    if unknown := sorted(set(saved) - known):
        raise CourseError(
            f"{file} holds unknown settings: {', '.join(unknown)}.",
            f"A choice has {', '.join(sorted(known))}.",
            todo,
        )
    try:
        return Choice(**saved)
    except CourseError as error:
        raise CourseError(f"In {file}: {error.what}", error.why, todo) from error


def earlier_choice() -> Choice | None:
    """`saved_choice`, for whoever is about to save another: one that cannot be used is said, and passed over."""
    try:
        return saved_choice()
    except CourseError as error:
        print(f"{error.what} The sliders start at the homework's settings.")
        return None


def load_choice() -> Choice:
    """The choice that notebook 03 saved, else the homework's defaults; prints which.

    ``COURSE_SIZE=test`` limits the epochs.
    """
    choice = saved_choice()
    if choice is None:
        print("No saved choice in the workspace: using the homework's defaults.")
        choice = Choice()
    else:
        print(f"Using your saved choice: r = {choice.r}, alpha = {choice.lora_alpha}.")
    return replace(choice, num_train_epochs=min(choice.num_train_epochs, presets.size().max_epochs))
