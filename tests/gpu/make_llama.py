"""Make a Llama-2-7B without downloading weights: its exact configuration, random numbers.

`python tests/gpu/make_llama.py FOLDER` writes FOLDER/llama-2-7b (16 bits) and FOLDER/llama-2-7b-bnb-4bit
(packed like the folder that students download). The tokenizer has 32,000 tokens and, like Llama-2's, no chat
template. Answers of such a model are noise; memory, speed and every code path are a real one's.
"""

import json
import sys
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

KIT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(KIT))
from helpers import presets


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


def main(folder: Path) -> None:
    shape = presets.MODELS["llama-2-7b"].shape
    config = LlamaConfig(
        **shape, bos_token_id=1, eos_token_id=2, pad_token_id=0, dtype=torch.float16
    )
    tokenizer = make_tokenizer(config.vocab_size)
    started = time.perf_counter()
    torch.manual_seed(presets.SEED)
    torch.set_default_dtype(torch.float16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    full = folder / "llama-2-7b"
    model.save_pretrained(full, max_shard_size="5GB")
    tokenizer.save_pretrained(full)
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
    small = folder / "llama-2-7b-bnb-4bit"
    packed.save_pretrained(small)
    tokenizer.save_pretrained(small)
    seconds = round(time.perf_counter() - started, 1)
    print(json.dumps({"tokens": len(tokenizer), "seconds": seconds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
