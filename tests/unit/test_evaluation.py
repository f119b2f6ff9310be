"""Answers, losses, intervals, and the homework's two files."""

import json
import math
from copy import deepcopy
from pathlib import Path

import pytest
import tiny_run
import torch
from full_disk import files_limited_to
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import refusal

from helpers import answering, data, evaluation, homework, models
from helpers.choice import Choice
from helpers.errors import CourseError

QUESTIONS = [
    "Why?",
    "Name a colour that is neither red nor green nor blue, and say where one sees it.",
    "Hello!",
    "What is the sum of two and three?",
]
HOMEWORK_TEST_SET = (
    Path(__file__).resolve().parents[3] / "shared" / "hw5" / "test_set_evol_instruct_150.json"
)
numbers = st.lists(st.floats(-100, 100), min_size=1, max_size=30)
quick = settings(max_examples=40)


@pytest.fixture(scope="module")
def float_llama(tiny_llama):
    """The tiny Llama in float32, where sums do not depend on what else is in the batch."""
    model, tokenizer = models.load(tiny_llama, max_seq_length=512, load_in_4bit=False)
    return model.float(), tokenizer


# ---------------------------------------------------------------------------------------- answering
def greedy(model, tokenizer, question: str, count: int) -> str:
    """The likeliest token, ``count`` times, by hand."""
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    start = len(ids)
    with torch.inference_mode():
        while len(ids) < start + count and ids[-1] != tokenizer.eos_token_id:
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits
            ids.append(logits[0, -1].argmax().item())
    return tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


@pytest.mark.parametrize("count", [1, 7])
def test_without_a_temperature_each_token_is_the_likeliest_and_there_are_no_more_than_asked_for(
    float_llama, count
):
    answers = answering.generate(*float_llama, QUESTIONS, max_new_tokens=count)
    assert answers == [greedy(*float_llama, question, count) for question in QUESTIONS]
    assert len(set(answers)) > 1


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_answers_do_not_depend_on_how_many_are_made_at_once(float_llama, at_once):
    together = answering.generate(*float_llama, QUESTIONS, max_new_tokens=12, at_once=4)
    assert together == answering.generate(
        *float_llama, QUESTIONS, max_new_tokens=12, at_once=at_once
    )


def test_answers_come_in_the_order_of_the_prompts(float_llama):
    forwards = answering.generate(*float_llama, QUESTIONS, max_new_tokens=6, at_once=2)
    backwards = answering.generate(*float_llama, QUESTIONS[::-1], max_new_tokens=6, at_once=2)
    assert forwards == backwards[::-1]


def test_a_question_is_a_text_or_a_list_of_messages(float_llama):
    as_text = answering.generate(*float_llama, ["Why?"], max_new_tokens=6)
    messages = [{"role": "user", "content": "Why?"}]
    assert as_text == answering.generate(*float_llama, [messages], max_new_tokens=6)
    before = [*messages, {"role": "assistant", "content": "So."}, {"role": "user", "content": "?"}]
    assert as_text != answering.generate(*float_llama, [before], max_new_tokens=6)


def test_the_start_token_stands_once_also_where_the_tokenizer_adds_one_by_itself(float_llama):
    """As Llama-2's tokenizer does; the template holds one already."""
    from tokenizers.processors import TemplateProcessing

    model, tokenizer = float_llama
    eager = deepcopy(tokenizer)
    start = (eager.bos_token, eager.bos_token_id)
    eager.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{start[0]} $A", special_tokens=[start]
    )
    assert eager("Why?")["input_ids"][0] == eager.bos_token_id
    for ask in (
        lambda tokenizer: answering.generate(model, tokenizer, QUESTIONS, max_new_tokens=6),
        lambda tokenizer: evaluation.answer_losses(model, tokenizer, tiny_run.conversations(3)),
        lambda tokenizer: answering.next_token_logits(model, tokenizer, "Why?").tolist(),
    ):
        assert ask(eager) == ask(tokenizer)


