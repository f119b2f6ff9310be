"""Speed and memory of three ways to train, and of two ways to answer, in one run on one GPU.

`COURSE_T4=1 python gpu/speed.py [--tokens N …]`. Each way has a process of its own, with the same 4-bit model, rows,
8 rows an update, rank 16 and optimiser:

- course: this course's settings, with the rows at once that it derives;
- unsloth: the homework's cell, Unsloth with 2 rows × 4 accumulation steps;
- plain: Transformers, PEFT, TRL and bitsandbytes without Unsloth, 2 rows × 4.

"Own" rows at once compare what a student would run; course and homework's cell are the same code, so all
that differs between them is the rows at once. "Same 8 rows" and "same 4 rows" compare the implementations where
arithmetic, not the launching of kernels, takes the time.

The ways take turns, in two rounds of opposite order. A step is timed with the GPU synchronised; the first
two of each training are not counted. On a GPU with room for all, the three processes stay; on a smaller one
they come one after the other. With --tokens only rows of these lengths are trained on again, and `collect.py`
keeps the others of an earlier run.
"""

import argparse
import contextlib
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import common

MODEL = common.MODELS / "llama-2-7b-bnb-4bit"
WAYS = ("course", "unsloth", "plain")
BATCH, WARM_UP, TIMED, ROUNDS = 8, 2, 4, 2
# Tokens of a row, and rows at once: None for each way's own. From few to many tokens at once in the course's
# way: buffers that Unsloth keeps never come from a larger set-up. No length of 1024: that is TRL's default,
# and Unsloth takes it for "not set".
SHAPES = ((192, None), (2048, None), (1000, None), (1000, 8), (2048, 4))
# The course's way with other rows at once: what a fuller GPU brings.
MICRO_BATCHES = ((192, 4), (1000, 4))
# Rows at once that the planner says do not fit without Unsloth.
TOO_MUCH = ("plain", {"tokens": 2048, "rows_at_once": 8})
PROMPTS, LOOP, NEW_TOKENS = 16, 4, 100
# Rows answered at once: up to 4 and up to 16 a T4 takes other kernels than above.
ANSWERED_AT_ONCE = (1, 4, 16, 17, 32, 64)
# Three idle models and one at work, each below a T4's memory.
ROOM_FOR_ALL_GIB = 40
CUT_OFF = common.RESULTS / "speed-done.json"


# ------------------------------------------------------------------------- one way, in its own process
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


def train(model, tokenizer, config, tokens: int) -> dict:
    """Train a few steps: the seconds of each, and the peak of reserved memory."""
    import torch
    from trl import SFTTrainer

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    config.max_length, config.max_steps = tokens, WARM_UP + TIMED
    config.save_strategy, config.logging_steps, config.dataset_num_proc = "no", 1, 1
    rows = common.long_rows(BATCH * (WARM_UP + TIMED), 2 * tokens)
    about = {"rows_at_once": config.per_device_train_batch_size}
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
        # TRL alone makes the adapter 16-bit, and then fp16 training stops: its gradients cannot be unscaled.
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        loss = trainer.train().training_loss
    except torch.cuda.OutOfMemoryError:
        return about | {"fits": False}
    return about | {
        "fits": True,
        "seconds": [round(s, 4) for s in timed.seconds[WARM_UP:]],
        "peak_gib": round(torch.cuda.max_memory_reserved() / common.GIB, 3),
        "loss": round(loss, 3),
    }


def homework_config(folder: str, rows_at_once: int):
    """The homework's training arguments; it has 2 rows at once."""
    from trl import SFTConfig

    return SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=rows_at_once,
        gradient_accumulation_steps=BATCH // rows_at_once,
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


def with_unsloth():
    """The 4-bit model with the course's adapter."""
    from helpers import adapting, models  # isort: skip
    from helpers.choice import Choice

    model, tokenizer = models.load(MODEL)
    return adapting.add_adapter(model, Choice()), tokenizer


