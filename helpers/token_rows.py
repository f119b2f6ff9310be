"""The rows of a training as they come out of the trainer's own collator, and what is wrong with each."""

from helpers import unsloth_first  # noqa: F401  # isort: skip

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
from transformers import LlamaConfig, LlamaForCausalLM
from trl import SFTTrainer

from helpers import training
from helpers.choice import Choice
from helpers.faults import NOTHING_LEARNT, Fault, Pieces, Row, cut_off, faults

if TYPE_CHECKING:
    from datasets import Dataset

# What a collator reads of a row; TRL's trainer on a CPU keeps the messages beside it.
COLUMNS = ("input_ids", "labels", "attention_mask", "completion_mask", "assistant_masks")
COLUMNS += ("seq_lengths", "token_type_ids")


def collated(trainer: SFTTrainer) -> list[Row]:
    """The trainer's rows, as they come out of its own collator."""
    examples = [
        {name: row[name] for name in COLUMNS if name in row} for row in trainer.train_dataset
    ]
    at_once = trainer.args.per_device_train_batch_size
    found = []
    for start in range(0, len(examples), at_once):
        part = examples[start : start + at_once]
        found += _split(trainer.data_collator(part), len(part))
    return found


def _split(batch: dict, count: int) -> list[Row]:
    """The rows of a batch: below each other and padded, or (padding-free) one behind the other."""
    ids, labels = batch["input_ids"].tolist(), batch["labels"].tolist()
    if "attention_mask" in batch:
        masks = [[bool(n) for n in row] for row in batch["attention_mask"].tolist()]
        return [Row(*row) for row in zip(ids, labels, masks, strict=True)]
    # Unsloth's trainer on a GPU, see enable_padding_free_metadata in unsloth/utils/packing.py. Each row counts
    # its positions from 0; what fills the batch up behind the last one has position 0 too.
    places = batch["position_ids"][0].tolist()
    starts = [i for i, place in enumerate(places) if place == 0]
    ends = [*starts[1:], len(places)]
    cuts = [slice(*cut) for cut in zip(starts, ends, strict=True)][:count]
    return [Row(ids[0][cut], labels[0][cut], [True] * len(ids[0][cut])) for cut in cuts]


def judge(trainer: SFTTrainer) -> Callable[[Row], list[Fault]]:
    """What finds the faults of this trainer's rows."""
    tokenizer = trainer.processing_class
    named = trainer.model.generation_config.eos_token_id
    ends = {*named} if isinstance(named, list) else {named}
    return partial(
        faults,
        pieces=Pieces(tokenizer),
        ends={*ends, tokenizer.eos_token_id} - {None},
        template=getattr(trainer, "chat_template", None) or tokenizer.chat_template,
        max_length=trainer.args.max_length,
    )


def row_names(conversations: "Dataset") -> list[str]:
    """For each training row the id of its conversation, with the answer's number where there are several."""
    names = []
    for row in conversations:
        answers = sum(message["role"] == "assistant" for message in row["conversations"])
        names += [
            row["id"] + f", answer {number}" * (answers > 1) for number in range(1, answers + 1)
        ]
    return names


def seen(
    pairs: "Dataset", tokenizer, max_length: int, at_once: int, whole: bool
) -> list[tuple[Row, list[Fault]]]:
    """What a real trainer makes of prompt/completion rows, and the faults; it prepares only rows that fit."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        numbered = pairs.add_column("place", range(len(pairs)))
        trainer = _trainer(numbered, tokenizer, max_length, at_once, Path(folder))
        if whole:
            trainer = training.prepare(trainer, pairs)
        kept = trainer.train_dataset
        # Unsloth's trainer on a GPU drops the column, and no row; TRL's drops rows without a label.
        places = kept["place"] if "place" in kept.column_names else range(len(pairs))
        judged = judge(trainer)
        found = {
            place: (row, judged(row)) for place, row in zip(places, collated(trainer), strict=True)
        }
    gone = Row([], [], []), [NOTHING_LEARNT if whole else cut_off(max_length, answer_left=False)]
    return [found.get(i, gone) for i in range(len(pairs))]


def _trainer(rows: "Dataset", tokenizer, max_length: int, at_once: int, folder: Path) -> SFTTrainer:
    """The course's trainer around a stand-in: what it makes of rows depends on the tokenizer alone."""
    choice = Choice(max_length=max_length, rows_per_update=at_once)
    return SFTTrainer(
        model=stand_in(tokenizer, max_length),
        args=training.build_config(choice, len(rows), at_once, folder),
        train_dataset=rows,
        processing_class=tokenizer,
    )


def stand_in(tokenizer, max_length: int) -> LlamaForCausalLM:
    """A Llama of a few numbers, for a trainer that trains nothing."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            max_position_embeddings=max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars and what Unsloth prints about a trainer: this one trains nothing."""
    before = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        if not before:
            datasets.enable_progress_bars()
