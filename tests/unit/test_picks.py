"""The selection view: what each sort picks from a pool, drawn and counted; and the rule of 100."""

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import ipywidgets
import pytest
from hypothesis import given
from rows import conversation, refusal, short_rows

from helpers import data, homework, picks, selection, svg, tokens, traits
from helpers.errors import CourseError

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import record

STYLED = "Short answer: Yes.\nWhy: It is so.\nTry it: Look."


@pytest.fixture(scope="module")
def pool():
    return data.load_conversations(data.OUR_POOL)


@pytest.fixture(scope="module")
def sorts(pool):
    return {
        "simple": selection.select(pool, homework.simple_key),
        "advanced": selection.select(pool, homework.advanced_key, largest_first=True),
    }


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    from transformers import AutoTokenizer

    # Loaded alone, with a template that needs no Unsloth: a tokenizer is enough for the view.
    found = AutoTokenizer.from_pretrained(tiny_llama)
    found.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    )
    return found


def rings(picture: str) -> list[tuple[float, float]]:
    found = re.findall(r'<circle cx="([-\d.]+)" cy="([-\d.]+)"', picture)
    return [(float(x), float(y)) for x, y in found]


def dots(picture: str) -> list[tuple[int, int]]:
    return [(int(x), int(y)) for x, y in re.findall(r"M(\d+) (\d+)h0", picture)]


def view(*rows: dict, **sorts) -> picks.PoolView:
    """A view of a pool of these rows; without sorts one takes all of it."""
    pool = data.as_dataset(rows)
    return picks.PoolView(pool, sorts or {"all": pool})


# -------------------------------------------------------------------------------------- the numbers
def test_the_shortest_first_trap_shows_in_the_numbers(pool, sorts):
    simple, advanced = (traits.of(rows.to_list()) for rows in sorts.values())
    whole = traits.of(pool.to_list())
    assert simple["answers of ≤ 4 words"] > 0.4 > whole["answers of ≤ 4 words"]
    assert simple["answers of ≤ 4 words"] > advanced["answers of ≤ 4 words"] == 0
    assert simple["repeated answers"] > 0.1 > advanced["repeated answers"]
    assert simple["words, median"] < whole["words, median"] < advanced["words, median"]
    assert (simple["in house style"], advanced["in house style"]) == (0, 1)


def test_the_facts_of_a_few_rows_counted_by_hand():
    rows = [
        conversation("a", "Is it so?", "Yes.", score=1),
        conversation("b", "  IS it so", "yes. ", score=2),
        conversation("c", "And this?", STYLED, "Why?", STYLED),
        conversation("d", "What else is there to say?", "One two three four five"),
    ]
    assert traits.of(rows, [4, 8, 60, 10]) == {
        "rows": 4,
        "words, median": 7.5,  # 4, 4, 21, 11
        "tokens, median": 9,
        "answer words, median": 3,  # 1, 1, 18, 5
        "answers of ≤ 4 words": 0.5,
        "repeated answers": 0.5,
        "repeated questions": 0.5,
        "in house style": 0.25,
        "score, mean": 1.5,
    }


@pytest.mark.parametrize(
    ("answer", "is_so"),
    [
        (STYLED, True),
        (STYLED.replace("Try it: Look.", ""), False),
        (STYLED.replace("Try it: Look.", "Try it:"), False),
        (STYLED.replace("\n", " "), False),
        ("\n".join(reversed(STYLED.split("\n"))), False),
        (f"{STYLED}\nWhy: again.", False),
        ("Yes.", False),
    ],
)
def test_house_style_is_the_three_labelled_lines_in_order(answer, is_so):
    assert traits.house_style(conversation("a", "Is it so?", answer)) == is_so
    # All answers of a row are learned from, so all must have it.
    both = conversation("a", "Is it so?", answer, "Really?", "Yes.")
    assert not traits.house_style(both)
    assert not traits.house_style(conversation("a", "Is it so?"))


def test_held_out_answers_are_all_in_house_style():
    # What compare_sets says about "advanced wins" stands on this.
    assert all(map(traits.house_style, data.load_conversations(data.OUR_HELDOUT)))


def test_tokens_are_those_that_training_counts(pool, tokenizer):
    rows = pool.select(range(40))
    counted = [len(tokens.token_ids(tokenizer, talk)) for talk in rows["conversations"]]
    assert traits.token_counts(rows, tokenizer) == counted


def test_a_chinese_sentence_is_one_word_and_many_tokens(tokenizer):
    rows = data.as_dataset([conversation("a", "为什么天空是蓝色的?", "因为空气散射蓝光。")])
    shown = picks.PoolView(rows, {"all": rows}, tokenizer)
    counted = shown.pool.facts
    assert counted["words, median"] == 2 and counted["tokens, median"] > 10
    before = shown.picture()
    shown.unit.value = "tokens"
    assert "tokens in the conversation" in shown.picture() and shown.picture() != before
    assert shown.picture() in shown.view.value


