#!/usr/bin/env python3
"""Measure indexing: the first run, a second one with nothing changed, one abstract changed.

scripts/benchmark_indexing.py PAPERS.jsonl.zst ... --index indexes/benchmark
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import keep, run_semsearch, stopwatch

from semsearch.readers import Found, origin_of, read

_PARSE = "import sys; from semsearch.readers import read; print(sum(1 for path in sys.argv[1:] for _ in read(path)))"


def main() -> None:
    """Run the measurements and keep their result."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("papers", type=Path, nargs="+")
    arguments.add_argument(
        "--index", type=Path, required=True, help="where to build; if it is there, only later runs are measured"
    )
    options = arguments.parse_args()
    index = ["--index", str(options.index)]

    if not options.index.exists():
        keep("indexing", first_run(options.papers, index), options.papers)
    keep("reindexing", later_runs(options.papers, index), options.papers)


def first_run(papers: Sequence[Path], index: list[str]) -> dict[str, Any]:
    """Index the papers into a new index."""
    report, seconds, peak = run_semsearch("index", *map(str, papers), *index)
    stats, _, _ = run_semsearch("stats", *index)
    return {
        "papers": report["papers"],
        "encoded": report["encoded"],
        "seconds": round(seconds, 1),
        "abstracts_per_second": round(report["encoded"] / seconds, 2),
        "peak_memory_bytes": peak,
        "longer_than_the_model_reads": report["truncated"],
        "rejected": report["rejected_count"],
        "disk_bytes": stats["bytes"],
    }


def later_runs(papers: Sequence[Path], index: list[str]) -> dict[str, Any]:
    """Index the same papers again, and with one abstract changed; the best of three where seconds are compared."""
    parse_seconds = min(parse(papers) for _ in range(3))
    again = [run_semsearch("index", *map(str, papers), *index) for _ in range(3)]
    again_seconds = min(seconds for _, seconds, _ in again)
    changed, changed_seconds = change_one(papers[0], index)
    verified, verify_seconds, _ = run_semsearch("verify", *index)
    return {
        "nothing_changed": {
            **told(again[-1][0]),
            "seconds": round(again_seconds, 2),
            "seconds_to_parse_the_file": round(parse_seconds, 2),
            "ratio": round(again_seconds / parse_seconds, 3),
        },
        "one_abstract_changed": {**told(changed), "seconds": round(changed_seconds, 2)},
        "verify": {"sound": verified["sound"], "seconds": round(verify_seconds, 2)},
    }


def told(report: dict[str, Any]) -> dict[str, int]:
    """Return what a run says of itself, as far as it matters here."""
    return {key: report[key] for key in ("new", "changed", "unchanged", "encoder_calls", "encoded")}


def parse(papers: Sequence[Path]) -> float:
    """Return the seconds that a new process takes to read all papers and do nothing with them."""
    with stopwatch() as watch:
        subprocess.run([sys.executable, "-c", _PARSE, *map(str, papers)], stdout=subprocess.DEVNULL, check=True)
    return watch.seconds


def change_one(papers: Path, index: list[str]) -> tuple[dict[str, Any], float]:
    """Index the same papers with one abstract changed, under the same origin, and then the original ones again."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "changed.jsonl"
        with copy.open("w", encoding="utf-8") as file:
            for number, entry in enumerate(read(papers)):
                assert isinstance(entry, Found), "the corpus has no bad records"
                record = json.loads(entry.paper.to_json())
                if number == 1_000:
                    record["abstract"] += f" One sentence more, at {time.time()}."  # a text never encoded before
                file.write(json.dumps(record) + "\n")
        origin = ["--origin", origin_of(papers)]
        report, seconds, _ = run_semsearch("index", str(copy), *origin, *index)
    run_semsearch("index", str(papers), *index)
    return report, seconds


if __name__ == "__main__":
    main()
