"""Build the trainer from a choice; train, resume, warn."""

import os

os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
from unsloth import FastLanguageModel, is_bfloat16_supported  # isort: skip  (before trl)

import gc
import importlib.metadata
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from helpers import data, lab, lora, memory, models, presets, runs, selection, workspace
from helpers.presets import Choice

if TYPE_CHECKING:
    from datasets import Dataset

# Rows that go through a CPU at once: measured fastest of 2, 4 and 8 for the small model on 2 cores.
CPU_MICRO_BATCH = 4
# Up to so many tokens at once a CPU keeps the results of the forward pass. With 4 of the course's rows at once,
# 8 steps then took 46.8 s instead of 58.7 s and 1.1 GiB more memory, with the same loss (2 cores).
CPU_KEPT_TOKENS = 2048
SAVE_STEPS = 10
VERSIONS = ("unsloth", "unsloth_zoo", "transformers", "peft", "trl", "bitsandbytes", "torch")


def add_adapter(model, choice: Choice):
    """``FastLanguageModel.get_peft_model`` with a choice's settings and the homework's seed."""
    return FastLanguageModel.get_peft_model(
        model,
        r=choice.r,
        lora_alpha=choice.lora_alpha,
        target_modules=list(choice.target_modules),
        lora_dropout=choice.lora_dropout,
        bias="none",
        use_gradient_checkpointing="unsloth",
        random_state=presets.SEED,
        use_rslora=choice.use_rslora,
        loftq_config=None,
    )


def learning_rate(choice: Choice) -> float:
    """The chosen learning rate, else the one that fits this machine's model."""
    if choice.learning_rate is not None:
        return choice.learning_rate
    preset = presets.MODELS.get(models.default_name())
    return preset.learning_rate if preset else presets.MODELS["llama-2-7b"].learning_rate


def micro_batch(model, choice: Choice, longest: int) -> int:
    """Rows that go through the machine at once; ``longest`` is the longest row in tokens."""
    if choice.micro_batch is not None:
        return choice.micro_batch
    if not torch.cuda.is_available():
        return math.gcd(choice.batch_size, CPU_MICRO_BATCH)
    # Less than 1 where a larger GPU is limited to a T4's memory.
    share = torch.cuda.get_per_process_memory_fraction()
    gib = share * torch.cuda.get_device_properties(0).total_memory / memory.GIB - memory.SPARE_GIB
    return memory.micro_batch(
        model.config,
        r=choice.r,
        batch_size=choice.batch_size,
        sequence_length=longest,
        gib=gib,
        target_modules=choice.target_modules,
    )


def build_trainer(
    model, tokenizer, conversations: "Dataset", choice: Choice, folder: Path
) -> SFTTrainer:
    """An `SFTTrainer` for a model with an adapter, with the homework's settings.

    Args:
        model: what `add_adapter` returned.
        tokenizer: the model's, with a chat template.
        conversations: at most 100 rows as `data.load_conversations` gives them.
        choice: rank, alpha, batch, epochs and so on.
        folder: where checkpoints go, and the adapter at the end.
    """
    selection.check_count(len(conversations))
    longest = max(data.check_lengths(conversations, tokenizer, choice.max_seq_length))
    rows = data.to_prompt_completion(conversations)
    rows_at_once = micro_batch(model, choice, longest)
    config = build_config(choice, len(rows), rows_at_once, folder)
    trainer = SFTTrainer(model=model, processing_class=tokenizer, train_dataset=rows, args=config)
    return prepare(trainer)


def build_config(choice: Choice, row_count: int, rows_at_once: int, folder: Path) -> SFTConfig:
    """The settings of a training; notebook 05 writes the same ones out and explains them.

    Args:
        choice: batch, epochs, learning rate and longest sequence.
        row_count: prompt/completion rows.
        rows_at_once: the micro-batch, see `micro_batch`.
        folder: where checkpoints go.
    """
    warmup = lab.warmup_steps(lab.count_steps(row_count, choice))
    return SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=rows_at_once,
        gradient_accumulation_steps=choice.batch_size // rows_at_once,
        num_train_epochs=choice.epochs,
        learning_rate=learning_rate(choice),
        max_length=choice.max_seq_length,
        fp16=not is_bfloat16_supported(),
        bf16=is_bfloat16_supported(),
        logging_steps=1,
        save_strategy="steps",
        save_steps=SAVE_STEPS,
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        **presets.TRAINING | {"warmup_steps": warmup},
    )


def prepare(trainer: SFTTrainer) -> SFTTrainer:
    """Keep the adapter in float32, and show losses as a plot instead of printed lines.

    On a CPU, TRL turns the adapter of a 4-bit model into bfloat16 when the trainer is built. Its 8 bits
    are too few for small updates, and a resumed run would differ. On a GPU Unsloth prevents that.

    A CPU has memory to spare for short rows: gradient checkpointing, which saves it for time, is off then.
    """
    at_once = trainer.args.per_device_train_batch_size * max(
        map(len, trainer.train_dataset["input_ids"])
    )
    if not torch.cuda.is_available() and at_once <= CPU_KEPT_TOKENS:
        trainer.args.gradient_checkpointing = False
        trainer.model.gradient_checkpointing_disable()
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_LivePlot())
    return trainer


