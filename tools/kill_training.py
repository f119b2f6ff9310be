"""Kill a small training with ``kill -9`` at random moments, run it again until it ends, and compare it with a whole one.

    python tools/kill_training.py --kills 20 --seed 1

Each training is killed several times, as a student whose machine keeps going away; the moments are of these kinds:
in the first steps, before anything is saved; between two steps; while a checkpoint's files are written; between the
last of them and the folder's name; while the best adapter or, at the end, the run is saved. Prints a table, and how many
runs were lost: did not go on, or ended with another adapter or other losses. Takes about 8 seconds a kill.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

KIT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(KIT), str(KIT / "tests"), str(KIT / "tests" / "unit")]

# A file whose appearance says that a moment has come, in the folder of the run; "{step}" is drawn.
MOMENTS = {
    "in the first steps": "step-{first}",
    "between two steps": "step-{step}",
    "a checkpoint's first file": "partial-checkpoint/checkpoint-{saved}",
    "between its files": "partial-checkpoint/checkpoint-{saved}/adapter_model.safetensors",
    "during its largest file": "partial-checkpoint/checkpoint-{saved}/optimizer.pt",
    "before it has its name": "partial-checkpoint/checkpoint-{saved}/so_far.json",
    "after it has its name": "checkpoint-{saved}",
    "the best adapter": "partial-best",
    "the adapter at the end": "adapter_model.safetensors",
}
# The folder of the unit tests' training.
RUN = "r4-alpha8"
# From one training to the next it is killed so many times.
KILLS_A_RUN = 4
# No training of the tiny Llama takes longer.
SECONDS = 120

# What a killed process runs: the training of the unit tests, with a mark in the folder after each step.
CHILD = """
import sys
sys.path[:0] = {paths}
from pathlib import Path
import tiny_run
from transformers import TrainerCallback