# -------------------------------------------------------------------------------------- the picture
def test_a_click_moves_the_rings_to_the_other_sort_s_rows(pool, sorts):
    shown = picks.PoolView(pool, sorts)
    assert shown.sort.value == "simple"
    before = rings(shown.picture())
    shown.sort.value = "advanced"
    after = rings(shown.picture())
    assert len(before) == len(after) == 100
    # Advanced rows are longer, and higher on the page (smaller y): they have better scores.
    assert max(x for x, _ in before) < min(x for x, _ in after)
    assert max(y for _, y in after) < min(y for _, y in before)
    assert shown.picture() in shown.view.value
    assert svg.BLUE in shown.picture() and svg.RED not in shown.picture()
    # The table shows all sorts, with the pressed one set off; below stand the first of its rows.
    assert re.search(r"background[^>]*>advanced<", shown.readout.value)
    assert "Short answer" in shown.readout.value


def test_each_ring_lies_on_its_row_s_dot(pool, sorts):
    shown = picks.PoolView(pool, sorts)
    for name in sorts:
        shown.sort.value = name
        places = dots(shown.picture())
        for x, y in rings(shown.picture()):
            assert any(abs(x - a) <= 2 and abs(y - b) <= 2 for a, b in places), (x, y)


@given(short_rows)
def test_any_pool_is_drawn_whole_and_inside_its_frame(rows):
    shown = view(*rows)
    width, height = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', shown.picture()).groups())
    places = rings(shown.picture())
    assert len(places) == len(rows)
    assert all(0 < x < width and 20 < y < height - 40 for x, y in [*places, *dots(shown.picture())])
    # A round number stands on the axis, whatever the lengths.
    assert re.search(r'text-anchor="middle">\d+<', shown.picture())


def test_a_pool_of_52002_rows_is_a_small_picture():
    points = [(2 + i * 7919 % 900, i % 11 + (i * 104729 % 97) / 200) for i in range(52_002)]
    levels = {float(n): str(n) for n in range(11)}
    picture = svg.pool_svg(
        points, points[:100], levels, colour=svg.RED, unit="words", caption="all of it"
    )
    assert len(picture) < 300_000 and len(rings(picture)) == 100
    # Dots where many lie are darker than where one lies alone.
    assert len(re.findall(r'stroke-linecap="round"', picture)) > 1


def test_the_picture_says_what_it_shows_to_a_screen_reader(pool, sorts):
    shown = picks.PoolView(pool, sorts)
    assert 'aria-label="score and length; in rings: simple, 100 of 360"' in shown.picture()
    assert shown.sort.description == "sort"


# ---------------------------------------------------------------------------- unusual pools and picks
@pytest.mark.parametrize("scores", [(None, None, None), (None, 3.0, 5.0), (2.0, 2.0, 2.0)])
def test_rows_without_a_score_are_drawn_too(scores):
    rows = [conversation(f"r{i}", "q " * 9, "a " * 9, score=s) for i, s in enumerate(scores)]
    shown = view(*rows)
    assert len(rings(shown.picture())) == 3
    assert (">none<" in shown.picture()) == (None in scores)
    assert len(shown.still().axes[0].lines[1].get_xdata()) == 3
    assert ("–" in shown.text()) == (scores[1] is None)
    if scores == (None, 3.0, 5.0):
        first, *others = (y for _, y in rings(shown.picture()))
        assert first > max(others)


def test_a_pool_without_the_column_score_is_shown():
    rows = data.as_dataset([conversation("a", "Why?", "So.")]).remove_columns("score")
    assert "–" in picks.PoolView(rows, {"all": rows}).text()


def test_one_row_and_equal_lengths_are_drawn():
    one = conversation("a", "Is it so?", "Yes.", score=5)
    assert len(rings(view(one).picture())) == 1
    assert len(view(one).still().axes) == 1
    same = [conversation(f"r{i}", "Is it so?", "Yes.", score=5) for i in range(20)]
    assert len(rings(view(*same).picture())) == 20


@pytest.mark.parametrize("scores", [[i / 7 for i in range(50)], [1, 1.001, 5], [-3.5, 0, 1e6]])
def test_scores_of_any_kind_have_names_that_do_not_cover_each_other(scores):
    rows = [conversation(f"r{i}", "q", "a", score=float(s)) for i, s in enumerate(scores)]
    names = re.findall(r'y="([\d.]+)" text-anchor="end"', view(*rows).picture())
    ys = sorted(map(float, names))
    assert 2 <= len(ys) <= picks.LEVELS
    assert all(b - a > 10 for a, b in pairwise(ys))


