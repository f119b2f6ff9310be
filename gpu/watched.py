"""Is a training that is watched and kept still Unsloth's, and is all of it written down? On a GPU, in float16.

`COURSE_T4=1 COURSE_MODEL=FOLDER python gpu/watched.py`, on an NVIDIA GPU. The course's training, with held-out rows
looked at, panel, checkpoints and best adapter; then the same rows, seed and numbers with Unsloth and TRL alone. Compared
are each step's loss and gradient norm and the updates that float16 skips. Looked at are what checkpoints hold,
the label view, and the best adapter, loaded again.
"""

import gc
import json
import math
import os
import tempfile

import common

ROWS = 100
# float16's loss scale begins here, above PyTorch's 65,536, at which this random model skips no update: some must be.
SCALE = 2.0**24
# Of a loss in float16. The same kernels see the same rows in the same order, so more would be another training.
TOLERANCE = 5e-4


def conversations():
    from helpers import data

    return data.load_conversations(data.OUR_POOL).select(range(ROWS))


def curves(trainer) -> dict[str, list]:
    """Loss and gradient norm of each step, as the trainer logged them; a norm that is no finite number as a text."""
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    norms = [entry["grad_norm"] for entry in steps]
    return {
        "loss": [entry["loss"] for entry in steps],
        "grad_norm": [norm if math.isfinite(norm) else str(norm) for norm in norms],
    }


def watched(found: dict, failures: list[str]):
    """The course's training; what it wrote down."""
    from helpers import adapting, best_adapter, labels, models, runs, training
    from helpers.choice import Choice

    choice, rows = Choice(r=16, num_train_epochs=1), conversations()
    model, tokenizer = models.load(max_seq_length=choice.max_length)
    model = adapting.add_adapter(model, choice)
    folder = runs.folder_for(choice, rows, model)
    trainer = training.build_trainer(model, tokenizer, rows, choice, folder)
    trains_on = [row.ids for row in labels.LabelView(trainer, rows)]
    shown = [row.ids[: row.tokens] for row in labels.LabelView.of(rows, tokenizer)]
    found["rows as the label view shows them without a model"] = len(shown)
    if [list(ids) for ids in trains_on] != [list(ids) for ids in shown]:
        failures.append("the label view without a model shows other tokens than the trainer's")
    run = training.train(trainer, choice, rows)
    found |= {"course": curves(trainer), "heldout": runs.losses(run.folder, "heldout_loss")}
    found |= {name: run.record[name] for name in ("steps", "updates", "skipped_updates", "best")}
    skipped = sum(isinstance(norm, str) for norm in found["course"]["grad_norm"])
    if not 0 < skipped < found["steps"]:
        failures.append(f"{skipped} of {found['steps']} updates were skipped: that shows nothing")
    if (run.record["updates"] + skipped, run.record["skipped_updates"]) != (
        found["steps"],
        skipped,
    ):
        failures.append(
            f"{skipped} steps have no finite gradient norm, and the record says otherwise"
        )
    kept = sorted(run.folder.glob("checkpoint-*"))
    found["checkpoints"] = {one.name: sorted(f.name for f in one.iterdir()) for one in kept}
    without = [name for name, files in found["checkpoints"].items() if "scaler.pt" not in files]
    if without or not kept:
        failures.append(f"without the gradient scaler's state: {without or 'no checkpoint'}")
    run = best_adapter.take(run, model)
    found["the best adapter, in this session"] = looked(model, tokenizer)
    arguments = trainer.args
    del trainer, model
    gc.collect()
    model, tokenizer = models.load(run.folder, max_seq_length=choice.max_length)
    found["the best adapter, loaded again"] = looked(model, tokenizer)
    for name in ("the best adapter, in this session", "the best adapter, loaded again"):
        if abs(found[name] - found["best"]["loss"]) > 0.01:
            failures.append(f"{name}: {found[name]}, and {found['best']['loss']} was noted")
    del model
    return choice, arguments


def looked(model, tokenizer) -> float:
    """The loss on the rows for looking, as notebooks measure it on a finished model."""
    from helpers import data, evaluation, presets

    rows = data.heldout("looking", presets.size().looking)
    losses, counts = evaluation.answer_losses(model, tokenizer, rows)
    return evaluation.measure(losses, counts).mean


def plain(found: dict, failures: list[str], choice, arguments) -> None:
    """Unsloth and TRL as their own examples call them, with the course's rows and numbers only."""
    import torch
    from trl import SFTConfig, SFTTrainer
    from unsloth import FastLanguageModel, get_chat_template

    from helpers import data, presets

    gc.collect()
    torch.cuda.empty_cache()
    model, tokenizer = FastLanguageModel.from_pretrained(
        os.environ["COURSE_MODEL"], max_seq_length=choice.max_length, load_in_4bit=True
    )
    tokenizer = get_chat_template(tokenizer, chat_template="llama")
    model = FastLanguageModel.get_peft_model(
        model,
        r=choice.r,
        lora_alpha=choice.lora_alpha,
        target_modules=[*presets.PROJECTIONS],
        lora_dropout=0,
        bias="none",
        use_gradient_checkpointing="unsloth",
        random_state=presets.SEED,
    )
    numbers = ("per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs")
    numbers += ("learning_rate", "warmup_steps", "lr_scheduler_type", "weight_decay", "max_length")
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        **{name: getattr(arguments, name) for name in numbers},
        optim="adamw_8bit",
        fp16=arguments.fp16,
        bf16=arguments.bf16,
        seed=presets.SEED,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
    )
    rows = data.to_prompt_completion(conversations())
    trainer = SFTTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    found["plain"] = curves(trainer)
    pairs = list(zip(found["course"]["loss"], found["plain"]["loss"], strict=True))
    found["largest difference of a loss"] = max(abs(a - b) for a, b in pairs)
    if not found["largest difference of a loss"] <= TOLERANCE:
        failures.append(f"losses differ by {found['largest difference of a loss']}")
    ours, theirs = (
        [isinstance(norm, str) for norm in found[name]["grad_norm"]] for name in ("course", "plain")
    )
    if ours != theirs:
        failures.append("other updates were skipped than by Unsloth and TRL alone")


def begin_with(scale: float) -> None:
    """Let the gradient scaler of every later training begin with this loss scale."""
    import torch

    class Scaler(torch.amp.GradScaler):
        def __init__(self, device: str = "cuda"):
            super().__init__(device, init_scale=scale)

    torch.amp.GradScaler = Scaler


def main() -> None:
    common.need_t4_mode()
    os.environ["COURSE_WORKSPACE"] = tempfile.mkdtemp()
    failures: list[str] = []
    from helpers import models  # noqa: F401  (Unsloth, before any of what it changes)

    found: dict = {"first loss scale": SCALE}
    begin_with(SCALE)
    choice, arguments = watched(found, failures)
    common.save("watched", found | {"failures": failures})
    plain(found, failures, choice, arguments)
    common.save("watched", found | {"failures": failures})
    print(json.dumps(found))
    common.finish(failures)


if __name__ == "__main__":
    main()
