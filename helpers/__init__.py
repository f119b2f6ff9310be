"""Machinery of the LoRA course; each file serves one lesson. Importing this package loads nothing heavy."""

import sys

# Here, since an older Python cannot even read the other files.
if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit(
        "This is Python " + sys.version.split()[0] + ", which is too old for the course.\n"
        "What to do: on Colab choose another runtime version (command palette, Ctrl+Shift+P > Change runtime "
        "version). On your own machine use Python 3.11, 3.12 or 3.13."
    )