@pytest.mark.parametrize(
    "form", [lambda messages: messages, lambda messages: messages[0], lambda messages: [messages]]
)
def test_one_message_is_one_prompt_whatever_is_around_it(float_llama, form):
    prompt = form([{"role": "user", "content": "Why?"}])
    assert answering.generate(*float_llama, prompt, max_new_tokens=3) == answering.generate(
        *float_llama, ["Why?"], max_new_tokens=3
    )


def test_prompts_that_are_made_one_by_one_are_all_answered(float_llama):
    answers = answering.generate(*float_llama, (q for q in QUESTIONS), max_new_tokens=3)
    assert answers == answering.generate(*float_llama, QUESTIONS, max_new_tokens=3)


def test_a_text_longer_than_the_model_can_read_is_refused_by_number_and_by_id(float_llama):
    long = "word " * 600
    said = refusal(answering.generate, *float_llama, ["Why?", long], max_new_tokens=3)
    assert "Prompt 2 with max_new_tokens = 3" in said and "512 positions" in said
    row = {
        "id": "long one",
        "conversations": [
            {"role": "user", "content": long},
            {"role": "assistant", "content": "Yes."},
        ],
        "score": None,
    }
    assert "'long one' takes" in refusal(
        evaluation.answer_losses, *float_llama, data.as_dataset([row])
    )


@pytest.mark.parametrize("question", [None, ["Why?"], {"role": "user", "content": "Why?"}])
def test_the_question_of_a_next_token_is_a_text(float_llama, question):
    assert "is no text" in refusal(answering.next_token_logits, *float_llama, question)


def test_numbers_of_different_rows_are_not_compared():
    assert "3 and 2 numbers" in refusal(evaluation.change, [1.0, 2.0, 3.0], [1.0, 2.0])
    assert "3 and 1 numbers" in refusal(evaluation.measure, [1.0, 2.0, 3.0], [1.0])


def test_no_questions_get_no_answers(float_llama):
    assert answering.generate(*float_llama, [], max_new_tokens=6) == []


def test_a_trained_model_stops_by_itself_and_its_end_token_is_not_in_the_answer(trained):
    """The tiny Llama has learnt that answers are short."""
    questions = data.questions(tiny_run.conversations(8))
    short, long = (
        answering.generate(trained.model, trained.tokenizer, questions, max_new_tokens=count)
        for count in (30, 60)
    )
    assert any(a == b for a, b in zip(short, long, strict=True))
    assert not any("</s>" in answer for answer in long)


def test_sampled_answers_are_the_same_for_the_same_seed_only(float_llama):
    def sample(seed):
        return answering.generate(
            *float_llama, QUESTIONS, max_new_tokens=8, temperature=1.0, seed=seed
        )

    assert sample(1) == sample(1) != sample(2)
    assert sample(1) != answering.generate(*float_llama, QUESTIONS, max_new_tokens=8)


def test_sampling_among_one_token_is_greedy(float_llama):
    likeliest = answering.generate(*float_llama, QUESTIONS, max_new_tokens=8)
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}):
        assert likeliest == answering.generate(
            *float_llama, QUESTIONS, max_new_tokens=8, temperature=1.5, **narrow
        )


