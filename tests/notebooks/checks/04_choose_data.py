"""What the cells of 04_choose_data must have produced; their names are this file's globals."""


def import_the_helpers():
    ours = {"carry", "data", "homework", "picks", "selection", "workspace"}
    assert ours | {"Counter"} <= set(globals())
    assert all(globals()[name].__name__ == f"helpers.{name}" for name in ours)


def shortest_first():
    counts = [homework.words(row) for row in simple]
    assert counts == sorted(counts)


def two_summaries():
    assert thin < 10 < rich


def selection_view():
    from helpers import traits

    assert [view.sort.value, *view.sort.options] == ["simple", "simple", "advanced"]
    view.sort.value = "advanced"
    assert "in rings: advanced" in view.view.value and "Short answer" in view.readout.value
    view.sort.value = "simple"
    few = [one.facts[f"answers of ≤ {traits.FEW_WORDS} words"] for one in view.picks.values()]
    assert few[0] > few[1] == 0


def rows_as_tokens():
    _unsloth_first()
    assert token_view.faults == {} and len(token_view.listed()) == min(20, len(token_view))
    assert len(token_view) == len(data.to_prompt_completion(chosen))
    assert all(0 < row.learnt < row.tokens for row in token_view)


def two_faults():
    found = {fault.name for fault in wrong.faults}
    assert "another model's template" in found and "no end token" in found


def length_in_tokens():
    in_tokens.unit.value = "tokens"
    assert "tokens in the conversation" in in_tokens.view.value
    in_tokens.unit.value = "words"


def homework_pool():
    def answer_words(key, **order):
        return sum(map(selection.answer_words, selection.select(official, key, **order)))

    assert answer_words(homework.simple_key) < answer_words(
        homework.advanced_key, largest_first=True
    )


def own_key():
    from helpers import presets

    assert len(mine) == presets.MAX_CONVERSATIONS and min(mine["score"]) == 5


def three_formats():
    ours = {"evaluation", "models", "presets"}
    assert all(globals()[name].__name__ == f"helpers.{name}" for name in ours)
    assert homework.PREAMBLE in texts[1]
    assert homework.PREAMBLE not in texts[0] + texts[2]


def loss_of_formats():
    assert all(len(values) == len(probe) and min(values) > 0 for values, _ in losses.values())
    # "By a few hundredths at most", says the text of the small model.
    preamble = losses["the same with Alpaca's preamble"][0]
    assert abs(evaluation.change(own, preamble, tokens).mean) < 0.1


def refuse_a_bad_row():
    assert not bad_file.exists() and CourseError.__module__ == "helpers.errors"


def planted_question():
    assert not selection.overlap(pool, test_set) and not selection.overlap(pool, heldout)
    assert found == [(rows[0]["id"], test_set[3]["id"])] and len(clean) == len(pool) - 1


def overlap_here():
    assert not selection.overlap(official, official_test)


def keep_choice():
    assert set(saved["id"]) <= set(chosen["id"])
    # The line that is printed takes these conversations along.
    rows, pool_file = carry._rows(carry._unpacked(carry.code()))
    assert rows.to_list() == chosen.to_list() and pool_file == source


def with_preamble():
    assert again["id"] == simple["id"]


def measured_sets():
    kinds = {"simple", "advanced", "random", "random in house style"}
    assert set(measured["sets"]) == kinds

    def loss(kind):
        return sum(run["loss"] for run in measured["sets"][kind]["same_steps"])

    # As the text below says of them.
    assert loss("advanced") < loss("simple") - 0.5
    assert abs(loss("advanced") - loss("random in house style") / 3) < 0.05
    assert (
        measured["sets"]["advanced"]["house_style"] == [1] == [measured["heldout_in_house_style"]]
    )
    assert measured["sets"]["simple"]["house_style"] == [0]
