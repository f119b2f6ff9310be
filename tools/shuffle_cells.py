"""Run the cells of notebooks 00 and 05 in random orders, again and again, with changed settings, as students do.

python tools/shuffle_cells.py [--orders 100] [--seed 0] [--first 0]

Every cell must end well, or in an explanation (a CourseError; a name that no cell has made yet). Every run that an
order leaves behind must be what its record says, and hold bit for bit the adapter that one training on a freshly
loaded model gives; every pred.json must hold that adapter's answers. Uses a Llama of a few thousand parameters.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tools")]
NOTEBOOKS = {"00": "00_quickstart.ipynb", "05": "05_train.ipynb"}
# After so many orders the kernel is replaced: between two orders only its names are deleted, which is quicker.
ORDERS_A_KERNEL = 10
# Large enough that different adapters of the tiny model give different answers after three steps.
RATE = 0.05
SETTINGS = [(4, 16), (16, 16), (16, 1), (64, 16)]
CHOICE = "Choice(r={r}, lora_alpha={alpha}, num_train_epochs=1, learning_rate={rate})"
SAVE = "from helpers.choice import save_choice\nsave_choice({choice})"
EDITED = """
edited = data.load_conversations(data.OUR_POOL).select(range(24)).to_list()
edited[0]["conversations"][-1]["content"] += " {word}"
selection.save_selection(data.as_dataset(edited), data.OUR_POOL)
"""
# A choice comes as a code too, in 00 with the first conversations of the pool or without any; or some of the rows go.
FEWER = (12, 8)
AS_A_CODE = """
from helpers.choice import save_choice
save_choice({choice})
if {rows}:
    first = data.load_conversations(data.OUR_POOL).select(range({rows}))
    selection.save_selection(first, data.OUR_POOL)
