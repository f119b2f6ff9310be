"""The label view: the rows as the trainer has them, each character whole, and every fault found where it is."""

import copy
import json
from html.parser import HTMLParser
from pathlib import Path

import llama_tokenizer
import pytest
import tiny_run
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import assistant, conversation, dataset, refusal, user

from helpers import data, labels, models, small_model, token_rows, training
from helpers.faults import Pieces, Row
from helpers.labels import LabelView

from transformers import AutoTokenizer, DataCollatorForLanguageModeling  # isort: skip
from trl import SFTConfig, SFTTrainer  # isort: skip  (Unsloth before them)
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling as TrlCollator  # isort: skip

INPUTS = Path(__file__).parent / "inputs"
MARKED = {name: INPUTS / f"end_mark_in_answer_{name}.json" for name in ("llama", "smollm")}
ASKED = {name: INPUTS / f"end_mark_in_question_{name}.json" for name in ("llama", "smollm")}
CHAT = conversation("chat", "Name a colour of the sky.", "Blue, or grey when it rains.")
LONG = conversation("long", "Count. " * 5, "One two three four. " * 20)


@pytest.fixture(scope="module")
def tokenizers():
    small = AutoTokenizer.from_pretrained(small_model.folder())
    return {"llama": llama_tokenizer.build(), "smollm": small}


@pytest.fixture
def small(tokenizers):
    """SmolLM2's tokenizer, to be changed."""
    return copy.deepcopy(tokenizers["smollm"])


@pytest.fixture(params=["llama", "smollm"])
def tokenizer(request, tokenizers):
    return tokenizers[request.param]


def seen(row) -> tuple:
    return row.number, row.name, row.ids, row.labels, row.real, row.faults


def names(row) -> list[str]:
    return [fault.name for fault in row.faults]


def learnt_ids(row) -> list[int]:
    return [label for label in row.labels if label != -100]


def without_padding(row: Row) -> Row:
    return Row(
        *([value for value, real in zip(part, row.real, strict=True) if real] for part in row)
    )


def shortest(count: int):
    return tiny_run.conversations(count)


def trainer_of(rows: Dataset, tokenizer, folder: Path, **settings) -> SFTTrainer:
    """A real trainer, by TRL's own defaults but for what is given."""
    collator = settings.pop("data_collator", None)
    settings = {"per_device_train_batch_size": 2, "report_to": "none"} | settings
    config = SFTConfig(output_dir=str(folder), bf16=False, disable_tqdm=True, **settings)
    return SFTTrainer(
        model=token_rows.stand_in(tokenizer, 512),
        args=config,
        train_dataset=rows,
        processing_class=tokenizer,
        data_collator=collator,
    )


# -------------------------------------------------------------------------------- as the trainer has them
@pytest.fixture
def built(use_tiny_llama, workspace):
    """A trainer as notebook 05 builds it, its conversations, some with marks in their answers, and the tokenizer."""
    marked = data.load_conversations(MARKED["llama"]).select(range(2)).to_list()
    conversations = data.as_dataset([*marked, *shortest(5).to_list()])
    _, tokenizer, trainer = tiny_run.build(conversations)
    return trainer, conversations, tokenizer


def test_a_tokenizer_alone_gives_the_rows_of_the_model_s_trainer(built):
    trainer, conversations, _ = built
    after = LabelView(trainer, conversations)
    before = LabelView.of(
        conversations,
        models.load_tokenizer(),
        max_length=tiny_run.CHOICE.max_length,
        rows_at_once=trainer.args.per_device_train_batch_size,
    )
    assert [*map(seen, before)] == [*map(seen, after)]
    assert any(not all(row.real) for row in after)


