#!/usr/bin/env python3
"""Publish generation after generation beside a service under load, and compare every answer with its generation.

    scripts/benchmark_swaps.py --swaps 120 --requests 50000

Another process than the service publishes, as a reindex does; each generation answers each question differently, since
the papers that answer it best come back under other names. Clients ask on without a pause. Shown: the requests that
failed; the answers that are not those of the generation that they name, as it answers by itself afterwards; the answers
of an older generation than one that the same client has seen; and how long answers took while a swap was underway, from
the beginning of a publish to the first answer of the new generation, and otherwise.
"""

import argparse
import http.client
import json
import multiprocessing
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import pairwise
from multiprocessing.managers import ListProxy, ValueProxy
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from benchmark_doors import wait_until_ready
from benchmark_serving import served
from benchmark_soak import Texts
from measuring import keep, run_semsearch
from numpy.typing import NDArray

from semsearch import Page, Searcher
from semsearch.encoders import Encoder
from semsearch.generation import Generation, IndexFolder, open_current
from semsearch.library import Embedding, Library, text_digest
from semsearch.papers import Paper
from semsearch.publishing import publish_pending
from semsearch.ranking import MODES, Mode
from semsearch.readers import Found, read

_ORIGIN = "swaps"


class Asked(NamedTuple):
    """One request: when it began and what came of it; question and answer by number and in full."""

    client: int
    began: float
    seconds: float
    status: int
    question: int
    generation: int
    ids: tuple[str, ...]


class Swap(NamedTuple):
    """One publish: when it began, when CURRENT named it, and the generation."""

    began: float
    published: float
    generation: Generation


def main() -> None:
    """Run the measurement and keep its result."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--swaps", type=int, default=120, help="at least")
    arguments.add_argument("--requests", type=int, default=50_000, help="at least")
    arguments.add_argument("--papers", type=int, default=300)
    arguments.add_argument("--questions", type=int, default=30, help="which are asked again and again, in all modes")
    arguments.add_argument("--clients", type=int, default=4)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--pause", type=float, default=1.5, help="seconds from one publish to the next")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, index = Path(folder) / "papers.jsonl", IndexFolder(Path(folder) / "index")
        texts = Texts(1)
        write_papers(source, [texts.paper(f"base-{number}") for number in range(options.papers)])
        run_semsearch("index", str(source), "--index", str(index.path))
        papers = repeating(texts, options.questions, source)
        questions = [(paper.title, mode) for paper in papers for mode in MODES]
        with Searcher.open(index.path) as searcher:
            embeddings = embedded(searcher.encoder, papers)
        with served(index.path, options.workers) as address:
            wait_until_ready(address)
            asked, swaps = under_load(address, index, papers, embeddings, questions, options)
        result = judged(index, questions, asked, swaps)
    names = ("papers", "clients", "workers", "pause")
    keep("swaps", {name: getattr(options, name) for name in names} | result, [])


def write_papers(path: Path, records: list[dict[str, Any]]) -> None:
    """Write records, a line each."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def repeating(texts: Texts, count: int, path: Path) -> list[Paper]:
    """Return papers whose titles are questions that they answer best."""
    write_papers(path, [texts.paper(f"repeating-{number}") for number in range(count)])
    return [entry.paper for entry in read(path) if isinstance(entry, Found)]


def embedded(encoder: Encoder, papers: list[Paper]) -> list[Embedding]:
    """Return the papers' embeddings."""
    passages = encoder.tokenise([paper.text for paper in papers])
    vectors = encoder.encode_passages(passages)
    return [
        Embedding(text_digest(passage.text), vector, passage.whole)
        for passage, vector in zip(passages, vectors, strict=True)
    ]


# Swaps under load


