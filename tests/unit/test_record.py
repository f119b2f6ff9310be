"""data/measured.json: what README and notebooks state and print about minutes is what was measured."""

import copy
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

KIT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(KIT / "tools"))
import record

import notebooks as tool
from helpers import machine

CONTENT = record.read()
ENTRIES = CONTENT["notebooks"]
DATED = {name: entry for name, entry in ENTRIES.items() if entry.get("date")}
NOTEBOOKS = record.notebooks()
# "took 6.49 minutes", or a table's "minutes  6.49"; estimates and T4 minutes are of another kind.
PRINTED = re.compile(r"(\d+\.\d+) minutes|^minutes +(\d+\.\d+)$", re.MULTILINE)


def test_readme_and_first_cells_state_the_times_of_the_record():
    names = [path.name for path in record.stale()]
    assert names == [], "run `python tools/record.py`"


def test_every_notebook_has_its_times_and_its_row():
    assert set(ENTRIES) == {path.stem for path in NOTEBOOKS}
    readme = record.README.read_text(encoding="utf-8")
    for name in ENTRIES:
        assert len(re.findall(record.TABLE_ROW.format(name=name), readme)) == 1
    assert len(record.PARAGRAPH.findall(readme)) == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_cell_alone_states_one_measured_time_and_one_estimate(path):
    texts = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown"]
    counts = [len(record.MEASURED.findall(text)) for text in texts]
    assert counts[0] == 1 and sum(counts) == 1
    assert len(record.ESTIMATE.findall(texts[0])) == 1
    assert "an estimate" in texts[0]


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.stem in DATED], ids=lambda p: p.stem)
def test_minutes_that_were_printed_are_those_of_the_record(path):
    measured = [m for entry in ENTRIES.values() for m in entry.get("training_minutes", {}).values()]
    for cell in record.code_cells(path):
        for output in cell["outputs"]:
            for line in "".join(output.get("text", "")).splitlines():
                if "T4" in line or "estimate" in line:
                    continue
                for found in PRINTED.findall(line):
                    text = "".join(found)
                    digits = len(text.partition(".")[2])
                    assert float(text) in {round(minutes, digits) for minutes in measured}, line


@pytest.mark.parametrize("name", DATED)
def test_a_notebook_took_longer_than_the_trainings_in_it(name):
    assert DATED[name]["minutes"] > sum(DATED[name]["training_minutes"].values())


def test_all_outputs_are_of_one_machine_with_two_cores():
    # A notebook whose code has changed since, so that an output is missing, waits for its next run.
    waiting = {path.stem for path in tool.all_unsaved(NOTEBOOKS)}
    machines = [entry["machine"] for name, entry in DATED.items() if name not in waiting]
    assert len(waiting) <= 1 and all(machine == machines[0] for machine in machines)
    assert all(entry["machine"]["cores"] == record.CORES for entry in DATED.values())
    readme = (record.ROOT / "README.md").read_text(encoding="utf-8")
    assert all(record.on(entry["machine"]) in readme for entry in DATED.values())


def test_the_machine_is_described_without_its_name():
    machine = record.machine()
    assert machine["cores"] > 0 and machine["number_format"] in ("bfloat16", "float32")
    assert socket.gethostname() not in json.dumps(machine)


@pytest.mark.parametrize(
    ("asked", "number_format"), [("0", "float32"), ("1", "bfloat16")], ids=["asked off", "asked on"]
)
def test_the_number_format_is_the_one_that_was_asked_for(monkeypatch, asked, number_format):
    monkeypatch.setenv("UNSLOTH_CPU_BF16", asked)
    assert record.machine()["number_format"] == number_format


@pytest.mark.parametrize(
    ("vendor", "has", "slow"),
    [
        ("GenuineIntel", "avx512f avx512_bf16", True),
        ("GenuineIntel", "avx512f avx512_bf16 amx_bf16", False),
        ("GenuineIntel", "avx2", False),
        ("AuthenticAMD", "avx512f avx512_bf16", False),
        ("", "", False),
    ],
)
def test_bfloat16_is_not_taken_where_it_is_slower(vendor, has, slow):
    about = f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {has}\nbogomips\t: 1\n"
    assert machine.computes_slowly_in_bfloat16(about if vendor else "") == slow


