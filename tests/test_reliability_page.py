"""The pages of docs/ name tests that exist, and docs/reliability.md one for each of its lines."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
LINES = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.endswith("| shown by |")]
NAMED = sorted(
    {
        found
        for page in (ROOT / "docs").rglob("*.md")
        for found in re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", page.read_text(encoding="utf-8"))
    }
)


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize(("path", "name"), NAMED, ids=[name for _, name in NAMED])
def test_a_test_that_a_page_names_exists(path: str, name: str) -> None:
    assert name in names_in(path)


@pytest.mark.parametrize("line", LINES, ids=[line.split("|")[1].strip()[:60] for line in LINES])
def test_each_line_of_the_page_names_a_test(line: str) -> None:
    what, does, shown = (cell.strip() for cell in line.strip("|").split("|"))

    assert what
    assert does
    assert re.fullmatch(r"`tests/[\w/]+\.py::test_\w+`( `tests/[\w/]+\.py::test_\w+`)*", shown)
