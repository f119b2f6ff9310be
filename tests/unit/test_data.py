"""Reading and preparing conversations: real files in, real datasets out."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from datasets import DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import (
    TRAINING_ROW,
    assistant,
    conversation,
    dataset,
    refusal,
    short_rows,
    user,
    write,
    write_lines,
)

from helpers import data, homework, letters

HOMEWORK = Path(__file__).parents[3] / "shared" / "hw5" / "test_set_evol_instruct_150.json"
needs_homework = pytest.mark.skipif(
    not HOMEWORK.exists(), reason="the homework's test set is not beside this repository"
)
few = settings(max_examples=25)

TEST_ROW = {
    "id": "identity_2",
    "conversations": [{"from": "human", "value": "Name a river."}],
    "score": 5.0,
}


def refused_file(path: Path) -> str:
    """The message that a file is refused with; the file and its folder stay as they were."""
    before = {file: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
    message = refusal(data.load_conversations, path)
    assert path.name in message
    assert {f: f.read_bytes() for f in path.parent.iterdir() if f.is_file()} == before
    return message


# ------------------------------------------------------------------------------------- what can be read
def test_the_homeworks_training_spelling_is_read(tmp_path):
    rows = data.load_conversations(write(tmp_path, [TRAINING_ROW]))
    assert rows.to_list() == [TRAINING_ROW]


def test_the_homeworks_test_spelling_is_read_into_the_same_form(tmp_path):
    rows = data.load_conversations(write(tmp_path, [TEST_ROW]))
    assert rows.to_list() == [conversation("identity_2", "Name a river.", score=5.0)]


def test_a_path_may_be_text(tmp_path):
    assert len(data.load_conversations(str(write(tmp_path, [TRAINING_ROW])))) == 1


def test_both_spellings_may_stand_in_one_file(tmp_path):
    rows = data.load_conversations(write(tmp_path, [TRAINING_ROW, TEST_ROW]))
    assert rows["id"] == ["identity_1", "identity_2"]
    assert rows[1]["conversations"] == [user("Name a river.")]


def test_sharegpts_speakers_are_understood(tmp_path):
    turns = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "Name a river."},
        {"from": "gpt", "value": "The Nile."},
    ]
    [row] = data.load_conversations(write(tmp_path, [{"conversations": turns}]))
    assert row["conversations"] == [
        {"role": "system", "content": "Be brief."},
        user("Name a river."),
        assistant("The Nile."),
    ]


def test_openais_name_for_a_conversation_is_understood(tmp_path):
    [row] = data.load_conversations(
        write(tmp_path, [{"messages": [user("Name a river."), assistant("The Nile.")]}])
    )
    assert row["conversations"] == [user("Name a river."), assistant("The Nile.")]


def test_several_turns_are_kept(tmp_path):
    row = conversation("a", "Name a river.", "The Nile.", "Another?", "The Rhine.", score=3.0)
    assert data.load_conversations(write(tmp_path, [row])).to_list() == [row]


def test_missing_ids_are_made_from_the_row_number_and_missing_scores_stay_missing(tmp_path):
    rows = [{"conversations": TRAINING_ROW["conversations"]} for _ in range(3)]
    rows[1]["id"] = 7
    loaded = data.load_conversations(write(tmp_path, rows))
    assert loaded["id"] == ["row_1", "7", "row_3"]
    assert loaded["score"] == [None, None, None]


ALPACA = [
    {"instruction": "Name a river.", "input": "", "output": "The Nile."},
    {"instruction": "Translate into French.", "input": "Good day", "output": "Bonjour"},
]
ALPACA_READ = [
    conversation("row_1", "Name a river.", "The Nile."),
    conversation("row_2", "Translate into French.\nGood day", "Bonjour"),
]


@pytest.mark.parametrize("writer", [write, write_lines])
def test_alpaca_rows_are_read_as_json_and_as_json_lines(tmp_path, writer):
    assert data.load_conversations(writer(tmp_path, ALPACA)).to_list() == ALPACA_READ


def test_an_alpaca_row_may_lack_its_input(tmp_path):
    row = {"instruction": "Name a river.", "output": "The Nile."}
    assert data.load_conversations(write(tmp_path, [row])).to_list() == ALPACA_READ[:1]


def test_json_lines_may_be_a_single_line_and_hold_empty_ones(tmp_path):
    assert data.load_conversations(write_lines(tmp_path, [TRAINING_ROW])).to_list() == [
        TRAINING_ROW
    ]
    path = tmp_path / "gaps.jsonl"
    path.write_text(f"\n{json.dumps(TRAINING_ROW)}\n\n{json.dumps(TEST_ROW)}\n\n")
    assert data.load_conversations(path)["id"] == ["identity_1", "identity_2"]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085"])
def test_json_lines_end_only_at_a_line_feed(tmp_path, separator):
    row = conversation("a", f"One{separator}two?", "Yes.")
    path = write_lines(tmp_path, [row, TRAINING_ROW])
    assert data.load_conversations(path)[0] == row


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    path = tmp_path / "windows.json"
    path.write_text(json.dumps([TRAINING_ROW]), encoding="utf-8-sig")
    assert data.load_conversations(path).to_list() == [TRAINING_ROW]


def test_a_saved_dataset_folder_is_read(tmp_path):
    dataset(TRAINING_ROW).save_to_disk(tmp_path / "saved")
    assert data.load_conversations(tmp_path / "saved").to_list() == [TRAINING_ROW]


def test_a_saved_dataset_in_the_test_spelling_is_read(tmp_path):
    dataset(TEST_ROW).save_to_disk(tmp_path / "saved")
    assert data.load_conversations(tmp_path / "saved")["id"] == ["identity_2"]


@pytest.mark.parametrize(("splits", "first"), [(("test", "train"), "train"), (("valid",), "valid")])
def test_a_folder_with_splits_gives_the_training_split_or_the_only_one(tmp_path, splits, first):
    rows = {name: dataset(TRAINING_ROW | {"id": name}) for name in splits}
    DatasetDict(rows).save_to_disk(tmp_path / "saved")
    assert data.load_conversations(tmp_path / "saved")["id"] == [first]


text = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda t: not letters.is_blank(t))


@few
@given(
    st.lists(
        st.tuples(st.lists(text, min_size=1, max_size=4), st.none() | st.floats(-10, 10)),
        min_size=1,
        max_size=4,
    )
)
def test_every_valid_conversation_is_read_as_it_was_written(tmp_path_factory, drawn):
    rows = [conversation(f"c{i}", *texts, score=score) for i, (texts, score) in enumerate(drawn)]
    path = write(tmp_path_factory.mktemp("rows"), rows)
    assert data.load_conversations(path).to_list() == rows


# --------------------------------------------------------------------------------- files that are refused
def test_a_missing_file_is_refused(tmp_path):
    message = refusal(data.load_conversations, tmp_path / "rwos.json")
    assert f"There is no file {tmp_path / 'rwos.json'}." in message
    assert "correct the name" in message


@pytest.mark.parametrize("content", ["", " \n\t\n", "\ufeff"])
def test_an_empty_file_is_refused(tmp_path, content):
    path = tmp_path / "rows.json"
    path.write_text(content, encoding="utf-8")
    assert "rows.json is empty" in refused_file(path)


def test_an_empty_array_is_refused(tmp_path):
    assert "rows.json has no rows" in refused_file(write(tmp_path, []))


@pytest.mark.parametrize("indent", [None, 1])
def test_a_truncated_array_is_refused_wherever_it_ends(tmp_path, indent):
    whole = json.dumps([TRAINING_ROW, TRAINING_ROW | {"id": "b"}], indent=indent)
    path = tmp_path / "rows.json"
    for length in range(1, len(whole)):
        path.write_text(whole[:length])
        assert "rows.json is not complete JSON" in refusal(data.load_conversations, path)


def test_truncated_json_lines_are_refused_with_the_line(tmp_path):
    path = write_lines(tmp_path, [TRAINING_ROW, TEST_ROW])
    path.write_text(path.read_text()[:-20])
    assert "rows.jsonl is not complete JSON (line 2: " in refused_file(path)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "gb18030"])
def test_another_encoding_than_utf_8_is_refused(tmp_path, encoding):
    path = tmp_path / "rows.json"
    row = conversation("a", "Où est la gare? é", "Là.")
    path.write_text(json.dumps([row], ensure_ascii=False), encoding=encoding)
    message = refused_file(path)
    assert "rows.json is not UTF-8 text (byte " in message
    assert "Save the file again as UTF-8" in message


def test_a_path_through_a_file_is_refused(tmp_path):
    path = write(tmp_path, [TRAINING_ROW])
    assert str(path / "more.json") in refusal(data.load_conversations, path / "more.json")


def test_a_folder_that_is_no_saved_dataset_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing to see")
    message = refusal(data.load_conversations, tmp_path)
    assert f"The folder {tmp_path} is not a saved dataset" in message
    assert "save_to_disk" in message


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_saved_dataset_that_is_cut_off_is_refused(tmp_path, share):
    rows = [TRAINING_ROW | {"id": str(i)} for i in range(50)]
    dataset(*rows).save_to_disk(tmp_path / "saved")
    [arrow] = (tmp_path / "saved").glob("*.arrow")
    content = arrow.read_bytes()
    arrow.write_bytes(content[: int(share * len(content))])
    assert f"The folder {tmp_path / 'saved'} is not" in refusal(
        data.load_conversations, tmp_path / "saved"
    )


@pytest.mark.parametrize("damage", ["no rows", "empty state"])
def test_a_saved_dataset_without_rows_or_state_is_refused(tmp_path, damage):
    rows = dataset(TRAINING_ROW)
    (rows.select([]) if damage == "no rows" else rows).save_to_disk(tmp_path / "saved")
    if damage == "empty state":
        (tmp_path / "saved" / "state.json").write_text("{}")
    assert str(tmp_path / "saved") in refusal(data.load_conversations, tmp_path / "saved")


# ---------------------------------------------------------------------------------- rows that are refused
def turns(*messages: dict) -> dict:
    return {"conversations": list(messages)}


BAD_ROWS = {
    "a text in place of a row": ("What is 2 + 2?", "a str instead of an object"),
    "a number in place of a row": (4, "a int instead of an object"),
    "nothing in place of a row": (None, "a NoneType instead of an object"),
    "no conversation": ({"id": "a", "score": 1.0}, "no conversation"),
    "an empty conversation": (turns(), "no conversation"),
    "a text in place of a conversation": ({"conversations": "Hi."}, "no conversation"),
    "a text in place of a message": ({"conversations": ["Hi."]}, "a message that is not an object"),
    "an unknown role": (turns({"role": "tool", "content": "x"}), "unknown role 'tool'"),
    "an unknown speaker": (turns({"from": "bot", "value": "x"}), "unknown role 'bot'"),
    "no role": (turns({"content": "x"}), "unknown role None"),
    "a number in place of a role": (turns({"role": 1, "content": "x"}), "unknown role 1"),
    "an empty question": (turns(user(" \n"), assistant("x")), "the user's message is empty"),
    "an empty answer": (turns(user("x"), assistant("")), "the assistant's message is empty"),
    "no content": (turns(user("x"), {"role": "assistant"}), "the assistant's message is empty"),
    "a number for content": (turns({"role": "user", "content": 5}), "empty or not text"),
    "a list for content": (turns({"role": "user", "content": ["x"]}), "empty or not text"),
    "two questions in a row": (turns(user("x"), user("y")), "do not take turns"),
    "an answer first": (turns(assistant("x"), user("y")), "do not take turns"),
    "only a system message": (turns({"role": "system", "content": "x"}), "do not take turns"),
    "a text for a score": (TRAINING_ROW | {"score": "5"}, "score '5' is not a number"),
    "a truth value for a score": (TRAINING_ROW | {"score": True}, "score True is not a number"),
    "a list for an id": (TRAINING_ROW | {"id": ["a"]}, "id ['a'] is not text"),
    "a fraction for an id": (TRAINING_ROW | {"id": 1.5}, "id 1.5 is not text"),
    "an Alpaca row without an answer": ({"instruction": "x", "input": ""}, "must be text"),
    "an Alpaca row with an empty answer": (
        {"instruction": "x", "input": "", "output": ""},
        "the assistant's message is empty",
    ),
    "an Alpaca row without a question": (
        {"instruction": "", "input": "", "output": "x"},
        "the user's message is empty",
    ),
    "an Alpaca row of numbers": ({"instruction": 1, "output": 2}, "must be text"),
    "an answer nobody can see": (
        turns(user("x"), assistant("\u200b\u2060\u3164\ufeff")),
        "the assistant's message is empty",
    ),
    "a system message at the end": (
        turns(user("x"), assistant("y"), {"role": "system", "content": "z"}),
        "a system message stands last",
    ),
    "half a letter in an id": (TRAINING_ROW | {"id": "\ud800"}, "holds half a letter"),
}


@pytest.mark.parametrize(("row", "why"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_a_bad_row_is_refused_with_file_and_row(tmp_path, row, why):
    message = refused_file(write(tmp_path, [TRAINING_ROW, TEST_ROW, row], "my_rows.json"))
    assert message.startswith("my_rows.json, row 3: ")
    assert why in message
    assert "Mend or delete that row" in message


ODD_ROWS = {
    "a list for a role": turns({"role": ["user"], "content": "x"}),
    "a score that is not a number": TRAINING_ROW | {"score": float("nan")},
    "an infinite score": TRAINING_ROW | {"score": float("inf")},
    "a score beyond floating point": TRAINING_ROW | {"score": 10**400},
    "a truth value for an id": TRAINING_ROW | {"id": True},
    "half a letter": turns(user("\ud800"), assistant("x")),
}


@pytest.mark.parametrize("row", ODD_ROWS.values(), ids=ODD_ROWS.keys())
def test_an_odder_bad_row_is_refused_with_file_and_row(tmp_path, row):
    message = refused_file(write(tmp_path, [TEST_ROW, row], "my_rows.json"))
    assert message.startswith("my_rows.json, row 2: ")


@pytest.mark.parametrize("bad", [{"instruction": "x"}, {"conversations": [user("x"), user("y")]}])
def test_a_bad_row_of_a_saved_dataset_is_refused_with_folder_and_row(tmp_path, bad):
    dataset(bad).save_to_disk(tmp_path / "saved")
    assert refusal(data.load_conversations, tmp_path / "saved").startswith("saved, row 1: ")


def test_rows_that_cannot_be_used_can_be_left_out_and_are_counted_by_reason(tmp_path, capsys):
    bad = [
        {"instruction": "x", "input": "", "output": " "},
        conversation("e", "x", "\u200b\u00a0"),
        turns({"role": "robot", "content": "x"}),
        turns({"role": "tool", "content": "x"}),
        TRAINING_ROW,
        {"question": "x", "answer": "y"},
    ]
    path = write(tmp_path, [TRAINING_ROW, *bad, ALPACA[1]])
    assert "load_conversations(…, skip_unusable=True)" in refused_file(path)
    rows = data.load_conversations(path, skip_unusable=True)
    # Ids made from row numbers stay those of the file.
    assert rows["id"] == ["identity_1", "row_8"]
    assert capsys.readouterr().out.splitlines() == [
        "rows.json: 6 of 8 rows left out.",
        "  2 × the assistant's message is empty or not text (first: row 2)",
        "  1 × unknown role 'robot' (first: row 4)",
        "  1 × unknown role 'tool' (first: row 5)",
        "  1 × an id that an earlier row has (first: row 6)",
        "  1 × no conversation (first: row 7)",
    ]


@pytest.mark.parametrize("row", [row for row, _ in BAD_ROWS.values()], ids=BAD_ROWS.keys())
def test_every_bad_row_can_be_left_out(tmp_path, row, capsys):
    path = write(tmp_path, [TRAINING_ROW, row])
    assert data.load_conversations(path, skip_unusable=True).to_list() == [TRAINING_ROW]
    assert "rows.json: 1 of 2 rows left out." in capsys.readouterr().out


def test_leaving_out_says_nothing_where_every_row_can_be_used(tmp_path, capsys):
    rows = data.load_conversations(write(tmp_path, [TRAINING_ROW]), skip_unusable=True)
    assert (len(rows), capsys.readouterr().out) == (1, "")


def test_a_file_without_a_usable_row_is_refused_with_the_reason(tmp_path):
    path = write(tmp_path, [conversation("e", "x", "")])
    message = refusal(data.load_conversations, path, skip_unusable=True)
    assert message.startswith("rows.json has no row that can be used")
    assert "the assistant's message is empty" in message


def test_duplicate_ids_are_refused_with_both_rows(tmp_path):
    rows = [TRAINING_ROW, TEST_ROW, TRAINING_ROW]
    message = refused_file(write(tmp_path, rows))
    assert "rows.json, row 3: the id 'identity_1' also belongs to row 1" in message


def test_an_id_that_looks_like_a_made_up_one_is_refused_as_a_duplicate(tmp_path):
    unnamed = {"conversations": TRAINING_ROW["conversations"]}
    assert "'row_2'" in refused_file(write(tmp_path, [unnamed | {"id": "row_2"}, unnamed]))


# ----------------------------------------------------------------------------------- Alpaca's preamble
def test_the_preamble_goes_before_the_first_question_only():
    rows = dataset(conversation("a", "Name a river.", "The Nile.", "Another?", "The Rhine."))
    [row] = homework.with_preamble(rows)
    first, *rest = row["conversations"]
    assert first["content"] == f"{homework.PREAMBLE} ### Instruction: Name a river."
    assert rest == rows[0]["conversations"][1:]


def test_the_preamble_goes_before_the_question_and_not_before_a_system_message():
    row = conversation("a", "Name a river.", "The Nile.")
    row["conversations"].insert(0, {"role": "system", "content": "Be brief."})
    [changed] = homework.with_preamble(dataset(row))
    assert changed["conversations"][0] == {"role": "system", "content": "Be brief."}
    assert changed["conversations"][1]["content"].startswith(homework.PREAMBLE)


@few
@given(short_rows)
def test_the_preamble_is_added_once_however_often_it_is_asked_for(rows):
    once = homework.with_preamble(dataset(*rows))
    assert homework.with_preamble(once).to_list() == once.to_list()
    assert [data.question(row) for row in once] == [data.question(row).strip() for row in rows]
    assert (once["id"], once["score"]) == ([r["id"] for r in rows], [r["score"] for r in rows])


def test_the_question_is_the_last_one():
    row = conversation("a", "Name a river.", "The Nile.", "Another?")
    assert data.question(row) == "Another?"


# ------------------------------------------------------------------------------------ rows for training
@few
@given(
    exchanges=st.integers(1, 4),
    system=st.booleans(),
    open_question=st.booleans(),
    others=st.integers(0, 2),
)
def test_each_answer_is_a_completion_once_and_its_prompt_holds_all_before_it(
    exchanges, system, open_question, others
):
    texts = [f"{kind}{i}" for i in range(exchanges) for kind in ("question ", "answer ")]
    texts += ["and then?"] if open_question else []
    row = conversation("a", *texts)
    if system:
        row["conversations"].insert(0, {"role": "system", "content": "Be brief."})
    more = [conversation(f"b{i}", f"q{i}", f"a{i}") for i in range(others)]
    pairs = data.to_prompt_completion(dataset(row, *more)).to_list()
    answers = [
        message["content"]
        for r in (row, *more)
        for message in r["conversations"]
        if message["role"] == "assistant"
    ]
    assert [pair["completion"] for pair in pairs] == [[assistant(text)] for text in answers]
    for pair in pairs[:exchanges]:
        end = len(pair["prompt"])
        assert pair["prompt"] + pair["completion"] == row["conversations"][: end + 1]
    for i, pair in enumerate(pairs[exchanges:]):
        assert pair["prompt"] == [user(f"q{i}")]


def test_a_row_without_an_answer_is_refused_for_training():
    rows = dataset(conversation("fine", "q", "a"), conversation("identity_8174", "q"))
    message = refusal(data.to_prompt_completion, rows)
    assert "'identity_8174' has no answer" in message
    assert "test set" in message


def test_questions_end_before_the_last_answer():
    two = conversation("a", "q1", "a1", "q2", "a2")
    assert data.questions([two, conversation("b", "q")]) == [
        [user("q1"), assistant("a1"), user("q2")],
        [user("q")],
    ]
    assert len(two["conversations"]) == 4


def test_a_conversation_longer_than_the_sequence_is_refused_with_its_tokens(tiny_llama):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}</s>{% endfor %}"
    rows = dataset(conversation("short", "Hi.", "Yes."), conversation("long", "Hi. " * 40, "Yes."))
    short, long = data.check_lengths(rows, tokenizer, 512)
    assert 2 < short < 20 < long
    assert data.check_lengths(rows, tokenizer, long) == [short, long]
    message = refusal(data.check_lengths, rows, tokenizer, long - 1)
    assert f"'long' has {long} tokens (1 such), and max_length is {long - 1}" in message


# ----------------------------------------------------------------------------------- the homework's data
def git(*arguments: str) -> None:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


def redirect(monkeypatch, url: str) -> None:
    """Let git read ``url`` wherever it is asked for the homework's repository."""
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{url}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", homework.REPO)


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """A local repository with two files that stands for the homework's, without its commit."""
    folder = tmp_path / "repository"
    git("init", "--quiet", str(folder))
    write(folder, [TEST_ROW], "test_set_evol_instruct_150.json")
    write(folder, [TRAINING_ROW], "fastchat_alpaca_52k.json")
    git("-C", str(folder), "add", ".")
    git("-C", str(folder), "commit", "--quiet", "-m", "Data")
    redirect(monkeypatch, f"file://{folder}")
    return folder


