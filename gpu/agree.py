"""Do the GPU's numbers agree with what they should be? Four comparisons on a small random Llama in 4 bits.

`COURSE_T4=1 python gpu/agree.py`, on an NVIDIA GPU:

- padding: the same rows in a padding-free and in a padded batch give the same loss and adapter gradients, and
  so does a padded batch in 32-bit numbers in a process without a GPU;
- layer: a 4-bit layer's output is the input times the dequantised weight, by every way Unsloth computes it;
- labels: the GPU's trainer trains on the same tokens as the CPU's;
- adapter: one trained on the GPU gives the same logits when a process without a GPU loads it.

The first three have a control that must differ; an adapter must change the logits clearly. torch.compile stays out of it
(UNSLOTH_BLOCK_COMPILE=0): it would only be used for padded batches, and costs a minute.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
from t4_kernels import attempt

BASE = common.MODELS / "small-bnb-4bit"
# Widths are multiples of 64, NF4's block. Weights of this size keep the spread of what goes through a layer,
# so that attention and adapter matter as in a trained model; Llama's own 0.02 suits 4,096 wide layers.
SHAPE = {
    "vocab_size": 32000,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "initializer_range": 0.08,
}
# One rounding to fp16 changes a number by up to 2**-11 = 0.0005 of itself. A loss is a mean over many tokens,
# and a CPU's loss in bfloat16, 8 times coarser, was 0.0001 off that in float32.
LOSS_TOLERANCE = 2e-4
# The same measurement for the gradient that is furthest off: 0.06 in bfloat16, so some 0.008 in fp16, twice.
GRADIENT_TOLERANCE = 3e-2
# The largest of two million outputs, compared with their typical size: some are 5 times that, all are rounded
# to fp16, and so may be partial sums.
LAYER_TOLERANCE = 2e-2
# On the GPU only: the CPU is told to compute in float32. In bfloat16 they were 0.022 off that.
LOGITS_TOLERANCE = 1e-2
# A control must differ by this many tolerances.
CLEARLY = 5
ROWS = (1, 2, 4, 8, 16, 512)


# ------------------------------------------------------------------------------------ building blocks
def make_base() -> None:
    """Write the small model in 4 bits; for a process of its own, in which Unsloth has changed nothing."""
    import make_llama
    import torch
    from transformers import (
        AutoModelForCausalLM,
        BitsAndBytesConfig,
        LlamaConfig,
        LlamaForCausalLM,
    )

    tokenizer = make_llama.make_tokenizer(SHAPE["vocab_size"])
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, **special, dtype=torch.float16)).half()
    packing = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float16,
    )
    with tempfile.TemporaryDirectory() as full:
        model.save_pretrained(full)
        packed = AutoModelForCausalLM.from_pretrained(
            full,
            quantization_config=packing,
            dtype=torch.float16,
            device_map={"": 0 if torch.cuda.is_available() else "cpu"},
        )
    packed.save_pretrained(BASE)
    tokenizer.save_pretrained(BASE)


def conversations(count: int):
    """The first of the course's conversations; the fifth and sixth have two answers."""
    from helpers import data

    return data.load_conversations(data.OUR_POOL).select(range(count))


def load_with_adapter():
    """The small model with the course's adapter, and its tokenizer."""
    from helpers import adapting, models
    from helpers.choice import Choice

    model, tokenizer = models.load(BASE)
    return adapting.add_adapter(model, Choice()), tokenizer


def build_trainer(model, tokenizer, count: int, *, steps: int, **settings):
    """The course's trainer for the first conversations, four rows at a time, without logs or checkpoints."""
    from helpers import data, training
    from helpers.choice import Choice

    rows = data.to_prompt_completion(conversations(count))
    config = training.build_config(
        Choice(rows_per_update=4), len(rows), 4, Path(tempfile.mkdtemp())
    )
    config.max_steps, config.save_strategy, config.logging_strategy = steps, "no", "no"
    for name, value in settings.items():
        setattr(config, name, value)
    trainer = training.SFTTrainer(
        model=model, processing_class=tokenizer, train_dataset=rows, args=config
    )
    return training.prepare(trainer)


def distance(found, wanted) -> float:
    """Size of the difference, as a share of what is wanted."""
    return ((found - wanted).norm() / wanted.norm()).item()


