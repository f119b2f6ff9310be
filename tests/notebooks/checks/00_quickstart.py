"""What the cells of 00_quickstart must have produced; their names are this file's globals."""


def pick_100():
    assert len(chosen) == size.conversations


def loss_falls():
    assert last < first


def answer_test_set():
    assert len(answers) == len(test_set)


def read_back():
    assert list(written) == list(test_set["id"]) and entry["output"] == [answers[0]]


def adapter_size():
    assert 4 <= per_number < 4.5


def sampled_answers():
    assert sampled != answers[:2]
