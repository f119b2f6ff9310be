"""What the cells of 07_inside_the_adapter must have produced; their names are this file's globals."""


def relatives_of_the_run():
    assert shuffled.record["trainable_parameters"] == run.record["trainable_parameters"]


def factors_of_the_run():
    assert first.a.shape[0] == first.b.shape[1] == r


def minus_alpha():
    assert minus_loss > your_loss
