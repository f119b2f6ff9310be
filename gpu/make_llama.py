"""Make Llamas without downloading weights: their exact configurations, random numbers.

`python gpu/make_llama.py FOLDER [NAME …]` writes FOLDER/llama-2-7b (16 bits) and
FOLDER/llama-2-7b-bnb-4bit (packed like the folder that students download), or the same for the other names
in `SHAPES`. The tokenizer has 32,000 tokens and, like Llama-2's, no chat template. Answers of such a model
are noise; memory, speed and every code path are a real one's.
"""

import shutil
import sys
import time
from pathlib import Path

import torch
from common import KIT, SHAPES
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from helpers import presets

VOCABULARY = 32000


def make_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer learnt from the course's own texts, filled up to ``size`` tokens."""
    texts = [path.read_text(encoding="utf-8") for path in (KIT / "data").glob("*.json")]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet),
    )
    missing = size - tokenizer.get_vocab_size()
    tokenizer.add_tokens([f"<filler_{i}>" for i in range(missing)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
    )


def save(model, tokenizer: PreTrainedTokenizerFast, folder: Path, **settings) -> None:
    """Write a model; its folder has the right name only when all of it is there."""
    half = folder.with_name(f"{folder.name}.half")
    for left in (half, folder):
        shutil.rmtree(left, ignore_errors=True)
    model.save_pretrained(half, **settings)
    tokenizer.save_pretrained(half)
    half.rename(folder)


def make(folder: Path, name: str) -> None:
    """Write one model, in 16 bits and in 4."""
    config = LlamaConfig(
        **SHAPES[name], bos_token_id=1, eos_token_id=2, pad_token_id=0, dtype=torch.float16
    )
    tokenizer = make_tokenizer(VOCABULARY)
    torch.manual_seed(presets.SEED)
    torch.set_default_dtype(torch.float16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    full = folder / name
    save(model, tokenizer, full, max_shard_size="5GB")
    del model
    torch.cuda.empty_cache()
    packing = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float16,
    )
    packed = AutoModelForCausalLM.from_pretrained(
        full, quantization_config=packing, dtype=torch.float16, device_map={"": 0}
    )
    save(packed, tokenizer, folder / f"{name}-bnb-4bit")


if __name__ == "__main__":
    for wanted in sys.argv[2:] or ["llama-2-7b"]:
        started = time.perf_counter()
        make(Path(sys.argv[1]), wanted)
        print(f"{wanted}: {time.perf_counter() - started:.1f} s", flush=True)
