"""Put the results of the GPU scripts into `gpu/results.json`, a table of them into docs/measured.md, and what notebooks show
of them into `data/measured.json`.

`python gpu/collect.py` reads `build/gpu/results/`; `--check` only compares the other two with results.json.
Each part says under `run` when and with what it was measured; the notebooks' verdicts say it one by one.
"""

import json
import re
import statistics
import sys
import textwrap
from collections.abc import Iterable

import common

FILE = common.KIT / "gpu" / "results.json"
# The rest of it is tools/record.py's. A student's kit has it, but no gpu/.
SHOWN = common.KIT / "data" / "measured.json"
PAGE = common.KIT / "docs" / "measured.md"
MARKS = re.compile(r"(<!-- gpu -->\n).*?(<!-- /gpu -->)", re.DOTALL)
PARTS = (
    "machine",
    "probes",
    "speed",
    "grid",
    "t4_path",
    "t4_kernels",
    "binaries",
    "agree",
    "again",
    "resume",
    "watched",
    "notebooks",
)
# On a GPU, each as a whole; the notebooks have a date each.
MEASURED = (
    "probes",
    "speed",
    "grid",
    "t4_path",
    "t4_kernels",
    "agree",
    "again",
    "resume",
    "watched",
)
# The limit of a run that does not name its own: what a T4 had with an older driver.
EARLIER_LIMIT_GIB = round(common.presets.OLDER_T4_MEMORY_GIB - common.presets.CUDA_CONTEXT_GIB, 3)
# What a GPU machine without network, and not a T4, cannot show.
NOT_RUN = {
    "a real Tesla T4": "none was at hand: its speed, and whether kernels that compile for it also run well",
    "Llama-2-7B's weights": "the machine has no network: random weights have the same shapes, no knowledge",
    "installing on a Colab image": "the machine has an image of its own",
    "Colab's own build of torch (cu128)": "package indexes have that version for another CUDA only (cu130)",
}
# What agree.py compares.
COMPARISONS = ("padding", "layer", "labels", "adapter")
PLAIN = "Transformers, PEFT and TRL alone"
# A peak so near the limit, in GiB, has filled all there is.
AT_THE_LIMIT = 0.05
# Of the plain stack's memory, at most: the course's promise.
MEMORY_SHARE = 0.6


def collect() -> dict:
    """Everything that was measured; parts without a new result keep their old one."""
    old = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    found = {}
    for part in PARTS:
        file = common.RESULTS / f"{part}.json"
        if file.exists():
            found[part] = json.loads(file.read_text(encoding="utf-8"))
        elif part in old:
            found[part] = old[part]
    if kernels := found.get("t4_kernels", {}).get("kernels"):
        found["t4_kernels"]["kernels"] = [brief(one) for one in kernels]
    if "notebooks" in found:
        older = old.get("notebooks", {}).get("notebooks", [])
        books = common.merge(older, found["notebooks"]["notebooks"])
        found["notebooks"] = {"notebooks": [one for one in books if here(one["notebook"])]}
    if "agree" in found:
        # One that was cut off keeps the comparisons that an earlier run made.
        older = {n: v for n, v in old.get("agree", {}).items() if n in COMPARISONS}
        kept = [name for name in older if not found["agree"].get(name)]
        found["agree"] |= {name: older[name] for name in kept}
        if kept:
            found["agree"]["earlier"] = kept
    if "only" in found.get("speed", {}):
        found["speed"] = with_other_lengths(found["speed"], old.get("speed", {}))
    if "grid" in found:
        found["grid"]["points"] = with_predictions(found["grid"]["points"])
    # Results from before each part had a date of its own.
    date = {"date": old["date"]} if "date" in old and None in dates(found) else {}
    return date | {"not_run": not_run(found)} | found


def with_other_lengths(speed: dict, old: dict) -> dict:
    """A run that measured rows of some lengths, and of an earlier one with the same helpers the rest."""
    again = speed.pop("only")
    for name in ("gpu", "helpers"):
        if old.get("run", {}).get(name) != speed["run"][name]:
            sys.exit(f"speed.py --tokens: the earlier run had another {name}; measure all lengths.")
    rest = [one for one in old["training"] if one["tokens"] not in again]
    training = sorted(
        speed["training"] + rest, key=lambda one: (one["kind"] != "own", one["tokens"])
    )
    failures = [*old["failures"], *speed["failures"]]
    apart = {"again": {"tokens": again, "date": speed["run"]["date"]}}
    return old | {"training": training, "failures": failures} | apart


