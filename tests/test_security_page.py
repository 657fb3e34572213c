"""Every promise of docs/security.md is held by a test that exists."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "security.md").read_text(encoding="utf-8")


def defined() -> set[str]:
    """Return the names of all test functions."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in TESTS.glob("test_*.py")]
    return {node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_promise_names_tests_that_exist() -> None:
    promises = [line for line in PAGE.splitlines() if line.startswith("| ") and "held by" not in line]
    assert len(promises) > 20
    for promise in promises:
        named = set(re.findall(r"`(test_[a-z0-9_]+)`", promise))
        assert named, promise
        assert named <= defined(), named - defined()