def test_the_view_shows_the_trainer_s_own_batches(built):
    trainer, conversations, tokenizer = built
    view = LabelView(trainer, conversations)
    at_once = trainer.args.per_device_train_batch_size
    for start in range(0, len(view), at_once):
        part = [trainer.train_dataset[i] for i in range(start, min(start + at_once, len(view)))]
        batch = trainer.data_collator(part)
        for i, row in enumerate(view.rows[start : start + at_once]):
            assert row.ids == batch["input_ids"][i].tolist()
            assert row.labels == batch["labels"][i].tolist()
            assert row.real == batch["attention_mask"][i].bool().tolist()
    pairs = data.to_prompt_completion(conversations)
    for row, pair in zip(view, pairs, strict=True):
        answer = tokenizer.decode(learnt_ids(row), skip_special_tokens=True)
        assert answer.split() == pair["completion"][0]["content"].split()
        assert not row.faults


def test_looking_changes_neither_trainer_nor_tokenizer(built):
    trainer, conversations, tokenizer = built
    before = trainer.train_dataset.to_list(), tokenizer.init_kwargs.copy(), len(tokenizer)
    LabelView(trainer, conversations)
    LabelView.of(conversations, tokenizer, max_length=tiny_run.CHOICE.max_length)
    assert (trainer.train_dataset.to_list(), tokenizer.init_kwargs, len(tokenizer)) == before
    training.train(trainer, tiny_run.CHOICE, conversations)
    assert trainer.state.global_step == trainer.state.max_steps


def test_padding_free_batches_are_cut_into_the_same_rows(tokenizer, tmp_path):
    """As on a GPU, where TRL's collator puts the rows of a batch one behind the other."""
    pairs = data.to_prompt_completion(shortest(5))
    padded = token_rows.collated(trainer_of(pairs, tokenizer, tmp_path))
    pad = tokenizer.pad_token_id
    for multiple in (None, 64):  # filled up behind the last row
        collator = TrlCollator(pad, padding_free=True, pad_to_multiple_of=multiple)
        flat = trainer_of(pairs, tokenizer, tmp_path, data_collator=collator)
        batch = collator([flat.train_dataset[i] for i in range(2)])
        assert len(batch["input_ids"]) == 1 and "attention_mask" not in batch
        assert token_rows.collated(flat) == [without_padding(row) for row in padded] != padded


def test_the_gpu_s_columns_give_the_same_rows(tokenizer, tmp_path, monkeypatch):
    """Unsloth's trainer on a GPU prepares rows with a function of its own, which runs anywhere."""
    from unsloth_zoo.dataset_utils import sft_prepare_dataset

    theirs = LabelView.of(shortest(5), tokenizer)
    monkeypatch.setattr(SFTTrainer, "_prepare_dataset", sft_prepare_dataset)
    ours = LabelView.of(shortest(5), tokenizer)
    assert [*map(seen, ours)] == [*map(seen, theirs)]
    cut = LabelView.of(dataset(LONG), tokenizer, max_length=8)
    assert names(cut[0]) == ["no answer left"]


def test_the_tokenizer_is_not_changed_and_nothing_is_printed(tokenizer, capfd):
    before = json.loads(tokenizer.backend_tokenizer.to_str()), tokenizer.special_tokens_map
    LabelView.of(shortest(3), tokenizer)
    assert (
        json.loads(tokenizer.backend_tokenizer.to_str()),
        tokenizer.special_tokens_map,
    ) == before
    assert capfd.readouterr().out == ""


# ----------------------------------------------------------------------------------------- tokens as texts
# SmolLM2's tokenizer has no token for some bytes, and takes <|endoftext|> for them; all these letters it can write.
letters = st.text(st.sampled_from("aZ09 \n$<|>é漢字的日本語한국어😀👩🏽…\u200d\u0301"), max_size=24)


@settings(max_examples=60)
@given(letters, st.sampled_from(["llama", "smollm"]))
def test_pieces_are_the_text_letter_by_letter(tokenizers, text, name):
    tokenizer = tokenizers[name]
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = Pieces(tokenizer).of(Row(ids, ids, [True] * len(ids)))
    # Llama's tokenizer begins a text with a space.
    space = " " if name == "llama" and text else ""
    assert "".join(piece.text for piece in pieces) == space + text
    assert sum(piece.tokens for piece in pieces) == len(ids)


