#!/usr/bin/env python3
"""Compare semsearch with other ways to search the same papers, by the same vectors, in one run.

scripts/benchmark.py --index indexes/benchmark --papers 64000 --made scratch
scripts/benchmark.py --judged SCIFACT CISI --made scratch

By meaning: numpy, FAISS, hnswlib. By words: bm25s, SQLite's FTS5. Both: txtai's service against `semsearch serve`, each
encoding the question itself. Everything is asked one question at a time, titles as they are remembered and everyday
questions; the first two groups compute with one thread each. The services have all cores: semsearch as it ships, txtai
both as it ships and with one thread, which is faster where cores are busy; the faster is what semsearch is compared
with. Judged sets are folders in BEIR's format; each side encodes them by itself. What is not installed is left out, and
the result says so.

`pip install -c constraints.txt '.[bench]'` installs the others, best into an environment of its own.
With --made, what a run made is there for the next.
"""

import argparse
import hashlib
import http.client
import json
import math
import os
import random
import resource
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import faiss
import numpy as np
from baselines import (
    DEPTH,
    AbsentError,
    Engine,
    Matrix,
    Papers,
    Rows,
    bm25s,
    faiss_flat,
    fts5,
    hnsw,
    index_of_first,
    kept,
    numpy_scan,
    required,
    txtai_embeddings,
    txtai_facts,
    txtai_index,
    txtai_index_of,
    txtai_served,
)
from benchmark_known_items import Remembering
from benchmark_latency import Questions, title_without_a_word
from benchmark_serving import served
from measuring import children, counting, index_facts, keep, processor_seconds
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from semsearch import Page, Paper, Searcher
from semsearch.evaluate import JudgedSet, Rank, ask_judged, index_corpus, side_by_side
from semsearch.filters import escape_label
from semsearch.queries import LexicalQuery, parse_query
from semsearch.ranking import Mode
from semsearch.search import clean_query

_EVERYDAY = Path(__file__).with_name("everyday_questions.txt")
_EACH = Page(collapse="none")
_WARM_UP = 20
_BLOCK = 20  # questions that one service is asked before the other has its turn
_SHARES = (0.1, 0.01, 0.001)
_MORE_CANDIDATES = 1_000
_SAME_SCORE = 1e-6
_JUDGED_DEPTH = 100
_TXTAI_THREADS = {"txtai": None, "txtai_one_thread": 1}


