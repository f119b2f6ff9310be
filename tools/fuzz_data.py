"""Throw generated files at the loaders: each must end in a dataset that keeps the rules, or in a CourseError.

`.venv/bin/python tools/fuzz_data.py [COUNT] [SEED]` makes COUNT files (10,000 if not given), half of them damaged,
and counts how they ended. The first file that ends otherwise stays on disk and is named. `make test` does the same
with a few hundred.
"""

import contextlib
import csv
import io
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

KIT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(KIT))
from datasets import disable_progress_bars
from pyarrow import ArrowException

from helpers import data, letters, selection, shapes
from helpers.errors import CourseError

TEXTS = [
    *("Name a tree.", "Oak.", "", " ", "\u200b", "\ufeff", "a\nb", "x;y,z\tw", 'say "hi"', "\x00"),
    *("é", "日本", "🙂", "\ud800", "</s>", "<|im_end|>", "None", "007", "[]", "{}", "null", "NaN"),
    *(
        "### Instruction: x ### Response:",
        '[{"role": "user", "content": "x"}]',
        "[{'role': 'user'}]",
    ),
]
VALUES = [None, True, False, 0, 1, -1.5, 10**30, 10**400, float("nan"), float("inf"), [], {}]
NAMES = ["id", "score", "role", "from", "content", "value", "type", "category", "", "Instruction"]
NAMES += [*shapes.PARTS, *shapes.SYSTEM]


def value(rng: random.Random, depth: int = 0) -> object:
    """Anything JSON can hold."""
    kind = rng.random()
    if depth > 3 or kind < 0.5:
        return rng.choice(TEXTS)
    if kind < 0.7:
        return rng.choice(VALUES)
    if kind < 0.85:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(NAMES): value(rng, depth + 1) for _ in range(rng.randrange(4))}


def message(rng: random.Random, role: str) -> object:
    """A message, mostly a right one, in one of the spellings."""
    text = rng.choice(TEXTS[:2]) if rng.random() < 0.8 else value(rng)
    if rng.random() < 0.1:
        role = rng.choice(["User", "tool", "bot", "system", "", "gpt "])
    speaker = {"user": "human", "assistant": "gpt"}.get(role, role)
    made = rng.choice([{"role": role, "content": text}, {"from": speaker, "value": text}])
    if rng.random() < 0.1:
        made[rng.choice(NAMES)] = value(rng)
    return made if rng.random() < 0.95 else value(rng)


def row(rng: random.Random) -> object:
    """A row, mostly a right one, in one of the shapes."""
    if rng.random() < 0.02:
        return value(rng)
    odd = rng.random() < 0.3
    roles = ["system"] * (rng.random() < 0.2) + ["user", "assistant"] * rng.randint(1, 3)
    if odd:
        rng.shuffle(roles)
    messages = [message(rng, role) if odd else {"role": role, "content": "x"} for role in roles]
    made = rng.choice(
        [
            {"conversations": messages},
            {"messages": messages},
            {"conversations": json.dumps(messages)},
            {
                "instruction": rng.choice(TEXTS),
                "input": rng.choice(TEXTS),
                "output": rng.choice(TEXTS),
            },
            {"prompt": rng.choice(TEXTS), "completion": rng.choice(TEXTS)},
            {"prompt": messages[:-1], "completion": messages[-1:]},
        ]
    )
    made["id"] = value(rng) if rng.random() < 0.05 else rng.choice([f"r{rng.random()}", None])
    for _ in range(rng.randrange(3) if odd else 0):
        made[rng.choice(NAMES)] = value(rng)
    return made


def content(rng: random.Random, rows: list) -> tuple[str, bytes]:
    """A file's ending and its bytes, in one of the kinds."""
    kind = rng.randrange(6)
    if kind < 2:
        wrapped = rng.choice([rows, {"data": rows}, rows[0]])
        return ".json", json.dumps(wrapped, indent=rng.choice([None, 1])).encode()
    if kind == 2:
        between = rng.choice(["\n", "\r\n", "\n\ufeff", "", ",\n"])
        return ".jsonl", between.join(json.dumps(row) for row in rows).encode()
    if kind == 3:
        return ".json", b"".join(
            json.dumps(rng.choice([rows, rows[-1]])).encode() for _ in range(2)
        )
    if kind == 4:
        out = io.StringIO()
        table = [row for row in rows if isinstance(row, dict)] or [{"instruction": "x"}]
        writer = csv.writer(out, delimiter=rng.choice(",;\t"))
        writer.writerow(table[0])
        for one in table:
            cells = (one.get(name) for name in table[0])
            writer.writerow([c if isinstance(c, str) else json.dumps(c) for c in cells])
        return rng.choice([".csv", ".tsv"]), out.getvalue().encode(errors="replace")
    from datasets import Dataset

    out = io.BytesIO()
    # A table has one type for each column: rows of one shape.
    table = (
        [rows[0] | {"id": str(i)} for i in range(len(rows))] if isinstance(rows[0], dict) else []
    )
    try:
        Dataset.from_list(table).to_parquet(out)
    except (ValueError, TypeError, OverflowError, ArrowException):
        return ".json", json.dumps(rows).encode()
    return ".parquet", out.getvalue()


