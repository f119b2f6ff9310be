"""Letters that look alike, letters that nobody sees, wrappings: what hides a test question in training data."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import conversation, dataset

from helpers import data, homework, letters, selection

INPUTS = Path(__file__).parent / "inputs"
HOMEWORK = Path(__file__).parents[3] / "shared" / "hw5" / "test_set_evol_instruct_150.json"
TEST_SETS = [
    data.OUR_TEST_SET,
    pytest.param(
        HOMEWORK,
        marks=pytest.mark.skipif(
            not HOMEWORK.exists(), reason="the homework's test set is not beside this repository"
        ),
    ),
]
few = settings(max_examples=40)
P = homework.PREAMBLE
PAIRED = P.replace("a task.", "a task, paired with an input that provides further context.")
WRAPPINGS = {
    "nothing": "{}",
    "the homework's prompt": P + " ### Instruction: {}",
    "the whole Alpaca prompt": P + "\n\n### Instruction:\n{}\n\n### Response:",
    "the same on one line": P + " ### Instruction: {} ### Response:",
    "the preamble alone": P + "\n{}",
    "humans and assistants": "### Human: {}\n### Assistant:",
    "Anthropic's old prompt": "\n\nHuman: {}\n\nAssistant:",
    "Vicuna's prompt": "A chat between a curious user and an artificial intelligence assistant. The "
    "assistant gives helpful, detailed, and polite answers to the user's questions. USER: {} ASSISTANT:",
    "Llama-2's marks": "<s>[INST] {} [/INST]",
    "Llama-2's marks with a system message": "[INST] <<SYS>>\nBe kind and brief.\n<</SYS>>\n\n{} [/INST]",
    "Llama-3's marks": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "ChatML": "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
    "ChatML with a system message": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
    "Gemma's marks": "<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n",
    "Zephyr's marks": "<|user|>\n{}</s>\n<|assistant|>\n",
    "a label": "Instruction: {}",
    "labels in bold": "**Question:** {}\n\n**Answer:**",
    "Q and A": "Q: {}\nA:",
    "a request around it": "Please answer the following as well as you can.\n\n{}\n\nThink step by step.",
    "with its answer": "### Instruction:\n{}\n\n### Response:\nThe answer that one may expect.",
}


def found(texts: list[str], test) -> list[str]:
    """Ids of the test questions that are found in training questions."""
    rows = dataset(*(conversation(f"train {i}", text, "x") for i, text in enumerate(texts)))
    return [test_id for _, test_id in selection.overlap(rows, test)]


# ----------------------------------------------------------------------------------------- wrappings
@pytest.mark.parametrize("path", TEST_SETS)
@pytest.mark.parametrize("wrapping", WRAPPINGS.values(), ids=WRAPPINGS.keys())
def test_every_test_question_is_found_in_every_wrapping(path, wrapping):
    test = data.load_conversations(path)
    texts = [wrapping.replace("{}", data.question(row)) for row in test]
    assert found(texts, test) == list(test["id"])


@pytest.mark.parametrize("path", TEST_SETS)
@pytest.mark.parametrize(
    "wrapping",
    [
        PAIRED + "\n\n### Instruction:\n{}\n\n### Input:\n{}\n\n### Response:",
        "Instruction: {}\nInput: {}\nOutput:",
        "{}\n{}",
    ],
)
def test_a_question_that_is_split_into_instruction_and_input_is_found(path, wrapping):
    test = data.load_conversations(path)
    texts = []
    for row in test:
        words = data.question(row).split()
        half = len(words) // 2
        first, second = " ".join(words[:half]), " ".join(words[half:])
        texts.append(wrapping.replace("{}", first, 1).replace("{}", second, 1))
    assert found(texts, test) == list(test["id"])


def test_the_reported_pool_is_searched_whole():
    pool = data.load_conversations(INPUTS / "overlap_pool.json")
    test = data.load_conversations(INPUTS / "overlap_test.json")
    assert selection.overlap(pool, test) == [(row_id, "test_1") for row_id in pool["id"]]


def test_a_question_that_stands_in_a_system_message_is_found():
    row = conversation("a", "Well?", "x")
    row["conversations"].insert(0, {"role": "system", "content": "Why does ice float on water?"})
    test = dataset(conversation("t", "why does ice float on water"))
    assert selection.overlap(dataset(row), test) == [("a", "t")]


def test_the_test_set_may_be_the_wrapped_one():
    test = dataset(conversation("t", f"{P}\n\n### Instruction:\nName a river.\n\n### Response:"))
    assert found(["name a river"], test) == ["t"]


# ----------------------------------------------------------------------------------- letters that differ
FULL_WIDTH = {chr(c): chr(c + 0xFEE0) for c in range(0x21, 0x7F)}
CYRILLIC = dict(zip("aceopxyiABCEHKMOPTX", "асеорхуіАВСЕНКМОРТХ", strict=True))
DISGUISES = {
    "full-width letters": lambda t, _: "".join(FULL_WIDTH.get(c, c) for c in t),
    "Cyrillic letters": lambda t, _: "".join(CYRILLIC.get(c, c) for c in t),
    "capitals": lambda t, _: t.upper(),
    "no-break spaces": lambda t, _: t.replace(" ", "\u00a0"),
    "ideographic spaces": lambda t, _: t.replace(" ", "\u3000"),
    "zero-width spaces": lambda t, _: "\u200b".join(t),
    "zero-width spaces for spaces": lambda t, _: t.replace(" ", "\u200b"),
    "soft hyphens": lambda t, n: t[:n] + "\u00ad" + t[n:],
    "joiners and direction marks": lambda t, n: (
        "\u202a" + t[:n] + "\u2060\u200d" + t[n:] + "\u202c"
    ),
    "variation selectors": lambda t, n: t[:n] + "\ufe0f" + t[n:],
    "blank Hangul": lambda t, n: t[:n] + "\u3164" + t[n:],
    "byte order marks": lambda t, n: "\ufeff" + t[:n] + "\ufeff" + t[n:],
    "curly quotes": lambda t, _: t.replace("'", "’").replace('"', "”"),
    "dashes": lambda t, _: t.replace("-", "\u2011"),
    "accents": lambda t, n: t[:n] + "\u0301" + t[n:],
    "line ends": lambda t, _: t.replace(" ", "\r\n"),
    "other ends": lambda t, _: f"«{t.rstrip('?.! ')} …»",
    "quotes around it": lambda t, _: f"“{t}”",
    "Markdown": lambda t, _: f"## **{t}**",
}


@few
@given(
    st.sampled_from(sorted(DISGUISES)),
    st.sampled_from(sorted(DISGUISES)),
    st.sampled_from(list(WRAPPINGS.values())),
    st.integers(0, 30),
)
def test_a_disguised_question_is_found(first, second, wrapping, place):
    test = data.load_conversations(data.OUR_TEST_SET)
    texts = [
        wrapping.replace(
            "{}", DISGUISES[second](DISGUISES[first](data.question(row), place), place)
        )
        for row in test
    ]
    assert found(texts, test) == list(test["id"])


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_wrapping_in_disguise_is_seen_through(disguise):
    text = DISGUISES[disguise]("### Instruction:\nName a river in Africa.\n\n### Response:", 7)
    if disguise in ("other ends", "line ends"):
        text = text.replace("…»", "").replace("«", "")
    assert found([text], dataset(conversation("t", "Name a river in Africa?"))) == ["t"]


# ------------------------------------------------------------------------------------- and nothing else
@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("What is C++?", "What is C?"),
        ("What is C#?", "What is C?"),
        ("What is 2 + 2?", "What is 2 - 2?"),
        ("What is 12 + 2?", "What is 1 + 22?"),
        ("Name a river in", "Name a river in Africa."),
        ("Name a river in Africa that flows north.", "Name a river in Africa."),
        ("Why?\nWhy not?", "Why?"),
        ("???", "!"),
        ("### Response:", "### Instruction:"),
        ("", "?"),
    ],
)
def test_questions_that_differ_do_not_overlap(train, test):
    assert found([train], dataset(conversation("t", test))) == []


def test_no_question_of_the_course_is_taken_for_another():
    files = [data.OUR_POOL, data.OUR_HELDOUT, data.OUR_TEST_SET]
    rows = [row for file in files for row in data.load_conversations(file)]
    questions = [text for row in rows for text in data.asked(row)]
    assert len({letters.bare(text) for text in questions}) == len(questions)
    for i, one in enumerate(files):
        for other in files[i + 1 :]:
            pair = data.load_conversations(one), data.load_conversations(other)
            assert selection.overlap(*pair) == []


@pytest.mark.parametrize(
    ("text", "blank"),
    [
        ("", True),
        (" \n\t\u00a0\u2003\u3000\u2028", True),
        ("\u200b\u200c\u200d\u2060\ufeff\u00ad", True),
        ("\u3164\u115f\uffa0\u2800\ufe0f\U000e0101", True),
        ("\x00\x1b", True),
        (".", False),
        ("\u200bé", False),
        ("。", False),
        ("🙂", False),
    ],
)
def test_a_text_is_blank_where_nobody_can_see_a_letter(text, blank):
    assert letters.is_blank(text) is blank


@few
@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_has_a_question_and_its_own_is_found(text, other):
    possible = list(letters.possible_questions(text + "\n" + other, 2000))
    assert possible[0] == letters.bare(text + "\n" + other)
    bare = letters.bare(text)
    if len(bare) >= 10:
        assert bare in list(letters.possible_questions(f"Please say.\n{text}\nThank you.", 2000))
