"""Another choice in the same session: a fresh adapter, as after a reload, or a refusal; never the old one."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import tiny_run
import torch
from safetensors.torch import save_file

from helpers import (
    adapting,
    answering,
    asked,
    data,
    earlier,
    evaluation,
    lora,
    models,
    runs,
    training,
)
from helpers.errors import CourseError

pytestmark = pytest.mark.usefixtures("use_tiny_llama")

WEIGHTS = "adapter_model.safetensors"
FIRST = replace(tiny_run.CHOICE, r=16, lora_alpha=16, num_train_epochs=1)
OTHERS = {
    "a smaller rank": replace(FIRST, r=4),
    "a larger rank": replace(FIRST, r=64),
    "the same once more": FIRST,
    "other modules": replace(FIRST, target_modules=("q_proj", "up_proj")),
    "rank-stabilised": replace(FIRST, use_rslora=True),
    "dropout": replace(FIRST, lora_dropout=0.1),
    "another alpha": replace(FIRST, lora_alpha=1),
}


def start_and_losses(model, tokenizer, choice, rows):
    """The adapter before training, and the losses."""
    trainer = training.build_trainer(model, tokenizer, rows, choice, runs.folder_for(choice, rows))
    before = {n: p.detach().clone() for n, p in model.named_parameters() if "lora_" in n}
    return before, runs.losses(training.train(trainer, choice, rows).folder)


@pytest.fixture(scope="module")
def rows():
    return tiny_run.conversations(12)


@pytest.fixture(scope="module")
def fresh(tiny_llama, rows, tmp_path_factory):
    """What a freshly loaded model starts from and does, for each choice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_MODEL", str(tiny_llama))
        patch.setenv("COURSE_WORKSPACE", str(tmp_path_factory.mktemp("fresh")))
        found = {}
        for name, choice in OTHERS.items():
            model, tokenizer = models.load(max_seq_length=512)
            model = adapting.add_adapter(model, choice)
            found[name] = start_and_losses(model, tokenizer, choice, rows)
        return found


@pytest.mark.slow
def test_another_choice_in_the_same_session_trains_bit_for_bit_as_after_a_reload(
    workspace, rows, fresh
):
    model, tokenizer = models.load(max_seq_length=512)
    model = adapting.add_adapter(model, FIRST)
    start_and_losses(model, tokenizer, FIRST, rows)
    for name, choice in OTHERS.items():
        answering.generate(model, tokenizer, ["Why?"], max_new_tokens=2)
        model = adapting.add_adapter(model, choice)
        assert adapting.differences(adapting.settings_of(model), choice) == []
        before, losses = start_and_losses(model, tokenizer, choice, rows)
        wanted, expected = fresh[name]
        assert before.keys() == wanted.keys(), name
        assert all(torch.equal(before[key], wanted[key]) for key in wanted), name
        assert losses == expected, name


def test_the_model_under_an_old_adapter_is_the_one_that_was_loaded(workspace, tiny_llama, rows):
    model, tokenizer = models.load(max_seq_length=512)
    loaded, _ = evaluation.answer_losses(model, tokenizer, rows)
    model = adapting.add_adapter(model, FIRST)
    start_and_losses(model, tokenizer, FIRST, rows)
    assert evaluation.answer_losses(model, tokenizer, rows)[0] != loaded
    model = adapting.add_adapter(model, replace(FIRST, r=2))
    assert model.get_nb_trainable_parameters()[0] == lora.adapter_parameters(model.config, 2)
    # B is zero: the new adapter changes nothing yet.
    assert evaluation.answer_losses(model, tokenizer, rows)[0] == pytest.approx(loaded, abs=1e-6)


def test_an_adapter_from_a_folder_is_replaced_too(trained):
    model, _ = models.load(trained.run.folder, max_seq_length=512)
    assert adapting.is_trained(model) and adapting.holds(model, trained.run.folder)
    model = adapting.add_adapter(model, FIRST)
    assert not adapting.is_trained(model) and not adapting.holds(model, trained.run.folder)


