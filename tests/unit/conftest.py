"""Shared by the unit tests: one thread, and one finished training of the tiny Llama."""

import os

import pytest
from hypothesis import settings

# Property tests: the same examples in every run, and no time limit, since machines differ.
settings.register_profile("course", deadline=None, derandomize=True)
settings.load_profile("course")

# The tiny Llama's matrices are so small that a second thread mostly waits for the first: ten times slower
# on a busy machine. Read when torch is first imported, so it stands above everything else.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than ten seconds")


@pytest.fixture
def use_tiny_llama(monkeypatch, tiny_llama):
    """The tiny Llama is this machine's model."""
    monkeypatch.setenv("COURSE_MODEL", str(tiny_llama))


@pytest.fixture(scope="session")
def trained(tiny_llama, tmp_path_factory):
    """One finished training in a workspace of its own, never interrupted; tests only read it."""
    import tiny_run

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_MODEL", str(tiny_llama))
        patch.setenv("COURSE_WORKSPACE", str(tmp_path_factory.mktemp("trained")))
        return tiny_run.fit()
