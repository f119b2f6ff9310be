"""Training: what is learnt, with which settings, and that an interrupted run loses nothing."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_run
import torch
from unsloth import is_bfloat16_supported

from helpers import (
    adapting,
    answering,
    data,
    earlier,
    evaluation,
    homework,
    lora,
    models,
    runs,
    selection,
    training,
)
from helpers import workspace as places
from helpers.choice import Choice, save_choice
from helpers.errors import CourseError
from helpers.presets import TRAINING

TWO_TURNS = {
    "id": "two-turns",
    "conversations": [
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Green it is."},
        {"role": "user", "content": "Another one?"},
        {"role": "assistant", "content": "Then violet."},
    ],
    "score": 3.0,
}
UNANSWERED = {"id": "asked-only", "conversations": TWO_TURNS["conversations"][:1], "score": None}

pytestmark = pytest.mark.usefixtures("use_tiny_llama")


def dataset(*rows):
    from datasets import Dataset

    return Dataset.from_list(list(rows))


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its content."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


# ----------------------------------------------------------------------------------- what is learnt
def test_only_the_answers_and_their_end_tokens_are_learnt(workspace):
    rows = tiny_run.conversations(8)
    _, tokenizer, trainer = tiny_run.build(rows)
    learnt = []
    for batch in trainer.get_train_dataloader():
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            counted = labels != -100
            assert torch.equal(ids[counted], labels[counted])
            learnt.append(tokenizer.decode(labels[counted]))
            assert "[INST]" in tokenizer.decode(ids[~counted])
    expected = [f"{answer} </s>" for answer in evaluation.references(rows)]
    assert sorted(text.strip() for text in learnt) == sorted(expected)


def test_both_answers_of_a_conversation_with_two_turns_are_learnt(workspace):
    _, tokenizer, trainer = tiny_run.build(dataset(TWO_TURNS))
    learnt = {}
    for batch in trainer.get_train_dataloader():
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            answer = tokenizer.decode(labels[labels != -100]).strip()
            learnt[answer] = tokenizer.decode(ids[labels == -100])
    assert set(learnt) == {"Green it is. </s>", "Then violet. </s>"}
    # The second answer is learnt as an answer to the whole exchange.
    assert "Green it is." in learnt["Then violet. </s>"]


def test_a_mark_inside_a_text_is_learnt_as_text_and_each_answer_has_one_end(workspace):
    marked = json.loads(json.dumps(TWO_TURNS))
    marked["conversations"][1]["content"] = "It is </s> and not <s>."
    _, tokenizer, trainer = tiny_run.build(dataset(marked))
    learnt = [
        [int(i) for i in labels[labels != -100]]
        for batch in trainer.get_train_dataloader()
        for labels in batch["labels"]
    ]
    assert all(ids.count(tokenizer.eos_token_id) == 1 for ids in learnt)
    texts = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in learnt]
    assert "It is </s> and not <s>." in texts


def test_the_adapter_is_in_float32_in_training_and_on_disk(trained):
    in_memory = {p.dtype for p in trained.model.parameters() if p.requires_grad}
    on_disk = {tensor.dtype for tensor in tiny_run.adapter(trained.run.folder).values()}
    assert in_memory == on_disk == {torch.float32}


def test_training_moves_every_adapter_and_only_adapters(trained, tiny_llama):
    fresh, _ = models.load(tiny_llama, max_seq_length=512)
    fresh = adapting.add_adapter(fresh, tiny_run.CHOICE)
    after = dict(trained.model.named_parameters())
    for name, before in fresh.named_parameters():
        same = torch.equal(before.data, after[name].data)
        assert same == ("lora_" not in name), name


def test_the_loss_falls(trained):
    losses = [loss for _, loss in runs.losses(trained.run.folder)]
    assert len(losses) == tiny_run.STEPS
    assert sum(losses[-4:]) < sum(losses[:4]) - 1


def test_a_model_that_has_answered_questions_trains_like_one_that_has_not(workspace, trained):
    rows = tiny_run.conversations()
    model, tokenizer, trainer = tiny_run.build(rows)
    answering.generate(model, tokenizer, ["Why?"], max_new_tokens=2)
    evaluation.answer_losses(model, tokenizer, rows.select(range(2)))
    tiny_run.assert_same_adapter(training.train(trainer, tiny_run.CHOICE, rows), trained.run)


def test_a_reloaded_adapter_gives_the_same_losses_and_answers_as_the_trained_model(trained):
    rows = tiny_run.conversations(12)
    model, tokenizer = models.load(trained.run.folder, max_seq_length=512)
    kept, _ = evaluation.answer_losses(trained.model, trained.tokenizer, rows)
    reloaded, _ = evaluation.answer_losses(model, tokenizer, rows)
    assert reloaded == pytest.approx(kept, abs=1e-6)
    questions = data.questions(rows)
    assert answering.generate(model, tokenizer, questions, max_new_tokens=8) == (
        answering.generate(trained.model, trained.tokenizer, questions, max_new_tokens=8)
    )


# ----------------------------------------------------------------------------------------- settings
def test_the_defaults_are_the_homework_s(workspace, monkeypatch):
    monkeypatch.setenv("COURSE_MODEL", "llama-2-7b")
    config = training.build_config(Choice(), 100, 2, workspace)
    found = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "warmup_steps": 10,
        "num_train_epochs": 2,
        "learning_rate": 2e-4,
        "weight_decay": 0.01,
        "lr_scheduler_type": "linear",
        "seed": 3407,
        "max_length": 2048,
    }
    assert {name: getattr(config, name) for name in found} == found
    # Without a GPU Unsloth replaces the 8-bit optimizer by itself.
    assert TRAINING["optim"] == "adamw_8bit"
    assert config.optim == ("adamw_8bit" if torch.cuda.is_available() else "adamw_torch_fused")
    # A T4 trains in fp16, newer machines in bf16, and a processor without bf16 in 32 bits.
    assert config.bf16 == is_bfloat16_supported()
    assert config.fp16 == (torch.cuda.is_available() and not config.bf16)


def test_a_small_preset_trains_with_its_own_learning_rate_unless_one_is_chosen(monkeypatch):
    monkeypatch.setenv("COURSE_MODEL", "smollm2-135m")
    assert models.learning_rate(Choice()) == 2e-3
    assert models.learning_rate(Choice(learning_rate=5e-5)) == 5e-5
    monkeypatch.setenv("COURSE_MODEL", "somebody/a-model-without-preset")
    assert models.learning_rate(Choice()) == 2e-4


def test_the_trainer_gets_the_choice(workspace):
    choice = replace(
        tiny_run.CHOICE, r=3, lora_alpha=6, use_rslora=True, target_modules=("q_proj", "up_proj")
    )
    model, _, trainer = tiny_run.build(tiny_run.conversations(8), choice)
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.use_rslora) == (3, 6, True)
    assert set(config.target_modules) == {"q_proj", "up_proj"}
    expected = lora.adapter_parameters(model.config, 3, ("q_proj", "up_proj"))
    assert trainer.model.get_nb_trainable_parameters()[0] == expected
    args = trainer.args
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 4
    assert (args.num_train_epochs, args.learning_rate) == (3, 0.01)
    assert adapting.differences(config.to_dict(), choice) == []


def test_the_settings_are_those_that_follow_from_the_choice(workspace):
    choice = Choice(rows_per_update=6, num_train_epochs=1, learning_rate=0.01, max_length=300)
    config = training.build_config(choice, 20, 3, workspace)
    # Without a GPU Unsloth replaces the 8-bit optimizer by itself.
    wanted = choice.training_arguments(20, 3, 1) | {"optim": config.optim}
    assert {name: getattr(config, name) for name in wanted} == wanted


def test_steps_are_counted_as_the_trainer_counts_them(trained):
    steps = tiny_run.CHOICE.count_steps(tiny_run.ROWS)
    assert steps == trained.trainer.state.max_steps == tiny_run.STEPS
    # The homework: 100 rows, 8 an update, twice.
    assert Choice().count_steps(100) == 26


@pytest.mark.parametrize(("batch", "rows_at_once"), [(8, 2), (4, 2), (2, 2), (6, 2), (5, 1)])
def test_rows_at_once_divide_the_rows_of_an_update(trained, batch, rows_at_once):
    if not torch.cuda.is_available():
        assert (
            training.per_device_train_batch_size(trained.model, Choice(rows_per_update=batch), 64)
            == rows_at_once
        )
    own = Choice(rows_per_update=batch, per_device_train_batch_size=1)
    assert training.per_device_train_batch_size(trained.model, own, 64) == 1


def test_two_rows_four_times_train_like_eight_rows_once(workspace):
    """How many rows go at once is a matter of time and memory only."""
    found = []
    for rows_at_once in (2, 8):
        choice = replace(
            tiny_run.CHOICE,
            rows_per_update=8,
            per_device_train_batch_size=rows_at_once,
            num_train_epochs=1,
        )
        # Answers of different lengths: each token counts the same, not each row.
        rows = selection.select(
            tiny_run.conversations(100), homework.words, largest_first=True, limit=16
        )
        run = tiny_run.fit(rows, choice).run
        assert run.record["per_device_train_batch_size"] == rows_at_once
        found.append([loss for _, loss in runs.losses(run.folder)])
    two, eight = found
    assert two == pytest.approx(eight, abs=2e-3) and len(two) == 2


# ---------------------------------------------------------------------------------------- bad input
@pytest.fixture
def refuse(workspace, trained):
    """Try to train on bad rows where a finished run lies; it must be refused and change nothing."""
    shutil.copytree(trained.run.folder.parent.parent, workspace)

    def attempt(rows, choice=tiny_run.CHOICE) -> str:
        before = files(workspace)
        with pytest.raises(CourseError) as caught:
            tiny_run.build(rows, choice)
        assert files(workspace) == before
        return str(caught.value)

    return attempt


def test_more_than_100_conversations_are_refused_before_anything_is_written(refuse):
    rows = data.load_conversations(data.OUR_POOL).select(range(101))
    assert "101 conversations" in refuse(rows)


def test_no_conversations_are_refused(refuse):
    assert "0 conversations" in refuse(tiny_run.conversations(1).select([]))


def test_a_conversation_that_is_too_long_is_refused_by_name(refuse):
    message = refuse(dataset(TWO_TURNS), replace(tiny_run.CHOICE, max_length=16))
    assert "'two-turns'" in message and "max_length is 16" in message


def test_a_row_without_an_answer_is_refused_by_name(refuse):
    assert "'asked-only'" in refuse(dataset(TWO_TURNS, UNANSWERED))


def test_a_disk_that_is_full_is_noticed_before_anything_is_written(workspace, monkeypatch):
    rows = tiny_run.conversations(4)
    _, _, trainer = tiny_run.build(rows)
    usage = shutil.disk_usage(workspace)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CourseError, match="GiB are free") as caught:
        training.train(trainer, tiny_run.CHOICE, rows)
    assert Path(trainer.args.output_dir).name in str(caught.value)
    assert files(workspace) == {}


def test_a_rank_of_zero_never_reaches_the_trainer():
    with pytest.raises(CourseError, match="r = 0"):
        replace(tiny_run.CHOICE, r=0)


# -------------------------------------------------------------------------------- folders and records
def test_an_interrupted_run_keeps_its_folder_and_every_other_run_gets_a_new_one(interrupted):
    rows, choice = tiny_run.conversations(), tiny_run.CHOICE
    assert runs.folder_for(choice, rows) == interrupted
    others = [
        runs.folder_for(replace(choice, num_train_epochs=1), rows),
        runs.folder_for(choice, rows.select(range(8))),
        runs.folder_for(choice, rows.select(reversed(range(len(rows))))),
    ]
    assert interrupted not in others
    assert runs.folder_for(replace(choice, r=8), rows).name == "r8-alpha8"


def test_edited_rows_with_the_same_ids_are_another_run(interrupted, trained):
    rows = tiny_run.conversations()
    edited = rows.to_list()
    edited[3]["conversations"][-1]["content"] += " And more."
    edited = type(rows).from_list(edited)
    assert list(edited["id"]) == list(rows["id"])
    assert runs.folder_for(tiny_run.CHOICE, edited) != interrupted
    shutil.copytree(trained.run.folder, interrupted.with_name("r4-alpha8-9"))
    assert runs.find_all(tiny_run.CHOICE, rows, trained.run.record["model"])
    assert not runs.find_all(tiny_run.CHOICE, edited, trained.run.record["model"])


@pytest.mark.parametrize("log", ["[1]", "7", '["loss"]'])
def test_a_log_that_was_edited_is_named(tmp_path, log):
    (tmp_path / "trainer_state.json").write_text(f'{{"log_history": {log}}}')
    with pytest.raises(CourseError, match="cannot be read"):
        runs.losses(tmp_path)


def test_a_record_of_an_older_version_is_still_read_but_stands_for_no_run(
    interrupted, trained, capsys
):
    """It names ids, and not the rows that stood behind them."""
    rows = tiny_run.conversations()
    older = {name: value for name, value in runs.read(interrupted).items() if name != "data"}
    runs.write(interrupted, older)
    assert runs.folder_for(tiny_run.CHOICE, rows).name == "r4-alpha8-2"
    finished = shutil.copytree(trained.run.folder, interrupted.with_name("older"))
    runs.write(finished, {n: v for n, v in trained.run.record.items() if n != "data"})
    assert not runs.find_all(tiny_run.CHOICE, rows, trained.run.record["model"])
    places.write_json("latest_run.json", {"name": "older"})
    assert earlier.finished_run().folder == finished


def test_an_interrupted_run_of_another_model_is_left_alone(interrupted, monkeypatch):
    monkeypatch.setenv("COURSE_MODEL", "smollm2-135m")
    assert runs.folder_for(tiny_run.CHOICE, tiny_run.conversations()) != interrupted


def test_a_finished_run_is_never_trained_over(workspace, trained):
    shutil.copytree(trained.run.folder.parent.parent, workspace)
    folder = runs.folder_for(tiny_run.CHOICE, tiny_run.conversations())
    assert folder.name == f"{trained.run.folder.name}-2" and not any(folder.iterdir())
    # An empty folder is free: the next question gets the same answer.
    assert runs.folder_for(tiny_run.CHOICE, tiny_run.conversations()) == folder


def test_the_latest_run_is_the_one_that_finished_last(workspace, trained):
    assert runs.latest() is None
    shutil.copytree(trained.run.folder.parent.parent, workspace, dirs_exist_ok=True)
    latest = runs.latest()
    assert latest.folder == workspace / "runs" / trained.run.folder.name
    assert latest.record == trained.run.record
    (latest.folder / "adapter_model.safetensors").unlink()
    assert runs.latest() is None


def test_an_interrupted_run_is_not_the_latest(interrupted):
    assert runs.latest() is None


def test_the_record_says_what_was_trained_with_what(trained, tiny_llama):
    record = trained.run.record
    assert record == runs.read(trained.run.folder)
    assert record["model"] == str(tiny_llama)
    assert Choice(**record["choice"]) == tiny_run.CHOICE
    assert record["ids"] == list(tiny_run.conversations()["id"])
    assert record["status"] == "finished" and record["minutes"] >= 0
    assert record["trainable_parameters"] == trained.model.get_nb_trainable_parameters()[0]
    assert record["versions"]["torch"] == torch.__version__


def test_the_run_folder_is_one_that_peft_and_transformers_read(trained):
    from peft import PeftConfig

    folder = trained.run.folder
    assert PeftConfig.from_pretrained(folder).r == tiny_run.CHOICE.r
    state = json.loads((folder / "trainer_state.json").read_text())
    assert state["global_step"] == tiny_run.STEPS


@pytest.mark.parametrize("content", ["", '{"model": "tiny', "not json"])
def test_a_damaged_record_is_refused_by_name_and_nothing_is_lost(workspace, trained, content):
    shutil.copytree(trained.run.folder.parent.parent, workspace)
    record = workspace / "runs" / trained.run.folder.name / "run.json"
    record.write_text(content)
    before = files(workspace)
    for action in (
        runs.latest,
        lambda: runs.folder_for(tiny_run.CHOICE, tiny_run.conversations()),
    ):
        with pytest.raises(CourseError) as caught:
            action()
        assert str(record) in str(caught.value)
    assert files(workspace) == before


# ------------------------------------------------------------------- what the next notebook begins with
def test_the_latest_run_is_used_if_it_is_this_machine_s_model_s(workspace, trained, capsys):
    shutil.copytree(trained.run.folder.parent.parent, workspace)
    run = earlier.finished_run()
    assert run.folder.name == trained.run.folder.name
    assert f"{run.folder.name}: r = 4" in capsys.readouterr().out


def test_without_a_run_one_is_trained_from_the_saved_choice_and_selection(workspace, capsys):
    choice = replace(tiny_run.CHOICE, num_train_epochs=1)
    save_choice(choice)
    selection.save_selection(tiny_run.conversations(8), data.OUR_POOL)
    run = earlier.finished_run()
    assert run == runs.latest()
    assert run.record["choice"]["r"] == 4 and len(run.record["ids"]) == 8
    assert "takes one as notebook 05 makes it" in capsys.readouterr().out


def test_a_finished_run_with_the_same_choice_is_not_trained_again(
    workspace, trained, capsys, monkeypatch
):
    monkeypatch.setenv("COURSE_SIZE", "full")
    shutil.copytree(trained.run.folder.parent.parent, workspace)
    (workspace / "latest_run.json").write_text('{"name": "gone"}')
    save_choice(tiny_run.CHOICE)
    selection.save_selection(tiny_run.conversations(), data.OUR_POOL)
    assert earlier.finished_run().folder.name == trained.run.folder.name
    assert "finished run with this choice" in capsys.readouterr().out


def test_where_another_run_is_wanted_an_interrupted_one_is_named_and_the_advice_works(
    interrupted, capsys
):
    choice = replace(tiny_run.CHOICE, r=2)
    runs.folder_for(choice, tiny_run.conversations())
    said = capsys.readouterr().out
    assert f"{interrupted.name} was interrupted after step 20" in said
    names = {"runs": runs, "selection": selection}
    advice = re.search(r"notebook 05: (.+?\(run\))\. Then", said)[1]
    exec(advice, names)  # noqa: S102
    assert names["choice"] == tiny_run.CHOICE
    assert runs.folder_for(names["choice"], names["conversations"]) == interrupted
    record = runs.read(interrupted)
    for other in ({"stages": [{"rows": 32}]}, {"step": 0}, {"beside": True}, {"status": "stopped"}):
        capsys.readouterr()
        runs.write(interrupted, record | other)
        runs.folder_for(choice, tiny_run.conversations())
        assert "was interrupted" not in capsys.readouterr().out


def test_answers_stay_where_going_on_is_refused(interrupted, monkeypatch):
    (interrupted / "pred.json").write_text("{}")
    note = interrupted / "checkpoint-20" / "so_far.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"data": "0" * 64, "sizes": {}}))
    record = runs.read(interrupted)
    runs.write(interrupted, record | {"checkpoints": {}})
    with pytest.raises(CourseError, match="of another run"):
        tiny_run.fit()
    assert (interrupted / "pred.json").exists()
    shutil.rmtree(interrupted / "checkpoint-20")
    run = tiny_run.fit().run
    assert not (run.folder / "pred.json").exists()
    assert (run.folder / f"pred-step{record['step']}.json").exists()


def test_a_run_of_another_model_is_not_used(workspace, trained, tiny_llama, tmp_path, monkeypatch):
    shutil.copytree(trained.run.folder.parent.parent, workspace)
    other = shutil.copytree(tiny_llama, tmp_path / "another-model")
    monkeypatch.setenv("COURSE_MODEL", str(other))
    save_choice(replace(tiny_run.CHOICE, num_train_epochs=1))
    selection.save_selection(tiny_run.conversations(4), data.OUR_POOL)
    run = earlier.finished_run()
    assert run.record["model"] == str(other) and run.folder.name != trained.run.folder.name


def test_a_run_whose_folder_was_deleted_is_named_as_the_reason_to_train_anew(
    workspace, trained, capsys
):
    shutil.copytree(trained.run.folder.parent.parent, workspace)
    save_choice(replace(tiny_run.CHOICE, num_train_epochs=1))
    selection.save_selection(tiny_run.conversations(4), data.OUR_POOL)
    (workspace / "runs" / trained.run.folder.name / "adapter_model.safetensors").unlink()
    assert "has no adapter_model.safetensors any more" in runs.missing()
    shutil.rmtree(workspace / "runs")
    assert runs.latest() is None
    with pytest.raises(CourseError, match="was deleted or moved"):
        runs.losses(workspace / "runs" / trained.run.folder.name)
    earlier.finished_run()
    said = capsys.readouterr().out
    assert f"The run that finished last, {trained.run.folder.name}, is gone" in said
    assert str(workspace / "runs") in said and "No finished run" not in said


@pytest.mark.parametrize("content", ['"r4"', "[]", '{"name": 4}'])
def test_a_latest_run_that_names_none_is_no_run(workspace, content):
    places.write_json("latest_run.json", {})
    (workspace / "latest_run.json").write_text(content)
    assert runs.latest() is None and "No finished run" in runs.missing()


# ------------------------------------------------------------------------------------ how fast it was
def test_a_resumed_run_counts_its_minutes_and_tokens_on(interrupted, resume, trained):
    record, whole = runs.read(interrupted), trained.run.record["tokens"]
    assert record["tokens"] == round(whole * 20 / tiny_run.STEPS)
    runs.write(interrupted, record | {"minutes": 7.0})
    assert runs.tokens_per_minute(record["model"]) == record["tokens"] / 7
    # Where the machine went away between the two files, the checkpoint is right.
    note = interrupted / "checkpoint-20" / "so_far.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"minutes": 7.0}))
    runs.write(interrupted, record | {"minutes": 99, "checkpoints": {}})
    run, _ = resume()
    assert run.record["tokens"] == whole and 7.0 <= run.record["minutes"] < 8.0
    assert runs.tokens_per_minute(record["model"]) == whole / run.record["minutes"]
    assert runs.tokens_per_minute("another model") is None


# ----------------------------------------------------------------------------- relatives of a run
def test_a_variant_differs_in_what_was_asked_and_is_trained_once(workspace, trained, capsys):
    shutil.copytree(trained.run.folder.parent.parent, workspace)
    run, rows = runs.latest(), tiny_run.conversations(8)
    first = earlier.variant(run, rows, r=2, lora_alpha=4.0, num_train_epochs=1)
    assert first.record["choice"] == run.record["choice"] | {
        "r": 2,
        "lora_alpha": 4.0,
        "num_train_epochs": 1,
    }
    assert first.record["ids"] == list(rows["id"])
    assert runs.latest().folder == run.folder, "the student's run stays the latest"
    before = files(workspace)
    again = earlier.variant(run, rows, r=2, lora_alpha=4.0, num_train_epochs=1)
    assert again == first and files(workspace) == before
    assert f"Using the run {first.folder.name}" in capsys.readouterr().out


def test_a_variant_has_the_base_model_of_its_run(workspace, trained, monkeypatch):
    shutil.copytree(trained.run.folder.parent.parent, workspace)
    run = runs.latest()
    monkeypatch.setenv("COURSE_MODEL", "somebody/another-model")
    other = earlier.variant(run, tiny_run.conversations(8), r=2, num_train_epochs=1)
    assert other.record["model"] == run.record["model"]


def test_a_record_that_is_damaged_says_what_goes_with_it(interrupted):
    (interrupted / "run.json").write_text("{")
    with pytest.raises(CourseError, match="Move the whole folder away"):
        runs.read(interrupted)


def test_a_run_is_found_by_choice_data_and_model_if_its_adapter_is_there(workspace, trained):
    shutil.copytree(trained.run.folder.parent.parent, workspace)
    record = trained.run.record
    rows = tiny_run.conversations()
    wanted = {"choice": tiny_run.CHOICE, "conversations": rows, "model": record["model"]}
    found = runs.find_all(**wanted)[-1]
    assert found.record == record
    for other in (
        {"choice": replace(tiny_run.CHOICE, r=8)},
        {"conversations": rows.select(range(len(rows) - 1))},
        {"model": "another"},
    ):
        assert not runs.find_all(**wanted | other)
    (found.folder / "adapter_model.safetensors").unlink()
    assert not runs.find_all(**wanted)


@pytest.mark.parametrize("choice", [None, {"rank": 4}, {"r": 4, "colour": "green"}])
def test_a_record_from_another_version_is_refused(trained, choice):
    record = {k: v for k, v in trained.run.record.items() if k != "choice"}
    record |= {"choice": choice} if choice else {}
    with pytest.raises(CourseError, match="does not hold a choice|unknown settings") as caught:
        runs.choice_of(runs.Run(trained.run.folder, record), r=2)
    assert str(trained.run.folder / "run.json") in caught.value.what


def test_a_record_with_an_impossible_choice_names_its_file(trained):
    record = trained.run.record | {"choice": trained.run.record["choice"] | {"r": "8"}}
    with pytest.raises(CourseError, match="r = '8'") as caught:
        runs.choice_of(runs.Run(trained.run.folder, record))
    assert str(trained.run.folder / "run.json") in caught.value.what


@pytest.fixture
def copied(workspace, trained):
    """The finished run in a workspace of this test, which it may damage."""
    shutil.copytree(trained.run.folder, workspace / "runs" / trained.run.folder.name)
    (workspace / "latest_run.json").write_text(json.dumps({"name": trained.run.folder.name}))
    return workspace / "runs" / trained.run.folder.name


@pytest.mark.parametrize("lost", ["model", "ids", "minutes", None])
def test_a_run_whose_record_is_gone_or_holed_is_not_replaced_by_another(copied, lost):
    file = copied / "run.json"
    record = json.loads(file.read_text())
    file.unlink()
    if lost:
        file.write_text(json.dumps({name: v for name, v in record.items() if name != lost}))
    with pytest.raises(CourseError, match=f"run.json is (without {lost}|not there)") as caught:
        earlier.finished_run()
    # Followed to the letter.
    assert "Put the file back" in caught.value.todo
    file.write_text(json.dumps(record))
    assert earlier.finished_run().folder == copied


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_run_that_lacks_a_part_of_a_file_is_not_answered_with(copied, name, damage):
    """Without its chat template a model would be asked in another format, and nobody would see it."""
    if damage == "cut":
        (copied / name).write_bytes((copied / name).read_bytes()[:-20])
    else:
        (copied / name).unlink()
    with pytest.raises(CourseError, match=re.escape(name)) as caught:
        earlier.finished_run()
    assert ("cut off" if damage == "cut" else "gone") in str(caught.value)


def test_numbers_that_were_not_noted_are_named(trained):
    assert len(runs.losses(trained.run.folder, "learning_rate")) == tiny_run.STEPS
    with pytest.raises(CourseError, match="noted no accuracy"):
        runs.losses(trained.run.folder, "accuracy")


@pytest.mark.parametrize("content", [None, "{", "[]", '{"name": 3}'])
def test_without_a_note_the_newest_run_of_ones_own_is_the_latest(copied, content):
    beside = copied.parent / "r2-alpha8"
    shutil.copytree(copied, beside)
    record = json.loads((beside / "run.json").read_text())
    (beside / "run.json").write_text(json.dumps(record | {"beside": True}))
    note = copied.parents[1] / "latest_run.json"
    note.unlink()
    if content:
        note.write_text(content)
    assert runs.latest().folder == copied
    shutil.rmtree(copied)
    assert runs.latest() is None


def test_a_model_whose_adapter_diverged_draws_no_token_and_says_so(workspace):
    model, tokenizer, _ = tiny_run.build(tiny_run.conversations(8))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.fill_(torch.nan)
    assert "diverged" in adapting.fault(model)
    with pytest.raises(CourseError, match="No token can be drawn"):
        answering.generate(model, tokenizer, ["Why?"], max_new_tokens=2, temperature=1.0)


def test_a_run_keeps_what_it_was_trained_on(trained):
    rows = json.loads((trained.run.folder / "conversations.json").read_text(encoding="utf-8"))
    assert rows == tiny_run.conversations().to_list()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU keeps gradient checkpointing on")
def test_a_cpu_keeps_the_forward_pass_of_short_rows_only(workspace, monkeypatch):
    *_, trainer = tiny_run.build(tiny_run.conversations(4))
    assert not trainer.args.gradient_checkpointing and not trainer.model.is_gradient_checkpointing
    monkeypatch.setattr(training, "CPU_KEPT_TOKENS", 10)
    *_, trainer = tiny_run.build(tiny_run.conversations(4))
    assert trainer.args.gradient_checkpointing