def test_rows_of_another_file_and_changed_rows_are_shown_and_said(pool, sorts):
    preamble = homework.with_preamble(sorts["simple"])
    shown = picks.PoolView(pool, sorts | {"with preamble": preamble})
    note = "with preamble: 100 of 100 rows are not in this pool as they are"
    assert note in shown.text() and note in shown.readout.value
    assert shown.text().count("not in this pool") == 1
    assert [len(line.get_xdata()) for line in shown.still().axes[0].lines] == [460, 100, 100, 100]
    shown.sort.value = "with preamble"
    assert len(rings(shown.picture())) == 100


def test_more_than_100_rows_and_none_are_refused(pool):
    for count in (101, 0):
        with pytest.raises(CourseError, match="1 to 100"):
            picks.PoolView(pool, {"too many": pool.select(range(count))})
    picks.PoolView(pool, {"just so": pool.select(range(100))})


@pytest.mark.parametrize("limit", [101, 52_002])
def test_no_sort_ever_takes_more_than_100(pool, limit):
    assert "1 to 100" in refusal(selection.select, pool, homework.simple_key, limit=limit)


def test_what_is_no_pool_and_no_sort_is_refused(pool, sorts):
    assert "pool: this is a list of rows" in refusal(picks.PoolView, pool.to_list(), sorts)
    assert "a list of rows" in refusal(picks.PoolView, pool, {"simple": pool.to_list()[:3]})
    assert "No sort" in refusal(picks.PoolView, pool, {})
    assert "No sort" in refusal(picks.PoolView, pool, sorts["simple"])
    assert "no row" in refusal(picks.PoolView, pool.select([]), sorts)


def test_a_row_that_the_template_refuses_is_named(tokenizer):
    talk = conversation("odd one", "Why?", "So.")
    talk["conversations"].insert(0, {"role": "system", "content": "Be brief."})
    rows = data.as_dataset([conversation("a", "Why?", "So."), talk])
    assert "'odd one'" in refusal(picks.PoolView, rows, {"all": rows}, tokenizer)
    picks.PoolView(rows, {"all": rows})


def test_texts_from_files_stay_text():
    row = conversation("a", "<script>alert(1)</script>", "<b>Yes</b>", score=1)
    pool = data.as_dataset([row])
    shown = picks.PoolView(pool, {"<i>mine</i>": pool})
    assert "<script>" not in shown.readout.value and "<b>Yes" not in shown.readout.value
    assert "<i>mine" not in shown.readout.value + shown.picture()


# ---------------------------------------------------------------------------------- the saved notebook
def test_a_saved_notebook_keeps_a_picture_of_all_sorts_and_the_numbers(pool, sorts, capsys):
    shown = picks.PoolView(pool, sorts)
    axes = shown.still().axes[0]
    assert [line.get_label() for line in axes.lines] == ["the pool", "simple", "advanced"]
    assert [len(line.get_xdata()) for line in axes.lines] == [360, 100, 100]
    lines = [line.split() for line in shown.text().split("\n")]
    assert lines[0] == ["pool", "simple", "advanced"] and lines[1] == ["rows", "360", "100", "100"]
    assert shown.text() in shown.still()._supxlabel.get_text()


def test_everything_that_can_be_pressed_is_shown(pool, sorts, tokenizer):
    def leaves(widget) -> list:
        if isinstance(widget, ipywidgets.Box):
            return [leaf for child in widget.children for leaf in leaves(child)]
        return [widget]

    shown = picks.PoolView(pool, sorts)
    assert leaves(shown.show()) == [shown.sort, shown.view, shown.readout]
    counted = picks.PoolView(pool.select(range(5)), {"all": pool.select(range(5))}, tokenizer)
    assert counted.unit in leaves(counted.show())


