"""How far is each of the goals?

The page's first table: what was tried so far, of each kind, and how much shall be tried over time. All of it comes from
the batches of faults and from the results of the measurements beside them.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tallies import bound, summed

_MEGABYTE = 1e6


def goals(batches: Iterable[dict[str, Any]], results: Path) -> str:
    """Return the table in Markdown."""
    sums = summed(batches)
    rows = [
        _tried(sums, "kill -9 at random points", "3,200 kills", ["kills"]),
        _tried(sums, "kill -9 at each call of a publish and an addition", "every call", ["last calls"]),
        _tried(sums, "power cut", "500 cuts", ["power cuts", "real power cuts"]),
        _tried(sums, "damage of any file before it is opened", "20,000 trials", ["generations", "library"]),
        _tried(sums, "change of a file while it is served", "200 trials", ["changed while served"]),
        _tried(sums, "every call fails, the disk is full", "every call, every page", ["failing calls", "full disk"]),
        _tried(sums, "memory runs out", "200 trials", ["out of memory"]),
        _tried(sums, "two writers, a clock that jumps", "1,000 trials", ["two writers", "clock"]),
        _swaps(_result(results / "swaps.json")),
        *_doors(_result(results / "doors.json")),
        _soak(_result(results / "soak.json")),
    ]
    head = "| what | the goal, over time | so far | failures | in less than (95 %) |\n|---|---|---|---|---|\n"
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _tried(sums: dict[tuple[str, str], dict[str, Any]], what: str, goal: str, matrices: Sequence[str]) -> list[str]:
    wholes = [sums[matrix, "none"] for matrix in matrices if (matrix, "none") in sums]
    trials = sum(whole["trials"] for whole in wholes)
    failures = sum(sum(whole["failures"].values()) for whole in wholes)
    acknowledged = sum(whole["sums"]["acknowledged"] for whole in wholes)
    tried = f"{trials:,} trials" + (f", {acknowledged:,} acknowledged papers" if acknowledged else "")
    if points := max((whole["largest"].get("points", 0) for whole in wholes), default=0):
        tried += f", of {points:,.0f} calls and errors"
    return [what, goal, tried, f"{failures:,}", _bound(failures, trials)]


def _swaps(result: dict[str, Any] | None) -> list[str]:
    what, goal = "swaps under load", "200 swaps, 200,000 requests"
    if result is None:
        return [what, goal, "not yet", "", ""]
    wrong = result["answers_of_another_generation_than_named"] + result["answers_older_than_one_before"]
    failures = result["failed"] + wrong
    tried = (
        f"{result['swaps_seen_by_clients']:,} swaps, {result['requests']:,} requests, "
        f"p99 during a swap {result['p99_ratio']:.2f} times that otherwise"
    )
    return [what, goal, tried, f"{failures:,}", _bound(failures, result["requests"])]


def _doors(result: dict[str, Any] | None) -> Iterable[list[str]]:
    assert result is not None, "it is in the repository"
    restarts, slow = result["restarts"], result["slow_clients"]
    requests, answered = sum(restarts["requests"].values()), restarts["requests"]["200"]
    tried = f"{restarts['rounds']} restarts, {requests:,} requests, at most {restarts['longest_seconds_to_exit']:g} s"
    yield [
        "SIGTERM under load",
        "100 restarts",
        tried,
        f"{requests - answered:,}",
        _bound(requests - answered, requests),
    ]
    alive, count = slow["alive_a_second_after_their_deadline"], slow["connections"]
    yield ["slow clients", "2,000 at once", f"{count:,} at once", f"{alive:,}", _bound(alive, count)]


def _soak(result: dict[str, Any] | None) -> list[str]:
    what, goal = "soak, mixed traffic", "24 h without growth"
    if result is None:
        return [what, goal, "not yet", "", ""]
    growth = result["growth_per_hour"]
    low, slope, high = (growth["anonymous_bytes"][name] / _MEGABYTE for name in ("low", "slope", "high"))
    files = growth["open_files"]
    tried = (
        f"{result['measured_minutes']:g} minutes, {result['requests']:,} requests, {result['reindexes']} reindexes; "
        f"memory {slope:+.1f} MB an hour ({low:+.1f} to {high:+.1f}), "
        f"open files {files['slope']:+.1f} an hour ({files['low']:+.1f} to {files['high']:+.1f})"
    )
    failures = result["unexpected_answers"]
    return [what, goal, tried, f"{failures:,}", _bound(failures, result["requests"])]


def _result(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    measured: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["measured"]
    return measured


def _bound(failures: int, trials: int) -> str:
    limit = bound(failures, trials)
    return f"{limit:.3%}" if limit else ""
