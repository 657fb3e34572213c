#!/usr/bin/env python3
"""Time a service from its start to its first answer, when nothing is damaged and when a file is.

scripts/benchmark_damage.py indexes/benchmark

The index is copied, and a paper deleted from the copy, so that there are two generations that share their largest
files. Then one bit is flipped: in the largest file that only the newer has, where the older answers instead; or in the
largest that both have, where no search is answered until the library has made another.
"""

import argparse
import http.client
import json
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmark_serving import served
from measuring import keep, run_semsearch

from semsearch import IndexFolder, Library
from semsearch.generation import current_generation

_POLL_SECONDS = 0.02
_LONGEST_SECONDS = 600
_SHARED_NAMES = 2


def main() -> None:
    """Run the measurements and keep their result."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("index", type=Path)
    arguments.add_argument("--room", type=Path, help="a folder for copies of the index")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=options.room) as room:
        base = IndexFolder(Path(room) / "base")
        run_semsearch("backup", "--index", str(options.index), str(base.path))
        with Library.open(base.library) as library:
            seqs = library.all_live_seqs(library.last_seq()).tolist()
            first = library.versions_at(seqs[:1])[seqs[0]].paper.paper_id
        run_semsearch("delete", "--index", str(base.path), first)
        measured = {what: started(base, Path(room) / "copy", what) for what in ("nothing", "its own", "shared")}
    keep("damage", {"papers": len(seqs), "damaged file": measured}, [])


def started(base: IndexFolder, place: Path, what: str) -> dict[str, Any]:
    """Return how long a service takes over a copy with such a file damaged, and what it answered until then."""
    subprocess.run(["cp", "-a", str(base.path), str(place)], check=True)
    folder = IndexFolder(place)
    named = current_generation(folder)
    assert named, "a generation is live"
    result: dict[str, Any] = {"live generation": named[0]}
    if what != "nothing":
        result["file"] = flip(folder.generation(named[0]), shared=what == "shared")
    try:
        begun = time.perf_counter()
        with served(place) as address:
            result["seconds until it listens"] = round(time.perf_counter() - begun, 2)
            result |= first_answer(address, begun)
        result["in quarantine"] = len(list(folder.quarantine.glob("*")))
    finally:
        subprocess.run(["rm", "-r", str(place)], check=True)
    return result


def flip(generation: Path, *, shared: bool) -> str:
    """Flip the middle bit of the largest file that other generations share, or do not; return its name."""
    files = [path for path in generation.rglob("*") if path.is_file() and path.name != "manifest.json"]
    fitting = [path for path in files if (path.stat().st_nlink >= _SHARED_NAMES) == shared]
    path = max(fitting, key=lambda file: file.stat().st_size)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    return str(path.relative_to(generation))


def first_answer(address: str, begun: float) -> dict[str, Any]:
    """Ask until there is an answer; return the seconds since the beginning, its generation and what came before."""
    before: Counter[str] = Counter()
    while time.perf_counter() - begun < _LONGEST_SECONDS:
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.request("GET", "/search?q=word+sense+disambiguation")
        response = connection.getresponse()
        body = json.loads(response.read())
        connection.close()
        if response.status == http.HTTPStatus.OK:
            return {
                "seconds until the first answer": round(time.perf_counter() - begun, 2),
                "answered by generation": body["meta"]["generation"],
                "answers before": dict(before),
            }
        before[f"{response.status} {body['error']}"] += 1
        time.sleep(_POLL_SECONDS)
    raise TimeoutError(f"no answer within {_LONGEST_SECONDS} seconds: {dict(before)}")


if __name__ == "__main__":
    main()
