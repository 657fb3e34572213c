#!/usr/bin/env python3
"""Say to the service and the readers whatever could be said, thousands of times, and count what went wrong.

    scripts/hostile.py model --trials 2000 --seed 1    # steps of an index beside a plain one that it is compared with
    scripts/hostile.py requests --trials 0             # what only a socket can send, all of it to every route
    scripts/hostile.py content --seed 0                # papers that were written to do harm; other seeds make new ones
    scripts/hostile.py schema --trials 300 --seed 1    # schemathesis, so many requests to each route (st on the PATH)

Each run appends a line to docs/benchmarks/hostile.jsonl. `scripts/hostile.py report` sums them up and writes them into
docs/reliability.md. What only a fuzzer finds, `scripts/fuzz.py` looks for.
"""

import argparse
import json
import logging
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from measuring import RESULTS, ROOT, counting, keep_line

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "hostile")]

import content as contents  # noqa: E402
import corpus  # noqa: E402
import hypothesis  # noqa: E402
import living  # noqa: E402
import pytest  # noqa: E402
from conftest import make_paper  # noqa: E402
from fastapi import FastAPI  # noqa: E402
from hypothesis import HealthCheck, Phase, settings  # noqa: E402
from hypothesis.stateful import run_state_machine_as_test  # noqa: E402
from storage import memory_folder  # noqa: E402
from test_service import publish, running  # noqa: E402
from test_service_changes import ADMIN, TOKEN  # noqa: E402

from semsearch.service import Admin, html, strict  # noqa: E402

_KEPT_EXAMPLES = 40
_STEPS_PER_MACHINE = 50
_MACHINES_PER_SEED = 5


@dataclass
class Result:
    """What a batch came to: trials, how many of them must never be so, and what they were about."""

    trials: int = 0
    failures: int = 0
    examples: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def fail(self, what: str) -> None:
        """Count a failure, and keep it as an example."""
        self.failures += 1
        if len(self.examples) < _KEPT_EXAMPLES:
            self.examples.append(what)


