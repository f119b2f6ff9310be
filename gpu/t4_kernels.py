"""Would a T4 have every GPU kernel that training and answering need? Compiles them; does not run them there.

`COURSE_T4=1 python gpu/t4_kernels.py`, on any newer NVIDIA GPU. Two layers of Llama-2-7B's width are
trained and asked, and every Triton kernel that is compiled on the way is compiled a second time for a T4's
compute capability, 7.5. (`binaries.py` looks into PyTorch's and bitsandbytes' libraries.)

A kernel fails if it does not compile, or needs more shared memory than a T4 gives to one block. Kernels that
torch.compile writes (only padded batches use them) come in variants to choose from: one that fits is enough.

What this cannot show: right numbers on a T4, and kernels for row lengths that did not occur here.
(The file is not called kernels.py because Transformers would take it for Hugging Face's package of that name.)
"""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from pathlib import Path

import common

T4 = 75
# CUDA Programming Guide, technical specifications: shared memory of one block, capability 7.5.
T4_SHARED_BYTES = 64 * 1024
AT_ONCE, COMPILE_SECONDS = 8, 60
# The options a kernel's author sets. The others follow from the GPU (or, as launch_pdl, need a newer one).
OPTIONS = (
    *("num_warps", "num_stages", "num_ctas", "maxnreg", "enable_fp_fusion", "enable_reflect_ftz"),
    *("sanitize_overflow", "debug", "launch_cooperative_grid"),
)
# The width decides which kernels are compiled, the depth does not.
MODEL = common.MODELS / "llama-wide-bnb-4bit"


class Recorder:
    """Notes each kernel that Triton compiles in this process, once for each way it is specialised."""

    def __init__(self):
        self.found: dict[tuple, dict] = {}
        self.stage = ""

    def __call__(self, *, src, metadata, **rest) -> None:
        options = {k: metadata[k] for k in OPTIONS if metadata.get(k) is not None}
        entry = {"src": src, "options": options, "stage": self.stage}
        self.found.setdefault((src.hash(), tuple(options.items())), entry)


def workload(recorder: Recorder, failures: list[str]) -> dict:
    """Train and ask a model in every way the course does; seconds of each stage."""
    from helpers import adapting, answering, data, evaluation, models, presets, training  # isort: skip
    import torch
    from unsloth import FastLanguageModel

    from helpers.choice import Choice

    model, tokenizer = models.load(MODEL)
    model = adapting.add_adapter(model, Choice())
    conversations = data.load_conversations(data.OUR_POOL)
    questions = data.questions(conversations.select(range(16)))

    def train(rows, padding_free: bool | None) -> None:
        """Two updates of eight rows, two at a time, as the homework trains."""
        with tempfile.TemporaryDirectory() as folder:
            config = training.build_config(Choice(), len(rows), 2, Path(folder))
            config.max_steps, config.save_strategy, config.logging_strategy = 2, "no", "no"
            config.padding_free = padding_free
            FastLanguageModel.for_training(model)
            trainer = training.SFTTrainer(
                model=model, processing_class=tokenizer, train_dataset=rows, args=config
            )
            # A column means a mask, so padded rows; without one they lie end to end in a single row.
            padded = "attention_mask" in next(iter(trainer.get_train_dataloader()))
            if padded != (padding_free is False):
                failures.append(f"{recorder.stage}: the batches are not what the stage is for")
            trainer.train()
            trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)

    def ask(count: int) -> None:
        answering.generate(model, tokenizer, questions[:count], max_new_tokens=8, at_once=count)

    def small_model() -> None:
        """The course's small model, as notebooks 02 and 03 use it: losses in 16 bits and in 4, and a step by hand."""
        for four_bits in (False, True):
            small, its = models.load(presets.EMBEDDED, load_in_4bit=four_bits)
            evaluation.answer_losses(small, its, conversations.select(range(8)))
        small = adapting.add_adapter(small, Choice())
        row = its.apply_chat_template(
            conversations[0]["conversations"], return_tensors="pt", return_dict=True
        ).to(small.device)
        with torch.no_grad():
            small(**row)
        small(**row, labels=row["input_ids"]).loss.backward()

    short = data.to_prompt_completion(conversations.select(range(16)))
    stages = {
        # Unset, as in the course: Unsloth decides, and for the course's short runs it drops the padding.
        "training, padding-free": lambda: train(short, None),
        "training, 2048 tokens": lambda: train(common.long_rows(16, 4096), None),
        "answering 1 row": lambda: ask(1),
        "answering 4 rows": lambda: ask(4),
        "answering 16 rows": lambda: ask(16),
        "held-out loss": lambda: evaluation.answer_losses(
            model, tokenizer, conversations.select(range(8))
        ),
        "small model": small_model,
        # Last: torch.compile takes part, which is slow.
        "training, padded": lambda: train(short, False),
    }
    seconds = {}
    for recorder.stage, stage in stages.items():
        started, before = time.perf_counter(), len(recorder.found)
        attempt(recorder.stage, stage, failures)
        seconds[recorder.stage] = round(time.perf_counter() - started, 1)
        new = len(recorder.found) - before
        print(f"{recorder.stage}: {new} new kernels, {seconds[recorder.stage]} s", flush=True)
    return seconds


def describe(entry: dict, inductor_folder: str) -> dict:
    """A recorded kernel as JSON can hold it."""
    src = entry["src"]
    function = src.fn.fn
    written_by_torch = function.__code__.co_filename.startswith(inductor_folder)
    return {
        "kernel": src.name,
        "module": "torch.compile" if written_by_torch else function.__module__,
        "stage": entry["stage"],
        "options": entry["options"],
        "signature": {name: str(kind) for name, kind in src.signature.items()},
        "constants": {str(key): str(value) for key, value in src.constants.items()},
    }


