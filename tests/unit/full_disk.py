"""A full disk, for real: the operating system stops writing in the middle of a file."""

import resource
from contextlib import contextmanager


@contextmanager
def files_limited_to(size: int):
    """As on a full disk, writing stops in the middle: no file may grow above ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
