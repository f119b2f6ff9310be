"""What the checks of several notebooks use; it stands before each file of checks, in the kernel."""


def _unsloth_first():
    """Modules stand in the order in which they were ready."""
    import sys

    loaded = [name.partition(".")[0] for name in list(sys.modules)]
    assert loaded.index("unsloth") < loaded.index("transformers")


def _figure():
    """What the cell showed as its value."""
    return Out[len(In) - 1]
