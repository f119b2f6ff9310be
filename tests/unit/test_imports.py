"""Importing the helpers: light ones stay light, and the trainer is Unsloth's in whatever order."""

import ast
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import helpers
from helpers.setup import environment

KIT = Path(__file__).parents[2]
sys.path.insert(0, str(KIT / "tools"))
import map as maps

# The helpers' own packages: what is imported from them is a file.
PACKAGES = ("helpers", "helpers.setup")
# Lowest floor first: a helper imports only those before it. With each, what else it may import
# at module level beside the standard library.
HELPERS = {
    "errors": set(),
    "settings": set(),
    "presets": set(),
    "lora": set(),
    "memory": set(),
    "workspace": set(),
    "choice": set(),
    "cautions": set(),
    "plan": set(),
    "setup.hints": set(),
    "setup.network": set(),
    "setup.locks": set(),
    "setup.installers": set(),
    "setup.installation": set(),
    "machine": set(),
    "setup.probes": {"torch"},
    "setup.untouched": set(),
    "setup.environment": set(),
    "letters": set(),
    "shapes": set(),
    "reading": set(),
    "tokens": set(),
    "homework": set(),
    "data": set(),
    "selection": set(),
    "stages": set(),
    "carry": set(),
    "trainer_files": set(),
    "adapter": {"torch"},
    "merging": {"torch"},
    "claims": set(),
    "checkpoints": set(),
    "runs": set(),
    "manifests": set(),
    "copies": set(),
    "records": set(),
    "bundle": set(),
    "comparing": set(),
    "one_run": set(),
    "small_model": {"torch"},
    "t4_mode": set(),
    "unsloth_first": {"unsloth"},
    "models": {"unsloth", "torch", "safetensors"},
    "adapting": {"unsloth", "torch", "peft", "safetensors"},
    "progress": {"unsloth", "torch", "transformers"},
    "watching": {"unsloth", "torch", "transformers"},
    "asked": set(),
    "best_adapter": {"unsloth", "torch", "transformers"},
    "keeping": {"unsloth", "torch", "transformers"},
    "copier": {"unsloth", "transformers"},
    "svg": set(),
    "plots": {"matplotlib", "numpy"},
    "panel": {"unsloth", "torch", "transformers"},
    "training": {"unsloth", "torch", "transformers", "trl"},
    "earlier": {"unsloth", "torch"},
    "answering": {"torch"},
    "report": set(),
    "beside": set(),
    "evaluation": {"torch"},
    "ledger_plots": {"matplotlib"},
    "ledger": set(),
    "faults": set(),
    "chips": set(),
    "token_rows": {"unsloth", "datasets", "transformers", "trl"},
    "labels": {"unsloth", "datasets", "transformers", "trl"},
    "traits": set(),
    "picks": set(),
    "drawings": {"matplotlib"},
    "controls": {"ipywidgets", "IPython"},
    "widgets": {"ipywidgets"},
}
STANDARD_LIBRARY_ONLY = [
    "errors",
    "settings",
    "presets",
    "lora",
    "memory",
    "workspace",
    "choice",
    "cautions",
    "plan",
    "setup.hints",
    "setup.network",
    "setup.locks",
    "setup.installers",
    "setup.installation",
    "machine",
    "setup.untouched",
    "setup.environment",
    "letters",
    "shapes",
    "reading",
    "tokens",
    "homework",
    "data",
    "selection",
    "stages",
    "carry",
    "trainer_files",
    "claims",
    "checkpoints",
    "runs",
    "manifests",
    "copies",
    "records",
    "bundle",
    "comparing",
    "one_run",
    "beside",
    "svg",
    "traits",
    "picks",
    "faults",
    "chips",
]
# These begin with Unsloth, or with a helper that does.
BEGIN_WITH_UNSLOTH = [
    "unsloth_first",
    "models",
    "adapting",
    "progress",
    "watching",
    "asked",
    "best_adapter",
    "keeping",
    "copier",
    "panel",
    "training",
    "token_rows",
    "labels",
    "earlier",
]
UNSLOTH_MUST_COME_BEFORE = {"transformers", "trl", "peft"}
HEAVY = UNSLOTH_MUST_COME_BEFORE | {"unsloth", "datasets"}
LIGHT = [name for name in HELPERS if name not in BEGIN_WITH_UNSLOTH]


