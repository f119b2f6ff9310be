"""What the cells of 02_load_in_4bit must have produced; their names are this file's globals."""


def load_in_4_bits():
    _unsloth_first()
    packed = model.model.layers[0].mlp.up_proj.weight
    wide, narrow = model.config.intermediate_size, model.config.hidden_size
    # In 4 bits a byte holds two numbers; the true shape is kept beside them.
    assert tuple(packed.quant_state.shape) == (wide, narrow)
    assert 2 * packed.numel() * packed.element_size() == wide * narrow
    assert model.dtype.is_floating_point and model.lm_head.weight.is_floating_point()


def files_of_the_model():
    sizes = {one.name: one.stat().st_size for one in folder.iterdir()}
    heaviest = max(sizes, key=sizes.get)
    assert "config.json" in sizes and heaviest.endswith(".safetensors")
    assert sizes[heaviest] > sum(sizes.values()) / 2
    assert key.startswith("model.layers.0.mlp.up_proj.weight")


def sizes_by_bits():
    assert sizes[4] < sizes[8] < sizes[16] < sizes[32] and 0.9 < ratio < 1.1
