"""Which papers are nearest to a query, and why?

The reading corridor: query and filter -> rows allowed -> both legs -> one ranking -> works -> papers from the library
-> hits. A searcher holds one generation from its opening to its end, so all of its answers come from the same state of
the index.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from semsearch.columns import Facet
from semsearch.encoders import Encoder, LazyEncoder, checked, find_model
from semsearch.errors import EncoderError, LibraryDamageError, PaperNotFoundError, RecordError
from semsearch.evidence import QueryTerms, explain
from semsearch.filters import EVERY_PAPER, Filter
from semsearch.generation import Allowed, Generation, IndexFolder, open_current
from semsearch.latest import Latest
from semsearch.lexical import analyse, spellings
from semsearch.library import Library
from semsearch.papers import Paper, normalise_id, normalise_text
from semsearch.publishing import check_made_from
from semsearch.queries import LexicalQuery, parse_query
from semsearch.ranking import MODES, Mode, Question, Ranker, Ranking
from semsearch.stages import stage
from semsearch.weakness import is_weak

MAX_WINDOW = 1_000
"""How far one can page: offset + limit."""
MAX_QUERY_CHARACTERS = 10_000
MAX_VERSIONS = 20
"""How many other versions of its work a hit names."""

_DISLIKED_WEIGHT = 0.5
_FIRST_WINDOW = 32
_KEPT_FILTERS = 4
"""Who filters asks more than one question, or turns pages. One may take tens of bytes for each paper."""

Collapse = Literal["work", "none"]


@dataclass(frozen=True, slots=True)
class LegEvidence:
    """Where one leg put a hit: its rank, from 1, None beyond the leg's first 1,000, and its score there."""

    rank: int | None
    score: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a paper is among the hits.

    `dense` (score: the cosine) and `lexical` (score: BM25) are None where that leg was not asked. `sentence` is the
    best one, abstract[start:end], None if none holds a word of the query; `terms` are the query's words that the paper
    holds.
    """

    dense: LegEvidence | None
    lexical: LegEvidence | None
    sentence: tuple[int, int] | None
    terms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """One paper of an answer; `rank` counts from 1 over all pages, `score` is higher for the nearer paper.

    `versions` are the other papers of the same work.
    """

    rank: int
    score: float
    paper: Paper
    evidence: Evidence
    versions: tuple[Paper, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """The hits of one page and what they were chosen from.

    `total` works (papers, if nothing is folded) could be hits, or at least so many if not `total_is_exact`. `took_ms`
    is the time in milliseconds with the query's encoding. `approximate` says that not all vectors were looked at, which
    finds `recall_at_10` of the ten nearest, measured when the index was made; lists decide nothing by words. `facets`
    count what `total` counts, and are None if not asked for. `weak` says that nothing in the index is a good answer; it
    is None where that is not known: for papers like others, by words alone, and in a small index.
    """

    hits: tuple[Hit, ...]
    total: int
    total_is_exact: bool
    took_ms: float
    mode: Mode
    generation: int
    model: str
    approximate: bool
    recall_at_10: float
    facets: dict[str, Facet] | None = None
    weak: bool | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of an answer is wanted, and from which papers.

    :raises ValueError: if the page reaches beyond rank 1,000, or a value is none of those it may be.
    """

    limit: int = 10
    offset: int = 0
    where: Filter = EVERY_PAPER
    collapse: Collapse = "work"
    facet_values: int = 0
    """How many values each facet tells; 0 for no facets."""
    approximate: bool = True
    """Whether large segments may be searched by way of lists; else every vector is looked at."""

    def __post_init__(self) -> None:
        """Refuse a page that reaches too far."""
        if self.limit < 1 or self.offset < 0 or self.offset + self.limit > MAX_WINDOW:
            raise ValueError(f"limit must be 1 or more, offset 0 or more, and both together at most {MAX_WINDOW:,}")
        if self.facet_values < 0:
            raise ValueError(f"facet_values must be 0 or more, not {self.facet_values}")
        if self.collapse not in get_args(Collapse):
            raise ValueError(f"collapse must be one of {', '.join(get_args(Collapse))}, not {self.collapse!r}")


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
        self._filtered: Latest[Filter, Allowed] = Latest(_KEPT_FILTERS)

    @classmethod
    def open(cls, path: str | Path, device: str | None = None) -> "Searcher":
        """Return a searcher over the index folder at `path`, with the encoder it was made with.

        :raises IndexMissingError: if there is no index.
        :raises NoGenerationError: if no generation of it can serve.
        :raises LibraryDamageError: if the generation was not made from the library beside it.
        :raises EncoderError: if its encoder is not to be had, or makes another vector space now.
        """
        folder = IndexFolder(Path(path))
        return cls.over(folder, open_current(folder), device)

    @classmethod
    def over(cls, folder: IndexFolder, generation: Generation, device: str | None = None) -> "Searcher":
        """Return a searcher over this generation of the index; it raises what `open` does."""
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

    def search(self, query: str, page: Page = Page(), mode: Mode = "hybrid") -> Answer:
        """Return the papers that answer a question in plain words.

        `"a phrase"`, `title:word` and `author:name` are demanded of every hit, `-word` is excluded.

        :raises ValueError: if the query is blank, too long or not text, or there is no such mode.
        """
        started = time.perf_counter()
        asked, question = self._question(query, mode, page.where, exact=not page.approximate)
        return self._answer(question, asked.text, page, started, asked)

    def ranked(self, query: str, mode: Mode = "hybrid", where: Filter = EVERY_PAPER) -> list[str]:
        """Return the ids of the first 1,000 papers that `search` finds with no work folded, best first.

        No paper is read and nothing is explained. So a paper that was purged since this generation was published is
        named here, and left out there.

        :raises ValueError: if the query is blank, too long or not text.
        """
        _, question = self._question(query, mode, where)
        rows = Ranker(self.generation, question).ranked(MAX_WINDOW).rows[:MAX_WINDOW]
        return self.generation.ids_at(rows)

    def related(self, paper_ids: Sequence[str], page: Page = Page(), disliked: Sequence[str] = ()) -> Answer:
        """Return the papers nearest to these: by the mean of their vectors, and by the words of all of them.

        The mean is taken away from that of the disliked ones, whose words count nothing. None of the papers named, in
        whatever version, is among the hits.

        :raises PaperNotFoundError: naming the ids that are not in the index.
        :raises ValueError: if no id is given, or nothing is left of the mean.
        """
        started = time.perf_counter()
        if not paper_ids or isinstance(paper_ids, str) or isinstance(disliked, str):
            raise ValueError("name at least one paper, in a list")
        liked, avoided = self._seqs_of(paper_ids), self._seqs_of(disliked)
        vector = self._between(liked, avoided)
        words = LexicalQuery.of_text(self._texts_of(liked))
        rows = self.generation.rows_of(np.concatenate([liked, avoided])).tolist()
        named = np.concatenate([self.generation.works.versions_of(row) for row in rows])
        allowed = self._allowed(page.where, words, named.tolist())
        question = Question(vector, words, allowed, exact=not page.approximate)
        return self._answer(question, words.text, page, started)

    def related_to_text(self, title: str, abstract: str, page: Page = Page()) -> Answer:
        """Return the papers nearest to a pasted title and abstract, read as a paper's text is read, and by its words.

        :raises ValueError: if both are blank, or too long or not text.
        """
        started = time.perf_counter()
        text = clean_query(f"{title} {abstract}".strip())
        vector = self._passage_vector(text)
        words = LexicalQuery.of_text(text)
        question = Question(vector, words, self._allowed(page.where, words), exact=not page.approximate)
        return self._answer(question, text, page, started)

    def paper(self, paper_id: str) -> Paper:
        """Return the paper with this id, in whatever spelling.

        :raises PaperNotFoundError: if it is not in the index.
        """
        (seq,) = self._seqs_of([paper_id]).tolist()
        return self.library.versions_at([seq])[seq].paper

    def _seqs_of(self, paper_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the seq of each of these papers, each once, ascending: unlike rows, seqs never change."""
        found: list[int] = []
        unknown: list[str] = []
        for paper_id in paper_ids:
            try:
                versions = self._versions_of(normalise_id(paper_id))
            except RecordError:
                versions = np.empty(0, dtype=np.int64)
            live = versions[self.generation.is_live(self.generation.rows_of(versions))]
            if live.size:
                found.append(int(live[-1]))
            else:
                unknown.append(paper_id)
        if unknown:
            raise PaperNotFoundError(f"not in the index: {', '.join(repr(paper_id) for paper_id in unknown[:10])}")
        return np.unique(np.array(found, dtype=np.int64))

    def _between(self, liked: NDArray[np.int64], avoided: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the direction of the mean of these papers' vectors, away from that of the avoided ones."""
        generation = self.generation
        towards = generation.vectors_at(generation.rows_of(liked)).mean(axis=0, dtype=np.float64)
        if avoided.size:
            away = generation.vectors_at(generation.rows_of(avoided)).mean(axis=0, dtype=np.float64)
            towards -= _DISLIKED_WEIGHT * away
        length = np.linalg.norm(towards)
        if length < 1e-9:
            raise ValueError("these papers point in opposite directions; there is nothing between them")
        unit: NDArray[np.float32] = (towards / length).astype(np.float32)
        return unit

    def _texts_of(self, seqs: NDArray[np.int64]) -> str:
        """Return what these papers say, one after the other."""
        versions = self.library.versions_at(seqs.tolist())
        return " ".join(version.paper.text for _, version in sorted(versions.items()))

    def _rows_of_ids(self, paper_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the rows of those papers that there are."""
        versions = [self._versions_of(paper_id) for paper_id in paper_ids]
        return self.generation.rows_of(np.concatenate([np.empty(0, dtype=np.int64), *versions]))

    def _versions_of(self, paper_id: str) -> NDArray[np.int64]:
        """Return the seqs of this paper's versions, ascending.

        :raises LibraryDamageError: if the library has never met a paper that the generation was made with.
        """
        versions = self.library.versions_of(paper_id)
        if not versions and not self.library.has_met(paper_id):  # a damaged key would hide it
            rows = self.generation.rows_of(self.generation.lexical.named(paper_id))
            if paper_id in self.generation.ids_at(rows[self.generation.is_live(rows)]):
                raise LibraryDamageError(
                    f"{self.library.path} no longer finds paper {paper_id!r}, which it held; restore it from a backup"
                )
        return np.array(versions, dtype=np.int64)

    def _question(self, query: str, mode: Mode, where: Filter, *, exact: bool = False) -> tuple[LexicalQuery, Question]:
        """Return what a query asks for, as it was read and as it is ranked.

        What is the title of a paper is read as nothing else, whatever signs it holds; but what is demanded stays so: a
        phrase in quotes may be the whole title of one paper, and is meant to be held by many.
        """
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
        text = clean_query(query)
        titled = self.generation.titled(text)
        asked = parse_query(text)
        if titled.size and not asked.required:
            asked = LexicalQuery.of_text(text)
        subject = asked.text if mode != "lexical" else ""
        vector = self._query_vector(subject) if subject else None
        words = asked if mode != "dense" or vector is None else None
        return asked, Question(vector, words, self._allowed(where, asked), titled, exact)

    @stage("encode")
    def _query_vector(self, text: str) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = checked(self.encoder.encode_queries([text]), 1, self.encoder.spec.dimension)[0]
        return vector

    @stage("encode")
    def _passage_vector(self, text: str) -> NDArray[np.float32]:
        vectors = self.encoder.encode_passages(self.encoder.tokenise([text]))
        vector: NDArray[np.float32] = checked(vectors, 1, self.encoder.spec.dimension)[0]
        return vector

    @stage("filter")
    def _allowed(self, where: Filter, asked: LexicalQuery, excluded: Sequence[int] = ()) -> Allowed | None:
        """Return which rows may be hits; None if all live ones may."""
        generation = self.generation
        required = generation.lexical.holding(asked.required, every=True)
        unwanted = generation.lexical.holding(asked.excluded, every=False)
        meeting = None if where == EVERY_PAPER else self._filtered.get(where, lambda: self._meeting(where))
        if required is None and unwanted is None and not excluded:
            return meeting
        allowed = (generation.live if meeting is None else meeting.mask).copy()
        if required is not None:
            holding = np.zeros_like(allowed)
            holding[generation.rows_of(required)] = True
            allowed &= holding
        if unwanted is not None:
            allowed[generation.rows_of(unwanted)] = False
        allowed[np.array(excluded, dtype=np.int64)] = False
        return Allowed(generation, allowed)

    def _meeting(self, where: Filter) -> Allowed:
        return Allowed(self.generation, self.generation.matching(where, self._rows_of_ids))

    def _answer(
        self,
        question: Question,
        text: str,
        page: Page,
        started: float,
        asked: LexicalQuery | None = None,
    ) -> Answer:
        """Rank, fold, cut out the page, and say why each of its papers is there, by the words of `text`.

        :param asked: the question whose answer may be weak.
        """
        generation, manifest = self.generation, self.generation.manifest
        ranking, places, complete = self._window(Ranker(generation, question), page)
        hits = self._hits(ranking, places, page, self._terms_of(text))
        found = question.allowed
        exact = question.vector is not None or bool(question.words and question.words.required)
        if not exact:  # of the rows that are allowed, some hold no word
            mask = np.zeros(manifest.rows, dtype=np.bool_)
            mask[ranking.rows] = True
            found, exact = Allowed(generation, mask), complete
        total = self._total(found, page)
        facets = self._facets(generation.live if found is None else found.mask, page) if page.facet_values else None
        approximate = manifest.approximate and page.approximate and question.vector is not None
        return Answer(
            hits=hits,
            total=total,
            total_is_exact=exact,
            took_ms=round((time.perf_counter() - started) * 1_000, 3),
            mode=question.mode,
            generation=manifest.generation,
            model=manifest.encoder.name,
            approximate=approximate,
            recall_at_10=manifest.recall_at_10 if approximate else 1.0,
            facets=facets,
            weak=is_weak(generation, asked, question.mode, ranking) if asked else None,
        )

    def _window(self, ranker: Ranker, page: Page) -> tuple[Ranking, Sequence[int], bool]:
        """Return the ranking, the places in it that are shown, and whether it holds all that could be found.

        The window is the same for all pages, because it decides what is joined; where meaning alone is asked, its order
        is the same in every window up to that, and one is taken that holds the page. Where so much is folded that the
        page would come out short, all of it is settled, and then it grows: what comes new with that stands behind the
        rest, so that pages before this one are no other.
        """
        wanted = page.offset + page.limit
        settled = None if ranker.mode == "dense" else 2 * wanted
        window = min(max(2 * wanted, _FIRST_WINDOW), MAX_WINDOW) if ranker.mode == "dense" else MAX_WINDOW
        ranking = widest = ranker.ranked(window, places=settled)
        while True:
            rows = ranking.rows[: ranking.settled]
            collapsed = page.collapse == "work"
            places = self.generation.works.best_of_each(rows).tolist() if collapsed else range(len(rows))
            complete = len(widest.rows) < window
            if len(places) >= wanted or (complete and len(rows) == len(ranking.rows)):
                return ranking, places, complete
            if len(rows) < len(ranking.rows):
                ranking = widest = ranker.ranked(window)
            else:
                window = min(2 * window, MAX_WINDOW) if window < MAX_WINDOW else 2 * window
                widest = ranker.ranked(window)
                ranking = ranking.followed_by(widest)

    def _total(self, found: Allowed | None, page: Page) -> int:
        """Return how many papers were found, or how many works, if works are folded; None stands for all papers."""
        if page.collapse == "work":
            return self.generation.live_works if found is None else found.works
        return self.generation.papers if found is None else found.count

    @stage("facets")
    def _facets(self, among: NDArray[np.bool_], page: Page) -> dict[str, Facet]:
        return self.generation.facets(among, page.facet_values, folded=page.collapse == "work")

    @stage("explain")
    def _hits(self, ranking: Ranking, places: Sequence[int], page: Page, terms: QueryTerms) -> tuple[Hit, ...]:
        shown = places[page.offset : page.offset + page.limit]
        rows = ranking.rows[shown]
        others = [self._other_versions(row) if page.collapse == "work" else () for row in rows.tolist()]
        seqs = self._seqs([*rows.tolist(), *(row for versions in others for row in versions)])
        papers = {seq: version.paper for seq, version in self.library.versions_at(list(seqs.values())).items()}
        hits = []
        for rank, (place, row, versions) in enumerate(zip(shown, rows.tolist(), others, strict=True), page.offset + 1):
            paper = papers.get(seqs[row])
            if paper:  # else it was purged since this generation was published
                folded_papers = tuple(papers[seqs[other]] for other in versions if seqs[other] in papers)
                evidence = _evidence(ranking, place, paper, terms)
                hits.append(Hit(rank, float(ranking.scores[place]), paper, evidence, folded_papers))
        return tuple(hits)

    def _terms_of(self, text: str) -> QueryTerms:
        weights = self.generation.lexical.telling(Counter(analyse(text)))
        spelled = spellings(text)
        return QueryTerms({term: spelled[term] for term in weights}, weights)

    def _other_versions(self, row: int) -> tuple[int, ...]:
        versions = self.generation.works.versions_of(row).tolist()
        return tuple(other for other in versions if other != row)[:MAX_VERSIONS]

    def _seqs(self, rows: Sequence[int]) -> dict[int, int]:
        seqs = self.generation.seqs_at(np.array(rows, dtype=np.int64))
        return dict(zip(rows, seqs.tolist(), strict=True))


def _evidence(ranking: Ranking, place: int, paper: Paper, terms: QueryTerms) -> Evidence:
    text = explain(terms, paper.title, paper.abstract, analyse)
    return Evidence(
        dense=_leg(ranking.dense_ranks, ranking.cosines, place),
        lexical=_leg(ranking.lexical_ranks, ranking.bm25, place),
        sentence=text.sentence,
        terms=text.terms,
    )


def _leg(ranks: NDArray[np.int64] | None, scores: NDArray[np.float64] | None, place: int) -> LegEvidence | None:
    if ranks is None or scores is None:
        return None
    return LegEvidence(int(ranks[place]) or None, float(scores[place]))


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
