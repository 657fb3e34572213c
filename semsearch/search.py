"""Which papers are nearest to a query, and why?

The reading corridor: query -> vector -> nearest rows of one generation -> papers from the library -> hits. A searcher
holds one generation from its opening to its end, so all of its answers come from the same state of the index.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from semsearch.encoders import Encoder, LazyEncoder, checked, find_model
from semsearch.errors import EncoderError, PaperNotFoundError, RecordError
from semsearch.generation import Generation, IndexFolder, open_current
from semsearch.library import Library
from semsearch.papers import Paper, normalise_id, normalise_text
from semsearch.publishing import check_made_from

MAX_WINDOW = 1_000
"""How far one can page: offset + limit."""
MAX_QUERY_CHARACTERS = 10_000

_SCORE_DECIMALS = 6
_TIE_MARGIN = 1e-5  # well over the rounding to 1e-6 and twice the error of the scan's float32 arithmetic
_SPARE_ROWS = 16


@dataclass(frozen=True, slots=True)
class LegEvidence:
    """Where the dense leg put a hit: its rank, from 1, and its cosine with the query."""

    rank: int
    cosine: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a paper is among the hits."""

    dense: LegEvidence


@dataclass(frozen=True, slots=True)
class Hit:
    """One paper of an answer; `rank` counts from 1 over all pages, `score` is higher for the nearer paper."""

    rank: int
    score: float
    paper: Paper
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Answer:
    """The hits of one page and what they were chosen from.

    `total` papers could be hits, `took_ms` is the time in milliseconds with the query's encoding, `recall_at_10` is
    measured against exact search.
    """

    hits: tuple[Hit, ...]
    total: int
    took_ms: float
    mode: str
    generation: int
    model: str
    approximate: bool
    recall_at_10: float


