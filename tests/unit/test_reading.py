"""Files of every kind people have, and what each of the inputs from public reports is read as or refused with."""

import gzip
import io
import json
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict
from rows import TRAINING_ROW, assistant, conversation, dataset, refusal, user, write, write_lines

from helpers import data

INPUTS = Path(__file__).parent / "inputs"
TREE = conversation("row_1", "Name a tree.", "Oak.")


def system(text: str) -> dict:
    return {"role": "system", "content": text}


def read(path: Path) -> list[dict]:
    return data.load_conversations(path).to_list()


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# ------------------------------------------------------------------------------ inputs from public reports
def with_messages(row_id: str, *messages: dict) -> dict:
    return {"id": row_id, "conversations": list(messages), "score": None}


READ = {
    "alpaca_with_template_text.jsonl": [TREE],
    "alpaca_history_system.json": [
        with_messages(
            "row_1",
            system("You answer in one short sentence."),
            user("List the whole numbers from 1 to 10."),
            assistant("1, 2, 3, 4, 5, 6, 7, 8, 9, 10."),
            user("And how many of those are prime?"),
            assistant("Four of them: 2, 3, 5 and 7."),
        ),
        conversation("row_2", "Name a bird that cannot fly.", "The ostrich."),
    ],
    "bom_in_the_middle.jsonl": [
        conversation("row_1", "What is 1 + 1?", "Two."),
        conversation("row_2", "What is 2 + 2?", "Four."),
    ],
    "conversations_as_text.json": [TREE | {"id": "t"}],
    "openai_content_parts.jsonl": [TREE],
    "prompt_completion.jsonl": [TREE],
    "roles_in_capitals.json": [TREE | {"id": "c"}],
    "sharegpt_top_level_system.json": [
        with_messages(
            "s1",
            system("You are a pirate. Always answer with 'Arr'."),
            user("Where is north?"),
            assistant("Arr, follow the pole star."),
        )
    ],
    "table.csv": [TREE],
    "trl_prompt_completion_messages.jsonl": [TREE],
    "wrapped_in_data.json": [TREE],
}


@pytest.mark.parametrize("name", READ)
def test_an_input_that_people_had_trouble_with_is_read(name, capsys):
    assert read(INPUTS / name) == READ[name]
    assert capsys.readouterr().out == ""


REFUSED = {
    "same_role_twice.json": "user and assistant do not take turns, the user first (found: user, user, ass",
    "sharegpt_starts_with_gpt.json": "do not take turns, the user first (found: assistant, user, assistant)",
    "tool_turns.json": "unknown role 'function_call'",
}


@pytest.mark.parametrize(("name", "why"), REFUSED.items())
def test_an_input_that_cannot_be_used_is_refused_by_row(name, why):
    message = refusal(data.load_conversations, INPUTS / name)
    assert message.startswith(f"{name}, row 1: ") and why in message
    assert "skip_unusable=True" in message


def test_rows_that_cannot_be_used_are_left_out_of_an_input_and_counted(capsys):
    rows = data.load_conversations(INPUTS / "sharegpt_starts_with_gpt.json", skip_unusable=True)
    assert rows.to_list() == [TREE | {"id": "x_1"}]
    assert capsys.readouterr().out == (
        "sharegpt_starts_with_gpt.json: 1 of 2 rows left out.\n"
        "  1 × user and assistant do not take turns, the user first (first: row 1)\n"
    )


def test_every_input_has_its_test():
    """The rest: marks and orders in test_tokens.py, overlap in test_selection.py."""
    elsewhere = {file.name for file in INPUTS.glob("end_mark_*")} | {
        "overlap_pool.json",
        "overlap_test.json",
        "system_in_the_middle.json",
        "two_systems.json",
    }
    assert {file.name for file in INPUTS.iterdir()} == set(READ) | set(REFUSED) | elsewhere