"""
PRESS_STOP = """
import signal, transformers
class Press(transformers.TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == {step} and not vars(self).setdefault("done", []):
            [os.kill(os.getpid(), signal.SIGINT) for _ in range({times})]
            self.done.append(1)
trainer.add_callback(Press())
"""
# What the training cell has just been asked for, and what it gave.
ASKED = """
(lambda rows: [choice.to_dict() == run.record["choice"], selection.fingerprint(rows) == run.record["data"],
 run.record["status"], run.folder.name])({rows})
"""


def sources(number: str) -> list[str]:
    """The code cells of a notebook."""
    cells = json.loads((ROOT / "notebooks" / NOTEBOOKS[number]).read_text(encoding="utf-8"))[
        "cells"
    ]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def student_s_change(number: str, dice: random.Random) -> str:
    """A cell of the student's own, or one of the notebook's that was edited."""
    r, alpha = dice.choice(SETTINGS)
    choice = CHOICE.format(r=r, alpha=alpha, rate=RATE)
    stop = PRESS_STOP.format(step=dice.randrange(3), times=dice.choice([1, 1, 2]))
    form = next(cell for cell in sources(number) if 'my_code = ""' in cell)
    form = form.replace('my_code = ""', "my_code = carry.code()")
    if number == "00":
        edit = f"r, alpha, size = {r}, {alpha}, presets.size()\nchoice = {choice}"
        other_rows = f"chosen = chosen.select(range(min({dice.choice(FEWER)}, len(chosen))))"
        by_code = AS_A_CODE.format(choice=choice, rows=dice.choice([0, 24])) + form
        return dice.choice([edit, edit, edit, by_code, by_code, other_rows])
    save = SAVE.format(choice=choice)
    edits = [f"{save}\nchoice = load_choice()", f"{save}\n{form}"]
    edits += [EDITED.format(word=dice.choice(["Yes.", "No."])), stop, f"choice = {choice}"]
    return dice.choice(edits)


def begins_again(number: str, cells: list[str]) -> int:
    """Where a student goes on after a change: in 00 behind the cell that makes the choice, in 05 in it."""
    makes = next(i for i, cell in enumerate(cells) if "\nchoice = " in cell)
    return makes + (number == "00")


def an_order(number: str, dice: random.Random) -> list[str]:
    """What a student runs: mostly on and on, with jumps, repetitions and changes; or in no order at all."""
    cells = sources(number)
    if dice.random() < 0.2:
        some = [
            *cells,
            *dice.choices(cells, k=len(cells) // 2),
            *[student_s_change(number, dice)] * 2,
        ]
        return dice.sample(some, len(some))
    found, place = [], 0
    if number == "05":  # the saved choice decides how much is learnt
        found.append(
            f"{cells[0]}\nfrom helpers.choice import Choice\n"
            f"{SAVE.format(choice=CHOICE.format(r=16, alpha=16, rate=RATE))}"
        )
    while place < len(cells):
        throw = dice.random() if place > 4 else 1
        if throw < 0.12:
            found.append(student_s_change(number, dice))
        elif throw < 0.24:  # back, to run some again
            place = max(2, place - dice.randrange(1, 7))
        elif throw < 0.27:  # past one
            place += 1
        elif throw < 0.28:  # a new session in the same workspace
            found.append("%reset -f")
            place = 0
        else:
            found.append(cells[place])
            place += 1
        if place == len(cells) and len(found) < 2 * len(cells) and dice.random() < 0.6:
            found.append(student_s_change(number, dice))
            place = begins_again(number, cells)
    return found


class Kernel:
    """A kernel in the notebooks' folder that tells what a notebook would show for a failed cell."""

    def __init__(self):
        from jupyter_client.manager import KernelManager
        from notebook_kernels import sockets

        self.manager = KernelManager(kernel_name="python3", **sockets())
        self.manager.start_kernel(cwd=str(ROOT / "notebooks"))
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def run(self, source: str) -> dict | None:
        """Run a cell; ``None``, or the error's name, value and lines."""
        reply = self.client.execute_interactive(
            source, store_history=False, timeout=600, output_hook=lambda message: None
        )["content"]
        return None if reply["status"] == "ok" else reply

    def value(self, expression: str) -> str:
        """The repr of an expression."""
        reply = self.client.execute_interactive(
            "", silent=True, timeout=60, user_expressions={"it": expression.strip()}
        )["content"]["user_expressions"]["it"]
        return reply["data"]["text/plain"] if reply["status"] == "ok" else f"{reply['evalue']}"


def is_explained(error: dict, set_up: bool) -> bool:
    """Whether a student reads what to do: a CourseError, or a name that no cell has made."""
    if error["ename"] == "CourseError":
        return True
    before_set_up = error["ename"] in ("NameError", "ModuleNotFoundError") and not set_up
    return before_set_up or "in this session" in "".join(error["traceback"])


class Judge:
    """Trains each choice on each list of rows once, on a freshly loaded model, and compares runs with that."""

    def __init__(self, folder: Path):
        os.environ["COURSE_WORKSPACE"] = str(folder)
        self.folder, self.known = folder, {}

    def faults(self, workspace: Path) -> list[str]:
        """What is wrong with what an order left behind."""
        from helpers import adapting, runs
        from helpers.choice import Choice

        found = []
        for folder in sorted(workspace.glob("runs/*")):
            record = runs.read(folder)
            if record.get("status") != "finished":
                continue
            choice = Choice(**record["choice"])
            if not folder.name.startswith(runs.name_of(choice)):
                found.append(f"{folder.name} holds a run with {choice}")
            saved = json.loads((folder / "adapter_config.json").read_text())
            found += [f"{folder.name}: {one}" for one in adapting.differences(saved, choice)]
            model, answers = self.reference(choice, record)
            if not adapting.holds(model, folder):
                found.append(
                    f"{folder.name} has another adapter than a training of its choice gives"
                )
            pred = folder / "pred.json"
            if pred.exists():
                given = [entry["output"][0] for entry in json.loads(pred.read_text()).values()]
                if given != answers:
                    found.append(f"{folder.name}/pred.json holds {given}, not {answers}")
        latest = workspace / "latest_run.json"
        if latest.exists() and not runs.is_finished(
            workspace / "runs" / json.loads(latest.read_text())["name"]
        ):
            found.append("latest_run.json names no finished run")
        return found

    def reference(self, choice, record: dict):
        """Model and answers of one undisturbed training."""
        key = json.dumps([record["choice"], record["data"]])
        if key not in self.known:
            from helpers import adapting, answering, data, models, presets, runs, training

            rows = self.rows(record)
            model, tokenizer = models.load(max_seq_length=choice.max_length)
            model = adapting.add_adapter(model, choice)
            shutil.rmtree(self.folder / "runs", ignore_errors=True)
            folder = runs.folder_for(choice, rows)
            trainer = training.build_trainer(model, tokenizer, rows, choice, folder)
            training.train(trainer, choice, rows)
            size, asked = presets.size(), data.load_conversations(data.test_set_path())
            prompts = data.questions(asked.select(range(min(len(asked), size.prompts))))
            answers = answering.generate(
                model, tokenizer, prompts, max_new_tokens=size.max_new_tokens, temperature=None
            )
            self.known[key] = model, answers
        return self.known[key]

    def rows(self, record: dict):
        """The conversations that a record means: one of those that the cells and the changes can choose."""
        from datasets import Dataset

        from helpers import data, homework, presets, selection

        pool = data.load_conversations(data.OUR_POOL)
        size = presets.size().conversations
        best = selection.select(pool, homework.advanced_key, largest_first=True)
        own = [pool.select(range(24))]
        for word in ("Yes.", "No."):
            edited = own[0].to_list()
            edited[0]["conversations"][-1]["content"] += f" {word}"
            own.append(Dataset.from_list(edited))
        # As load_selection shortens a list, at test size.
        spread = [
            rows.select([i * len(rows) // size for i in range(size)]) for rows in (best, *own)
        ]
        candidates = [rows.select(range(n)) for rows in (best, *spread) for n in (size, *FEWER)]
        if record["choice"].get("stages"):
            # As the cell that trains in stages orders them.
            candidates = [selection.select(c, selection.answer_words) for c in candidates]
        return next(c for c in candidates if selection.fingerprint(c) == record["data"])


def run_order(
    kernel: Kernel, number: str, order: list[str], workspace: Path
) -> tuple[list[str], dict]:
    """Run the cells; what went wrong, and how often each outcome was seen."""
    kernel.run(f"%reset -f\nimport os\nos.environ['COURSE_WORKSPACE'] = {str(workspace)!r}")
    faults, seen, set_up = [], {}, False
    for place, source in enumerate(order):
        error = kernel.run(source)
        outcome = "ok" if error is None else error["ename"]
        seen[outcome] = seen.get(outcome, 0) + 1
        done = error is None and "environment.install()" in source
        set_up = (set_up or done) and source != "%reset -f"
        if error is not None and not is_explained(error, set_up):
            lines = "\n".join(error["traceback"][-3:])
            faults.append(f"cell {place} of the order ended in {outcome}:\n{source}\n{lines}")
        if error is None and "training.train(" in source:
            seen["trained"] = seen.get("trained", 0) + 1
            got = kernel.value(ASKED.format(rows="chosen" if number == "00" else "conversations"))
            if not got.replace("\n", "").startswith("[True, True, 'finished'"):
                faults.append(f"cell {place}: the run is not what was asked for: {got}")
    return faults, seen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--orders", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="leave out the orders before this one")
    asked = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="shuffled-"))
    os.environ |= {
        "COURSE_SIZE": "test",
        "COURSE_INSTALL": "0",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    os.environ["COURSE_MODEL"] = str(scratch / "model")
    judge = Judge(scratch / "judge")
    import tiny_llama

    (scratch / "model").mkdir()
    tiny_llama.make(scratch / "model")
    total, failed, kernel, started = {}, 0, None, time.perf_counter()
    for index in range(asked.first, asked.orders):
        if (index - asked.first) % ORDERS_A_KERNEL == 0:
            if kernel:
                kernel.close()
            kernel = Kernel()
        number = list(NOTEBOOKS)[index % 2]
        order = an_order(number, random.Random(f"{asked.seed} {index}"))
        faults, seen = run_order(kernel, number, order, scratch / str(index))
        faults += judge.faults(scratch / str(index))
        total = {name: total.get(name, 0) + seen.get(name, 0) for name in total | seen}
        print(f"order {index} (notebook {number}): {len(order)} cells, {seen}", flush=True)
        for fault in faults:
            print(f"WRONG, order {index} of seed {asked.seed}: {fault}", flush=True)
        failed += bool(faults)
        shutil.rmtree(scratch / str(index), ignore_errors=True)
    kernel.close()
    shutil.rmtree(scratch, ignore_errors=True)
    minutes = (time.perf_counter() - started) / 60
    print(
        f"{asked.orders - asked.first} orders, {failed} wrong; {total}; {len(judge.known)} kinds of runs; {minutes:.1f} minutes"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