def without_unsloth():
    """The same from Transformers, PEFT and bitsandbytes, as their documentation puts them together."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from helpers import presets, t4_mode

    t4_mode.after_unsloth()
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
    assert "unsloth" not in sys.modules
    return get_peft_model(model, lora), tokenizer


def configure(way: str, model, folder: str, tokens: int, rows_at_once: int | None):
    """The training arguments of one way."""
    if way != "course":
        config = homework_config(folder, rows_at_once or 2)
        if way == "plain":
            config.gradient_checkpointing = True
        return config
    from helpers import training
    from helpers.choice import Choice

    choice = Choice()
    rows_at_once = rows_at_once or training.per_device_train_batch_size(model, choice, tokens)
    return training.build_config(choice, 100, rows_at_once, Path(folder))


def answer(model, tokenizer, kind: str | int) -> dict:
    """Answer the same prompts by the homework's loop, or by `answering.generate`; the same decoding.

    ``kind`` is "loop", "course", or how many rows `answering.generate` shall answer at once.
    """
    import torch
    from unsloth import FastLanguageModel

    from helpers import answering, data, homework

    count = PROMPTS if isinstance(kind, str) else max(LOOP, kind)
    prompts = data.questions(data.load_conversations(data.OUR_POOL).select(range(count)))
    at_once = {} if isinstance(kind, str) else {"at_once": kind}
    hot = homework.DECODING | {"max_new_tokens": NEW_TOKENS}
    # Answers of random weights have no end; without an end token each has exactly NEW_TOKENS.
    model.generation_config.eos_token_id = None
    FastLanguageModel.for_inference(model)
    generate = model.generate

    def exactly(**arguments):
        out = generate(**arguments)
        assert out.shape[1] - arguments["input_ids"].shape[1] == NEW_TOKENS
        return out

    model.generate = exactly

    def loop(chosen):
        for messages in chosen:
            inputs = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
            ).to("cuda")
            model.generate(**inputs, do_sample=True, **hot)

    def batched(chosen):
        answering.generate(model, tokenizer, chosen, **hot, **at_once)

    way, chosen = (loop, prompts[:LOOP]) if kind == "loop" else (batched, prompts)
    way(chosen[:1] if kind == "loop" else chosen)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    started, said = time.perf_counter(), io.StringIO()
    with contextlib.redirect_stdout(said):
        way(chosen)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    model.generate = generate
    fewer = re.findall(r"going on with (\d+) prompts at once", said.getvalue())
    return ({"fell_to": int(fewer[-1])} if fewer else {}) | {
        "prompts": len(chosen),
        "tokens_per_second": round(len(chosen) * NEW_TOKENS / seconds, 1),
        "peak_gib": round(torch.cuda.max_memory_reserved() / common.GIB, 3),
    }


def serve(way: str, answers) -> None:
    """Load the model, then do one job a line of standard input; write each result as a line to ``answers``."""
    model, tokenizer = without_unsloth() if way == "plain" else with_unsloth()
    for line in sys.stdin:
        job = json.loads(line)
        try:
            if "answer" in job:
                found = answer(model, tokenizer, job["answer"])
            elif "tokens" not in job:
                found = {"loaded": True}
            else:
                with tempfile.TemporaryDirectory() as folder:
                    config = configure(way, model, folder, job["tokens"], job["rows_at_once"])
                    found = train(model, tokenizer, config, job["tokens"])
        except Exception as error:  # noqa: BLE001  (noted; the other jobs still tell something)
            found = {"error": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps(found | {"code_path": common.code_path()}), file=answers, flush=True)


# ------------------------------------------------------------------------------- all ways, in turn
class Worker:
    """One way's process."""

    def __init__(self, way: str):
        read, write = os.pipe()
        gpu = common.turns(1).get()
        # Results have a pipe of their own: libraries print what they like.
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", way, str(write)],
            stdin=subprocess.PIPE,
            pass_fds=[write],
            text=True,
            # With several in sight, Transformers would use all of them.
            env=os.environ | {"CUDA_VISIBLE_DEVICES": gpu},
        )
        os.close(write)
        self.answers = os.fdopen(read)

    def ask(self, job: dict) -> dict:
        try:
            print(json.dumps(job), file=self.process.stdin, flush=True)
            line = self.answers.readline()
        except BrokenPipeError:
            line = ""
        return json.loads(line) if line else {"error": "the process ended"}

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def jobs(again: Sequence[int] = ()) -> list[tuple[str, dict]]:
    """Way and job, in the order of a GPU with room for all; or only trainings on rows of some lengths."""
    listed = []
    for tokens, rows_at_once in SHAPES:
        if again and tokens not in again:
            continue
        for turn in range(ROUNDS):
            for way in WAYS if turn % 2 == 0 else WAYS[::-1]:
                listed.append((way, {"tokens": tokens, "rows_at_once": rows_at_once}))
    if again:
        return listed
    listed += [("course", {"tokens": n, "rows_at_once": rows}) for n, rows in MICRO_BATCHES]
    listed.append(TOO_MUCH)
    listed += [("course", {"answer": kind}) for kind in ("loop", "course") * ROUNDS]
    return listed + [("course", {"answer": rows}) for rows in ANSWERED_AT_ONCE]