def test_tokens_that_are_bytes_of_one_character_are_joined(tokenizer):
    ids = tokenizer.encode("漢", add_special_tokens=False)[-3:]
    pieces = Pieces(tokenizer).of(Row(ids, [-100] * 3, [True] * 3))
    assert pieces == [("漢", 3, "read", False)]
    row = LabelView.of(dataset(conversation("c", "漢", "One word.")), tokenizer)[0]
    assert "漢³" in repr(row) and "漢<sup>3</sup>" in row._repr_html_()


def test_half_a_character_stays_visible_and_swallows_nothing(tokenizer):
    half = tokenizer.encode("漢", add_special_tokens=False)[-3:-1]
    ids = [*half, tokenizer.eos_token_id]
    pieces = Pieces(tokenizer).of(Row(ids, ids, [True] * 3))
    assert [piece.text for piece in pieces] == ["�", tokenizer.eos_token]
    assert [piece.tokens for piece in pieces] == [2, 1]


# ------------------------------------------------------------------------------------------------- faults
def test_the_course_s_rows_have_none(tokenizer):
    assert LabelView.of(shortest(8), tokenizer).faults == {}


@pytest.mark.parametrize("name", ["llama", "smollm"])
@pytest.mark.parametrize("files", [MARKED, ASKED])
def test_marks_in_a_text_are_text_and_no_fault(tokenizers, files, name):
    assert LabelView.of(data.load_conversations(files[name]), tokenizers[name]).faults == {}


@pytest.mark.parametrize("name", ["llama", "smollm"])
def test_a_mark_in_an_answer_that_the_trainer_took_for_the_end(tokenizers, name, tmp_path):
    rows = data.to_prompt_completion(data.load_conversations(MARKED[name]))
    trainer = trainer_of(rows, tokenizers[name], tmp_path)
    for row in LabelView(trainer):
        assert names(row) == ["end token inside the answer"]
    training.prepare(trainer, rows)
    assert LabelView(trainer).faults == {}


def test_a_row_that_is_cut_off(tokenizer):
    whole = LabelView.of(dataset(CHAT, LONG), tokenizer)
    assert not whole.faults
    limit = whole[1].tokens - 5
    view = LabelView.of(dataset(CHAT, LONG), tokenizer, max_length=limit)
    assert not view[0].faults and names(view[1]) == ["cut off, no end token"]
    assert view[1].ids == whole[1].ids[:limit]
    assert f"max_length = {limit}" in repr(view)
    # Training itself refuses such a row.
    assert "long" in refusal(data.check_lengths, dataset(CHAT, LONG), tokenizer, limit)


def test_a_row_of_just_the_longest_length_is_whole(tokenizer):
    limit = LabelView.of(dataset(CHAT), tokenizer)[0].tokens
    assert not LabelView.of(dataset(CHAT), tokenizer, max_length=limit).faults


def test_a_question_that_fills_the_row_leaves_nothing_to_learn(tokenizer):
    view = LabelView.of(dataset(CHAT, LONG), tokenizer, max_length=12)
    for row in view:
        assert names(row) == ["no answer left"] and row.tokens == row.learnt == 0
    assert "left out by the trainer" in repr(view)


def test_a_row_without_a_label_that_counts(tokenizers, tmp_path):
    tokenizer = llama_tokenizer.build()
    # Writes the last message only where it is a question.
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    )
    pairs = data.to_prompt_completion(dataset(CHAT))
    view = LabelView(trainer_of(pairs, tokenizer, tmp_path, max_length=None))
    assert names(view[0]) == ["nothing learnt"] and view[0].learnt == 0 < view[0].tokens


def test_another_model_s_template(tokenizer):
    theirs = models.with_template(copy.deepcopy(tokenizer), "llama-3.1")
    row = LabelView.of(dataset(CHAT), theirs)[0]
    assert names(row) == ["another model's template", "no end token"]
    assert "<|start_header_id|>" in row.faults[0].why
    # A mark that the template has for other cases does not stand in the row.
    unused = copy.deepcopy(tokenizer)
    unused.chat_template += "{% if tools %}<|python_tag|>{% endif %}"
    assert LabelView.of(dataset(CHAT), unused).faults == {}
    # The same words in a message are no mark of the template.
    asked = dataset(conversation("q", "What is <|start_header_id|>?", "A mark of Llama 3."))
    assert LabelView.of(asked, tokenizer).faults == {}


