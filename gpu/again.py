"""Is a second adapter in one session what it is in a fresh one? On a GPU, where Unsloth patches layers for the first.

`COURSE_T4=1 python gpu/again.py`, on an NVIDIA GPU. For pairs of choices: train the first for some steps, answer
a question, put the second in its place, and train it. Beside it the second alone, on a model just loaded. Equal must be:
A before training, the functions that each layer computes with, and the losses.
"""

import json
import os
import tempfile
from pathlib import Path

import agree
import common

STEPS = 4
# Of a loss. Sums in another order change a number of fp16 by 2**-11; the same kernels in the same order by nothing.
TOLERANCE = 2e-4


def pairs() -> dict:
    """The first choice and the second, by what changes."""
    from helpers.choice import Choice
    from helpers.presets import PROJECTIONS

    plain, attention = Choice(r=16), Choice(r=8, target_modules=PROJECTIONS[:4])
    return {
        "rank": (plain, Choice(r=4, lora_alpha=32)),
        "nothing": (plain, plain),
        "fewer modules": (plain, attention),
        "more modules": (attention, plain),
        "dropout": (plain, Choice(r=16, lora_dropout=0.1)),
        "no dropout any more": (Choice(r=16, lora_dropout=0.1), plain),
    }


def functions(model) -> list[str]:
    """The names of the functions with which each layer computes its projections."""
    found = []
    for layer in model.base_model.model.model.layers:
        ways = (layer.self_attn.apply_qkv, layer.self_attn.apply_o, layer.mlp.forward)
        found.append(" ".join(getattr(way, "__qualname__", repr(way)) for way in ways))
    return found


def trained(model, tokenizer, choice) -> dict:
    """Losses of a few steps, with A and the layers' functions as they were before."""
    first = {
        n: p.detach().float().cpu().clone() for n, p in model.named_parameters() if "lora_A" in n
    }
    before = functions(model)
    # A process for every row would take longer than the training.
    settings = {"logging_strategy": "steps", "logging_steps": 1, "dataset_num_proc": 1}
    trainer = agree.build_trainer(model, tokenizer, 8, steps=STEPS, **settings)
    trainer.train()
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return {"first": first, "functions": before, "losses": losses}


def compare(name: str, first, second, failures: list[str]) -> dict:
    """One pair: the second choice after the first, and alone."""
    import torch

    from helpers import adapting, answering, models

    model, tokenizer = models.load(agree.BASE)
    alone = trained(adapting.add_adapter(model, second), tokenizer, second)
    model, tokenizer = models.load(agree.BASE)
    model = adapting.add_adapter(model, first)
    other = trained(model, tokenizer, first)
    answering.generate(model, tokenizer, ["What is rust?"], max_new_tokens=4)
    after = trained(adapting.add_adapter(model, second), tokenizer, second)
    apart = max(abs(a - b) for a, b in zip(alone["losses"], after["losses"], strict=True))
    found = {
        "losses": alone["losses"],
        "after another adapter": after["losses"],
        "of that adapter": other["losses"],
        "apart": apart,
        "same A": all(torch.equal(alone["first"][n], after["first"][n]) for n in alone["first"]),
        "same functions": alone["functions"] == after["functions"],
        "functions": alone["functions"][0],
    }
    if not (found["same A"] and found["same functions"] and apart <= TOLERANCE):
        failures.append(f"{name}: the second adapter is not what it is in a fresh session: {found}")
    return found


def main() -> None:
    os.environ["UNSLOTH_BLOCK_COMPILE"] = "0"
    os.environ.setdefault("COURSE_WORKSPACE", str(Path(tempfile.mkdtemp()) / "workspace"))
    failures: list[str] = []
    if not (agree.BASE / "config.json").exists():
        agree.run_child("--make-base")
    from helpers import models  # noqa: F401  (Unsloth, before any of what it changes)

    found = {}
    for name, (first, second) in pairs().items():
        found[name] = compare(name, first, second, failures)
        common.save("again", {"pairs": found, "failures": failures})
    print(json.dumps(found, indent=1))
    common.finish(failures)


if __name__ == "__main__":
    main()