def brief(kernel: dict) -> dict:
    """One compiled kernel without its signature and constants."""
    kept = ("kernel", "module", "stage", "shared_bytes", "num_warps", "error")
    kernel = kernel.get("options", {}) | kernel
    return {name: kernel[name] for name in kept if name in kernel}


def with_predictions(points: list[dict]) -> list[dict]:
    """The grid's points, each with what the planner says now."""
    return [
        p | {"predicted_gib": round(common.predicted_gib(p), 3)} if "rows" in p else p
        for p in points
    ]


def runs(results: dict) -> list[dict]:
    """Date, GPU and helpers of each measurement on a GPU; old ones have none."""
    found = [results[part].get("run", {}) for part in MEASURED if part in results]
    return found + results.get("notebooks", {}).get("notebooks", [])


def dates(results: dict) -> set[str | None]:
    return {run.get("date") for run in runs(results)}


def limits(results: dict) -> str:
    """The memory that the measurements were allowed, in words."""
    found = sorted({run.get("limit_gib", EARLIER_LIMIT_GIB) for run in runs(results)})
    said = " or ".join(f"{gib:.2f}" for gib in found) + " GiB (a T4's memory less a CUDA context"
    if EARLIER_LIMIT_GIB in found:
        said += (
            f"; {EARLIER_LIMIT_GIB:.2f} with an older driver, {common.LIMIT_GIB:.2f} with today's"
        )
    return f"{said})"


def not_run(results: dict) -> dict[str, str]:
    """What is not known, and why."""
    found = NOT_RUN.copy()
    for part in PARTS:
        if part not in results:
            found[part] = "no whole run of this script yet"
        elif failures := results[part].get("failures"):
            found[part] = one_line("; ".join(failures), 500)
    for one in results.get("notebooks", {}).get("notebooks", []):
        if not one["passed"]:
            found[f"notebook {one['notebook']}"] = one_line(first_line(one), 500)
    if kept := results.get("agree", {}).get("earlier"):
        found[f"agree: {', '.join(kept)}"] = "from an earlier run; the newest was cut off before it"
    grid = results.get("grid", {})
    for folder, r, *reason in grid.get("failed", []):
        found[f"grid: {folder}, r = {r}"] = reason[0] if reason else "no result"
    if "grid" in results and grid.get("context_gib") is None:
        found["CUDA context"] = grid.get("context_reason", "no result")
    if said := differing(results):
        found["every package in its pinned version"] = said
    return found


def first_line(book: dict) -> str:
    """Why a notebook failed."""
    return (book.get("error") or "no reason").strip().split("\n")[0]


def one_line(text: str, most: int = 160) -> str:
    """Text as a cell of a table takes it."""
    return textwrap.shorten(text.replace("|", "/"), most, placeholder=" …")


def without(part: dict) -> str:
    """What the table says where a part lacks a result."""
    return f"did not run: {one_line('; '.join(part.get('failures', [])) or 'no result')}"


def differing(results: dict) -> str:
    """The packages that were not those of the lock, in a sentence without its full stop."""
    rows = results.get("probes", {}).get("differing", [])
    names = [row["package"] for row in rows if row["found"]]
    if not names:
        return ""
    named = [name for name in ("numpy", "tokenizers", "huggingface-hub") if name in names]
    said = f"{len(names)} packages came from the machine's image in other versions than the pins"
    return f"{said}, among them {', '.join(named)}" if named else said


def summary(results: dict) -> str:
    """The table of docs/measured.md, a head above it and what to know about the numbers below it."""
    machine = results["machine"]
    days = sorted({date or results.get("date", "an unknown day") for date in dates(results)})
    when = f"on {days[0]}" if len(days) == 1 else f"between {days[0]} and {days[-1]}"
    gpus = sorted({str(run.get("gpu") or machine["gpu"]) for run in runs(results)})
    versions = machine["versions"]
    head = (
        f"Measured {when} on one {' and one '.join(gpus)}, limited to {limits(results)}, to fp16 and to plain "
        "attention, with a random Llama-2-7B. No T4 was used: memory carries over, speed does not. "
        f"Versions: torch {versions['torch']}, Triton {versions['triton']}, Unsloth {versions['unsloth']}."
    )
    for said in (differing(results), *outdated(results)):
        head += f" {said}." if said else ""
    lines = [paragraph(head), "", "| what | measured |", "| --- | --- |"]
    lines += [f"| {what} | {said} |" for what, said in rows(results)]
    for note in notes(results):
        lines += ["", paragraph(note)]
    return "\n".join(lines) + "\n"