def test_the_homework_s_decoding_is_accepted(float_llama):
    settings = homework.DECODING | {"max_new_tokens": 4}
    assert len(answering.generate(*float_llama, QUESTIONS, **settings)) == 4


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"temperature": 0}, "temperature = 0"),
        ({"temperature": -1.5}, "temperature = -1.5"),
        ({"temperature": math.nan}, "temperature = nan"),
        ({"temperature": 1.0, "top_p": 0}, "top_p = 0"),
        ({"temperature": 1.0, "top_p": 1.1}, "top_p = 1.1"),
        ({"temperature": 1.0, "top_k": -1}, "top_k = -1"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0"),
        ({"max_new_tokens": 2.5}, "max_new_tokens = 2.5"),
    ],
)
def test_decoding_that_means_nothing_is_refused_and_named(float_llama, change, named):
    with pytest.raises(CourseError) as caught:
        answering.generate(*float_llama, QUESTIONS, **{"max_new_tokens": 4} | change)
    assert named in caught.value.what


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"temperature": "hot"}, "hot"),
        ({"temperature": True}, "temperature = True"),
        ({"temperature": 1.0, "top_p": "0.9"}, "top_p = '0.9'"),
        ({"temperature": 1.0, "top_k": None}, "top_k = None"),
        ({"top_k": 5}, "top_p = 1, top_k = 5 would change nothing"),
        ({"top_p": 0.5}, "top_p = 0.5, top_k = 0 would change nothing"),
        ({"temperature": 1.0, "top_k": 2.5}, "top_k = 2.5"),
        ({"at_once": 0}, "at_once = 0"),
    ],
)
def test_decoding_of_the_wrong_type_is_refused_and_named(float_llama, change, named):
    with pytest.raises(CourseError) as caught:
        answering.generate(*float_llama, QUESTIONS, **{"max_new_tokens": 4} | change)
    assert named in caught.value.what


def test_one_prompt_alone_is_a_list_of_one(float_llama):
    messages = [{"role": "user", "content": QUESTIONS[0]}]
    many = answering.generate(*float_llama, [QUESTIONS[0]], max_new_tokens=4)
    assert answering.generate(*float_llama, QUESTIONS[0], max_new_tokens=4) == many
    assert answering.generate(*float_llama, messages, max_new_tokens=4) == many


@pytest.mark.parametrize("wrong", [3, None, [], [{"role": "user"}], ["text"]])
def test_what_is_no_prompt_is_named(float_llama, wrong):
    with pytest.raises(CourseError) as caught:
        answering.generate(*float_llama, [QUESTIONS[0], wrong], max_new_tokens=4)
    assert f"{wrong!r:.60} is no prompt" in caught.value.what


# ------------------------------------------------------------------------------------- one token
def test_the_next_token_s_likeliest_is_what_the_answer_goes_on_with(float_llama):
    model, tokenizer = float_llama
    logits = answering.next_token_logits(model, tokenizer, QUESTIONS[1])
    assert logits.shape == (len(tokenizer),) and logits.dtype == torch.float32
    first = tokenizer.decode([logits.argmax().item()]).strip()
    assert [first] == answering.generate(*float_llama, [QUESTIONS[1]], max_new_tokens=1)
    later = answering.next_token_logits(model, tokenizer, QUESTIONS[1], " The colour")
    assert not torch.equal(later, logits)


@quick
@given(
    st.lists(st.integers(-100, 100), min_size=2, max_size=30, unique=True),
    st.sampled_from([0.3, 1.0, 1.5]),
    st.sampled_from([0.05, 0.5, 0.9]),
    st.integers(0, 40),
)
def test_sampling_is_among_the_same_tokens_as_transformers_samples_among(
    tenths, temperature, top_p, top_k
):
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.tensor(tenths) / 10
    steps = [TemperatureLogitsWarper(temperature), TopKLogitsWarper(top_k or len(tenths))]
    steps.append(TopPLogitsWarper(top_p))
    scores = logits[None]
    for step in steps:
        scores = step(None, scores)
    expected = torch.softmax(scores[0], 0)
    ids, probabilities = answering.candidates(
        logits, temperature=temperature, top_p=top_p, top_k=top_k
    )
    assert set(ids.tolist()) == set(expected.nonzero().flatten().tolist())
    torch.testing.assert_close(probabilities, expected[ids])
    assert probabilities.tolist() == sorted(probabilities.tolist(), reverse=True)


def test_without_limits_every_token_is_a_candidate():
    ids, _ = answering.candidates(torch.tensor([0.0, 10.0, 20.0]), temperature=1.0)
    assert ids.tolist() == [2, 1, 0]


