"""Guards against rot: what the cells and helpers call exists in the pinned versions, on the GPU too.

Without a GPU, Unsloth puts its CPU backend in place, and `inspect` shows that one. So the files of the
pinned packages are read with `ast`, which runs nothing.
"""

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from helpers import presets
from helpers.choice import Choice
from helpers.setup import locks

KIT = Path(__file__).parents[2]
sys.path.insert(0, str(KIT / "tools"))
from drift import hashes

LOCKS = ("requirements-colab.txt", "requirements/requirements-local.txt")
NOTEBOOKS = sorted((KIT / "notebooks").glob("*.ipynb"))
SOURCES = [*NOTEBOOKS, *sorted((KIT / "helpers").rglob("*.py"))]
# Values that options of text may have, from the documentation of PEFT, Transformers and Unsloth. Unsloth
# takes a misspelt use_gradient_checkpointing without a word.
KNOWN = {
    "use_gradient_checkpointing": {"unsloth", True, False},
    "bias": {"none", "all", "lora_only"},
    "save_strategy": {"no", "steps", "epoch", "best"},
    "lr_scheduler_type": {"linear", "cosine", "constant", "constant_with_warmup"},
    "optim": {"adamw_8bit", "adamw_torch", "adamw_torch_fused", "paged_adamw_8bit"},
    "report_to": {"none"},
}


def package_file(name: str) -> ast.Module:
    """A module of an installed package, parsed and not run."""
    package, *rest = name.split(".")
    root = Path(importlib.util.find_spec(package).origin).parent
    return ast.parse(root.joinpath(*rest).with_suffix(".py").read_text(encoding="utf-8"))


def class_named(module: ast.Module, name: str) -> ast.ClassDef:
    return next(n for n in module.body if isinstance(n, ast.ClassDef) and n.name == name)


def parameters(module: str, class_name: str, function: str) -> set[str]:
    """Names that a method takes."""
    body = class_named(package_file(module), class_name).body
    found = next(n for n in body if isinstance(n, ast.FunctionDef) and n.name == function)
    return {a.arg for a in (*found.args.args, *found.args.kwonlyargs)}


def fields(module: str, class_name: str) -> set[str]:
    """Fields of a dataclass, without those it inherits."""
    body = class_named(package_file(module), class_name).body
    return {n.target.id for n in body if isinstance(n, ast.AnnAssign)}


ACCEPTED = {
    "FastLanguageModel.from_pretrained": parameters(
        "unsloth.models.loader", "FastLanguageModel", "from_pretrained"
    ),
    "FastLanguageModel.get_peft_model": parameters(
        "unsloth.models.llama", "FastLlamaModel", "get_peft_model"
    ),
    "SFTTrainer": parameters("trl.trainer.sft_trainer", "SFTTrainer", "__init__"),
    "SFTConfig": fields("trl.trainer.sft_config", "SFTConfig")
    | fields("trl.trainer.base_config", "_BaseConfig")
    | fields("transformers.training_args", "TrainingArguments"),
}


def code_of(path: Path) -> str:
    if path.suffix == ".py":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


