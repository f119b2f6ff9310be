"""What the cells of 00_quickstart must have produced; their names are this file's globals."""


def load_the_model():
    _unsloth_first()
    # In 4 bits a byte holds two numbers.
    assert sum(p.numel() for p in model.parameters()) < base
    assert base == lora.base_parameters(model.config)
    assert tokenizer.chat_template


def pick_100():
    assert len(chosen) == size.conversations


def train_the_adapter():
    assert run.folder == folder.absolute() and run.record["status"] == "finished"
    steps = choice.count_steps(len(trainer.train_dataset))
    assert [step for step, _ in runs.losses(run.folder)] == list(range(1, steps + 1))
    assert run.record["trainable_parameters"] == lora.adapter_parameters(model.config, r)
    asked.check_model(model, run)


def loss_falls():
    assert last < first


def answer_test_set():
    assert len(answers) == len(test_set)


def write_two_files():
    assert predictions.parent == settings.parent == run.folder
    outputs = [entry["output"] for entry in workspace.read_json(predictions).values()]
    assert outputs == [[answer] for answer in answers]
    config = workspace.read_json(settings)
    assert len(config) == 9 and config["num_train_epochs"] == choice.num_train_epochs
    rows, times = config["per_device_train_batch_size"], config["gradient_accumulation_steps"]
    assert rows * times == choice.rows_per_update


def read_back():
    assert list(written) == list(test_set["id"]) and entry["output"] == [answers[0]]


def adapter_size():
    assert 4 <= per_number < 4.5


def sampled_answers():
    assert sampled != answers[:2]
