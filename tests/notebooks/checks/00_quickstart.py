"""What the cells of 00_quickstart must have produced; their names are this file's globals."""


def load_the_model():
    _unsloth_first()
    # In 4 bits a byte holds two numbers.
    assert sum(p.numel() for p in model.parameters()) < base
    assert base == lora.base_parameters(model.config)
    assert tokenizer.chat_template


def answer_before_training():
    assert not adapting.is_trained(model) and all(first_answers)
    assert len(prompts) == min(len(test_set), size.prompts)
    _table(prompts[:2], answer=first_answers)


def draw_the_update():
    texts = [text.get_text() for text in _figure().axes[0].texts]
    assert {"W", "A", "B", "4,096 × 16", "16 × 4,096"} <= set(texts)


def choose_r_and_alpha():
    assert (choice.r, choice.lora_alpha) == (r, alpha) and in_code == set()


def pick_100():
    assert len(chosen) == size.conversations
    assert not selection.overlap(chosen, test_set)


def train_the_adapter():
    assert run.folder == folder.absolute() and run.record["status"] == "finished"
    steps = choice.count_steps(len(trainer.train_dataset))
    assert [step for step, _ in runs.losses(run.folder)] == list(range(1, steps + 1))
    trained = lora.adapter_parameters(model.config, choice.r, choice.target_modules)
    assert run.record["trainable_parameters"] == trained
    asked.check_model(model, run)


def loss_falls():
    assert last < first
    dots, mean = _figure().axes[0].lines
    assert list(dots.get_ydata()) == losses and len(mean.get_ydata()) == len(losses)


def before_and_after():
    table = Out[len(In) - 1]
    assert [row[1] for row in table.rows] == first_answers, "the adapter is not switched off"
    _table(prompts[:2], before=None, after=None)


def ask_your_model():
    _table([my_question], before=None, after=None)


def answer_test_set():
    assert len(answers) == len(prompts) == len(answered_ids)


def write_two_files():
    assert predictions.parent == settings.parent == run.folder
    outputs = [entry["output"] for entry in workspace.read_json(predictions).values()]
    assert outputs == [[answer] for answer in answers]
    config = workspace.read_json(settings)
    assert len(config) == 9 and config["num_train_epochs"] == choice.num_train_epochs
    rows, times = config["per_device_train_batch_size"], config["gradient_accumulation_steps"]
    assert rows * times == choice.rows_per_update


def read_back():
    assert list(written) == list(test_set["id"])[: len(prompts)]
    assert entry == {"input": prompts[0], "output": [answers[0]]}


def adapter_size():
    assert 4 <= per_number < 4.5


def sampled_answers():
    assert sampled != answers[:2]
    _table(prompts[:2], likeliest=answers[:2], sampled=sampled)


def _table(questions, **answers):
    """The cell showed these columns; ``None``: whatever answers stand there."""
    table = Out[len(In) - 1]
    assert table.names == list(answers) and len(table.rows) == len(questions)
    for place, column in enumerate(answers.values(), 1):
        assert column is None or [row[place] for row in table.rows] == column


def how_it_ran():
    _reported(answered_by, "00")