def compile_for_t4(entry: dict, inductor_folder: str) -> dict:
    """Compile one recorded kernel for a T4."""
    import triton
    from triton.backends.compiler import GPUTarget

    result, target = describe(entry, inductor_folder), GPUTarget("cuda", T4, 32)
    try:
        binary = triton.compile(entry["src"], target=target, options=entry["options"])
    except Exception as error:  # noqa: BLE001  (any error is the answer)
        return result | {"error": first_line(error)}
    return result | {"shared_bytes": binary.metadata.shared}


def compile_all(entries: list[dict], inductor_folder: str, scratch: Path) -> list[dict]:
    """Compile every recorded kernel for a T4, each in a forked process: LLVM ends the whole process on some errors.

    The compiler needs no GPU, so forking after CUDA was used does no harm.
    """

    def work(entry: dict, file: Path) -> None:
        file.write_text(json.dumps(compile_for_t4(entry, inductor_folder)))

    context = multiprocessing.get_context("fork")
    files = [scratch / f"{number}.json" for number in range(len(entries))]
    processes = []
    for number, pair in enumerate(zip(entries, files, strict=True)):
        if number >= AT_ONCE:
            processes[number - AT_ONCE].join(COMPILE_SECONDS)
        processes.append(context.Process(target=work, args=pair))
        processes[-1].start()
    results = []
    for entry, file, process in zip(entries, files, processes, strict=True):
        process.join(COMPILE_SECONDS)
        if file.exists() and process.exitcode == 0:
            results.append(json.loads(file.read_text()))
            continue
        ended = "did not finish" if process.exitcode is None else f"exit code {process.exitcode}"
        process.kill()
        results.append(describe(entry, inductor_folder) | {"error": f"compiler: {ended}"})
    return results


def judge(kernels: list[dict], failures: list[str]) -> list[list]:
    """Note what fails; a table with a row for each kernel."""
    groups = defaultdict(list)
    for kernel in kernels:
        groups[kernel["module"], kernel["kernel"]].append(kernel)
    rows = [["kernel", "from", "ways", "compiled", "most shared KiB"]]
    for (module, name), ways in sorted(groups.items()):
        compiled = [way for way in ways if "error" not in way]
        fitting = [way for way in compiled if way["shared_bytes"] <= T4_SHARED_BYTES]
        enough = 1 if module == "torch.compile" else len(ways)
        if len(fitting) < enough:
            errors = [way["error"] for way in ways if "error" in way]
            reason = errors[0] if errors else f"more than {T4_SHARED_BYTES} bytes of shared memory"
            failures.append(f"{name}: {len(fitting)} of {len(ways)} would run on a T4: {reason}")
        most = max((way["shared_bytes"] / 1024 for way in compiled), default=0.0)
        rows.append([name[:60], module, len(ways), len(compiled), most])
    return rows


def attempt(name: str, part, failures: list[str]):
    """Run one part; a failure is noted, and the next part goes on."""
    try:
        return part()
    except Exception as error:  # noqa: BLE001  (noted; the rest still tells something)
        traceback.print_exc()
        failures.append(f"{name}: {type(error).__name__}: {first_line(error)}")


def first_line(error: Exception) -> str:
    """The first line of an error's message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def main() -> None:
    started = time.perf_counter()
    failures: list[str] = []
    results: dict = {"failures": failures}
    scratch = Path(tempfile.mkdtemp())
    # Empty caches and one process: everything is compiled anew, where it can be seen.
    os.environ["TRITON_CACHE_DIR"] = str(scratch / "triton")
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    os.environ["UNSLOTH_FORCE_SINGLE_COMPILE_WORKER"] = "1"
    os.environ.setdefault("COURSE_WORKSPACE", str(scratch / "workspace"))
    if not (MODEL / "config.json").exists():
        # In a process of its own: Unsloth must not have changed Transformers there.
        maker = Path(__file__).parent / "make_llama.py"
        subprocess.run([sys.executable, maker, common.MODELS, "llama-wide"], check=True)
    common.need_t4_mode()
    from helpers import models  # noqa: F401  (Unsloth, before any of what it changes)

    # Only now: Unsloth removes the variable when it is imported.
    inductor_folder = os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(scratch / "inductor")
    recorder = Recorder()
    import triton

    triton.knobs.compilation.listener = recorder
    results["seconds"] = attempt("workload", lambda: workload(recorder, failures), failures)
    triton.knobs.compilation.listener = None
    results["recorded"] = [describe(entry, inductor_folder) for entry in recorder.found.values()]
    common.save("t4_kernels", results)

    entries = list(recorder.found.values())
    kernels = compile_all(entries, inductor_folder, scratch)
    del results["recorded"]
    results["kernels"] = kernels
    table = judge(kernels, failures)
    if not any(kernel["module"].startswith("unsloth") for kernel in kernels):
        failures.append("no kernel of Unsloth's was seen: the recorder does not work")
    results["machine"] = attempt("machine", common.machine, failures)
    results["minutes"] = round((time.perf_counter() - started) / 60, 2)
    common.save("t4_kernels", results)

    common.table(table)
    print(f"\n{len(kernels)} specialised kernels, {results['minutes']} min")
    common.finish(failures)


if __name__ == "__main__":
    main()
