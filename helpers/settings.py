"""The course's environment variables (``COURSE_…``), read in one way. Standard library only."""

import os
import re
from pathlib import Path

from helpers.errors import CourseError

QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’"}


def text(name: str) -> str:
    """A variable without the spaces and quotes around it; empty where it is not set.

    ``%env NAME="…"`` keeps the quotes, which a shell would take off.

    Raises:
        CourseError: a quote is opened and not closed, or the other way round.
    """
    value = os.environ.get(name, "").strip()
    while len(value) > 1 and QUOTES.get(value[0]) == value[-1]:
        value = value[1:-1].strip()
    if value and (value[0] in QUOTES or value[-1] in QUOTES.values()):
        raise CourseError(
            f"{name} = {value} has a quote at one end only.",
            "Such a quote would become a part of the name.",
            f"Set it again without quotes: %env {name}=…",
        )
    return value


def path(name: str) -> Path | None:
    """A variable that names a file or folder, as an absolute path; ``None`` where it is not set.

    ``~`` and ``$NAME`` are filled in, and a relative path is meant from the folder in which it is first read. The
    variable then holds the absolute path, so that it stays the same after ``os.chdir`` and in other processes.

    Raises:
        CourseError: a quote is at one end only, ``~name`` names nobody on this machine, or it is no path here.
    """
    value = text(name)
    if not value:
        return None
    if re.match(r"\w+://|[A-Za-z]:\\", value) or re.search(r"\$[\w{]", os.path.expandvars(value)):
        raise CourseError(
            f"{name} = {re.sub('//[^/@]+@', '//…@', value)} is no folder or file of this machine.",
            "An address on the web, a drive of Windows, or a variable that is not set would become a folder of that name.",
            f"Set it again with a full path: %env {name}=/…",
        )
    try:
        found = Path(os.path.expandvars(value)).expanduser().absolute()
    except RuntimeError as error:
        raise CourseError(
            f"{name} = {value} cannot be found: {error}",
            "~ alone is your own folder; ~name is that of the user with this name.",
            f"Set it again with a full path: %env {name}=/…",
        ) from error
    os.environ[name] = str(found)
    return found