# ---------------------------------------------------------------------------------------- padding
def padding(folder: Path, failures: list[str]) -> tuple[dict, dict]:
    """Loss and gradients of one batch of four rows: padding-free, padded, and with the rows run together.

    Returns the comparison, and the padded batch's own; leaves the adapter it began with in ``folder``.
    """
    import torch

    model, tokenizer = load_with_adapter()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        # Zero at first, and then A would have no gradient.
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05)
    trained = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    torch.save({name: tensor.cpu() for name, tensor in trained.items()}, folder / "start.pt")
    found = {}
    for way in ("padding-free", "padded", "run together"):
        put(model, trained)
        found[way] = first_step(model, tokenizer, way)
    about = {way: result["about"] for way, result in found.items()}
    if about["padding-free"]["padded"] or not about["padded"]["padded"]:
        failures.append(f"padding: not one batch of each kind: {about}")
    results: dict = {
        "batches": about,
        "dtype": str(next(iter(trained.values())).dtype),
        "losses": {way: result["loss"] for way, result in found.items()},
    }
    for way in ("padding-free", "run together"):
        results[way] = apart(found[way], found["padded"])
    same, control = results["padding-free"], results["run together"]
    if not within(same):
        failures.append(f"padding: padding-free and padded batches differ: {same}")
    if not (
        control["loss"] > CLEARLY * LOSS_TOLERANCE
        and control["gradient"] > CLEARLY * GRADIENT_TOLERANCE
    ):
        failures.append(f"padding: rows that see each other go unnoticed: {control}")
    return results, found["padded"]


def put(model, trained: dict) -> None:
    """Set the adapter's weights."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(trained[name])


def apart(found: dict, wanted: dict) -> dict:
    """How far one first step is from another: the loss, and the gradient that differs most."""
    import torch

    pairs = [(found["gradients"][n], g) for n, g in wanted["gradients"].items()]
    cosine = torch.nn.functional.cosine_similarity
    return {
        "loss": abs(found["loss"] / wanted["loss"] - 1),
        "gradient": max(distance(a, b) for a, b in pairs),
        "cosine": min(cosine(a.flatten(), b.flatten(), dim=0).item() for a, b in pairs),
        "parameters": len(pairs),
    }


def within(difference: dict) -> bool:
    """Whether two first steps are the same but for fp16's rounding. A NaN is not."""
    return (
        difference["loss"] <= LOSS_TOLERANCE
        and difference["gradient"] <= GRADIENT_TOLERANCE
        and difference["parameters"] > 0
    )


def cpu_first_step(folder: Path) -> dict:
    """The same step in this process, from the adapter that `padding` began with."""
    import torch

    model, tokenizer = load_with_adapter()
    put(model, torch.load(folder / "start.pt"))
    return first_step(model, tokenizer, "padded")


def first_step(model, tokenizer, way: str) -> dict:
    """One step of the course's trainer: its loss, its gradients, and what its batch looked like."""
    import torch
    from transformers import TrainerCallback

    gradients = {}

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    gradients[name] = parameter.grad.detach().float().cpu().clone()

    # Clipping also undoes fp16's loss scale; with a limit this high it changes nothing else.
    settings = {"max_grad_norm": 1e9}
    # Unset, as in the course, Unsloth drops the padding.
    settings["padding_free"] = False if way == "padded" else None
    trainer = build_trainer(model, tokenizer, 4, steps=1, **settings)
    trainer.add_callback(Keep())
    if way == "run together":
        run_together(trainer.data_collator)
    batch = next(iter(trainer.get_train_dataloader()))
    about = {name: list(value.shape) for name, value in batch.items() if torch.is_tensor(value)}
    loss = trainer.train().training_loss
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    about["padded"] = "attention_mask" in batch
    return {"about": about, "loss": loss, "gradients": gradients}


def run_together(collator) -> None:
    """Tell the model that a padding-free batch is one long row: each row then sees those before it."""
    import torch

    original = collator.torch_call

    def collate(examples):
        batch = original(examples)
        total = batch["input_ids"].shape[1]
        if "packed_seq_lengths" in batch:
            batch["packed_seq_lengths"] = torch.tensor([total], dtype=torch.int32)
            batch["position_ids"] = torch.arange(total)[None]
        return batch

    collator.torch_call = collate


