"""Choosing and ordering conversations, and keeping the choice."""

import json
import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rows import TRAINING_ROW, conversation, dataset, refusal, short_rows, write

from helpers import data, homework, presets, selection
from helpers.runs import Run

few = settings(max_examples=25)

# -------------------------------------------------------------------------------------- sorting, choosing


@given(st.lists(st.lists(st.text("ab1.é", min_size=1), min_size=1), min_size=1, max_size=4))
def test_words_are_counted_over_all_messages(messages):
    row = conversation("a", *(" \n ".join(texts) for texts in messages))
    assert homework.words(row) == homework.simple_key(row) == sum(len(texts) for texts in messages)


def test_answer_words_are_those_of_the_assistant():
    assert selection.answer_words(conversation("a", "one two", "three", "four", "five six")) == 3
    assert selection.answer_words(conversation("a", "one two")) == 0


@given(st.integers(1, 500), st.integers(1, 500), st.floats(0, 10))
def test_the_advanced_key_is_the_homeworks_formula(asked, answered, score):
    row = conversation("a", "q " * asked, "a " * answered, score=score)
    assert homework.advanced_key(row) == 1e-5 * (asked + answered) + score


def test_the_advanced_key_needs_a_score():
    message = refusal(homework.advanced_key, conversation("lonely", "q", "a"))
    assert "'lonely' has no score" in message
    assert "simple_key" in message


@few
@given(short_rows, st.sampled_from([homework.simple_key, homework.advanced_key]), st.booleans())
def test_rows_are_ordered_by_the_key_and_equal_ones_keep_their_order(rows, key, largest_first):
    chosen = selection.select(dataset(*rows), key, largest_first=largest_first)
    assert sorted(chosen["id"]) == sorted(row["id"] for row in rows)
    sign = -1 if largest_first else 1
    order = [(sign * key(row), int(row["id"])) for row in chosen]
    assert order == sorted(order)


@few
@given(short_rows, st.integers(1, 100))
def test_the_limit_keeps_the_first_rows_of_the_order(rows, limit):
    pool = dataset(*rows)
    chosen = selection.select(pool, homework.simple_key, limit=limit)
    assert chosen["id"] == selection.select(pool, homework.simple_key)["id"][:limit]
    assert len(chosen) == min(limit, len(rows))


def test_a_key_of_ones_own_works():
    rows = dataset(conversation("a", "one two", "x"), conversation("b", "one", "x y z"))
    assert selection.select(rows, lambda row: len(row["conversations"][0]["content"]))["id"] == [
        "b",
        "a",
    ]


def test_more_than_100_rows_are_cut_to_100_by_default():
    rows = dataset(*(conversation(str(i), "q", "a") for i in range(101)))
    assert selection.select(rows, homework.simple_key)["id"] == [str(i) for i in range(100)]


@given(st.integers(max_value=0) | st.integers(min_value=101))
def test_no_limit_outside_1_to_100_is_accepted(limit):
    rows = dataset(conversation("a", "q", "a"))
    message = refusal(selection.select, rows, homework.simple_key, limit=limit)
    assert message.startswith(f"{limit} conversations were chosen")
    assert "1 to 100" in message


# ------------------------------------------------------------------------------------- keys that stop
THREE = dataset(*(conversation(name, f"question {name}", "x") for name in "abc"))


@pytest.mark.parametrize(
    ("returned", "named"),
    [
        (None, "None"),
        ("short", "'short'"),
        (math.nan, "nan"),
        ((1, None), "(1, None)"),
        ((1, "b"), "(1, 'b')"),
        ((math.nan, 1), "(nan, 1)"),
        ((), "()"),
        ({"a": 1}, "{'a': 1}"),
        (1j, "1j"),
    ],
)
@pytest.mark.parametrize("row_id", ["a", "c"])
def test_a_key_that_has_no_place_in_the_order_is_refused_with_the_row(returned, named, row_id):
    message = refusal(selection.select, THREE, lambda r: returned if r["id"] == row_id else 1)
    assert message.startswith(f"The sort key returned {named} for the conversation '{row_id}'")
    assert "number" in message


def test_keys_of_different_kinds_are_refused_with_the_row():
    message = refusal(selection.select, THREE, lambda r: (1, 2) if r["id"] == "b" else 1)
    assert "2 values, and for the first row 1 for the conversation 'b'" in message