# ----------------------------------------------------------------------- what stands beside the messages
@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"tools": '[{"name": "weather"}]'}, "tools"),
        ({"tools": [{"name": "weather"}]}, "tools"),
        ({"history": [["Hello.", "Hi."]]}, "history"),
        ({"context": "The tree stands in Kent."}, "context"),
        ({"rejected": "Stone."}, "rejected"),
        ({"images": ["tree.png"]}, "images"),
        ({"earlier": [user("Hello."), assistant("Hi.")]}, "earlier"),
        ({"earlier": [["Hello.", "Hi."]]}, "earlier"),
        ({"prompt": "Name a bush."}, "prompt"),
        ({"text": "### Instruction: Name a tree. ### Response: Elm."}, "text"),
    ],
)
def test_a_field_that_holds_more_of_the_conversation_is_refused_and_named(tmp_path, beside, named):
    message = refusal(data.load_conversations, write(tmp_path, [TRAINING_ROW, TREE | beside]))
    assert message.startswith(f"rows.json, row 2: its field {named!r} would be lost")


@pytest.mark.parametrize(
    "beside",
    [
        {"tools": "", "history": [], "images": None, "system": "", "context": "[]"},
        {"prompt": "Name a tree."},
        {"text": "<s>[INST] Name a tree. [/INST] Oak. </s>"},
    ],
)
def test_a_field_that_is_empty_or_says_the_same_again_is_no_obstacle(tmp_path, beside, capsys):
    assert read(write(tmp_path, [TREE | beside])) == [TREE]
    assert capsys.readouterr().out == ""


def test_fields_that_are_not_read_are_named_once(tmp_path, capsys):
    rows = [TREE | {"id": f"r{i}", "source": "web", "topics": ["trees"], "n": 3} for i in range(5)]
    assert len(read(write(tmp_path, rows))) == 5
    assert capsys.readouterr().out == "rows.json: not read: 'source', 'topics', 'n'.\n"


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\r\ninstruction;output\r\nName a tree.;Oak.\r\n",
        "\ufeffinstruction;output;;\r\nName a tree.;Oak.;;\r\n;;;\r\n",
        "instruction,output,\nName a tree.,Oak.,\n\n,,\n",
    ],
)
def test_what_a_spreadsheet_adds_to_a_table_does_no_harm(tmp_path, text):
    rows = read(put(tmp_path, "rows.csv", text.encode()))
    assert rows == [conversation("row_1", "Name a tree.", "Oak.")]


def test_a_line_behind_the_separator_s_own_keeps_its_number(tmp_path):
    file = put(tmp_path, "rows.csv", b"sep=;\ninstruction;output\na;b\nc\n")
    assert refusal(data.load_conversations, file).startswith("rows.csv, line 4: 1 cells")


def test_a_score_with_a_comma_says_how_to_write_it(tmp_path):
    file = put(tmp_path, "rows.csv", b'instruction;output;score\na;b;"4,5"\n')
    assert "score '4,5' is not a number; write it with a point" in refusal(
        data.load_conversations, file
    )


def test_a_path_may_begin_at_home_and_must_be_a_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, [TREE])
    assert len(read("~/rows.json")) == 1
    for wrong in (None, 5, ["rows.json"], " "):
        assert f"path = {wrong!r} is no name of a file" in refusal(data.load_conversations, wrong)