def test_a_template_that_writes_no_end_token(tokenizer):
    open_ended = copy.deepcopy(tokenizer)
    open_ended.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    view = LabelView.of(dataset(CHAT), open_ended)
    assert names(view[0]) == ["no end token"]


def test_an_answer_that_ends_with_a_mark_at_which_answering_does_not_stop(small, tmp_path):
    small.eos_token = "<|endoftext|>"
    view = LabelView.of(dataset(CHAT), small)
    assert names(view[0]) == ["another end token"] and "<|im_end|>" in repr(view)
    # Where the model stops at both, nothing is wrong.
    trainer = trainer_of(data.to_prompt_completion(dataset(CHAT)), small, tmp_path)
    both = small.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    trainer.model.generation_config.eos_token_id = both
    assert LabelView(trainer).faults == {}


def test_two_begin_tokens(tokenizers, tmp_path):
    """A text that went through the template already, given as text: the tokenizer begins it again."""
    tokenizer = tokenizers["llama"]
    pair = {"prompt": "<s> [INST] Hello [/INST]", "completion": " Hello. "}
    view = LabelView(trainer_of(dataset(pair), tokenizer, tmp_path))
    assert names(view[0]) == ["two begin tokens"]
    once = {"prompt": "[INST] Hello [/INST]", "completion": " Hello. "}
    assert LabelView(trainer_of(dataset(once), tokenizer, tmp_path)).faults == {}


def test_an_end_token_that_the_labels_leave_out(small, tmp_path):
    small.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
        "<|im_end|>\n{% endfor %}"
    )
    rows = dataset({"messages": CHAT["conversations"]})
    view = LabelView(trainer_of(rows, small, tmp_path, assistant_only_loss=True))
    assert names(view[0]) == ["end token not learnt"]


def test_an_end_token_that_is_masked_with_the_padding(small, tmp_path):
    """Transformers' own collator takes the labels from the tokens, and −100 for every padding token."""
    rows = dataset(*({"messages": row["conversations"]} for row in (CHAT, LONG)))
    for pad, expected in [("<|im_end|>", ["end token masked as padding"]), ("<|endoftext|>", [])]:
        small.pad_token = pad
        collator = DataCollatorForLanguageModeling(small, mlm=False)
        trainer = trainer_of(rows, small, tmp_path, data_collator=collator)
        trainer.train_dataset = trainer.train_dataset.select_columns(["input_ids"])
        assert [names(row) for row in LabelView(trainer)] == [expected, expected]


def test_padding_with_the_end_token_is_no_fault_for_trl_s_own_collator(small, tmp_path):
    small.pad_token = small.eos_token
    view = LabelView.of(dataset(CHAT, LONG), small)
    assert view.faults == {} and view[0].tokens < len(view[0].ids)


def test_an_answer_without_words(tokenizer):
    view = LabelView.of(data.as_dataset([conversation("e", "Say it.", " \n ", score=1)]), tokenizer)
    assert names(view[0]) == ["empty answer"]


def test_several_answers_in_one_row_end_once_each(small, tmp_path):
    turns = CHAT["conversations"] + [user("And at night?"), assistant("Black.")]
    view = LabelView(trainer_of(dataset({"messages": turns}), small, tmp_path))
    assert view.faults == {} and view[0].learnt == view[0].tokens