def results(done: list[tuple[str, dict, dict]]) -> dict:
    """What the jobs found, put together: the median step of all rounds, and each round's own."""
    content = {
        "rounds": ROUNDS,
        "steps": {"warm_up": WARM_UP, "timed": TIMED},
        "training": [],
        "micro_batches": [],
        "generation": {},
        "failures": [],
    }
    for way, job, found in done:
        if "error" in found:
            content["failures"].append(f"{way}, {job}: {found['error']}")
    for tokens, rows_at_once in SHAPES:
        kind = f"same {rows_at_once} rows" if rows_at_once else "own"
        job = {"tokens": tokens, "rows_at_once": rows_at_once}
        ways = {
            way: together(tokens, [f for w, j, f in done if (w, j) == (way, job)]) for way in WAYS
        }
        ways = {way: one for way, one in ways.items() if one}
        if not any(j == job for _, j, _ in done):
            continue
        content["training"].append({"tokens": tokens, "kind": kind, "ways": ways})
    content["training"].sort(key=lambda one: (one["kind"] != "own", one["tokens"]))
    for tokens, rows_at_once in MICRO_BATCHES:
        job = {"tokens": tokens, "rows_at_once": rows_at_once}
        if one := together(tokens, [f for _, j, f in done if j == job]):
            # Its peak would count buffers that larger set-ups left behind.
            one.pop("peak_gib", None)
            content["micro_batches"].append({"tokens": tokens} | one)
    if found := [f for w, j, f in done if (w, j) == TOO_MUCH and "error" not in f]:
        content["too_much"] = {"way": TOO_MUCH[0], **TOO_MUCH[1], "fits": found[0]["fits"]}
    for kind in ("course", "loop"):
        found = [f for _, j, f in done if j == {"answer": kind} and "error" not in f]
        if found:
            rates = [one["tokens_per_second"] for one in found]
            middle = {"tokens_per_second": round(statistics.median(rates), 1), "rounds": rates}
            content["generation"][kind] = found[0] | middle
    answered = {j.get("answer"): f for _, j, f in done if "error" not in f}
    rows = [{"rows": n} | answered[n] for n in ANSWERED_AT_ONCE if n in answered]
    if rows:
        content["generation"]["at_once"] = rows
    return content


def together(tokens: int, found: list[dict]) -> dict | None:
    """One way's rounds of one shape."""
    found = [one for one in found if "error" not in one]
    if not found:
        return None
    if not all(one["fits"] for one in found):
        return {"rows_at_once": found[0]["rows_at_once"], "fits": False}

    def rate(seconds: list[float]) -> int:
        return round(BATCH * tokens / statistics.median(seconds))

    return {
        "rows_at_once": found[0]["rows_at_once"],
        "tokens_per_second": rate([s for one in found for s in one["seconds"]]),
        "rounds": [rate(one["seconds"]) for one in found],
        "seconds": [one["seconds"] for one in found],
        # Of the first round: later ones could count buffers that larger set-ups left behind.
        "peak_gib": found[0]["peak_gib"],
        "loss": found[0]["loss"],
    }


def done_before(listed: list[tuple[str, dict]]) -> list[tuple[str, dict, dict]]:
    """The first jobs, if a run with these helpers was cut off after them."""
    if not CUT_OFF.exists():
        return []
    found = json.loads(CUT_OFF.read_text(encoding="utf-8"))
    done = [(way, job, result) for way, job, result in found["done"]]
    same = [(way, job) for way, job, _ in done] == listed[: len(done)]
    return done if same and found["run"]["helpers"] == common.helpers_hash("speed") else []


def measure(listed: list[tuple[str, dict]], all_at_once: bool) -> list[tuple[str, dict, dict]]:
    """Do all jobs; the results so far are saved after each, and a run that was cut off goes on."""
    workers = {}
    if all_at_once:
        workers = {way: Worker(way) for way in WAYS}
        # Nothing is timed while another model is still loading.
        for worker in workers.values():
            worker.ask({})
    else:
        listed.sort(key=lambda pair: WAYS.index(pair[0]))
    done = done_before(listed)
    for way, job in listed[len(done) :]:
        if way not in workers:
            while workers:
                workers.popitem()[1].close()
            workers[way] = Worker(way)
        done.append((way, job, workers[way].ask(job)))
        print(*done[-1], flush=True)
        common.save(CUT_OFF.stem, {"done": done})
    for worker in workers.values():
        worker.close()
    CUT_OFF.unlink(missing_ok=True)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[], help="such as 2048")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    common.need_t4_mode()
    if unknown := {*asked.tokens} - {tokens for tokens, _ in SHAPES}:
        sys.exit(f"Rows of {sorted(unknown)} tokens are not among those that are measured.")
    if asked.serve:
        way, answers = asked.serve
        serve(way, os.fdopen(int(answers), "w"))
        return
    total = int((common.machine()["memory"] or "0").split()[0]) / 1024
    done = measure(jobs(asked.tokens), total >= ROOM_FOR_ALL_GIB)
    # This process loads no model; the plain way has no path but the GPU's own.
    paths = [(way, found.pop("code_path", None)) for way, _, found in done]
    with_unsloth = {path for way, path in paths if way != "plain"}
    content = results(done)
    if asked.tokens:
        content["only"] = asked.tokens
    common.save("speed", content, code_path=with_unsloth.pop() if len(with_unsloth) == 1 else None)
    rows = [["tokens", "rows at once", "way", "tokens/s", "rounds", "GiB"]]
    for shape in content["training"]:
        for way, one in shape["ways"].items():
            rows.append(
                [shape["tokens"], one["rows_at_once"], way, one.get("tokens_per_second", "no room")]
            )
            rows[-1] += [one.get("rounds", ""), one.get("peak_gib", "")]
    common.table(rows)
    print(content["generation"])
    common.finish(content["failures"])


if __name__ == "__main__":
    main()