def main() -> None:
    """Run the measurements and keep their result."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--index", type=Path, metavar="FOLDER", help="whose papers and vectors are searched")
    arguments.add_argument("--papers", type=int, metavar="N", help="only the first N of them")
    arguments.add_argument("--questions", type=int, default=300, help="in each group; filters get a fifth of them each")
    arguments.add_argument("--judged", type=Path, nargs="+", default=[], metavar="FOLDER")
    arguments.add_argument("--made", type=Path, metavar="FOLDER", help="where indexes are kept between runs")
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    if not options.index and not options.judged:
        arguments.error("name an --index, --judged sets or both")
    with tempfile.TemporaryDirectory() as scratch:
        made, result, name = options.made or Path(scratch), dict[str, Any](), "baselines-judged"
        load_before = os.getloadavg()
        if options.index:
            index = _index_of(options.index, options.papers, made)
            result = compared(index, made, options.questions, options.seed)
            name = f"baselines-{result['papers']}"
        if options.judged:
            result["judged"] = {folder.name: judged(folder, made) for folder in options.judged}
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    result["peak_memory_bytes"] = 1_024 * max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, children)
    result["load_average_before_and_after"] = [round(load, 1) for load in (load_before[1], os.getloadavg()[1])]
    sources = [path for folder in options.judged for path in _files_of(folder)]
    keep(name, result, sources)


def _files_of(folder: Path) -> list[Path]:
    return [folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels" / "test.tsv"]


def _index_of(index: Path, count: int | None, made: Path) -> Path:
    """Return an index of the first papers of this one."""
    with Searcher.open(index) as searcher:
        if count is None or count >= searcher.generation.papers:
            return index
        name = f"first-{count}-of-{_digest(searcher)}"
    made.mkdir(parents=True, exist_ok=True)
    kept(made / name, lambda path: index_of_first(index, count, path))
    return made / name


def _digest(searcher: Searcher) -> str:
    """Return a short name for what is searched."""
    facts = json.dumps(index_facts(searcher.generation), sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:12]


def compared(index: Path, made: Path, count: int, seed: int) -> dict[str, Any]:
    """Return the figures of every engine over the papers of this index."""
    with Searcher.open(index) as searcher:
        folder = made / _digest(searcher)
        folder.mkdir(parents=True, exist_ok=True)
        papers = Papers.of(searcher)
        asked = Asked.of(searcher, papers, count, seed)
        result: dict[str, Any] = {
            **index_facts(searcher.generation),
            "questions": {"titles": len(asked.rows), "everyday": len(asked.texts) - len(asked.rows), "seed": seed},
            "asked": "one at a time, over an open connection where it is a service; ten hits",
            "threads": {"by_meaning": 1, "by_words": 1, "services": f"all {os.cpu_count()} cores"},
            "by_meaning": by_meaning(searcher, papers, asked, folder),
            "by_words": by_words(searcher, papers, asked, folder),
        }
        result["services"] = services(index, papers, asked, folder)
        result["encoding_alone"] = encoding(searcher, asked.more)
    return result


# What is asked


@dataclass(frozen=True, slots=True)
class Asked:
    """Questions; those that are titles come with the row of their paper. `more` were asked of nobody yet."""

    texts: list[str]
    rows: dict[str, int]
    more: list[str]

    @classmethod
    def of(cls, searcher: Searcher, papers: Papers, count: int, seed: int) -> "Asked":
        """Return everyday questions and, to make up the count, titles; as many more as warming up and filters need."""
        place, row_of = {name: row for row, name in enumerate(papers.ids)}, dict[str, int]()

        def title(paper: Paper, chance: random.Random) -> str | None:
            text = title_without_a_word(paper, chance)
            if text:
                row_of[text] = place[paper.paper_id]
            return text

        everyday = _EVERYDAY.read_text(encoding="utf-8").splitlines()[: count // 2]
        questions = Questions(searcher, seed)
        titles = questions.take(title, count - len(everyday))
        texts = [*everyday, *titles]
        random.Random(seed).shuffle(texts)
        more = questions.take(title_without_a_word, 2 * _WARM_UP + len(_SHARES) * (count // 5))
        return cls(texts, {text: row_of[text] for text in titles}, more)


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Return percentiles and mean of what questions took."""
    p50, p95 = np.percentile(seconds, [50, 95])
    figures = {"p50": p50, "p95": p95, "mean": np.mean(seconds)}
    return {name: round(1_000 * float(value), 3) for name, value in figures.items()}


def timed(
    ask: Callable[[Any], Rows], asked: Sequence[Any], name: str, warming: Sequence[Any] | None = None
) -> tuple[dict[str, float], list[Rows]]:
    """Ask one after the other; return what that took, of the processor in the mean, and what was found.

    :param warming: what is asked before; by default the first few.
    """
    for each in asked[:_WARM_UP] if warming is None else warming:
        ask(each)
    seconds, found, tell = [], [], counting(name)
    busy = time.process_time()
    for each in asked:
        started = time.perf_counter()
        rows = ask(each)
        seconds.append(time.perf_counter() - started)
        found.append(rows)
        tell(len(found), len(asked))
    processor = round(1_000 * (time.process_time() - busy) / len(asked), 3)
    return milliseconds(seconds) | {"processor": processor}, found


def found_titles(answers: Sequence[Rows], asked: Asked, papers: Papers) -> dict[str, float]:
    """Return the share of titles whose paper, or another of that title, came first, and came among the ten."""
    places = [
        next((place for place, row in enumerate(rows) if papers.titles[row] == papers.titles[asked.rows[text]]), None)
        for text, rows in zip(asked.texts, answers, strict=True)
        if text in asked.rows
    ]
    first, ten = (sum(place is not None and place < depth for place in places) for depth in (1, DEPTH))
    return {"titles_first": round(first / len(places), 4), "titles_in_ten": round(ten / len(places), 4)}


