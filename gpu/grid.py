"""Measure what training takes on a GPU with a T4's memory, beside what the planner predicts.

`COURSE_T4=1 python gpu/grid.py [--jobs N]`: for each set-up two real training steps, and the peak of
`torch.cuda.max_memory_reserved()`. A set-up that does not fit is recorded as such. Each adapter has a process
of its own: Unsloth keeps buffers between trainings, which would count for the next one. The first runs alone:
the CUDA context is what the driver counts beyond PyTorch's own memory, at its end; the others run N at once, spread over
the machine's GPUs. A grid that was cut off goes on where it stopped.
"""

import argparse
import gc
import json
import queue
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import common

USED_BEFORE = common.used_gib()
from helpers import adapting, models, training  # isort: skip  (Unsloth first)

import torch
from trl import SFTTrainer

from helpers import presets
from helpers.choice import Choice

SEVEN = presets.PROJECTIONS
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
QUERY_VALUE = ("q_proj", "v_proj")
# Folder, r, target modules, then (rows, tokens) from small to large: buffers that Unsloth keeps
# between steps never come from a larger set-up than the one that is measured.
# No length of 1024: that is TRL's default, and Unsloth takes it for "not set".
LLAMA, THREE = "llama-2-7b-bnb-4bit", "llama-3.2-3b-bnb-4bit"
GRID = [
    (LLAMA, 1, SEVEN, [(1, 256), (4, 1000), (1, 4096)]),
    (LLAMA, 4, SEVEN, [(1, 512), (2, 2048)]),
    (LLAMA, 16, SEVEN, [(1, 256), (2, 512), (8, 192), (1, 2048), (8, 512), (2, 2048), (4, 1536)]),
    (LLAMA, 16, SEVEN, [(4, 2048), (8, 2048), (4, 4096)]),
    (LLAMA, 64, SEVEN, [(2, 512), (2, 2048), (8, 1000)]),
    (LLAMA, 128, SEVEN, [(1, 512), (2, 2048)]),
    (LLAMA, 256, SEVEN, [(1, 512), (2, 1000)]),
    (LLAMA, 16, QUERY_VALUE, [(2, 512), (2, 2048), (8, 1000)]),
    (LLAMA, 64, ATTENTION, [(2, 512), (4, 2048)]),
    (THREE, 1, SEVEN, [(4, 512)]),
    (THREE, 16, SEVEN, [(1, 512), (2, 2048), (8, 1000), (2, 4096)]),
    (THREE, 128, SEVEN, [(1, 1000), (2, 2048)]),
    (THREE, 256, SEVEN, [(1, 512), (2, 1500)]),
    ("llama-2-7b", 16, SEVEN, [(1, 512), (2, 2048)]),
    # Within 1 GiB of the limit.
    (LLAMA, 16, SEVEN, [(13, 4096)]),
    (LLAMA, 128, SEVEN, [(10, 4096)]),
    (LLAMA, 256, SEVEN, [(12, 1700)]),
    (THREE, 64, SEVEN, [(20, 4096)]),
    (THREE, 256, SEVEN, [(15, 4000)]),
]
# The planner's constants were fitted to the set-ups above. These it has not seen.
UNSEEN = [
    (LLAMA, 2, SEVEN, [(8, 256), (3, 1500), (2, 4096)]),
    (LLAMA, 8, SEVEN, [(1, 384), (6, 700), (3, 3000)]),
    (LLAMA, 32, SEVEN, [(5, 300), (1, 3072), (8, 1500)]),
    (LLAMA, 192, SEVEN, [(1, 256), (4, 600)]),
    (LLAMA, 8, ATTENTION, [(4, 800), (2, 3000)]),
    (THREE, 4, SEVEN, [(8, 256), (3, 1500)]),
    (THREE, 32, SEVEN, [(1, 4096), (6, 800)]),
    (LLAMA, 96, SEVEN, [(1, 640), (7, 900)]),
    (LLAMA, 224, SEVEN, [(1, 450), (3, 900)]),
    (THREE, 192, SEVEN, [(1, 700), (3, 1400)]),
    ("llama-2-7b", 4, SEVEN, [(1, 1000)]),
]
# Within 1 GiB of the limit, where "it fits" must be true; not seen either. Each trains a second time, with no more
# memory than was predicted.
NEAR_THE_LIMIT = [
    (LLAMA, 48, SEVEN, [(12, 4000)]),
    (LLAMA, 160, SEVEN, [(11, 3000)]),
    (LLAMA, 240, SEVEN, [(8, 2900)]),
    (THREE, 24, SEVEN, [(22, 3900)]),
    (THREE, 192, SEVEN, [(16, 4096)]),
    (THREE, 224, SEVEN, [(30, 2048)]),
]
CASES = GRID + UNSEEN + NEAR_THE_LIMIT + NEAR_THE_LIMIT