def test_the_homeworks_data_is_fetched_once_at_its_commit(workspace, repository, capsys):
    # A tag of that name stands for the commit, and a later commit for what may have come since.
    git("-C", str(repository), "tag", homework.COMMIT)
    write(repository, [], "fastchat_alpaca_52k.json")
    git("-C", str(repository), "commit", "--quiet", "-am", "Later")
    folder = homework.fetch()
    assert folder == workspace / "homework"
    assert data.load_conversations(folder / "fastchat_alpaca_52k.json").to_list() == [TRAINING_ROW]
    assert [entry.name for entry in workspace.iterdir()] == ["homework"]

    # Damage is put right from what was fetched, without the network; other files stay.
    repository.rename(repository.with_name("gone"))
    (folder / "fastchat_alpaca_52k.json").write_text("[{")
    (folder / "test_set_evol_instruct_150.json").unlink()
    (folder / "mine.txt").write_text("notes")
    assert homework.fetch() == folder
    assert data.load_conversations(folder / "fastchat_alpaca_52k.json").to_list() == [TRAINING_ROW]
    assert (folder / "test_set_evol_instruct_150.json").exists() and (folder / "mine.txt").exists()
    # It may have been changed on purpose.
    assert (folder / "changed-fastchat_alpaca_52k.json").read_text() == "[{"
    # Where git cannot bring it back, what was there stays, and nothing else is said.
    (folder / "fastchat_alpaca_52k.json").write_text("mine")
    (folder / ".git" / "index.lock").touch()
    capsys.readouterr()
    assert homework.fetch() == folder
    assert (folder / "fastchat_alpaca_52k.json").read_text() == "mine"
    assert "is back" not in capsys.readouterr().out