def encoding(searcher: Searcher, texts: Sequence[str]) -> dict[str, Any]:
    """Return what encoding one question takes: of semsearch on all cores, of txtai so and on one thread."""
    fresh = [f"{text}." for text in texts[: 4 * _WARM_UP]]  # whose vectors nobody has kept
    warming, asked = fresh[:_WARM_UP], fresh[_WARM_UP:]
    took, _ = timed(lambda text: searcher.encoder.encode_queries([text])[0], asked, "encoding, semsearch", warming)
    result: dict[str, Any] = {"semsearch": took}
    try:
        txtai_facts()
        torch, transform = required("torch"), txtai_embeddings().transform
        for name, threads in _TXTAI_THREADS.items():
            torch.set_num_threads(threads or os.cpu_count())
            result[name], _ = timed(transform, asked, f"encoding, {name}", warming)
    except AbsentError as error:
        result["txtai"] = str(error)
    return result


# By meaning


def by_meaning(searcher: Searcher, papers: Papers, asked: Asked, folder: Path) -> dict[str, Any]:
    """Return what the ten nearest vectors cost each engine, on one thread, and how many of them it finds."""
    subjects = [_subject(searcher, text) for text in asked.texts]
    vectors = searcher.encoder.encode_queries(subjects)
    true = _nearest(papers.matrix, vectors)
    row_of = _rows_by_id(papers)
    ids = searcher.generation.ids_at(np.arange(searcher.generation.manifest.rows))
    rows_in_order = np.array([row_of.get(name, -1) for name in ids])  # dead rows, too, which are never found
    are_titles = [text in asked.rows for text in asked.texts]

    def judge(found: Sequence[Rows]) -> dict[str, float]:
        return recall(found, papers, vectors, true, are_titles)

    encoder = Remembering(searcher.encoder)
    encoder.remember(subjects)  # so that nothing but the search takes time
    given = Searcher(searcher.library, searcher.generation, encoder)
    whole = _semsearch(given, row_of, "dense")
    by_vector: dict[str, Callable[[], Engine]] = {
        "numpy": lambda: numpy_scan(papers),
        "faiss": lambda: faiss_flat(papers),
        "hnswlib": lambda: hnsw(papers, vectors, true, folder),
        "semsearch_vectors_alone": lambda: Engine(
            lambda query: rows_in_order[searcher.generation.nearest_to(query, DEPTH)[1]],
            {"settings": "what its index holds: lists from 32,768 vectors on, else all are looked at"},
        ),
    }
    with threadpool_limits(1):
        faiss.omp_set_num_threads(1)
        results = {
            name: _measured(engine, list(vectors), f"by meaning, {name}", judge) for name, engine in by_vector.items()
        }
        results["semsearch"] = _measured(lambda: whole, asked.texts, "by meaning, semsearch", judge)
    return results


def _subject(searcher: Searcher, text: str) -> str:
    """Return what of a question semsearch encodes."""
    clean = clean_query(text)
    return clean if searcher.generation.titled(clean).size else parse_query(clean).text


def _nearest(matrix: Matrix, vectors: Matrix) -> NDArray[np.int64]:
    """Return the rows of the ten nearest to each, by looking at all."""
    index = faiss.IndexFlatIP(matrix.shape[1])
    index.add(matrix)
    rows: NDArray[np.int64] = index.search(vectors, DEPTH)[1]
    return rows