def outdated(results: dict) -> list[str]:
    """Which parts were measured with earlier versions of their helpers, or with other packages than the head names."""
    parts = {part: results[part].get("run", {}) for part in MEASURED if part in results}
    older = [part for part, run in parts.items() if run.get("helpers") != common.helpers_hash(part)]
    named = results["machine"]["versions"]
    other = [part for part, run in parts.items() if run.get("versions", named) != named]
    said = [f"Helpers have changed since {' and '.join(older)} ran"] if older else []
    books = results.get("notebooks", {}).get("notebooks", [])
    paths = {part: run.get("code_path") for part, run in parts.items()}
    paths |= {f"notebook {one['notebook'][:2]}": one.get("code_path") for one in books}
    for path, words in {
        "own": "took this GPU's own code path, not a T4's",
        None: "did not note which code path they took",
    }.items():
        if found := [part for part, taken in paths.items() if taken == path]:
            said.append(f"{' and '.join(found)} {words}")
    return said + ([f"Other versions in {' and '.join(other)}"] if other else [])


def paragraph(text: str) -> str:
    return textwrap.fill(text, 110, break_on_hyphens=False)


def rows(results: dict) -> list[tuple[str, str]]:
    """What the table says, computed from the results."""
    said = []
    for part, say in (
        ("notebooks", notebook_rows),
        ("grid", grid_rows),
        ("speed", speed_rows),
        ("t4_path", path_rows),
        ("t4_kernels", kernel_rows),
        ("binaries", binary_rows),
        ("agree", agree_rows),
        ("again", again_rows),
        ("resume", resume_rows),
        ("watched", watched_rows),
    ):
        if part in results:
            said += say(results[part])
    return said


def notebook_rows(part: dict) -> list[tuple[str, str]]:
    books = part["notebooks"]
    ran = f"{sum(one['passed'] for one in books)} of {len(books)}"
    for one in books:
        if not one["passed"]:
            ran += f"; {one['notebook'][:2]} did not: {one_line(first_line(one))}"
    changed = [one for one in books if one.get("code") != here(one["notebook"])]
    if changed:
        ran += f"; cells changed since in {', '.join(one['notebook'][:2] for one in changed)}"
    same = [one for one in books if one not in changed]
    older = [one for one in same if one.get("helpers") != common.helpers_hash(one["notebook"])]
    if older:
        ran += f"; helpers changed since in {', '.join(one['notebook'][:2] for one in older)}"
    host = max((one.get("peak_host_gib", 0) for one in books), default=0)
    gpu = max((one.get("peak_gpu_gib", 0) for one in books), default=0)
    return [
        ("notebooks that ran from top to bottom", ran),
        ("most memory in any of them", f"{gpu:.1f} GiB GPU, {host:.1f} GiB host"),
    ]


def here(notebook: str) -> str | None:
    """The hash of a notebook's code as it is now."""
    path = common.KIT / "notebooks" / f"{notebook}.ipynb"
    return common.code_hash(path) if path.exists() else None


def grid_rows(part: dict) -> list[tuple[str, str]]:
    said = []
    for name, fitted in (("peaks", True), ("peaks it was not fitted to", False)):
        points = [p for p in part.get("points", []) if p.get("measured_gib") and not filled(p)]
        points = [p for p in points if p.get("fitted", True) == fitted]
        off = [100 * abs(p["predicted_gib"] / p["measured_gib"] - 1) for p in points]
        found = without(part)
        if off:
            mean = statistics.mean(off)
            found = f"{len(off)} points, off by at most {max(off):.1f} %, {mean:.1f} % on average"
        said.append((f"memory planner against measured {name}", found))
    said += near_the_limit(part.get("points", []), part.get("within", []))
    context = part.get("context_gib")
    reason = part.get("context_reason", "no result")
    said.append(("CUDA context", f"{context:.2f} GiB" if context else f"did not run: {reason}"))
    if part.get("failed"):
        said.append(("adapters that were not measured", str(len(part["failed"]))))
    return said


