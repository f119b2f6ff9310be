"""Speed and memory of three ways to train, and of two ways to answer, in one run on one GPU.

`COURSE_T4=1 python tests/gpu/speed.py`. Each way runs in a process of its own, with the same 4-bit model,
rows, effective batch of 8, rank 16 and optimiser:

- course: this course's settings, with the micro-batch that it derives;
- unsloth: the homework's cell, Unsloth with 2 rows × 4 accumulation steps;
- plain: Transformers, PEFT, TRL and bitsandbytes without Unsloth, 2 rows × 4.

A step is timed with the GPU synchronised; the median is taken after two warm-up steps.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

MODEL = common.MODELS / "llama-2-7b-bnb-4bit"
WAYS = ("course", "unsloth", "plain")
BATCH, WARM_UP, TIMED = 8, 2, 4
# Not 1024: that is TRL's default, and Unsloth takes it for "not set".
LENGTHS = (192, 512, 1000, 2048)
PROMPTS, LOOP, NEW_TOKENS = 32, 4, 100


def timed_callback():
    """A Trainer callback that notes the seconds of each step."""
    import torch
    from transformers import TrainerCallback

    class Timed(TrainerCallback):
        def __init__(self):
            self.seconds = []

        def on_step_begin(self, *args, **kwargs):
            torch.cuda.synchronize()
            self.started = time.perf_counter()

        def on_step_end(self, *args, **kwargs):
            torch.cuda.synchronize()
            self.seconds.append(time.perf_counter() - self.started)

    return Timed()


def train(model, tokenizer, config, tokens: int, float32: bool = True) -> dict:
    """Train a few steps; tokens a second and the peak of reserved memory."""
    import torch
    from trl import SFTTrainer

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    config.max_length, config.max_steps = tokens, WARM_UP + TIMED
    config.save_strategy, config.logging_steps, config.dataset_num_proc = "no", 1, 1
    rows = common.long_rows(BATCH * (WARM_UP + TIMED), 2 * tokens)
    about = {"tokens": tokens, "rows_at_once": config.per_device_train_batch_size}
    timed = timed_callback()
    try:
        trainer = SFTTrainer(
            model=model,
            processing_class=tokenizer,
            train_dataset=rows,
            args=config,
            callbacks=[timed],
        )
        lengths = {len(row) for row in trainer.train_dataset["input_ids"]}
        assert lengths == {tokens}, f"rows of {lengths} tokens, not {tokens}"
        for parameter in trainer.model.parameters():
            if parameter.requires_grad and float32:
                parameter.data = parameter.data.float()
        loss = trainer.train().training_loss
    except torch.cuda.OutOfMemoryError:
        return about | {"fits": False}
    seconds = timed.seconds[WARM_UP:]
    return about | {
        "fits": True,
        "seconds": [round(s, 4) for s in seconds],
        "tokens_per_second": round(BATCH * tokens / statistics.median(seconds)),
        "peak_gib": round(torch.cuda.max_memory_reserved() / common.GIB, 3),
        "loss": round(loss, 3),
    }


def homework_config(folder: str):
    """The homework's training arguments."""
    from trl import SFTConfig

    return SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        warmup_steps=10,
        learning_rate=2e-4,
        fp16=True,
        optim="adamw_8bit",
        weight_decay=0.01,
        lr_scheduler_type="linear",
        seed=3407,
        report_to="none",
        disable_tqdm=True,
    )


def with_unsloth(way: str) -> dict:
    """`course` and `unsloth`."""
    from helpers import models, training  # isort: skip
    from helpers import presets

    choice = presets.Choice()
    model, tokenizer = models.load(MODEL)
    model = training.add_adapter(model, choice)
    found = []
    for tokens in LENGTHS:
        with tempfile.TemporaryDirectory() as folder:
            if way == "course":
                rows_at_once = training.micro_batch(model, choice, tokens)
                config = training.build_config(choice, 100, rows_at_once, Path(folder))
            else:
                config = homework_config(folder)
            found.append(train(model, tokenizer, config, tokens))
            print(way, found[-1], flush=True)
    content = {"training": found}
    if way == "course":
        content["micro_batches"] = micro_batches(model, tokenizer)
        content["generation"] = generation(model, tokenizer)
    return content