def recall(
    found: Sequence[Rows], papers: Papers, vectors: Matrix, true: NDArray[np.int64], are_titles: Sequence[bool]
) -> dict[str, float]:
    """Return which part of the ten nearest was found, of titles and of everyday questions, which have none near.

    What is as near as the tenth counts too.
    """
    met = []
    for rows, query, best in zip(found, vectors, true, strict=True):
        least = float((papers.matrix[best] @ query).min()) - _SAME_SCORE
        met.append(np.count_nonzero(papers.matrix[np.asarray(rows, dtype=np.int64)] @ query >= least) / DEPTH)
    kinds = {"titles": np.array(are_titles), "everyday": ~np.array(are_titles)}
    return {
        f"recall_at_10_of_{kind}": round(float(np.mean(np.array(met)[asked])), 4)
        for kind, asked in kinds.items()
        if asked.any()
    }


def _rows_by_id(papers: Papers) -> dict[str, int]:
    return {name: row for row, name in enumerate(papers.ids)}


def _semsearch(searcher: Searcher, row_of: dict[str, int], mode: Mode) -> Engine:
    def ask(text: str) -> Rows:
        return [row_of[hit.paper.paper_id] for hit in searcher.search(text, _EACH, mode).hits]

    return Engine(ask, {"settings": f"Searcher.search, mode {mode}: papers read from the library, evidence"})


def _measured(
    engine: Callable[[], Engine], asked: Sequence[Any], name: str, judge: Callable[[Sequence[Rows]], dict[str, float]]
) -> dict[str, Any] | str:
    """Return what an engine takes and what its answers are worth; why it was left out, if it was."""
    try:
        made = engine()
    except AbsentError as error:
        return str(error)
    took, found = timed(made.ask, asked, name)
    made.close()
    return {"milliseconds": took, **judge(found), **made.facts}


# By words


def by_words(searcher: Searcher, papers: Papers, asked: Asked, folder: Path) -> dict[str, Any]:
    """Return what the ten best by BM25 cost each engine, on one thread, and how often a title finds its paper."""
    row_of, generation = _rows_by_id(papers), searcher.generation
    row_of_seq = dict(zip(generation.live_seqs().tolist(), range(len(papers.ids)), strict=True))

    def words_alone(text: str) -> Rows:
        _, seqs = generation.lexical.search(LexicalQuery.of_text(text), DEPTH)
        return [row_of_seq[seq] for seq in seqs[:DEPTH].tolist()]

    engines: dict[str, Callable[[], Engine]] = {
        "bm25s": lambda: bm25s(papers),
        "sqlite_fts5": lambda: fts5(papers, folder),
        "semsearch_words_alone": lambda: Engine(words_alone, {"settings": "its lexical index, ten best"}),
        "semsearch": lambda: _semsearch(searcher, row_of, "lexical"),
    }
    with threadpool_limits(1):
        return {
            name: _measured(engine, asked.texts, f"by words, {name}", lambda found: found_titles(found, asked, papers))
            for name, engine in engines.items()
        }


# Both, over HTTP


@dataclass(frozen=True, slots=True)
class Service:
    """A service in a process of its own."""

    address: str
    pid: int

    @classmethod
    def started(cls, running: ExitStack, service: AbstractContextManager[str]) -> "Service":
        """Start it, until the stack ends."""
        before = children(os.getpid())
        address = running.enter_context(service)
        (pid,) = children(os.getpid()) - before
        return cls(address, pid)


@dataclass(frozen=True, slots=True)
class Client:
    """One service: its process and address, how a question is put to it, and which ids an answer of it names."""

    service: Service
    path: Callable[[str], str]
    ids: Callable[[Any], list[str]]


def _semsearch_client(service: Service, where: dict[str, str] | None = None) -> Client:
    return Client(
        service,
        lambda text: "/search?" + urlencode({"q": text, "limit": DEPTH, **(where or {})}),
        lambda answer: [hit["paper"]["id"] for hit in answer["results"]],
    )


def _txtai_client(service: Service) -> Client:
    return Client(
        service,
        lambda text: "/search?" + urlencode({"query": text, "limit": DEPTH}),
        lambda answer: [hit["id"] for hit in answer],
    )


