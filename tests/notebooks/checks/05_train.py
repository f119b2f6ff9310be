"""What the cells of 05_train must have produced; their names are this file's globals."""


def choice_and_selection():
    _unsloth_first()
    from helpers.choice import saved_choice

    kept = saved_choice() or Choice()
    assert choice.num_train_epochs == min(kept.num_train_epochs, presets.size().max_epochs)
    assert choice.to_dict() | {"num_train_epochs": kept.num_train_epochs} == kept.to_dict()
    assert 1 <= len(conversations) <= presets.size().conversations
    assert len(set(conversations["id"])) == len(conversations)


def add_the_adapter():
    settings = model.peft_config["default"]
    assert (settings.r, settings.lora_alpha) == (choice.r, choice.lora_alpha)
    assert set(settings.target_modules) == set(choice.target_modules)
    from helpers import lora

    expected = lora.adapter_parameters(model.config, choice.r, choice.target_modules)
    assert trained == expected < total
    assert not any(p.any() for name, p in model.named_parameters() if "lora_B" in name)
    assert tokenizer.chat_template


def step_size():
    assert rows_at_once * accumulation == choice.rows_per_update
    assert len(rows) >= len(conversations) == len(lengths)


def build_the_trainer():
    # Unsloth puts its own in place of TRL's: the helper's, imported long before, are the same.
    assert SFTTrainer is training.SFTTrainer and SFTConfig is training.SFTConfig
    assert folder.is_dir() and folder.parent == workspace.path("runs")
    assert folder.name.startswith(runs.name_of(choice)) and not runs.is_finished(folder)
    assert trainer.prepared_rows == rows.to_list()
    assert len(trainer.train_dataset) == len(rows)
    assert trainer.args.output_dir == str(folder)
    trained = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert trained and all(".lora_" in name for name in trained)
    assert all(p.element_size() == 4 for p in trained.values())


def rows_as_tokens():
    assert token_view.faults == {} and len(token_view) == len(rows)
    assert Out[len(In) - 1] is token_view
    for one, example in zip(token_view, trainer.train_dataset, strict=True):
        assert one.ids[: one.tokens] == example["input_ids"]


def label_one_row():
    learnt = [label for label in row.labels if label != -100]
    assert len(learnt) == row.learnt and row.ids[start : row.tokens] == learnt
    answer = tokenizer.decode(learnt, skip_special_tokens=True)
    assert answer.split() == rows[row.number]["completion"][0]["content"].split()


def train_the_adapter():
    from helpers.panel import Panel

    assert run.folder == folder.absolute() and runs.is_finished(run.folder)
    assert run.record["trainable_parameters"] == trained
    points = runs.losses(run.folder)
    assert [step for step, _ in points] == list(range(1, steps + 1))
    asked.check_model(model, run)
    # The picture that moved shows these losses, and those on held-out rows: before, in the middle, at the end.
    (live,) = [one for one in trainer.callback_handler.callbacks if isinstance(one, Panel)]
    assert live.points == points
    looks = [step for step, _ in runs.losses(run.folder, "heldout_loss")]
    assert looks[0] == 0 and looks[-1] == steps and len(looks) >= min(3, steps + 1)
    assert run.record["updates"] + run.record["skipped_updates"] == steps


def loss_falls():
    assert len(losses) == steps
    assert last < first


def heldout_loss():
    assert len(base_losses) == len(tuned_losses) == len(counts_each) == presets.size().looking
    assert min(counts_each) > 0 and 0 < tuned_loss < base_loss
    assert fell > len(heldout) / 2
    # Nobody trained on them.
    assert not selection.overlap(conversations, heldout)


def five_answer_pairs():
    assert len(answers) == len(prompts) == len(ids) and answered_by == run
    assert base_answers != answers[: len(base_answers)]
    table = Out[len(In) - 1]
    assert table.names == ["base", "tuned"] and len(table.rows) == len(base_answers)
    assert [row[1:] for row in table.rows] == list(zip(base_answers, answers, strict=False))


def homework_files():
    import json

    written = json.loads((run.folder / "pred.json").read_text(encoding="utf-8"))
    assert list(written) == list(ids)
    assert [entry["output"] for entry in written.values()] == [[answer] for answer in answers]
    assert [entry["input"] for entry in written.values()] == prompts
    held = json.loads(settings.read_text(encoding="utf-8"))
    assert settings.parent == run.folder and len(held) == 9
    at_once, times = held["per_device_train_batch_size"], held["gradient_accumulation_steps"]
    assert (at_once, at_once * times) == (rows_at_once, choice.rows_per_update)
    assert held["learning_rate"] == trainer.args.learning_rate


def all_runs():
    row = ledger.table().loc[run.folder.name]
    assert row["status"] == "finished" and row["steps"] == steps
    assert (row["r"], row["rows"]) == (choice.r, len(conversations))


def curves_over_tokens():
    axes = _figure().axes[0]
    assert axes.get_xlabel() == ledger.AXES["tokens"] and len(axes.lines) >= 2


def train_in_stages():
    asked.check_model(model, run)
    assert runs.latest().folder == run.folder != staged.folder
    assert [s["rows"] for s in staged.record["stages"]] == [len(short), len(long)]
    (border,) = stages.borders(staged.record)
    assert 0 < border < runs.losses(staged.folder)[-1][0]
    assert staged.record["tokens"] == run.record["tokens"]
    back = runs.choice_of(staged, stages=None, num_train_epochs=choice.num_train_epochs)
    assert back == choice


def stages_beside_all():
    assert len(_figure().axes[0].lines) >= 4


def every_setting():
    at_once, times = config.per_device_train_batch_size, config.gradient_accumulation_steps
    assert (at_once, at_once * times) == (rows_at_once, choice.rows_per_update)
    assert config.output_dir == str(folder) and config.num_train_epochs == choice.num_train_epochs
    assert config.learning_rate == models.learning_rate(choice, model)
    assert config.seed == presets.SEED
    assert config.warmup_steps == choice.warmup_steps(len(rows)) == trainer.args.warmup_steps
    assert not (config.fp16 and config.bf16)


def same_settings():
    assert not different and len(helped) == len(written)


def two_warnings():
    assert not plan.warnings_for(Choice()) and plan.warnings_for(example)


def predicted_memory():
    assert predicted.total > predicted.weights > 0
    assert 0 < quick < slow


def files_of_the_run():
    for name in purposes:
        found = [*run.folder.glob(f"{name}*"), *run.folder.glob(f"{name}*/*")]
        assert found, f"nothing in the folder begins with {name}"


def cut_checkpoint():
    import zipfile

    assert not half.exists() and (newest / "trainer_state.json").exists()
    held = zipfile.ZipFile(packed).namelist()
    assert {"run.json", "adapter_model.safetensors", "pred.json"} <= {Path(n).name for n in held}


def how_it_ran():
    _reported(run, "05")
