"""Which 100 conversations teach most? Sets trained alike, compared on the held-out rows for looking.

python tools/compare_sets.py           about 16 trainings of this machine's model (COURSE_MODEL names another)
python tools/compare_sets.py --fast    16 conversations a set, half an epoch, one draw, 4 held-out rows: to see it work
python tools/compare_sets.py --save    keep the result in data/measured.json

Each training that is done stands in build/compare_sets.json; broken off, it goes on from there.

The sets: the homework's two sorts, and two that are drawn at random, three times each: from the whole pool, and from
its rows in house style. All else is as in `Choice`. Each set is trained twice, from an untrained adapter:

- *same steps*: as many updates as the set with the longest rows takes in the course's 2 epochs. A step takes the same
  number of rows from each set, but not of tokens: short rows hold few.
- *same tokens*: until it has read as many tokens as that set reads in those 2 epochs, to within half a step. Sets of
  short rows see each row more often then.

Each of these is a training of its own, with warm-up and decay over its own length, and the loss is read at its end.
One training read in the middle would be cheaper, but there its learning rate is still high. Tokens are all that the
model reads, template included; those that it learns from, the answers', are counted beside. The two sorts are trained
once: only what is drawn at random shows how far a loss moves with the rows, and nothing how far with the seed.
"""

import argparse
import datetime
import gc
import hashlib
import importlib.metadata
import json
import random
import statistics
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

import extremes  # Unsloth first
import record
import torch

from helpers import data, homework, keeping, models, presets, selection, tokens, traits
from helpers.choice import Choice

if TYPE_CHECKING:
    from datasets import Dataset

DRAWS = 3
DONE = record.ROOT / "build" / "compare_sets.json"
# Of a fast run; what it says means nothing.
FAST_ROWS, FAST_EPOCHS, FAST_HELDOUT = 16, 0.5, 4


def drawn_sets(pool: "Dataset", limit: int = presets.MAX_CONVERSATIONS, draws: int = DRAWS) -> dict:
    """For each kind of set its draws: one of each sort, ``draws`` of those that are drawn at random."""

    def at_random(rows: "Dataset") -> list["Dataset"]:
        places = range(len(rows))
        return [rows.select(random.Random(seed).sample(places, limit)) for seed in range(draws)]

    best = {"largest_first": True, "limit": limit}
    return {
        "simple": [selection.select(pool, homework.simple_key, limit=limit)],
        "advanced": [selection.select(pool, homework.advanced_key, **best)],
        "random": at_random(pool),
        "random in house style": at_random(pool.filter(traits.house_style)),
    }


def data_hash() -> str:
    """A short hash of the files that the sets and the held-out rows come from."""
    files = (data.OUR_POOL, data.heldout_path())
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def share(rows: "Dataset") -> float:
    """The share of rows in house style."""
    return statistics.fmean(map(traits.house_style, rows))


class Epoch(NamedTuple):
    """What one epoch of a set is: updates, tokens that it reads, and those among them that it learns from."""

    steps: int
    tokens: int
    learned: int


def epoch_of(rows: "Dataset", tokenizer) -> Epoch:
    pairs = data.to_prompt_completion(rows)
    counted = [tokens.learned_ids(tokenizer, row["prompt"], row["completion"]) for row in pairs]
    read = sum(len(ids) for ids, _ in counted)
    steps = Choice(num_train_epochs=1).count_steps(len(pairs))
    return Epoch(steps, read, read - sum(start for _, start in counted))


def gpu() -> str | None:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


# ------------------------------------------------------------------------------------------- training
def once(rows: "Dataset", steps: int, epoch: Epoch, heldout: "Dataset", model: str) -> dict:
    """`trained`, or what it gave before for the same rows, held-out rows, steps, choice, model, machine and versions."""
    versions = [importlib.metadata.version(name) for name in keeping.VERSIONS]
    on = [
        model,
        gpu(),
        keeping.machine(),
        versions,
        asdict(Choice()),
        steps,
        rows.to_list(),
        heldout.to_list(),
    ]
    asked = json.dumps(on, sort_keys=True)
    key = hashlib.sha256(asked.encode()).hexdigest()[:16]
    done = json.loads(DONE.read_text(encoding="utf-8")) if DONE.exists() else {}
    if key not in done:
        done[key] = trained(rows, steps, epoch, heldout)
        DONE.parent.mkdir(exist_ok=True)
        beside = DONE.with_suffix(".partial")
        beside.write_text(json.dumps(done, indent=1), encoding="utf-8")
        beside.replace(DONE)
    return done[key]


def trained(rows: "Dataset", steps: int, epoch: Epoch, heldout: "Dataset") -> dict:
    """Train this machine's model for so many steps; what it read, and its held-out loss at the end."""
    # Half a step less: the trainer rounds up to whole steps, and 40 / 13 · 13 is a little more than 40.
    choice = Choice(num_train_epochs=(steps - 0.5) / epoch.steps)
    trainer, tokenizer = extremes.trained(choice, rows)
    if trainer.state.global_step != steps:
        raise SystemExit(f"{trainer.state.global_step} steps were taken instead of {steps}.")
    logged = [entry["num_tokens"] for entry in trainer.state.log_history if "num_tokens" in entry]
    loss = extremes.mean_loss(trainer.model, tokenizer, heldout)
    del trainer
    gc.collect()  # a trainer and its model hold each other, and two models may not fit
    # Where none are logged, a step's share of an epoch.
    read = logged[-1] if logged else steps / epoch.steps * epoch.tokens
    return {"steps": steps, "tokens": round(read), "loss": round(loss, 4)}


