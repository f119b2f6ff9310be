"""A tokenizer built as Llama-2's is: SentencePiece's pieces and bytes, three marks, Unsloth's [INST] template.

No pieces of Llama-2's own are here: they come from the course's conversations. All else is as in its tokenizer.json.
"""

import json
from pathlib import Path

from helpers import models  # isort: skip  (Unsloth before transformers)

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

MARKS = ["<unk>", "<s>", "</s>"]
CORPUS = Path(__file__).parents[2] / "data" / "heldout.json"


def build(merged_marks: bool = False):
    """The tokenizer; with ``merged_marks`` letters of a text could even be put together to a mark."""
    learner = Tokenizer(BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator([CORPUS.read_text()], BpeTrainer(vocab_size=600))
    pieces = sorted(learner.get_vocab(), key=learner.get_vocab().get)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    if merged_marks:
        pieces += [p for p in ("<", "/", "s", ">", "</", "s>") if p not in pieces]
        merges += [("<", "/"), ("s", ">"), ("</", "s>"), ("<", "s>")]
    words = [*MARKS, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(
        BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
    )
    return models.with_template(fast, "llama")