class Mark(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        Path(args.output_dir, f"step-{{state.global_step}}").touch()

tiny_run.fit(callback=Mark())
"""


class Whole(NamedTuple):
    """An uninterrupted training: its adapter and what the trainer noted."""

    adapter: dict
    losses: list
    heldout: list
    best: dict


def start(workspace: Path, model: Path) -> subprocess.Popen:
    """Begin the training, or go on with it, in a process of its own with one thread."""
    own = {"COURSE_WORKSPACE": str(workspace), "COURSE_MODEL": str(model), "OMP_NUM_THREADS": "1"}
    usual = {"COURSE_SIZE": "test", "HF_HUB_OFFLINE": "1", "UNSLOTH_DISABLE_STATISTICS": "1"}
    paths = [str(KIT), str(KIT / "tests" / "unit")]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD.format(paths=paths)],
        env=os.environ | usual | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(workspace: Path, model: Path) -> str:
    """Train to the end; what was printed. RuntimeError if it does not end well."""
    process = start(workspace, model)
    said, _ = process.communicate(timeout=SECONDS)
    if process.returncode:
        raise RuntimeError(said[-3000:])
    return said


def kill_at(workspace: Path, model: Path, moment: str, drawn: random.Random) -> bool:
    """Kill a training where a file appears, a random time of up to 2 ms later; False if it ended before that.

    RuntimeError if it ends in an error, or does nothing for too long: neither is a kill.
    """
    run = workspace / "runs" / RUN
    for mark in run.glob("step-*"):
        mark.unlink()
    steps = {"first": drawn.randint(1, 4), "step": drawn.randint(5, 23), "saved": saved(run, drawn)}
    place = run / MOMENTS[moment].format(**steps)
    before = changed(place)
    process, until = start(workspace, model), time.monotonic() + SECONDS
    while changed(place) == before and process.poll() is None and time.monotonic() < until:
        time.sleep(0.0002)
    too_long = time.monotonic() >= until
    time.sleep(drawn.random() * 0.002)
    process.send_signal(signal.SIGKILL)
    said, _ = process.communicate()
    if too_long or process.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{'too long' if too_long else 'an error'}: {said[-3000:]}")
    return process.returncode == -signal.SIGKILL


def saved(run: Path, drawn: random.Random) -> int:
    """The step of a checkpoint that is still to be written."""
    done = [int(path.name.removeprefix("checkpoint-")) for path in run.glob("checkpoint-*")]
    left = [step for step in (5, 10, 15, 20, 24) if step > max(done, default=0)]
    return drawn.choice(left or [24])


def changed(place: Path) -> int | None:
    """A number that is another one when a file was made or written anew."""
    try:
        return place.stat().st_mtime_ns
    except OSError:
        return None


def outcome(workspace: Path) -> Whole:
    """What a finished training left; its numbers are read as the course reads them."""
    os.environ["COURSE_WORKSPACE"] = str(workspace)
    import tiny_run

    from helpers import runs

    folder = workspace / "runs" / RUN
    losses, heldout = runs.losses(folder), runs.losses(folder, "heldout_loss")
    return Whole(tiny_run.adapter(folder), losses, heldout, runs.read(folder)["best"])


def differences(found: Whole, whole: Whole) -> list[str]:
    """In what a run that was killed differs from one that was not; bit for bit."""
    same = found.adapter.keys() == whole.adapter.keys() and all(
        bool((found.adapter[name] == whole.adapter[name]).all()) for name in whole.adapter
    )
    wrong = [] if same else ["another adapter"]
    names = ("losses", "heldout", "best")
    return wrong + [f"other {n}" for n in names if getattr(found, n) != getattr(whole, n)]


def killed_run(
    workspace: Path, model: Path, moments: list[str], drawn: random.Random
) -> tuple[list[str], Whole | str]:
    """One training, killed at these moments one after the other, and then run to its end.

    Returns:
        the moments that came (the last ones may not, where the training had little left), and what it left, or why it
        did not go on.
    """
    from helpers.errors import CourseError

    came, ended = [], False
    try:
        for moment in moments:
            if ended := not kill_at(workspace, model, moment, drawn):
                break  # it came to its end before that moment
            came.append(moment)
        if not ended:
            finish(workspace, model)
        found = [one.name for one in (workspace / "runs").iterdir()]
        if found != [RUN]:
            raise RuntimeError(f"it did not go on, but began anew: {', '.join(found)}")
        return came, outcome(workspace)
    except (CourseError, RuntimeError, subprocess.TimeoutExpired) as error:
        return came, str(error)


def run_kills(kills: int, seed: int, folder: Path) -> tuple[Counter, list[str]]:
    """Kill so many times; how often at each kind of moment, and what was lost, in words."""
    import tiny_llama

    drawn = random.Random(seed)
    model = folder / "tiny-llama"
    model.mkdir()
    tiny_llama.make(model)
    finish(folder / "whole", model)
    whole = outcome(folder / "whole")
    came, lost, number = Counter(), [], 0
    while (left := kills - came.total()) > 0:
        number += 1
        workspace = folder / f"killed-{number}"
        kinds = [*MOMENTS] * (1 + left // len(MOMENTS))
        # The order of the moments is that of a training, so that most of them still lie ahead.
        moments = sorted(drawn.sample(kinds, min(left, KILLS_A_RUN)), key=[*MOMENTS].index)
        found, left_behind = killed_run(workspace, model, moments, drawn)
        came.update(found)
        wrong = [left_behind] if isinstance(left_behind, str) else differences(left_behind, whole)
        if wrong:
            lost.append(f"run {number}, killed at {', '.join(found)}: {'; '.join(wrong)}")
        else:
            shutil.rmtree(workspace)
        print(f"{came.total():>4} of {kills} kills", "lost" if wrong else "", flush=True)
    return came, lost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    began, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="kill-training-"))
    came, lost = run_kills(asked.kills, asked.seed, folder)
    for moment in MOMENTS:
        print(f"{moment:<28}{came[moment]:>4}")
    print(*lost, sep="\n")
    print(f"{came.total()} kills, {(time.monotonic() - began) / 60:.1f} minutes, lost: {len(lost)}")
    if lost:
        sys.exit(f"What is left of the lost ones is in {folder}.")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
