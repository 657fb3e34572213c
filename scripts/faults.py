#!/usr/bin/env python3
"""Do to an index whatever could happen to it, thousands of times, and count what it did not stand.

    scripts/faults.py generations --trials 500 --seed 1

Each run is a batch: it appends one line to docs/benchmarks/faults.jsonl. `scripts/faults.py report` sums the batches of
each matrix and writes them into docs/reliability.md.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from measuring import RESULTS, ROOT, commit, machine

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "faults")]

import calls  # noqa: E402
import damage  # noqa: E402
import kills  # noqa: E402
import memory  # noqa: E402
import poison  # noqa: E402
import powercut  # noqa: E402
import rivals  # noqa: E402
import scrubbing  # noqa: E402
import stages  # noqa: E402
import tracing  # noqa: E402
from goals import goals  # noqa: E402
from tallies import Tally, tables  # noqa: E402

NEEDS: dict[str, Callable[[], str | None]] = {
    "last-calls": tracing.why_not,
    "steps": tracing.why_not,
    "failing-calls": tracing.why_not,
    "full-disk": powercut.why_not,
    "power-cuts": tracing.why_not,
    "real-power-cuts": powercut.why_not,
}
"""What tells why a matrix cannot be done on a machine."""
BATCHES = RESULTS / "faults.jsonl"
PAGE = ROOT / "docs" / "reliability.md"
_FIGURES = "<!-- figures: scripts/faults.py report -->", "<!-- end of figures -->"
_GOALS = "<!-- goals: scripts/faults.py report -->", "<!-- end of goals -->"
MATRICES: dict[str, Callable[[Path, int, int, str], Tally]] = {
    "generations": damage.damaged_generations,
    "library": damage.damaged_libraries,
    "changed-while-served": scrubbing.changed_while_served,
    "kills": kills.run,
    "last-calls": calls.killed_at_every_call,
    "failing-calls": calls.every_call_fails,
    "full-disk": calls.full_disk,
    "out-of-memory": memory.out_of_memory,
    "steps": stages.killed,
    "poison": poison.run,
    "two-writers": rivals.two_writers,
    "clock": rivals.jumping_clock,
    "power-cuts": powercut.modelled,
    "real-power-cuts": powercut.real,
}


def batches() -> list[dict[str, Any]]:
    """Return all batches that were kept."""
    return [json.loads(line) for line in BATCHES.read_text(encoding="utf-8").splitlines()]


def with_figures(page: str, kept: list[dict[str, Any]]) -> str:
    """Return the page with the tables of these batches in their place, and what they and other results come to."""
    return _with_between(_with_between(page, _GOALS, goals(kept, RESULTS)), _FIGURES, tables(kept))


def _with_between(page: str, marks: tuple[str, str], text: str) -> str:
    before, begin, rest = page.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    assert begin and end, "the page has a place for it"
    return f"{before}{begin}\n{text}{end}{after}"


def main() -> None:
    """Run one batch and keep its result."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("matrix", choices=[*MATRICES, "report"])
    arguments.add_argument("--trials", type=int, default=500)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--control", default="none", help="null: no fault; or the name of what is taken away")
    arguments.add_argument("--room", type=Path, help="a folder to work in; by default one in memory")
    arguments.add_argument("--show", action="store_true", help="show the result and do not keep it")
    options = arguments.parse_args()
    if options.matrix == "report":
        PAGE.write_text(with_figures(PAGE.read_text(encoding="utf-8"), batches()), encoding="utf-8")
        return
    if why := NEEDS.get(options.matrix, lambda: None)():
        sys.exit(f"cannot be done here: {why}")
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    logging.getLogger("semsearch").addHandler(logging.NullHandler())  # each trial hears for itself
    with tempfile.TemporaryDirectory(dir=options.room or memory, prefix="semsearch-faults-") as room:
        tempfile.tempdir = room
        tally = MATRICES[options.matrix](Path(room), options.trials, options.seed, options.control)
    result = tally.to_json() | {"commit": commit(), "machine": machine(), "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    line = json.dumps(result, ensure_ascii=False)
    print(line)
    if not options.show:
        with BATCHES.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