def run(code: str) -> str:
    """What a fresh interpreter without a GPU prints."""
    variables = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(KIT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(code: str) -> set[str]:
    """Names of all modules that a statement loads in a fresh interpreter."""
    report = "print(json.dumps(sorted(set(sys.modules) - before)))"
    return set(json.loads(run(f"import json, sys; before = set(sys.modules)\n{code}\n{report}")))


def import_all(names: list[str]) -> str:
    """A statement that imports these helpers in this order."""
    return "import " + ", ".join(f"helpers.{name}" for name in names)


def packages(modules: set[str]) -> set[str]:
    """The packages that modules belong to, without the standard library and the helpers."""
    top = {name.split(".")[0] for name in modules}
    return top - set(sys.stdlib_module_names) - {"helpers"}


def parsed(name: str) -> ast.Module:
    """A helper's code."""
    file = KIT.joinpath("helpers", *name.split(".")).with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(name: str) -> list[str]:
    """Modules that a helper imports when it is imported itself, in order."""
    found = []
    for node in parsed(name).body:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module in PACKAGES:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module)
    return found


# -------------------------------------------------------------------------------------------- the house
def test_every_helper_has_its_floor():
    folder = KIT / "helpers"
    files = {file.relative_to(folder).with_suffix("") for file in folder.rglob("*.py")}
    names = {".".join(file.parts) for file in files if file.name != "__init__"}
    assert names == set(HELPERS)


def tables() -> list[dict[str, tuple[str, str]]]:
    """The map of the helpers as the package has it and as CONTRIBUTING has it: what for, and which notebooks."""
    inside = re.findall(r"(?m)^    (\S+) {2,}(\S.*?) {2,}(\S.*)$", helpers.__doc__)
    text = (KIT / "CONTRIBUTING.md").read_text(encoding="utf-8").replace("`", "")
    rows = re.findall(r"(?m)^\| (\S+)\.py \| (.*) \| (.*) \|$", text)
    rows = [(name.replace("/", "."), *rest) for name, *rest in rows]
    return [{name: (purpose, used) for name, purpose, used in found} for found in (inside, rows)]


def test_the_map_names_every_helper_and_is_what_the_tool_writes():
    inside, outside = tables()
    assert inside == outside and set(inside) == set(HELPERS)
    written = maps.rewritten()
    assert [path.read_text(encoding="utf-8") for path in (maps.HERE, maps.THERE)] == [*written]


def test_the_tool_finds_who_imports_a_helper():
    notebooks = {
        "00": "from helpers import data, runs",
        "01": "if x:\n    from helpers.choice import Choice",
        "02": "from helpers import (\n    data,\n    adapter,\n)",
        "03": "from helpers.setup import environment",
    }
    assert maps.used_in("data", notebooks) == "00 02"
    assert maps.used_in("choice", notebooks) == "01"
    assert maps.used_in("adapter", notebooks) == "02"
    assert maps.used_in("setup.environment", notebooks) == "03"
    assert maps.used_in("tokens", notebooks) == "–"


@pytest.mark.parametrize("name", HELPERS)
def test_a_helper_imports_only_helpers_below_it_and_the_packages_it_may(name):
    floor = list(HELPERS).index(name)
    below = {f"helpers.{other}" for other in list(HELPERS)[:floor]}
    found = imports(name)
    assert {module for module in found if module.startswith("helpers")} <= below
    assert packages(set(found)) <= HELPERS[name]


@cache
def defined(name: str) -> set[str]:
    """What a helper defines itself, at module level."""
    found = set()
    for node in parsed(name).body:
        inside = [node] if isinstance(node, ast.FunctionDef | ast.ClassDef) else ast.walk(node)
        for one in inside:
            if isinstance(one, ast.FunctionDef | ast.ClassDef):
                found.add(one.name)
            elif isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store):
                found.add(one.id)
    return found