def filled(point: dict) -> bool:
    """Whether a training took all there is: PyTorch keeps what it once got until nothing is left, so that its peak says
    no more what was needed."""
    return point["measured_gib"] > common.LIMIT_GIB - AT_THE_LIMIT


def near_the_limit(points: list[dict], within: list[dict]) -> list[tuple[str, str]]:
    """How far the planner is below the truth where that decides whether a training fits."""
    measured = [p for p in points if (p.get("measured_gib") or 0) > common.LIMIT_GIB - 1]
    full = [p for p in measured if filled(p)]
    measured = [p for p in measured if not filled(p)]
    wrong = [
        p
        for p in points
        if not p.get("fits", True) and p.get("predicted_gib", common.LIMIT_GIB) < common.LIMIT_GIB
    ]
    if not measured and not wrong:
        return []
    least = min((p["predicted_gib"] / p["measured_gib"] for p in measured), default=1)
    found = f"{len(measured)} points, at most {100 * max(0, 1 - least):.1f} % below the truth"
    if full:
        found += f"; {len(full)} more filled all there is, and ran"
    if within:
        ran = sum(p["fits"] for p in within)
        found += f"; {ran} of {len(within)} ran with no more memory than was predicted"
    if wrong:
        found += f"; {len(wrong)} more did not fit although it said so"
    return [("memory planner within 1 GiB of the limit", found)]


def speed_rows(part: dict) -> list[tuple[str, str]]:
    said = []
    for one in part.get("training") or []:
        course, unsloth, plain = (
            one["ways"].get(way, {}) for way in ("course", "unsloth", "plain")
        )
        own = one["kind"] == "own"
        at_once = [str(way.get("rows_at_once", "–")) for way in (course, unsloth, plain)]
        how = f"each way's own rows at once ({', '.join(at_once)})"
        what = f"training, 8 rows of {one['tokens']} tokens a step, "
        what += how if own else f"the {one['kind']} at once"
        if "tokens_per_second" not in course:
            said.append((what, "the course's way does not fit" if course else without(part)))
            continue
        if own and at_once[0] == at_once[1] and "tokens_per_second" in unsloth:
            homework = f"same work as the homework's cell, ratio {ratio(course, unsloth)}"
        else:
            homework = against("the homework's cell", course, unsloth)
        found = f"{course['tokens_per_second']:,} tokens/s at {course['peak_gib']:.1f} GiB: "
        said.append((what, f"{found}{homework}, {against(PLAIN, course, plain)}"))
    if not said:
        said.append(("training speed", without(part)))
    ways = part.get("generation") or {}
    if not {"course", "loop"} <= set(ways):
        return [*said, ("answering speed", without(part))]
    course, loop = ways["course"], ways["loop"]
    what = (
        f"answering, 100 tokens each: {course['prompts']} prompts in batches, {loop['prompts']} in "
    )
    found = (
        f"{course['tokens_per_second']:.0f} tokens/s at {course['peak_gib']:.1f} GiB in batches, "
        f"{loop['tokens_per_second']:.0f} at {loop['peak_gib']:.1f} GiB in the loop"
    )
    said.append((f"{what}the homework's loop", found))
    if "at_once" in ways:
        rates = [
            f"{one['rows']}: {one['tokens_per_second']:.0f}"
            + (f" (in parts of {one['fell_to']})" if "fell_to" in one else "")
            for one in ways["at_once"]
        ]
        said.append(("rows answered at once: tokens/s", ", ".join(rates)))
    return said


def against(name: str, course: dict, base: dict) -> str:
    """The course's speed as a multiple of another way's, and that way's memory."""
    if "tokens_per_second" not in base:
        return (
            f"{name} {'do' if name == PLAIN else 'does'} not fit" if base else f"{name}: no result"
        )
    return f"{ratio(course, base)} × {name} ({base['peak_gib']:.1f} GiB)"


