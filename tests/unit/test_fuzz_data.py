"""Whatever a file holds, the loaders end in a dataset that keeps the rules, or in a CourseError.

`tools/fuzz_data.py` does the same with as many files as one likes.
"""

import json
import random
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import fuzz_data

scalar = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(fuzz_data.TEXTS)
anything = st.recursive(
    scalar | st.text(st.characters(), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(fuzz_data.NAMES), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.fixture(autouse=True, scope="module")
def no_progress_bars():
    fuzz_data.disable_progress_bars()


@settings(max_examples=200)
@given(st.integers(0, 2**32))
def test_a_generated_file_damaged_or_not_is_read_or_refused(tmp_path_factory, seed):
    with pytest.MonkeyPatch.context() as patch:
        # One of the kinds is a saved selection, for which the workspace is changed.
        patch.setenv("COURSE_WORKSPACE", str(tmp_path_factory.getbasetemp()))
        rng = random.Random(seed)
        path = fuzz_data.make(rng, tmp_path_factory.mktemp("fuzz"))
        fuzz_data.outcome(path, rng.random() < 0.5)


@settings(max_examples=150)
@given(anything, st.booleans())
def test_any_json_is_read_or_refused(tmp_path_factory, content, skip):
    path = tmp_path_factory.mktemp("fuzz") / "rows.json"
    path.write_text(json.dumps(content))
    fuzz_data.outcome(path, skip)


@settings(max_examples=100)
@given(st.binary(max_size=40), st.sampled_from([b"", b"PAR1", b"[", b"{", b"\xef\xbb\xbf"]))
def test_any_bytes_are_refused_or_read_under_any_name(tmp_path_factory, content, start):
    for name in ("rows.json", "rows.csv", "rows.parquet"):
        path = tmp_path_factory.getbasetemp() / name
        path.write_bytes(start + content)
        fuzz_data.outcome(path, False)


def test_some_generated_files_are_read_and_some_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_WORKSPACE", str(tmp_path))
    ends = set()
    for seed in range(40):
        folder = tmp_path / str(seed)
        folder.mkdir()
        ends.add(fuzz_data.outcome(fuzz_data.make(random.Random(seed), folder), False))
    assert "read" in ends and len(ends) > 5
