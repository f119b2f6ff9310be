"""What the cells of 05_train must have produced; their names are this file's globals."""


def one_row_an_answer():
    assert len(example_rows) == 2


def selection_rows():
    assert len(rows) >= len(conversations)


def step_size():
    assert rows_at_once * accumulation == choice.batch_size


def same_settings():
    assert not different and len(helped) == len(written)


def labels_are_answers():
    assert exact == len(rows)
    assert 0 < min(shares) and max(shares) < 1


def loss_falls():
    assert len(losses) == steps
    assert last < first


def predicted_memory():
    assert plan.total > plan.weights > 0


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
    assert log[top]["step"] > warmup and 0 < rates[-1] < max(rates)


def on_and_off():
    assert before != after
