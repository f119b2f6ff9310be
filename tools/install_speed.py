"""How long does the kit's installation take on a Colab image, and a `pip install` cell? Side by side, in one run.

`python tools/install_speed.py [IMAGE]` rebuilds the image (as tools/replica.py does), and installs the same main
packages in the same versions into fresh copies of it, twice each, with empty caches: through
`environment.install()`, and through a cell of pip lines as Unsloth's own notebooks have it. It writes a table
into docs/measured.md. Seconds depend on the network and the machine; look at the ratio.
"""

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import replica

from helpers.setup import locks

PAGE = replica.ROOT / "docs" / "measured.md"
MARKS = re.compile(r"(<!-- install -->\n).*?(<!-- /install -->)", re.DOTALL)
REPEATS = 2
# Two lines, as in Unsloth's cells for Colab: itself without what it asks for, the rest with.
WITHOUT_DEPENDENCIES = ("unsloth", "unsloth-zoo")
# What Unsloth imports itself and a cell must name, since it is installed without its dependencies.
IMPORTED = ("cut-cross-entropy",)


def pip_cell(python: Path) -> list[list[str]]:
    """The pip commands of an equivalent cell: the packages of requirements-colab.in and what Unsloth imports."""
    asked = locks.pins(replica.ROOT / "requirements" / "requirements-colab.in")
    asked |= {
        n: v
        for n, v in locks.pins(replica.ROOT / "requirements-colab.txt").items()
        if n in IMPORTED
    }
    first = [f"{name}=={asked[name]}" for name in WITHOUT_DEPENDENCIES]
    rest = [f"{n}=={v}" for n, v in asked.items() if n not in WITHOUT_DEPENDENCIES]
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    return [[*pip, "--no-deps", *first], [*pip, *rest]]


def kit_cell(python: Path) -> list[list[str]]:
    return [[str(python), "-c", "from helpers.setup import environment; environment.install()"]]


def measure(base: Path, cell, with_uv: bool) -> tuple[float, float | None]:
    """Seconds of a cell in a fresh copy of the image, and the MB that pip says it downloaded."""
    with tempfile.TemporaryDirectory(dir=base.parent) as folder:
        copy = Path(folder) / "image"
        # Links, not copies: installers replace files and never write into them.
        subprocess.run(["cp", "-al", base, copy], check=True)
        python = copy / "bin" / "python"
        variables = replica.on_colab(copy)
        variables |= {"UV_CACHE_DIR": str(Path(folder) / "uv"), "PIP_NO_CACHE_DIR": "1"}
        if not with_uv:
            variables["PATH"] = "/usr/bin:/bin"
        said, started = "", time.perf_counter()
        for command in cell(python):
            done = subprocess.run(
                command, env=variables, capture_output=True, text=True, check=False
            )
            if done.returncode:
                sys.exit(f"{' '.join(command)[:200]}\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
            said += done.stdout
        seconds = time.perf_counter() - started
        check = [
            python,
            "-c",
            "import transformers, peft, trl, datasets, bitsandbytes, torch, numpy",
        ]
        subprocess.run(check, env=variables, check=True)
    units = {"kB": 1e-3, "MB": 1, "GB": 1e3}
    sizes = re.findall(r"Downloading \S+ \(([\d.]+) (kB|MB|GB)\)", said)
    return seconds, sum(float(size) * units[unit] for size, unit in sizes) or None


def download_size(python: str) -> float:
    """MB of the files that the kit downloads: those of its lock that differ from the image."""
    image = locks.images()[python]
    minor = ".".join(image["python"].split(".")[:2])
    pins = locks.pins(replica.ROOT / "requirements-colab.txt")
    wanted = [f"{n}=={v}" for n, v in pins.items() if image["packages"].get(n) != v]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", folder]
        command += ["--python-version", minor, "--only-binary", ":all:"]
        for platform in ("manylinux_2_28_x86_64", "manylinux_2_24_x86_64", "manylinux2014_x86_64"):
            command += ["--platform", platform]
        subprocess.run([*command, *wanted], check=True)
        return sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("image", nargs="?", default=next(iter(locks.images())))
    image = parser.parse_args().image
    base = replica.OUT / f"{image}-base"
    replica.build(image, base)
    ways = {
        "`environment.install()`": (kit_cell, True),
        "the same where uv is absent": (kit_cell, False),
        "a cell of `pip install` lines": (pip_cell, False),
    }
    measured: dict[str, list] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, (cell, with_uv) in ways.items():
            measured[name].append(measure(base, cell, with_uv))
            print(f"{name}: {measured[name][-1][0]:.1f} s", flush=True)
    shutil.rmtree(base)
    slowest = statistics.mean(seconds for seconds, _ in measured["a cell of `pip install` lines"])
    lines = [
        f"| on the image of {image}, empty caches | seconds, twice | of the cell's time | MB |"
    ]
    lines += ["| --- | --- | --- | --- |"]
    kit_megabytes = download_size(image)
    for name, runs in measured.items():
        seconds = [one for one, _ in runs]
        size = kit_megabytes if ways[name][0] is kit_cell else runs[0][1]
        lines.append(
            f"| {name} | {seconds[0]:.1f}, {seconds[1]:.1f} | {statistics.mean(seconds) / slowest:.0%} | {size:.0f} |"
        )
    table = "\n".join(lines) + "\n"
    print(table)
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(MARKS.sub(lambda m: m[1] + table + m[2], text), encoding="utf-8")


if __name__ == "__main__":
    main()
