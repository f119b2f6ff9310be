"""What the cells of 04_choose_data must have produced; their names are this file's globals."""


def import_the_helpers():
    ours = {"carry", "data", "homework", "plots", "selection", "workspace"}
    assert ours | {"Counter"} <= set(globals())
    assert all(globals()[name].__name__ == f"helpers.{name}" for name in ours)


def shortest_first():
    counts = [homework.words(row) for row in simple]
    assert counts == sorted(counts)


def two_summaries():
    assert thin < 10 < rich


def pool_picture():
    assert max(words[i] for i in picks["simple sort"]) < min(
        words[i] for i in picks["advanced sort"]
    )
    drawn = [line.get_label() for line in _figure().axes[0].lines]
    assert drawn == ["the pool", *picks]


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
    _unsloth_first()
    ours = {"evaluation", "models", "presets"}
    assert all(globals()[name].__name__ == f"helpers.{name}" for name in ours)
    assert homework.PREAMBLE in texts[1]
    assert homework.PREAMBLE not in texts[0] + texts[2]


def loss_of_formats():
    assert all(len(values) == len(probe) and min(values) > 0 for values, _ in losses.values())


def refuse_a_bad_row():
    assert not bad_file.exists() and CourseError.__module__ == "helpers.errors"


def no_overlap():
    assert not selection.overlap(pool, test_set) and not selection.overlap(pool, heldout)


def planted_question():
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


def longest_first():
    assert same > 50
