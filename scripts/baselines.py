"""Other ways to search the same papers, each set up as its documentation recommends.

numpy, FAISS and SQLite are there anyway. hnswlib, bm25s and txtai come with the extra `bench`; they are imported where
they are needed, so that whoever lacks one can measure with the others.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from benchmark_vectors import least_effort
from measuring import counting, stopwatch
from numpy.typing import NDArray

from semsearch import Library, Searcher, update_index
from semsearch.encoders import ModelFolder
from semsearch.generation import IndexFolder
from semsearch.library import Embedding

Matrix = NDArray[np.float32]
Rows = Sequence[int] | NDArray[np.int64]

DEPTH = 10
_PAPERS_PER_READ = 2_000
_ORIGIN = "benchmark"
_HNSW_LINKS, _HNSW_MAKING_EFFORT = 16, 200  # what hnswlib's README makes its examples with
_EFFORT_CHOSEN = "the least that finds 0.99 of the nearest to all questions, or the most tried"
_WORD = re.compile(r"\w+")
_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be by for from has have how in is it its no not of on or that the their there these this "
        "to was what when which who why will with you your",
    )
)
_START_SECONDS = 600.0


class AbsentError(Exception):
    """A baseline that is not installed here."""


def required(name: str, *parts: str) -> Any:
    """Return the module of this name.

    :param parts: what must be importable besides.
    :raises AbsentError: if one of them is not installed.
    """
    for each in (name, *parts):
        if importlib.util.find_spec(each) is None:
            raise AbsentError(f"left out, because {each} is not installed: pip install -c constraints.txt '.[bench]'")
    return importlib.import_module(name)


# The papers


@dataclass(frozen=True, slots=True)
class Papers:
    """What every engine is given, by row: the text that is embedded, what filters read, and the vectors."""

    ids: list[str]
    texts: list[str]
    titles: list[str]
    years: list[int | None]
    venues: list[str | None]
    matrix: Matrix

    @classmethod
    def of(cls, searcher: Searcher) -> "Papers":
        """Return all papers of an index, with their vectors as its library has them."""
        library, spec, seqs = searcher.library, searcher.encoder.spec, searcher.generation.live_seqs()
        number, tell = library.known_encoder(spec.fingerprint), counting("papers read")
        assert number is not None, "the index was made with it"
        papers = cls([], [], [], [], [], np.empty((len(seqs), spec.dimension), dtype=np.float32))
        for start in range(0, len(seqs), _PAPERS_PER_READ):
            batch = seqs[start : start + _PAPERS_PER_READ].tolist()
            versions = library.versions_at(batch)
            for paper in (versions[seq].paper for seq in batch):
                papers.ids.append(paper.paper_id)
                papers.texts.append(paper.text)
                papers.titles.append(paper.title.lower())
                papers.years.append(paper.year)
                papers.venues.append(paper.venue)
            vectors = [some for _, some in library.vectors_at(batch, number)]
            papers.matrix[start : start + len(batch)] = np.concatenate(vectors)
            tell(start + len(batch), len(seqs))
        return papers


def index_of_first(index: Path, count: int, made: Path) -> None:
    """Make an index of the first papers of another, with the vectors that they have there."""
    with Searcher.open(index) as searcher, Library.create(IndexFolder(made).library) as library:
        spec, seqs = searcher.encoder.spec, searcher.generation.live_seqs()[:count]
        theirs = searcher.library.known_encoder(spec.fingerprint)
        assert theirs is not None, "the index was made with it"
        ours, tell = library.encoder_number(spec.fingerprint, spec.name), counting("papers copied")
        for start in range(0, len(seqs), _PAPERS_PER_READ):
            batch = seqs[start : start + _PAPERS_PER_READ].tolist()
            versions = [version for _, version in sorted(searcher.library.versions_at(batch).items())]
            vectors = np.concatenate([some for _, some in searcher.library.vectors_at(batch, theirs)])
            embeddings = [Embedding(each.text_digest, row, 0) for each, row in zip(versions, vectors, strict=True)]
            library.add_versions(_ORIGIN, [version.paper for version in versions], embeddings, ours)
            tell(start + len(batch), len(seqs))
    update_index(made, [])


def kept(path: Path, make: Callable[[Path], object]) -> dict[str, Any]:
    """Make what belongs to this path, unless an earlier run did; return how many seconds that took then."""
    told = path.with_name(f"{path.name}.json")
    if not told.exists():
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
        print(f"making {path.name}", file=sys.stderr)
        with stopwatch() as making:
            make(path)
        told.write_text(json.dumps({"making_seconds": round(making.seconds, 1)}))
    facts: dict[str, Any] = json.loads(told.read_text())
    return facts


# Engines


@dataclass(frozen=True, slots=True)
class Engine:
    """Something that finds rows, best first, by a vector or by a text, and how it was set up."""

    ask: Callable[[Any], Rows]
    facts: dict[str, Any]
    close: Callable[[], None] = lambda: None


def numpy_scan(papers: Papers) -> Engine:
    """Return a matrix product over all vectors."""
    matrix = papers.matrix

    def ask(query: Matrix) -> Rows:
        scores = matrix @ query
        rows = np.argpartition(scores, -DEPTH)[-DEPTH:]
        return rows[np.argsort(-scores[rows])]

    return Engine(ask, {"version": np.__version__, "settings": "float32 matrix product, argpartition"})


def faiss_flat(papers: Papers) -> Engine:
    """Return FAISS's scan of all vectors."""
    index = faiss.IndexFlatIP(papers.matrix.shape[1])
    index.add(papers.matrix)

    def ask(query: Matrix) -> Rows:
        rows: Rows = index.search(query[None, :], DEPTH)[1][0]
        return rows

    return Engine(ask, {"version": faiss.__version__, "settings": "IndexFlatIP, float32"})