def peak(model, tokenizer, choice: Choice, rows: int, tokens: int) -> dict:
    """Train two steps; the peak in GiB, or why there is none."""
    release()
    torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        config = training.build_config(choice, rows, rows, Path(folder))
        config.max_length, config.max_steps, config.save_strategy = tokens, 2, "no"
        config.dataset_num_proc = 1
        data = common.long_rows(2 * rows, 2 * tokens)
        try:
            trainer = SFTTrainer(
                model=model, processing_class=tokenizer, train_dataset=data, args=config
            )
            lengths = {len(row) for row in trainer.train_dataset["input_ids"]}
            assert lengths == {tokens}, f"rows of {lengths} tokens, not {tokens}"
            training.prepare(trainer)
            seen = trainer.train().training_loss
        except torch.cuda.OutOfMemoryError:
            return {"fits": False}
    reserved, allocated = torch.cuda.max_memory_reserved(), torch.cuda.max_memory_allocated()
    return {
        "fits": True,
        "measured_gib": round(reserved / common.GIB, 3),
        "allocated_gib": round(allocated / common.GIB, 3),
        "loss": round(seen, 3),
    }


def release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measure(
    folder: str, r: int, targets: tuple, set_ups: list, fitted: bool, within: bool
) -> list[dict]:
    """All set-ups of one adapter; ``within`` the memory that the planner predicts, or within a T4's."""
    started, four_bits = time.perf_counter(), folder.endswith("4bit")
    model, tokenizer = models.load(
        common.MODELS / folder,
        # In 16 bits Unsloth decides by it where the input embedding goes: the course's own there.
        max_seq_length=4096 if four_bits else Choice().max_length,
        load_in_4bit=four_bits,
    )
    loaded = torch.cuda.memory_allocated() / common.GIB
    choice = Choice(r=r, target_modules=targets, lora_alpha=r)
    model = adapting.add_adapter(model, choice)
    found = []
    for rows, tokens in set_ups:
        about = {"model": folder, "bits": 4 if four_bits else 16, "r": r, "targets": list(targets)}
        about |= {"fitted": fitted, "rows": rows, "tokens": tokens, "loaded_gib": round(loaded, 3)}
        one_batch = replace(choice, rows_per_update=rows)
        if within:
            about |= {"within_gib": common.predicted_gib(about)}
            share = (
                about["within_gib"] * common.GIB / torch.cuda.get_device_properties(0).total_memory
            )
            torch.cuda.set_per_process_memory_fraction(share)
        found.append(about | peak(model, tokenizer, one_batch, rows, tokens))
        print(found[-1], flush=True)
    print(f"{time.perf_counter() - started:.0f} s for r = {r}", flush=True)
    return found


def one_case(number: int) -> None:
    """Measure one adapter; write its points and the CUDA context."""
    case = CASES[number]
    try:
        within = number >= len(GRID + UNSEEN + NEAR_THE_LIMIT)
        points = measure(*case, fitted=number < len(GRID), within=within)
    except torch.cuda.OutOfMemoryError:
        points = [{"model": case[0], "r": case[1], "fits": False, "loading": True}]
    release()
    reserved = torch.cuda.memory_reserved() / common.GIB
    context = common.context_gib(USED_BEFORE, common.used_gib(), reserved)
    common.save(f"grid-{number}", {"case": repr(case), "points": points} | context)


def run_case(number: int, free: queue.SimpleQueue) -> dict:
    """One adapter in a process of its own, unless these helpers were measured with it before."""
    part = common.RESULTS / f"grid-{number}.json"
    if part.exists():
        found = json.loads(part.read_text(encoding="utf-8"))
        same = found.get("case") == repr(CASES[number])
        if same and found.get("run", {}).get("helpers") == common.helpers_hash("grid"):
            return found
        part.unlink()
    with common.own_gpu(free) as environment:
        command = [sys.executable, __file__, "--case", str(number)]
        done = subprocess.run(command, env=environment, check=False)
    if part.exists():
        return json.loads(part.read_text(encoding="utf-8"))
    folder, r = CASES[number][:2]
    return {"points": [], "failed": [folder, r, f"its process ended with {done.returncode}"]}


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument("--jobs", type=int, default=1)
    ask.add_argument("--case", type=int)
    asked = ask.parse_args()
    if asked.case is not None:
        one_case(asked.case)
        return
    common.need_t4_mode()
    free = common.turns(asked.jobs)
    contents = [run_case(0, free)]
    with ThreadPoolExecutor(asked.jobs) as pool:
        contents += pool.map(lambda number: run_case(number, free), range(1, len(CASES)))
    failed = [found["failed"] for found in contents if "failed" in found]
    points = [point for found in contents for point in found["points"]]
    names = ("context_gib", "context_reason")
    context = {name: contents[0][name] for name in names if name in contents[0]}
    within = [point for point in points if "within_gib" in point]
    points = [point for point in points if "within_gib" not in point]
    content = {"points": points, "within": within} | context | {"failed": failed}
    common.save("grid", content, jobs=asked.jobs)
    for part in common.RESULTS.glob("grid-*.json"):
        part.unlink()
    rows = [["model", "bits", "r", "targets", "rows", "tokens", "predicted", "measured", "off %"]]
    for p in points:
        if "rows" not in p:
            rows.append([p["model"], "", p["r"], "", "", "", "", "no room to load", ""])
            continue
        gib, predicted = p.get("measured_gib"), common.predicted_gib(p)
        off = f"{100 * (predicted / gib - 1):+.1f}" if gib else ""
        rows.append(
            [p["model"], p["bits"], p["r"], len(p["targets"]), p["rows"], p["tokens"]]
            + [predicted, gib or "no room", off]
        )
    common.table(rows)
    ran = [p["fits"] for p in within]
    print(f"{sum(ran)} of {len(ran)} ran in the memory that was predicted")
    print(f"CUDA context: {context}; failed: {failed}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
