"""Which of a T4's branches does the course take? Every place that asks for the compute capability, and who asked.

`COURSE_T4=1 python gpu/t4_path.py`, on an NVIDIA GPU. The installed sources of Unsloth and bitsandbytes are searched
for the calls; then a model trains and answers in T4 mode, and each call notes its place. A place that was asked got
a T4's answer, 7.5. The others stand in code that this course does not run, or keep what an earlier call answered.
"""

import ast
import importlib.util
import sys
import tempfile
from collections import Counter
from pathlib import Path

import common

PACKAGES = ("unsloth", "unsloth_zoo", "bitsandbytes")
ASKS = "get_device_capability"


def places() -> list[dict]:
    """Every call in the installed sources: file, line, and the function it stands in."""
    found = []
    for package in PACKAGES:
        root = Path(importlib.util.find_spec(package).origin).parent
        for file in sorted(root.rglob("*.py")):
            text = file.read_text(encoding="utf-8", errors="replace")
            if ASKS not in text:
                continue
            name = file.relative_to(root.parent).as_posix()
            walk(ast.parse(text), name, "", found)
    return found


def walk(node: ast.AST, file: str, inside: str, found: list[dict]) -> None:
    """Add the calls below a node of a file's syntax tree."""
    for child in ast.iter_child_nodes(node):
        named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if isinstance(child, ast.Call) and ast.unparse(child.func).endswith(f".{ASKS}"):
            lines = [child.lineno, child.end_lineno]
            found.append({"file": file, "lines": lines, "function": inside or "import"})
        walk(child, file, f"{inside}.{child.name}".strip(".") if named else inside, found)


class Asked:
    """Counts who asks for the compute capability, and gives the answer that T4 mode gives."""

    def __init__(self, answer):
        self.answer, self.calls = answer, Counter()
        # As T4 mode's own function: it is not replaced, and not hidden behind a cache.
        self.as_a_t4, self.true, self._unsloth_per_device_cache = True, answer.true, True

    def __call__(self, device=None) -> tuple[int, int]:
        frame = sys._getframe(1)
        self.calls[frame.f_code.co_filename, frame.f_lineno] += 1
        return self.answer(device)

    def at(self, place: dict) -> int:
        """How often a place asked."""
        first, last = place["lines"]
        return sum(
            count
            for (file, line), count in self.calls.items()
            if file.endswith("/" + place["file"]) and first <= line <= last
        )


def work() -> None:
    """Train, measure and answer, in every way the course does; two layers of Llama-2-7B's width."""
    from helpers import adapting, answering, data, evaluation, models, training
    from helpers.choice import Choice

    model, tokenizer = models.load(common.MODELS / "llama-wide-bnb-4bit")
    model = adapting.add_adapter(model, Choice())
    conversations = data.load_conversations(data.OUR_POOL)
    for rows in (
        data.to_prompt_completion(conversations.select(range(16))),
        common.long_rows(16, 4096),
    ):
        with tempfile.TemporaryDirectory() as folder:
            config = training.build_config(Choice(), len(rows), 2, Path(folder))
            config.max_steps, config.save_strategy, config.dataset_num_proc = 2, "no", 1
            trainer = training.SFTTrainer(
                model=model, processing_class=tokenizer, train_dataset=rows, args=config
            )
            training.prepare(trainer).train()
            trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    evaluation.answer_losses(model, tokenizer, conversations.select(range(8)))
    questions = data.questions(conversations.select(range(64)))
    for count in (1, 4, 16, 17, 64):
        answering.generate(model, tokenizer, questions[:count], max_new_tokens=8, at_once=count)


def main() -> None:
    common.need_t4_mode()
    import torch

    from helpers import t4_mode

    t4_mode.before_unsloth()
    asked = torch.cuda.get_device_capability = Asked(torch.cuda.get_device_capability)
    work()
    found = [place | {"asked": asked.at(place)} for place in places()]
    known = sum(place["asked"] for place in found)
    others = Counter()
    for (file, line), count in asked.calls.items():
        if not any(
            file.endswith("/" + p["file"]) and p["lines"][0] <= line <= p["lines"][1] for p in found
        ):
            others[f"{'/'.join(Path(file).parts[-3:])}:{line}"] += count
    reached = [place for place in found if place["asked"]]
    from unsloth.models import _utils as unsloth_utils

    failures = [] if reached else ["no place was asked: T4 mode does not reach Unsloth"]
    for name in ("SUPPORTS_BFLOAT16", "HAS_FLASH_ATTENTION"):
        if getattr(unsloth_utils, name):
            failures.append(f"Unsloth's {name} is not as on a T4")
    common.save("t4_path", {"places": found, "others": dict(others), "failures": failures})
    rows = [["place", "function", "asked"]]
    rows += [[f"{p['file']}:{p['lines'][0]}", p["function"], p["asked"]] for p in reached]
    common.table(rows)
    print(
        f"{len(reached)} of {len(found)} places were asked, {known} times; elsewhere: {dict(others)}"
    )
    common.finish(failures)


if __name__ == "__main__":
    main()
