"""Shared by the unit tests: one thread, and one finished training of the tiny Llama."""

import os
import shutil
import signal

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
    # In the background a shell lets its commands ignore Ctrl+C, and what they start inherits that.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(scope="session")
def killed(tiny_llama, tmp_path_factory):
    """Workspace of a training that got kill -9 after step 22, with checkpoints of steps 15 and 20."""
    import forked
    import tiny_run

    folder = tmp_path_factory.mktemp("killed") / "workspace"
    places = {"COURSE_MODEL": str(tiny_llama), "COURSE_WORKSPACE": str(folder)}
    process = forked.Process(tiny_run.fit_and_break_off, **places)
    said, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    return folder


@pytest.fixture
def interrupted(killed, workspace):
    """The run folder in a copy of that workspace."""
    shutil.copytree(killed, workspace)
    (folder,) = (workspace / "runs").iterdir()
    assert {f.name for f in folder.glob("checkpoint-*")} == {"checkpoint-15", "checkpoint-20"}
    return folder


@pytest.fixture
def resume():
    """Run the training again; return the run, and how many steps were taken now."""
    import tiny_run
    from transformers import TrainerCallback

    class Count(TrainerCallback):
        steps = 0

        def on_step_end(self, args, state, control, **kwargs):
            self.steps += 1

    def again():
        counter = Count()
        return tiny_run.fit(callback=counter).run, counter.steps

    return again
