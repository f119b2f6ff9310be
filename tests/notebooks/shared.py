"""What the checks of several notebooks use; it stands before each file of checks, in the kernel."""


def _unsloth_first():
    """Modules stand in the order in which they were ready."""
    import sys

    loaded = [name.partition(".")[0] for name in list(sys.modules)]
    assert loaded.index("unsloth") < loaded.index("transformers")


def _figure():
    """What the cell showed as its value."""
    return Out[len(In) - 1]


def _reported(run, number):
    """The line that users may send is whole, and of this run."""
    import json

    mark, _, content = report.line(run, number).partition(" ")
    found = json.loads(content)
    assert (mark, found["notebook"], found["r"]) == (report.MARK, number, choice.r)
    assert found["tokens"] == run.record["tokens"]
    assert found["minutes_since_set_up"] + 0.1 >= found["minutes"] > 0
