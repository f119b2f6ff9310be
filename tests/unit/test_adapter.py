"""Looking into a trained adapter: its file, where its change went, and merging in 4 bits."""

import json
import math
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers import adapter, lora, merging, models
from helpers.errors import CourseError
from helpers.presets import PROJECTIONS

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def loaded(trained):
    """The finished training's adapter on its 4-bit base, loaded once more."""
    model, _ = models.load(trained.run.folder)
    return model


@pytest.fixture
def copy(trained, tmp_path):
    """The adapter's files, to be spoilt."""
    folder = tmp_path / "run"
    shutil.copytree(trained.run.folder, folder)
    return folder


def test_a_weight_that_is_not_in_4_bits_says_so(loaded):
    layer = next(iter(adapter.layers(loaded).values())).get_base_layer()
    assert adapter.four_bits(layer).shape == (layer.out_features, layer.in_features)
    with pytest.raises(CourseError, match="stored as torch.float32, not in 4 bits"):
        adapter.four_bits(torch.nn.Linear(2, 3))


def edit(folder, **changes):
    file = folder / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_the_file_holds_what_the_loaded_model_holds(loaded, trained):
    read, held = adapter.read_factors(trained.run.folder), adapter.factors(loaded)
    assert read.keys() == held.keys()
    for name, one in read.items():
        assert one.scale == held[name].scale
        assert torch.equal(one.a, held[name].a) and torch.equal(one.b, held[name].b)


def test_a_rank_stabilised_adapter_is_read_with_its_own_scale(copy):
    plain = next(iter(adapter.read_factors(copy).values())).scale
    edit(copy, use_rslora=True)
    r = json.loads((copy / CONFIG).read_text())["r"]
    assert next(iter(adapter.read_factors(copy).values())).scale == pytest.approx(
        plain * math.sqrt(r)
    )


def missing(folder):
    (folder / WEIGHTS).unlink()


def cut_off(folder):
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])


def no_config(folder):
    (folder / CONFIG).unlink()


def not_json(folder):
    (folder / CONFIG).write_text("{")


def no_rank(folder):
    settings = json.loads((folder / CONFIG).read_text())
    del settings["r"]
    (folder / CONFIG).write_text(json.dumps(settings))


def dora(folder):
    edit(folder, use_dora=True)


def half_a_pair(folder):
    tensors = load_file(folder / WEIGHTS)
    save_file({k: v for k, v in tensors.items() if "lora_A" in k}, folder / WEIGHTS)


def something_else(folder):
    save_file({"weight": torch.ones(2)}, folder / WEIGHTS)


@pytest.mark.parametrize(
    "spoil",
    [missing, cut_off, no_config, not_json, no_rank, dora, half_a_pair, something_else],
    ids=lambda f: f.__name__,
)
def test_a_damaged_adapter_is_named_with_what_to_do(copy, spoil):
    spoil(copy)
    with pytest.raises(CourseError, match="could not be read") as error:
        adapter.read_factors(copy)
    assert str(copy) in str(error.value) and "Train it again" in str(error.value)


def test_an_adapter_of_another_base_model_is_refused_and_nothing_is_written(loaded):
    held = adapter.factors(loaded)
    first = next(iter(held))
    narrower = held | {first: held[first]._replace(a=held[first].a[:, :-1])}
    for other in (narrower, {name: f for name, f in held.items() if name != first}):
        with pytest.raises(CourseError, match="does not fit this model"):
            adapter.put_factors(loaded, other)
    for name, f in adapter.factors(loaded).items():
        assert torch.equal(f.a, held[name].a) and torch.equal(f.b, held[name].b)


def test_a_pair_is_put_into_a_layer_and_one_of_another_rank_is_refused(loaded):
    layer = next(iter(adapter.layers(loaded).values()))
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    before, scale = (down.clone(), up.clone()), layer.scaling["default"]
    rank = len(down)
    for other in (rank - 1, rank + 3):
        with pytest.raises(CourseError, match=f"rank {other} .* rank {rank}:") as error:
            adapter.put_in(layer, torch.randn(other, down.shape[1]), torch.randn(len(up), other))
        assert "Run the cell that calls get_peft_model again" in str(error.value)
    with pytest.raises(CourseError, match=f"A is {rank} × {down.shape[1] + 1} and B is"):
        adapter.put_in(layer, torch.randn(rank, down.shape[1] + 1), before[1])
    assert torch.equal(down, before[0]) and torch.equal(up, before[1])
    a, b = torch.randn(down.shape), torch.randn(up.shape)
    adapter.put_in(layer, a, b)
    found = layer.get_delta_weight(adapter.NAME)
    adapter.put_in(layer, *before)
    expected = scale * (b @ a)
    assert (found - expected).norm() < 0.02 * expected.norm()
    assert torch.equal(down, before[0]) and torch.equal(up, before[1])