def _txtai_filtered(service: Service, field: str, value: str | int, candidates: int | None) -> Client:
    similar = "similar(:text)" if candidates is None else f"similar(:text, {candidates})"
    query = f"select id, text, score from txtai where {similar} and {field} = :value"

    def path(text: str) -> str:
        parameters = json.dumps({"text": text, "value": value})
        return "/search?" + urlencode({"query": query, "limit": DEPTH, "parameters": parameters})

    return Client(service, path, lambda answer: [hit["id"] for hit in answer])


def services(index: Path, papers: Papers, asked: Asked, folder: Path) -> dict[str, Any]:
    """Return what one client waits for hybrid answers of both services, and for filtered ones."""
    result: dict[str, Any] = {"semsearch": {"settings": "semsearch serve, mode hybrid, versions of a work folded"}}
    with ExitStack() as running:
        clients = {"semsearch": _semsearch_client(Service.started(running, served(index)))}
        try:
            facts = txtai_facts() | kept(folder / "txtai", lambda path: txtai_index_of(papers, path))
            for name, threads in _TXTAI_THREADS.items():
                clients[name] = _txtai_client(Service.started(running, txtai_served(folder / "txtai", threads)))
                result[name] = {**facts, "threads": threads or "as it ships"}
        except AbsentError as error:
            result["txtai"] = str(error)
        asked_in_turns(clients, asked.more[:_WARM_UP], "warming up")
        for name, (took, answers) in asked_in_turns(clients, asked.texts, "both").items():
            result[name] |= {"milliseconds": took, **found_titles(_rows_of(answers, papers), asked, papers)}
        fastest = min(
            (name for name in clients if name in _TXTAI_THREADS), key=lambda name: _p50(result, name), default=None
        )
        theirs = clients[fastest].service if fastest else None
        result["filtered"] = list(filtered(clients["semsearch"].service, theirs, papers, asked))
    if fastest:
        result["fastest_txtai"] = fastest
        result["times_txtai"] = round(_p50(result, fastest) / _p50(result, "semsearch"), 2)
    return result


def _p50(result: dict[str, Any], name: str) -> float:
    return float(result[name]["milliseconds"]["p50"])


def _rows_of(answers: Sequence[Sequence[str]], papers: Papers) -> list[Rows]:
    row_of = _rows_by_id(papers)
    return [[row_of[name] for name in ids] for ids in answers]


def asked_in_turns(
    clients: dict[str, Client], texts: Sequence[str], name: str
) -> dict[str, tuple[dict[str, float], list[list[str]]]]:
    """Ask every service all of the texts, a few at a time in turns, so that what else runs slows all alike."""
    seconds: dict[str, list[float]] = {client: [] for client in clients}
    answers: dict[str, list[list[str]]] = {client: [] for client in clients}
    busy = dict.fromkeys(clients, 0.0)
    tell, done = counting(f"services, {name}"), 0
    for start in range(0, len(texts), _BLOCK):
        for which, client in clients.items():
            connection = http.client.HTTPConnection(client.service.address, timeout=120)
            connection.connect()  # anew, because a service ends one that waits for the others
            before = processor_seconds(client.service.pid)
            for text in texts[start : start + _BLOCK]:
                took, answer = _asked(connection, client.path(text))
                seconds[which].append(took)
                answers[which].append(client.ids(answer))
                done += 1
                tell(done, len(texts) * len(clients))
            busy[which] += processor_seconds(client.service.pid) - before
            connection.close()
    return {
        which: (
            milliseconds(seconds[which]) | {"processor": round(1_000 * busy[which] / len(texts), 1)},
            answers[which],
        )
        for which in clients
    }


def _asked(connection: http.client.HTTPConnection, path: str) -> tuple[float, Any]:
    """Return the seconds until the answer was there, and the answer; ask again while the index is being opened."""
    while True:
        started = time.perf_counter()
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        took = time.perf_counter() - started
        if response.status == http.HTTPStatus.OK:
            return took, json.loads(body)
        if response.status != http.HTTPStatus.SERVICE_UNAVAILABLE:
            raise RuntimeError(f"{path}: {response.status} {body[:500]!r}")
        time.sleep(0.2)