def hnsw(papers: Papers, asked: Matrix, true: NDArray[np.int64], folder: Path) -> Engine:
    """Return hnswlib's graph, searched with the least effort that finds 0.99 of the ten nearest to what is asked.

    :param true: their rows, shape (asked, 10).
    :raises AbsentError: if it is not installed.
    """
    hnswlib = required("hnswlib")
    rows, dimension = papers.matrix.shape

    def make(path: Path) -> None:
        made = hnswlib.Index("ip", dimension)
        made.init_index(rows, ef_construction=_HNSW_MAKING_EFFORT, M=_HNSW_LINKS)
        tell = counting("graph")
        for start in range(0, rows, _PAPERS_PER_READ):
            made.add_items(papers.matrix[start : start + _PAPERS_PER_READ])
            tell(min(start + _PAPERS_PER_READ, rows), rows)
        made.save_index(str(path))

    facts = kept(folder / "hnsw.bin", make)
    index = hnswlib.Index("ip", dimension)
    index.load_index(str(folder / "hnsw.bin"))

    def ask(query: Matrix, effort: int) -> NDArray[np.int64]:
        index.set_ef(effort)
        found: NDArray[np.int64] = index.knn_query(query, DEPTH, num_threads=1)[0][0].astype(np.int64)
        return found

    effort = least_effort(ask, {"asked": asked}, {"asked": true})["asked"]["effort"]
    settings = f"M={_HNSW_LINKS}, ef_construction={_HNSW_MAKING_EFFORT}, ef={effort}: {_EFFORT_CHOSEN}"
    return Engine(lambda query: ask(query, effort), {"version": _version("hnswlib"), "settings": settings, **facts})


def bm25s(papers: Papers) -> Engine:
    """Return bm25s, with the stemmer and the compiler that its documentation recommends where they are installed.

    :raises AbsentError: if it is not installed.
    """
    module = required("bm25s")
    stemmer = importlib.import_module("Stemmer").Stemmer("english") if importlib.util.find_spec("Stemmer") else None
    with stopwatch() as making:
        retriever = module.BM25(backend="auto")
        tokens = module.tokenize(papers.texts, stopwords="en", stemmer=stemmer, show_progress=False)
        retriever.index(tokens, show_progress=False)
        del tokens

    def ask(text: str) -> Rows:
        (words,) = module.tokenize([text], stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)
        words = retriever.get_tokens_ids(words)
        if not words:
            return []
        found, scores = retriever.retrieve([words], k=DEPTH, n_threads=1, show_progress=False)
        rows: Rows = found[0][scores[0] > 0]
        return rows

    settings = f"Lucene's BM25, English stop words, stemmer: {bool(stemmer)}, backend: {retriever.backend}"
    facts = {"version": _version("bm25s"), "settings": settings, "making_seconds": round(making.seconds, 1)}
    return Engine(ask, facts)


