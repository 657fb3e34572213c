#!/usr/bin/env python3
"""Let the service work for hours on everything it offers, and see whether it grows, slows down or errs.

    scripts/benchmark_soak.py --minutes 75 --warm-up 15 --rate 5

Searches in all modes with texts never asked before, filters, related papers, pages by cursor, the HTML page, metrics,
bad requests, additions and deletions come at a steady rate, and a reindex beside the service every few minutes. Shown:
what memory, files and threads of all its processes grow by in an hour (ordinary least squares over a sample every ten
seconds, after the warm-up, with a 95 % interval), how long answers took early and late, and every answer that was not
what the documentation says. Ctrl-C ends it early and keeps what was seen.
"""

import argparse
import http.client
import itertools
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
from benchmark_doors import wait_until_ready
from measuring import ROOT, keep

from semsearch.evidence import sentences
from semsearch.generation import IndexFolder

_CLIENTS = 4
_SAMPLE_SECONDS = 10
_CHANGED = 20  # papers, by each reindex
_FOUND_WITHIN_SECONDS = 60  # an added paper; other work on the machine may slow the service, never make it forget
_ADDED_AT_MOST = 40  # papers that were added and are not deleted yet, per client
_MARK = "soak:"


def main() -> None:
    """Run the measurement and keep its result."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--minutes", type=float, default=75.0, help="in all")
    arguments.add_argument("--warm-up", type=float, default=15.0, help="minutes at the start that are left out")
    arguments.add_argument("--rate", type=float, default=5.0, help="requests a second")
    arguments.add_argument("--papers", type=int, default=2_000)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--reindex-minutes", type=float, default=4.0, help="between reindexes beside the service")
    arguments.add_argument("--seed", type=int, default=1)
    options = arguments.parse_args()
    texts = Texts(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        source, index = Path(folder) / "papers.jsonl", IndexFolder(Path(folder) / "index")
        papers = [texts.paper(f"{_MARK}base-{number}") for number in range(options.papers)]
        reindex(index, source, papers)
        token = secrets.token_hex(32)
        with served(index.path, options.workers, token) as (process, address):
            seen = Seen(process, index)
            soak(Door(address, token), seen, texts, papers, lambda: reindex(index, source, papers), options)
        settings = {
            name: getattr(options, name) for name in ("minutes", "warm_up", "rate", "papers", "workers", "seed")
        }
        keep("soak", settings | figures(seen, options.warm_up * 60), [])


# The texts: sentences of the sample papers, put together anew


class Texts:
    """Papers and questions of which none comes twice."""

    def __init__(self, seed: int) -> None:
        """Read the sample papers."""
        self._random = random.Random(seed)
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        files = sorted((ROOT / "semsearch" / "samples").glob("*.jsonl"))
        records = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        self._titles = [record["title"] for record in records]
        self._sentences = [r["abstract"][a:b] for r in records for a, b in sentences(r["abstract"])]
        self._words = sorted(
            {word.strip(".,;:()") for each in self._sentences for word in each.split() if len(word) > 5}
        )

    def paper(self, name: str) -> dict[str, Any]:
        """Return a new paper's record."""
        with self._lock:
            chance, number = self._random, next(self._numbers)
            return {
                "id": name,
                "title": f"{chance.choice(self._titles)}, part {number}",
                "abstract": " ".join([f"Study {number}.", *chance.sample(self._sentences, 4)]),
                "year": chance.randint(1990, 2026),
                "categories": chance.sample(["cs.CL", "cs.LG", "q-bio.NC", "stat.ML", "physics.optics"], 2),
                "venue": chance.choice(["A", "B", "C"]),
                "authors": [f"{chance.choice('ABCDE')}. {word.capitalize()}" for word in chance.sample(self._words, 2)],
            }

    def question(self) -> str:
        """Return a new question."""
        with self._lock:
            return " ".join([*self._random.sample(self._words, self._random.randint(2, 8)), str(next(self._numbers))])


# The service


@contextmanager
def served(index: Path, workers: int, token: str) -> Iterator[tuple[int, str]]:
    """Serve the index until the end; give the service's process and its address, once it answers."""
    command = [sys.executable, "-m", "semsearch.cli", "serve", "--index", str(index), "--port", "0"]
    command += ["--workers", str(workers)]
    environment = os.environ | {"SEMSEARCH_ADMIN_TOKEN": token}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stdout is not None, "it was asked for"
        address = urlsplit(server.stdout.readline().split()[-1]).netloc
        wait_until_ready(address)
        yield server.pid, address
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)


