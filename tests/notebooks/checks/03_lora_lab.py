"""What the cells of 03_lora_lab must have produced; their names are this file's globals."""


def full_fine_tuning():
    _unsloth_first()
    assert needed > 2 * presets.T4_MEMORY_GIB


def load_small_model():
    assert adapter.count_parameters(base).total == lora.base_parameters(presets.EMBEDDED)
    assert not any("lora_" in name for name, _ in base.named_parameters())


def beside_or_merged():
    assert torch.allclose(beside, merged, atol=1e-3)


def add_the_adapter():
    settings = model.peft_config["default"]
    assert (settings.r, settings.lora_alpha) == (r, alpha)
    assert set(settings.target_modules) == set(presets.PROJECTIONS)
    assert adapter.count_parameters(model).trainable == lora.adapter_parameters(presets.EMBEDDED, r)
    starts = {m: [p for n, p in model.named_parameters() if m in n] for m in ("lora_A", "lora_B")}
    assert all(one.any() for one in starts["lora_A"])
    assert not any(one.any() for one in starts["lora_B"])


def trained_parameters():
    assert all("lora_" in name for name, p in model.named_parameters() if p.requires_grad)


def ours_and_peft():
    assert same(adapter.delta_weight(adapted).cpu(), change)
    assert same(output, merged, rounding=0.01)
    assert torch.allclose(write_up.T, change, atol=1e-5)


def base_loss():
    assert untrained < 5


def three_starts():
    good, broken, stuck = seen.values()
    assert good[0] == stuck[0] and abs(good[0] - untrained) < 0.02 and broken[0] > untrained + 1
    assert good[1] == 0 < good[2] and stuck[1:] == (0, 0) and min(broken[1:]) > 0


def few_steps():
    good, broken, stuck = curves.values()
    assert good[-1] < good[0] < broken[0] and len(set(stuck)) == 1


def damage_by_scale():
    good, broken = damage.values()
    assert len(set(good)) == 1 and broken[0] == good[0] < broken[1] < broken[3]


def write_ups_table():
    assert counted == {"before LoRA": 6_607_343_616, 16: 39_976_960, 4: 9_994_240}


def count_by_shapes():
    assert together == counted[16] == 4 * counted[4]


def share_of_memory():
    for rank in (4, 16, 64, 256):
        e = memory.estimate("llama-2-7b", r=rank, per_device_train_batch_size=2, max_length=2048)
        trained = lora.adapter_parameters("llama-2-7b", rank)
        of_parameters = trained / (trained + lora.base_parameters("llama-2-7b"))
        assert (e.adapter + e.gradients + e.optimizer) / e.total > 5 * of_parameters


def prepare_the_timing():
    for rank in (4, 64):
        sizes = [p.numel() for name, p in model.named_parameters() if f".r{rank}." in name]
        assert sum(sizes) == lora.adapter_parameters(presets.EMBEDDED, rank)
    assert row["input_ids"].shape == row["attention_mask"].shape and len(row["input_ids"]) == 1


def step_times():
    assert min(middle.values()) > 0


def slider_tour():
    assert "does not fit" in tour.text()


def alpha_buttons():
    assert tour.alpha.value == 2 * tour.r.value


def slider_code():
    assert "r=8,  # the homework: 16" in tour.code()


def your_sliders():
    start = earlier_choice() or Choice()
    assert (sliders.choice, sliders.r.value) == (start, start.r)
    assert sliders.alpha.value == start.lora_alpha
    assert f"r = {start.r}, lora_alpha = {start.lora_alpha:g}" in sliders.text()


def use_this():
    from helpers.choice import saved_choice

    kept = saved_choice()
    assert (kept.r, kept.lora_alpha) == (sliders.r.value, sliders.alpha.value)


def start_with_b():
    assert abs(loss.item() - untrained) < 0.02 and gradient_a > 0 == gradient_b


def seven_or_two():
    assert 76 < seven / two < 77
