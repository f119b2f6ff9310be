"""LoRA arithmetic, held against what PEFT and Transformers really build."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import lora, memory, plan
from helpers.choice import Choice
from helpers.errors import CourseError
from helpers.presets import MODELS, PROJECTIONS

USUAL = {"r": 16, "per_device_train_batch_size": 2, "max_length": 512}

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
