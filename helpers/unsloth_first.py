"""Import Unsloth, before what it changes (transformers, peft, trl): every helper that needs it begins with this one."""

import os

from helpers import machine, settings, t4_mode

# Unsloth reports each load to its makers unless told not to; a course has no business doing that.
os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
machine.take_one()
machine.choose_number_format()
AS_A_T4 = settings.text("COURSE_T4") == "1"
if AS_A_T4:
    t4_mode.before_unsloth()
import unsloth  # noqa: F401  # isort: skip

if AS_A_T4:
    t4_mode.after_unsloth()
