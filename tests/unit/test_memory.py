"""The memory estimate, held against peaks measured on a GPU that was limited to a T4's memory."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import lora, memory
from helpers.errors import CourseError
from helpers.presets import MODELS, PROJECTIONS, T4_MEMORY_GIB

# Llama-2-7B, peak of torch.cuda.max_memory_reserved() in GiB, measured under a T4's memory:
# torch.cuda.set_per_process_memory_fraction(14.741 / total) on a larger GPU, float16, Unsloth 2026.10.9,
# transformers 5.17.0, peft 0.21.2, trl 1.15.0, bitsandbytes 0.50.2, torch 2.11.0.
MEASURED = [
    # stack, 4-bit, r, rows at once, tokens a row, GiB
    ("unsloth", True, 16, 2, 2048, 5.10),
    ("unsloth", True, 16, 4, 2048, 5.80),
    ("unsloth", True, 128, 2, 2048, 7.73),
    ("unsloth", True, 16, 2, 512, 4.53),
    ("unsloth", False, 16, 2, 2048, 13.75),
    ("transformers", True, 16, 2, 2048, 9.11),
    ("transformers", True, 16, 4, 2048, 13.02),
    ("transformers", False, 16, 1, 512, 13.43),
]
ranks = st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128, 256])
rows = st.integers(1, 16)
lengths = st.integers(1, 4096)
stacks = st.sampled_from(["unsloth", "transformers"])
presets = st.sampled_from(sorted(MODELS))
quick = settings(max_examples=40)


def total(model="llama-2-7b", **changes) -> float:
    set_up = {"r": 16, "batch_size": 2, "sequence_length": 2048} | changes
    return memory.estimate(model, **set_up).total


@pytest.mark.parametrize(("stack", "in_4_bit", "r", "batch", "length", "gib"), MEASURED)
def test_the_estimate_is_within_five_percent_of_the_measured_peak(
    stack, in_4_bit, r, batch, length, gib
):
    estimate = total(
        r=r, batch_size=batch, sequence_length=length, load_in_4bit=in_4_bit, stack=stack
    )
    assert estimate == pytest.approx(gib, rel=0.05)


def test_the_homework_fits_a_t4_and_what_was_measured_not_to_does_not():
    homework = memory.estimate("llama-2-7b", r=16, batch_size=2, sequence_length=2048)
    assert homework.fits()
    plain = memory.estimate(
        "llama-2-7b", r=16, batch_size=8, sequence_length=2048, stack="transformers"
    )
    assert not plain.fits()


@quick
@given(presets, ranks, rows, lengths, stacks, st.booleans())
def test_the_total_is_the_sum_of_its_parts_and_the_context_stands_beside_it(
    model, r, batch, length, stack, in_4_bit
):
    e = memory.estimate(
        model, r=r, batch_size=batch, sequence_length=length, stack=stack, load_in_4bit=in_4_bit
    )
    parts = [e.weights, e.adapter, e.gradients, e.optimizer, e.activations, e.overhead]
    assert all(part > 0 for part in parts)
    assert e.total == pytest.approx(sum(parts))
    assert e.fits(e.total + e.context + 1e-6) and not e.fits(e.total + e.context - 1e-6)


@quick
@given(presets, ranks, rows, lengths, stacks)
def test_a_larger_rank_batch_or_length_takes_more(model, r, batch, length, stack):
    def gib(r=r, batch=batch, length=length):
        return total(model, r=r, batch_size=batch, sequence_length=length, stack=stack)

    assert gib(r=r + 1) > gib()
    assert gib(batch=batch + 1) > gib()
    assert gib(length=length + 1) > gib()


@quick
@given(presets, ranks, st.lists(st.sampled_from(PROJECTIONS), min_size=1, max_size=6, unique=True))
def test_fewer_target_modules_take_less(model, r, modules):
    assert total(model, r=r, target_modules=modules) < total(model, r=r)


@pytest.mark.parametrize("stack", ["unsloth", "transformers"])
def test_4_bits_take_less_than_16_and_unsloth_less_than_the_plain_stack(stack):
    assert total(stack=stack) < total(stack=stack, load_in_4bit=False)
    assert total(stack="unsloth") < total(stack="transformers")


@given(st.integers(1, 256))
def test_each_adapter_parameter_costs_ten_bytes(r):
    e = memory.estimate("llama-2-7b", r=r, batch_size=1, sequence_length=1)
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


# ---------------------------------------------------------------------------------- micro-batch
@quick
@given(ranks, rows, st.integers(1, 4096), st.floats(1, 80))
def test_the_micro_batch_is_the_smallest_busy_one_or_the_largest_that_fits(r, batch, length, gib):
    def fits(count: int) -> bool:
        return memory.estimate("llama-2-7b", r=r, batch_size=count, sequence_length=length).fits(
            gib
        )

    chosen = memory.micro_batch(
        "llama-2-7b", r=r, batch_size=batch, sequence_length=length, gib=gib
    )
    fitting = [count for count in range(1, batch + 1) if batch % count == 0 and fits(count)]
    busy = [count for count in fitting if count * length >= memory.BUSY_TOKENS]
    assert chosen == min(busy, default=max(fitting, default=1))


def test_fewer_target_modules_leave_room_for_a_larger_micro_batch():
    tight = memory.estimate("llama-2-7b", r=256, batch_size=1, sequence_length=512).total + 0.5
    setting = {"r": 256, "batch_size": 8, "sequence_length": 512, "gib": tight}
    assert memory.micro_batch("llama-2-7b", **setting) < memory.micro_batch(
        "llama-2-7b", target_modules=("q_proj",), **setting
    )


def test_where_nothing_fits_one_row_is_still_tried():
    setting = {"r": 16, "batch_size": 8, "sequence_length": 2048}
    assert memory.micro_batch("llama-2-7b", **setting, gib=1) == 1
    assert memory.micro_batch("llama-2-7b", **setting, gib=T4_MEMORY_GIB) > 1


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
        ({"batch_size": 0}, "batch_size = 0"),
        ({"batch_size": "2"}, "batch_size = '2'"),
        ({"sequence_length": -1}, "sequence_length = -1"),
        ({"sequence_length": True}, "sequence_length = True"),
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