def filtered(ours: Service, theirs: Service | None, papers: Papers, asked: Asked) -> Iterator[dict[str, Any]]:
    """Yield, for filters on a year or a venue that leave about these shares, the waits and how many rows come back.

    :param ours: semsearch's service, and `theirs` txtai's, if there is one.
    """
    fresh = asked.more[2 * _WARM_UP :]
    each = len(fresh) // len(_SHARES)
    for place, (field, value, matching) in enumerate(filters_near(papers)):
        typed = str(value) if isinstance(value, int) else escape_label(value)
        clients = {"semsearch": _semsearch_client(ours, {field: typed})}
        if theirs:
            clients["txtai"] = _txtai_filtered(theirs, field, value, None)
            clients[f"txtai_{_MORE_CANDIDATES}_candidates"] = _txtai_filtered(theirs, field, value, _MORE_CANDIDATES)
        texts = fresh[place * each : (place + 1) * each]
        found = asked_in_turns(clients, texts, f"{field}={value}")
        yield {
            "filter": f"{field}={value}",
            "papers": matching,
            "share": round(matching / len(papers.ids), 6),
            "questions": len(texts),
            **{name: {"milliseconds": took, **returned(answers, matching)} for name, (took, answers) in found.items()},
        }


def returned(answers: Sequence[Sequence[str]], matching: int) -> dict[str, float]:
    """Return how many rows came back in the mean, and the share of answers that had all ten, or all that match."""
    counts = [len(ids) for ids in answers]
    return {
        "rows": round(float(np.mean(counts)), 2),
        "complete": round(float(np.mean([count >= min(DEPTH, matching) for count in counts])), 4),
    }


def filters_near(papers: Papers) -> list[tuple[str, str | int, int]]:
    """Return the (field, value, papers) that leave the shares nearest to those wanted, of years and venues."""
    counts = [
        (field, value, count)
        for field, values in (("year", papers.years), ("venue", papers.venues))
        for value, count in Counter(values).items()
        if value is not None
    ]
    total = len(papers.ids)
    nearest = [min(counts, key=lambda each: abs(math.log(each[2] / (share * total)))) for share in _SHARES if counts]
    return [(field, value, count) for field, value, count in nearest]


# Judged sets


def judged(folder: Path, made: Path) -> dict[str, Any]:
    """Return how good the hybrid answers of both are on the test split, each with its own encoder."""
    made.mkdir(parents=True, exist_ok=True)
    subject = JudgedSet.read(folder, "test")
    index = made / f"judged-{folder.name}"
    index_corpus(subject, index)
    with Searcher.open(index) as searcher:
        ranks: dict[str, Rank] = {"semsearch": lambda text: searcher.ranked(text, "hybrid")}
        facts: dict[str, Any] | str
        try:
            facts = txtai_facts()
            ranks["txtai"] = _txtai_rank(searcher, made / f"judged-{folder.name}-txtai")
        except AbsentError as error:
            facts = str(error)
        scores = {name: ask_judged(subject, rank, counting(f"{folder.name}, {name}")) for name, rank in ranks.items()}
        return {
            "rankings": side_by_side(scores),
            "txtai": facts,
            "judged": subject.counts(),
            **index_facts(searcher.generation),
        }


def _txtai_rank(searcher: Searcher, folder: Path) -> Rank:
    """Return txtai's hybrid ranking of the same papers."""

    def make(path: Path) -> None:
        papers = Papers.of(searcher)
        txtai_index(papers.ids, [{"text": text} for text in papers.texts], None, path)

    kept(folder, make)
    embeddings, one_at_a_time = required("txtai").Embeddings(), threading.Lock()
    embeddings.load(str(folder))

    def rank(text: str) -> list[str]:
        with one_at_a_time:  # as its service does
            return [hit["id"] for hit in embeddings.search(text, _JUDGED_DEPTH)]

    return rank


if __name__ == "__main__":
    print(f"{os.cpu_count()} cores", file=sys.stderr)
    main()