def micro_batches(model, tokenizer) -> list[dict]:
    """The same effective batch, cut into micro-batches of 1, 2, 4 and 8 rows."""
    from helpers import presets, training

    found = []
    for tokens, rows_at_once in (
        (192, 1),
        (192, 2),
        (192, 4),
        (192, 8),
        (1000, 2),
        (1000, 4),
        (1000, 8),
    ):
        with tempfile.TemporaryDirectory() as folder:
            config = training.build_config(presets.Choice(), 100, rows_at_once, Path(folder))
            found.append(train(model, tokenizer, config, tokens))
        print("micro-batch", found[-1], flush=True)
    return found


def plain() -> dict:
    """Transformers, PEFT, TRL and bitsandbytes, as their documentation puts them together."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from helpers import environment, presets

    environment.limit_to_t4()
    found = []
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
        "{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
    )
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float16, device_map={"": 0})
    model = prepare_model_for_kbit_training(model)
    lora = LoraConfig(
        r=16, lora_alpha=16, target_modules=list(presets.PROJECTIONS), task_type="CAUSAL_LM"
    )
    model = get_peft_model(model, lora)
    for tokens in LENGTHS:
        with tempfile.TemporaryDirectory() as folder:
            config = homework_config(folder)
            config.gradient_checkpointing = True
            found.append(train(model, tokenizer, config, tokens))
            print("plain", found[-1], flush=True)
    return {"training": found, "unsloth_loaded": "unsloth" in sys.modules}


def generation(model, tokenizer) -> dict:
    """The homework's loop, one prompt at a time, against `evaluation.generate`. The same decoding."""
    import torch
    from unsloth import FastLanguageModel

    from helpers import data, evaluation, presets

    rows = data.load_conversations(data.OUR_POOL).select(range(PROMPTS + 1))
    prompts = data.questions(rows)
    hot = presets.HOMEWORK_DECODING | {"max_new_tokens": NEW_TOKENS}

    # Answers of random weights have no end; without an end token both ways give exactly NEW_TOKENS.
    model.generation_config.eos_token_id = None

    def loop(chosen):
        FastLanguageModel.for_inference(model)
        made = 0
        for messages in chosen:
            inputs = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
            ).to("cuda")
            out = model.generate(**inputs, do_sample=True, **hot)
            made += out.shape[1] - inputs["input_ids"].shape[1]
        return made

    def batched(chosen):
        answers = evaluation.generate(model, tokenizer, chosen, **hot)
        assert len(answers) == len(chosen)
        return len(chosen) * NEW_TOKENS

    found = {}
    for name, way, chosen in (
        ("loop", loop, prompts[1 : LOOP + 1]),
        ("course", batched, prompts[1:]),
    ):
        way(prompts[:1])
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        started = time.perf_counter()
        made = way(chosen)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        found[name] = {
            "prompts": len(chosen),
            "tokens_per_second": round(made / seconds, 1),
            "peak_gib": round(torch.cuda.max_memory_reserved() / common.GIB, 3),
        }
        print(name, found[name], flush=True)
    return found


def main() -> None:
    if len(sys.argv) > 1:
        way = sys.argv[1]
        content = plain() if way == "plain" else with_unsloth(way)
        common.save(f"speed-{way}", content)
        return
    content = {}
    for way in WAYS:
        done = subprocess.run([sys.executable, __file__, way], check=False)
        part = common.RESULTS / f"speed-{way}.json"
        if done.returncode == 0:
            content[way] = json.loads(part.read_text())
            part.unlink()
            common.save("speed", content)
    rows = [["way", "tokens", "rows at once", "tokens/s", "GiB", "ratio to plain", "of its memory"]]
    for way, part in content.items():
        for one, base in zip(part["training"], content["plain"]["training"], strict=True):
            if not one["fits"] or not base["fits"]:
                rows.append([way, one["tokens"], one["rows_at_once"], "-", "-", "-", "-"])
                continue
            rows.append(
                [way, one["tokens"], one["rows_at_once"], one["tokens_per_second"], one["peak_gib"]]
                + [one["tokens_per_second"] / base["tokens_per_second"]]
                + [one["peak_gib"] / base["peak_gib"]]
            )
    common.table(rows)
    print(content.get("course", {}).get("generation"))
    sys.exit(0 if len(content) == len(WAYS) else 1)


if __name__ == "__main__":
    main()