def borrowed(source: str) -> set[str]:
    """What code takes from a helper that only imports it itself."""
    own = {f"helpers.{name}": defined(name) for name in HELPERS}
    tree, names, found = ast.parse(source), {}, set()
    for node in ast.walk(tree):
        for alias in node.names if isinstance(node, ast.ImportFrom) else ():
            full = f"{node.module}.{alias.name}"
            if full in own:
                names[alias.asname or alias.name] = full
            elif alias.name not in own.get(node.module, {alias.name}):
                found.add(full)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            full = names.get(node.value.id)
            if full and node.attr not in own[full]:
                found.add(f"{full}.{node.attr}")
    return found


@cache
def notebook_code() -> dict[str, str]:
    """The code of every notebook, without IPython's own lines, which are no Python."""
    found = {}
    for file in sorted((KIT / "notebooks").glob("*.ipynb")):
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        found[file.name] = re.sub(r"(?m)^[%!].*$", "", code)
    return found


@cache
def sources() -> dict[str, str]:
    """The code of every helper, tool and notebook."""
    files = [*(KIT / "helpers").rglob("*.py"), *(KIT / "tools").glob("*.py")]
    found = {str(file.relative_to(KIT)): file.read_text(encoding="utf-8") for file in files}
    return found | notebook_code()


@pytest.mark.parametrize("name", sources())
def test_every_name_is_taken_from_where_it_is_defined(name):
    assert borrowed(sources()[name]) == set()


@pytest.mark.parametrize(
    "name", [name for name in BEGIN_WITH_UNSLOTH if name not in ("asked", "unsloth_first")]
)
def test_unsloth_is_imported_first_and_in_the_one_place_that_prepares_it(name):
    assert imports(name)[0] == "helpers.unsloth_first"


# ------------------------------------------------------------------------------------- fresh interpreters
def test_the_packages_themselves_load_nothing():
    assert loaded_by("import helpers.setup") == set(PACKAGES)


def test_these_helpers_load_the_standard_library_only():
    assert packages(loaded_by(import_all(STANDARD_LIBRARY_ONLY))) == set()


def test_a_preset_is_planned_with_the_standard_library_only():
    code = (
        "from helpers import plan\nfrom helpers.choice import Choice\n"
        "text = plan.describe(plan.of(Choice(), 'llama-2-7b'))\n"
        "assert '39,976,960' in text\n"
        "plan.warnings_for(Choice(), 'smollm2-135m')"
    )
    assert packages(loaded_by(code)) == set()


def test_drawing_does_not_load_torch():
    loaded = packages(loaded_by("from helpers import plots"))
    assert "matplotlib" in loaded
    assert not loaded & (HEAVY | {"torch"})


def test_the_trainer_is_unsloths_although_every_light_helper_came_first():
    out = run(
        f"{import_all(LIGHT)}\nimport sys, json\n"
        f"print(json.dumps(sorted({HEAVY!r} & set(sys.modules))))\n"
        "from helpers import training\n"
        "import trl\n"
        "print(trl.SFTTrainer._unsloth_cpu, training.SFTTrainer is trl.SFTTrainer)\n"
    ).splitlines()
    # Nothing that Unsloth must come before is there yet, so no order of the light helpers matters.
    assert json.loads(out[0]) == []
    assert out[-1] == "True True"


def test_the_trainer_is_unsloths_when_training_is_imported_first():
    out = run(
        "from helpers import training\n"
        "import trl\n"
        "print(trl.SFTTrainer._unsloth_cpu, training.SFTTrainer is trl.SFTTrainer)\n"
    )
    assert out.splitlines()[-1] == "True True"
    # What Unsloth printed on the way is the banner that notebook 01 explains.
    facts = environment.read_banner(out)
    assert facts["Unsloth"] == environment.version("unsloth")
    assert facts["CPU threads"].isdecimal()
    assert facts["bfloat16"] in ("True", "False")


@pytest.mark.parametrize("name", ["models", "asked"])
def test_the_trainer_is_unsloths_whichever_of_these_is_imported_first(name):
    out = run(f"from helpers import {name}\nimport trl\nprint(trl.SFTTrainer._unsloth_cpu)\n")
    assert out.splitlines()[-1] == "True"
