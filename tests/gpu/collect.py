"""Put the results of the GPU scripts into `tests/gpu/results.json`, and a table of them into the README.

`python tests/gpu/collect.py` reads `build/gpu/results/`; `--check` only compares the README with results.json.
"""

import datetime
import json
import re
import statistics
import sys

import common

FILE = common.KIT / "tests" / "gpu" / "results.json"
README = common.KIT / "README.md"
MARKS = re.compile(r"(<!-- gpu -->\n).*?(<!-- /gpu -->)", re.DOTALL)
PARTS = ("machine", "probes", "speed", "grid", "t4_kernels", "agree", "notebooks")
# What a GPU machine without network, and not a T4, cannot show.
NOT_RUN = {
    "a real Tesla T4": "none was at hand: its speed, and whether kernels that compile for it also run well",
    "Llama-2-7B's weights": "the machine has no network: random weights have the same shapes, no knowledge",
    "installing on a Colab image": "the machine has an image of its own",
}


def collect() -> dict:
    """Everything that was measured; parts without a new result keep their old one."""
    old = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    new = any((common.RESULTS / f"{part}.json").exists() for part in PARTS)
    date = datetime.date.today().isoformat() if new or not old else old["date"]
    found = {"date": date, "not_run": NOT_RUN}
    for part in PARTS:
        file = common.RESULTS / f"{part}.json"
        if file.exists():
            found[part] = json.loads(file.read_text(encoding="utf-8"))
            if part == "t4_kernels":
                found[part]["kernels"] = [brief(one) for one in found[part]["kernels"]]
        elif part in old:
            found[part] = old[part]
        else:
            found["not_run"] = found["not_run"] | {part: "no whole run of this script yet"}
    return found


def brief(kernel: dict) -> dict:
    """One compiled kernel without its signature and constants."""
    kept = ("kernel", "module", "stage", "shared_bytes", "error")
    return {name: kernel[name] for name in kept if name in kernel} | {
        "num_warps": kernel["options"].get("num_warps")
    }


def summary(results: dict) -> str:
    """The README's table."""
    machine = results["machine"]
    versions = machine["versions"]
    lines = [
        f"Measured on {results['date']} on one {machine['gpu']}, limited to a T4's memory, fp16 and plain",
        "attention, with a random Llama-2-7B. No T4 was used: memory carries over, speed does not.",
        f"Versions: torch {versions['torch']}, Triton {versions['triton']}, Unsloth {versions['unsloth']}.",
        "",
        "| what | measured |",
        "| --- | --- |",
    ]
    lines += [f"| {what} | {said} |" for what, said in rows(results)]
    return "\n".join(lines) + "\n"


def rows(results: dict) -> list[tuple[str, str]]:
    """What the table says, computed from the results."""
    said = []
    if "notebooks" in results:
        books = results["notebooks"]["notebooks"]
        passed = sum(one["passed"] for one in books)
        host = max(one.get("peak_host_gib", 0) for one in books)
        gpu = max(one.get("peak_gpu_gib", 0) for one in books)
        ran = f"{passed} of {len(books)}"
        changed = [one["notebook"][:2] for one in books if one["code"] != here(one["notebook"])]
        ran += f"; code changed since in {', '.join(changed)}" if changed else ""
        said.append(("notebooks that ran from top to bottom", ran))
        said.append(("most memory in any of them", f"{gpu:.1f} GiB GPU, {host:.1f} GiB host"))
    if "grid" in results:
        for name, fitted in (("peaks", True), ("peaks it was not fitted to", False)):
            points = [p for p in results["grid"]["points"] if p.get("measured_gib")]
            points = [p for p in points if p.get("fitted", True) == fitted]
            off = [abs(common.predicted_gib(p) / p["measured_gib"] - 1) for p in points]
            if off:
                worst, middle = 100 * max(off), 100 * statistics.median(off)
                found = f"{len(points)} points, off by at most {worst:.1f} %, median {middle:.1f} %"
                said.append((f"memory planner against measured {name}", found))
        said.append(("CUDA context", f"{results['grid']['context_gib']:.2f} GiB"))
    if "speed" in results:
        said += speed_rows(results["speed"])
    if "t4_kernels" in results:
        kernels = results["t4_kernels"]["kernels"]
        fine = sum("error" not in one for one in kernels)
        shared = max(one.get("shared_bytes", 0) for one in kernels) / 1024
        said.append(
            (
                "Triton kernels that compile for a T4 (sm_75)",
                f"{fine} of {len(kernels)}, with at most {shared:.0f} of 64 KiB shared memory",
            )
        )
    if "agree" in results:
        agree = results["agree"]
        gradient = agree["padding"]["padding-free"]["gradient"]
        said.append(
            ("batches without padding against padded ones", f"gradients differ by {gradient:.2%}")
        )
        labels, adapter = agree["labels"], agree["adapter"]
        said.append(
            ("label masks, GPU and CPU", f"{labels['same']} of {labels['rows']} rows identical")
        )
        said.append(
            (
                "an adapter trained on the GPU, loaded on the CPU",
                (
                    f"logits differ by {adapter['difference']:.4f}; the adapter changes them by "
                    f"{adapter['effect_of_adapter']:.2f}"
                ),
            )
        )
    return said


def here(notebook: str) -> str | None:
    """The hash of a notebook's code as it is now."""
    path = common.KIT / "notebooks" / f"{notebook}.ipynb"
    return common.code_hash(path) if path.exists() else None


def speed_rows(speed: dict) -> list[tuple[str, str]]:
    said = []
    for index, course in enumerate(speed["course"]["training"]):
        unsloth, plain = speed["unsloth"]["training"][index], speed["plain"]["training"][index]
        rate = "tokens_per_second"
        said.append(
            (
                f"training, 8 rows of {course['tokens']} tokens a step",
                (
                    f"{course[rate]:,} tokens/s at {course['peak_gib']:.1f} GiB: "
                    f"{course[rate] / unsloth[rate]:.2f} × the homework's cell ({unsloth['peak_gib']:.1f} GiB), "
                    f"{course[rate] / plain[rate]:.2f} × Transformers, PEFT and TRL alone "
                    f"({plain['peak_gib']:.1f} GiB)"
                ),
            )
        )
    ways = speed["course"]["generation"]
    said.append(
        (
            "answering, 100 tokens each",
            (
                f"{ways['course']['tokens_per_second']:.0f} tokens/s in batches, "
                f"{ways['loop']['tokens_per_second']:.0f} in the homework's loop"
            ),
        )
    )
    return said


def main() -> None:
    if "--check" not in sys.argv:
        FILE.write_text(json.dumps(collect(), indent=1) + "\n", encoding="utf-8")
    results = json.loads(FILE.read_text(encoding="utf-8"))
    text = README.read_text(encoding="utf-8")
    wanted = MARKS.sub(lambda m: m[1] + summary(results) + m[2], text)
    if "--check" in sys.argv:
        sys.exit(0 if wanted == text else "The README's GPU table is not that of results.json.")
    README.write_text(wanted, encoding="utf-8")
    print(summary(results))


if __name__ == "__main__":
    main()
