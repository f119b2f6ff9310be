"""A code takes the choice and the selection to another workspace; a wrong one is refused."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import carry, data, homework, selection
from helpers import workspace as places
from helpers.choice import Choice, save_choice, saved_choice
from helpers.errors import CourseError


@pytest.fixture(scope="module")
def pool():
    return data.load_conversations(data.OUR_POOL)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Go on to a new machine: an empty workspace."""
    return lambda: monkeypatch.setenv("COURSE_WORKSPACE", str(tmp_path / "elsewhere"))


def refusal(action, *arguments) -> str:
    with pytest.raises(CourseError) as caught:
        action(*arguments)
    return str(caught.value)


def test_an_empty_workspace_has_no_code_and_an_empty_code_changes_nothing(workspace, capsys):
    assert carry.code() == ""
    carry.take("  ")
    assert capsys.readouterr().out == "" and saved_choice() is None


def test_choice_and_selection_arrive_as_they_were(workspace, elsewhere, pool, capsys):
    choice = Choice(r=4, lora_alpha=32, target_modules=("q_proj", "v_proj"), use_rslora=True)
    chosen = selection.select(pool, lambda row: -homework.words(row), limit=100)
    save_choice(choice)
    selection.save_selection(chosen, data.OUR_POOL)
    code = carry.code()
    assert code.isascii() and len(code) < 400 and not set(code) & set(" \n\"'")
    elsewhere()
    carry.take(code)
    assert saved_choice() == choice
    assert selection.saved_selection().to_list() == chosen.to_list()
    said = capsys.readouterr().out
    assert "r = 4" in said and "100 conversations" in said


@pytest.mark.parametrize("part", ["choice", "selection"])
def test_one_of_the_two_travels_alone_and_leaves_the_other_as_it_is(
    workspace, elsewhere, pool, part
):
    if part == "choice":
        save_choice(Choice(r=4))
    else:
        selection.save_selection(pool.select([5, 3]), data.OUR_POOL)
    code = carry.code()
    elsewhere()
    save_choice(Choice(r=64))
    carry.take(code)
    assert saved_choice() == (Choice(r=4) if part == "choice" else Choice(r=64))
    chosen = selection.saved_selection()
    assert chosen is None if part == "choice" else chosen["id"] == [pool["id"][5], pool["id"][3]]


def test_two_codes_may_stand_one_after_the_other(workspace, elsewhere, pool):
    save_choice(Choice(r=4))
    of_choice = carry.code()
    workspace.joinpath("choice.json").unlink()
    selection.save_selection(pool.select([5, 3]), data.OUR_POOL)
    of_rows = carry.code()
    elsewhere()
    carry.take(f'"{of_choice}"\n {of_rows}')
    assert saved_choice() == Choice(r=4) and len(selection.saved_selection()) == 2


def test_a_good_code_replaces_damaged_files(workspace, elsewhere, pool):
    save_choice(Choice(r=4))
    selection.save_selection(pool.select(range(5)), data.OUR_POOL)
    code = carry.code()
    elsewhere()
    for name in ("choice.json", "selection.json"):
        places.path(name).parent.mkdir(parents=True, exist_ok=True)
        places.path(name).write_text("{")
    assert carry.take(code) == {"choice", "rows"}
    assert saved_choice().r == 4 and len(selection.saved_selection()) == 5


def test_a_code_that_is_half_wrong_changes_nothing(workspace, elsewhere, pool):
    save_choice(Choice(r=4))
    code = carry.code()
    elsewhere()
    refusal(carry.take, code + carry.BEGINS + "AAAA")
    assert saved_choice() is None


def test_rows_with_the_homeworks_preamble_travel_too(workspace, elsewhere, pool):
    rows = homework.with_preamble(pool.select(range(3)))
    selection.save_selection(rows, data.OUR_POOL)
    code = carry.code()
    elsewhere()
    carry.take(code)
    assert selection.saved_selection().to_list() == rows.to_list()


def test_edited_rows_stay_out_of_the_code_and_that_is_said(workspace, pool, capsys):
    rows = pool.select(range(3)).to_list()
    rows[1]["conversations"][-1]["content"] += " Really."
    selection.save_selection(data.as_dataset(rows), data.OUR_POOL)
    assert carry.code() == ""
    assert "selection.json" in capsys.readouterr().out


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(st.data())
def test_a_cut_or_changed_code_is_refused_and_changes_nothing(workspace, choose):
    save_choice(Choice(r=4, lora_alpha=8, max_length=512))
    code, before = carry.code(), (workspace / "choice.json").read_bytes()
    start = choose.draw(st.integers(0, len(code) - 1))
    end = choose.draw(st.integers(start, len(code)))
    middle = choose.draw(st.text("abcXYZ019-_", max_size=3))
    changed = code[:start] + middle + code[end:]
    if changed not in (code, ""):
        assert "is no whole code" in refusal(carry.take, changed)
    assert (workspace / "choice.json").read_bytes() == before


@pytest.mark.parametrize(
    "form", [" {} ", '"{}"', "{}\n", "'{}'", "“{}”", "\u200b{}", 'my_code = "{}"']
)
def test_quotes_and_spaces_around_a_code_do_no_harm(workspace, elsewhere, form):
    save_choice(Choice(r=4))
    code = carry.code()
    elsewhere()
    carry.take(form.format(code[:30] + "\n" + code[30:]))
    assert saved_choice() == Choice(r=4)


def test_what_a_code_replaces_is_said(workspace, pool, capsys):
    save_choice(Choice(r=4))
    selection.save_selection(pool.select([5, 3]), data.OUR_POOL)
    code = carry.code()
    assert carry.take(code) == {"choice", "rows"}
    assert "in place of" not in capsys.readouterr().out
    save_choice(Choice(r=64, lora_alpha=2))
    selection.save_selection(pool.select([1]), data.OUR_POOL)
    carry.take(code)
    said = capsys.readouterr().out
    assert "in place of r = 64, alpha = 2" in said and "in place of 1 others" in said


def test_a_code_for_another_pool_says_so(workspace, elsewhere, pool, monkeypatch, tmp_path):
    own = tmp_path / "own.json"
    own.write_text(
        data.OUR_POOL.read_text(encoding="utf-8").replace("the", "teh"), encoding="utf-8"
    )
    monkeypatch.setattr(data, "OUR_POOL", own)
    selection.save_selection(data.load_conversations(own).select([1]), own)
    code = carry.code()
    monkeypatch.undo()
    monkeypatch.setenv("COURSE_WORKSPACE", str(tmp_path / "elsewhere"))
    assert "pool that this machine does not have" in refusal(carry.take, code)


@given(st.integers(1, 60_000), st.data())
def test_places_come_back_from_their_number(size, choose):
    places = choose.draw(st.lists(st.integers(0, size - 1), max_size=100))
    number = carry._as_number(places, size)
    assert carry._as_places(size, len(places), number) == places
    assert len(number) <= len(places) * 4 + 1
