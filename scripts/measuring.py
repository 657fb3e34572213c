"""What every measurement here shares: where and on what it was made, and where its result is kept."""

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from semsearch.generation import Generation

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "benchmarks"
_SECONDS_BETWEEN_LINES = 10


@dataclass
class Stopwatch:
    """Seconds of wall-clock time between entering and leaving."""

    seconds: float = 0.0


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Time what happens inside."""
    watch, started = Stopwatch(), time.perf_counter()
    yield watch
    watch.seconds = time.perf_counter() - started


def counting(what: str) -> Callable[[int, int], None]:
    """Return what tells on stderr, every ten seconds and at the end, how far it is and how long the rest will take."""
    started = told = time.perf_counter()

    def on_asked(done: int, of: int) -> None:
        nonlocal told
        now = time.perf_counter()
        if now - told >= _SECONDS_BETWEEN_LINES or done == of:
            told, rate = now, done / max(now - started, 1e-9)
            left = timedelta(seconds=round((of - done) / rate))
            print(f"{what}: {done:,} of {of:,}, {rate:,.1f} a second, {left} left", file=sys.stderr)

    return on_asked


def children(pid: int) -> set[int]:
    """Return the processes that this one started and that are still there (Linux)."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return {int(child) for task in tasks for child in task.read_text().split()}


def processor_seconds(pid: int) -> float:
    """Return what a process and those that it started have had of the processor (Linux), to a hundredth of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])  # in user mode and in the kernel
    return ticks / os.sysconf("SC_CLK_TCK") + sum(processor_seconds(child) for child in children(pid))


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes, mapped files among it (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1_024
    raise OSError("the system does not tell how much memory a process holds")


def index_facts(generation: "Generation") -> dict[str, Any]:
    """Return which papers were searched (the SHA-256 of their ids, sorted, a line each), by which model and recipes."""
    manifest = generation.manifest
    ids = sorted(generation.ids_at(np.flatnonzero(generation.live)))
    return {
        "papers": generation.papers,
        "ids_sha256": hashlib.sha256("".join(f"{name}\n" for name in ids).encode()).hexdigest(),
        "model": asdict(manifest.encoder),
        "text_recipe": manifest.text_recipe,
        "index_recipe": manifest.index_recipe,
    }


def machine() -> dict[str, Any]:
    """Return what this machine is."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }


def commit() -> str:
    """Return the commit that is measured, marked when the files differ from it."""
    git = ["git", "-C", str(ROOT)]
    name = subprocess.run(
        [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    changed = subprocess.run(
        [*git, "status", "--porcelain", "semsearch"], capture_output=True, text=True, check=True
    ).stdout
    return name + ("+changes" if changed else "")


def corpus(path: Path) -> dict[str, Any]:
    """Return which file was measured with."""
    with path.open("rb") as file:
        return {
            "name": path.name,
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def keep(name: str, result: dict[str, Any], sources: Sequence[Path]) -> None:
    """Write the result to docs/benchmarks/<name>.json and show it."""
    document = {
        "measured": result,
        "command": " ".join(["scripts/" + Path(sys.argv[0]).name, *(Path(word).name for word in sys.argv[1:])]),
        "commit": commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "corpus": [corpus(source) for source in sources],
        "machine": machine(),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
    print(text)


def keep_line(name: str, result: dict[str, Any], *, show: bool = False) -> None:
    """Append the result of one batch to docs/benchmarks/<name>.jsonl, unless it is only to be shown, and show it."""
    line = json.dumps(
        result | {"commit": commit(), "machine": machine(), "date": f"{datetime.now(UTC):%Y-%m-%d}"}, ensure_ascii=False
    )
    print(line, flush=True)
    if not show:
        with (RESULTS / f"{name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def run_semsearch(*arguments: str) -> tuple[dict[str, Any], float, int]:
    """Run a semsearch command with --json; return its answer, seconds, and the children's peak memory in bytes."""
    with stopwatch() as watch:
        done = subprocess.run(
            [sys.executable, "-m", "semsearch.cli", *arguments, "--json"], stdout=subprocess.PIPE, check=True
        )
    peak_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer, watch.seconds, peak_kib * 1024