def test_an_adapter_that_cannot_fit_is_refused_before_anything_is_made(workspace):
    model, _ = models.load(max_seq_length=512)
    with pytest.raises(CourseError, match="An adapter with r = 1000000000 takes") as caught:
        adapting.add_adapter(model, replace(FIRST, r=10**9))
    assert "Choose a smaller r" in str(caught.value)
    assert adapting.add_adapter(model, FIRST).peft_config["default"].r == FIRST.r


def test_the_base_of_a_model_with_an_adapter_gets_no_second_one(tiny_llama):
    base, _ = models.load(max_seq_length=512)
    adapting.add_adapter(base, FIRST)
    with pytest.raises(CourseError, match="cell that loads the model again"):
        adapting.add_adapter(base, FIRST)


# ------------------------------------------------------------- what is held and what is asked, compared
def refusal(*arguments) -> str:
    with pytest.raises(CourseError) as caught:
        training.train(*arguments)
    return str(caught.value)


@pytest.fixture
def built(workspace, rows):
    """A trainer that was not trained yet, with what it was built for."""
    model, _, trainer = tiny_run.build(rows, FIRST)
    return model, trainer


CHANGES = {
    "r": 4,
    "lora_alpha": 1,
    "lora_dropout": 0.1,
    "use_rslora": True,
    "target_modules": ("q_proj",),
    "num_train_epochs": 2,
    "learning_rate": 0.02,
    "rows_per_update": 2,
}


def test_a_choice_that_the_trainer_was_not_built_for_is_refused_by_name(built, rows, workspace):
    _, trainer = built
    # On a GPU Unsloth takes the length out of the trainer's settings.
    length = {} if torch.cuda.is_available() else {"max_length": 400}
    for name, value in (CHANGES | length).items():
        said = refusal(trainer, replace(FIRST, **{name: value}), rows)
        assert name in said and "adapting.add_adapter" in said
    assert not list(workspace.rglob("run.json"))


@pytest.mark.parametrize("setting", ["weight_decay", "seed", "num_train_epochs"])
def test_a_setting_that_was_changed_in_the_trainer_alone_is_refused(built, rows, setting):
    _, trainer = built
    setattr(trainer.args, setting, 7)
    assert setting in refusal(trainer, FIRST, rows)