def test_the_grid_has_a_row_for_each_projection_and_a_column_for_each_layer():
    values = {"model.layers.0.self_attn.q_proj": 1, "model.layers.2.mlp.down_proj": 2.5}
    grid = adapter.grid(values)
    assert len(grid) == len(PROJECTIONS) and {len(row) for row in grid} == {3}
    assert grid[0][0] == 1 and grid[-1][2] == 2.5
    assert sum(math.isnan(value) for row in grid for value in row) == 3 * 7 - 2


def test_changes_are_measured_beside_the_unpacked_weight(loaded):
    found = adapter.relative_changes(loaded)
    for name, layer in adapter.layers(loaded).items():
        weight = adapter.base_weight(layer)
        assert weight.shape == (layer.out_features, layer.in_features)
        expected = layer.get_delta_weight(adapter.NAME).norm() / weight.norm()
        assert found[name] == pytest.approx(expected.item(), rel=1e-5)
    assert max(found.values()) > 0


def test_an_unpacked_weight_does_to_an_input_what_the_layer_does(loaded):
    layer = next(iter(adapter.layers(loaded).values()))
    base, weight = layer.get_base_layer(), adapter.base_weight(layer)
    x = torch.randn(3, weight.shape[1])
    with torch.no_grad():
        found = base(x.to(base.weight.quant_state.dtype)).float()
    assert torch.allclose(found, x @ weight.T, atol=0.02 * found.abs().max().item())


def stored(model):
    return {name: adapter.base_weight(layer) for name, layer in adapter.layers(model).items()}


def test_merged_weights_are_the_rounded_sums_and_afterwards_the_old_ones(loaded):
    before = stored(loaded)
    sums = {
        name: merging.rounded(layer, before[name] + layer.get_delta_weight(adapter.NAME))
        for name, layer in adapter.layers(loaded).items()
    }
    with merging.merged_in_4bit(loaded):
        within = stored(loaded)
        assert all(torch.equal(within[name], sums[name]) for name in sums)
        assert any(not torch.equal(within[name], before[name]) for name in sums)
    after = stored(loaded)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_an_error_within_the_block_also_leaves_the_old_weights(loaded):
    before = stored(loaded)
    with pytest.raises(RuntimeError, match="stop"), merging.merged_in_4bit(loaded):
        raise RuntimeError("stop")
    after = stored(loaded)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_peft_merges_to_nearly_the_same_weights(loaded, trained):
    base = stored(loaded)
    with merging.merged_in_4bit(loaded):
        ours = stored(loaded)
    other, _ = models.load(trained.run.folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PEFT warns of the rounding
        other.merge_adapter()
    for name, weight in stored(other).items():
        # PEFT packs from 32 bits instead of 16, so the scale of a block may differ in its last bits.
        assert (weight - ours[name]).norm() < 0.1 * (ours[name] - base[name]).norm() + 1e-6


def test_a_weight_in_16_bits_is_not_packed(tiny_llama):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(tiny_llama)
    model = get_peft_model(plain, LoraConfig(r=2, target_modules=["q_proj"]))
    layer = next(iter(adapter.layers(model).values()))
    assert torch.equal(adapter.base_weight(layer), layer.get_base_layer().weight.float())
    with pytest.raises(CourseError, match="not stored in 4 bits"), merging.merged_in_4bit(model):
        pass


# ------------------------------------------------------------------------------------- counting
def with_peft(model, **settings):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))


def numbers(model, trainable: bool) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def test_a_4_bit_model_counts_as_many_parameters_as_the_16_bit_one(tiny_llama):
    packed, _ = models.load(tiny_llama, max_seq_length=64)
    plain, _ = models.load(tiny_llama, max_seq_length=64, load_in_4bit=False)
    assert packed.num_parameters() == plain.num_parameters()
    assert plain.num_parameters() == lora.base_parameters(plain.config)
    # Two numbers share a byte.
    assert numbers(packed, trainable=False) < numbers(plain, trainable=False)


def test_trainable_parameters_of_a_4_bit_model_are_its_adapter_s(trained):
    counts = trained.model.get_nb_trainable_parameters()
    config, r = trained.model.config, trained.run.record["choice"]["r"]
    added = lora.adapter_parameters(config, r)
    assert counts == (added, added + lora.base_parameters(config))