def calls() -> list[tuple[str, str, ast.Call]]:
    """Every call of a guarded function in notebooks and helpers: file, function, call."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(code_of(path))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ACCEPTED:
                found.append((path.name, ast.unparse(node.func), node))
    return found


CALLS = calls()


def test_each_guarded_function_is_called_in_a_notebook_and_its_parameters_were_found():
    in_notebooks = {name for file, name, _ in CALLS if file.endswith(".ipynb")}
    assert in_notebooks == set(ACCEPTED)
    assert all(len(names) > 10 for names in ACCEPTED.values())
    assert {"max_length", "learning_rate", "optim"} <= ACCEPTED["SFTConfig"]


@pytest.mark.parametrize(
    ("file", "name", "call"), CALLS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_every_argument_exists_in_the_pinned_version(file, name, call):
    assert {k.arg for k in call.keywords if k.arg} - ACCEPTED[name] == set()


def test_the_calls_that_a_choice_becomes_have_arguments_of_the_pinned_version_with_known_values():
    adapter, training = Choice().adapter_arguments(), Choice().training_arguments(100, 2, 2e-4)
    assert set(adapter) <= ACCEPTED["FastLanguageModel.get_peft_model"]
    assert set(training) <= ACCEPTED["SFTConfig"] and set(presets.TRAINING) <= set(training)
    texts = {name: value for name, value in (adapter | training).items() if isinstance(value, str)}
    assert texts and all(value in KNOWN[name] for name, value in texts.items())


@pytest.mark.parametrize(
    ("file", "name", "call"), CALLS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_options_of_text_have_known_values(file, name, call):
    for keyword in call.keywords:
        if isinstance(keyword.value, ast.Constant) and keyword.arg in KNOWN:
            assert keyword.value.value in KNOWN[keyword.arg], keyword.arg
        elif isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, str):
            assert keyword.arg in ("model_name", "output_dir"), f"no known values: {keyword.arg}"


def test_known_values_are_known_to_the_packages_too():
    assert KNOWN["optim"] >= {presets.TRAINING["optim"]}
    assert presets.TRAINING["lr_scheduler_type"] in KNOWN["lr_scheduler_type"]
    names = class_named(package_file("transformers.training_args"), "OptimizerNames").body
    optimizers = {n.value.value for n in names if isinstance(n, ast.Assign)}
    assert KNOWN["optim"] <= optimizers | {"adamw_8bit"}
    text = (
        Path(importlib.util.find_spec("unsloth").origin).parent / "models" / "llama.py"
    ).read_text()
    assert 'use_gradient_checkpointing = "unsloth"' in text


def test_unsloth_asks_the_gpu_itself_whether_it_has_bfloat16_and_not_pytorch():
    """PyTorch counts a T4's imitation of bfloat16 as support; Unsloth wants compute capability 8."""
    text = ast.unparse(package_file("unsloth.models._utils"))
    assert "SUPPORTS_BFLOAT16 = _bf16_cap is not None and _bf16_cap[0] >= 8" in text


# ------------------------------------------------------------------------------------ cells that install
INSTALLS = re.compile(
    r"\b(pip[\d.]*|pipx|uv|conda|mamba|apt|apt-get)(\s+\S+){0,3}?\s+(install|add|sync)\b|\bensurepip\b"
)
# Cells of notebook 01 that take the homework's install cell apart, by the one text that they hold: they show
# it, split it into words, or let the shell echo a line of it.
SHOWN = {
    "01_environment": (
        'INSTALL_CELL = """',
        '"echo pip install transformers>=4.46.1"',
    )
}