def compared(
    pool: "Dataset", heldout: "Dataset", limit: int, draws: int, longest_epochs: float
) -> dict:
    """Train all sets in both ways; what they are like, and their losses.

    Args:
        limit, draws: rows of a set, and sets of each kind that is drawn at random.
        longest_epochs: how often the set with the longest rows is read; its steps and tokens are the measure.
    """
    model, tokenizer = models.load(max_seq_length=Choice().max_length)
    base, name = extremes.mean_loss(model, tokenizer, heldout), models.name_of(model)
    del model
    gc.collect()
    sets = drawn_sets(pool, limit, draws)
    epochs = {kind: [epoch_of(rows, tokenizer) for rows in one] for kind, one in sets.items()}
    longest = max((epoch for one in epochs.values() for epoch in one), key=lambda e: e.tokens)
    steps, read = round(longest_epochs * longest.steps), longest_epochs * longest.tokens
    found = {}
    for kind, one in sets.items():
        entry = found[kind] = {"house_style": [share(rows) for rows in one]}
        entry["answer_tokens_a_row"] = [round(e.learned / limit, 1) for e in epochs[kind]]
        entry |= {"same_steps": [], "same_tokens": []}
        for rows, epoch in zip(one, epochs[kind], strict=True):
            more = max(1, round(read / epoch.tokens * epoch.steps))
            first = once(rows, steps, epoch, heldout, name)
            second = first if more == steps else once(rows, more, epoch, heldout, name)
            entry["same_steps"].append(first)
            entry["same_tokens"].append(second)
            print(f"{kind}: {first} {second}", flush=True)
    return {
        "model": name,
        "conversations": limit,
        "heldout_rows": len(heldout),
        "heldout_in_house_style": share(heldout),
        "base_loss": round(base, 4),
        "steps": steps,
        "tokens": round(read),
        "sets": found,
    }


# --------------------------------------------------------------------------------------------- saying
def losses(found: dict, kind: str, way: str) -> list[float]:
    """The held-out losses of a kind's draws, lowest first."""
    return sorted(one["loss"] for one in found["sets"][kind][way])


def spread(values: list[float]) -> str:
    """One number, or a mean with the lowest and the highest."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.fmean(values):.3f} ({values[0]:.3f} to {values[-1]:.3f})"


def said(found: dict) -> str:
    """The table, and what it means."""
    about = (
        f"{found['model']}, sets of {found['conversations']}; mean loss on {found['heldout_rows']} held-out rows, in "
        f"nats a token: {found['base_loss']:.3f} untrained"
    )
    steps, tokens_read = f"after {found['steps']} steps", f"after {found['tokens']:,} tokens"
    heading = f"{'':<22}{'in house style':>15}{'learned, a row':>16}  {steps:<24}  {tokens_read}"
    lines = [about, heading]
    for kind, one in found["sets"].items():
        style, learned = (
            statistics.fmean(one[name]) for name in ("house_style", "answer_tokens_a_row")
        )
        ways = [spread(losses(found, kind, way)) for way in ("same_steps", "same_tokens")]
        lines.append(f"{kind:<22}{style:>15.0%}{learned:>16.0f}  {ways[0]:<24}  {ways[1]}")
    return "\n".join([*lines, "", *meaning(found)])


def meaning(found: dict) -> list[str]:
    """What the losses mean, in sentences that follow from them."""
    simple, advanced = (found["sets"][kind]["house_style"][0] for kind in ("simple", "advanced"))
    style = (
        f"In house style are {found['heldout_in_house_style']:.0%} of the held-out answers, {advanced:.0%} of advanced's "
        f"and {simple:.0%} of simple's. Where advanced wins over simple, it was trained on the form that it is tested on."
    )
    lines = [style]
    for way in ("same_steps", "same_tokens"):
        one, alike = (losses(found, k, way) for k in ("advanced", "random in house style"))
        short = losses(found, "simple", way)
        wins = f"advanced {'wins over' if one < short else 'does not win over'} simple"
        where = (
            "lower than in each draw"
            if one[0] < alike[0]
            else "higher than in each draw"
            if one[0] > alike[-1]
            else "between the draws, which cannot tell it from chance"
        )
        lines.append(
            f"The {way.replace('_', ' ')}: {wins} ({spread(one)} against {spread(short)}). Beside rows of that form "
            f"that were drawn at random ({spread(alike)}) its loss is {where}."
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="to see it work")
    parser.add_argument("--save", action="store_true", help="keep the result in data/measured.json")
    args = parser.parse_args()
    if args.fast and args.save:
        parser.error("a fast run is none to keep")
    if args.save and models.name_of() not in presets.MODELS:
        parser.error("only a model of helpers/presets.py has a name that others know")
    pool = data.load_conversations(data.OUR_POOL)
    heldout = data.heldout("looking", FAST_HELDOUT if args.fast else None)
    usual = presets.MAX_CONVERSATIONS, DRAWS, Choice().num_train_epochs
    found = compared(pool, heldout, *((FAST_ROWS, 1, FAST_EPOCHS) if args.fast else usual))
    print(said(found))
    if args.save:
        about = {"date": datetime.date.today().isoformat(), "machine": record.machine()}
        about |= {"gpu": gpu()}
        record.write(record.read() | {"sets": about | {"data": data_hash()} | found})
        print(f"Kept in {record.FILE.relative_to(record.ROOT)}.")


if __name__ == "__main__":
    main()
