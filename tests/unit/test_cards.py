"""Which GPU the course takes, and what it says of one that does not suit it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import machine

KIT = Path(__file__).parents[2]
# As nvidia-smi answers: name, memory, driver, capability, memory in use, number.
T4 = "Tesla T4, 15360 MiB, 580.82, 7.5, 3 MiB, 0"
TORCH = """
import os, types
__version__ = "2.11.0"
version = types.SimpleNamespace(cuda="12.8", hip=None)
def is_available():
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1")
cuda = types.SimpleNamespace(is_available=is_available)
"""


def said(folder: Path, *lines: str, torch: str = TORCH, **variables: str) -> list[str]:
    """In a fresh interpreter with a driver that answers so: the model, what is said, and which GPU PyTorch may see."""
    (folder / "torch.py").write_text(torch)
    tool = folder / "nvidia-smi"
    text = "\n".join(lines)
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    tool.chmod(0o755)
    code = (
        f"import os, sys; sys.path.insert(0, {str(folder)!r})\n"
        "from helpers import machine\n"
        "print(machine.default_name())\n"
        "print(' '.join(machine.which_model(machine.gpu()).split()))\n"
        "print(os.environ.get('CUDA_VISIBLE_DEVICES', 'unset'))\n"
    )
    kept = {
        n: v for n, v in os.environ.items() if n not in ("CUDA_VISIBLE_DEVICES", "COURSE_MODEL")
    }
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=KIT, env=kept | {"PATH": path} | variables,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_t4_gets_llama_and_nothing_is_hidden(tmp_path):
    model, sentence, visible = said(tmp_path, T4)
    assert (model, visible) == ("llama-2-7b", "unset")
    assert sentence == "Tesla T4 found: the course uses Llama-2-7B."


@pytest.mark.parametrize(
    ("line", "why", "visible"),
    [
        ("Tesla P100-PCIE-16GB, 16384 MiB, 580.82, 6.0, 0 MiB, 0", "capability 6.0", ""),
        ("NVIDIA GeForce GTX 1650, 4096 MiB, 580.82, 7.5, 0 MiB, 0", "has 4.0 GiB", "unset"),
        ("Tesla T4, 15360 MiB, 580.82, 7.5, 11264 MiB, 0", "has 11.0 of its 15.0 GiB", "unset"),
        # A slice of a larger GPU says its own memory.
        ("NVIDIA H100 MIG 1g.5gb, 4864 MiB, 580.82, 9.0, [N/A], 0", "has 4.8 GiB", "unset"),
    ],
)
def test_one_that_does_not_suit_gets_the_small_model_and_one_sentence(tmp_path, line, why, visible):
    model, sentence, seen = said(tmp_path, line)
    assert model == "smollm2-135m" and why in sentence and "SmolLM2-135M" in sentence
    assert seen == visible


def test_a_smaller_one_that_suits_and_a_driver_that_does_not_say_get_llama(tmp_path):
    assert said(tmp_path, "RTX 3060, 6144 MiB, 580.82, 8.6, 0 MiB, 0")[0] == "llama-2-7b"
    assert said(tmp_path, "A card, [N/A], 580.82, [N/A], [N/A], 0")[0] == "llama-2-7b"


def test_of_two_the_first_that_suits_is_taken_and_said(tmp_path):
    second = T4.replace("3 MiB, 0", "3 MiB, 1")
    model, sentence, visible = said(tmp_path, T4, second)
    assert (model, visible) == ("llama-2-7b", "0") and "one of 2 GPUs" in sentence
    full = T4.replace("3 MiB, 0", "14000 MiB, 0")
    assert said(tmp_path, full, second)[2] == "1"


def test_the_one_that_is_taken_is_named_not_the_first(tmp_path):
    old = "Tesla P100-PCIE-16GB, 16384 MiB, 580.82, 6.0, 0 MiB, 0"
    _, sentence, visible = said(tmp_path, old, T4.replace("3 MiB, 0", "3 MiB, 1"))
    assert sentence == "Tesla T4 found (one of 2 GPUs): the course uses Llama-2-7B."
    assert visible == "1"


def test_a_model_of_ones_own_gets_one_gpu_too(tmp_path):
    second = T4.replace("3 MiB, 0", "3 MiB, 1")
    assert said(tmp_path, T4, second, COURSE_MODEL="llama-2-7b")[2] == "0"


def test_of_those_that_the_variable_names_one_is_taken(tmp_path):
    second = T4.replace("3 MiB, 0", "3 MiB, 1")
    assert said(tmp_path, T4, second, CUDA_VISIBLE_DEVICES="1")[2] == "1"
    full = T4.replace("3 MiB, 0", "14000 MiB, 0")
    assert said(tmp_path, full, second, CUDA_VISIBLE_DEVICES="0,1")[2] == "1"
    assert said(tmp_path, T4, second, CUDA_VISIBLE_DEVICES="")[2] == ""
    assert said(tmp_path, T4, CUDA_VISIBLE_DEVICES="GPU-1234")[::2] == ["llama-2-7b", "GPU-1234"]


def test_a_driver_that_fails_is_no_missing_gpu(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(machine, "DEVICES", str(tmp_path / "nvidia[0-9]*"))

    def answers(script: str):
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        return machine.cards()

    assert answers("echo 'Driver/library version mismatch'; exit 18") == []
    (tmp_path / "nvidia0").touch()
    assert answers("echo 'Driver/library version mismatch'; exit 18") is None
    assert answers("echo 'No devices were found'") == []
    # An old driver that knows fewer fields.
    old = 'case "$1" in *compute_cap*) exit 2;; esac; echo "Tesla T4, 15079 MiB, 410.79"'
    assert answers(old) == [machine.Card("Tesla T4", "15079 MiB", "410.79", index="0")]


def test_one_that_is_too_old_is_not_said_to_be_hidden_by_the_student(tmp_path, monkeypatch):
    card = machine.Card("Tesla K80", "11441 MiB", "470.1", "3.7", "0 MiB", "0")
    monkeypatch.setattr(machine, "take_one", lambda: machine.Taken(card, machine.unfit(card), 1))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    unseen = machine.why_unseen()
    if "without CUDA" not in unseen.why:  # as a CPU build of PyTorch says first
        assert "compute capability 3.7" in unseen.why


def test_an_amd_gpu_is_not_used_and_that_is_said(tmp_path):
    model, sentence, _ = said(tmp_path, torch=TORCH.replace("hip=None", "hip='6.4'"))
    assert model == "smollm2-135m" and sentence.startswith("An AMD GPU is here")