def test_a_key_that_stops_is_named_with_the_row_and_its_error():
    message = refusal(selection.select, THREE, lambda r: -r["score"])
    assert "stopped at the conversation 'a': TypeError: bad operand type" in message
    assert "`None` for a score" in message


def test_a_key_s_own_refusal_comes_through():
    assert "'a' has no score" in refusal(selection.select, THREE, homework.advanced_key)


@pytest.mark.parametrize(
    "key",
    [
        lambda r: r["id"] == "b",
        lambda r: (r["id"] != "b", len(r["id"])),
        lambda r: [0 if r["id"] == "b" else 10**400],
        lambda r: -math.inf if r["id"] == "b" else 0.5,
    ],
    ids=["truth", "tuple", "list", "infinite"],
)
def test_whatever_can_be_ordered_is_a_key(key):
    smallest = selection.select(THREE, key)["id"]
    assert smallest in (["b", "a", "c"], ["a", "c", "b"])
    assert selection.select(THREE, key, largest_first=True)["id"] != smallest


def test_nothing_to_choose_from_is_said():
    assert "no row to choose from" in refusal(selection.select, THREE.select([]), homework.words)


@pytest.mark.parametrize("limit", [2.5, "10", True, None])
def test_a_limit_that_is_no_whole_number_is_refused(limit):
    message = refusal(selection.select, THREE, homework.words, limit=limit)
    assert message.startswith(f"limit = {limit!r} is no whole number") and "limit=100" in message


# ---------------------------------------------------------------------------------------------- overlap
ASKED = "Name a river in  Africa."


@pytest.mark.parametrize("train_preamble", [False, True])
@pytest.mark.parametrize("test_preamble", [False, True])
def test_the_same_question_is_found_with_and_without_the_preamble(train_preamble, test_preamble):
    train = dataset(conversation("a", "Other", "x"), conversation("b", ASKED, "The Nile."))
    test = dataset(conversation("t", "name a RIVER in Africa. "))
    train = homework.with_preamble(train) if train_preamble else train
    test = homework.with_preamble(test) if test_preamble else test
    assert selection.overlap(train, test) == [("b", "t")]


def test_the_same_id_alone_is_no_overlap():
    train = dataset(conversation("identity_47214", "How?", "So."))
    assert selection.overlap(train, dataset(conversation("identity_47214", "Why?"))) == []


def test_different_questions_do_not_overlap():
    train = dataset(conversation("a", "How?", "So."), conversation("b", "Name a river in", "x"))
    assert selection.overlap(train, dataset(conversation("t", ASKED))) == []


@pytest.mark.parametrize(
    "texts", [(ASKED, "The Nile.", "Another?", "The Congo."), ("Hi.", "Hello.", ASKED, "The Nile.")]
)
def test_a_test_question_is_found_in_any_turn(texts):
    assert selection.overlap(
        dataset(conversation("a", *texts)), dataset(conversation("t", ASKED))
    ) == [("a", "t")]


def test_a_test_question_is_found_in_a_first_turn_that_has_the_preamble():
    train = homework.with_preamble(
        dataset(conversation("a", ASKED, "The Nile.", "Another?", "The Congo."))
    )
    assert selection.overlap(train, dataset(conversation("t", ASKED))) == [("a", "t")]


def test_overlapping_rows_are_removed_and_the_others_keep_their_order():
    rows = dataset(*(conversation(name, f"question {name}", "x") for name in "abcd"))
    test = dataset(conversation("t", "Question B"), conversation("u", "QUESTION D"))
    pairs = selection.overlap(rows, test)
    assert pairs == [("b", "t"), ("d", "u")]
    assert selection.without(rows, [row_id for row_id, _ in pairs])["id"] == ["a", "c"]
    assert selection.without(rows, [])["id"] == list("abcd")


def test_the_courses_own_pool_and_heldout_rows_do_not_overlap():
    pool = data.load_conversations(data.OUR_POOL)
    assert selection.overlap(pool, data.load_conversations(data.OUR_HELDOUT)) == []
    assert selection.overlap(pool, data.load_conversations(data.OUR_TEST_SET)) == []


