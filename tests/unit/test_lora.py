"""LoRA arithmetic, held against what PEFT and Transformers really build."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import adapter, lora, memory, models, plan
from helpers.choice import Choice
from helpers.errors import CourseError
from helpers.presets import MODELS, PROJECTIONS

USUAL = {"r": 16, "per_device_train_batch_size": 2, "max_length": 512}
NO_NUMBERS = adapter.Factors(torch.full((2, 4), math.nan), torch.zeros(4, 2), 1.0)

# A drawn model takes PEFT some 50 ms.
few = settings(max_examples=15)
subsets = st.lists(st.sampled_from(PROJECTIONS), min_size=1, unique=True)


@st.composite
def llama_configs(draw):
    """Configs of small Llamas, with and without grouped-query attention, tied embeddings, free heads."""
    from transformers import LlamaConfig

    heads, head_dim = draw(st.sampled_from([1, 2, 4, 6])), draw(st.sampled_from([2, 8]))
    return LlamaConfig(
        vocab_size=draw(st.integers(5, 50)),
        # Some models' heads are together wider than the hidden size, or narrower.
        hidden_size=draw(st.sampled_from([heads * head_dim, 24])),
        head_dim=head_dim,
        intermediate_size=draw(st.integers(1, 40)),
        num_hidden_layers=draw(st.integers(1, 3)),
        num_attention_heads=heads,
        num_key_value_heads=draw(st.sampled_from([n for n in (1, 2, 3, 6) if heads % n == 0])),
        tie_word_embeddings=draw(st.booleans()),
    )


def on_meta(config):
    """The model's skeleton: shapes without numbers."""
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        return LlamaForCausalLM(config)


def with_peft(model, **settings):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))


def numbers(model, trainable: bool) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


# ------------------------------------------------------------------------------------- counting
@few
@given(llama_configs(), st.integers(1, 9), subsets)
def test_adapter_parameters_are_as_many_as_peft_trains(config, r, modules):
    adapted = with_peft(on_meta(config), r=r, target_modules=modules)
    assert lora.adapter_parameters(config, r, modules) == numbers(adapted, trainable=True)


@few
@given(llama_configs())
def test_base_parameters_are_as_many_as_the_model_has(config):
    assert lora.base_parameters(config) == numbers(on_meta(config), trainable=False)


@pytest.mark.parametrize("preset", MODELS)
def test_a_preset_counts_like_its_skeleton(preset):
    from transformers import LlamaConfig

    skeleton = on_meta(LlamaConfig(**MODELS[preset].shape))
    assert lora.base_parameters(preset) == numbers(skeleton, trainable=False)
    adapted = with_peft(skeleton, r=16, target_modules=list(PROJECTIONS))
    assert lora.adapter_parameters(preset, 16) == numbers(adapted, trainable=True)


def test_llama_2_7b_has_the_published_counts():
    assert lora.base_parameters("llama-2-7b") == 6_738_415_616
    assert lora.adapter_parameters("llama-2-7b", 16) == 39_976_960
    assert lora.adapter_parameters("llama-2-7b", 4) == 9_994_240


@few
@given(llama_configs(), st.integers(1, 64), subsets)
def test_adapter_parameters_are_proportional_to_r_and_add_up_over_modules(config, r, modules):
    count = lora.adapter_parameters(config, r, modules)
    assert count == r * lora.adapter_parameters(config, 1, modules)
    assert count == sum(lora.adapter_parameters(config, r, [name]) for name in modules)


def test_a_module_named_twice_counts_once():
    assert lora.adapter_parameters("llama-2-7b", 4, ["q_proj", "q_proj"]) == (
        lora.adapter_parameters("llama-2-7b", 4, ["q_proj"])
    )


def test_a_4_bit_model_counts_as_many_parameters_as_the_16_bit_one(tiny_llama):
    packed, _ = models.load(tiny_llama, max_seq_length=64)
    plain, _ = models.load(tiny_llama, max_seq_length=64, load_in_4bit=False)
    assert adapter.count_parameters(packed).total == adapter.count_parameters(plain).total
    assert adapter.count_parameters(plain).total == lora.base_parameters(plain.config)
    # What makes the function necessary: two numbers share a byte.
    assert numbers(packed, trainable=False) < numbers(plain, trainable=False)


def test_trainable_parameters_of_a_4_bit_model_are_its_adapter_s(trained):
    counts = adapter.count_parameters(trained.model)
    config, r = trained.model.config, trained.run.record["choice"]["r"]
    added = lora.adapter_parameters(config, r)
    assert counts == (added, added + lora.base_parameters(config))
    assert counts.share == added / counts.total