def test_a_dora_adapter_is_refused_as_its_change_is_another(tiny_llama):
    from transformers import LlamaForCausalLM

    plain = LlamaForCausalLM.from_pretrained(tiny_llama)
    model = with_peft(plain, r=2, target_modules=["q_proj"], use_dora=True)
    with pytest.raises(CourseError, match="DoRA"):
        adapter.relative_changes(model)


# --------------------------------------------------------------------------------------- starting
@pytest.fixture
def adapted(tiny_llama):
    """The tiny Llama with a new adapter, ready to learn."""
    from transformers import LlamaForCausalLM

    plain = LlamaForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    return with_peft(plain, r=4, target_modules=list(PROJECTIONS))


def learn(model):
    """Logits for a few tokens; the gradients are left in the model."""
    tokens = torch.arange(5, 25)[None]
    found = model(input_ids=tokens, labels=tokens)
    found.loss.backward()
    return found.logits.detach()


def without_adapter(model):
    with model.disable_adapter(), torch.no_grad():
        return model(input_ids=torch.arange(5, 25)[None]).logits


def matrices(model, name: str) -> list[torch.Tensor]:
    return [p.detach() for n, p in model.named_parameters() if name in n]


def test_redraw_draws_with_the_spread_that_was_asked_for_and_the_same_each_time(adapted):
    base = [p.clone() for n, p in adapted.named_parameters() if "lora_" not in n]
    adapter.redraw(adapted, a=1, b=0.5)
    first = [p.clone() for p in matrices(adapted, "lora_")]
    for name, spread in (("lora_A", 1), ("lora_B", 0.5)):
        numbers_drawn = torch.cat(
            [(m * m.shape[1] ** 0.5).flatten() for m in matrices(adapted, name)]
        )
        assert numbers_drawn.std().item() == pytest.approx(spread, rel=0.05)
    adapter.redraw(adapted, a=1, b=0.5)
    assert all(map(torch.equal, matrices(adapted, "lora_"), first))
    assert all(
        map(torch.equal, [p for n, p in adapted.named_parameters() if "lora_" not in n], base)
    )


def test_with_b_at_zero_the_model_starts_as_it_was_and_b_learns_first(adapted):
    before = without_adapter(adapted)
    adapter.redraw(adapted, a=1, b=0)
    torch.testing.assert_close(learn(adapted), before)
    in_a, in_b = adapter.largest_gradients(adapted)
    assert in_a == 0 and in_b > 0


def test_with_both_at_zero_nothing_ever_learns(adapted):
    adapter.redraw(adapted, a=0, b=0)
    learn(adapted)
    assert adapter.largest_gradients(adapted) == (0, 0)


def test_with_both_random_the_model_is_another_one_from_the_start(adapted):
    before = without_adapter(adapted)
    adapter.redraw(adapted, a=1, b=1)
    assert (learn(adapted) - before).abs().max() > 0.1 * before.abs().max()
    assert all(gradient > 0 for gradient in adapter.largest_gradients(adapted))


def small_adapted(tiny_llama):
    from transformers import LlamaForCausalLM

    plain = LlamaForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    return with_peft(plain, r=4, target_modules=list(PROJECTIONS))


@pytest.mark.parametrize(("a", "b"), [(1, 0), (0, 1), (0, 0), (2, 1)])
def test_redraw_gives_all_a_and_all_b_the_spread_that_was_asked_for(tiny_llama, a, b):
    model = small_adapted(tiny_llama)
    adapter.redraw(model, a, b)
    for matrix, spread in (("lora_A", a), ("lora_B", b)):
        # In units of 1 / √columns, so that all matrices can be put together.
        scaled = torch.cat(
            [p.flatten() * p.shape[1] ** 0.5 for n, p in model.named_parameters() if matrix in n]
        )
        assert scaled.std().item() == pytest.approx(spread, rel=0.1)


def test_redraw_draws_the_same_numbers_each_time(tiny_llama):
    first, second = small_adapted(tiny_llama), small_adapted(tiny_llama)
    for model in (first, second):
        torch.rand(1)
        adapter.redraw(model, 1, 1)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("start", "moves"), [((1, 0), (False, True)), ((0, 1), (True, False)), ((0, 0), (False, False))]
)
def test_largest_gradients_tell_which_of_a_and_b_can_move(tiny_llama, start, moves):
    model = small_adapted(tiny_llama)
    adapter.redraw(model, *start)
    assert adapter.largest_gradients(model) == (0, 0)
    ids = torch.tensor([[5, 6, 7, 8]])
    model(input_ids=ids, labels=ids).loss.backward()
    assert tuple(gradient > 0 for gradient in adapter.largest_gradients(model)) == moves