def installs(source: str) -> bool:
    """Whether a cell may install something: its texts, joined, hold a command that does."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return True  # A line with ! or %.
    texts = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    texts.sort(key=lambda node: (node.lineno, node.col_offset))
    return bool(INSTALLS.search(" ".join(node.value for node in texts)))


def only_echoes(source: str) -> bool:
    """Whether each command that a cell runs is an echo: a text in the call, or those that a loop takes it from."""
    nodes = [*ast.walk(ast.parse(source))]
    loops = {ast.unparse(n.target): n.iter for n in nodes if isinstance(n, ast.For)}
    calls = [n for n in nodes if isinstance(n, ast.Call)]
    runs = [n for n in calls if re.search("shell|cell|system|open|run|sub", ast.unparse(n.func))]
    if not all(n.args for n in runs):
        return False
    commands = [loops.get(ast.unparse(n.args[0]), n.args[0]) for n in runs]
    texts = [one for n in commands for one in (n.elts if isinstance(n, ast.Tuple) else [n])]
    return all(ast.unparse(text).startswith("'echo ") for text in texts)


@pytest.mark.parametrize(
    "source",
    [
        "!pip install x",
        "%pip install x",
        "os.system('pip install x')",
        "os.popen('pip  install x')",
        "subprocess.run('pip3 install x', shell=True)",
        "subprocess.run([sys.executable, '-m', 'pip', 'install', 'x'])",
        "command = [sys.executable, '-m', 'pip', '-q', 'install']\nsubprocess.run([*command, 'x'])",
        "from subprocess import run\nrun('pip install x', shell=True)",
        "get_ipython().system('pip install x')",
        "get_ipython().run_line_magic('pip', 'install x')",
        "os.system(f'{sys.executable} -m pip install {name}')",
        "subprocess.run(['uv', 'pip', 'install', 'x'])",
        "os.system('apt-get -y install x')",
        "os.system('pip --proxy p install x')",
    ],
)
def test_the_guard_sees_every_way_to_install(source):
    assert installs(source)


def test_the_guard_leaves_other_cells_alone():
    assert not installs("environment.install()\nprint('pip is there')  # pip install x")


@pytest.mark.parametrize(
    ("source", "echoes"),
    [
        ("run('echo pip install x')", True),
        ("for command in ('echo pip install x', 'echo y'):\n    run(command)", True),
        ("for command in ('echo pip install x', 'pip install y'):\n    run(command)", False),
        ("command = 'pip install x'\nrun(command)", False),
        ("text = 'pip install x'\nprint(text)", True),
    ],
)
def test_a_command_that_is_only_shown_is_an_echo(source, echoes):
    assert only_echoes(source) == echoes


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_cell_installs_anything_but_through_the_lock(path):
    cells = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    found = [source for source in cells if installs(source)]
    for text in SHOWN.get(path.stem, ()):
        (shows,) = [source for source in found if text in source]
        assert only_echoes(shows)
        found.remove(shows)
    assert found == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_that_may_be_replaced_is_imported_before_the_install_cell(path):
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    number = next(i for i, cell in enumerate(cells) if "environment.install()" in cell.source)
    before = ast.parse("\n".join(cell.source for cell in cells[: number + 1]))
    imported = set()
    for node in ast.walk(before):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert imported <= set(sys.stdlib_module_names) | {"helpers"}
    assert number == 1


# -------------------------------------------------------------------------------------- wheels
def uv() -> str:
    return shutil.which("uv", path=f"{Path(sys.executable).parent}:/usr/bin") or "uv"


@pytest.mark.parametrize("python", locks.PYTHONS)
@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_a_wheel_for_every_python_and_its_hashes(lock, python):
    command = [uv(), "pip", "compile", "--quiet", "--no-deps", "--no-header", "--generate-hashes"]
    command += ["--only-binary", ":all:", "--python", sys.executable, "--python-version", python]
    command += ["--python-platform", "x86_64-manylinux_2_28", "-"]
    pins = locks.pins(KIT / lock)
    # Bare lines: uv would repeat the hashes that it is given.
    bare = "\n".join(f"{name}=={version}" for name, version in pins.items())
    done = subprocess.run(command, input=bare, capture_output=True, text=True, check=False)
    if re.search("Failed to fetch|error sending request|dns error", done.stderr):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    assert locks.versions(done.stdout) == pins
    ours, theirs = hashes((KIT / lock).read_text(encoding="utf-8")), hashes(done.stdout)
    assert set(ours) == set(pins)
    # The index may have got more files since.
    assert {
        name: found - theirs[name] for name, found in ours.items() if found - theirs[name]
    } == {}


def test_both_locks_have_the_same_hashes_for_the_same_pins():
    colab, local = [
        (locks.pins(KIT / name), hashes((KIT / name).read_text(encoding="utf-8"))) for name in LOCKS
    ]
    same = [name for name, version in colab[0].items() if local[0].get(name) == version]
    assert len(same) > 10
    assert {name: colab[1][name] for name in same} == {name: local[1][name] for name in same}


# ------------------------------------------------------------------------------------ measured installation
def test_the_measured_installation_is_small_and_quick_beside_a_cell_of_pip_lines():
    # Recorded by tools/install_speed.py: what docs/measured.md says, not what this machine does.
    text = (KIT / "docs" / "measured.md").read_text(encoding="utf-8")
    table = re.search(r"<!-- install -->\n(.*?)<!-- /install -->", text, re.DOTALL)[1]
    row = re.search(
        r"^\| `environment\.install\(\)` \|.*\| (\d+)% \| (\d+) \|$", table, re.MULTILINE
    )
    share, megabytes = map(int, row.groups())
    assert share <= 25
    assert megabytes <= 160