# ------------------------------------------------------------------------------------------ layer
def layer(failures: list[str]) -> dict:
    """4-bit layers of Llama-2-7B's sizes against a product with their dequantised weights."""
    import bitsandbytes
    import torch
    from unsloth.kernels.utils import fast_dequantize, fast_linear_forward, matmul_lora

    results: dict = {}
    torch.manual_seed(2)
    for inputs, outputs in ((4096, 11008), (11008, 4096)):
        module = bitsandbytes.nn.Linear4bit(
            inputs,
            outputs,
            bias=False,
            compute_dtype=torch.float16,
            quant_type="nf4",
            compress_statistics=True,
        )
        module = module.half().cuda()
        weight, state = module.weight, module.weight.quant_state
        plain = bitsandbytes.functional.dequantize_4bit(weight.data, state)
        ours = fast_dequantize(weight, state)
        # Unsloth promises the very same bits.
        apart = distance(ours.float(), plain.float())
        results[f"{inputs} → {outputs}, dequantised"] = apart
        if apart != 0:
            failures.append(f"layer: Unsloth dequantises {inputs} → {outputs} differently: {apart}")
        ways = {
            "bitsandbytes": lambda x, m=module: m(x),
            "training": lambda x, w=weight, s=state: matmul_lora(x[None], w, s, None, None, None)[
                0
            ],
            "answering": lambda x, m=module: fast_linear_forward(m, x[:, None])[:, 0],
        }
        for name, way in ways.items():
            for rows in ROWS:
                x = torch.randn(rows, inputs, dtype=torch.float16, device="cuda")
                with torch.no_grad():
                    found, wanted = way(x).float(), x.float() @ plain.float().T
                    # The control: the weights of a neighbour, one row on.
                    control = x.float() @ plain.float().roll(1, 0).T
                scale = wanted.pow(2).mean().sqrt()
                error = ((found - wanted).abs().max() / scale).item()
                other = ((control - wanted).abs().max() / scale).item()
                results[f"{inputs} → {outputs}, {rows} rows, {name}"] = error
                if not error <= LAYER_TOLERANCE < other:
                    failures.append(f"layer: {name}, {rows} rows, {inputs} → {outputs}: {error}")
    return {"largest": max(results.values()), "errors": results}


# ----------------------------------------------------------------------------------------- labels
def labelled_rows(count: int = 12) -> dict:
    """What the trainer of this process trains on: token ids and labels of each row, without padding, sorted."""
    model, tokenizer = load_with_adapter()
    trainer = build_trainer(model, tokenizer, count, steps=1)
    rows, padded = [], None
    for batch in trainer.get_train_dataloader():
        padded = "attention_mask" in batch
        ids, labels = batch["input_ids"].tolist(), batch["labels"].tolist()
        if padded:
            # Padding stands at the end of a row.
            lengths = batch["attention_mask"].sum(1).tolist()
            rows += [[i[:n], k[:n]] for i, k, n in zip(ids, labels, lengths, strict=True)]
            continue
        starts = [at for at, place in enumerate(batch["position_ids"][0].tolist()) if place == 0]
        ends = [*starts[1:], len(ids[0])]
        rows += [[ids[0][a:b], labels[0][a:b]] for a, b in zip(starts, ends, strict=True)]
    return {"padded": padded, "rows": sorted(rows)}


def compare_labels(here: dict, cpu: dict, failures: list[str]) -> dict:
    """Whether two processes would train on the same tokens."""
    from helpers import data

    expected = len(data.to_prompt_completion(conversations(12)))
    same = sum(row in cpu["rows"] for row in here["rows"])
    trained = sum(label != -100 for _, labels in here["rows"] for label in labels)
    tokens = sum(len(ids) for ids, _ in here["rows"])
    if here["rows"] != cpu["rows"]:
        failures.append(f"labels: {same} of {len(here['rows'])} rows are the same on the CPU")
    if here["padded"] or not cpu["padded"]:
        failures.append("labels: the two processes did not batch in different ways")
    if len(here["rows"]) != expected or not 0 < trained < tokens:
        failures.append(f"labels: {len(here['rows'])} rows, {trained} of {tokens} tokens trained")
    for ids, labels in here["rows"]:
        if any(label not in (-100, token) for token, label in zip(ids, labels, strict=True)):
            failures.append("labels: a label is not its own token")
            break
    return {"rows": len(here["rows"]), "same": same, "tokens": tokens, "trained": trained}


# ---------------------------------------------------------------------------------------- adapter
def train_adapter(folder: Path):
    """Train a few steps with large updates, save the adapter, and give its logits in this process."""
    model, tokenizer = load_with_adapter()
    settings = {"learning_rate": 1e-2, "warmup_steps": 0, "lr_scheduler_type": "constant"}
    trainer = build_trainer(model, tokenizer, 8, steps=6, **settings)
    trainer.train()
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    trainer.save_model(str(folder))
    return logits(trainer.model, tokenizer)