def test_the_view_is_there_without_torch_and_without_a_model():
    code = (
        "import sys\nfrom helpers import data, homework, picks, selection\n"
        "pool = data.load_conversations(data.OUR_POOL)\n"
        "picks.PoolView(pool, {'a': selection.select(pool, homework.simple_key)}).show()\n"
        "print({'unsloth', 'trl', 'peft', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[-2] == "set()", done.stderr


# ------------------------------------------------------------------- what the sets were measured to teach
@pytest.mark.skipif("sets" not in record.read(), reason="tools/compare_sets.py --save has not run")
def test_the_measured_sets_are_those_of_today_s_data(compare_sets):
    measured = record.read()["sets"]
    assert measured["data"] == compare_sets.data_hash(), "run tools/compare_sets.py --save again"
    drawn = compare_sets.drawn_sets(data.load_conversations(data.OUR_POOL))
    assert {name: len(draws) for name, draws in drawn.items()} == {
        name: len(one["same_steps"]) for name, one in measured["sets"].items()
    }
    for name, draws in drawn.items():
        shares = [traits.of(rows.to_list())["in house style"] for rows in draws]
        assert measured["sets"][name]["house_style"] == pytest.approx(shares), name


@pytest.fixture(scope="module")
def compare_sets():
    import compare_sets

    return compare_sets


def test_the_sets_are_100_rows_each_and_each_draw_is_another(pool, compare_sets):
    drawn = compare_sets.drawn_sets(pool)
    assert [len(draws) for draws in drawn.values()] == [1, 1, 3, 3]
    assert all(len(set(rows["id"])) == 100 for draws in drawn.values() for rows in draws)
    for kind in ("random", "random in house style"):
        assert len({tuple(rows["id"]) for rows in drawn[kind]}) == 3
    shares = {kind: [compare_sets.share(rows) for rows in draws] for kind, draws in drawn.items()}
    assert shares["simple"] == [0] and shares["advanced"] == [1]
    assert shares["random in house style"] == [1, 1, 1]
    assert all(0.3 < share < 0.7 for share in shares["random"])
    # The same in every session.
    again = compare_sets.drawn_sets(pool)
    assert [rows["id"] for rows in again["random"]] == [rows["id"] for rows in drawn["random"]]


@pytest.mark.parametrize(
    ("advanced", "simple", "sentence"),
    [
        (2.0, 3.0, "advanced wins over simple (2.000 against 3.000). Beside .* lower than in each draw"),
        (2.2, 3.0, "advanced wins over simple .* between the draws, which cannot tell it from chance"),
        (3.2, 3.0, "advanced does not win over simple .* higher than in each draw"),
    ],
)  # fmt: skip
def test_what_is_said_follows_from_the_losses(compare_sets, advanced, simple, sentence):
    def one(style, *losses):
        runs = [{"steps": 26, "tokens": 9, "loss": loss} for loss in losses]
        found = {"house_style": [style] * len(losses), "answer_tokens_a_row": [7] * len(losses)}
        return found | {"same_steps": runs, "same_tokens": runs}

    found = {
        "sets": {
            "simple": one(0, simple),
            "advanced": one(1, advanced),
            "random": one(0.5, 2.5, 2.4, 2.6),
            "random in house style": one(1, 2.3, 2.1, 2.2),
        },
        "model": "m",
        "conversations": 100,
        "heldout_rows": 16,
        "heldout_in_house_style": 1,
        "base_loss": 3.3,
        "steps": 26,
        "tokens": 34_000,
    }
    said = compare_sets.said(found)
    assert re.search(sentence.replace("(2", r"\(2").replace("00)", r"00\)"), said), said
    assert "In house style are 100% of the held-out answers, 100% of advanced's and 0% of" in said
    assert "2.500 (2.400 to 2.600)" in said and "after 34,000 tokens" in said


def test_both_ways_reach_the_same_steps_and_the_same_tokens(
    use_tiny_llama, compare_sets, pool, monkeypatch, tmp_path
):
    monkeypatch.setattr(compare_sets, "DONE", tmp_path / "done.json")
    by_length = selection.select(pool, homework.simple_key)
    sets = {"simple": [by_length.select(range(8))], "advanced": [by_length.select(range(60, 68))]}
    monkeypatch.setattr(compare_sets, "drawn_sets", lambda *_: sets)
    heldout = data.load_conversations(data.OUR_HELDOUT).select(range(2))
    found = compare_sets.compared(pool, heldout, 8, 1, 4)
    assert found["steps"] == 4
    simple, advanced = (found["sets"][name] for name in ("simple", "advanced"))
    for one in (simple, advanced):
        ((first,), (second,)) = one["same_steps"], one["same_tokens"]
        assert first["steps"] == 4 and first["loss"] > 0
        half_a_step = second["tokens"] / second["steps"] / 2
        assert second["tokens"] == pytest.approx(found["tokens"], abs=half_a_step + 1)
    assert simple["same_tokens"][0]["steps"] > 4
    # The longest set is the measure, and was trained once.
    assert advanced["same_tokens"] == advanced["same_steps"]
    # Asked again, it trains nothing again.
    monkeypatch.setattr(compare_sets, "trained", lambda *_: pytest.fail("it was trained"))
    assert compare_sets.compared(pool, heldout, 8, 1, 4) == found


@pytest.mark.parametrize("arguments", [["--fast", "--save"], ["--save"]])
def test_a_fast_run_and_one_of_a_model_in_a_folder_are_not_kept(
    use_tiny_llama, compare_sets, monkeypatch, arguments
):
    monkeypatch.setattr(sys, "argv", ["compare_sets.py", *arguments])
    monkeypatch.setattr(compare_sets, "compared", lambda *_: pytest.fail("it was trained"))
    with pytest.raises(SystemExit):
        compare_sets.main()
