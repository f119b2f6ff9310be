"""The line about a run that users report: what it holds, and what of it is believed."""

import json
import sys
from pathlib import Path

import pytest

from helpers import report, runs
from helpers.choice import Choice

KIT = Path(__file__).parents[2]
sys.path.insert(0, str(KIT / "tools"))
import record
import reports

# As a T4 might report it.
GOOD = {
    "notebook": "05",
    "date": "2026-11-20",
    "gpu": "Tesla T4",
    "gpu_memory": "15360 MiB",
    "driver": "580.65.06",
    "versions": dict.fromkeys(report.PACKAGES, "2.11.0+cu128"),
    "model": "llama-2-7b",
    "r": 16,
    "modules": 7,
    "rows_at_once": 8,
    "longest_row": 260,
    "trained": 39976960,
    "tokens": 41000,
    "minutes": 3.4,
    "tokens_per_second": 201,
    "minutes_since_set_up": 14.2,
    "peak_gib": 4.71,
    "predicted_gib": 4.6,
}


def run_with(**changes) -> runs.Run:
    held = {
        "model": "llama-2-7b",
        "choice": Choice(r=4).to_dict(),
        "per_device_train_batch_size": 2,
        "longest_row": 300,
        "trainable_parameters": 9994240,
        "tokens": 41000,
        "minutes": 3.4,
    }
    return runs.Run(Path("/home/somebody/secret-project/runs/r4-alpha16"), held | changes)


def told(run: runs.Run) -> dict:
    (raw,) = reports.lines(f"Hello!\n```\n{report.line(run, '05')}\n```\nIt ran.")
    return json.loads(raw)


def test_the_line_says_what_ran_and_nothing_about_whose_it_is():
    run = run_with(peak_memory_gib=4.7, ids=["row 1"], data="abc")
    found = told(run)
    assert set(found) == set(GOOD)
    assert (found["r"], found["minutes"], found["peak_gib"]) == (4, 3.4, 4.7)
    assert 4 < found["predicted_gib"] < 5
    assert "somebody" not in report.line(run, "05") and "row 1" not in report.line(run, "05")


def test_of_an_unknown_model_or_an_older_run_nothing_is_predicted():
    found = told(run_with(model="/home/somebody/secret/my-model"))
    assert (found["model"], found["predicted_gib"]) == ("other", None)
    assert told(run_with(longest_row=None))["predicted_gib"] is None


def test_a_run_on_the_processor_names_no_gpu():
    assert told(run_with())["gpu"] == "none"


def test_a_good_report_is_believed():
    assert reports.fault(GOOD) is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"remark": "x"}, "fields are not those of a report"),
        ({"gpu": None}, "gpu is no short text"),
        ({"versions": "2.11"}, "versions is no short text"),
        ({"versions": {"torch": "x" * 100}}, "torch is no short text"),
        ({"notebook": ""}, "no notebook of the course"),
        ({"versions": {"torch": "2.11"}}, "no notebook of the course"),
        ({"r": 8.5}, "r is no number above 0 of its kind"),
        ({"trained": 1}, "is not what r = 16 trains"),
        ({"modules": 8}, "is not what r = 16 trains"),
        ({"tokens_per_second": 4000}, "not its tokens in its minutes"),
        ({"predicted_gib": 900}, "no prediction of the planner's"),
        ({"gpu": "x" * 1000}, "gpu is no short text"),
        ({"minutes": "3"}, "minutes is no number"),
        ({"minutes": float("nan")}, "minutes is no number"),
        ({"tokens": True}, "tokens is no number"),
        ({"date": "yesterday"}, "is no date"),
        ({"date": "2999-01-01"}, "has not come yet"),
        ({"model": "gpt-5"}, "is no model of the course"),
        ({"minutes_since_set_up": 1}, "less than its training"),
        ({"peak_gib": None}, "this was no GPU"),
        ({"peak_gib": 1.0}, "less than the weights"),
        ({"peak_gib": 40.0}, "more than a T4 has"),
        ({"minutes": 0.05, "tokens_per_second": 13667}, "faster than a T4 can be"),
    ],
)
def test_what_cannot_be_right_is_refused(changes, why):
    assert why in reports.fault(GOOD | changes)


def test_reports_are_kept_apart_once_each_and_refused_ones_left_out(tmp_path, monkeypatch):
    file = tmp_path / "measured.json"
    file.write_text(record.FILE.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(record, "FILE", file)
    before = record.read()
    text = "\n".join(f"{report.MARK} {json.dumps(one)}" for one in (GOOD, GOOD, GOOD | {"r": 0}))
    assert [one.partition(":")[0] for one in reports.take([text])] == ["taken", "known", "refused"]
    assert record.read() == before | {"reported_by_users": [GOOD | {"without_a_pause": False}]}
    # A file is an issue: whether it ran without a pause is that user's word.
    again = f"{report.MARK} {json.dumps(GOOD | {'minutes_since_set_up': 20})}"
    reports.take([f"{again}\n{reports.WITHOUT_A_PAUSE}", "Run all"])
    assert [one["without_a_pause"] for one in record.read()["reported_by_users"]] == [False, True]
    form = (KIT / ".github" / "ISSUE_TEMPLATE" / "report.yml").read_text(encoding="utf-8")
    assert f'"{reports.WITHOUT_A_PAUSE}"' in form