def test_candidates_of_a_sampling_that_means_nothing_are_refused():
    for change in ({"temperature": 0}, {"temperature": 1.0, "top_p": 0}):
        with pytest.raises(CourseError):
            answering.candidates(torch.zeros(3), **change)


# ------------------------------------------------------------------------------------------- losses
def test_the_loss_of_an_answer_is_the_cross_entropy_of_its_tokens(float_llama):
    model, tokenizer = float_llama
    row = tiny_run.conversations(1)
    (loss,), (count,) = evaluation.answer_losses(model, tokenizer, row)

    ids = tokenizer.apply_chat_template(row[0]["conversations"], return_dict=True)["input_ids"]
    question = tokenizer.apply_chat_template(
        row[0]["conversations"][:1], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    # By hand: how likely was each token of the answer, given all before it?
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0]
        surprises = [
            -torch.log_softmax(logits[place - 1], dim=-1)[ids[place]].item()
            for place in range(len(question), len(ids))
        ]
        labels = [-100] * len(question) + ids[len(question) :]
        theirs = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.item()
    assert count == len(surprises)
    assert loss == pytest.approx(sum(surprises) / count, abs=1e-4)
    assert loss == pytest.approx(theirs, abs=1e-3)


@pytest.mark.parametrize("at_once", [1, 3, 12])
def test_losses_do_not_depend_on_the_batch_and_come_in_the_order_of_the_rows(float_llama, at_once):
    rows = tiny_run.conversations(12)
    losses, counts = evaluation.answer_losses(*float_llama, rows)
    again, counts_again = evaluation.answer_losses(*float_llama, rows, at_once=at_once)
    assert again == pytest.approx(losses, abs=1e-5) and counts_again == counts
    backwards, _ = evaluation.answer_losses(*float_llama, rows.select(range(11, -1, -1)))
    assert backwards[::-1] == pytest.approx(losses, abs=1e-5)
    assert len(set(losses)) == 12


def test_only_the_last_answer_counts_and_its_end_token_with_it(float_llama):
    from datasets import Dataset

    _, tokenizer = float_llama
    turns = [
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Green it is, without any doubt."},
        {"role": "user", "content": "Another?"},
        {"role": "assistant", "content": "Violet."},
    ]
    rows = Dataset.from_list([{"id": "x", "conversations": turns, "score": None}])
    _, (count,) = evaluation.answer_losses(*float_llama, rows)
    answer = tokenizer(" Violet. ", add_special_tokens=False)["input_ids"]
    assert count == len(answer) + 1
    assert evaluation.references(rows) == ["Violet."]


def test_training_lowers_the_loss_of_what_was_trained(trained, tiny_llama):
    rows = tiny_run.conversations()
    before, _ = evaluation.answer_losses(*models.load(tiny_llama, max_seq_length=512), rows)
    after, counts = evaluation.answer_losses(trained.model, trained.tokenizer, rows)
    assert evaluation.change(before, after, counts).high < 0


def test_a_row_without_an_answer_is_refused_by_name(float_llama):
    rows = data.load_conversations(data.OUR_TEST_SET).select(range(2))
    with pytest.raises(CourseError, match=rows["id"][0]):
        evaluation.answer_losses(*float_llama, rows)


# ---------------------------------------------------------------------------------------- intervals
@quick
@given(numbers)
def test_a_measure_lies_inside_its_interval_and_that_inside_the_values(values):
    m = evaluation.measure(values)
    assert m.count == len(values)
    assert m.mean == pytest.approx(sum(values) / len(values), abs=1e-9)
    assert min(values) - 1e-9 <= m.low <= m.high <= max(values) + 1e-9


@quick
@given(numbers)
def test_the_interval_of_symmetric_values_holds_their_mean(values):
    m = evaluation.measure([sign * value for value in values for sign in (1, -1)])
    assert m.mean == pytest.approx(0, abs=1e-9)
    assert m.low <= 1e-9 and m.high >= -1e-9


