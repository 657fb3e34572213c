"""What did a matrix of faults come to, and what does that say of all the faults that were not tried?"""

import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

_KEPT_EXAMPLES = 12


@dataclass
class Tally:
    """The trials of one batch: their outcomes, and of these the ones that must never be.

    `sums` are added up over batches (papers acknowledged), of `largest` the largest is kept (seconds to fall back).
    """

    matrix: str
    control: str
    seed: int
    must_be_zero: Sequence[str]
    trials: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)
    largest: dict[str, float] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def count(self, outcome: str, what: str) -> None:
        """Count one trial; what failed is kept as an example."""
        self.trials += 1
        self.note(outcome, what)

    def note(self, outcome: str, what: str) -> None:
        """Count something that was seen in a trial that is counted already."""
        self.outcomes[outcome] += 1
        if outcome in self.must_be_zero and len(self.examples) < _KEPT_EXAMPLES:
            self.examples.append(f"{outcome}: {what}")

    def at_most(self, name: str, value: float) -> None:
        """Keep the largest of these values."""
        self.largest[name] = round(max(value, self.largest.get(name, 0.0)), 3)

    @property
    def failures(self) -> dict[str, int]:
        """How often what must never be was."""
        return {name: self.outcomes[name] for name in self.must_be_zero}

    def to_json(self) -> dict[str, Any]:
        """Return the batch as it is kept."""
        return {
            "matrix": self.matrix,
            "control": self.control,
            "seed": self.seed,
            "trials": self.trials,
            "failures": self.failures,
            "outcomes": {name: count for name, count in sorted(self.outcomes.items()) if name not in self.must_be_zero},
            "sums": dict(sorted(self.sums.items())),
            "largest": dict(sorted(self.largest.items())),
            "examples": self.examples,
            "seconds": round(time.monotonic() - self.started, 1),
        }


def bound(failures: int, trials: int) -> float | None:
    """Return below which share of failures the truth lies, with 95 % certainty, if none was seen: 3/N.

    The rule of three (Hanley and Lippman-Hand 1983); None where failures were seen, or nothing was tried.
    """
    return 3 / trials if trials and not failures else None


def summed(batches: Iterable[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the batches of each matrix and control as one, in the order in which they first come."""
    sums: dict[tuple[str, str], dict[str, Any]] = {}
    for batch in batches:
        whole = sums.setdefault(
            (batch["matrix"], batch["control"]),
            {
                "trials": 0,
                "seconds": 0.0,
                "seeds": [],
                "commits": [],
                "machines": [],
                "failures": Counter(),
                "outcomes": Counter(),
                "sums": Counter(),
                "largest": {},
            },
        )
        whole["trials"] += batch["trials"]
        whole["seconds"] += batch["seconds"]
        for name, value in (("seeds", batch["seed"]), ("commits", batch["commit"]), ("machines", batch["machine"])):
            if value not in whole[name]:
                whole[name].append(value)
        for name in ("failures", "outcomes", "sums"):
            whole[name].update(batch[name])
        for name, value in batch["largest"].items():
            whole["largest"][name] = max(value, whole["largest"].get(name, 0.0))
    return sums


# As tables


def tables(batches: Iterable[dict[str, Any]]) -> str:
    """Return what all batches came to, as tables in Markdown."""
    sums = summed(batches)
    lines = [
        "| matrix | trials | what must never be | in less than (95 %) | acknowledged papers | seeds | commits |",
        "|---|---|---|---|---|---|---|",
    ]
    for (matrix, control), whole in sums.items():
        if control == "none":
            seen = sum(whole["failures"].values())
            limit = bound(seen, whole["trials"])
            cells = [
                matrix,
                f"{whole['trials']:,}",
                f"{seen} of {', '.join(whole['failures'])}",
                f"{limit:.2%}" if limit else "",
                f"{whole['sums']['acknowledged']:,}" if whole["sums"]["acknowledged"] else "",
                _numbers(whole["seeds"]),
                ", ".join(whole["commits"]),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| matrix | control | trials | reported |", "|---|---|---|---|"]
    for (matrix, control), whole in sums.items():
        if control != "none":
            seen = ", ".join(f"{count:,} {name}" for name, count in whole["failures"].items() if count)
            lines.append(f"| {matrix} | {control} | {whole['trials']:,} | {seen or 'nothing'} |")
    lines += ["", "| matrix | what became of the trials | at most |", "|---|---|---|"]
    for (matrix, control), whole in sums.items():
        if control == "none":
            became = ", ".join(f"{count:,} {name}" for name, count in sorted(whole["outcomes"].items()))
            most = ", ".join(f"{value:g} {name}" for name, value in sorted(whole["largest"].items()))
            lines.append(f"| {matrix} | {became} | {most} |")
    machines = {
        json.dumps(machine, sort_keys=True): machine for whole in sums.values() for machine in whole["machines"]
    }
    hours = sum(whole["seconds"] for whole in sums.values()) / 3_600
    lines += ["", f"Made in {hours:.1f} hours on " + "; ".join(map(_machine, machines.values())) + "."]
    return "\n".join(lines) + "\n"


def _numbers(numbers: Sequence[int]) -> str:
    """Return numbers with runs of them shortened.

    >>> _numbers([1, 2, 3, 7])
    '1-3, 7'
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _machine(machine: dict[str, Any]) -> str:
    gib = machine["memory_bytes"] / (1 << 30)
    return (
        f"{machine['cores']} cores ({machine['cpu']}), {gib:.0f} GiB, {machine['system']}, Python {machine['python']}"
    )