# ------------------------------------------------------------------------------------ the chosen rows
@pytest.fixture
def full_size(monkeypatch):
    monkeypatch.setenv("COURSE_SIZE", "full")


@pytest.fixture
def pool_file(tmp_path):
    rows = [conversation(f"c{i}", f"question {i}", "answer", score=1.0) for i in range(120)]
    return write(tmp_path, rows, "pool.json")


def test_a_saved_selection_comes_back_in_its_order(workspace, full_size, pool_file, capsys):
    chosen = data.load_conversations(pool_file).select([5, 3, 100])
    selection.save_selection(chosen, pool_file)
    assert selection.load_selection().to_list() == chosen.to_list()
    assert "3 conversations from pool.json" in capsys.readouterr().out


def test_a_selection_needs_its_file_no_more(workspace, full_size, pool_file):
    chosen = data.load_conversations(pool_file).select([5, 3, 100])
    selection.save_selection(chosen, pool_file)
    pool_file.unlink()
    assert selection.load_selection().to_list() == chosen.to_list()


def test_a_selection_survives_a_move_of_the_workspace(workspace, full_size, monkeypatch):
    workspace.mkdir()
    pool = write(workspace, [TRAINING_ROW], "mine.json")
    selection.save_selection(data.load_conversations(pool), pool)
    moved = workspace.rename(workspace.with_name("moved"))
    monkeypatch.setenv("COURSE_WORKSPACE", str(moved))
    assert selection.load_selection().to_list() == [TRAINING_ROW]


def test_what_was_changed_before_it_was_saved_is_what_comes_back(workspace, full_size, pool_file):
    rows = data.load_conversations(pool_file).select([5, 3]).to_list()
    rows[0]["conversations"][1]["content"] = "a better answer"
    edited = homework.with_preamble(data.as_dataset(rows))
    selection.save_selection(edited, pool_file)
    assert selection.load_selection().to_list() == edited.to_list()


def test_a_selection_names_no_place_on_this_machine(workspace):
    kept = selection.save_selection(
        data.load_conversations(data.OUR_POOL).select([0]), data.OUR_POOL
    )
    assert json.loads(kept.read_text())["source"] == "conversations.json"


def test_rows_that_cannot_be_trained_on_are_not_saved(workspace, pool_file):
    open_question = dataset(conversation("a", "q"))
    assert "'a' has no answer" in refusal(selection.save_selection, open_question, pool_file)
    twice = dataset(*[conversation("a", "q", "x")] * 2)
    message = refusal(selection.save_selection, twice, pool_file)
    assert message.startswith("The id 'a' stands more than once among the conversations")
    empty = dataset(conversation("a", "q", "x"), conversation("b", "q", "\u200b"))
    message = refusal(selection.save_selection, empty, pool_file)
    assert message.startswith("Row 2 of the selection cannot be trained on: the assistant's")
    assert not (workspace / "selection.json").exists()


def test_a_saved_selection_with_a_spoilt_row_is_refused_with_its_number(
    workspace, full_size, pool_file
):
    kept = selection.save_selection(data.load_conversations(pool_file).select([5, 3]), pool_file)
    kept.write_text(kept.read_text().replace("question 3", ""))
    assert refusal(selection.load_selection).startswith(f"Row 2 of {kept} cannot be trained on")


@pytest.mark.parametrize("count", [0, 101])
def test_a_selection_of_none_or_more_than_100_is_refused_and_the_earlier_one_kept(
    workspace, pool_file, count
):
    pool = data.load_conversations(pool_file)
    kept = selection.save_selection(pool.select([5]), pool_file)
    before = kept.read_bytes()
    message = refusal(selection.save_selection, pool.select(range(count)), pool_file)
    assert message.startswith(f"{count} conversations were chosen")
    assert kept.read_bytes() == before


def test_a_selection_that_was_edited_to_more_than_100_is_refused(workspace, full_size, pool_file):
    kept = selection.save_selection(data.load_conversations(pool_file).select([5]), pool_file)
    rows = [conversation(f"c{i}", "q", "a") for i in range(101)]
    kept.write_text(json.dumps({"source": "pool.json", "conversations": rows}))
    assert refusal(selection.load_selection).startswith("101 conversations were chosen")