@quick
@given(numbers, st.floats(-50, 50), st.floats(0.1, 10))
def test_a_measure_moves_and_stretches_with_its_values(values, shift, factor):
    m = evaluation.measure(values)
    moved = evaluation.measure([factor * value + shift for value in values])
    for name in ("mean", "low", "high"):
        assert getattr(moved, name) == pytest.approx(factor * getattr(m, name) + shift, abs=1e-6)


@quick
@given(st.lists(st.tuples(st.floats(-100, 100), st.integers(1, 50)), min_size=1, max_size=20))
def test_a_weighted_mean_counts_a_row_as_often_as_its_weight(pairs):
    values, weights = zip(*pairs, strict=True)
    repeated = [value for value, weight in pairs for _ in range(weight)]
    mean = sum(repeated) / len(repeated)
    m = evaluation.measure(values, weights)
    assert m.mean == pytest.approx(mean, abs=1e-9)
    assert m.count == len(values)


@quick
@given(numbers, st.integers(1, 9))
def test_equal_weights_are_no_weights(values, weight):
    plain, weighted = evaluation.measure(values), evaluation.measure(values, [weight] * len(values))
    for name in ("mean", "low", "high"):
        assert getattr(weighted, name) == pytest.approx(getattr(plain, name), abs=1e-9)


def test_the_interval_is_the_usual_one_and_narrows_with_the_root_of_the_number_of_rows():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(400, generator=generator).tolist()
    few, many = evaluation.measure(values[:100]), evaluation.measure(values)
    # 95 % of a normal distribution lie within 1.96 standard errors.
    assert many.high - many.low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(2, rel=0.2)


def test_a_paired_change_is_narrower_than_two_separate_measures():
    generator = torch.Generator().manual_seed(0)
    before = (10 * torch.rand(60, generator=generator)).tolist()
    after = [value - 1 + 0.1 * (i % 3) for i, value in enumerate(before)]
    paired = evaluation.change(before, after)
    separate = evaluation.measure(after)
    assert paired.mean == pytest.approx(-0.9) and paired.count == 60
    assert paired.high - paired.low < (separate.high - separate.low) / 10


def share_of_intervals_that_hold_the_mean(rows: int, trials: int = 300) -> float:
    generator = torch.Generator().manual_seed(0)
    found = [
        evaluation.measure(torch.randn(rows, generator=generator).tolist()) for _ in range(trials)
    ]
    return sum(m.low <= 0 <= m.high for m in found) / trials


def test_of_many_sets_of_rows_19_in_20_intervals_hold_the_mean_and_fewer_where_rows_are_few():
    assert 0.92 <= share_of_intervals_that_hold_the_mean(64) <= 0.98
    assert share_of_intervals_that_hold_the_mean(5) < 0.9


def test_the_same_rows_give_the_same_interval_each_time():
    assert evaluation.measure([1, 2, 5]) == evaluation.measure([1, 2, 5])


def test_a_measure_prints_mean_interval_and_count():
    m = evaluation.Measure(1.234, 1.0, 2.0, 7)
    assert str(m) == "1.23 (95 % interval 1.00 to 2.00, n = 7)"


def test_an_average_of_nothing_is_refused():
    with pytest.raises(CourseError, match="nothing to average"):
        evaluation.measure([])


# --------------------------------------------------------------------------------------------- chrF
def test_chrf_is_100_for_the_same_text_and_0_for_another_one():
    same, other, near = evaluation.chrf(
        ["Green leaves.", "xyz", "Green leaf."], ["Green leaves.", "abc", "Green leaves."]
    )
    assert same == pytest.approx(100) and other == 0
    assert 50 < near < 100


