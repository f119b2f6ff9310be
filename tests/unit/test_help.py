"""The help page quotes what students really see."""

import ast
import re
from pathlib import Path

import pytest

KIT = Path(__file__).parents[2]
# The opening cell puts it together.
NOT_OURS = {"No lora-course-…"}


def quoted() -> list[str]:
    """The texts in quotation marks in the left column of the first table."""
    table = (KIT / "docs" / "help.md").read_text(encoding="utf-8").split("\n## ")[1]
    left = re.findall(r"(?m)^\| (.*?) \|", table)
    return [text for cell in left for text in re.findall(r'"([^"]+)"', cell)]


def texts(node: ast.AST) -> list[str]:
    """The texts of a program; what stands in braces is …"""
    found = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "…" for part in child.values]
            found.append("".join(parts))
        elif isinstance(child, ast.Constant) and isinstance(child.value, str):
            found.append(child.value)
        found += texts(child)
    return found


@pytest.fixture(scope="module")
def said() -> list[str]:
    """All texts of the helpers."""
    trees = [
        ast.parse(path.read_text(encoding="utf-8")) for path in (KIT / "helpers").rglob("*.py")
    ]
    return [text for tree in trees for text in texts(tree)]


@pytest.mark.parametrize("quote", [text for text in quoted() if text not in NOT_OURS])
def test_a_message_that_the_help_page_quotes_is_one_that_is_said(quote, said):
    pattern = re.compile(".*".join(map(re.escape, quote.split("…"))), re.DOTALL)
    assert any(pattern.search(text) for text in said)