def train(
    trainer: SFTTrainer, choice: Choice, conversations: "Dataset", *, latest: bool = True
) -> runs.Run:
    """Train, or go on where an interrupted run stopped; save the adapter and ``run.json``.

    Nothing that was computed is lost when the machine goes away: the folder holds the newest checkpoint,
    and calling this again with the same trainer resumes from it. ``latest`` makes it the run that notebooks 06
    and 07 look at.
    """
    folder = Path(trainer.args.output_dir)
    check_space(trainer, folder)
    record = _describe(trainer, choice, conversations)
    checkpoint = runs.newest_checkpoint(folder)
    before = runs.read(folder) if checkpoint else {}
    so_far = {name: before[name] for name in ("minutes", "tokens") if name in before}
    runs.write(folder, record | {"status": "started"} | so_far)
    if checkpoint:
        print(f"Going on from {checkpoint.name}.")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    clock = _Clock(folder, record, so_far.get("minutes", 0))
    trainer.add_callback(clock)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    record |= {"minutes": clock.minutes(), "status": "finished"}
    if torch.cuda.is_available():
        record["peak_memory_gib"] = round(torch.cuda.max_memory_reserved() / memory.GIB, 2)
    # Undo the automatic mixed precision around the model: answers then equal those after a reload.
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    trainer.save_model(str(folder))
    trainer.save_state()
    runs.write(folder, record)
    if latest:
        workspace.write_json("latest_run.json", {"name": folder.name})
    return runs.Run(folder, record)


def finished_run() -> runs.Run:
    """The run that finished last with this machine's model, else one trained now as notebook 05 does it.

    Prints which. A model that had to be trained is released again, so that the caller can load its own.
    """
    run, model_name = runs.latest(), models.default_name()
    if run is not None and run.record.get("model") == model_name:
        chosen = run.record["choice"]
        print(
            f"Using the run {run.folder.name}: r = {chosen['r']}, alpha = {chosen['lora_alpha']:g}, "
            f"{len(run.record['ids'])} conversations."
        )
        return run
    if run is None:
        print("No finished run in this workspace: training one now, as notebook 05 does.")
    else:
        print(
            f"The run {run.folder.name} belongs to {run.record.get('model')}, and this machine uses "
            f"{model_name}: training one for it now, as notebook 05 does."
        )
    return _load_and_train(workspace.load_choice(), selection.load_selection())


def variant(run: runs.Run, conversations: "Dataset", **changes) -> runs.Run:
    """A run that differs from ``run`` in some settings, or in its data: found in the workspace, else trained now.

    The student's own run stays the latest one.

    Args:
        run: the run to compare with.
        conversations: what to train on.
        changes: fields of `Choice`, such as ``r=4``.
    """
    choice = runs.choice_of(run, **changes)
    found = runs.find(choice, list(conversations["id"]), run.record["model"])
    if found is not None:
        print(f"Using the run {found.folder.name}.")
        return found
    print(f"Training r = {choice.r}, alpha = {choice.lora_alpha:g} on {len(conversations)} rows.")
    return _load_and_train(choice, conversations, latest=False)


def _load_and_train(choice: Choice, conversations: "Dataset", *, latest: bool = True) -> runs.Run:
    """Load this machine's model, train it, and release it again."""
    model, tokenizer = models.load(max_seq_length=choice.max_seq_length)
    model = add_adapter(model, choice)
    folder = runs.folder_for(choice, conversations)
    trainer = build_trainer(model, tokenizer, conversations, choice, folder)
    run = train(trainer, choice, conversations, latest=latest)
    del model, trainer
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return run


def check_space(trainer: SFTTrainer, folder: Path) -> None:
    """CourseError unless there is room for two checkpoints: adapter and both Adam states in float32."""
    trainable = lora.count_parameters(trainer.model).trainable
    workspace.need_space(2 * 12 * trainable / memory.GIB + 0.05, f"the run in {folder.name}")


def _describe(trainer: SFTTrainer, choice: Choice, conversations: "Dataset") -> dict:
    args = trainer.args
    return {
        "model": models.default_name(),
        "choice": choice.to_dict(),
        "ids": list(conversations["id"]),
        "tokens": round(sum(map(len, trainer.train_dataset["input_ids"])) * choice.epochs),
        "micro_batch": args.per_device_train_batch_size,
        "learning_rate": args.learning_rate,
        "warmup_steps": args.warmup_steps,
        "trainable_parameters": lora.count_parameters(trainer.model).trainable,
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
    }


class _Clock(TrainerCallback):
    """Notes at each checkpoint how many minutes and tokens it took, so that a run that goes on counts on."""

    def __init__(self, folder: Path, record: dict, minutes_before: float):
        self.folder, self.record, self.before = folder, record, minutes_before
        self.started = time.perf_counter()

    def minutes(self) -> float:
        """Minutes of training so far, those before an interruption included."""
        return round(self.before + (time.perf_counter() - self.started) / 60, 2)

    def on_save(self, args, state, control, **kwargs):
        tokens = round(self.record["tokens"] * state.global_step / state.max_steps)
        so_far = {"status": "started", "minutes": self.minutes(), "tokens": tokens}
        runs.write(self.folder, self.record | so_far)


class _LivePlot(TrainerCallback):
    """Shows the training loss as a figure that is redrawn at every logged step."""

    def __init__(self):
        self.points: list[tuple[int, float]] = []
        self.handle = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.points = [(e["step"], float(e["loss"])) for e in state.log_history if "loss" in e]
        self.started = time.perf_counter()
        self.first_step = state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not logs or "loss" not in logs:
            return
        from IPython.display import HTML, display

        from helpers import plots

        self.points.append((state.global_step, float(logs["loss"])))
        pace = (time.perf_counter() - self.started) / max(1, state.global_step - self.first_step)
        left = pace * (state.max_steps - state.global_step)
        text = f"step {state.global_step} of {state.max_steps}, loss {self.points[-1][1]:.2f}"
        text += f", about {left / 60:.1f} min left" if left > 1 else ""
        picture = HTML(plots.loss_svg(self.points, state.max_steps, text))
        if self.handle is None:
            self.handle = display(picture, display_id=True)
        else:
            self.handle.update(picture)
