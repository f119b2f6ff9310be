"""What the cells of 03_lora_lab must have produced; their names are this file's globals."""


def first_sliders():
    assert look.choice == Choice()
    # What the sliders can do beside this: too large, alpha from r, and the code with its marks.
    other = widgets.LoraSliders(Choice())
    other.r.value, other.length.value, other.rows.value = 256, 4096, 8
    assert "does not fit" in other.text() and "does not fit" in other.verdict()
    other.r.value, other.length.value, other.rows.value = 8, 2048, 0
    other.twice.click()
    assert other.alpha.value == 2 * other.r.value
    assert "r=8,  # the homework: 16" in other.code()


def full_fine_tuning():
    assert needed > 2.5 * presets.T4_MEMORY_GIB


def r_and_alpha():
    texts = [text.get_text() for text in _figure().axes[0].texts]
    assert f"{r} × 4,096" in texts and f"11,008 × {r}" in texts


def llama_block():
    texts = [text.get_text() for text in _figure().axes[0].texts]
    assert set(presets.PROJECTIONS) <= set(texts)


def add_the_adapter():
    _unsloth_first()
    settings = model.peft_config["default"]
    assert list(model.peft_config) == ["default"]
    assert (settings.r, settings.lora_alpha) == (r, alpha)
    assert set(settings.target_modules) == set(presets.PROJECTIONS)
    trainable, total = model.get_nb_trainable_parameters()
    assert trainable == lora.adapter_parameters(presets.EMBEDDED, r)
    # The base model had no adapter before.
    assert total - trainable == lora.base_parameters(presets.EMBEDDED)
    starts = {m: [p for n, p in model.named_parameters() if m in n] for m in ("lora_A", "lora_B")}
    assert all(one.any() for one in starts["lora_A"])
    assert not any(one.any() for one in starts["lora_B"])


def trained_parameters():
    assert all("lora_" in name for name, p in model.named_parameters() if p.requires_grad)


def count_by_shapes():
    each = (blocks * r * (n_in + n_out) for n_in, n_out in shapes.values())
    assert together == sum(each)


def share_of_memory():
    for rank in (4, 16, 64, 256):
        e = memory.estimate("llama-2-7b", r=rank, per_device_train_batch_size=2, max_length=2048)
        trained = lora.adapter_parameters("llama-2-7b", rank)
        of_parameters = trained / (trained + lora.base_parameters("llama-2-7b"))
        assert (e.adapter + e.gradients + e.optimizer) / e.total > 5 * of_parameters


def your_sliders():
    start = earlier_choice() or Choice()
    assert (sliders.choice, sliders.r.value) == (start, start.r)
    assert sliders.alpha.value == start.lora_alpha
    assert f"r = {start.r}, lora_alpha = {start.lora_alpha:g}" in sliders.text()


def use_this():
    from helpers.choice import saved_choice

    kept = saved_choice()
    assert sliders.said.startswith("Saved")
    assert (kept.r, kept.lora_alpha) == (sliders.r.value, sliders.alpha.value)
    carried = carry._unpacked(carry.code())["choice"]
    assert Choice(**(kept.to_dict() | carried)) == kept
    assert Choice(**(Choice().to_dict() | carried)) == kept


def beside_or_merged():
    assert torch.allclose(beside, merged, atol=1e-3 * max(1, scale))


def ours_and_peft():
    assert adapted.scaling["default"] == scale
    assert same(adapted.get_delta_weight("default").cpu(), change)
    assert same(output, merged, rounding=0.01)
    assert same(write_up.T, change, rounding=1e-5)


def base_loss():
    assert untrained < 5


def three_starts():
    from peft.helpers import rescale_adapter_scale

    good, broken, stuck = seen.values()
    assert good[0] == stuck[0] and abs(good[0] - untrained) < 0.02
    assert good[1] == 0 < good[2] and stuck[1:] == (0, 0) and min(broken[1:]) > 0
    # Both random: the damage grows with the scale. B zero: at every scale there is none.
    damage = {"A random, B zero": [], "both random": []}
    for name, losses in damage.items():
        adapter.redraw(model, *starts[name])
        for strength in (0, 0.25, 0.5, 1, 2):
            with rescale_adapter_scale(model, strength / lora.scaling(r, alpha)), torch.no_grad():
                losses.append(sentence_loss().item())
    adapter.redraw(model, *starts["both zero"])
    start, broken = damage.values()
    assert len(set(start)) == 1 and broken[0] == start[0] < broken[1] < broken[3]
    assert broken[3] > untrained + 1


def few_steps():
    good, broken, stuck = curves.values()
    assert good[-1] < good[0] < broken[0] and len(set(stuck)) == 1


def twice_alpha():
    usual, rate_of_b, twice = curves.values()
    assert usual[0] == rate_of_b[0] == twice[0] and usual[1] != rate_of_b[1]
    assert max(apart) < 0.01 * usual[0]


def write_ups_table():
    trained = {name: one for name, (one, _) in counted.items()}
    assert trained == {"before LoRA": 6_607_343_616, "r = 16": 39_976_960, "r = 4": 9_994_240}
    assert trained["r = 16"] == 4 * trained["r = 4"] == lora.adapter_parameters("llama-2-7b", 16)


def step_times():
    assert set(times) == {"r4", "r64"} and slow > 0 and quick > 0
    assert list(model.peft_config) == model.active_adapters == ["default"]
    trainable, _ = model.get_nb_trainable_parameters()
    assert trainable == lora.adapter_parameters(presets.EMBEDDED, r)


def start_with_b():
    assert abs(loss.item() - untrained) < 0.02 and gradient_a > 0 == gradient_b


def seven_or_two():
    assert 76 < seven / two < 77
