"""The memory estimate, held against peaks measured on a GPU that was limited to a T4's memory."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import lora, memory
from helpers.errors import CourseError
from helpers.presets import CUDA_CONTEXT_GIB, MODELS, PROJECTIONS, T4_MEMORY_GIB

GPU = Path(__file__).parents[2] / "gpu"
sys.path.insert(0, str(GPU))
import common

RESULTS = json.loads((GPU / "results.json").read_text(encoding="utf-8"))
GRID = RESULTS["grid"]["points"]
SPEED = [
    (way, one | {"tokens": shape["tokens"]})
    for shape in RESULTS["speed"]["training"]
    for way, one in shape["ways"].items()
]
ranks = st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128, 256])
rows = st.integers(1, 16)
lengths = st.integers(1, 4096)
stacks = st.sampled_from(["unsloth", "transformers"])
presets = st.sampled_from(sorted(MODELS))
quick = settings(max_examples=40)


def total(model="llama-2-7b", **changes) -> float:
    set_up = {"r": 16, "per_device_train_batch_size": 2, "max_length": 2048} | changes
    return memory.estimate(model, **set_up).total


def name(point) -> str:
    about = point[1] if isinstance(point, tuple) else point
    return "-".join(
        str(about.get(key, "")) for key in ("model", "r", "rows", "rows_at_once", "tokens")
    )


@pytest.mark.parametrize("point", GRID, ids=name)
def test_the_estimate_is_within_five_percent_of_every_peak_of_the_grid(point):
    assert common.predicted_gib(point) == pytest.approx(point["measured_gib"], rel=0.05)


@pytest.mark.parametrize("point", SPEED, ids=name)
def test_the_estimate_is_within_five_percent_of_every_way_to_train(point):
    way, measured = point
    stack = "transformers" if way == "plain" else "unsloth"
    estimate = total(
        per_device_train_batch_size=measured["rows_at_once"],
        max_length=measured["tokens"],
        stack=stack,
    )
    assert estimate == pytest.approx(measured["peak_gib"], rel=0.05)


def test_the_grid_is_wide():
    assert len(GRID) >= 24 and all(point["fits"] for point in GRID)
    for field in ("model", "bits", "r", "rows", "tokens"):
        assert len({point[field] for point in GRID}) > 1
    assert len({len(point["targets"]) for point in GRID}) == 3
    assert RESULTS["grid"]["context_gib"] <= CUDA_CONTEXT_GIB + 0.01


def test_peaks_that_nothing_was_fitted_to_are_predicted_within_three_percent_and_one_on_average():
    # At the limit a peak says no more what was needed.
    limit = T4_MEMORY_GIB - CUDA_CONTEXT_GIB - 0.05
    unseen = [p for p in GRID if p["fitted"] is False and p["measured_gib"] < limit]
    off = [abs(common.predicted_gib(point) / point["measured_gib"] - 1) for point in unseen]
    assert len(unseen) >= 20 and max(off) <= 0.03 and sum(off) / len(off) <= 0.01
    assert {point["model"] for point in unseen} > {"llama-2-7b", "llama-3.2-3b-bnb-4bit"}
    for field, least, most in (("r", 2, 240), ("rows", 1, 8), ("tokens", 256, 4096)):
        values = [point[field] for point in unseen]
        assert min(values) <= least and max(values) >= most


def test_the_homework_fits_a_t4_and_what_was_measured_not_to_does_not():
    homework = memory.estimate("llama-2-7b", r=16, per_device_train_batch_size=2, max_length=2048)
    assert homework.fits()
    too_much = RESULTS["speed"]["too_much"]
    assert too_much["way"] == "plain" and not too_much["fits"]
    plain = memory.estimate(
        "llama-2-7b",
        r=16,
        per_device_train_batch_size=too_much["rows_at_once"],
        max_length=too_much["tokens"],
        stack="transformers",
    )
    assert not plain.fits()


@quick
@given(presets, ranks, rows, lengths, stacks, st.booleans())
def test_the_total_is_the_sum_of_its_parts_and_the_context_stands_beside_it(
    model, r, batch, length, stack, in_4_bit
):
    e = memory.estimate(
        model,
        r=r,
        per_device_train_batch_size=batch,
        max_length=length,
        stack=stack,
        load_in_4bit=in_4_bit,
    )
    parts = [e.weights, e.adapter, e.gradients, e.optimizer, e.activations, e.overhead]
    assert all(part > 0 for part in parts)
    assert e.total == pytest.approx(sum(parts))
    assert e.fits(e.total + e.context + 1e-6) and not e.fits(e.total + e.context - 1e-6)


@quick
@given(presets, ranks, rows, lengths, stacks)
def test_a_larger_rank_batch_or_length_takes_more(model, r, batch, length, stack):
    def gib(r=r, batch=batch, length=length):
        return total(model, r=r, per_device_train_batch_size=batch, max_length=length, stack=stack)

    assert gib(r=r + 1) > gib()
    assert gib(batch=batch + 1) > gib()
    assert gib(length=length + 1) > gib()


@quick
@given(presets, ranks, st.lists(st.sampled_from(PROJECTIONS), min_size=1, max_size=6, unique=True))
def test_fewer_target_modules_need_less_for_the_adapter_and_not_less_for_the_rest(
    model, r, modules
):
    set_up = {"r": r, "per_device_train_batch_size": 2, "max_length": 2048}
    some = memory.estimate(model, target_modules=modules, **set_up)
    all_of_them = memory.estimate(model, **set_up)
    assert some.adapter < all_of_them.adapter
    assert some.activations >= all_of_them.activations


def test_without_an_adapter_in_the_mlp_its_fused_kernel_is_not_used():
    def activations(*modules):
        return memory.estimate(
            "llama-2-7b",
            r=16,
            per_device_train_batch_size=2,
            max_length=2048,
            target_modules=modules,
        ).activations

    mlp = ("gate_proj", "up_proj", "down_proj")
    assert activations(*mlp) == activations(*PROJECTIONS) < activations("q_proj", "v_proj")


def test_in_16_bits_a_7b_trains_on_a_t4_because_its_input_embedding_moves_to_the_host():
    set_up = {"r": 16, "per_device_train_batch_size": 2, "max_length": 2048, "load_in_4bit": False}
    large = memory.estimate("llama-2-7b", **set_up)
    assert large.fits()
    embedding = 2 * 32000 * 4096 / 2**30
    assert memory.weight_gib("llama-2-7b", 16) - large.weights == pytest.approx(embedding)
    small = memory.estimate("smollm2-135m", **set_up)
    assert small.weights == memory.weight_gib("smollm2-135m", 16)


@pytest.mark.parametrize("stack", ["unsloth", "transformers"])
def test_4_bits_take_less_than_16_and_unsloth_less_than_the_plain_stack(stack):
    assert total(stack=stack) < total(stack=stack, load_in_4bit=False)
    assert total(stack="unsloth") < total(stack="transformers")


@given(st.integers(1, 256))
def test_each_adapter_parameter_costs_ten_bytes(r):
    e = memory.estimate("llama-2-7b", r=r, per_device_train_batch_size=1, max_length=1)
    cost = (e.adapter + e.gradients + e.optimizer) * 2**30
    assert cost == pytest.approx(10 * lora.adapter_parameters("llama-2-7b", r))


# -------------------------------------------------------------------------------------- weights
@pytest.mark.parametrize("model", MODELS)
def test_weights_in_16_and_32_bits_are_two_and_four_bytes_a_parameter(model):
    parameters = lora.base_parameters(model)
    assert memory.weight_gib(model, 16) == pytest.approx(parameters * 2 / 2**30)
    assert memory.weight_gib(model, 32) == pytest.approx(parameters * 4 / 2**30)


@pytest.mark.parametrize("model", MODELS)
def test_fewer_bits_take_less(model):
    sizes = [memory.weight_gib(model, bits) for bits in (4, 8, 16, 32)]
    assert sizes == sorted(sizes) and len(set(sizes)) == 4


def test_4_bit_weights_are_the_measured_ones():
    # A Llama-2-7B loaded in 4 bits, measured as above: 3.64 GiB.
    assert memory.weight_gib("llama-2-7b", 4) == pytest.approx(3.64, rel=0.05)


# ---------------------------------------------------------------------------------- rows at once
@quick
@given(ranks, rows, st.integers(1, 4096), st.floats(1, 80))
def test_rows_at_once_are_the_fewest_that_keep_it_busy_or_the_most_that_fit(r, batch, length, gib):
    def fits(count: int) -> bool:
        return memory.estimate(
            "llama-2-7b", r=r, per_device_train_batch_size=count, max_length=length
        ).fits(gib)

    chosen = memory.per_device_train_batch_size(
        "llama-2-7b", r=r, rows_per_update=batch, max_length=length, gib=gib
    )
    fitting = [count for count in range(1, batch + 1) if batch % count == 0 and fits(count)]
    busy = [count for count in fitting if count * length >= memory.BUSY_TOKENS]
    assert chosen == min(busy, default=max(fitting, default=1))


def test_fewer_target_modules_leave_room_for_more_rows_at_once():
    tight = (
        memory.estimate("llama-2-7b", r=256, per_device_train_batch_size=1, max_length=512).total
        + 0.5
    )
    setting = {"r": 256, "rows_per_update": 8, "max_length": 512, "gib": tight}
    assert memory.per_device_train_batch_size(
        "llama-2-7b", **setting
    ) < memory.per_device_train_batch_size("llama-2-7b", target_modules=("q_proj",), **setting)


def test_where_nothing_fits_one_row_is_still_tried():
    setting = {"r": 16, "rows_per_update": 8, "max_length": 2048}
    assert memory.per_device_train_batch_size("llama-2-7b", **setting, gib=1) == 1
    assert memory.per_device_train_batch_size("llama-2-7b", **setting, gib=T4_MEMORY_GIB) > 1


# -------------------------------------------------------------------------------------- minutes
@given(st.integers(1, 10**7))
def test_minutes_are_a_range_and_grow_with_the_tokens(tokens):
    short, long = memory.minutes_on_t4("llama-2-7b", tokens)
    assert 0 < short < long
    assert memory.minutes_on_t4("llama-2-7b", 2 * tokens) == pytest.approx((2 * short, 2 * long))


# ------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"r": 0}, "r = 0"),
        ({"r": 2.5}, "r = 2.5"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size = 0"),
        ({"per_device_train_batch_size": "2"}, "per_device_train_batch_size = '2'"),
        ({"max_length": -1}, "max_length = -1"),
        ({"max_length": True}, "max_length = True"),
        ({"stack": "jax"}, "jax"),
        ({"target_modules": ["lm_head"]}, "lm_head"),
        ({"model": "gpt-5"}, "gpt-5"),
    ],
)
def test_a_set_up_that_means_nothing_is_refused_and_named(change, named):
    with pytest.raises(CourseError) as caught:
        total(**change)
    assert named in caught.value.what


@pytest.mark.parametrize("bits", [0, 2, 5, 64])
def test_an_unknown_precision_is_refused_and_named(bits):
    with pytest.raises(CourseError, match=f"{bits} bits"):
        memory.weight_gib("llama-2-7b", bits)