def test_a_conversation_written_twice_is_read_once(tmp_path):
    pair = [user("Name a tree."), assistant("Oak.")]
    other = [{"from": "human", "value": "Name a tree."}, {"from": "gpt", "value": "Oak."}]
    rows = read(write(tmp_path, [{"conversations": pair, "messages": other}]))
    assert rows[0]["conversations"] == pair
    longer = {"conversations": pair, "messages": [*other, *other]}
    assert "its field 'messages' would be lost" in refusal(
        data.load_conversations, write(tmp_path, [longer])
    )


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ({"tool_calls": [{"name": "weather"}]}, "tool_calls"),
        ({"reasoning_content": "The user wants a tree."}, "reasoning_content"),
    ],
)
def test_a_part_of_a_message_that_would_be_lost_is_named(tmp_path, message, named):
    row = {"messages": [user("Name a tree."), assistant("Oak.") | message]}
    assert f"its field {named!r} would be lost" in refusal(
        data.load_conversations, write(tmp_path, [row])
    )


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (TREE | {"system": "Be brief.", "conversations": [system("Be loud."), user("x")]}, "two"),
        (TREE | {"system": ["Be brief."]}, "the system's message is empty or not text"),
        ({"messages": [user("x") | {"value": "y"}]}, "a message with two texts"),
        ({"messages": [user([{"type": "image_url", "image_url": "u"}])]}, "type 'image_url'"),
        ({"messages": [user([{"type": "text", "text": "x", "image": "u"}])]}, "not text"),
        ({"instruction": "x", "output": "y", "history": "Hello."}, "list of pairs"),
        ({"instruction": "x", "output": "y", "history": [["Hello."]]}, "list of pairs"),
        ({"conversations": "[{'role': 'user'}]"}, "'conversations' is text, and not JSON"),
        ({"conversations": {"role": "user"}}, "'conversations' holds a dict"),
        ({"question": "x", "answer": "y"}, "(its fields: 'question', 'answer')"),
        ({}, "(its fields: none)"),
        ({str(i): i for i in range(20)}, "'7', …)"),
        ({"prompt": "x", "response": "y"}, "its field 'response' would be lost"),
        ({"prompt": "x", "chosen": "y", "rejected": "z"}, "its field 'chosen' would be lost"),
    ],
)
def test_a_row_of_another_shape_is_refused_with_what_was_found(tmp_path, row, why):
    message = refusal(data.load_conversations, write(tmp_path, [TRAINING_ROW, row]))
    assert message.startswith("rows.json, row 2: ") and why in message


def test_a_system_message_that_stands_twice_is_one(tmp_path):
    row = TREE | {"system": "Be brief.", "conversations": [system("Be brief."), user("x")]}
    assert read(write(tmp_path, [row]))[0]["conversations"] == row["conversations"]


def test_several_parts_of_text_are_one_message(tmp_path):
    parts = [{"type": "text", "text": "One."}, {"type": "text", "text": "Two.", "image": None}]
    [row] = read(write(tmp_path, [{"messages": [user(parts)]}]))
    assert row["conversations"] == [user("One.\nTwo.")]


# ------------------------------------------------------------------------------------------------ JSON
def lines(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


OTHER = TREE | {"id": "other"}
JOINED = {
    "two arrays": json.dumps([TREE]) + json.dumps([OTHER]),
    "two arrays with byte order marks": "\ufeff"
    + json.dumps([TREE])
    + "\n\ufeff"
    + json.dumps([OTHER]),
    "lines without a line end": json.dumps(TREE) + json.dumps(OTHER),
    "an array and lines": json.dumps([TREE]) + "\n" + lines(OTHER),
    "objects over several lines": json.dumps(TREE, indent=2) + "\n" + json.dumps(OTHER, indent=2),
    "a table in a wrapper": json.dumps({"version": 1, "rows": [TREE, OTHER]}),
    "Windows line ends": lines(TREE, OTHER).replace("\n", "\r\n"),
}


@pytest.mark.parametrize("text", JOINED.values(), ids=JOINED.keys())
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.txt"])
def test_joined_json_is_read_under_any_name(tmp_path, text, name):
    assert read(put(tmp_path, name, text)) == [TREE, OTHER]


def test_a_bad_row_of_a_joined_file_has_its_number_in_the_whole(tmp_path):
    path = put(tmp_path, "rows.jsonl", json.dumps([TREE, OTHER]) + "\n" + lines({"id": "x"}))
    assert refusal(data.load_conversations, path).startswith("rows.jsonl, row 3: no conversation")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (lines(TREE) + '{"id": "a", }', "line 2: "),
        (lines(TREE) + "and so on", "line 2: "),
        ('[{"id": "a" "b"}]', "edited by hand"),
        ('[{"id": "a', "The file is cut off."),
        ('{"id": "a", "id": "b"}', "an object has two fields called 'id'"),
        ("[" * 100_000, "nested too deeply"),
        ('[{"score": ' + "9" * 5000 + "}]", "cannot be read as JSON"),
        ("instruction,output\nx,y", "is not JSON; it begins with 'instruction,output"),
        ("Once upon a time", "is not JSON; it begins with 'Once upon a time'"),
    ],
)
def test_json_that_cannot_be_read_is_refused_with_the_reason(tmp_path, content, why):
    message = refusal(data.load_conversations, put(tmp_path, "rows.json", content))
    assert "rows.json" in message and why in message