def test_a_model_in_which_adding_an_adapter_was_broken_off_is_refused(workspace, rows, monkeypatch):
    """PEFT would call it a second adapter, and train the embeddings too."""
    from peft.tuners.lora import LoraModel

    model, _ = models.load(max_seq_length=FIRST.max_length)
    place, calls = LoraModel._create_and_replace, []

    def stop(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return place(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LoraModel, "_create_and_replace", stop)
        adapting.add_adapter(model, FIRST)
    with pytest.raises(CourseError, match="holds a part of one"):
        adapting.add_adapter(model, FIRST)


def test_a_trainer_that_would_train_the_base_model_too_is_refused(built, rows):
    model, trainer = built
    model.get_input_embeddings().weight.requires_grad = True
    assert "weights of the base model too" in refusal(trainer, FIRST, rows)


@pytest.mark.parametrize(
    "changed",
    [
        {"optim": "sgd"},
        {"max_grad_norm": 0.1},
        {"max_steps": 2},
        {"completion_only_loss": False},
        {"train_sampling_strategy": "sequential"},
        {"adam_beta2": 0.9},
    ],
)
def test_a_setting_that_no_choice_holds_is_as_usual_or_refused(built, rows, changed):
    _, trainer = built
    (name,) = changed
    vars(trainer.args).update(changed)
    said = refusal(trainer, FIRST, rows)
    assert f"SFTConfig has {name} = {changed[name]}" in said and "keeps no record" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU Unsloth chooses the number format")
@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_another_number_format_is_another_training_and_refused(built, rows, name):
    _, trainer = built
    setattr(trainer.args, name, not getattr(trainer.args, name))
    assert f"{name} is " in refusal(trainer, FIRST, rows)


def test_a_second_sftconfig_does_not_stop_a_trainer_that_was_built_before(built, rows, trained):
    """Its cell is run again: Transformers then clears what all trainers of a session share."""
    _, trainer = built
    folder = trainer.args.output_dir
    training.build_config(FIRST, len(rows), 2, folder).device  # noqa: B018  (looking is what clears it)
    assert training.train(trainer, FIRST, rows).record["status"] == "finished"


def test_other_rows_than_the_trainer_s_are_refused(built, rows):
    _, trainer = built
    edited = rows.to_list()
    edited[0]["conversations"][-1]["content"] += " And more."
    for other in (rows.select(range(11)), type(rows).from_list(edited)):
        assert "its rows are not those" in refusal(trainer, FIRST, other)


def test_rows_that_were_replaced_or_never_named_are_refused(built, rows):
    _, trainer = built
    kept = trainer.train_dataset
    trainer.train_dataset = kept.select(range(5))
    assert "its train_dataset was replaced" in refusal(trainer, FIRST, rows)
    trainer.train_dataset = kept
    assert "was not called with its rows" in refusal(training.prepare(trainer), FIRST, rows)
    with pytest.raises(CourseError):
        training.prepare(trainer, data.to_prompt_completion(rows.select([0])))
    assert "was not called with its rows" in refusal(trainer, FIRST, rows)


def test_another_end_token_is_refused_also_after_it_changed_the_tokenizer(built, rows, workspace):
    model, trainer = built
    prompts, tokenizer = data.to_prompt_completion(rows), trainer.processing_class
    settings = trainer.args.to_dict() | {"eos_token": "<unk>"}
    known = {name: settings[name] for name in ("output_dir", "eos_token", "max_length", "bf16")}
    other = training.SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=prompts,
        args=training.SFTConfig(**known, report_to="none"),
    )
    assert tokenizer.eos_token == "<unk>"
    assert "eos_token" in refusal(training.prepare(other, prompts), FIRST, rows)
    folder = runs.folder_for(FIRST, rows)
    usual = training.build_trainer(model, tokenizer, rows, FIRST, folder)
    assert "ends answers with <unk>" in refusal(usual, FIRST, rows)


@pytest.mark.parametrize(
    ("loaded", "named"),
    [({"template": "alpaca"}, "chat_template"), ({"load_in_4bit": False}, "load_in_4bit")],
)
def test_an_interrupted_run_goes_on_with_the_base_model_it_began_with(interrupted, loaded, named):
    before = runs.read(interrupted)
    rows = tiny_run.conversations()
    model, tokenizer = models.load(max_seq_length=512, **loaded)
    model = adapting.add_adapter(model, tiny_run.CHOICE)
    folder = runs.folder_for(tiny_run.CHOICE, rows, model)
    assert folder == interrupted
    trainer = training.build_trainer(model, tokenizer, rows, tiny_run.CHOICE, folder)
    assert f"began with another {named}" in refusal(trainer, tiny_run.CHOICE, rows)
    assert runs.read(interrupted) == before


def test_the_base_model_answers_with_an_adapter_or_without_one(trained):
    question = "What is a chair?"
    base, tokenizer = models.load(max_seq_length=512)
    with adapting.base_model(base):
        expected = answering.next_token_logits(base, tokenizer, question)
    model = trained.model
    with adapting.base_model(model):
        assert torch.allclose(
            answering.next_token_logits(model, tokenizer, question), expected, atol=1e-4
        )
    assert not torch.allclose(
        answering.next_token_logits(model, tokenizer, question), expected, atol=1e-4
    )


def test_a_trainer_whose_model_got_another_adapter_is_refused(built, rows):
    model, trainer = built
    adapting.add_adapter(model, FIRST)
    assert "no adapter (any more)" in refusal(trainer, FIRST, rows)