def fts5(papers: Papers, folder: Path) -> Engine:
    """Return SQLite's full-text index."""

    def make(path: Path) -> None:
        with sqlite3.connect(path) as made:
            made.execute("CREATE VIRTUAL TABLE papers USING fts5(text, content='', tokenize='porter unicode61')")
            made.executemany("INSERT INTO papers (rowid, text) VALUES (?, ?)", enumerate(papers.texts))
            made.execute("INSERT INTO papers (papers) VALUES ('optimize')")
        made.close()

    facts = kept(folder / "fts5.db", make)
    connection = sqlite3.connect(folder / "fts5.db")

    def ask(text: str) -> Rows:
        words = [word for word in _WORD.findall(text.lower()) if word not in _STOP_WORDS]
        wanted = " OR ".join(f'"{word}"' for word in words)
        found = connection.execute(_FTS5_ASK, (wanted, DEPTH)) if wanted else ()
        return [row for (row,) in found]

    settings = "bm25() by rank, any word but stop words, tokenizer porter unicode61, optimized"
    return Engine(ask, {"version": sqlite3.sqlite_version, "settings": settings, **facts}, connection.close)


_FTS5_ASK = "SELECT rowid FROM papers WHERE papers MATCH ? ORDER BY rank LIMIT ?"


def _version(package: str) -> str:
    return importlib.metadata.version(package)


# txtai

TXTAI_SETTINGS = (
    "content=True, hybrid=True (BM25 and vectors, half each), FAISS with its default lists, the model from its folder"
)


def txtai_facts() -> dict[str, Any]:
    """Return how txtai is set up.

    :raises AbsentError: if it is not installed with its API.
    """
    required("txtai", "fastapi_mcp", "httpx", "multipart", "PIL")
    return {"version": _version("txtai"), "settings": TXTAI_SETTINGS}


def txtai_embeddings() -> Any:
    """Return an empty index of txtai's, which encodes with the packaged model as txtai does by default."""
    settings = {"path": str(ModelFolder.find().path), "content": True, "hybrid": True}
    return required("txtai").Embeddings(settings)


def txtai_index(ids: Sequence[str], papers: Sequence[dict[str, Any]], vectors: Matrix | None, folder: Path) -> None:
    """Make txtai's index of these papers in the folder, each with its `text` and what filters read.

    :param vectors: of the texts, shape (n, dimension), float32; by default txtai encodes them.
    """
    embeddings, encoded, tell = txtai_embeddings(), 0, counting("papers given to txtai")
    encode = embeddings.model.encode

    def counted(texts: Sequence[str], category: str | None = None) -> Matrix:
        nonlocal encoded
        found: Matrix = encode(texts, category) if vectors is None else vectors[encoded : encoded + len(texts)].copy()
        encoded += len(texts)
        tell(encoded, len(ids))
        return found

    embeddings.model.encode = counted
    embeddings.index((name, paper, None) for name, paper in zip(ids, papers, strict=True))
    assert embeddings.count() == len(ids), "every paper has a vector"
    embeddings.save(str(folder))
    embeddings.close()


def txtai_index_of(papers: Papers, folder: Path) -> None:
    """Make txtai's index of the papers and their vectors."""
    columns = zip(papers.texts, papers.years, papers.venues, strict=True)
    documents = [{"text": text, "year": year, "venue": venue} for text, year, venue in columns]
    txtai_index(papers.ids, documents, papers.matrix, folder)


@contextmanager
def txtai_served(folder: Path, threads: int | None = None) -> Iterator[str]:
    """Serve the index with txtai's own API in a process of its own until the end; give its host and port.

    :param threads: that its model computes with; by default as many as PyTorch takes.
    """
    config = folder.with_name("txtai-service.yml")
    model = {"path": str(ModelFolder.find().path), "content": True, "hybrid": True}
    config.write_text(json.dumps({"path": str(folder), "writable": False, "embeddings": model}))  # JSON is YAML
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    host, port = address.split(":")
    limit = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    command = [sys.executable, "-m", "uvicorn", "txtai.api:app", "--host", host, "--port", port]
    server = subprocess.Popen(
        [*command, "--no-access-log", "--log-level", "warning"],
        env=os.environ | {"CONFIG": str(config), "HF_HUB_OFFLINE": "1"} | limit,
        stdout=sys.stderr,
    )
    try:
        _wait_for(f"http://{address}/count", server)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(url: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"the service ended with {server.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=60):
                return
        except urllib.error.URLError:
            time.sleep(0.2)
    raise RuntimeError(f"{url} did not answer within {_START_SECONDS:.0f} s")
