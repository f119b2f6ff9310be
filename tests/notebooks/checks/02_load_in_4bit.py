"""What the cells of 02_load_in_4bit must have produced; their names are this file's globals."""


def sizes_by_bits():
    assert sizes[4] < sizes[8] < sizes[16] < sizes[32] and 0.9 < ratio < 1.1
