"""Answers side by side: as a table and as text."""

import pytest

from helpers.beside import WIDTH, SideBySide

LONG = "It is so because " + "of this and of that, " * 20
PAIR = {"base": [LONG, "No."], "tuned": ["Short answer: yes.\n  Why: $5 < $6 & more", ""]}
MESSAGES = [{"role": "user", "content": "Old?"}, {"role": "assistant", "content": "Yes."}]


def test_each_question_stands_above_its_answers_in_the_order_of_the_columns():
    table = SideBySide(["Why?", [*MESSAGES, {"role": "user", "content": "And now?"}]], **PAIR)
    for text in (repr(table), table._repr_html_()):
        places = [text.index(part) for part in ("Why?", "It is so", "And now?", "No.")]
        assert places == sorted(places)
        assert text.index("base") < text.index("tuned")
        assert "Old?" not in text


def test_no_line_of_the_text_is_too_long_and_both_columns_are_as_wide():
    lines = repr(SideBySide(["Why? " * 50, "?"], **PAIR)).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert len({line.index(" | ") for line in lines if " | " in line}) == 1


def test_what_an_answer_holds_is_neither_tag_nor_formula_and_keeps_its_lines():
    shown = SideBySide(["a < b?", "?"], **PAIR)._repr_html_()
    assert "a &lt; b?" in shown and "&amp; more" in shown
    assert "yes.<br>&nbsp; Why: " in shown
    assert shown.count("$") == shown.count("<span>$</span>") == 2


def test_one_column_has_the_whole_width():
    table = SideBySide(["Why?"], answer=[LONG])
    assert 80 < max(map(len, repr(table).splitlines())) <= WIDTH
    assert "width:100%" in table._repr_html_()


def test_a_question_without_an_answer_is_refused():
    with pytest.raises(ValueError):
        SideBySide(["Why?", "How?"], base=["So."])