# --------------------------------------------------------------------------------------- acting
@few
@given(st.integers(1, 300), st.floats(0.1, 600), st.booleans())
def test_scaling_is_alpha_over_r_or_over_its_square_root(r, alpha, use_rslora):
    assert lora.scaling(r, alpha) == alpha / r
    assert lora.scaling(r, alpha, use_rslora=True) == pytest.approx(alpha / math.sqrt(r))


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize(("r", "alpha"), [(1, 1), (4, 8), (9, 16), (16, 4)])
def test_scaling_is_peft_s(tiny_llama, r, alpha, use_rslora):
    from transformers import AutoConfig

    skeleton = on_meta(AutoConfig.from_pretrained(tiny_llama))
    adapted = with_peft(
        skeleton, r=r, lora_alpha=alpha, use_rslora=use_rslora, target_modules=["q_proj"]
    )
    found = adapted.base_model.model.model.layers[0].self_attn.q_proj.scaling["default"]
    assert lora.scaling(r, alpha, use_rslora) == pytest.approx(found)


@pytest.mark.parametrize("use_rslora", [False, True])
def test_delta_weight_is_what_a_merge_adds_to_the_weight(tiny_llama, use_rslora):
    from transformers import LlamaForCausalLM

    plain = LlamaForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    # Without PEFT's start at zero, so that the update is not nothing.
    model = with_peft(
        plain, r=3, lora_alpha=5, use_rslora=use_rslora, init_lora_weights=False,
        target_modules=["k_proj", "down_proj"],
    )  # fmt: skip
    block = model.base_model.model.model.layers[1]
    for layer in (block.self_attn.k_proj, block.mlp.down_proj):
        before = layer.get_base_layer().weight.detach().clone()
        update = adapter.delta_weight(layer)
        layer.merge()
        torch.testing.assert_close(layer.get_base_layer().weight - before, update)
        assert update.shape == before.shape and update.abs().max() > 0.01


def test_delta_weight_of_a_new_adapter_is_zero(tiny_llama):
    from transformers import LlamaForCausalLM

    model = with_peft(LlamaForCausalLM.from_pretrained(tiny_llama), r=2, target_modules=["q_proj"])
    assert not adapter.delta_weight(model.base_model.model.model.layers[0].self_attn.q_proj).any()


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


# ------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize("r", [0, -1, 1.5, 4.0, True, "8", None])
def test_a_rank_that_is_no_whole_number_above_zero_is_refused_and_named(r):
    for action in (lambda: lora.adapter_parameters("llama-2-7b", r), lambda: lora.scaling(r, 16)):
        with pytest.raises(CourseError) as caught:
            action()
        assert f"r = {r!r}" in caught.value.what


@pytest.mark.parametrize("modules", [["q_proj", "query"], ["embed_tokens"]])
def test_an_unknown_module_is_refused_and_named(modules):
    with pytest.raises(CourseError, match=modules[-1]):
        lora.adapter_parameters("llama-2-7b", 4, modules)


def test_one_module_as_a_text_instead_of_a_list_is_refused():
    with pytest.raises(CourseError, match="q_proj"):
        lora.adapter_parameters("llama-2-7b", 4, "q_proj")


def test_an_unknown_preset_is_refused_and_the_known_ones_are_named():
    with pytest.raises(CourseError, match="llama-3-70b") as caught:
        lora.base_parameters("llama-3-70b")
    assert all(name in str(caught.value) for name in MODELS)


def test_a_config_that_is_not_shaped_like_llama_is_refused_and_the_missing_field_named():
    from transformers import GPT2Config

    with pytest.raises(CourseError, match="intermediate_size"):
        lora.base_parameters(GPT2Config())


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32, np.int64])
def test_numpy_s_numbers_do_not_overflow(kind):
    r = kind(100)
    assert lora.adapter_parameters("llama-2-7b", r) == lora.adapter_parameters("llama-2-7b", 100)
    small, large = kind(100), kind(120)
    numpy_s = memory.estimate(
        "llama-2-7b", r=r, per_device_train_batch_size=small, max_length=large
    )
    assert numpy_s == memory.estimate(
        "llama-2-7b", r=100, per_device_train_batch_size=100, max_length=120
    )


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: lora.scaling(16, 16, "False"), "use_rslora = 'False'"),
        (lambda: lora.adapter_parameters("llama-2-7b", 16, []), "[] is not a list of projections"),
        (lambda: lora.adapter_parameters("llama-2-7b", 16, "q_proj"), "'q_proj' is not a list"),
        (lambda: adapter.directions_for(torch.ones(4), 90), "share = 90"),
        (lambda: adapter.spectrum(NO_NUMBERS), "no singular values"),
        (lambda: adapter.truncate(NO_NUMBERS, 1), "no singular values"),
        (lambda: memory.estimate("llama-2-7b", **USUAL, load_in_4bit="False"), "load_in_4bit"),
        (
            lambda: memory.per_device_train_batch_size(
                "llama-2-7b", r=16, rows_per_update=0, max_length=512, gib=14
            ),
            "rows_per_update = 0",
        ),
        (lambda: plan.of(Choice(), rows=-5), "rows = -5"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_argument_that_would_give_a_wrong_number_is_refused(call, said):
    with pytest.raises(CourseError, match=re.escape(said)):
        call()
