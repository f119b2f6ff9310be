"""What the cells of 05_train must have produced; their names are this file's globals."""


def choice_and_selection():
    _unsloth_first()
    from helpers.choice import saved_choice

    kept = saved_choice() or Choice()
    assert choice.num_train_epochs == min(kept.num_train_epochs, presets.size().max_epochs)
    assert choice.to_dict() | {"num_train_epochs": kept.num_train_epochs} == kept.to_dict()
    assert 1 <= len(conversations) <= presets.size().conversations
    assert len(set(conversations["id"])) == len(conversations)


def one_row_an_answer():
    assert len(example_rows) == 2


def selection_rows():
    assert len(rows) >= len(conversations)


def add_the_adapter():
    settings = model.peft_config["default"]
    assert (settings.r, settings.lora_alpha) == (choice.r, choice.lora_alpha)
    assert set(settings.target_modules) == set(choice.target_modules)
    expected = lora.adapter_parameters(model.config, choice.r, choice.target_modules)
    assert counts.trainable == expected < counts.total
    assert not any(p.any() for name, p in model.named_parameters() if "lora_B" in name)
    assert tokenizer.chat_template


def step_size():
    assert rows_at_once * accumulation == choice.rows_per_update


def trainer_and_folder():
    # Unsloth puts its own in place of TRL's: the helper's, imported long before, are the same.
    assert SFTTrainer is training.SFTTrainer and SFTConfig is training.SFTConfig
    assert folder.is_dir() and folder.parent == workspace.path("runs")
    assert folder.name.startswith(runs.name_of(choice)) and not runs.is_finished(folder)


def every_setting():
    at_once, times = config.per_device_train_batch_size, config.gradient_accumulation_steps
    assert (at_once, at_once * times) == (rows_at_once, choice.rows_per_update)
    assert config.output_dir == str(folder) and config.num_train_epochs == choice.num_train_epochs
    assert config.learning_rate == models.learning_rate(choice, model)
    assert (config.warmup_steps, config.seed) == (warmup, presets.SEED)
    assert not (config.fp16 and config.bf16)


def same_settings():
    assert not different and len(helped) == len(written)


def build_the_trainer():
    assert trainer.prepared_rows == rows.to_list()
    assert len(trainer.train_dataset) == len(rows)
    assert trainer.args.output_dir == config.output_dir
    trained = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert trained and all(".lora_" in name for name in trained)
    assert all(p.element_size() == 4 for p in trained.values())


def label_one_row():
    assert tokens.shape == labels.shape == counted.shape
    end = int(counted.nonzero()[-1]) + 1
    assert 0 < start < end and int(counted.sum()) == end - start
    assert (labels[start:end] == tokens[start:end]).all()
    answer = tokenizer.decode(tokens[start:end], skip_special_tokens=True)
    assert answer.split() == rows[0]["completion"][0]["content"].split()


def labels_are_answers():
    assert exact == len(rows)
    assert 0 < min(shares) and max(shares) < 1


def train_the_adapter():
    assert run.folder == folder.absolute() and runs.is_finished(run.folder)
    assert run.record["trainable_parameters"] == counts.trainable
    assert [step for step, _ in runs.losses(run.folder)] == list(range(1, steps + 1))
    asked.check_model(model, run)


def loss_curve():
    dots, mean = _figure().axes[0].lines
    assert list(zip(dots.get_xdata(), dots.get_ydata(), strict=True)) == points
    assert list(mean.get_xdata()) == [step for step, _ in points]
    newest = [loss for _, loss in points[-5:]]
    assert abs(mean.get_ydata()[-1] - sum(newest) / len(newest)) < 1e-6


def loss_falls():
    assert len(losses) == steps
    assert last < first


def predicted_memory():
    assert predicted.total > predicted.weights > 0


def minutes():
    assert 0 < quick < slow


def files_of_the_run():
    for name in purposes:
        found = [*run.folder.glob(f"{name}*"), *run.folder.glob(f"{name}*/*")]
        assert found, f"nothing in the folder begins with {name}"


def adapter_size():
    assert abs(adapter_mb / (4 * counts.trainable / 1e6) - 1) < 0.1


def cut_checkpoint():
    assert not half.exists() and (newest / "trainer_state.json").exists()


def learning_rates():
    assert top[0] > warmup and 0 < rates[-1][1] < top[1]


def on_and_off():
    assert before != after
