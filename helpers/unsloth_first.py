"""Import Unsloth, before what it changes (transformers, peft, trl): every helper that needs it begins with this one."""

import os

from helpers import machine, settings

# Unsloth reports each load to its makers unless told not to; a course has no business doing that.
os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
if settings.text("COURSE_T4") == "1":
    # Unsloth asks while it is imported.
    machine.answer_as_a_t4()
import unsloth  # noqa: F401  # isort: skip