def logits(model, tokenizer) -> dict:
    """Logits for four texts of 48 tokens, with the adapter on and off."""
    import torch
    from unsloth import FastLanguageModel

    FastLanguageModel.for_inference(model)
    texts = [row[-1]["content"] for row in conversations(4)["conversations"]]
    ids = torch.tensor([tokenizer(f"{text} " * 20)["input_ids"][:48] for text in texts])
    ids = ids.to(model.device)
    with torch.inference_mode():
        on = model(input_ids=ids, use_cache=False).logits
        with model.disable_adapter():
            off = model(input_ids=ids, use_cache=False).logits
    return {"on": on.float().cpu(), "off": off.float().cpu(), "computed_in": str(on.dtype)}


def compare_logits(here: dict, cpu: dict, failures: list[str]) -> dict:
    """Whether an adapter means the same in two processes, and means something."""
    results = {
        "base": "4 bits",
        "computed_in": [here["computed_in"], cpu["computed_in"]],
        "difference": distance(cpu["on"], here["on"]),
        "difference_without_adapter": distance(cpu["off"], here["off"]),
        "effect_of_adapter": distance(here["off"], here["on"]),
        "same_likeliest_token": (cpu["on"].argmax(-1) == here["on"].argmax(-1))
        .float()
        .mean()
        .item(),
    }
    if not (results["difference"] <= LOGITS_TOLERANCE and results["same_likeliest_token"] >= 0.95):
        failures.append(f"adapter: the CPU's logits differ: {results}")
    if not results["effect_of_adapter"] > CLEARLY * LOGITS_TOLERANCE:
        failures.append(f"adapter: it changes too little for this check: {results}")
    return results


# ------------------------------------------------------------------------------------------- main
def cpu_child(folder: Path) -> None:
    """What the process without a GPU does: labels, and the logits with the saved adapter."""
    import torch

    from helpers import models

    failures: list[str] = []
    found = {"labels": attempt("labels on the CPU", labelled_rows, failures)}
    found["step"] = attempt("step on the CPU", lambda: cpu_first_step(folder), failures)
    found["logits"] = attempt(
        "logits on the CPU", lambda: logits(*models.load(folder / "adapter")), failures
    )
    torch.save(found | {"failures": failures}, folder / "cpu.pt")


def run_child(*arguments, **environment) -> None:
    """This script again, in another process."""
    command = [sys.executable, __file__, *map(str, arguments)]
    subprocess.run(command, env=os.environ | environment, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--make-base", action="store_true", help="(for its own use)")
    parser.add_argument("--cpu-child", type=Path, help="(for its own use)")
    arguments = parser.parse_args()
    if arguments.make_base:
        make_base()
        return
    started = time.perf_counter()
    failures: list[str] = []
    results: dict = {"failures": failures, "shape": SHAPE}
    folder = Path(tempfile.mkdtemp())
    os.environ["UNSLOTH_BLOCK_COMPILE"] = "0"
    os.environ.setdefault("COURSE_WORKSPACE", str(folder / "workspace"))
    if not (BASE / "config.json").exists():
        run_child("--make-base")
    import torch

    from helpers import models  # noqa: F401  (Unsloth, before any of what it changes)

    if arguments.cpu_child:
        cpu_child(arguments.cpu_child)
        return
    compared = attempt("padding", lambda: padding(folder, failures), failures)
    results["padding"], padded = compared or ({}, None)
    results["layer"] = attempt("layer", lambda: layer(failures), failures)
    common.save("agree", results)
    here = attempt("labels", labelled_rows, failures)
    trained = attempt("adapter", lambda: train_adapter(folder / "adapter"), failures)
    # float32: then all of the difference is the GPU's rounding.
    child = {"CUDA_VISIBLE_DEVICES": "", "UNSLOTH_CPU_BF16": "0"}
    attempt("CPU process", lambda: run_child("--cpu-child", folder, **child), failures)
    cpu = {}
    if (folder / "cpu.pt").exists():
        cpu = torch.load(folder / "cpu.pt")
        failures += cpu["failures"]
    if padded and cpu.get("step"):
        results["padding"]["CPU, float32"] = difference = apart(cpu["step"], padded)
        if not within(difference):
            failures.append(f"padding: a process without a GPU has other gradients: {difference}")
    if here and cpu.get("labels"):
        results["labels"] = compare_labels(here, cpu["labels"], failures)
    if trained and cpu.get("logits"):
        results["adapter"] = compare_logits(trained, cpu["logits"], failures)
    results["machine"] = attempt("machine", common.machine, failures)
    results["minutes"] = round((time.perf_counter() - started) / 60, 2)
    common.save("agree", results)

    for name in ("padding", "layer", "labels", "adapter"):
        print(f"{name}: {json.dumps(results.get(name), ensure_ascii=False, indent=1)}")
    print(f"{results['minutes']} min")
    common.finish(failures)


if __name__ == "__main__":
    main()
