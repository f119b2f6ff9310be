"""What was measured on a GPU: complete, within the course's promises, and docs/measured.md says the same."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.presets import CUDA_CONTEXT_GIB, T4_MEMORY_GIB

KIT = Path(__file__).parents[2]
RESULTS = json.loads((KIT / "gpu" / "results.json").read_text(encoding="utf-8"))
PAGE = (KIT / "docs" / "measured.md").read_text(encoding="utf-8")
# Without its line breaks.
TEXT = " ".join(PAGE.split())
SHAPES = RESULTS["speed"].get("training", [])
OWN = [shape for shape in SHAPES if shape["kind"] == "own"]


def shape_name(shape: dict) -> str:
    return f"{shape['tokens']} tokens, {shape['kind']}"


def test_the_readmes_table_and_what_notebooks_show_are_made_from_the_results():
    command = [sys.executable, KIT / "gpu" / "collect.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_notebook_ran_to_its_end_with_a_colab_machines_memory():
    books = RESULTS["notebooks"]["notebooks"]
    here = {path.stem for path in (KIT / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    assert {book["notebook"] for book in books} == here
    for book in books:
        assert book["passed"], book
        # Less than 10 GB, of the nearly 13 that a Colab machine has.
        assert book["peak_host_gib"] * 2**30 < 10e9, book
        # All but 01 and 03 load Llama-2-7B, 3.6 GiB in 4 bits.
        least = 0 if book["notebook"][:2] in ("01", "03") else 3.6
        assert least < book["peak_gpu_gib"] <= T4_MEMORY_GIB - CUDA_CONTEXT_GIB, book


def test_every_kernel_compiles_for_a_t4_and_fits_its_shared_memory():
    kernels = RESULTS["t4_kernels"]["kernels"]
    assert any(kernel["module"].startswith("unsloth") for kernel in kernels)
    # Two of the loss's kernels serve only large vocabularies, such as the small model's.
    assert {"_fl_partial_kernel", "_fl_combine_kernel"} <= {one["kernel"] for one in kernels}
    for kernel in kernels:
        assert "error" not in kernel, kernel
        assert kernel["shared_bytes"] <= 64 * 1024


@pytest.mark.parametrize("part", ["probes", "speed", "t4_kernels", "binaries", "agree"])
def test_nothing_failed_in(part):
    assert RESULTS[part].get("failures") == []


def test_the_last_run_made_all_comparisons():
    agree = RESULTS["agree"]
    assert not agree.get("earlier")
    assert {"padding-free", "CPU, float32", "run together"} <= agree["padding"].keys()
    assert agree["layer"]["errors"]
    assert 0 < agree["labels"]["rows"] == agree["labels"]["same"]
    assert agree["adapter"]["difference"] <= 0.01 < agree["adapter"]["effect_of_adapter"]


def test_every_probe_passed_and_every_adapter_of_the_grid_was_measured():
    passed = {probe["name"] for probe in RESULTS["probes"]["probes"] if probe["ok"]}
    assert passed == {"Triton kernel", "bitsandbytes 4-bit", "matmul float16"}
    assert RESULTS["grid"]["failed"] == []


def test_the_t4_mode_held():
    mode = RESULTS["probes"]["t4_mode"]
    # Half a GiB less than the limit was given, a tenth more was not.
    assert list(mode["given"].values()) == [True, False]
    assert not mode["bf16"] and not mode["flash_attention"] and not mode["cudnn_attention"]
    assert mode["unsloth_attention"] == ["sdpa", "sdpa"]


def test_the_libraries_hold_machine_code_for_a_t4():
    assert RESULTS["binaries"]["torch"]["machine_code"]["sm_75"] > 0
    # CUDA 12.8 is Colab's.
    kernels = RESULTS["binaries"]["bitsandbytes"]["libbitsandbytes_cuda128.so"]["sm_75"]
    for needed in ("kDequantizeBlockwise", "gemm_4bit_sm75", "kgemm_4bit_inference_naive"):
        assert any(needed in name for name in kernels)


def test_speed_was_measured_for_short_and_long_rows_and_with_the_same_rows_at_once():
    tokens = [shape["tokens"] for shape in OWN]
    assert min(tokens, default=0) <= 192 and max(tokens, default=0) >= 2048
    assert len(OWN) < len(SHAPES)
    for shape in SHAPES:
        assert set(shape["ways"]) == {"course", "unsloth", "plain"}
        if shape["kind"] != "own":
            assert len({way["rows_at_once"] for way in shape["ways"].values()}) == 1


@pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
def test_training_is_nowhere_slower_than_the_homeworks_cell(shape):
    ways = shape["ways"]
    least = 0.97 * ways["unsloth"]["tokens_per_second"]
    assert ways["course"]["tokens_per_second"] >= least


@pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
def test_training_is_faster_than_the_plain_stack(shape):
    ways = shape["ways"]
    assert ways["course"]["tokens_per_second"] >= 1.8 * ways["plain"]["tokens_per_second"]


@pytest.mark.parametrize("shape", OWN, ids=shape_name)
def test_training_takes_six_tenths_of_the_plain_stacks_memory_or_the_readme_says_how_much(shape):
    course, plain = (shape["ways"][way]["peak_gib"] for way in ("course", "plain"))
    share = course / plain
    if shape["tokens"] >= 2048:
        assert share <= 0.6
    elif share > 0.6:
        # Never more than that stack itself takes.
        assert share < 1
        said = re.search(r"With rows of (.*) tokens the course takes (.*) of the memory", TEXT)
        lengths, shares = (re.findall(r"[\d.]+", numbers) for numbers in said.groups())
        assert dict(zip(lengths, shares, strict=True))[str(shape["tokens"])] == f"{share:.2f}"


def test_the_homework_takes_little_more_than_five_gib():
    points = [
        p["measured_gib"]
        for p in RESULTS["grid"]["points"]
        if (p["model"], p["r"], p["rows"], p["tokens"]) == ("llama-2-7b-bnb-4bit", 16, 2, 2048)
    ]
    assert points and max(points) <= 5.2


@pytest.mark.parametrize("point", RESULTS["grid"]["points"], ids=lambda p: f"{p['model']}-{p['r']}")
def test_the_planner_was_within_five_percent_of(point):
    assert point["fits"]
    assert point["predicted_gib"] == pytest.approx(point["measured_gib"], rel=0.05)


LIMIT = T4_MEMORY_GIB - CUDA_CONTEXT_GIB
# PyTorch keeps what it once got until nothing is left: at the limit the peak is more than was needed.
FULL = [p for p in RESULTS["grid"]["points"] if p["measured_gib"] > LIMIT - 0.05]
UNSEEN = [
    p["predicted_gib"] / p["measured_gib"]
    for p in RESULTS["grid"]["points"]
    if not p["fitted"] and p not in FULL
]


def test_the_planner_was_within_three_percent_of_what_it_was_not_fitted_to_and_one_on_average():
    assert len(UNSEEN) >= 20
    assert max(abs(share - 1) for share in UNSEEN) <= 0.03
    assert sum(abs(share - 1) for share in UNSEEN) / len(UNSEEN) <= 0.01


def test_near_the_limit_the_planner_was_never_more_than_one_percent_too_low():
    near = [p for p in RESULTS["grid"]["points"] if p["measured_gib"] > LIMIT - 1]
    assert len(near) >= 5
    for p in near:
        needed = p["allocated_gib"] if p in FULL else 0.99 * p["measured_gib"]
        assert p["predicted_gib"] >= needed, p
    assert all(p["fits"] for p in RESULTS["grid"].get("within", []))
    assert all(p["predicted_gib"] <= LIMIT for p in near if not p["fitted"])


def test_the_few_numbers_in_the_readme_stand_in_the_page_of_measurements():
    readme = (KIT / "README.md").read_text(encoding="utf-8")
    lines = re.search(r"(?s)\(docs/measured\.md\):\n(.*?)\n\n", readme)[1]
    page = TEXT.replace(" %", "%")
    numbers = re.findall(r"\d+(?:\.\d+)?%?", lines.replace(" %", "%"))
    assert len(numbers) > 3
    missing = [n for n in numbers if not re.search(rf"(?<![\d.]){re.escape(n)}(?![\d.])", page)]
    assert missing == []