def ratio(course: dict, base: dict) -> str:
    """How many times as fast, with the range of the rounds where they differ by more than 3 %."""

    def number(value: float) -> str:
        return f"{value:.2f}" if value < 2 else f"{value:.1f}"

    # A round of one way stands beside the same round of the other.
    pairs = zip(course.get("rounds", []), base.get("rounds", []), strict=False)
    rounds = [one / other for one, other in pairs]
    said = number(course["tokens_per_second"] / base["tokens_per_second"])
    if rounds and max(rounds) > 1.03 * min(rounds):
        said += f" ({number(min(rounds))} to {number(max(rounds))})"
    return said


def path_rows(part: dict) -> list[tuple[str, str]]:
    places = part.get("places") or []
    asked = sum(place["asked"] > 0 for place in places)
    what = "places where Unsloth and bitsandbytes ask for the compute capability"
    found = f"{asked} of {len(places)} were reached, and answered as on a T4"
    if part.get("failures"):
        found += f"; but {one_line('; '.join(part['failures']))}"
    return [(what, found if places else without(part))]


def kernel_rows(part: dict) -> list[tuple[str, str]]:
    kernels = part.get("kernels") or []
    fine = sum("error" not in one for one in kernels)
    shared = max((one.get("shared_bytes", 0) for one in kernels), default=0) / 1024
    found = f"{fine} of {len(kernels)}, with at most {shared:.0f} of 64 KiB shared memory"
    what = "Triton kernels that compile for a T4 (sm_75)"
    return [(what, found if kernels else without(part))]


def binary_rows(part: dict) -> list[tuple[str, str]]:
    versions = [
        f"{name} {part[name]['version']}" for name in ("torch", "bitsandbytes") if name in part
    ]
    found = (
        without(part) if part.get("failures") or not versions else f"in {' and '.join(versions)}"
    )
    return [("machine code for a T4, with all that 4-bit training needs", found)]


def agree_rows(part: dict) -> list[tuple[str, str]]:
    padding, labels, adapter = (part.get(name) or {} for name in ("padding", "labels", "adapter"))
    gradients = labelled = logits = without(part)
    if "padding-free" in padding:
        gradients = f"gradients differ by {padding['padding-free']['gradient']:.2%}"
        if "CPU, float32" in padding:
            gradients += (
                f", and from a CPU's in 32 bits by {padding['CPU, float32']['gradient']:.2%}"
            )
    if labels:
        labelled = f"{labels['same']} of {labels['rows']} rows identical"
    if adapter:
        effect = f"the adapter changes them by {adapter['effect_of_adapter']:.2f}"
        logits = f"logits differ by {adapter['difference']:.4f}; {effect}"
    return [
        ("batches without padding against padded ones", gradients),
        ("label masks, GPU and CPU", labelled),
        ("an adapter trained on the GPU, loaded on the CPU", logits),
    ]


def again_rows(part: dict) -> list[tuple[str, str]]:
    pairs = list(part["pairs"].values())
    same = [one for one in pairs if one["same A"] and one["same functions"] and one["apart"] == 0]
    return [
        (
            "a second adapter in one session beside the same one alone, other settings in each pair",
            f"in {len(same)} of {len(pairs)} pairs A, the layers' functions and all losses are identical",
        )
    ]


def resume_rows(part: dict) -> list[tuple[str, str]]:
    whole = part.get("losses")
    same = [name for name in ("the same trainer", "a new session") if whole == part.get(name)]
    found = f"all {len(whole)} losses are identical, continued with {' and with '.join(same)}"
    return [
        (
            "a training that was stopped and continued beside the same one whole",
            found if same and not part.get("failures") else without(part),
        )
    ]


def watched_rows(part: dict) -> list[tuple[str, str]]:
    steps, skipped = part.get("steps"), part.get("skipped_updates")
    found = (
        f"all {steps} losses and gradient norms are identical, and the same {skipped} updates were skipped"
        if part["course"] == part.get("plain")
        else f"losses differ by {part.get('largest difference of a loss', 'an unknown amount'):.1g} at most"
    )
    about = "a training that is watched and kept beside Unsloth and TRL alone"
    return [(about, without(part) if part.get("failures") else found)]