def under_load(
    address: str,
    index: IndexFolder,
    papers: list[Paper],
    embeddings: list[Embedding],
    questions: list[tuple[str, Mode]],
    options: argparse.Namespace,
) -> tuple[list[Asked], list[Swap]]:
    """Return what clients asked while generations were published, and these."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(options.clients, context) as pool:
        begun, done = manager.list(), manager.Value("b", False)
        share = -(-options.requests // options.clients)
        clients = [
            pool.submit(ask_on, number, address, questions, share, begun, done) for number in range(options.clients)
        ]
        while len(begun) < options.clients:
            time.sleep(0.1)
        swaps: list[Swap] = []
        with Library.open(index.library) as library:
            number = library.encoder_number(open_current(index).manifest.encoder.fingerprint, "")
            while len(swaps) < options.swaps or not all(client.done() for client in clients):
                before = papers
                papers = [replace(paper, paper_id=f"{_ORIGIN}-{len(swaps)}-{n}") for n, paper in enumerate(papers)]
                began = time.monotonic()
                with library.one_commit():
                    library.delete([paper.paper_id for paper in before])
                    library.add_versions(_ORIGIN, papers, embeddings, number)
                parent = swaps[-1].generation if swaps else None
                published = publish_pending(index, library, None, parent)
                swaps.append(Swap(began, time.monotonic(), published))
                done.value = len(swaps) >= options.swaps
                time.sleep(max(0.0, began + options.pause - time.monotonic()))
            return [asked for client in clients for asked in client.result()], swaps


def ask_on(
    client: int,
    address: str,
    questions: list[tuple[str, Mode]],
    at_least: int,
    begun: "ListProxy[int]",
    done: "ValueProxy[bool]",
) -> list[Asked]:
    """Ask so many questions at least, and on until it is done; return what came of each."""
    order = np.random.default_rng(client).permutation(len(questions)).tolist()
    connection = http.client.HTTPConnection(address, timeout=60)
    asked: list[Asked] = []
    while len(asked) < at_least or len(asked) % 100 or not done.value:
        number = order[len(asked) % len(order)]
        question, mode = questions[number]
        began = time.monotonic()
        try:
            connection.request("GET", f"/search?q={quote(question)}&mode={mode}")
            response = connection.getresponse()
            body = response.read()
            status = response.status
        except (OSError, http.client.HTTPException):
            connection.close()
            status, body = 0, b""
        seconds = time.monotonic() - began
        nothing: dict[str, Any] = {"meta": {"generation": 0}, "results": []}
        answer = json.loads(body) if status == http.HTTPStatus.OK else nothing
        ids = tuple(result["paper"]["id"] for result in answer["results"])
        asked.append(Asked(client, began, seconds, status, number, answer["meta"]["generation"], ids))
        if len(asked) == 1:
            begun.append(client)
    connection.close()
    return asked


# What came of it


def judged(
    index: IndexFolder, questions: list[tuple[str, Mode]], asked: list[Asked], swaps: list[Swap]
) -> dict[str, Any]:
    """Return how many requests failed or were answered wrongly, and how long they took during swaps and otherwise."""
    good = [each for each in asked if each.status == http.HTTPStatus.OK]
    generations = {swap.generation.manifest.generation: swap.generation for swap in swaps}
    first_seen: dict[int, float] = {}
    for each in sorted(good, key=lambda each: each.began + each.seconds):
        first_seen.setdefault(each.generation, each.began + each.seconds)
    windows = [
        (swap.began, first_seen[number])
        for swap in swaps
        if (number := swap.generation.manifest.generation) in first_seen
    ]
    answered = [each for each in good if each.generation in generations]
    mixed = not_true(index, generations, questions, answered)
    seen = [[each.generation for each in good if each.client == client] for client in {each.client for each in good}]
    starts = np.array([each.began for each in good])
    ends = starts + np.array([each.seconds for each in good])
    waits = 1_000 * (ends - starts)
    during = np.zeros(len(good), dtype=np.bool_)
    for began, ended in windows:
        during |= (starts < ended) & (ends > began)
    p99 = [float(np.percentile(waits[part], 99)) for part in (during, ~during)]
    return {
        "requests": len(asked),
        "statuses": dict(Counter(str(each.status) for each in asked)),
        "failed": len(asked) - len(good),
        "swaps_published": len(swaps),
        "swaps_seen_by_clients": len(windows),
        "answers_compared": len(answered),
        "answers_of_another_generation_than_named": len(mixed),
        "examples": [str(each) for each in mixed[:3]],
        "answers_older_than_one_before": sum(later < earlier for each in seen for earlier, later in pairwise(each)),
        "different_answers_to_one_question": len({each.ids for each in answered if each.question == 0}),
        "generations_that_answered_it": len({each.generation for each in answered if each.question == 0}),
        "seconds_of_a_swap_p50": round(float(np.median([ended - began for began, ended in windows])), 3),
        "requests_during_swaps": int(during.sum()),
        "milliseconds_during_swaps": shown(waits[during]),
        "milliseconds_otherwise": shown(waits[~during]),
        "p99_ratio": round(p99[0] / p99[1], 2),
    }


def not_true(
    index: IndexFolder, generations: dict[int, Generation], questions: list[tuple[str, Mode]], answered: list[Asked]
) -> list[Asked]:
    """Return the answers that are not what the generation that they name answers by itself."""
    truths: dict[tuple[int, int], tuple[str, ...]] = {}
    with Searcher.open(index.path) as latest:
        for generation, question in sorted({(each.generation, each.question) for each in answered}):
            searcher = Searcher(latest.library, generations[generation], latest.encoder)
            text, mode = questions[question]
            hits = searcher.search(text, Page(), mode).hits
            truths[generation, question] = tuple(hit.paper.paper_id for hit in hits)
    return [each for each in answered if each.ids != truths[each.generation, each.question]]


def shown(milliseconds: NDArray[np.float64]) -> dict[str, float]:
    """Return median and 99th percentile."""
    p50, p99 = np.percentile(milliseconds, [50, 99]).tolist()
    return {"p50": round(p50, 1), "p99": round(p99, 1)}


if __name__ == "__main__":
    main()