@pytest.mark.parametrize(
    ("answers", "references", "said"),
    [
        ("abc", ["abc"], "answers: 'abc' is a str, where a list belongs"),
        (["abc"], "abd", "references: 'abd' is a str"),
        (["abc", None], ["a", "b"], "answers: None is a NoneType, where a text belongs"),
        (["abc"], ["a", "b"], "1 answers and 2 references"),
    ],
)
def test_chrf_takes_two_lists_of_texts(answers, references, said):
    with pytest.raises(CourseError) as caught:
        evaluation.chrf(answers, references)
    assert said in caught.value.what


def test_chrf_is_sacrebleu_s(trained):
    from sacrebleu import sentence_chrf

    rows = data.load_conversations(data.OUR_HELDOUT).select(range(4))
    references = evaluation.references(rows)
    answers = [text[:40] for text in reversed(references)]
    expected = [sentence_chrf(a, [r]).score for a, r in zip(answers, references, strict=True)]
    assert evaluation.chrf(answers, references) == pytest.approx(expected)


# ------------------------------------------------------------------------------ the homework's files
PROMPTS = [[{"role": "user", "content": "Wie groß?"}], [{"role": "user", "content": "多大？"}]]
IDS, ANSWERS = ["b", "a"], ["So groß.", 'Very "big".']


def test_predictions_have_the_homework_s_form(tmp_path):
    path = homework.write_predictions(
        tmp_path / "new" / "pred.json", PROMPTS, IDS, ANSWERS, "llama-2-7b"
    )
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content == {
        "b": {"input": PROMPTS[0], "output": ["So groß."]},
        "a": {"input": PROMPTS[1], "output": ['Very "big".']},
    }
    assert list(content) == IDS
    # Letters stay letters.
    assert "多大" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("model", ["llama-2-7b", "unsloth/Llama-2-7b-bnb-4bit"])
def test_predictions_of_the_homework_s_model_say_so(tmp_path, capsys, model):
    homework.write_predictions(tmp_path / "pred.json", PROMPTS, IDS, ANSWERS, model)
    about = json.loads((tmp_path / "pred_about.json").read_text())
    assert about["base_model"] == model
    for text in (about["note"], capsys.readouterr().out):
        assert "unsloth/Llama-2-7b-bnb-4bit" in text and "not for handing in" not in text


@pytest.mark.parametrize("model", ["smollm2-135m", "unsloth/llama-2-7b", "/a/folder"])
def test_predictions_of_another_base_model_say_that_they_are_not_for_handing_in(
    tmp_path, capsys, model
):
    homework.write_predictions(tmp_path / "pred.json", PROMPTS, IDS, ANSWERS, model)
    about = json.loads((tmp_path / "pred_about.json").read_text())
    for text in (about["note"], capsys.readouterr().out):
        assert model in text and "not for handing in" in text


@pytest.mark.parametrize(("ids", "answers"), [(IDS[:1], ANSWERS), (IDS, ANSWERS[:1]), ([], [])])
def test_a_missing_id_or_answer_is_refused_and_nothing_is_written(tmp_path, ids, answers):
    with pytest.raises(CourseError, match="2 prompts"):
        homework.write_predictions(tmp_path / "pred.json", PROMPTS, ids, answers, "llama-2-7b")
    assert list(tmp_path.iterdir()) == []


def test_an_id_that_stands_twice_is_refused_and_nothing_is_written(tmp_path):
    from datasets import Dataset

    ids = Dataset.from_dict({"id": ["a", "a"]})["id"]
    with pytest.raises(CourseError, match="more than once .* 'a'"):
        homework.write_predictions(tmp_path / "pred.json", PROMPTS, ids, ANSWERS, "llama-2-7b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    not HOMEWORK_TEST_SET.exists(), reason="the homework's test set is not part of this repository"
)
def test_the_homework_s_150_questions_become_150_predictions(tmp_path):
    rows = data.load_conversations(HOMEWORK_TEST_SET)
    answers = [f"answer {i}" for i in range(len(rows))]
    path = homework.write_predictions(
        tmp_path / "pred.json", data.questions(rows), rows["id"], answers, "smollm2-135m"
    )
    content = json.loads(path.read_text(encoding="utf-8"))
    assert len(content) == 150
    first = json.loads(HOMEWORK_TEST_SET.read_text(encoding="utf-8"))[0]
    assert content[first["id"]] == {
        "input": [{"role": "user", "content": first["conversations"][0]["value"]}],
        "output": ["answer 0"],
    }