def packed(kind: str) -> bytes:
    text = lines(TREE).encode()
    if kind == "gzip":
        return gzip.compress(text)
    if kind == "zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("rows.jsonl", text)
        return buffer.getvalue()
    buffer = io.BytesIO()
    with pyarrow.ipc.new_file(buffer, pyarrow.schema([("a", pyarrow.int64())])):
        pass
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (packed("gzip"), "packed with gzip"),
        (packed("zip"), "zip archive"),
        (packed("arrow"), "an Arrow file"),
        (b"<!DOCTYPE html><title>Sign in</title>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_its_kind(tmp_path, content, why):
    message = refusal(data.load_conversations, put(tmp_path, "rows.json", content))
    assert message.startswith("rows.json cannot be read.") and why in message


def test_a_path_that_no_file_can_have_is_refused(tmp_path):
    assert "cannot be read" in refusal(data.load_conversations, tmp_path / ("x" * 300))
    assert "cannot be read" in refusal(data.load_conversations, f"{tmp_path}/x\0y")


# ------------------------------------------------------------------------------------------------- CSV
TABLES = {
    "commas": "instruction,input,output\nName a tree.,,Oak.\n",
    "semicolons, as Excel writes them in many countries": "instruction;output\nName a tree.;Oak.\n",
    "tabs": "instruction\toutput\nName a tree.\tOak.\n",
    "a byte order mark and Windows line ends": "\ufeffprompt,completion\r\nName a tree.,Oak.\r\n",
    "quotes and an empty line": '"instruction","output"\n\n"Name a tree.","Oak."\n',
    "messages as JSON": "messages\n"
    + '"[{""role"": ""user"", ""content"": ""Name a tree.""}, '
    + '{""role"": ""assistant"", ""content"": ""Oak.""}]"\n',
    "empty id and score": "id,instruction,output,score\n,Name a tree.,Oak.,\n",
}


@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES.keys())
def test_tables_are_read(tmp_path, text):
    assert read(put(tmp_path, "rows.csv", text)) == [TREE]


def test_a_table_keeps_texts_that_look_like_numbers_or_gaps(tmp_path):
    """Pandas, which `datasets` reads CSV with, would make them 7, a gap and a gap."""
    text = "id,instruction,output,score\n01,007,None,4.5\n02,NA,null,\n"
    assert read(put(tmp_path, "rows.csv", text)) == [
        conversation("01", "007", "None", score=4.5),
        conversation("02", "NA", "null"),
    ]