def model(trials: int, seed: int, control: str) -> Result:
    """Run machines of 50 steps with one seed after the other, until so many steps were made."""
    result = Result()
    living.STEPS.clear()
    living.CONTROL = control
    chosen = settings(
        max_examples=_MACHINES_PER_SEED,
        stateful_step_count=_STEPS_PER_MACHINE,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    while living.STEPS.total() < trials:
        try:
            run_state_machine_as_test(hypothesis.seed(seed)(living.Living), settings=chosen)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            notes = "\n".join(getattr(error, "__notes__", []))
            result.fail(f"seed {seed}: {type(error).__name__}: {str(error)[:300]} {notes[:1_500]}")
        seed += 1
    result.trials = living.STEPS.total()
    result.counts = living.STEPS.copy()
    return result


def requests(trials: int, seed: int, control: str) -> Result:
    """Send so many requests of the corpus, or all of it for 0, in an order that the seed decides."""
    chosen = [case for route in corpus.ROUTES for case in corpus.cases(route)]
    random.Random(seed).shuffle(chosen)
    result = Result()
    with pytest.MonkeyPatch.context() as patch:
        if control == "JSON as Python reads it":
            patch.setattr(strict, "parse_json", json.loads)
        for case, wrong in corpus.asked(chosen[: trials or None], counting("requests")):
            result.trials += 1
            result.counts[case.route.name] += 1
            if wrong:
                result.fail(f"{case.route.name}: {case.name}: {wrong}")
    return result


def content(trials: int, seed: int, control: str) -> Result:
    """Index papers of hostile text, all that were written down with seed 0, else so many made of pieces; show them."""
    dice = random.Random(seed)
    texts = contents.TEXTS if seed == 0 else contents.composed(dice, trials)
    result = Result()
    with pytest.MonkeyPatch.context() as patch:
        if control == "nothing escaped":
            patch.setattr(html, "_environment", html._environment.overlay(autoescape=False))
        for what, wrong in contents.tried(dice, texts, counting("papers")):
            result.trials += 1
            if wrong:
                result.fail(f"{what}: {wrong}")
    return result


_CHECKS = """
[checks]
positive_data_acceptance.enabled = false
unsupported_method.enabled = false
allow_header_conformance.enabled = false
negative_data_rejection.expected-statuses = [400, 401, 404, 405, 408, 410, 413, 414, 415, 421, 422, 431]
"""
"""Which objections of schemathesis are none: no JSON Schema tells a blank text from another; a question may be too long
for an address (414); and `batch` may be a paper's id, so that its address takes GET and DELETE too."""
_DOORS: dict[str, tuple[Admin | None, list[str]]] = {
    "with the token": (ADMIN, ["-H", f"Authorization: Bearer {TOKEN}"]),
    "without it": (ADMIN, []),
    "no admin": (None, []),
}


def schema(trials: int, seed: int, control: str) -> Result:
    """Let schemathesis send so many requests to each route as /openapi.json describes it, and against that."""
    program = shutil.which("st")
    if program is None:
        sys.exit("schemathesis is not on the PATH; put it into an environment of its own: pip install schemathesis")
    result = Result()
    for door, (admin, options) in _DOORS.items():
        with memory_folder() as room, pytest.MonkeyPatch.context() as patch:
            if control == "refusals not described":
                patch.setattr(FastAPI, "openapi", _without_refusals(FastAPI.openapi))
            publish(room / "index", [make_paper(number) for number in range(1, 21)])
            (room / "schemathesis.toml").write_text(_CHECKS)
            with running(room / "index", admin=admin) as (host, port):
                command = [program, "--config-file", "schemathesis.toml", "run", f"http://{host}:{port}/openapi.json"]
                command += ["--max-examples", str(trials), "--seed", str(seed), "--no-shrink", "--continue-on-failure"]
                command += ["--report", "json", "--report-json-path", "report.json", *options]
                done = subprocess.run(command, cwd=room, capture_output=True, text=True, check=False)
            report = json.loads((room / "report.json").read_text())
        cases = report["test_cases"]
        result.trials += cases["generated"]
        result.counts[door] += cases["generated"]
        for failure in [*report["failures"], *report["errors"]]:
            result.fail(f"{door}: {json.dumps(failure)[:300]}")
        if not report["complete"] or report["operations"]["tested"] != report["operations"]["total"]:
            result.fail(f"{door}: it did not come to its end: {done.stdout[-300:]}")
    return result


def _without_refusals(described: Callable[[FastAPI], dict[str, Any]]) -> Callable[[FastAPI], dict[str, Any]]:
    def told(app: FastAPI) -> dict[str, Any]:
        schema = described(app)
        for operations in schema["paths"].values():
            for operation in operations.values():
                operation["responses"] = {"200": operation["responses"]["200"]}
        return schema

    return told


BATCHES: dict[str, Callable[[int, int, str], Result]] = {
    "model": model,
    "requests": requests,
    "content": content,
    "schema": schema,
}


_WHAT = {
    "model": "steps of an index, compared with a plain one",
    "requests": "requests that only a socket can send",
    "schema": "requests of schemathesis",
    "content": "papers that were written to do harm",
    "fuzzing": "inputs of a fuzzer",
}
_BEGIN, _END = "<!-- figures: scripts/hostile.py report -->", "<!-- end of hostile figures -->"
PAGE = ROOT / "docs" / "reliability.md"


def tables(kept: Iterable[dict[str, Any]]) -> str:
    """Return what all batches came to, in the words of the page; of fuzzing, each target by itself too."""
    by_kind: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for batch in kept:
        by_kind.setdefault((batch["what"], batch.get("control", "none")), []).append(batch)
    lines = ["| what | tried | went wrong | in less than (95 %) | seeds |", "|---|---|---|---|---|"]
    controls = ["| what | control | tried | noticed |", "|---|---|---|---|"]
    for (what, control), batches in by_kind.items():
        trials, failures = (sum(batch[name] for batch in batches) for name in ("trials", "failures"))
        if control == "none":
            seeds = ", ".join(map(str, sorted({batch["seed"] for batch in batches})))
            lines.append(f"| {_WHAT[what]} | {trials:,} | {failures:,} | {_bound(failures, trials)} | {seeds} |")
        else:
            controls.append(f"| {_WHAT[what]} | {control} | {trials:,} | {failures:,} |")
    targets = ["| target | inputs | uncaught | slowest, ms | peak memory, MB |", "|---|---|---|---|---|"]
    for name, batches in _by_target(by_kind.get(("fuzzing", "none"), [])).items():
        trials, failures = (sum(batch[key] for batch in batches) for key in ("trials", "failures"))
        slowest = max((batch["slowest_ms"] for batch in batches), key=_as_number)
        memory = max(batch["peak_memory_mb"] for batch in batches)
        targets.append(f"| {name} | {trials:,} | {failures} | {slowest} | {memory} |")
    return "\n".join([*lines, "", *controls, "", *targets, ""])


def _bound(failures: int, trials: int) -> str:
    return "" if failures or not trials else f"{300 / trials:.2g}%"


def _as_number(slowest: float | str) -> float:
    return 0.0 if isinstance(slowest, str) else slowest


def _by_target(batches: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for batch in batches:
        found.setdefault(batch["case"], []).append(batch)
    return found


def with_figures(page: str, kept: Iterable[dict[str, Any]]) -> str:
    """Return the page with the tables of these batches in their place."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    assert begin and end, "the page has a place for them"
    return f"{before}{begin}\n{tables(kept)}{end}{after}"


def main() -> None:
    """Run one batch and keep its result."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", choices=[*BATCHES, "report"])
    arguments.add_argument("--trials", type=int, default=1_000, help="how many at least")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--control", default="none", help="what is taken away, so that failures must be seen")
    arguments.add_argument("--show", action="store_true", help="show the result and do not keep it")
    options = arguments.parse_args()
    if options.what == "report":
        kept = [json.loads(line) for line in (RESULTS / "hostile.jsonl").read_text(encoding="utf-8").splitlines()]
        PAGE.write_text(with_figures(PAGE.read_text(encoding="utf-8"), kept), encoding="utf-8")
        return
    logging.disable()
    started = time.monotonic()
    result = BATCHES[options.what](options.trials, options.seed, options.control)
    told: dict[str, Any] = {"what": options.what, "case": "all", "control": options.control, "seed": options.seed}
    told |= {"trials": result.trials, "failures": result.failures, "examples": result.examples}
    told |= {"counts": dict(sorted(result.counts.items())), "seconds": round(time.monotonic() - started, 1)}
    keep_line("hostile", told, show=options.show)


if __name__ == "__main__":
    main()