@pytest.mark.parametrize("content", [[], {"source": "pool.json"}, {"conversations": []}])
def test_a_selection_that_lacks_its_parts_is_refused(workspace, full_size, content):
    workspace.mkdir()
    (workspace / "selection.json").write_text(json.dumps(content))
    message = refusal(selection.load_selection)
    assert f"{workspace / 'selection.json'} does not hold a selection" in message


def test_a_selection_of_ids_from_an_earlier_version_is_refused_and_kept(workspace, full_size):
    workspace.mkdir()
    file = workspace / "selection.json"
    file.write_text(json.dumps({"source": "data/conversations.json", "ids": ["course_0001"]}))
    message = refusal(selection.load_selection)
    assert "does not hold conversations, only their ids" in message
    assert "Run notebook 04 again" in message
    assert "course_0001" in file.read_text()


def test_without_a_selection_the_best_of_the_courses_pool_are_used_and_named(
    workspace, full_size, capsys
):
    rows = selection.load_selection()
    assert len(rows) == 100
    assert set(rows["score"]) == {5.0}
    assert "No saved selection" in capsys.readouterr().out


def test_the_test_size_takes_fewer_from_the_whole_selection(workspace, pool_file, monkeypatch):
    monkeypatch.setenv("COURSE_SIZE", "test")
    pool = data.load_conversations(pool_file)
    selection.save_selection(pool.select(range(100)), pool_file)
    numbers = [int(row_id[1:]) for row_id in selection.load_selection()["id"]]
    assert len(numbers) == presets.SIZES["test"].conversations
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 0
    assert numbers[-1] > 90
    selection.save_selection(pool.select([7, 2]), pool_file)
    assert selection.load_selection()["id"] == ["c7", "c2"]


# ------------------------------------------------------------------------------------------- controls
@few
@given(st.lists(st.integers(1, 3), min_size=2, max_size=30), st.integers(0, 1000))
def test_shuffled_every_answer_goes_to_another_row_and_none_is_lost(turns, seed):
    assume(2 * max(turns) <= sum(turns))
    talks = [
        [f"{part}{i}.{n}" for n in range(count) for part in "qa"] for i, count in enumerate(turns)
    ]
    rows = dataset(*(conversation(f"c{i}", *talk, score=1.0) for i, talk in enumerate(talks)))
    mixed = selection.shuffled_answers(rows, seed)
    assert list(mixed["id"]) == [f"c{i}-shuffled" for i in range(len(turns))]
    said = [[m["content"] for m in row] for row in mixed["conversations"]]
    assert [talk[::2] for talk in said] == [talk[::2] for talk in talks]
    given_ = [talk[1::2] for talk in said]
    everything = [answer for talk in talks for answer in talk[1::2]]
    assert sorted(answer for answers in given_ for answer in answers) == sorted(everything)
    for i, answers in enumerate(given_):
        assert not any(answer.startswith(f"a{i}.") for answer in answers)
    again = selection.shuffled_answers(rows, seed)
    assert list(again["conversations"]) == list(mixed["conversations"])


def test_a_row_with_more_than_half_of_all_answers_cannot_be_shuffled():
    rows = dataset(conversation("a", "q1", "a1", "q2", "a2"), conversation("b", "q3", "a3"))
    for too_few in (rows, rows.select([0]), rows.select([])):
        assert "cannot all go to other rows" in refusal(selection.shuffled_answers, too_few)


def test_a_run_keeps_what_it_was_trained_on_whatever_is_chosen_since(workspace, pool_file):
    chosen = data.load_conversations(pool_file).select([7, 2])
    run = Run(workspace / "runs" / "r4", {"data": selection.fingerprint(chosen)})
    run.folder.mkdir(parents=True)
    selection.save_selection(chosen.select([0]), pool_file)
    assert "is gone, and the selection" in refusal(selection.of_run, run)
    workspace_file = run.folder / "conversations.json"
    workspace_file.write_text(json.dumps(chosen.to_list()))
    assert selection.of_run(run).to_list() == chosen.to_list()
    workspace_file.write_text(json.dumps(homework.with_preamble(chosen).to_list()))
    assert "does not hold what the run was trained on" in refusal(selection.of_run, run)
    for other in ("[]", "{}", "7"):
        workspace_file.write_text(other)
        assert "does not hold what the run was trained on" in refusal(selection.of_run, run)
    workspace_file.write_text("[7]")
    assert "edited by hand" in refusal(selection.of_run, run)


