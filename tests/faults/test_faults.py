"""A little of every matrix of faults; `scripts/faults.py` does the same thousands of times.

Each matrix runs in a process of its own, because its trials are forked from it. Each has a null control, where nothing
is done and nothing may be found, and a positive one, where a safeguard is taken away and that must be found.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import faults
import pytest
from goals import goals
from tallies import bound, summed, tables

ROOT = Path(__file__).parents[2]


def batch(matrix: str, trials: int, control: str = "none") -> dict[str, Any]:
    """Return what a small batch came to."""
    command = [sys.executable, str(ROOT / "scripts" / "faults.py"), matrix, "--show"]
    command += ["--trials", str(trials), "--control", control]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    if done.stderr.startswith("cannot be done here"):
        pytest.skip(f"{matrix} {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


TRIALS = {
    "generations": 25,
    "library": 8,
    "changed-while-served": 3,
    "kills": 2,
    "last-calls": 8,
    "failing-calls": 6,
    "steps": 8,
    "power-cuts": 15,
    "out-of-memory": 10,
    "poison": 28,
    "two-writers": 2,
    "clock": 1,
}
CONTROLS = {
    "generations": ("digests off", 12),
    "library": ("row digests off", 6),
    "changed-while-served": ("scrub off", 1),
    "kills": ("acknowledged early", 3),
    "last-calls": ("acknowledged early", 6),
    "failing-calls": ("fsync ignored", 24),
    "steps": ("two renames", 4),
    "power-cuts": ("fsync off", 4),
    "out-of-memory": ("taken for damage", 4),
    "poison": ("nothing checked", 12),
    "two-writers": ("locks off", 1),
    "clock": ("live unguarded", 2),
}


@pytest.mark.parametrize("matrix", TRIALS)
def test_no_fault_does_what_must_never_be(matrix: str) -> None:
    found = batch(matrix, TRIALS[matrix])
    assert found["trials"] == TRIALS[matrix]
    assert not any(found["failures"].values()), found


@pytest.mark.parametrize("matrix", TRIALS)
def test_without_a_fault_nothing_is_found(matrix: str) -> None:
    found = batch(matrix, 1, "null")
    assert not any(found["failures"].values()), found
    assert found["outcomes"]["whole"] == found["trials"] == 1


@pytest.mark.parametrize("matrix", TRIALS)
def test_without_a_safeguard_what_must_never_be_is_found(matrix: str) -> None:
    control, trials = CONTROLS[matrix]
    found = batch(matrix, trials, control)
    assert any(found["failures"].values()), found


# What the figures say


def test_batches_are_summed_by_matrix_and_control() -> None:
    def one(trials: int, seed: int, **changes: Any) -> dict[str, Any]:
        return {
            "matrix": "kills",
            "control": "none",
            "seed": seed,
            "trials": trials,
            "failures": {"lost": 0},
            "outcomes": {"whole": trials},
            "sums": {"acknowledged": 10 * trials},
            "largest": {"seconds": trials / 10},
            "seconds": 1.5,
            "commit": "abc",
            "machine": {"cores": 2},
        } | changes

    sums = summed([one(5, 1), one(7, 2), one(3, 1, control="null"), one(1, 2, failures={"lost": 2}, commit="def")])
    assert list(sums) == [("kills", "none"), ("kills", "null")]
    whole = sums["kills", "none"]
    assert (whole["trials"], whole["seconds"], whole["failures"]["lost"]) == (13, 4.5, 2)
    assert (whole["seeds"], whole["commits"], whole["machines"]) == ([1, 2], ["abc", "def"], [{"cores": 2}])
    assert (whole["outcomes"]["whole"], whole["sums"]["acknowledged"]) == (13, 130)
    assert whole["largest"] == {"seconds": 0.7}


def test_the_rule_of_three() -> None:
    assert bound(0, 3_000) == 0.001
    assert bound(0, 0) is bound(1, 100) is None


def test_the_page_tells_what_the_batches_came_to() -> None:
    page = faults.PAGE.read_text(encoding="utf-8")
    assert faults.with_figures(page, faults.batches()) == page, "run scripts/faults.py report"


def test_tables_by_hand() -> None:
    machine = {"cores": 2, "cpu": "Z80", "memory_bytes": 1 << 31, "system": "CP/M", "python": "3.11"}
    common = {"seconds": 1_800, "commit": "abc", "machine": machine, "largest": {"seconds to fall back": 0.25}}
    one = common | {
        "matrix": "kills",
        "trials": 1_500,
        "failures": {"lost": 0, "torn": 0},
        "outcomes": {"whole": 1_500},
    }
    kept = [
        one | {"control": "none", "seed": 1, "sums": {"acknowledged": 9_000}},
        one | {"control": "none", "seed": 2, "sums": {"acknowledged": 1_000}},
        one | {"control": "early", "seed": 0, "sums": {}, "trials": 20, "failures": {"lost": 7, "torn": 0}},
    ]
    assert tables(kept).splitlines() == [
        "| matrix | trials | what must never be | in less than (95 %) | acknowledged papers | seeds | commits |",
        "|---|---|---|---|---|---|---|",
        "| kills | 3,000 | 0 of lost, torn | 0.10% | 10,000 | 1-2 | abc |",
        "",
        "| matrix | control | trials | reported |",
        "|---|---|---|---|",
        "| kills | early | 20 | 7 lost |",
        "",
        "| matrix | what became of the trials | at most |",
        "|---|---|---|",
        "| kills | 3,000 whole | 0.25 seconds to fall back |",
        "",
        "Made in 1.5 hours on 2 cores (Z80), 2 GiB, CP/M, Python 3.11.",
    ]


def test_goals_by_hand(tmp_path: Path) -> None:
    doors = {
        "restarts": {"rounds": 2, "requests": {"200": 99, "dropped": 1}, "longest_seconds_to_exit": 2.5},
        "slow_clients": {"connections": 30, "alive_a_second_after_their_deadline": 0},
    }
    swaps = {
        "swaps_seen_by_clients": 10,
        "requests": 3_000,
        "failed": 0,
        "answers_of_another_generation_than_named": 1,
        "answers_older_than_one_before": 2,
        "p99_ratio": 1.25,
    }
    for name, measured in (("doors", doors), ("swaps", swaps)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"measured": measured}))
    one = {"control": "none", "seed": 1, "seconds": 1, "commit": "abc", "machine": {}, "outcomes": {}, "largest": {}}
    kept = [
        one | {"matrix": "power cuts", "trials": 100, "failures": {"lost": 0}, "sums": {"acknowledged": 5_000}},
        one | {"matrix": "real power cuts", "trials": 50, "failures": {"lost": 0}, "sums": {"acknowledged": 1_000}},
    ]
    lines = goals(kept, tmp_path).splitlines()
    assert "| power cut | 500 cuts | 150 trials, 6,000 acknowledged papers | 0 | 2.000% |" in lines
    assert "| memory runs out | 200 trials | 0 trials | 0 |  |" in lines
    assert "| SIGTERM under load | 100 restarts | 2 restarts, 100 requests, at most 2.5 s | 1 |  |" in lines
    assert "| slow clients | 2,000 at once | 30 at once | 0 | 10.000% |" in lines
    (found,) = (line for line in lines if line.startswith("| swaps"))
    assert "| 10 swaps, 3,000 requests, p99 during a swap 1.25 times that otherwise | 3 |  |" in found
    assert "| soak, mixed traffic | 24 h without growth | not yet |  |  |" in lines
