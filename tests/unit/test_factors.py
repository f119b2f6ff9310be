"""What a trained adapter holds: its factors, their spectrum, the dial and the truncation, all exact."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import adapter
from helpers.errors import CourseError
from helpers.presets import PROJECTIONS

NO_NUMBERS = adapter.Factors(torch.full((2, 4), math.nan), torch.zeros(4, 2), 1.0)


@st.composite
def layer_factors(draw):
    """A and B of any shape, also with a rank above both sides, and some with directions that repeat."""
    n_in, n_out, r = (draw(st.integers(1, 12)) for _ in range(3))
    torch.manual_seed(draw(st.integers(0, 10_000)))
    a, b = torch.randn(r, n_in), torch.randn(n_out, r)
    if draw(st.booleans()):
        a[-1] = a[0]
    return adapter.Factors(a, b, draw(st.floats(0.01, 8)))


def change(f: adapter.Factors) -> torch.Tensor:
    return f.scale * f.b @ f.a


@given(layer_factors())
def test_the_spectrum_is_that_of_the_whole_matrix(f):
    whole = torch.linalg.svdvals(change(f).double())
    found = adapter.spectrum(f)
    assert torch.allclose(found.double(), whole[: len(found)], atol=1e-4 * whole[0].item() + 1e-6)
    assert whole[len(found) :].sum() < 1e-4 * whole[0] + 1e-6


@given(layer_factors(), st.integers(1, 14))
def test_truncation_loses_exactly_the_singular_values_that_it_drops(f, rank):
    cut = adapter.truncate(f, rank)
    assert cut.a.shape[0] == cut.b.shape[1] == min(rank, *f.a.shape, f.b.shape[0])
    lost = (change(cut) - change(f)).norm()
    dropped = adapter.spectrum(f)[rank:].square().sum().sqrt()
    assert lost.item() == pytest.approx(dropped.item(), abs=2e-5 * (1 + change(f).norm().item()))


@given(layer_factors())
def test_at_full_rank_truncation_changes_nothing(f):
    whole = adapter.truncate(f, f.a.shape[0])
    assert torch.allclose(change(whole), change(f), atol=1e-5 * (1 + change(f).norm().item()))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20), st.floats(0.05, 1))
def test_directions_for_a_share_are_the_fewest_that_reach_it(values, share):
    values = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    energy = values.square()
    count = adapter.directions_for(values, share)
    if energy.sum() == 0:
        assert count == 0
        return
    assert energy[:count].sum() >= share * energy.sum() * (1 - 1e-9)
    assert energy[: count - 1].sum() < share * energy.sum()


@pytest.fixture
def adapted():
    """A small float32 Llama with a random adapter, and token ids."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    settings_ = LoraConfig(r=4, lora_alpha=6, target_modules=list(PROJECTIONS))
    model = get_peft_model(LlamaForCausalLM(config), settings_)
    adapter.redraw(model, 1, 1)
    model.eval()
    return model, torch.arange(12).reshape(2, 6)


@torch.no_grad()
def logits(model, ids) -> torch.Tensor:
    return model(input_ids=ids).logits


def test_factors_name_every_layer_and_put_back_what_they_copied(adapted):
    model, ids = adapted
    kept, before = adapter.factors(model), logits(model, ids)
    assert len(kept) == 2 * len(PROJECTIONS) and "model.layers.0.mlp.up_proj" in kept
    for name, layer in adapter.layers(model).items():
        assert torch.allclose(layer.get_delta_weight(adapter.NAME), change(kept[name]), atol=1e-6)
    adapter.redraw(model, 1, 1)
    adapter.rescale(model, 3)
    assert not torch.allclose(logits(model, ids), before, atol=1e-3)
    adapter.put_factors(model, kept)
    assert torch.equal(logits(model, ids), before)


def test_truncated_to_its_full_rank_an_adapter_gives_the_same_logits(adapted):
    model, ids = adapted
    before = logits(model, ids)
    adapter.put_factors(
        model, {name: adapter.truncate(f, 4) for name, f in adapter.factors(model).items()}
    )
    assert torch.allclose(logits(model, ids), before, atol=1e-5)


def test_a_lower_rank_in_a_larger_adapter_is_that_rank(adapted):
    model, _ = adapted
    cut = {name: adapter.truncate(f, 1) for name, f in adapter.factors(model).items()}
    adapter.put_factors(model, cut)
    for name, f in adapter.factors(model).items():
        assert torch.allclose(change(f), change(cut[name]), atol=1e-6)
        assert adapter.directions_for(adapter.spectrum(f), 1.0) == 1


def test_the_dial_is_linear_and_ends_at_the_base_model(adapted):
    model, ids = adapted
    before = logits(model, ids)
    adapter.rescale(model, 2.5)
    adapter.rescale(model, 1 / 2.5)
    assert torch.allclose(logits(model, ids), before, atol=1e-5)
    adapter.rescale(model, 0)
    with model.disable_adapter():
        base = logits(model, ids)
    assert torch.equal(logits(model, ids), base)


def test_a_model_without_an_adapter_and_a_rank_that_does_not_fit_are_named(adapted):
    model, _ = adapted
    with pytest.raises(CourseError, match="no LoRA adapter named 'default'"):
        adapter.factors(model.get_base_model().__class__(model.config))
    with pytest.raises(CourseError, match="rank = 0"):
        adapter.truncate(next(iter(adapter.factors(model).values())), 0)
    wide = {n: adapter.Factors(torch.ones(9, f.a.shape[1]), torch.ones(f.b.shape[0], 9), 1.0)
            for n, f in adapter.factors(model).items()}  # fmt: skip
    with pytest.raises(CourseError, match="rank 9 does not fit into one of rank 4"):
        adapter.put_factors(model, wide)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: adapter.directions_for(torch.ones(4), 90), "share = 90"),
        (lambda: adapter.spectrum(NO_NUMBERS), "no singular values"),
        (lambda: adapter.truncate(NO_NUMBERS, 1), "no singular values"),
    ],
    ids=["share", "spectrum", "truncate"],
)
def test_numbers_that_mean_nothing_are_refused(call, said):
    with pytest.raises(CourseError, match=said):
        call()