def test_the_training_config_has_the_homework_s_nine_settings(tmp_path):
    record = {
        "choice": Choice().to_dict(),
        "per_device_train_batch_size": 2,
        "warmup_steps": 10,
        "learning_rate": 2e-4,
    }
    path = homework.write_training_config(tmp_path / "training_config.json", record)
    assert json.loads(path.read_text()) == {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "warmup_steps": 10,
        "num_train_epochs": 2,
        "learning_rate": 2e-4,
        "optim": "adamw_8bit",
        "weight_decay": 0.01,
        "lr_scheduler_type": "linear",
        "seed": 3407,
    }


def test_the_training_config_of_a_real_run_is_what_it_was_trained_with(trained, tmp_path):
    path = homework.write_training_config(tmp_path / "config.json", trained.run.record)
    written, args = json.loads(path.read_text()), trained.trainer.args
    # Without a GPU, Unsloth trains with another optimizer than the 8-bit one that was asked for.
    same = {name for name in written if name != "optim"}
    assert {name: written[name] for name in same} == {name: getattr(args, name) for name in same}


# --------------------------------------------------------------------------------- a disk that refuses
def both_files(path: Path):
    record = {"choice": Choice().to_dict(), "per_device_train_batch_size": 2, "warmup_steps": 1}
    return [
        lambda: homework.write_predictions(path, PROMPTS, IDS, ANSWERS, "llama-2-7b"),
        lambda: homework.write_training_config(path, record | {"learning_rate": 1e-4}),
    ]


@pytest.mark.parametrize("which", [0, 1])
def test_a_folder_that_cannot_be_made_is_refused_and_named(tmp_path, which):
    (tmp_path / "taken").write_text("a file")
    path = tmp_path / "taken" / "out.json"
    with pytest.raises(CourseError) as caught:
        both_files(path)[which]()
    assert str(path) in str(caught.value)
    assert (tmp_path / "taken").read_text() == "a file"


@pytest.mark.parametrize("which", [0, 1])
def test_a_full_disk_is_refused_and_named(tmp_path, which):
    path = tmp_path / "out.json"
    with files_limited_to(10), pytest.raises(CourseError) as caught:
        both_files(path)[which]()
    assert str(path) in str(caught.value) and "disk" in str(caught.value)


@pytest.mark.parametrize("which", [0, 1])
def test_a_full_disk_leaves_the_earlier_file_as_it_was(tmp_path, which):
    path = tmp_path / "out.json"
    path.write_text("earlier work")
    with files_limited_to(10), pytest.raises(CourseError):
        both_files(path)[which]()
    assert path.read_text() == "earlier work"


def test_rows_that_end_with_a_question_have_no_reference():
    pool = data.load_conversations(data.OUR_TEST_SET)
    assert "ends with a question" in refusal(evaluation.references, pool)
    assert "a slice of a dataset" in refusal(data.questions, pool[:3])


def test_penalty_and_beams_reach_the_model(float_llama):
    usual = answering.generate(*float_llama, QUESTIONS, max_new_tokens=12)
    for change in ({"repetition_penalty": 5.0}, {"num_beams": 3}):
        assert answering.generate(*float_llama, QUESTIONS, max_new_tokens=12, **change) != usual
    for change, said in (
        ({"num_beams": 0}, "num_beams = 0"),
        ({"repetition_penalty": -1}, "penalty = -1"),
    ):
        assert said in refusal(
            answering.generate, *float_llama, QUESTIONS, max_new_tokens=2, **change
        )
    assert "greedy" in refusal(
        answering.generate, *float_llama, QUESTIONS, max_new_tokens=2, temperature=0
    )