def test_a_repository_without_the_commit_is_refused_and_nothing_is_left_behind(
    workspace, repository
):
    workspace.mkdir()
    (workspace / "choice.json").write_text("{}")
    message = refusal(homework.fetch)
    assert "The homework's data could not be fetched" in message
    assert homework.COMMIT in message
    assert [entry.name for entry in workspace.iterdir()] == ["choice.json"]


def test_no_network_is_told_and_nothing_is_left_behind(workspace, monkeypatch):
    # Nobody listens on the discard port.
    redirect(monkeypatch, "git://127.0.0.1:9/")
    message = refusal(homework.fetch)
    assert "The homework's data could not be fetched" in message
    assert "network" in message
    assert "the course's own conversations" in message
    assert list(workspace.iterdir()) == []


def test_a_machine_without_git_is_told_so(workspace, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    message = refusal(homework.fetch)
    assert "no program called git" in message
    assert list(workspace.iterdir()) == []


def test_the_pool_is_the_courses_own_until_the_homeworks_is_fetched(workspace, repository):
    assert data.pool_path() == data.OUR_POOL
    git("-C", str(repository), "tag", homework.COMMIT)
    homework.fetch()
    assert data.load_conversations(data.pool_path()).to_list() == [TRAINING_ROW]


def test_the_test_set_is_the_courses_own_until_the_homeworks_is_fetched(
    workspace, repository, monkeypatch
):
    monkeypatch.delenv("COURSE_TEST_SET", raising=False)
    assert data.test_set_path() == data.OUR_TEST_SET
    git("-C", str(repository), "tag", homework.COMMIT)
    homework.fetch()
    assert data.load_conversations(data.test_set_path())["id"] == ["identity_2"]
    monkeypatch.setenv("COURSE_TEST_SET", os.devnull)
    assert data.test_set_path() == Path(os.devnull)


def test_a_test_set_of_one_s_own_is_named_with_quotes_or_from_this_folder(tmp_path, monkeypatch):
    mine = write(tmp_path, [TEST_ROW], "my test set.json")
    monkeypatch.chdir(tmp_path)
    for named in (str(mine), f'"{mine}"', mine.name, f"'{mine.name}'"):
        monkeypatch.setenv("COURSE_TEST_SET", named)
        assert data.load_conversations(data.test_set_path())["id"] == ["identity_2"]


def test_a_test_set_that_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_TEST_SET", str(tmp_path / "gone.json"))
    message = refusal(data.test_set_path)
    assert message.startswith(f"COURSE_TEST_SET names {tmp_path / 'gone.json'}, and no such file")
    assert "%env COURSE_TEST_SET=" in message


@needs_homework
def test_the_homeworks_real_test_set_is_read():
    rows = data.load_conversations(HOMEWORK)
    assert len(rows) == len(set(rows["id"])) == 150
    assert None not in rows["score"]
    for row in rows:
        [message] = row["conversations"]
        assert message["role"] == "user"
        assert message["content"].startswith(homework.PREAMBLE)
        assert homework.PREAMBLE not in data.question(row)
        assert "### Instruction" not in data.question(row)
    assert homework.with_preamble(rows).to_list() == rows.to_list()


@needs_homework
def test_training_on_the_homeworks_test_set_is_refused():
    rows = data.load_conversations(HOMEWORK)
    assert f"{rows[0]['id']!r} has no answer" in refusal(data.to_prompt_completion, rows)