def test_a_trainer_of_a_trained_adapter_starts_no_second_run(built, rows, workspace):
    model, trainer = built
    run = training.train(trainer, FIRST, rows)
    folder = runs.folder_for(FIRST, rows)
    again = training.build_trainer(model, trainer.processing_class, rows, FIRST, folder)
    assert "has been trained already" in refusal(again, FIRST, rows)
    # Building a trainer rounds the numbers on a CPU; they are put back.
    assert adapting.holds(model, run.folder) and not any(folder.iterdir())


def test_a_trainer_that_was_not_prepared_is_refused(built, rows):
    model, trainer = built
    raw = training.SFTTrainer(
        model=model,
        processing_class=trainer.processing_class,
        train_dataset=data.to_prompt_completion(rows),
        args=trainer.args,
    )
    assert "training.prepare(trainer, rows) was not called" in refusal(raw, FIRST, rows)


def test_a_run_is_not_filed_under_another_choice_s_name(built, rows, workspace):
    _, trainer = built
    trainer.args.output_dir = str(workspace / "runs" / "r4-alpha16")
    assert "its folder is r4-alpha16" in refusal(trainer, FIRST, rows)


def test_a_run_goes_where_runs_are_found(built, rows, tmp_path):
    _, trainer = built
    trainer.args.output_dir = str(tmp_path / "outputs")
    assert "Runs are found there only" in refusal(trainer, FIRST, rows)


def test_rows_that_are_too_many_or_stand_twice_are_refused_before_a_folder_is_made(
    built, workspace
):
    _, trainer = built
    pool = data.load_conversations(data.OUR_POOL)
    many, twice = pool.select(range(101)), pool.select([0, 1, 0])
    for wrong, said in ((many, "101 conversations"), (twice, "more than once")):
        assert said in refusal(trainer, FIRST, wrong)
        with pytest.raises(CourseError, match=said):
            runs.folder_for(FIRST, wrong)
    with pytest.raises(CourseError, match="list of rows"):
        runs.folder_for(FIRST, pool.select([0]).to_list())


def test_a_folder_that_holds_another_run_is_left_alone(built, rows, workspace):
    _, trainer = built
    folder = workspace / "runs" / "r16-alpha16"
    runs.write(folder, runs.asked_of(FIRST, rows.select([0]), "another") | {"status": "started"})
    assert "holds another run" in refusal(trainer, FIRST, rows)
    assert runs.read(folder)["model"] == "another"


def test_a_checkpoint_of_another_adapter_is_not_gone_on_from(interrupted):
    for checkpoint in interrupted.glob("checkpoint-*"):
        file = checkpoint / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"lora_alpha": 80}, indent=2))
        (checkpoint / "so_far.json").unlink()  # else its size is another than was noted
    runs.write(interrupted, {n: v for n, v in runs.read(interrupted).items() if n != "checkpoints"})
    rows = tiny_run.conversations()
    _, _, trainer = tiny_run.build(rows)
    assert "lora_alpha is 80 instead of 8" in refusal(trainer, tiny_run.CHOICE, rows)


def test_the_record_names_the_model_that_was_loaded(built, rows, tiny_llama, monkeypatch):
    _, trainer = built
    # 2e-4 is the rate of a model without preset, as the tiny one is.
    monkeypatch.setenv("COURSE_MODEL", "somebody/another-model")
    assert training.train(trainer, FIRST, rows).record["model"] == str(tiny_llama)


# ---------------------------------------------------------------------------------- the same cell again
def test_a_finished_run_is_returned_as_it_is_and_said_to_be_finished(built, rows, capsys):
    _, trainer = built
    run = training.train(trainer, FIRST, rows)
    saved = {f: f.read_bytes() for f in run.folder.rglob("*") if f.is_file()}
    capsys.readouterr()
    assert training.train(trainer, FIRST, rows) == run
    said = capsys.readouterr().out
    assert "is finished, and nothing was trained now" in said and "Going on" not in said
    assert {f: f.read_bytes() for f in run.folder.rglob("*") if f.is_file()} == saved