def test_a_cell_may_hold_separators_line_ends_and_long_texts(tmp_path):
    answer = "One, two;\n" * 20_000
    text = f'instruction,output\nName a tree.,"{answer}"\n'
    assert read(put(tmp_path, "rows.csv", text)) == [conversation("row_1", "Name a tree.", answer)]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("instruction,output\nx,y\nName a tree, please.,Oak.\n", "line 3: 3 cells in a table of 2"),
        ("instruction,output\nx\n", "line 2: 1 cells in a table of 2"),
        ('instruction,output\nx,"y\n', "line 2: unexpected end of data"),
        ("output,output\nx,y\n", "line 1: two columns have the same name"),
        ("question,answer\nx,y\n", "row 1: no conversation (its fields: 'question', 'answer')"),
        ("instruction,output,score\nx,y,good\n", "row 1: score 'good' is not a number"),
        ("instruction,output\n", "has no rows"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_with_line_or_row(tmp_path, text, why):
    message = refusal(data.load_conversations, put(tmp_path, "rows.csv", text))
    assert message.startswith("rows.csv") and why in message


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_table_in_another_encoding_is_refused_with_excel_s_name_for_utf_8(tmp_path, encoding):
    content = "instruction,output\nOù ?,Là.\n".encode(encoding)
    message = refusal(data.load_conversations, put(tmp_path, "rows.csv", content))
    assert "rows.csv is not UTF-8 text" in message and "CSV UTF-8" in message
    assert ("UTF-16" in message) == (encoding == "utf-16")


def test_json_under_the_name_of_a_table_is_read(tmp_path):
    assert read(write(tmp_path, [TREE], "rows.csv")) == [TREE]


# --------------------------------------------------------------------------------------------- Parquet
SPELLINGS = {
    "the homework's": TREE,
    "ShareGPT's": {
        "id": "row_1",
        "conversations": [
            {"from": "human", "value": "Name a tree."},
            {"from": "gpt", "value": "Oak."},
        ],
    },
    "Alpaca's": {"instruction": "Name a tree.", "input": "", "output": "Oak."},
    "TRL's": {"prompt": [user("Name a tree.")], "completion": [assistant("Oak.")]},
}


@pytest.mark.parametrize("row", SPELLINGS.values(), ids=SPELLINGS.keys())
@pytest.mark.parametrize("name", ["rows.parquet", "rows"])
def test_parquet_is_read_in_every_spelling(tmp_path, row, name):
    Dataset.from_list([row]).to_parquet(tmp_path / name)
    assert read(tmp_path / name) == [TREE]


@pytest.mark.parametrize("kind", ["Parquet", "saved"])
def test_both_spellings_may_stand_in_one_table_whose_gaps_are_empty(tmp_path, kind):
    rows = Dataset.from_list([TREE, SPELLINGS["ShareGPT's"] | {"id": "other"}])
    assert rows[1]["conversations"][0]["role"] is None
    path = tmp_path / "rows"
    rows.to_parquet(path) if kind == "Parquet" else rows.save_to_disk(path)
    assert read(path) == [TREE, OTHER]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_parquet_that_is_cut_off_is_refused(tmp_path, share):
    path = tmp_path / "rows.parquet"
    dataset(*(TRAINING_ROW | {"id": str(i)} for i in range(50))).to_parquet(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    message = refusal(data.load_conversations, path)
    assert message.startswith("rows.parquet is not a complete Parquet file")


def test_a_bad_row_of_a_parquet_file_is_refused_by_its_number(tmp_path):
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(
        pyarrow.table({"instruction": ["x", "y"], "output": ["a", ""]}), path
    )
    assert refusal(data.load_conversations, path).startswith("rows.parquet, row 2: the assistant's")


# --------------------------------------------------------------------------------------------- folders
def test_of_several_splits_the_one_that_is_read_is_named(tmp_path, capsys):
    splits = {name: dataset(TRAINING_ROW | {"id": name}) for name in ("test", "train")}
    DatasetDict(splits).save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved")[0]["id"] == "train"
    assert "saved: reading 'train', one of test, train." in capsys.readouterr().out


def test_a_folder_of_files_is_refused_and_its_files_are_named(tmp_path):
    write_lines(tmp_path, [TREE], "train.jsonl")
    message = refusal(data.load_conversations, tmp_path)
    assert f"The folder {tmp_path} is not a saved dataset" in message
    assert "This one holds train.jsonl." in message
