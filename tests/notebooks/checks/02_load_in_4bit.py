"""What the cells of 02_load_in_4bit must have produced; their names are this file's globals."""


def sizes_by_bits():
    assert sizes[4] < sizes[8] < sizes[16] < sizes[32]
    # As the text says: 32 bits do not fit a T4, 16 bits leave two GiB.
    assert sizes[32] > presets.T4_MEMORY_GIB and 2 < presets.T4_MEMORY_GIB - sizes[16] < 2.1
    # And what is downloaded is about 4 GB.
    assert 3.5 < sizes[4] * memory.GIB / 1e9 < 4.5


def load_in_4_bits():
    _unsloth_first()
    packed = model.model.layers[0].mlp.up_proj.weight
    wide, narrow = model.config.intermediate_size, model.config.hidden_size
    # In 4 bits a byte holds two numbers; the true shape is kept beside them.
    assert tuple(packed.quant_state.shape) == (wide, narrow)
    assert 2 * packed.numel() * packed.element_size() == wide * narrow
    assert model.dtype.is_floating_point and model.lm_head.weight.is_floating_point()
    _files()
    _no_token()


def _files():
    """The model's folder: one file outweighs the rest, and lists its tensors."""
    from pathlib import Path

    from safetensors import safe_open
    from transformers.utils import cached_file

    folder = Path(cached_file(name, "config.json")).parent
    sizes = {one.name: one.stat().st_size for one in folder.iterdir()}
    heaviest = max(sizes, key=sizes.get)
    assert "config.json" in sizes and heaviest.endswith(".safetensors")
    assert sizes[heaviest] > sum(sizes.values()) / 2
    with safe_open(folder / heaviest, framework="pt") as weights:
        assert "model.layers.0.mlp.up_proj.weight" in set(weights.keys())


def _no_token():
    import re

    form = re.compile(r"hf_[A-Za-z0-9]{30,}")
    assert form.search("hf_" + 34 * "x") and not form.search("\n".join(In))


def what_was_loaded():
    assert 0.9 < ratio < 1.1
    # The arguments that the text explains are those of Unsloth's GPU code too; the course leaves the others alone.
    import ast
    from pathlib import Path

    import unsloth

    source = Path(unsloth.__file__).parent / "models" / "loader.py"
    classes = {getattr(n, "name", ""): n for n in ast.parse(source.read_text()).body}
    methods = {getattr(n, "name", ""): n for n in classes["FastLanguageModel"].body}
    known = {one.arg for one in methods["from_pretrained"].args.args}
    others = """load_in_8bit load_in_16bit load_in_fp8 full_finetuning qat_scheme float32_mixed_precision
        revision use_exact_model_name trust_remote_code text_only device_map device_map_planner_kwargs
        offload_embedding use_gradient_checkpointing unsloth_tiled_mlp fix_tokenizer resize_model_vocab rope_scaling
        fast_inference gpu_memory_utilization float8_kv_cache max_lora_rank disable_log_stats random_state"""
    explained = {"model_name", "max_seq_length", "dtype", "load_in_4bit", "token"}
    assert known == explained | set(others.split())


def two_formats():
    assert torch.tensor(70_000.0).half().isinf() and torch.tensor(1.002).bfloat16() == 1


def draw_one_block():
    axes = _figure().axes[0]
    dots = [line for line in axes.lines if line.get_label() == "the weight"]
    assert list(dots[0].get_ydata()) == original.flatten()[number * 64 : (number + 1) * 64].tolist()
    assert torch.equal(levels, layer.weight.quant_state.code.cpu())


def quantise_in_blocks():
    assert torch.equal(packed.to(torch.uint8), theirs.flatten())


def levels_by_hand():
    assert torch.allclose(by_hand, levels, atol=1e-6)
    assert torch.equal(levels, layer.weight.quant_state.code.cpu())


def error_of_three_kinds():
    assert errors[0] == min(errors) and (original.reshape(-1, 64) / scales).abs().max() == 1


def bits_a_weight():
    assert once == 4.5 and abs(twice - 8 * memory.BYTES_PER_NF4) < 0.01


def double_costs_little():
    # The last round was with double quantisation: as much is lost as without, to a hundredth.
    plain = (bnb.dequantize_4bit(*bnb.quantize_4bit(original, quant_type="nf4")) - original).norm()
    assert 0 < lost and abs(lost / (plain / original.norm()) - 1) < 0.01


def time_one_layer():
    assert torch.allclose(layer(inputs), plain(inputs), rtol=0.05, atol=0.05)
    assert times > 0


def count_true_parameters():
    assert usual < true == lora.base_parameters(model.config)


def split_into_shards():
    # As many as the Hub's own function makes of the 16-bit matrices, and as the write-up's log counts.
    from huggingface_hub import split_torch_state_dict_into_shards

    llama = lora.model_config("llama-2-7b")
    shapes = dict.fromkeys(("embed_tokens", "lm_head"), (llama.vocab_size, llama.hidden_size))
    for number in range(llama.num_hidden_layers):
        for projection, (n_in, n_out) in lora.projection_shapes(llama).items():
            shapes[f"layers.{number}.{projection}"] = (n_out, n_in)
    assert len(shapes) == 226
    tensors = {k: torch.empty(v, dtype=torch.float16, device="meta") for k, v in shapes.items()}
    split = split_torch_state_dict_into_shards(tensors, max_shard_size="5GB")
    files = split.filename_to_tensors
    assert f" {len(files)}/{len(files)} " in LOG
    assert len(files) == math.ceil(sizes[16] * memory.GIB / 1e9 / 5)
    # The last is the smallest.
    bytes_of = [sum(tensors[key].nbytes for key in files[file]) for file in sorted(files)]
    assert bytes_of[-1] == min(bytes_of)
    _tables()


def _tables():
    """The 16-bit repository that the text names, and the 4-bit one that stands for Meta's gated model."""
    import runpy
    from pathlib import Path

    import unsloth

    tables = runpy.run_path(str(Path(unsloth.__file__).parent / "models" / "mapper.py"))
    homework, meta = presets.MODELS["llama-2-7b"].hub_id, "meta-llama/Llama-2-7b-hf"
    assert tables["INT_TO_FLOAT_MAPPER"][homework.lower()] == "unsloth/llama-2-7b"
    assert tables["FLOAT_TO_INT_MAPPER"][meta.lower()].lower() == homework.lower()


def estimates_by_stack():
    assert plans[16, "unsloth"].fits() and not plans[16, "transformers"].fits()
    assert set(peaks) == {4, 16}
    for bits, seen in peaks.items():
        assert abs(plans[bits, "unsloth"].total - seen) < 0.05 * plans[bits, "unsloth"].total


def two_templates():
    assert "[INST] Name a planet. [/INST] Mars." in texts["llama"]
    assert counts["llama-3.1"] > counts["llama"]
    # A tokenizer without a template refuses conversations.
    assert bare.chat_template is None
    try:
        bare.apply_chat_template(conversation, tokenize=False)
    except ValueError:
        return
    raise AssertionError("a template was found")


def answer_with_template():
    assert len(whole_text) > batch.input_ids.shape[1]


def blocks_of_4096():
    assert error(original, levels, 4096) > error(original, levels, 64)


def loss_in_4_bits():
    assert means[4] > means[16]