def test_more_than_a_hundred_rows_or_the_same_one_twice_are_trained_nowhere(workspace):
    pool = data.load_conversations(data.OUR_POOL)
    assert "101 conversations" in refusal(selection.check_rows, pool.select(range(101)))
    twice = refusal(selection.check_rows, pool.select([0, 1, 2, 1, 0]))
    assert f"{pool['id'][0]!r} stands more than once" in twice and "so do 1 more" in twice
    selection.check_rows(pool.select(range(100)))


def test_without_the_file_of_a_run_the_same_selection_will_do(workspace, full_size, pool_file):
    chosen = data.load_conversations(pool_file).select([7, 2])
    selection.save_selection(chosen, pool_file)
    run = Run(workspace / "runs" / "r4", {"data": selection.fingerprint(chosen)})
    assert selection.of_run(run).to_list() == chosen.to_list()
    assert "is gone" in refusal(selection.of_run, Run(run.folder, {}))


# ----------------------------------------------------------------------------- what a cell may pass by mistake
def test_ids_are_left_out_one_or_many_and_anything_else_is_refused(capsys):
    assert list(selection.without(THREE, THREE["id"][1])["id"]) == [THREE["id"][0], THREE["id"][2]]
    assert len(selection.without(THREE, set(THREE["id"][:2]))) == 1
    said = refusal(selection.without, THREE, [(THREE["id"][0], "test_1")])
    assert "is no id" in said and "{training for training, _ in pairs}" in said
    assert capsys.readouterr().out == ""
    assert len(selection.without(THREE, ["nobody"])) == 3
    assert capsys.readouterr().out == "No row has one of these 1 ids: all 3 rows stay.\n"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (THREE[:2], "rows.select(range(50)) instead of rows[:50]"),
        (list(THREE), "data.as_dataset(rows)"),
        ("conversations.json", "'conversations.json', a str"),
        (None, "None, a NoneType"),
        (THREE.remove_columns("id"), "without the column id"),
    ],
)
def test_what_is_no_dataset_of_conversations_is_named(workspace, rows, said):
    for use in (
        lambda: selection.select(rows, homework.words),
        lambda: selection.without(rows, []),
        lambda: selection.overlap(rows, THREE),
        lambda: selection.overlap(THREE, rows),
        lambda: selection.save_selection(rows, "x.json"),
        lambda: selection.shuffled_answers(rows),
        lambda: homework.with_preamble(rows),
        lambda: data.check_template(rows, None),
    ):
        assert said in refusal(use)


@pytest.mark.parametrize("switch", ["yes", None, 1])
def test_an_order_is_chosen_with_true_or_false(switch):
    said = refusal(selection.select, THREE, homework.words, largest_first=switch)
    assert said.startswith(f"largest_first = {switch!r} is neither True nor False")


def test_the_fingerprint_sees_every_change_of_ids_order_speakers_and_texts():
    rows = [conversation("a", "q", "x"), conversation("b", "q", "y", "z", "w")]
    system = conversation("a", "q", "x")
    system["conversations"].insert(0, {"role": "system", "content": "Be brief."})
    others = [
        rows[::-1],
        rows[:1],
        [rows[0] | {"id": "c"}, rows[1]],
        [rows[0], conversation("b", "q", "y", "z", "w ")],
        [rows[0], conversation("b", "q", "y")],
        [system, rows[1]],
    ]
    prints = [selection.fingerprint(dataset(*some)) for some in [rows, *others]]
    assert len(set(prints)) == len(prints)
    assert len(prints[0]) == 64
    # Neither the score nor the kind of table counts.
    assert selection.fingerprint([row | {"score": 3.0} for row in rows]) == prints[0]


@pytest.mark.parametrize("key", ["score", 3, None])
def test_a_key_that_is_no_function_says_so(key):
    message = refusal(selection.select, THREE, key)
    assert "is no function" in message and "without brackets" in message


def test_a_selection_of_the_same_rows_twice_says_that_they_share_ids(workspace):
    twice = data.as_dataset([*THREE, *THREE])
    assert "Two selections that share rows" in refusal(
        selection.save_selection, twice, data.OUR_POOL
    )
