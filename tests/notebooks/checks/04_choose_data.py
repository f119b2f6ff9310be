"""What the cells of 04_choose_data must have produced; their names are this file's globals."""


def import_the_helpers():
    _unsloth_first()
    ours = {"models", "data", "evaluation", "plots", "presets", "selection", "workspace"}
    others = {"copy", "json", "Counter", "Dataset", "CourseError"}
    assert ours | others <= set(globals())
    assert all(globals()[name].__name__ == f"helpers.{name}" for name in ours)


def two_summaries():
    assert thin < 10 < rich


def pool_picture():
    assert max(words[i] for i in picks["simple sort"]) < min(
        words[i] for i in picks["advanced sort"]
    )


def homework_pool():
    def answer_words(key, **order):
        return sum(map(selection.answer_words, selection.select(official, key, **order)))

    assert answer_words(homework.simple_key) < answer_words(
        homework.advanced_key, largest_first=True
    )


def own_key():
    assert len(mine) == presets.MAX_CONVERSATIONS and min(mine["score"]) == 5


def three_formats():
    assert homework.PREAMBLE in texts[1]
    assert homework.PREAMBLE not in texts[0] + texts[2]


def loss_of_formats():
    assert all(len(values) == len(probe) and min(values) > 0 for values, _ in losses.values())


def no_overlap():
    assert not selection.overlap(pool, test_set) and not selection.overlap(pool, heldout)


def planted_question():
    assert found == [(rows[0]["id"], test_set[3]["id"])] and len(clean) == len(pool) - 1


def overlap_here():
    assert not selection.overlap(official, official_test)


def keep_choice():
    assert set(saved["id"]) <= set(chosen["id"])


def with_preamble():
    assert again["id"] == simple["id"]


def longest_first():
    assert same > 50