def reindex(index: IndexFolder, source: Path, papers: list[dict[str, Any]]) -> None:
    """Bring these papers into the index with the command that a cron job would use."""
    source.write_text("".join(json.dumps(paper) + "\n" for paper in papers), encoding="utf-8")
    command = [sys.executable, f"{ROOT}/scripts/reindex.py", "--index", str(index.path), str(source)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@dataclass
class Door:
    """Where the service is, and what opens it."""

    address: str
    token: str


# What is seen


@dataclass
class Seen:
    """What came of the requests, and how the service's processes and the index stood over time."""

    process: int
    index: IndexFolder
    started: float = field(default_factory=time.monotonic)
    answers: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    waits: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    samples: list[dict[str, float]] = field(default_factory=list)
    searchable: list[float] = field(default_factory=list)
    reindexes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.started

    def take_sample(self) -> None:
        """Note how the processes and the index stand now."""
        sample = {"seconds": self.elapsed(), "generations": len(self.index.published())}
        sample["disk_bytes"] = disk_bytes(self.index.path)
        for pid in family(self.process):
            for name, value in of_process(pid).items():
                sample[name] = sample.get(name, 0) + value
        self.samples.append(sample)

    def note(self, kind: str, outcome: str, seconds: float) -> None:
        """Count an answer that is as it should be."""
        with self.lock:
            self.answers[f"{kind}: {outcome}"] += 1
            self.waits[kind].append((self.elapsed(), seconds))

    def complain(self, what: str) -> None:
        """Keep an answer that is not as it should be."""
        with self.lock:
            self.unexpected.append(f"after {self.elapsed():.0f} s: {what}")
        print(self.unexpected[-1], file=sys.stderr)


def family(pid: int) -> list[int]:
    """Return this process and all that it and its children started."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = {int(child) for task in tasks for child in (task / "children").read_text().split()}
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [pid, *(each for child in sorted(children) for each in family(child))]


def of_process(pid: int) -> dict[str, float]:
    """Return a process's memory in bytes, open files and threads; nothing if it has ended."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        facts = {line.split()[0]: int(line.split()[1]) * 1024 for line in rollup.splitlines()[1:]}
        return {
            "processes": 1,
            "rss_bytes": facts["Rss:"],  # pages that several processes map are counted for each
            "proportional_bytes": facts["Pss:"],
            "anonymous_bytes": facts["Anonymous:"],
            "open_files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
            "threads": len(list(Path(f"/proc/{pid}/task").iterdir())),
        }
    except (FileNotFoundError, ProcessLookupError):
        return {}


def disk_bytes(folder: Path) -> int:
    """Return what the files in this folder take, those with several names once."""
    sizes = {}
    for place, _, names in os.walk(folder):  # which takes no notice of folders that go meanwhile
        for name in names:
            with suppress(FileNotFoundError):
                facts = os.stat(os.path.join(place, name))
                sizes[facts.st_ino] = facts.st_blocks * 512
    return sum(sizes.values())


# The traffic


def soak(
    door: Door,
    seen: Seen,
    texts: Texts,
    papers: list[dict[str, Any]],
    publish: Callable[[], None],
    options: argparse.Namespace,
) -> None:
    """Ask, add, delete, reindex and take samples until the time is over."""
    end = time.monotonic() + options.minutes * 60
    done = threading.Event()
    clients = [Client(door, seen, texts, number, options) for number in range(_CLIENTS)]
    with ThreadPoolExecutor(_CLIENTS + 1) as pool:
        working = [pool.submit(client.work, done) for client in clients]
        working.append(pool.submit(reindexes, seen, texts, papers, publish, options, done))
        try:
            while time.monotonic() < end and not any(each.done() for each in working):
                seen.take_sample()
                time.sleep(_SAMPLE_SECONDS)
        except KeyboardInterrupt:
            print("ending early", file=sys.stderr)
        finally:
            done.set()
        for each in working:
            each.result()


def reindexes(
    seen: Seen,
    texts: Texts,
    papers: list[dict[str, Any]],
    publish: Callable[[], None],
    options: argparse.Namespace,
    done: threading.Event,
) -> None:
    """Change some papers and publish them from another process, again and again."""
    chance = random.Random(options.seed)
    while not done.wait(options.reindex_minutes * 60):
        for place in chance.sample(range(len(papers)), _CHANGED):
            papers[place] = texts.paper(papers[place]["id"])
        try:
            publish()
            seen.reindexes += 1
        except subprocess.CalledProcessError as error:
            seen.complain(f"a reindex ended with exit code {error.returncode}")


class Client:
    """One client, which asks one thing after the other over one connection."""

    def __init__(self, door: Door, seen: Seen, texts: Texts, number: int, options: argparse.Namespace) -> None:
        """Prepare, without a request."""
        self._door, self._seen, self._texts, self._number = door, seen, texts, number
        self._papers = options.papers
        self._interval = _CLIENTS / options.rate
        self._random = random.Random(options.seed * 100 + number)
        self._connection = http.client.HTTPConnection(door.address, timeout=60)
        self._added: list[str] = []
        self._names = itertools.count()
        self._newest = 0  # the newest generation that an answer named
        self._kind = ""

    def work(self, done: threading.Event) -> None:
        """Ask at the times that the rate names until it is done; what could not be asked in time is asked later."""
        shares: dict[Callable[[], None], int] = {
            self.search: 40,
            self.filtered: 12,
            self.long_search: 6,
            self.related: 10,
            self.pages: 6,
            self.html: 6,
            self.batch: 4,
            self.add: 3,
            self.delete: 3,
            self.metrics: 2,
            self.states: 2,
            self.bad: 6,
        }
        due = time.monotonic() + self._number / _CLIENTS * self._interval
        while not done.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._interval, time.monotonic() - 10 * self._interval)
            (action,) = self._random.choices(list(shares), list(shares.values()))
            self._kind = action.__name__
            try:
                action()
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                self._seen.complain(f"{self._kind}: {type(error).__name__}: {error}")
                self._connection.close()
        self._connection.close()

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, *others: int
    ) -> tuple[int, bytes]:
        """Send one request; return status and body, and complain of a status that is neither 200 nor among others."""
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        types = {} if raw is None else {"Content-Type": "application/json"}
        started = time.perf_counter()
        self._connection.request(method, path, raw, types | (headers or {}))
        response = self._connection.getresponse()
        answer = response.read()
        seconds = time.perf_counter() - started
        if response.status not in (others or (HTTPStatus.OK,)):
            self._seen.complain(f"{self._kind}: {response.status} to {method} {path[:200]}: {answer[:300]!r}")
        else:
            self._seen.note(self._kind, str(response.status), seconds)
        return response.status, answer

    def ranked(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Ask for a ranking; return it, and complain if it is not one."""
        _, raw = self.ask(method, path, body)
        answer: dict[str, Any] = json.loads(raw)
        ranks = [result["rank"] for result in answer["results"]]
        scores = [result["score"] for result in answer["results"]]
        names = [result["paper"]["id"] for result in answer["results"]]
        if ranks != list(range(ranks[0] if ranks else 1, len(ranks) + (ranks[0] if ranks else 1))):
            self._seen.complain(f"{self._kind}: ranks {ranks} of {path[:200]}")
        if scores != sorted(scores, reverse=True) or len(set(names)) != len(names):
            self._seen.complain(f"{self._kind}: scores {scores} or names {names} of {path[:200]}")
        if "cursor" not in path:
            generation = answer["meta"]["generation"]
            if generation < self._newest:
                self._seen.complain(f"{self._kind}: generation {generation} after {self._newest}")
            self._newest = max(self._newest, generation)
        return answer

    def search(self) -> None:
        """Ask a new question in one of the modes."""
        mode = self._random.choice(["hybrid", "dense", "lexical"])
        answer = self.ranked("GET", f"/search?q={quote(self._texts.question())}&mode={mode}&limit=10")
        if not answer["results"] and mode != "lexical":
            self._seen.complain(f"nothing was found by {mode}")

    def filtered(self) -> None:
        """Ask under filters and for facets, and look whether all that came meets the filters."""
        first = self._random.randint(1990, 2015)
        filters = f"year={first}-{first + 10}&category=cs.CL%7Cstat.*&facets=5"
        answer = self.ranked("GET", f"/search?q={quote(self._texts.question())}&{filters}")
        for result in answer["results"]:
            paper = result["paper"]
            if not first <= paper["year"] <= first + 10 or not {"cs.CL", "stat.ML"} & set(paper["categories"]):
                self._seen.complain(f"{paper['id']} does not meet {filters}")

    def long_search(self) -> None:
        """Ask with a long text."""
        self.ranked("POST", "/search", {"q": self._texts.paper("x")["abstract"], "limit": 5})

    def related(self) -> None:
        """Ask for the papers like one, or like a text."""
        name = self._base()
        if self._random.random() < 0.5:
            answer = self.ranked("GET", f"/papers/{quote(name)}/related")
            if name in {result["paper"]["id"] for result in answer["results"]}:
                self._seen.complain(f"{name} is related to itself")
        else:
            text = self._texts.paper("x")
            self.ranked("POST", "/related", {"title": text["title"], "abstract": text["abstract"]})

    def pages(self) -> None:
        """Read three pages of a new question by cursor; no paper may come twice."""
        path = f"/search?q={quote(self._texts.question())}&limit=10"
        answer = self.ranked("GET", path)
        seen: set[str] = set()
        for _ in range(2):
            seen |= {result["paper"]["id"] for result in answer["results"]}
            cursor = answer["meta"]["next_cursor"]
            status, raw = self.ask("GET", f"{path}&cursor={cursor}", None, None, HTTPStatus.OK, HTTPStatus.GONE)
            if status == HTTPStatus.GONE:  # something was deleted meanwhile
                return
            answer = json.loads(raw)
            twice = seen & {result["paper"]["id"] for result in answer["results"]}
            if twice:
                self._seen.complain(f"{twice} came twice")

    def html(self) -> None:
        """Ask for the page for people."""
        _, raw = self.ask("GET", f"/?q={quote(self._texts.question())}")
        if b"</html>" not in raw:
            self._seen.complain("the page is no whole page")

    def batch(self) -> None:
        """Ask for several papers by id."""
        names = [self._base() for _ in range(20)]
        _, raw = self.ask("POST", "/papers/batch", {"ids": [*names, "soak:unknown"]})
        found = [paper and paper["id"] for paper in json.loads(raw)["papers"]]
        if found != [*names, None]:
            self._seen.complain(f"{found} instead of {names}")

    def add(self) -> None:
        """Add a paper, and wait until a search for its text shows it first."""
        if len(self._added) >= _ADDED_AT_MOST:
            return self.delete()
        name = f"{_MARK}added-{self._number}-{next(self._names)}"
        paper = self._texts.paper(name)
        _, raw = self.ask("POST", "/papers", {"papers": [paper]}, self._authority())
        if json.loads(raw)["new"] != 1:
            self._seen.complain(f"{name} is not new: {raw[:200]!r}")
        self._added.append(name)
        since = time.monotonic()
        self._kind = "search for what was added"
        while name not in self._first(paper["abstract"]):
            if time.monotonic() - since > _FOUND_WITHIN_SECONDS:
                return self._seen.complain(f"{name} is not found after {_FOUND_WITHIN_SECONDS} s")
            time.sleep(0.1)
        self._seen.searchable.append(time.monotonic() - since)

    def delete(self) -> None:
        """Delete a paper that was added; it must be gone at once."""
        if not self._added:
            return self.add()
        name = self._added.pop(0)
        path = f"/papers/{quote(name)}"
        allowed = (HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE)
        status, raw = self.ask("DELETE", path, None, self._authority(), *allowed)
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            if json.loads(raw)["error"] != "not_yet":
                self._seen.complain(f"delete: {raw[:200]!r}")
            return
        self._kind = "paper that was deleted"
        self.ask("GET", path, None, None, HTTPStatus.NOT_FOUND)

    def metrics(self) -> None:
        """Read the metrics."""
        _, raw = self.ask("GET", "/metrics")
        if b"\nsemsearch_ready 1.0\n" not in raw:
            self._seen.complain("the metrics do not say that it is ready")

    def states(self) -> None:
        """Ask how the service is."""
        for path in ("/healthz", "/readyz", "/stats"):
            _, raw = self.ask("GET", path)
            if json.loads(raw)["status"] not in ("ok", "ready"):
                self._seen.complain(f"{path}: {raw[:300]!r}")

    def bad(self) -> None:
        """Send something that must be refused."""
        long = "x" * 70_000
        requests: list[tuple[int, str, str, Any, dict[str, str]]] = [
            (422, "GET", "/search?q=%20", None, {}),
            (422, "GET", "/search?q=a&limit=0", None, {}),
            (422, "GET", "/search?q=a&limit=101", None, {}),
            (422, "GET", "/search?q=a&year=never", None, {}),
            (400, "GET", "/search?q=a&q=b", None, {}),
            (400, "GET", "/search?q=%zz", None, {}),
            (422, "POST", "/search", b'{"q": "a", "limit": NaN}', {}),
            (422, "POST", "/search", b'{"q": "\\ud800"}', {}),
            (400, "POST", "/search", b"[" * 30_000, {}),
            (413, "POST", "/search", long.encode(), {}),
            (415, "POST", "/search", b"q=a", {"Content-Type": "application/x-www-form-urlencoded"}),
            (404, "GET", "/papers/soak:unknown", None, {}),
            (404, "GET", "/nothing", None, {}),
            (405, "PUT", "/search", b"{}", {}),
            (401, "POST", "/papers", {"papers": [self._texts.paper("soak:intruder")]}, {}),
            (401, "DELETE", f"/papers/{self._base()}", None, {"Authorization": "Bearer guessed-guessed-guessed"}),
            (403, "GET", "/search?q=a", None, {"Origin": "http://elsewhere.example"}),
            (431, "GET", "/search?q=a", None, {"X-Long": long[:20_000]}),
        ]
        status, method, path, body, headers = self._random.choice(requests)
        self.ask(method, path, body, headers, status)

    def _base(self) -> str:
        return f"{_MARK}base-{self._random.randrange(self._papers)}"

    def _authority(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._door.token}"}

    def _first(self, text: str) -> set[str]:
        answer = self.ranked("POST", "/search", {"q": text, "limit": 3})
        return {result["paper"]["id"] for result in answer["results"]}


# Figures


def figures(seen: Seen, warm_up_seconds: float) -> dict[str, Any]:
    """Return what grew by how much, how long answers took early and late, and what was not as it should be."""
    samples = [sample for sample in seen.samples if sample["seconds"] >= warm_up_seconds]
    return {
        "measured_minutes": round((samples[-1]["seconds"] - samples[0]["seconds"]) / 60, 1),
        "requests": sum(seen.answers.values()) + len(seen.unexpected),
        "unexpected_answers": len(seen.unexpected),
        "what_was_unexpected": seen.unexpected[:50],
        "answers": dict(sorted(seen.answers.items())),
        "reindexes": seen.reindexes,
        "seconds_until_an_added_paper_is_found": percentiles(seen.searchable, 1, "s"),
        "growth_per_hour": {
            name: slope(samples, name)
            for name in ("anonymous_bytes", "rss_bytes", "proportional_bytes", "open_files", "threads")
        },
        "first_and_last_sample": [
            {name: round(value) for name, value in sample.items()} for sample in (samples[0], samples[-1])
        ],
        "most_generations_on_disk": max(sample["generations"] for sample in samples),
        "search_milliseconds": quarters(seen, warm_up_seconds),
        "every_5_minutes": [shortened(sample) for sample in seen.samples[:: 300 // _SAMPLE_SECONDS]],
    }


def shortened(sample: dict[str, float]) -> dict[str, int]:
    """Return a sample in minutes and megabytes."""
    names = {name: name.replace("_bytes", "_mb") for name in sample if name != "seconds"}
    values = {new: round(sample[old] / (1e6 if old != new else 1)) for old, new in names.items()}
    return {"minute": round(sample["seconds"] / 60)} | values


def slope(samples: list[dict[str, float]], name: str) -> dict[str, float]:
    """Return by how much this grows in an hour, and the bounds of a 95 % interval (normal, independent residuals)."""
    hours = np.array([sample["seconds"] / 3600 for sample in samples])
    values = np.array([sample[name] for sample in samples])
    centred = hours - hours.mean()
    growth = float(centred @ values / (centred @ centred))
    residuals = values - values.mean() - growth * centred
    error = float(np.sqrt(residuals @ residuals / (len(values) - 2) / (centred @ centred)))
    return {"slope": round(growth, 1), "low": round(growth - 1.96 * error, 1), "high": round(growth + 1.96 * error, 1)}


def quarters(seen: Seen, warm_up_seconds: float) -> dict[str, Any]:
    """Return how long searches took in the first and the last quarter of the time that is measured."""
    waits = sorted((at, seconds) for at, seconds in seen.waits["search"] if at >= warm_up_seconds)
    quarter = len(waits) // 4
    return {
        name: percentiles([seconds for _, seconds in part], 1_000, "ms")
        for name, part in (("first_quarter", waits[:quarter]), ("last_quarter", waits[-quarter:]))
    }


def percentiles(seconds: list[float], factor: float, unit: str) -> dict[str, float]:
    """Return median, 99th percentile, maximum and number."""
    if not seconds:
        return {"number": 0}
    p50, p99 = (factor * np.percentile(seconds, [50, 99])).tolist()
    return {f"p50_{unit}": round(p50, 2), f"p99_{unit}": round(p99, 2), "number": len(seconds)}


if __name__ == "__main__":
    main()