def test_the_number_format_is_unsloths_own_here(monkeypatch):
    """What the minutes are noted under is what the small model computes in."""
    monkeypatch.delenv("UNSLOTH_CPU_BF16", raising=False)
    code = (
        "from helpers import unsloth_first; import unsloth; print(unsloth.is_bfloat16_supported())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=record.ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    said = {"True": "bfloat16", "False": "float32"}[done.stdout.split()[-1]]
    assert record.machine()["number_format"] == said


@pytest.mark.parametrize(
    ("minutes", "words", "short"),
    [
        (0.02, "about 5 seconds", "5 s"),
        (0.25, "about 15 seconds", "15 s"),
        (1.2, "about a minute", "1 min"),
        (1.6, "about 2 minutes", "2 min"),
        (12.4, "about 12 minutes", "12 min"),
    ],
)
def test_minutes_in_words(minutes, words, short):
    assert record.in_words(minutes) == words and record.in_table(minutes) == short
    # What was written once is found again, and replaced.
    cell = f"Time: reading about 3 minutes; about 3 minutes on a T4 (an estimate), {words} on two CPU cores (measured)."
    changed = record.first_cell(cell, {"minutes": 7}, 8.6, (9, 0))
    assert changed == (
        "Time: reading about 9 minutes; about 9 minutes on a T4 (an estimate), about 7 minutes on two CPU cores (measured)."
    )


def test_three_users_with_a_t4_make_an_estimate_a_median():
    content = {"notebooks": {"05_train": {"colab_minutes_estimate": 9}}}
    reports = [
        {"gpu": "Tesla T4", "notebook": "05", "model": "llama-2-7b", "without_a_pause": True}
        | {"minutes_since_set_up": minutes}
        | changes
        for minutes, changes in [
            (12, {}),
            (11, {}),
            (3, {"gpu": "NVIDIA A100"}),
            (30, {"notebook": "00"}),
            (2, {"model": "smollm2-135m"}),
            (80, {"without_a_pause": False}),
            (60, {}),
        ]
    ]
    assert record.in_colab(content | {"reported_by_users": reports[:-1]}, "05_train") == (9, 0)
    assert record.in_colab(content | {"reported_by_users": reports}, "05_train") == (12, 3)
    cell = "machine about 9 minutes on a T4 (an estimate, mostly the download)"
    told = record.first_cell(cell, {"minutes": 7}, 8, (12, 3))
    assert told == "machine about 12 minutes on a T4 (the median of 3 users, mostly the download)"
    assert record.first_cell(told, {"minutes": 7}, 8, (9, 0)) == cell


def entry(**changes) -> dict:
    machine = {
        "processor": "Example 9",
        "cores": 2,
        "features": ["avx2", "avx512_bf16"],
        "number_format": "bfloat16",
        "python": "3.11",
    }
    return {"minutes": 3, "date": "2026-12-01", "machine": machine} | changes


def test_the_readme_says_which_machine_and_when():
    said = record.paragraph({"notebooks": {"01_a": entry(), "02_b": entry(date="2026-12-03")}})
    assert "2026-12-01 to 2026-12-03, on 2 cores of an Example 9 (AVX2, AVX512-BF16" in said
    assert "bfloat16" in said and "neither" not in said
    said = record.paragraph({"notebooks": {"01_a": entry(), "02_b": {"minutes": 3}}})
    assert "01: 2026-12-01" in said and "Of 02 neither" in said


def test_the_readme_says_when_the_code_is_newer_than_the_last_run_at_full_size():
    full = entry(minutes={"01_a": 3, "02_b": 4}, code=record.course_hash())
    said = record.paragraph({"notebooks": {}, "full": full})
    assert "2026-12-01, 2 notebooks, 7 minutes" in said and "changed since" not in said
    said = record.paragraph({"notebooks": {}, "full": full | {"code": "older"}})
    assert "the course's code has changed since" in said
    assert "No run of all notebooks" in record.paragraph({"notebooks": {}})


@pytest.fixture
def kit(tmp_path, monkeypatch):
    """A course of one notebook and one helper, with a record of its own."""
    for folder in ("helpers", "data", "notebooks", "requirements"):
        (tmp_path / folder).mkdir()
    (tmp_path / "helpers" / "one.py").write_text("x = 1\n")
    (tmp_path / "data" / "rows.json").write_text("[]\n")
    (tmp_path / "requirements" / "requirements-local.txt").write_text("a==1\n")
    cells = [nbformat.v4.new_markdown_cell("# Title")]
    cells += [nbformat.v4.new_code_cell(source) for source in ("get", "check", "print(1)")]
    cells[3].outputs = [nbformat.v4.new_output("stream", text="1\n")]
    path = tmp_path / "notebooks" / "01_a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setattr(record, "FILE", tmp_path / "data" / "measured.json")
    record.write({"notebooks": {"01_a": {"minutes": 1, "colab_minutes_estimate": 5}}})
    return path


def change(path: Path, number: int, **fields) -> None:
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[number].update(copy.deepcopy(fields))
    nbformat.write(notebook, path)


def test_a_run_is_current_until_code_data_pins_or_outputs_change(kit):
    assert not record.is_current(kit)
    record.note(kit, 2.346, {"r4": 1.5})
    found = record.read()["notebooks"]["01_a"]
    assert found["minutes"] == 2.35 and found["training_minutes"] == {"r4": 1.5}
    assert found["colab_minutes_estimate"] == 5
    assert record.is_current(kit)
    # Prose and the opening cells, where a release changes the address, are no reason to run it again.
    change(kit, 0, source="# Another title")
    change(kit, 1, source="get the release")
    assert record.is_current(kit)
    for file in ("helpers/one.py", "data/rows.json", "requirements/requirements-local.txt"):
        before = (record.ROOT / file).read_text()
        (record.ROOT / file).write_text(before + " ")
        assert not record.is_current(kit), file
        (record.ROOT / file).write_text(before)
    assert record.is_current(kit)
    change(kit, 3, outputs=[])
    assert not record.is_current(kit)


def test_another_machine_runs_it_again(kit, monkeypatch):
    record.note(kit, 2, {})
    monkeypatch.setenv(
        "UNSLOTH_CPU_BF16", str(int(record.machine()["number_format"] != "bfloat16"))
    )
    assert not record.is_current(kit)