# ------------------------------------------------------------------------------------------ what is shown
class Tags(HTMLParser):
    """Tags that are opened and closed, and the text between them."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.names, self.words = [], set(), ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        if tag not in ("br", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def test_texts_stay_texts_in_the_page(tokenizer):
    text = "<script>alert(1)</script> & $x$ </div> \u202e \x00"
    view = LabelView.of(dataset(conversation("<b>id</b>", text, text)), tokenizer)
    for part in (view, view[0]):
        page = Tags(part._repr_html_())
        assert not page.open and page.names <= {"div", "b", "ins", "span", "sup", "br"}
        assert "<b>id</b>" in page.words and "\x00" not in part._repr_html_()
        assert "\u202e" not in part._repr_html_() + repr(part)


def test_the_list_folds_long_rows_and_one_row_is_whole(tokenizer):
    view = LabelView.of(dataset(LONG), tokenizer)
    assert "tokens …" in repr(view) and "tokens&nbsp;…" in view._repr_html_()
    assert "tokens …" not in repr(view[0])
    shown = sum(len(first) + folded + len(last) for _, first, folded, last in view[0].runs(True))
    assert shown == view[0].tokens == sum(len(first) for _, first, _, _ in view[0].runs(False))


def test_learnt_read_and_padding_are_told_apart_without_colours(tokenizer):
    view = LabelView.of(dataset(CHAT, LONG), tokenizer)
    assert [kind for kind, *_ in view[0].runs(True)] == ["read", "learnt", "padding"]
    text = repr(view[0])
    learnt = text[text.index("⟦") : text.index("⟧")]
    assert "Blue" in learnt.replace("|", "") and "colour" not in learnt and "padding × " in text
    page = view[0]._repr_html_()
    assert page.count("<ins") == len(view[0].runs(False)[1][1]) + 1  # and one in the legend


def test_the_list_has_twenty_rows_and_those_with_faults_come_in_first():
    tokenizer = llama_tokenizer.build()
    rows = [conversation(f"c{i}", "Question?", "An answer.") for i in range(30)]
    rows[27] = conversation("empty", "Question?", " ")
    view = LabelView.of(dataset(*rows), tokenizer)
    assert [row.number for row in view.listed()] == [*range(19), 27] and len(view) == 30
    assert view[27].name == "empty" and [*view.faults.values()] == [[27]]
    assert "20 of 30 rows" in repr(view) and "faults in 1" in view._repr_html_()


def test_rows_have_their_conversation_s_id_and_the_answer_s_number(tokenizer):
    two = conversation("two", "One?", "Yes.", "Two?", "No.")
    view = LabelView.of(dataset(CHAT, two), tokenizer)
    assert [row.name for row in view] == ["chat", "two, answer 1", "two, answer 2"]


def test_a_slider_shows_each_row_and_leaves_the_list(tokenizers, monkeypatch):
    import IPython.display

    view, kept = LabelView.of(dataset(CHAT, LONG), tokenizers["llama"]), {}
    monkeypatch.setattr(IPython.display, "display", lambda data, raw: kept.update(data))
    slider = view.slider()
    place, shown = slider.children
    place.value = 1
    assert shown.value == view[1]._repr_html_()
    slider._ipython_display_()
    assert kept["text/html"] == view._repr_html_() and kept["text/plain"] == repr(view)
    assert kept["application/vnd.jupyter.widget-view+json"]["model_id"] == slider.model_id


# -------------------------------------------------------------------------------------------- wrong input
def test_a_row_that_is_not_there_is_refused(tokenizers):
    view = LabelView.of(dataset(CHAT), tokenizers["llama"])
    for number in (1, -1, "chat", 0.5):
        with pytest.raises(labels.CourseError):
            view[number]


def test_conversations_of_another_trainer_are_refused(tokenizers, tmp_path):
    trainer = trainer_of(data.to_prompt_completion(dataset(CHAT)), tokenizers["llama"], tmp_path)
    assert "2 rows" in refusal(LabelView, trainer, dataset(CHAT, LONG))


def test_more_than_the_homework_allows_and_what_a_template_refuses_are_refused(tokenizers):
    many = dataset(*(conversation(str(i), "Q", "A") for i in range(101)))
    assert "101" in refusal(LabelView.of, many, tokenizers["llama"])
    odd = data.load_conversations(INPUTS / "system_in_the_middle.json")
    assert "'m1' cannot be used" in refusal(LabelView.of, odd, tokenizers["llama"])
    assert "max_length" in refusal(LabelView.of, dataset(CHAT), tokenizers["llama"], max_length=0)
