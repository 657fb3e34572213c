#!/usr/bin/env python3
"""Feed every reader and parser with bytes that grow towards code they have not reached yet, and count what breaks.

    scripts/fuzz.py --seconds 60                # all targets in turn
    scripts/fuzz.py packed filter --seconds 300

It needs atheris, which stands beside the others in no environment of ours because it is built for few Pythons:
`.venv/bin/pip install atheris` (Linux; from 3.11). Each run appends one line per target to
docs/benchmarks/hostile.jsonl. An input that broke something is written to the folder of --findings.
"""

import argparse
import hashlib
import json
import logging
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from measuring import ROOT, keep_line

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "hostile")]

_FEWEST_MS = 50  # below this, being the slowest says nothing
_MAX_BYTES = 65_536
_HANG_SECONDS = 20
_MEMORY_MB = 2_048


class Watch:
    """Runs a target, goes on after what breaks, and keeps what was the worst so far in a file."""

    def __init__(self, run: Callable[[bytes], None], room: Path) -> None:
        self._run = run
        self._room = room
        self._slowest = 0.0
        self._broken: dict[str, str] = {}

    def __call__(self, data: bytes) -> None:
        """Give the target these bytes."""
        started = time.thread_time()
        try:
            self._run(data)
        except Exception as error:
            self._note(error, data)
        seconds = time.thread_time() - started
        if seconds > max(self._slowest, _FEWEST_MS / 1_000):
            self._slowest = seconds
            (self._room / "slowest").write_text(str(seconds))
            (self._room / "slowest-input").write_bytes(data)

    def _note(self, error: Exception, data: bytes) -> None:
        place = traceback.extract_tb(error.__traceback__)[-1]
        told = f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno}: {str(error)[:100]!r}"
        known = told.partition(": ")[0]
        if known not in self._broken:
            self._broken[known] = told
            (self._room / f"broken-{hashlib.sha256(data).hexdigest()[:12]}").write_bytes(data)
            (self._room / "broken").write_text(json.dumps(sorted(self._broken.values())))


def _fuzz(name: str, room: Path, rest: list[str]) -> None:
    """Fuzz one target in this process, which ends with it."""
    import atheris

    logging.disable()
    with atheris.instrument_imports(include=["semsearch"], enable_loader_override=False):
        from targets import TARGETS
    watch = Watch(TARGETS[name].run, room)
    atheris.Setup([sys.argv[0], *rest], watch)
    atheris.Fuzz()


def _batch(name: str, seeds: Sequence[bytes], seconds: int, seed: int, findings: Path) -> dict[str, Any]:
    """Fuzz one target in a process of its own and return what it came to."""
    with tempfile.TemporaryDirectory(prefix="semsearch-fuzz-") as path:
        room = Path(path)
        corpus = room / "corpus"
        corpus.mkdir()
        for number, data in enumerate(seeds):
            (corpus / str(number)).write_bytes(data)
        limits = [f"-max_total_time={seconds}", f"-max_len={_MAX_BYTES}", f"-timeout={_HANG_SECONDS}"]
        limits += [
            f"-rss_limit_mb={_MEMORY_MB}",
            f"-seed={seed}",
            f"-artifact_prefix={room}/broken-",
            "-print_final_stats=1",
        ]
        command = [sys.executable, __file__, "--in-room", str(room), name, *limits, str(corpus)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        told = dict(re.findall(r"^stat::(\w+):\s+(\d+)", done.stderr, re.MULTILINE))
        broken = json.loads((room / "broken").read_text()) if (room / "broken").exists() else []
        if not told:
            broken.append(f"the process ended with {done.returncode}: {done.stderr[-300:]}")
        slowest = float((room / "slowest").read_text()) if (room / "slowest").exists() else 0.0
        coverage = re.findall(r"cov: (\d+)", done.stderr)
        for input_file in [*room.glob("broken-*"), *room.glob("slowest-input")]:
            findings.mkdir(parents=True, exist_ok=True)
            (findings / f"{name.replace(' ', '-')}-{input_file.name}").write_bytes(input_file.read_bytes())
        return {
            "trials": int(told.get("number_of_executed_units", 0)),
            "failures": len(broken),
            "examples": broken,
            "edges": int(coverage[-1]) if coverage else None,
            "slowest_ms": round(1_000 * slowest) if slowest else f"under {_FEWEST_MS}",
            "peak_memory_mb": int(told.get("peak_rss_mb", 0)),
        }


def main() -> None:
    """Fuzz the targets in turn."""
    if sys.argv[1:2] == ["--in-room"]:
        _fuzz(sys.argv[3], Path(sys.argv[2]), sys.argv[4:])
        return
    from targets import TARGETS  # not above: the process that fuzzes imports it with its branches counted

    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("targets", nargs="*", help=f"by default all: {', '.join(TARGETS)}")
    arguments.add_argument("--seconds", type=int, default=60, help="for each target")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument(
        "--findings", type=Path, default=Path("fuzz-findings"), help="where inputs that broke something go"
    )
    arguments.add_argument("--show", action="store_true", help="show the results and do not keep them")
    options = arguments.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        arguments.error(f"there is no target {min(unknown)!r}; there are {', '.join(TARGETS)}")
    try:
        import atheris  # noqa: F401
    except ImportError:
        sys.exit("atheris is not installed; on Linux: .venv/bin/pip install atheris")
    for name in options.targets or TARGETS:
        started = time.monotonic()
        result = _batch(name, TARGETS[name].seeds, options.seconds, options.seed, options.findings)
        result |= {"seconds": round(time.monotonic() - started, 1)}
        keep_line("hostile", {"what": "fuzzing", "case": name, "seed": options.seed} | result, show=options.show)


if __name__ == "__main__":
    main()