def damaged(rng: random.Random, whole: bytes) -> bytes:
    """A file cut, with changed bytes, with something put in, or in another encoding."""
    place = rng.randrange(len(whole) + 1)
    kind = rng.randrange(6)
    if kind == 0:
        return whole[:place]
    if kind == 1:
        return whole[place:]
    if kind == 2:
        changed = bytearray(whole)
        for _ in range(rng.randint(1, 20)):
            if changed:
                changed[rng.randrange(len(changed))] = rng.randrange(256)
        return bytes(changed)
    if kind == 3:
        odd = [
            b"\xff",
            b"\x00",
            b"\xef\xbb\xbf",
            b"\n",
            b'"',
            b"[" * 3000,
            b"]",
            b",",
            b"\xed\xa0\x80",
        ]
        return whole[:place] + rng.choice(odd) + whole[place:]
    if kind == 4:
        return whole.decode("utf-8", errors="replace").encode(
            rng.choice(["utf-16", "latin-1", "utf-32"]), errors="replace"
        )
    return rng.randbytes(rng.randrange(200))


def make(rng: random.Random, folder: Path) -> Path:
    """One generated file, saved-dataset folder or saved selection."""
    rows = [row(rng) for _ in range(rng.randint(1, 5))]
    damage = rng.random() < 0.5
    if rng.random() < 0.1:
        kept = rng.choice(
            [{"source": "x", "conversations": rows}, {"source": "x", "ids": ["a"]}, value(rng)]
        )
        whole = json.dumps(kept).encode()
        path = folder / "selection.json"
        path.write_bytes(damaged(rng, whole) if damage else whole)
        return path
    if rng.random() < 0.05:
        from datasets import Dataset

        saved = folder / "saved"
        with contextlib.suppress(Exception):
            Dataset.from_list(rows).save_to_disk(saved)
        saved.mkdir(exist_ok=True)
        files = sorted(saved.iterdir())
        if files and damage:
            one = rng.choice(files)
            one.write_bytes(damaged(rng, one.read_bytes()))
        return saved
    ending, whole = content(rng, rows)
    path = folder / f"rows{ending if rng.random() < 0.9 else rng.choice(['', '.txt', '.csv'])}"
    path.write_bytes(damaged(rng, whole) if damage else whole)
    return path


def outcome(path: Path, skip: bool) -> str:
    """How loading ends: ``read``, or the first words of the refusal.

    Raises:
        AssertionError: a dataset breaks the rules, or a message does not name the file or cannot be printed.
        Exception: whatever the loader lets through.
    """
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            if path.name == "selection.json":
                os.environ["COURSE_WORKSPACE"] = str(path.parent)
                rows = selection.load_selection()
            else:
                rows = data.load_conversations(path, skip_unusable=skip)
        except CourseError as error:
            assert path.name in str(error)
            str(error).encode()
            return f"refused: {error.why[:40]}"
    printed.getvalue().encode()
    assert len(rows) and len(set(rows["id"])) == len(rows)
    for messages in rows["conversations"]:
        roles = [m["role"] for m in messages if m["role"] != "system"]
        assert roles == (["user", "assistant"] * len(roles))[: len(roles)] and roles
        assert not any(letters.is_blank(m["content"]) for m in messages)
    assert len(selection.fingerprint(rows)) == 64
    return "read"


def main(count: int = 10_000, seed: int = 0) -> None:
    disable_progress_bars()
    ends: Counter = Counter()
    for number in range(count):
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        rng = random.Random(f"{seed} {number}")
        path = make(rng, folder)
        try:
            ends[outcome(path, rng.random() < 0.5)] += 1
        except BaseException:
            print(f"File {number} of seed {seed}: {path}")
            raise
        shutil.rmtree(folder)
    for end, times in ends.most_common(15):
        print(f"{times:>6,}  {end}")
    print(f"{count:,} files (seed {seed}): each ended in a dataset or a CourseError.")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
