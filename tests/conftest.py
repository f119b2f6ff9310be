"""Shared by all tests: a workspace of their own, and a Llama of a few thousand parameters."""

import os
import sys
from pathlib import Path

import pytest

KIT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(KIT), str(KIT / "tests")]
# One workspace for the whole test run, so that the small model is made once.
os.environ.setdefault("COURSE_WORKSPACE", str(KIT / "build" / "test-workspace"))
os.environ.setdefault("COURSE_SIZE", "test")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
os.environ.setdefault("MPLBACKEND", "agg")
# The uv of this environment is the one that tests use.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """An empty workspace."""
    monkeypatch.setenv("COURSE_WORKSPACE", str(tmp_path / "workspace"))
    return tmp_path / "workspace"


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> Path:
    """Folder of a real Llama of a few thousand parameters, with a tokenizer without a chat template."""
    import tiny_llama

    return tiny_llama.make(tmp_path_factory.mktemp("tiny-llama"))