def notes(results: dict) -> list[str]:
    """What the table's numbers do not say by themselves."""
    training = results.get("speed", {}).get("training") or []
    measured = [one for one in training if "tokens_per_second" in one["ways"].get("course", {})]
    kinds = {one["kind"] for one in measured}
    said = []
    if "own" in kinds and len(kinds) > 1:
        said.append(
            "The large factors with short rows come from more rows at once, not from faster arithmetic; a row "
            "of the table with the same rows at once shows the implementation alone."
        )
    if again := results.get("speed", {}).get("again"):
        said.append(
            f"Training on rows of {listed(again['tokens'])} tokens was measured in a run of its own."
        )
    shares, loaded = memory_shares(training), weights_gib(results)
    if loaded and any(share > MEMORY_SHARE for share, _ in shares.values()):
        said.append(
            f"With rows of {listed(shares)} tokens the course takes {listed(s for s, _ in shares.values())} of "
            f"the memory of {PLAIN}. The 4-bit weights, {loaded:.1f} GiB in either way, are "
            f"{listed(loaded / gib for _, gib in shares.values())} of it: with short rows there is little else "
            "to save."
        )
    return said


def listed(numbers: Iterable[float]) -> str:
    """Numbers in a sentence; shares with two digits."""
    *first, last = [f"{n:.2f}" if isinstance(n, float) else str(n) for n in numbers]
    return f"{', '.join(first)} and {last}" if first else last


def memory_shares(training: list[dict]) -> dict[int, tuple[float, float]]:
    """Tokens of a row: the course's memory as a share of the plain stack's, and that stack's GiB."""
    found = {}
    for one in training:
        course, plain = (one["ways"].get(way, {}).get("peak_gib") for way in ("course", "plain"))
        if one["kind"] == "own" and course and plain:
            found[one["tokens"]] = (course / plain, plain)
    return found


def weights_gib(results: dict) -> float | None:
    """Llama-2-7B in 4 bits, loaded and not yet trained."""
    for point in results.get("grid", {}).get("points", []):
        if point["model"] == "llama-2-7b-bnb-4bit" and "loaded_gib" in point:
            return point["loaded_gib"]


def shown(results: dict) -> dict:
    """What notebooks show: the peaks of the homework's training, with Llama-2-7B in 4 and in 16 bits."""
    from helpers.choice import Choice

    homework = Choice()
    # Two rows at once, as its training cell has them.
    set_up = {"r": homework.r, "rows": 2, "tokens": homework.max_length}
    set_up["targets"] = list(homework.target_modules)
    kept = ("model", "bits", *set_up, "measured_gib")
    grid = results.get("grid", {})
    peaks = [
        {name: point[name] for name in kept}
        for point in grid.get("points", [])
        if point["model"].startswith("llama-2-7b")
        and all(point.get(name) == value for name, value in set_up.items())
        and point.get("measured_gib")
    ]
    run = grid.get("run", {})
    limit = run.get("limit_gib", EARLIER_LIMIT_GIB)
    about = {"date": run.get("date"), "gpu": run.get("gpu"), "limit_gib": limit}
    return about | {"homework_peaks": peaks} if peaks else {}


def with_shown(record: dict, results: dict) -> dict:
    """`data/measured.json` with that under a key of its own."""
    found = shown(results)
    return record | {"gpu": found} if found else record


def check(results: dict, readme: str, wanted: str) -> None:
    """Exit with a reason where the table, a prediction or what notebooks show is not what it would be now."""
    points = results.get("grid", {}).get("points", [])
    if points != with_predictions(points):
        sys.exit("The planner's predictions in results.json are not those of helpers/memory.py.")
    if wanted != readme:
        sys.exit("The table in docs/measured.md is not that of results.json.")
    record = json.loads(SHOWN.read_text(encoding="utf-8"))
    if record != with_shown(record, results):
        sys.exit("What data/measured.json has under gpu is not what results.json has.")


def main() -> None:
    only_check = "--check" in sys.argv
    results = json.loads(FILE.read_text(encoding="utf-8")) if only_check else collect()
    text = PAGE.read_text(encoding="utf-8")
    made = summary(results)
    wanted = MARKS.sub(lambda m: m[1] + made + m[2], text)
    if only_check:
        check(results, text, wanted)
        return
    record = with_shown(json.loads(SHOWN.read_text(encoding="utf-8")), results)
    # All or none: only now is it known that a table can be made of them.
    FILE.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(wanted, encoding="utf-8")
    # In the form that tools/record.py gives it.
    half = SHOWN.with_suffix(".partial")
    half.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    half.replace(SHOWN)
    print(made)


if __name__ == "__main__":
    main()
