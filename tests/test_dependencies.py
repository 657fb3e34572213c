"""No version that is known to be dangerous is installed, pinned or allowed; docs/security.md has the list."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
FLOOR = re.compile(
    r"^\| `(?P<name>[a-z0-9-]+)` \| (?:(?P<floor>[0-9.]+) or newer|(?P<absent>not installed)) \| (?P<why>.+) \|$"
)


def floors() -> dict[str, Version | None]:
    """Return the oldest version of each package that may be used, None for one that must not be there."""
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = [match for line in page.splitlines() if (match := FLOOR.match(line))]
    assert all(re.search(r"CVE-\d+-\d+|GHSA-|faiss#\d+", row["why"]) for row in rows), "each names an advisory"
    return {row["name"]: Version(row["floor"]) if row["floor"] else None for row in rows}


def pinned() -> dict[str, Version]:
    """Return the versions of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name.lower(): Version(number) for name, number in pairs}


def allowed() -> dict[str, Requirement]:
    """Return what pyproject.toml asks for without extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {requirement.name: requirement for requirement in map(Requirement, project["dependencies"])}


def test_the_page_lists_what_must_not_be_older() -> None:
    assert {"transformers", "torch", "starlette", "faiss-cpu", "python-multipart"} <= set(floors())


@pytest.mark.parametrize("name", floors())
def test_no_version_below_its_floor_is_pinned_or_installed(name: str) -> None:
    floor = floors()[name]
    try:
        installed = Version(version(name))
    except PackageNotFoundError:
        assert floor is None or name not in pinned(), f"{name} is pinned and not installed"
        return
    assert floor is not None, f"{name} must not be installed"
    assert installed >= floor
    assert pinned()[name] >= floor


@pytest.mark.parametrize("name", sorted(set(floors()) & set(allowed())))
def test_no_version_below_its_floor_is_allowed(name: str) -> None:
    floor = floors()[name]
    assert floor is not None
    (at_least,) = [Version(each.version) for each in allowed()[name].specifier if each.operator == ">="]
    assert at_least >= floor


def test_everything_that_is_asked_for_is_pinned() -> None:
    assert {name.lower() for name in allowed()} <= set(pinned())
