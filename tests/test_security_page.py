"""Every promise of docs/security.md is held by a test that exists."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "security.md").read_text(encoding="utf-8")


def defined() -> set[str]:
    """Return the names of all test functions."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in TESTS.rglob("test_*.py")]
    return {node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)}


def promises() -> Iterator[list[str]]:
    """Yield the cells of each row of the tables that say by which tests a row is held."""
    for table in re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE):
        header, _, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines())
        if header[-1].strip(" |") == "held by":
            yield from rows


def test_every_promise_names_tests_that_exist() -> None:
    rows, tests = list(promises()), defined()
    assert len(rows) > 70
    for row in rows:
        named = set(re.findall(r"`(test_[a-z0-9_]+)`", row[-1]))
        assert named or (row[-1].strip(" |") == "—" and "there are no" in row[-2]), row
        assert named <= tests, named - tests


def test_all_fifty_answers_are_given() -> None:
    numbers = [int(row[0]) for row in promises() if row[0].isdecimal()]
    assert numbers == list(range(1, 51))