class Searcher:
    """Search over one generation; safe to share between threads."""

    def __init__(self, library: Library, generation: Generation, encoder: Encoder) -> None:
        """Join the three.

        :raises EncoderError: if the encoder's vector space is not the generation's.
        """
        made_by, given = generation.manifest.encoder, encoder.spec
        if made_by.fingerprint != given.fingerprint:
            raise EncoderError(
                f"the index was made with {made_by.name} ({made_by.fingerprint[:12]}), this encoder is {given.name} "
                f"({given.fingerprint[:12]}); encode the papers anew with: "
                f"semsearch index --index {library.path.parent} --model {given.name}"
            )
        self.library = library
        self.generation = generation
        self.encoder = encoder

    @classmethod
    def open(cls, path: str | Path, device: str | None = None) -> "Searcher":
        """Return a searcher over the index folder at `path`, with the encoder it was made with.

        :raises IndexMissingError: if there is no index.
        :raises NoGenerationError: if no generation of it can serve.
        :raises LibraryDamageError: if the generation was not made from the library beside it.
        :raises EncoderError: if its encoder is not to be had, or makes another vector space now.
        """
        folder = IndexFolder(Path(path))
        generation = open_current(folder)
        encoder = LazyEncoder(find_model(generation.manifest.encoder.name, folder.networks), device)
        library = Library.open(folder.library)
        try:
            check_made_from(library, generation)
            return cls(library, generation, encoder)
        except BaseException:
            library.close()
            raise

    def close(self) -> None:
        """Close the library; the searcher cannot be used afterwards."""
        self.library.close()

    def __enter__(self) -> Self:
        """Return the searcher itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the searcher."""
        self.close()

    def search(self, query: str, limit: int = 10, offset: int = 0) -> Answer:
        """Return the papers nearest to a question in plain words.

        :raises ValueError: if the query is blank, too long or not text, or the page reaches beyond rank 1,000.
        """
        started = time.perf_counter()
        text = clean_query(query)
        vector = checked(self.encoder.encode_queries([text]), 1, self.encoder.spec.dimension)[0]
        return self._answer(vector, np.empty(0, dtype=np.int64), limit, offset, started)

    def related(self, paper_ids: Sequence[str], limit: int = 10, offset: int = 0) -> Answer:
        """Return the papers nearest to the mean of these papers' stored vectors, without these papers.

        :raises PaperNotFoundError: naming the ids that are not in the index.
        :raises ValueError: if no id is given, or the page reaches beyond rank 1,000.
        """
        started = time.perf_counter()
        if not paper_ids:
            raise ValueError("name at least one paper")
        seeds = np.unique(np.array([row for row, _ in self._located(paper_ids)], dtype=np.int64))
        mean = self.generation.vectors_at(seeds).mean(axis=0, dtype=np.float64)
        length = np.linalg.norm(mean)
        if length < 1e-9:
            raise ValueError("these papers point in opposite directions; there is nothing between them")
        return self._answer((mean / length).astype(np.float32), seeds, limit, offset, started)

    def related_to_text(self, title: str, abstract: str, limit: int = 10, offset: int = 0) -> Answer:
        """Return the papers nearest to a pasted title and abstract, read as a paper's text is read.

        :raises ValueError: if both are blank, or too long or not text, or the page reaches beyond rank 1,000.
        """
        started = time.perf_counter()
        text = clean_query(f"{title} {abstract}".strip())
        vector = checked(self.encoder.encode_passages(self.encoder.tokenise([text])), 1, self.encoder.spec.dimension)[0]
        return self._answer(vector, np.empty(0, dtype=np.int64), limit, offset, started)

    def paper(self, paper_id: str) -> Paper:
        """Return the paper with this id, in whatever spelling.

        :raises PaperNotFoundError: if it is not in the index.
        """
        ((_, seq),) = self._located([paper_id])
        return self.library.versions_at([seq])[seq].paper

    def _located(self, paper_ids: Sequence[str]) -> list[tuple[int, int]]:
        """Return the (row, seq) of each paper."""
        found: list[tuple[int, int]] = []
        unknown: list[str] = []
        for paper_id in paper_ids:
            try:
                versions = np.array(self.library.versions_of(normalise_id(paper_id)), dtype=np.int64)
            except RecordError:
                versions = np.empty(0, dtype=np.int64)
            rows = self.generation.rows_of(versions)
            live = np.flatnonzero(self.generation.is_live(rows))
            if live.size:
                found.append((int(rows[live[-1]]), int(versions[live[-1]])))
            else:
                unknown.append(paper_id)
        if unknown:
            raise PaperNotFoundError(f"not in the index: {', '.join(repr(paper_id) for paper_id in unknown[:10])}")
        return found

    def _answer(
        self, vector: NDArray[np.float32], excluded: NDArray[np.int64], limit: int, offset: int, started: float
    ) -> Answer:
        if limit < 1 or offset < 0 or offset + limit > MAX_WINDOW:
            raise ValueError(f"limit must be 1 or more, offset 0 or more, and both together at most {MAX_WINDOW:,}")
        ranked = self._ranked(vector, excluded, offset + limit)[offset : offset + limit]
        versions = self.library.versions_at([seq for _, seq in ranked])
        hits = tuple(
            Hit(rank, score, versions[seq].paper, Evidence(LegEvidence(rank, score)))
            for rank, (score, seq) in enumerate(ranked, offset + 1)
            if seq in versions  # purged since this generation was published
        )
        manifest = self.generation.manifest
        return Answer(
            hits=hits,
            total=self.generation.papers - len(excluded),
            took_ms=round((time.perf_counter() - started) * 1_000, 3),
            mode="dense",
            generation=manifest.generation,
            model=manifest.encoder.name,
            approximate=manifest.approximate,
            recall_at_10=manifest.recall_at_10,
        )

    def _ranked(self, vector: NDArray[np.float32], excluded: NDArray[np.int64], count: int) -> list[tuple[float, int]]:
        """Return (score, seq) of the `count` best rows, ordered by score rounded to 1e-6 and then by paper id.

        The scan fetches past the last place until nothing left could tie with it; then every candidate is scored again
        in one fixed arithmetic, so that neither threads nor batches nor segments can change an answer.
        """
        available = self.generation.papers - len(excluded)
        wanted = min(count, available)
        if wanted <= 0:
            return []
        fetch = wanted + len(excluded) + _SPARE_ROWS
        while True:
            scores, rows = (found[0] for found in self.generation.nearest(vector[None, :], fetch))
            keep = ~np.isin(rows, excluded)
            scores, rows = scores[keep], rows[keep]
            if len(rows) >= available or scores[-1] < scores[wanted - 1] - _TIE_MARGIN:
                break
            fetch *= 2
        exact = np.round(_exact_scores(self.generation.vectors_at(rows), vector), _SCORE_DECIMALS)
        seqs = self.generation.seqs_at(rows).tolist()
        paper_ids = self.library.ids_at(seqs)
        ordered = sorted(zip(exact.tolist(), seqs, strict=True), key=lambda pair: (-pair[0], paper_ids[pair[1]]))
        return ordered[:wanted]


def _exact_scores(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float64]:
    scores: NDArray[np.float64] = np.einsum("nd,d->n", vectors.astype(np.float64), query.astype(np.float64))
    return scores


def clean_query(query: str) -> str:
    """Return the query normalised as papers are.

    :raises ValueError: if nothing is left of it, it has more than 10,000 characters, or it is not text.
    """
    if len(query) > MAX_QUERY_CHARACTERS:
        raise ValueError(f"the text has more than {MAX_QUERY_CHARACTERS:,} characters; shorten it")
    try:
        text = normalise_text(query)
    except RecordError as error:
        raise ValueError(str(error)) from None
    if not text:
        raise ValueError("the text is blank; type a question or paste an abstract")
    return text