def test_a_run_that_another_session_finished_is_not_trained_over(built, rows, workspace):
    """Two notebooks begin with the same new folder."""
    _, trainer = built
    _, _, other = tiny_run.build(rows, FIRST, folder=workspace / "runs" / "r16-alpha16")
    run = training.train(other, FIRST, rows)
    assert "is finished, and its adapter is not the one" in refusal(trainer, FIRST, rows)
    assert adapting.holds(other.model, run.folder)


def test_answers_are_only_given_by_a_model_that_holds_the_run_s_adapter(trained, tiny_llama):
    asked.check_model(trained.model, trained.run)
    base, _ = models.load(tiny_llama, max_seq_length=512)
    for model in (base, adapting.add_adapter(base, tiny_run.CHOICE)):
        with pytest.raises(CourseError, match=f"adapter of the run {trained.run.folder.name}"):
            asked.check_model(model, trained.run)


def test_a_run_whose_adapter_was_cut_is_named_as_that_and_not_as_another(trained, tmp_path):
    run = runs.Run(shutil.copytree(trained.run.folder, tmp_path / "run"), trained.run.record)
    (run.folder / WEIGHTS).write_bytes((run.folder / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(CourseError, match=f"In .*run, {WEIGHTS} is cut off or changed"):
        asked.check_model(trained.model, run)


def test_an_adapter_that_lacks_a_matrix_or_whose_template_is_cut_is_not_loaded(trained, tmp_path):
    folder = shutil.copytree(trained.run.folder, tmp_path / "run")
    whole = tiny_run.adapter(folder)
    missing = next(name for name in whole if "lora_B" in name)
    save_file({name: t for name, t in whole.items() if name != missing}, folder / WEIGHTS)
    with pytest.raises(
        CourseError, match=re.escape(f"lacks 1 of its matrices, the first of them {missing}")
    ):
        models.load(folder, max_seq_length=512)
    save_file(whole, folder / WEIGHTS)
    (folder / "chat_template.jinja").write_text("")
    with pytest.raises(CourseError, match="is empty"):
        models.load(folder, max_seq_length=512)


def test_a_diverged_run_is_not_measured(workspace, trained):
    """Today a training that diverges is stopped; an older version of the course finished it."""
    shutil.copytree(trained.run.folder.parent.parent, workspace)
    folder = workspace / "runs" / trained.run.folder.name
    runs.write(folder, trained.run.record | {"fault": adapting.DIVERGED})
    with pytest.raises(CourseError, match="training diverged") as caught:
        earlier.finished_run()
    assert "smaller learning rate" in str(caught.value)


def test_record_and_adapter_config_of_every_run_agree(workspace, rows):
    for choice in (replace(FIRST, r=3, lora_alpha=6), replace(FIRST, use_rslora=True)):
        run = tiny_run.fit(rows, choice).run
        saved = json.loads((run.folder / "adapter_config.json").read_text())
        recorded = run.record["choice"]
        assert all(saved[name] == recorded[name] for name in adapting.SETTINGS)
        assert set(saved["target_modules"]) == set(recorded["target_modules"])


def test_a_run_whose_adapter_is_another_than_its_record_says_is_not_used(workspace, trained):
    shutil.copytree(trained.run.folder.parent.parent, workspace)
    folder = workspace / "runs" / trained.run.folder.name
    record = runs.read(folder)
    runs.write(folder, record | {"choice": record["choice"] | {"r": 16}})
    with pytest.raises(CourseError, match="r is 4 instead of 16"):
        earlier.finished_run()


@pytest.mark.parametrize("content", [None, "", "{", "[]", "7"])
def test_a_run_whose_adapter_config_is_damaged_is_named(workspace, trained, content):
    shutil.copytree(trained.run.folder.parent.parent, workspace)
    file = workspace / "runs" / trained.run.folder.name / "adapter_config.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(CourseError) as caught:
        earlier.finished_run()
    assert str(file) in str(caught.value) or "r is None" in str(caught.value)
